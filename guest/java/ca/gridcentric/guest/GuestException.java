package ca.gridcentric.guest;

/** A call failed: {@link #errno()} says why as a number, the message in words. */
public class GuestException extends RuntimeException {
    private static final long serialVersionUID = 1;
    /** The errno numbers that calls fail with. */
    public static final int EPERM = 1, ENOENT = 2, EINTR = 4, EIO = 5, EACCES = 13, EBUSY = 16;
    public static final int EINVAL = 22, ENOSYS = 38, ETIMEDOUT = 110, ECONNREFUSED = 111;

    private final int errno;

    GuestException(int errno, String message, Throwable cause) {
        super(message, cause);
        this.errno = errno;
    }

    /**
     * EPERM not allowed, ENOENT no such ticket or VM, EINTR the thread was interrupted while it waited, EIO the host side
     * failed, EACCES no permission on the agent's socket, EBUSY no resources, ENOSYS
     * this Java is older than 16, ETIMEDOUT, ECONNREFUSED no agent runs here.
     */
    public int errno() {
        return errno;
    }
}
