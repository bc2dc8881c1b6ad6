// One call: a connection of its own to the agent, a line there, a line back. Nothing here blocks.
"use strict";

const fs = require("fs");
const net = require("net");
const os = require("os");
const path = require("path");
const errors = require("./errors");

const { EACCES, ECONNREFUSED, EIO } = os.constants.errno;
const ANSWER_MOST = 4 << 20;
const FULL_BACKLOG_MS = 10; // before the next try

function socketPath() {
  return process.env.GRIDCENTRIC_SOCKET || "/run/gridcentric/agent.sock";
}

function unreachable(error) {
  const where = socketPath();
  if (error.code === "EACCES" || error.code === "EPERM") {
    const advice = "an administrator opens it to all: chmod og+rw";
    return errors.of(EACCES, `no permission to use ${where} (${advice})`);
  }
  return errors.of(ECONNREFUSED, `the agent is not running: ${where}: ${error.code || error.message}`);
}

function notUnderstood(verb) {
  return errors.of(EIO, `${verb}: the agent's answer is not understood`);
}

/** The result in an answer's line. Throws. */
function resultOf(verb, line) {
  let answer;
  try {
    answer = JSON.parse(line);
  } catch (error) {
    answer = null;
  }
  const failed = answer && Number.isInteger(answer.errno) && answer.errno !== 0;
  if (!failed && !(answer && answer.errno === 0 && answer.result && typeof answer.result === "object")) {
    throw notUnderstood(verb);
  }
  if (!failed) return answer.result;
  const told = answer.message || `errno ${answer.errno}`;
  throw errors.of(answer.errno, told.startsWith(verb) ? told : `${verb}: ${told}`);
}

/**
 * Asks the agent; a promise of the result. With `ends`, a success leaves the promise open and the program running: this
 * VM ends any moment.
 */
function ask(verb, args, ends = false) {
  return new Promise((resolve, reject) => {
    const pieces = [];
    let length = 0;
    let connected = false;
    const socket = net.createConnection(socketPath());
    socket.on("connect", () => {
      connected = true;
      socket.write(`${JSON.stringify({ verb, args })}\n`);
    });
    socket.on("data", (piece) => {
      pieces.push(piece);
      length += piece.length;
      if (piece[piece.length - 1] !== 10 && length <= ANSWER_MOST) return;
      try {
        const result = resultOf(verb, Buffer.concat(pieces).toString());
        if (ends) return;
        resolve(result);
      } catch (error) {
        reject(error);
      }
      socket.destroy();
    });
    socket.on("error", (error) => {
      if (connected) return; // "close" follows
      if (error.code === "EAGAIN") {
        setTimeout(() => ask(verb, args, ends).then(resolve, reject), FULL_BACKLOG_MS);
      } else {
        reject(unreachable(error));
      }
    });
    socket.on("close", () => {
      if (connected) reject(errors.of(ECONNREFUSED, "the agent went away before it answered"));
    });
  });
}

/** The list of that name in what the agent answers; a long one comes in pages. */
async function askRows(verb, args, name) {
  const result = await ask(verb, args);
  const rows = result[name];
  if (!Array.isArray(rows) || !rows.every((row) => row && typeof row === "object")) throw notUnderstood(verb);
  if (result.next === undefined || result.next === null) return rows;
  return rows.concat(await askRows(verb, { ...args, after: result.next }, name));
}

/**
 * Who this VM is, at once: the agent writes it down beside its socket before a clone is answered. The rule who may ask is
 * the socket's.
 */
function identity() {
  try {
    fs.accessSync(socketPath(), fs.constants.R_OK | fs.constants.W_OK);
  } catch (error) {
    throw unreachable(error);
  }
  try {
    return JSON.parse(fs.readFileSync(path.join(path.dirname(socketPath()), "identity"), "utf8"));
  } catch (error) {
    throw errors.of(EIO, "vmid: the host has not told this VM who it is");
  }
}

module.exports = { ask, askRows, identity };
