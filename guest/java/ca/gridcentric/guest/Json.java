package ca.gridcentric.guest;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Reads the agent's answers: objects are maps, arrays lists, whole numbers Longs, others Doubles. */
final class Json {
    private static final int DEEPEST = 64;
    private final String text;
    private int at;
    private int depth;

    private Json(String text) {
        this.text = text;
    }

    /** Throws IllegalArgumentException for anything that is not JSON. */
    static Object parse(String text) {
        Json json = new Json(text);
        Object value = json.value();
        json.space();
        if (json.at != text.length()) throw json.bad();
        return value;
    }

    private IllegalArgumentException bad() {
        return new IllegalArgumentException("not JSON at character " + at);
    }

    private void space() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
    }

    private boolean take(char mark) {
        space();
        boolean there = at < text.length() && text.charAt(at) == mark;
        if (there) at++;
        return there;
    }

    private void expect(char mark) {
        if (!take(mark)) throw bad();
    }

    private Object value() {
        space();
        if (at == text.length() || ++depth > DEEPEST) throw bad();
        char c = text.charAt(at);
        Object value = c == '{' ? object() : c == '[' ? array() : c == '"' ? string() : word();
        depth--;
        return value;
    }

    private Map<String, Object> object() {
        Map<String, Object> members = new LinkedHashMap<>();
        expect('{');
        if (take('}')) return members;
        do {
            space();
            String name = string();
            expect(':');
            members.put(name, value());
        } while (take(','));
        expect('}');
        return members;
    }

    private List<Object> array() {
        List<Object> items = new ArrayList<>();
        expect('[');
        if (take(']')) return items;
        do items.add(value()); while (take(','));
        expect(']');
        return items;
    }

    private String string() {
        StringBuilder out = new StringBuilder();
        expect('"');
        while (true) {
            if (at == text.length()) throw bad();
            char c = text.charAt(at++);
            if (c == '"') return out.toString();
            out.append(c == '\\' ? escaped() : c);
        }
    }

    private char escaped() {
        if (at == text.length()) throw bad();
        char c = text.charAt(at++);
        if (c == 'u' && at + 4 <= text.length()) {
            at += 4;
            return (char) Integer.parseInt(text.substring(at - 4, at), 16);
        }
        int known = "\"\\/bfnrt".indexOf(c);
        if (known < 0) throw bad();
        return "\"\\/\b\f\n\r\t".charAt(known);
    }

    private Object word() {
        int from = at;
        while (at < text.length() && ",]} \t\r\n".indexOf(text.charAt(at)) < 0) at++;
        String word = text.substring(from, at);
        if (word.equals("null")) return null;
        if (word.equals("true") || word.equals("false")) return word.equals("true");
        try {
            return Long.valueOf(word);
        } catch (NumberFormatException whole) {
            return Double.valueOf(word); // its own exception is an IllegalArgumentException too
        }
    }
}
