// One client of the npm package `centrifuge`: what it is told, step by step, as lines of JSON.
//
// Arguments: the address of a server, what to do there, the key of tokens, and over which transport.

import { createHmac } from 'node:crypto';
import { Centrifuge } from 'centrifuge';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

const [address, scenario, secret, transport = 'websocket'] = process.argv.slice(2);
const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));

// Signed here, so that the server's tokens are checked against somebody else's idea of them.
function token(claims, key = secret) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', key).update(text).digest('base64url')}`;
}

function open(options) {
  const scheme = transport === 'websocket' ? 'ws' : 'http';
  const endpoint = `${scheme}://${address}/connection/${transport}`;
  const client = new Centrifuge([{ transport, endpoint }], {
    websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream,
    emulationEndpoint: `http://${address}/emulation`, minReconnectDelay: 20, maxReconnectDelay: 200, ...options,
  });
  client.on('connecting', ({ code, reason }) => say('connecting', { code, reason }));
  client.on('connected', ({ client, transport }) => say('connected', { client, transport }));
  client.on('disconnected', ({ code, reason }) => say('disconnected', { code, reason }));
  client.on('error', ({ type, error }) => say('error', { type, code: error.code }));
  return client;
}

function subscribe(client, channel) {
  const subscription = client.newSubscription(channel);
  subscription.on('subscribed', ({ channel }) => say('subscribed', { channel }));
  subscription.on('unsubscribed', ({ channel, code, reason }) =>
    say('unsubscribed', { channel, code, reason }));
  subscription.on('publication', ({ channel, data, info }) => say('publication', { channel, data, info }));
  subscription.subscribe();
  return subscription;
}

const connected = (client) => new Promise((done) => client.on('connected', done));
const disconnected = (client) => new Promise((done) => client.on('disconnected', done));
const hour = () => Math.floor(Date.now() / 1000) + 3600;

const scenarios = {
  // Everything that an anonymous client may do in development.
  async anonymous() {
    const client = open();
    const subscription = subscribe(client, 'room');
    client.connect();
    await subscription.ready();
    const received = new Promise((done) => subscription.once('publication', done));
    await subscription.publish({ text: 'from node' });
    await received;
    await client.rpc('method', {}).catch(({ code, message }) => say('rpc', { code, message }));
    subscription.unsubscribe();
    client.disconnect();
  },

  // Subscribes and stays, whatever the server does, until it has received `end`.
  async stay() {
    const client = open();
    const subscription = subscribe(client, 'room');
    subscription.on('publication', ({ data }) => data === 'end' && client.disconnect());
    const end = disconnected(client);
    client.connect();
    await end;
  },

  async token() {
    const client = open({ token: token({ sub: 'ann', exp: hour(), info: { role: 'admin' } }) });
    const open_to_users = subscribe(client, 'room');
    client.connect();
    await open_to_users.ready();
    const received = new Promise((done) => open_to_users.once('publication', done));
    await open_to_users.publish({ text: 'signed' });
    await received;
    client.disconnect();
  },

  // The first token has expired; the client is told so and asks for another one.
  async expired() {
    const getToken = async () => {
      say('asked for a token');
      return token({ sub: 'ann', exp: hour() });
    };
    const client = open({ token: token({ sub: 'ann', exp: 1000 }), getToken });
    const done = connected(client);
    client.connect();
    await done;
    client.disconnect();
  },

  async forged() {
    const client = open({ token: token({ sub: 'ann', exp: hour() }, 'another secret') });
    const end = disconnected(client);
    client.connect();
    await end;
  },

  // The anonymous user may connect here, and nothing else.
  async denied() {
    const client = open();
    const subscription = subscribe(client, 'room');
    const end = new Promise((done) => subscription.once('unsubscribed', done));
    client.connect();
    await end;
    await client.publish('room', {}).catch(({ code }) => say('publish', { code }));
    client.disconnect();
  },
};

await scenarios[scenario]();
