package ca.gridcentric.guest;

/** An argument is not what was expected; the message names it. Its errno is EINVAL. */
public class BadArgumentException extends IllegalArgumentException {
    private static final long serialVersionUID = 1;

    BadArgumentException(String message) {
        super(message);
    }

    /** EINVAL. */
    public int errno() {
        return GuestException.EINVAL;
    }
}
