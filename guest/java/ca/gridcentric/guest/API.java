package ca.gridcentric.guest;

import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.locks.LockSupport;
import java.util.function.Function;
import java.util.regex.Pattern;

/**
 * The guest API: forks the virtual machine that this program runs in. One object serves any number of threads; a call
 * blocks its own thread only. Calls throw {@link GuestException}, and {@link BadArgumentException} before anybody is asked.
 * Interrupting a thread gives up the call that it waits in (EINTR, and the thread stays interrupted); a clone that was given
 * up may have been carried out all the same.
 */
public class API {
    private static final int CLONES_MOST = 1024;
    private static final int DATA_MOST = 49152; // bytes: in base64 it fits a request's line
    private static final Pattern UUID = Pattern.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}");

    private final Agent agent = new Agent();

    /** A ticket: room for clones that was promised. */
    public static final class Uuid {
        private final String value;

        public Uuid(String value) {
            if (value == null || !UUID.matcher(value).matches()) throw bad("Uuid", "value to be a ticket's UUID", value);
            this.value = value;
        }

        @Override
        public String toString() {
            return value;
        }

        @Override
        public boolean equals(Object other) {
            return other instanceof Uuid && value.equalsIgnoreCase(((Uuid) other).value);
        }

        @Override
        public int hashCode() {
            return value.toLowerCase().hashCode();
        }
    }

    /** What a ticket holds. */
    public static final class Ticket {
        public final Uuid id;
        public final String status;
        public final int cpus, vms, mincpuspervm;

        private Ticket(Row row) {
            id = new Uuid(row.text("id"));
            status = row.text("status");
            cpus = row.number("cpus");
            vms = row.number("vms");
            mincpuspervm = row.number("mincpuspervm");
        }
    }

    /** A clone that was made on a ticket. */
    public static final class Clone {
        public final int vmid;
        public final String ip, state;

        private Clone(Row row) {
            vmid = row.number("vmid");
            ip = row.text("ip");
            state = row.text("state");
        }
    }

    /** A live VM of this virtual cluster. */
    public static final class Vm {
        public final int vmid, generation;
        /** A vmid; -1: the master has none. */
        public final int parent;
        public final String address, state, host;

        private Vm(Row row) {
            vmid = row.number("vmid");
            generation = row.number("generation");
            parent = row.has("parent") ? row.number("parent") : -1;
            address = row.text("address");
            state = row.text("state");
            host = row.text("host");
        }
    }

    /** A VM's memory in bytes. */
    public static final class Memory {
        public final int vmid;
        public final long nominal, shared, own;

        private Memory(Row row) {
            vmid = row.number("vmid");
            nominal = row.bytes("nominal");
            shared = row.bytes("shared");
            own = row.bytes("own");
        }
    }

    /** How a clone ended. */
    public static final class Joined {
        public final int vmid;
        /** What it gave to join; -1: it died without. */
        public final int status;
        /** What it left; null: nothing. */
        public final byte[] data;

        private Joined(Row row) {
            vmid = row.number("vmid");
            status = row.number("status");
            data = row.has("file") ? Base64.getDecoder().decode(row.text("file")) : null;
        }
    }

    /** This VM's number: 0 in the master, 1, 2, 3 … in clones. */
    public int vmid() {
        return ask("vmid", "{}", row -> row.number("vmid"));
    }

    /** Whether this is the master. */
    public boolean isMaster() {
        return ask("ismaster", "{}", row -> row.truth("master"));
    }

    /** The number of the clone call that made this VM, 0 in the master. It only grows. */
    public int generation() {
        return ask("generation", "{}", row -> row.number("generation"));
    }

    /** This VM's address on the private network; empty where there is none. */
    public String myIp() {
        return ask("my-ip", "{}", row -> row.text("ip"));
    }

    /** Reserves room for clones, and waits up to timeoutMs milliseconds for it. */
    public Uuid requestTicket(int maxCpus, int minVms, int minCpusPerVm, int timeoutMs) {
        check("requestTicket", "maxCpus", maxCpus, 1, Integer.MAX_VALUE);
        check("requestTicket", "minVms", minVms, 1, Integer.MAX_VALUE);
        check("requestTicket", "minCpusPerVm", minCpusPerVm, 1, Integer.MAX_VALUE);
        check("requestTicket", "timeoutMs", timeoutMs, 0, Integer.MAX_VALUE);
        String args = "{\"maxcpus\":" + maxCpus + ",\"minvms\":" + minVms + ",\"mincpuspervm\":" + minCpusPerVm
                + ",\"timeout_ms\":" + timeoutMs + "}";
        return ask("request-ticket", args, row -> new Uuid(row.text("ticket")));
    }

    /** Forks this VM onto all that the ticket holds. Returns in every VM: 0 in the caller, its vmid in each clone. */
    public int clone(Uuid ticket) {
        return ask("clone", "{" + member("clone", ticket) + "}", row -> row.number("vmid"));
    }

    /** Ticket and fork in one: as many clones, or none. */
    public int clone(int count) {
        check("clone", "count", count, 1, CLONES_MOST);
        return ask("clone", "{\"count\":" + count + "}", row -> row.number("vmid"));
    }

    /** The tickets that this VM holds. */
    public List<Ticket> listTickets() {
        return ask("list-tickets", "{}", row -> row.list("tickets", Ticket::new));
    }

    /** The clones made on a ticket, with their addresses. */
    public List<Clone> listTicketDomains(Uuid ticket) {
        String args = "{" + member("listTicketDomains", ticket) + "}";
        return ask("list-ticket-domains", args, row -> row.list("clones", Clone::new));
    }

    /** Every live VM of this virtual cluster. */
    public List<Vm> list() {
        return ask("list", "{}", row -> row.list("vms", Vm::new));
    }

    /** The memory of this VM and its generation. */
    public List<Memory> stat() {
        return ask("stat", "{}", row -> row.list("vms", Memory::new));
    }

    /** A barrier in the VM that cloned: returns when it and all live clones of the ticket are here. */
    public void sync(Uuid ticket, int timeoutMs) {
        check("sync", "timeoutMs", timeoutMs, 0, Integer.MAX_VALUE);
        ask("sync", "{" + member("sync", ticket) + ",\"timeout_ms\":" + timeoutMs + "}", row -> null);
    }

    /** The same in a clone. */
    public void sync() {
        ask("sync", "{}", row -> null);
    }

    /** Ends this clone, and reports a status from 0 to 255 to the VM that cloned it. Returns only by throwing. */
    public void join(int status) {
        join(status, null);
    }

    /** The same with data, 49,152 bytes at most; null: none. */
    public void join(int status, byte[] data) {
        check("join", "status", status, 0, 255);
        if (data != null) check("join", "bytes of data", data.length, 0, DATA_MOST);
        String file = data == null ? "" : ",\"file\":\"" + Base64.getEncoder().encodeToString(data) + "\"";
        endHere("{\"status\":" + status + ",\"report\":true" + file + "}");
    }

    /** Ends this clone; nobody is told. Returns only by throwing. */
    public void joinNoReport() {
        endHere("{\"status\":0,\"report\":false}");
    }

    private void endHere(String args) {
        ask("join", args, row -> null);
        while (true) { // this VM ends any moment
            LockSupport.park();
        }
    }

    /** Waits until every clone of the ticket ended. */
    public List<Joined> joinWait(Uuid ticket) {
        return joined(member("joinWait", ticket));
    }

    /** The same, for timeoutMs milliseconds at most. */
    public List<Joined> joinWait(Uuid ticket, int timeoutMs) {
        check("joinWait", "timeoutMs", timeoutMs, 0, Integer.MAX_VALUE);
        return joined(member("joinWait", ticket) + ",\"timeout_ms\":" + timeoutMs);
    }

    /** A long answer comes in pages. */
    private List<Joined> joined(String args) {
        List<Joined> found = new ArrayList<>();
        for (String after = ""; after != null; ) {
            after = ask("join-wait", "{" + args + after + "}", row -> {
                found.addAll(row.list("clones", Joined::new));
                return row.has("next") ? ",\"after\":" + row.bytes("next") : null;
            });
        }
        return found;
    }

    /** Ends these clones. Their resources are free when it returns. */
    public void kill(int... vmids) {
        check("kill", "number of vmids", vmids.length, 1, CLONES_MOST);
        StringBuilder list = new StringBuilder();
        for (int vmid : vmids) {
            check("kill", "vmid", vmid, 0, Integer.MAX_VALUE);
            list.append(list.length() == 0 ? "" : ",").append(vmid);
        }
        ask("kill", "{\"vmids\":[" + list + "]}", row -> null);
    }

    /** Ends all clones that were made together with this one. */
    public void killGeneration(int vmid) {
        check("killGeneration", "vmid", vmid, 0, Integer.MAX_VALUE);
        ask("kill-generation", "{\"vmid\":" + vmid + "}", row -> null);
    }

    /** Ends all clones of this VM, and theirs. */
    public void killAll() {
        ask("killall", "{}", row -> null);
    }

    private <T> T ask(String verb, String args, Function<Row, T> take) {
        Map<?, ?> result = agent.ask(verb, args);
        try {
            return take.apply(new Row(result));
        } catch (ClassCastException | NullPointerException | IllegalArgumentException error) {
            throw Agent.notUnderstood(verb, error);
        }
    }

    private static BadArgumentException bad(String call, String expected, Object got) {
        return new BadArgumentException(call + ": expected " + expected + ", got " + got);
    }

    private static void check(String call, String what, int value, int least, int most) {
        if (value < least || value > most) throw bad(call, what + " from " + least + " to " + most, value);
    }

    private static String member(String call, Uuid ticket) {
        if (ticket == null) throw bad(call, "ticket to be a ticket", "null");
        return "\"ticket\":\"" + ticket + "\"";
    }

    /** An object of an answer, read without trust. */
    private static final class Row {
        private final Map<?, ?> members;

        Row(Map<?, ?> members) {
            this.members = members;
        }

        boolean has(String name) {
            return members.get(name) != null;
        }

        int number(String name) {
            return ((Long) members.get(name)).intValue();
        }

        long bytes(String name) {
            return (Long) members.get(name);
        }

        boolean truth(String name) {
            return (Boolean) members.get(name);
        }

        String text(String name) {
            return (String) Objects.requireNonNull(members.get(name));
        }

        <T> List<T> list(String name, Function<Row, T> take) {
            List<T> found = new ArrayList<>();
            for (Object item : (List<?>) members.get(name)) found.add(take.apply(new Row((Map<?, ?>) item)));
            return found;
        }
    }
}
