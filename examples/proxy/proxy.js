// A proxy on port 8000 that forks the machine into one more backend for every two active connections.
// New connections go to the newest backend; an older one that serves nobody any more is ended.
const gc = require("gridcentric");
const http = require("http");
const net = require("net");

const EACH = 2; // connections
const backends = []; // {vmid, ip, active}, the newest last; empty in a backend itself

// Every machine has both listeners: what listened before a fork listens in the clone. So a backend serves from its first moment.
http.createServer((request, response) => response.end(`backend ${gc.vmid()}\n`)).listen(8001);
const clients = new Set();
let turn = Promise.resolve(); // one connection after the other finds its place: a fork takes a moment
const proxy = net.createServer((client) => {
  clients.add(client.on("close", () => clients.delete(client)).on("error", () => client.destroy()));
  turn = turn.then(() => place(client)).catch((error) => {
    console.error(`no backend: ${error.message}`);
    client.destroy();
  });
}).listen(8000);

async function place(client) {
  if (client.destroyed) return;
  let newest = backends[backends.length - 1];
  if (newest === undefined || newest.active >= EACH) newest = await fork();
  if (newest !== undefined) connect(client, newest);
}

/** The new backend; nothing in the clone, which is it. */
async function fork() {
  const ticket = await gc.request_ticket(1, 1, 1, 1000);
  if ((await gc.clone(ticket)) > 0) {
    proxy.close();
    backends.length = 0; // they are the master's, and so are the clients
    clients.forEach((client) => client.destroy());
    return undefined;
  }
  const [{ vmid, ip }] = await gc.list_ticket_domains(ticket);
  console.log(`backend ${vmid} at ${ip}`);
  backends.push({ vmid, ip, active: 0 });
  retire();
  return backends[backends.length - 1];
}

function connect(client, to) {
  if (client.destroyed) return;
  to.active++;
  const server = net.connect(8001, to.ip);
  client.on("close", () => {
    server.destroy();
    to.active--;
    retire();
  });
  server.on("close", () => client.destroy());
  server.on("error", (error) => {
    console.error(`backend ${to.vmid}: ${error.message}`);
    if (error.syscall === "connect") end(to); // it is not there any more: the next connection has a new one
  });
  client.pipe(server).pipe(client);
}

/** Ends the older backends that serve nobody. */
function retire() {
  backends.slice(0, -1).filter(({ active }) => active === 0).forEach(end);
}

function end(old) {
  if (!backends.includes(old)) return;
  backends.splice(backends.indexOf(old), 1);
  console.log(`backend ${old.vmid} ends`);
  gc.kill(old.vmid).catch((error) => console.error(`backend ${old.vmid}: ${error.message}`));
}
