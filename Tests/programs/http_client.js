// HTTP with node: ADDRESS PORT SMALL LARGE. A server has files SMALL.bin, LARGE.bin and stores PUTs to /put/.
const http = require("http");
const crypto = require("crypto");
const [host, port, small, large] = process.argv.slice(2);

function request(method, path, { agent, body, port: other } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host, port: other ?? port, method, path, agent }, (response) => {
      const hash = crypto.createHash("sha1");
      let size = 0;
      response.on("data", (chunk) => { hash.update(chunk); size += chunk.length; });
      response.on("end", () => resolve(`${method} ${path} ${response.statusCode} ${size} ${hash.digest("hex")}`));
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end(body);
  });
}

async function main() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (let i = 0; i < 5; i++) console.log(await request("GET", `/${small}.bin`, { agent }));
  console.log(await request("GET", "/missing", { agent }));
  console.log(await request("PUT", "/put/node", { agent, body: Buffer.alloc(2_000_000, "n") }));
  agent.destroy();
  const all = await Promise.all(Array.from({ length: 20 }, () => request("GET", `/${large}.bin`, { agent: false })));
  console.log(all.length, [...new Set(all)].join("; "));
  await request("GET", "/", { port: 8999 }).catch((error) => console.log(error.message));
}

main();
