// A bare EventSource, as a browser has it, on one channel or on a unidirectional connection: what it
// is told, as lines of JSON, until somebody publishes "end".
//
// Argument: the URL.

import { EventSource } from 'eventsource';

const source = new EventSource(process.argv[2]);
const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));

source.onopen = () => say('open');
source.onerror = ({ code }) => {
  say('error', { code: code ?? null });
  if (source.readyState === EventSource.CLOSED) say('closed');
};
source.addEventListener('disconnect', ({ data }) => say('disconnect', JSON.parse(data)));
source.onmessage = ({ data }) => {
  const message = JSON.parse(data);
  say('message', { message });
  if (message === 'end' || message.pub?.data === 'end') source.close();
};
