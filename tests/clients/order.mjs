// Clients of the npm package `centrifuge` on all shards of one server, and publishers of two kinds:
// every client must see every publication, in one and the same order.
//
// Arguments: the server's address, the key of its HTTP API, publishers of each kind, publications of
// each publisher. Prints one line of JSON.

import assert from 'node:assert/strict';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const [address, key, ...numbers] = process.argv.slice(2);
const [publishers, publications] = numbers.map(Number);
const total = 2 * publishers * publications;
const CHANNEL = 'order';

async function api(method, body) {
  const response = await fetch(`http://${address}/api/${method}`, {
    method: 'POST',
    headers: { 'X-API-Key': key },
    body: JSON.stringify(body),
  });
  assert.equal(response.status, 200);
  const { result, error } = await response.json();
  assert.equal(error, undefined);
  return result;
}

function open() {
  const client = new Centrifuge(`ws://${address}/connection/websocket`, { websocket: WebSocket });
  client.on('disconnected', ({ code, reason }) => assert.equal(code, 0, reason));
  client.on('error', ({ error }) => assert.fail(error.message));
  client.connect();
  return client;
}

// Four clients at least, and then until every shard has one.
const clients = [];
let shards;
do {
  const client = open();
  const order = [];
  const subscription = client.newSubscription(CHANNEL);
  const complete = new Promise((done) => {
    subscription.on('publication', ({ data }) => order.push(data) === total && done());
  });
  subscription.subscribe();
  await subscription.ready();
  clients.push({ client, order, complete });
  shards = (await api('info', {})).nodes[0].shards.map((shard) => shard.num_clients);
} while (clients.length < 4 || shards.includes(0));

const publishing = [];
for (let publisher = 0; publisher < publishers; publisher++) {
  const client = open();
  publishing.push((async () => {
    await client.ready();
    for (let n = 0; n < publications; n++) await client.publish(CHANNEL, ['client', publisher, n]);
    client.disconnect();
  })());
  publishing.push((async () => {
    for (let n = 0; n < publications; n++) {
      await api('publish', { channel: CHANNEL, data: ['backend', publisher, n] });
    }
  })());
}
await Promise.all(publishing);
await Promise.all(clients.map(({ complete }) => complete));

const [{ order }] = clients;
for (const other of clients) assert.deepEqual(other.order, order, 'one order for all');
for (const kind of ['client', 'backend']) {
  for (let publisher = 0; publisher < publishers; publisher++) {
    const own = order.filter((data) => data[0] === kind && data[1] === publisher).map((data) => data[2]);
    assert.deepEqual(own, [...Array(publications).keys()], 'what one publishes keeps its order');
  }
}
clients.forEach(({ client }) => client.disconnect());
console.log(JSON.stringify({ clients: clients.length, shards, publications: order.length }));
