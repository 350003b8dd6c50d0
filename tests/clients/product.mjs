// A small product behind the server, on Node's own HTTP server: who may connect and subscribe, what
// publications become, and procedures. Each request is a line of JSON on stdout.
//
// Argument: the port to listen at, 0 for any.

import { createServer } from 'node:http';

const say = (event, fields = {}) => console.log(JSON.stringify({ ...fields, event }));
const sessions = { 'of ann': 'ann', 'of bob': 'bob' };

const procedures = {
  sum: ({ data }) => ({ result: { data: { sum: data.reduce((sum, number) => sum + number, 0) } } }),
  whoami: ({ user, meta }) => ({ result: { data: { user, meta } } }),
  buy: () => ({ error: { code: 1001, message: 'sold out' } }),
  leave: () => ({ disconnect: { code: 4502, reason: 'you asked for it' } }),
  // No JSON, and a status that says so.
  broken: () => undefined,
};

const answers = {
  connect({ data }) {
    const user = sessions[data?.session];
    if (!user) return { disconnect: { code: 4501, reason: 'no such session' } };
    return { result: { user, info: { name: user }, meta: { plan: 'free' }, data: { welcome: user }, subs: { 'room:lobby': {} } } };
  },
  subscribe({ channel, user }) {
    if (channel === 'room:closed') return { error: { code: 403, message: 'members only' } };
    return { result: { data: { topic: `${channel} for ${user}` } } };
  },
  publish: ({ data }) => ({ result: { data: { ...data, checked: true } } }),
  rpc: (asked) => procedures[asked.method](asked),
};

const server = createServer(async (request, response) => {
  const chunks = await request.toArray();
  const asked = JSON.parse(Buffer.concat(chunks));
  const path = request.url.slice(1);
  say('asked', { path, asked, type: request.headers['content-type'], key: request.headers['x-key'] ?? null });
  const answer = answers[path](asked);
  if (!answer) response.writeHead(500).end('out of order');
  else response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
});
server.listen(Number(process.argv[2]), '127.0.0.1', () => say('listening', server.address()));
