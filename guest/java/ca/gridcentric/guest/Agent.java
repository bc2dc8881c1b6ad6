package ca.gridcentric.guest;

import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.ProtocolFamily;
import java.net.SocketAddress;
import java.net.StandardProtocolFamily;
import java.nio.ByteBuffer;
import java.nio.channels.ClosedByInterruptException;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Map;

/** The way to the agent: each call has a connection of its own, so threads share nothing. */
final class Agent {
    private static final int ANSWER_MOST = 4 << 20;
    private static final String USUAL_PATH = "/run/gridcentric/agent.sock";

    private final String path;

    Agent() {
        String told = System.getenv("GRIDCENTRIC_SOCKET");
        path = told == null || told.isEmpty() ? USUAL_PATH : told;
    }

    /** Asks; args is a JSON object. Interrupting the thread closes the connection, which gives the call up. */
    Map<?, ?> ask(String verb, String args) {
        String line = "{\"verb\":\"" + verb + "\",\"args\":" + args + "}\n";
        try (SocketChannel channel = connect()) {
            return result(verb, exchange(channel, line.getBytes(StandardCharsets.UTF_8)));
        } catch (ClosedByInterruptException error) {
            throw new GuestException(GuestException.EINTR, verb + ": interrupted", error);
        } catch (IOException error) {
            throw cutOff(error);
        }
    }

    private SocketChannel connect() throws IOException {
        SocketAddress address = address();
        SocketChannel channel = open();
        try {
            channel.connect(address);
            return channel;
        } catch (IOException error) {
            channel.close();
            if (error instanceof ClosedByInterruptException) throw error;
            throw unreachable(error);
        }
    }

    // Unix sockets came with Java 16; looked up, so that this compiles and loads for older programs.
    private static SocketChannel open() {
        try {
            ProtocolFamily family = StandardProtocolFamily.valueOf("UNIX");
            return (SocketChannel) SocketChannel.class.getMethod("open", ProtocolFamily.class).invoke(null, family);
        } catch (ReflectiveOperationException | IllegalArgumentException error) {
            throw tooOld(error);
        }
    }

    private SocketAddress address() {
        try {
            Class<?> kind = Class.forName("java.net.UnixDomainSocketAddress");
            return (SocketAddress) kind.getMethod("of", String.class).invoke(null, path);
        } catch (ReflectiveOperationException error) {
            throw tooOld(error);
        }
    }

    private static GuestException tooOld(Exception cause) {
        String message = "Unix sockets need Java 16 or newer, this is " + System.getProperty("java.version");
        return new GuestException(GuestException.ENOSYS, message, cause);
    }

    private static byte[] exchange(SocketChannel channel, byte[] line) throws IOException {
        ByteArrayOutputStream answer = new ByteArrayOutputStream();
        ByteBuffer piece = ByteBuffer.wrap(line);
        while (piece.hasRemaining()) channel.write(piece);
        piece = ByteBuffer.allocate(8192);
        while (answer.size() <= ANSWER_MOST) {
            piece.clear();
            int got = channel.read(piece);
            if (got < 0) throw new IOException("closed");
            answer.write(piece.array(), 0, got);
            if (got > 0 && piece.array()[got - 1] == '\n') break;
        }
        return answer.toByteArray();
    }

    private static Map<?, ?> result(String verb, byte[] line) {
        Map<?, ?> answer;
        int errno;
        try {
            answer = (Map<?, ?>) Json.parse(new String(line, StandardCharsets.UTF_8));
            errno = ((Number) answer.get("errno")).intValue();
            if (errno == 0) return (Map<?, ?>) answer.get("result");
        } catch (IllegalArgumentException | ClassCastException | NullPointerException error) {
            throw notUnderstood(verb, error);
        }
        String told = String.valueOf(answer.get("message"));
        if (!told.startsWith(verb)) told = verb + ": " + told;
        if (errno == GuestException.EINVAL) throw new BadArgumentException(told);
        throw new GuestException(errno, told, null);
    }

    static GuestException notUnderstood(String verb, Throwable cause) {
        return new GuestException(GuestException.EIO, verb + ": the agent's answer is not understood", cause);
    }

    private static GuestException cutOff(IOException cause) {
        String message = "the agent went away before it answered";
        return new GuestException(GuestException.ECONNREFUSED, message, cause);
    }

    private GuestException unreachable(IOException cause) {
        Path file = Paths.get(path);
        String why = String.valueOf(cause.getMessage());
        if (why.contains("Permission denied") || (Files.exists(file) && !(Files.isReadable(file) && Files.isWritable(file)))) {
            String advice = " (an administrator opens it to all: chmod og+rw)";
            return new GuestException(GuestException.EACCES, "no permission to use " + path + advice, cause);
        }
        return new GuestException(GuestException.ECONNREFUSED, "the agent is not running: " + path + ": " + why, cause);
    }
}
