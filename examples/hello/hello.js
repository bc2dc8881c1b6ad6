// Forks the machine that it runs in; each machine says who it is.
const gc = require("gridcentric");

(async () => {
  const ticket = await gc.request_ticket(2, 2, 1, 1000);
  const vmid = await gc.clone(ticket);
  console.log(`hello from Node.js, vmid ${vmid}`);
})();
