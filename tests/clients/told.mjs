// Runs drive.mjs in Node, or in a headless Chromium: commands come as lines of JSON, events leave as such.
//
// Arguments: a server's address, the key of tokens, and the path of a browser if it is to be one.

import { createHmac } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { drive } from './drive.mjs';

const [address, secret, executablePath] = process.argv.slice(2);
const say = (event, fields = {}) => console.log(JSON.stringify({ ...fields, event }));

// Signed here, so that the server's tokens are checked against somebody else's idea of them.
function sign(claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
}

async function inNode() {
  const { Centrifuge } = await import('centrifuge');
  const { EventSource } = await import('eventsource');
  const { default: WebSocket } = await import('ws');
  const platform = { websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream };
  return { tell: drive({ Centrifuge, EventSource, address, platform, sign, say }), end: () => {} };
}

async function inBrowser() {
  const { chromium } = await import('playwright-core');
  const browser = await chromium.launch({
    executablePath,
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
  const page = await browser.newPage();
  await page.exposeFunction('sign', sign);
  await page.exposeFunction('say', say);
  // Any page of the server: what counts is whose it is.
  await page.goto(`http://${address}/`);
  const bundle = createRequire(import.meta.url).resolve('centrifuge').replace(/build.*/, 'dist/centrifuge.js');
  await page.addScriptTag({ path: bundle });
  const source = await readFile(new URL('drive.mjs', import.meta.url), 'utf8');
  await page.addScriptTag({ content: source.replace('export function', 'function') });
  await page.evaluate((address) => {
    const { Centrifuge, EventSource, sign, say } = window;
    window.tell = window.drive({ Centrifuge, EventSource, address, platform: {}, sign, say });
  }, address);
  return {
    tell: (command) => page.evaluate((command) => window.tell(command), command),
    end: () => browser.close(),
  };
}

const { tell, end } = await (executablePath ? inBrowser() : inNode());
for await (const line of createInterface({ input: process.stdin })) await tell(JSON.parse(line));
await end();
process.exit();
