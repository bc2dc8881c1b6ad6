import ca.gridcentric.guest.API;

/** Forks the machine that it runs in; each machine says who it is. */
public class Hello {
    public static void main(String[] args) {
        API api = new API();
        API.Uuid ticket = api.requestTicket(2, 2, 1, 1000);
        int vmid = api.clone(ticket);
        System.out.println("hello from Java, vmid " + vmid);
    }
}
