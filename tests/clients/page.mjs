// The page at / in a headless Chromium.
//
// Arguments: the browser's path, the server's address, the key of its HTTP API, where the picture goes.
// Prints one line of JSON.

import { chromium } from 'playwright-core';

const [executablePath, address, key, picture] = process.argv.slice(2);

const browser = await chromium.launch({
  executablePath,
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
  ],
});
try {
  const page = await browser.newPage({ viewport: { width: 1024, height: 768 } });
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
  await page.goto(`http://${address}/`);
  await page.locator('#state[data-state=connected]').waitFor();
  await page.locator('#publish:enabled').waitFor();

  const response = await fetch(`http://${address}/api/publish`, {
    method: 'POST',
    headers: { 'X-API-Key': key },
    body: JSON.stringify({ channel: 'demo', data: { text: 'from the backend <b>' } }),
  });
  const answer = await response.json();
  const messages = page.locator('#messages li .text');
  await page.locator('#messages li', { hasText: 'from the backend <b>' }).waitFor();

  for (const text of ['from the page', 'and again', 'and once more']) {
    await page.fill('#message', text);
    await page.click('#publish');
    await page.locator('#messages li', { hasText: text }).waitFor();
  }
  const result = {
    answer,
    errors,
    state: await page.textContent('#state'),
    client: await page.textContent('#client'),
    messages: await messages.allTextContents(),
    latency: await page.textContent('#latency'),
    curl: await page.textContent('#curl'),
  };
  await page.screenshot({ path: picture, fullPage: true });
  await page.setViewportSize({ width: 400, height: 800 });
  result.narrow = await page.evaluate(() => document.documentElement.scrollWidth);
  await page.screenshot({ path: picture.replace(/\.png$/, '-narrow.png'), fullPage: true });

  await page.fill('#channel', 'other');
  await page.click('#subscribe');
  await page.locator('#subscribed', { hasText: 'other' }).waitFor();
  console.log(JSON.stringify(result));
} finally {
  await browser.close();
}
