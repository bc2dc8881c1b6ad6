// Does what each line of its input says through the Node.js binding, and answers with a line of JSON. With the
// argument `callbacks`, by those, else by promises. tests/unit/test_binding_calls.py has the lines.
"use strict";

const readline = require("readline");
const gc = require("gridcentric");

const BEAT_MS = 5;
const byCallbacks = process.argv[2] === "callbacks";

function argumentsOf(verb, words) {
  const found = words.map((word) => (/^-?\d+$/.test(word) ? Number(word) : word));
  if (verb === "join" && found.length > 1) found[1] = Buffer.from(words[1]);
  return verb === "kill" ? [found] : found;
}

function plain(verb, value) {
  if (verb === "request_ticket") return value.id;
  if (["sync", "kill", "kill_generation", "killall"].includes(verb)) return null;
  if (verb === "join_wait") return value.map((one) => ({ ...one, file: one.file && one.file.toString() }));
  return value;
}

function failed(error) {
  return { errno: -error.errno, message: error.message, kind: error.constructor.name, code: error.code };
}

/** What the callback got, held against the contract: undefined or a negative number goes with an error. */
function called(verb, args) {
  return new Promise((resolve) => {
    gc[verb](...args, (value, error) => {
      if (error === undefined) resolve({ value: plain(verb, value) });
      else if (value === undefined || value === error.errno) resolve(failed(error));
      else resolve({ value: "a failure with a value" });
    });
  });
}

async function run([verb, ...words]) {
  const args = argumentsOf(verb, words);
  if (byCallbacks && verb !== "vmid") return called(verb, args);
  try {
    return { value: plain(verb, await gc[verb](...args)) };
  } catch (error) {
    return failed(error);
  }
}

async function beside(words) {
  let beats = 0;
  const timer = setInterval(() => {
    beats += 1;
  }, BEAT_MS);
  const answer = await run(words);
  clearInterval(timer);
  return { ...answer, beats };
}

async function timed([calls, ...words]) {
  const began = process.hrtime();
  for (let i = 0; i < Number(calls); i += 1) await run(words);
  const [seconds, nanoseconds] = process.hrtime(began);
  return { value: (seconds * 1e3 + nanoseconds / 1e6) / Number(calls) };
}

function onSignal() {
  process.on("SIGUSR1", () => {});
  return { value: null };
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const words = line.split(" ");
    const ways = { beside, timed, on_signal: onSignal };
    const way = ways[words[0]];
    const answer = way ? await way(words.slice(1)) : await run(words);
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
}

main();
