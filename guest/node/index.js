// The guest API, call by call. Each takes a callback as its last argument, or returns a promise. A callback gets what the
// promise would give; after a failure undefined, or a negative errno where that would be a number, and the error second.
"use strict";

const { ask, askRows, identity } = require("./calls");
const { GridcentricError, badArgument } = require("./errors");

const CLONES_MOST = 1024;
const FILE_MOST = 49152; // bytes: in base64 it fits a request's line
const INT_MOST = 2 ** 31 - 1;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i;

function number(call, what, value, least, most = INT_MOST) {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw badArgument(call, `${what} from ${least} to ${most}`, value);
}

/** A ticket's id, of the ticket itself or of its id. */
function ticketId(call, ticket) {
  const id = ticket && typeof ticket === "object" ? ticket.id : ticket;
  if (typeof id === "string" && UUID.test(id)) return id;
  throw badArgument(call, "ticket to be a ticket or its UUID", id);
}

/** Hands the outcome of `begin()` to the callback, if there is one, outside of any promise; or returns its promise. */
function outcome(call, callback, begin, isNumber = false) {
  if (callback !== undefined && typeof callback !== "function") throw badArgument(call, "cb to be a function", callback);
  const promise = new Promise((resolve) => resolve(begin()));
  if (callback === undefined) return promise;
  promise.then(
    (value) => process.nextTick(callback, value),
    (error) => process.nextTick(callback, isNumber ? error.errno || -5 : undefined, error),
  );
  return undefined;
}

/** The arguments before the callback, and it, wherever optional ones were left out. */
function split(args) {
  const last = args.length - 1;
  return typeof args[last] === "function" ? [args.slice(0, last), args[last]] : [args, undefined];
}

/** 0 in the master, 1, 2, 3 … in clones. At once, without a callback. Throws. */
function vmid() {
  return identity().vmid;
}

function ismaster(cb) {
  return outcome("ismaster", cb, async () => (await ask("ismaster", {})).master);
}

function generation(cb) {
  return outcome("generation", cb, async () => (await ask("generation", {})).generation, true);
}

function my_ip(cb) {
  return outcome("my_ip", cb, async () => (await ask("my-ip", {})).ip);
}

/** Reserves room for clones: the ticket, with what it holds. */
function request_ticket(maxcpus, minvms, mincpuspervm, timeout, cb) {
  return outcome("request_ticket", cb, async () => {
    const { ticket } = await ask("request-ticket", {
      maxcpus: number("request_ticket", "maxcpus", maxcpus, 1),
      minvms: number("request_ticket", "minvms", minvms, 1),
      mincpuspervm: number("request_ticket", "mincpuspervm", mincpuspervm, 1),
      timeout_ms: number("request_ticket", "timeout", timeout, 0),
    });
    // whatever becomes of the listing, the ticket was given
    const tickets = await askRows("list-tickets", {}, "tickets").catch(() => []);
    return tickets.find(({ id }) => id === ticket) || { id: ticket, status: "granted", cpus: 0, vms: 0, mincpuspervm };
  });
}

/** Forks this VM onto a ticket, or into a number of clones: 0 in the caller, the clone's vmid in each clone. */
function clone(ticket, cb) {
  return outcome("clone", cb, async () => {
    const count = typeof ticket === "number";
    const args = count
      ? { count: number("clone", "count", ticket, 1, CLONES_MOST) }
      : { ticket: ticketId("clone", ticket) };
    return (await ask("clone", args)).vmid;
  }, true);
}

function list_tickets(cb) {
  return outcome("list_tickets", cb, () => askRows("list-tickets", {}, "tickets"));
}

/** The clones made on a ticket, with their addresses. */
function list_ticket_domains(ticket, cb) {
  return outcome("list_ticket_domains", cb, () => {
    return askRows("list-ticket-domains", { ticket: ticketId("list_ticket_domains", ticket) }, "clones");
  });
}

function list(cb) {
  return outcome("list", cb, () => askRows("list", {}, "vms"));
}

function stat(cb) {
  return outcome("stat", cb, () => askRows("stat", {}, "vms"));
}

/** A barrier: `sync(ticket, timeout)` in the VM that cloned, `sync()` in a clone. 0 when all are here. */
function sync(...all) {
  const [args, cb] = split(all);
  return outcome("sync", cb, async () => {
    const [ticket, timeout] = args;
    await ask("sync", args.length === 0
      ? {}
      : { ticket: ticketId("sync", ticket), timeout_ms: number("sync", "timeout", timeout, 0) });
    return 0;
  }, true);
}

/** Ends this clone: `join([status[, file]])`. Only a failure comes back. */
function join(...all) {
  const [[status = 0, file], cb] = split(all);
  return outcome("join", cb, async () => {
    const args = { status: number("join", "status", status, 0, 255), report: true };
    if (file !== undefined) {
      if (!ArrayBuffer.isView(file)) throw badArgument("join", "file to be a Buffer", file);
      if (file.byteLength > FILE_MOST) throw badArgument("join", `file of at most ${FILE_MOST} bytes`, file.byteLength);
      args.file = Buffer.from(file.buffer, file.byteOffset, file.byteLength).toString("base64");
    }
    return ask("join", args, true);
  }, true);
}

/** Ends this clone; nobody is told. */
function join_noreport(cb) {
  return outcome("join_noreport", cb, async () => ask("join", { status: 0, report: false }, true), true);
}

/** Waits until every clone of the ticket ended: `join_wait(ticket[, timeout])`. */
function join_wait(...all) {
  const [[ticket, timeout], cb] = split(all);
  return outcome("join_wait", cb, async () => {
    const args = { ticket: ticketId("join_wait", ticket) };
    if (timeout !== undefined) args.timeout_ms = number("join_wait", "timeout", timeout, 0);
    return (await askRows("join-wait", args, "clones")).map(({ vmid: id, status, file }) => ({
      vmid: id,
      status,
      file: typeof file === "string" ? Buffer.from(file, "base64") : null,
    }));
  });
}

/** Ends clones: a vmid or a list of them. 0 when their resources are free. */
function kill(vmids, cb) {
  return outcome("kill", cb, async () => {
    const wanted = Array.isArray(vmids) ? vmids : [vmids];
    number("kill", "number of vmids", wanted.length, 1, CLONES_MOST);
    await ask("kill", { vmids: wanted.map((one) => number("kill", "vmid", one, 0)) });
    return 0;
  }, true);
}

/** Ends all clones that were made together with this one. */
function kill_generation(vmidOfOne, cb) {
  return outcome("kill_generation", cb, async () => {
    await ask("kill-generation", { vmid: number("kill_generation", "vmid", vmidOfOne, 0) });
    return 0;
  }, true);
}

/** Ends all clones of this VM, and theirs. */
function killall(cb) {
  return outcome("killall", cb, async () => {
    await ask("killall", {});
    return 0;
  }, true);
}

module.exports = {
  GridcentricError,
  clone,
  generation,
  ismaster,
  join,
  join_noreport,
  join_wait,
  kill,
  kill_generation,
  killall,
  list,
  list_ticket_domains,
  list_tickets,
  my_ip,
  request_ticket,
  stat,
  sync,
  vmid,
};
