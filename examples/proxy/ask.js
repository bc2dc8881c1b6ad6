// Opens COUNT connections to a proxy, one after the other, and leaves them open: node ask.js ADDRESS COUNT.
// Prints who answers each; ends, and closes them, when its input does.
const http = require("http");

const [address, count] = process.argv.slice(2);

/** One request on a connection of its own that stays open. */
function ask() {
  return new Promise((resolve, reject) => {
    const agent = new http.Agent({ keepAlive: true });
    const answered = (response) => response.setEncoding("utf8").on("data", resolve);
    http.get({ host: address, port: 8000, agent }, answered).on("error", reject);
  });
}

(async () => {
  for (let number = 1; number <= count; number++) console.log(`connection ${number}: ${(await ask()).trim()}`);
  process.stdin.resume().on("end", () => process.exit());
})().catch((error) => {
  console.error(`no answer: ${error.message}`);
  process.exit(1);
});
