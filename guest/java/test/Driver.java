import ca.gridcentric.guest.API;
import ca.gridcentric.guest.BadArgumentException;
import ca.gridcentric.guest.GuestException;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.List;
import java.util.function.Function;
import java.util.stream.Collectors;

/**
 * Does what each line of its input says through the Java binding, and answers with a line of JSON.
 * tests/unit/test_binding_calls.py has the lines.
 */
public class Driver {
    private static final long BEAT_MS = 5;
    private static final API api = new API();

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = in.readLine()) != null; ) {
            String[] words = line.split(" ");
            String[] rest = Arrays.copyOfRange(words, 1, words.length);
            if (words[0].equals("beside")) beside(rest, false);
            else if (words[0].equals("cancel")) beside(rest, true);
            else if (words[0].equals("timed")) timed(rest);
            else System.out.println("{" + run(words) + "}");
        }
    }

    private static String run(String[] words) {
        try {
            return "\"value\":" + value(words);
        } catch (GuestException error) {
            return failed(error, error.errno());
        } catch (BadArgumentException error) {
            return failed(error, error.errno());
        }
    }

    private static String failed(RuntimeException error, int errno) {
        String kind = error.getClass().getSimpleName();
        return "\"errno\":" + errno + ",\"kind\":\"" + kind + "\",\"message\":" + text(error.getMessage());
    }

    private static void beside(String[] words, boolean interrupt) throws InterruptedException {
        String[] answer = new String[1];
        Thread thread = new Thread(() -> answer[0] = run(words));
        thread.start();
        int beats = 0;
        for (; thread.isAlive(); beats++) {
            thread.join(BEAT_MS);
            if (interrupt && beats == 40) thread.interrupt();
        }
        System.out.println("{" + answer[0] + ",\"beats\":" + beats + "}");
    }

    private static void timed(String[] words) {
        int calls = Integer.parseInt(words[0]);
        String[] call = Arrays.copyOfRange(words, 1, words.length);
        long began = System.nanoTime();
        for (int i = 0; i < calls; i++) run(call);
        System.out.println("{\"value\":" + (System.nanoTime() - began) / 1e6 / calls + "}");
    }

    private static String value(String[] words) {
        String one = words.length > 1 ? words[1] : "";
        switch (words[0]) {
            case "vmid": return "" + api.vmid();
            case "ismaster": return "" + api.isMaster();
            case "generation": return "" + api.generation();
            case "my_ip": return text(api.myIp());
            case "request_ticket":
                return text(api.requestTicket(number(words, 1), number(words, 2), number(words, 3), number(words, 4)));
            case "clone":
                return "" + (one.matches("-?\\d+") ? api.clone(number(words, 1)) : api.clone(new API.Uuid(one)));
            case "list_tickets":
                return rows(api.listTickets(), t -> "\"id\":" + text(t.id) + ",\"status\":" + text(t.status)
                        + ",\"cpus\":" + t.cpus + ",\"vms\":" + t.vms + ",\"mincpuspervm\":" + t.mincpuspervm);
            case "list_ticket_domains":
                return rows(api.listTicketDomains(new API.Uuid(one)), c -> "\"vmid\":" + c.vmid + ",\"ip\":" + text(c.ip)
                        + ",\"state\":" + text(c.state));
            case "list":
                return rows(api.list(), v -> "\"vmid\":" + v.vmid + ",\"address\":" + text(v.address) + ",\"generation\":"
                        + v.generation + ",\"parent\":" + (v.parent < 0 ? "null" : v.parent) + ",\"state\":"
                        + text(v.state) + ",\"host\":" + text(v.host));
            case "stat":
                return rows(api.stat(), m -> "\"vmid\":" + m.vmid + ",\"nominal\":" + m.nominal + ",\"shared\":" + m.shared
                        + ",\"own\":" + m.own);
            case "join_wait":
                List<API.Joined> joined = words.length > 2 ? api.joinWait(new API.Uuid(one), number(words, 2))
                        : api.joinWait(new API.Uuid(one));
                return rows(joined, j -> "\"vmid\":" + j.vmid + ",\"status\":" + j.status + ",\"file\":"
                        + (j.data == null ? "null" : text(new String(j.data, StandardCharsets.UTF_8))));
            default:
                silent(words, one);
                return "null";
        }
    }

    private static void silent(String[] words, String one) {
        switch (words[0]) {
            case "sync":
                if (words.length > 1) api.sync(new API.Uuid(one), number(words, 2));
                else api.sync();
                break;
            case "join":
                api.join(number(words, 1), words.length > 2 ? words[2].getBytes(StandardCharsets.UTF_8) : null);
                break;
            case "join_noreport": api.joinNoReport(); break;
            case "kill": api.kill(Arrays.stream(words).skip(1).mapToInt(Integer::parseInt).toArray()); break;
            case "kill_generation": api.killGeneration(number(words, 1)); break;
            case "killall": api.killAll(); break;
            default: throw new IllegalStateException("no such line: " + words[0]);
        }
    }

    private static int number(String[] words, int at) {
        return Integer.parseInt(words[at]);
    }

    private static String text(Object text) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : text.toString().toCharArray()) {
            out.append(c < ' ' || c == '"' || c == '\\' || Character.isSurrogate(c) ? String.format("\\u%04x", (int) c) : c);
        }
        return out.append('"').toString();
    }

    private static <T> String rows(List<T> rows, Function<T, String> shown) {
        return rows.stream().map(row -> "{" + shown.apply(row) + "}").collect(Collectors.joining(",", "[", "]"));
    }
}
