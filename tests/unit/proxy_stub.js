// Stands in for machines, with `node -r`: a clone is one more process of the program, with an address of its own on loopback.
"use strict";

const { fork } = require("child_process");
const { once } = require("events");
const Module = require("module");
const net = require("net");

const LISTENERS = 2; // of a program; a clone is there when they are
const me = Number(process.env.STUB_VMID || 0);
const address = (vmid) => `${process.env.STUB_NETWORK}.${vmid + 1}`;
const clones = new Map(); // vmid: process
let made = 0;
let listening = 0;

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function onMyAddress(port) {
  this.once("listening", () => ++listening === LISTENERS && process.send && process.send("there"));
  return listen.call(this, port, address(me));
};
process.on("disconnect", () => process.exit());

const guest = {
  vmid: () => me,
  request_ticket: async () => ({ id: "ticket" }),
  clone: async () => {
    made += 1;
    const clone = fork(process.argv[1], { execArgv: ["-r", __filename], env: { ...process.env, STUB_VMID: made } });
    clones.set(made, clone);
    await once(clone, "message");
    return 0;
  },
  list_ticket_domains: async () => [{ vmid: made, ip: address(made), state: "running" }],
  kill: async (vmid) => {
    const clone = clones.get(vmid);
    if (clone.exitCode !== null || clone.signalCode !== null) throw new Error(`there is no VM ${vmid}`);
    clone.kill();
    await once(clone, "exit");
    return 0;
  },
};
const load = Module._load;
Module._load = (name, ...more) => (name === "gridcentric" ? guest : load(name, ...more));
