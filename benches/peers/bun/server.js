// A tuned Bun WebSocket server: `/echo` answers each message, `/pubsub` delivers each to everybody.
// Run: bun server.js [--port P]   (0, the default: any free port)

const flag = process.argv.indexOf("--port");
const port = flag < 0 ? 0 : Number(process.argv[flag + 1]);
const TOPIC = "all";

const server = Bun.serve({
  port,
  hostname: "127.0.0.1",
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    if (path !== "/echo" && path !== "/pubsub") return new Response("not found", { status: 404 });
    if (server.upgrade(request, { data: path === "/pubsub" })) return;
    return new Response("a WebSocket upgrade is expected", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 960, // seconds; the longest there is
    sendPings: false,
    maxPayloadLength: 16 * 1024 * 1024,
    backpressureLimit: 64 * 1024 * 1024,
    closeOnBackpressureLimit: false,
    publishToSelf: true,
    open(socket) {
      if (socket.data) socket.subscribe(TOPIC);
    },
    message(socket, message) {
      // Reaches the sender too. Measured alike: socket.publish with publishToSelf, socket.publish and
      // send, and publishing from setImmediate.
      if (socket.data) server.publish(TOPIC, message);
      else socket.send(message);
    },
  },
});

console.log(`listening on http://127.0.0.1:${server.port}`);
