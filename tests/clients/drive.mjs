// A client of the package `centrifuge` that is told what to do and says what happens: the same in Node
// and in a browser.
//
// `platform` is what the environment lacks, `sign` makes tokens of claims, `say` reports an event.

export function drive({ Centrifuge, EventSource, address, platform, sign, say }) {
  let client;
  const subscriptions = new Map();
  // A token for so many seconds, and a word that it was asked for.
  const asks = (claims, seconds) => claims && (async () => {
    say('token asked', { channel: claims.channel ?? null });
    return sign({ ...claims, exp: Math.floor(Date.now() / 1000) + (seconds ?? 3600) });
  });
  const reports = (emitter, names, prefix = '') => {
    for (const name of names) emitter.on(name, (context) => say(prefix + name, context));
  };
  const ofChannels = ['subscribing', 'subscribed', 'unsubscribed', 'publication', 'join', 'leave'];

  const commands = {
    connect({ transport, claims, seconds, data }) {
      const scheme = transport === 'websocket' ? 'ws' : 'http';
      const endpoint = `${scheme}://${address}/connection/${transport}`;
      client = new Centrifuge([{ transport, endpoint }], {
        ...platform, emulationEndpoint: `http://${address}/emulation`,
        minReconnectDelay: 20, maxReconnectDelay: 200, getToken: asks(claims, seconds) ?? null, data,
      });
      reports(client, ['connecting', 'connected', 'disconnected', 'error', 'message']);
      reports(client, ofChannels, 'server ');
      client.connect();
    },
    subscribe({ channel, claims, seconds, ...options }) {
      let subscription = subscriptions.get(channel);
      if (!subscription) {
        const getToken = asks(claims && { ...claims, channel }, seconds) ?? null;
        subscription = client.newSubscription(channel, { ...options, getToken });
        reports(subscription, [...ofChannels, 'error']);
        subscriptions.set(channel, subscription);
      }
      subscription.subscribe();
    },
    unsubscribe: ({ channel }) => subscriptions.get(channel).unsubscribe(),
    publish: ({ channel, data }) => client.publish(channel, data),
    presence: ({ channel }) => client.presence(channel),
    presence_stats: ({ channel }) => client.presenceStats(channel),
    history: ({ channel, ...options }) => client.history(channel, options),
    rpc: ({ method, data }) => client.rpc(method, data),
    disconnect: () => client.disconnect(),
    // No library at all.
    source({ path }) {
      const source = new EventSource(`http://${address}${path}`);
      source.onopen = () => say('open');
      source.onmessage = ({ data, lastEventId }) =>
        say('publication', { data: JSON.parse(data), id: lastEventId });
    },
  };

  return async ({ do: name, ...options }) => {
    try {
      say('answer', { result: (await commands[name](options)) ?? null });
    } catch (error) {
      say('answer', { error: { code: error.code ?? null, message: error.message ?? String(error) } });
    }
  };
}
