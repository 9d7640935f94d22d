// An HTTP server that sends back what it is POSTed, on PORT; ends in order on SIGTERM.
const http = require("http");
let requests = 0, bytes = 0;
const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    requests++;
    bytes += body.length;
    response.end(body);
  });
});
server.listen(Number(process.argv[2]), "0.0.0.0", () => console.log("ready"));
process.on("SIGTERM", () => {
  server.close(() => console.log(`${requests} requests, ${bytes} bytes`));
  server.closeAllConnections();
});
