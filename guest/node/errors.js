// What calls fail with: Node's own kinds of error, with `code` and a negative `errno`, as its system errors have them.
"use strict";

const os = require("os");

class GridcentricError extends Error {}

const NAMES = new Map(Object.entries(os.constants.errno).map(([name, number]) => [number, name]));
NAMES.set(os.constants.errno.EAGAIN, "EAGAIN"); // EWOULDBLOCK is the same number

/** Gives an error its `code` and `errno`; `number` is positive. */
function numbered(error, number) {
  error.code = NAMES.get(number) || "EIO";
  error.errno = -number;
  return error;
}

/** The error of an errno. */
function of(number, message) {
  const error = new GridcentricError(message || NAMES.get(number) || `errno ${number}`);
  error.name = "GridcentricError";
  return numbered(error, number);
}

/** An argument that is not what was expected: a TypeError for another kind, a RangeError for a wrong value. */
function badArgument(call, expected, got) {
  const Kind = typeof got === "number" ? RangeError : TypeError;
  const shown = typeof got === "string" ? `'${got.slice(0, 60)}'` : String(got).slice(0, 60);
  return numbered(new Kind(`${call}: expected ${expected}, got ${shown}`), os.constants.errno.EINVAL);
}

module.exports = { GridcentricError, badArgument, of };
