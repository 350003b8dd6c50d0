"""The package `cent` against a server: every method of Centrifugo's API, with all that each can say.

Arguments: the server's address, the key of its HTTP API, the client ids of two connections of the user
`ann`, who is subscribed to nothing, and a time in seconds. Prints one line of JSON.
"""

import json
import sys

from cent import (
    BatchRequest,
    BoolValue,
    BroadcastRequest,
    CentApiResponseError,
    ChannelOptionsOverride,
    ChannelsRequest,
    Client,
    ConnectionsRequest,
    Disconnect,
    DisconnectRequest,
    HistoryRemoveRequest,
    HistoryRequest,
    InfoRequest,
    PresenceRequest,
    PresenceStatsRequest,
    PublishRequest,
    RefreshRequest,
    StreamPosition,
    SubscribeRequest,
    UnsubscribeRequest,
)

address, key, first, second, expire_at = sys.argv[1:]
client = Client(f"http://{address}/api", key)
said = {}

published = client.publish(
    PublishRequest(
        channel="room:a",
        data={"n": 1},
        tags={"kind": "one"},
        idempotency_key="once",
        skip_history=False,
        delta=False,
        b64data=None,
        version=1,
        version_epoch="v",
    )
)
again = client.publish(PublishRequest(channel="room:a", data={"n": 1}, idempotency_key="once"))
said["repeated"] = again == published
said["offset"] = published.offset

client.subscribe(
    SubscribeRequest(
        user="ann",
        channel="room:a",
        client=first,
        info={"seat": 1},
        data={"hello": "there"},
        expire_at=int(expire_at),
        recover_since=StreamPosition(offset=0, epoch=published.epoch),
        override=ChannelOptionsOverride(presence=BoolValue(value=True)),
    )
)
client.subscribe(SubscribeRequest(user="ann", channel="room:a", client=second))
presence = client.presence(PresenceRequest(channel="room:a")).presence
said["presence"] = sorted((one.user, one.chan_info) for one in presence.values() if one.chan_info)
said["present"] = sorted(presence) == sorted([first, second])
stats = client.presence_stats(PresenceStatsRequest(channel="room:a"))
said["stats"] = [stats.num_clients, stats.num_users]

broadcast = client.broadcast(BroadcastRequest(channels=["room:a", "x:y"], data={"n": 2}))
said["broadcast"] = [broadcast.responses[0].result.offset, broadcast.responses[1].error.code]
page = client.history(
    HistoryRequest(
        channel="room:a",
        limit=5,
        since=StreamPosition(offset=0, epoch=published.epoch),
        reverse=False,
    )
)
said["history"] = [[one.offset, one.data, one.tags] for one in page.publications]
said["epoch"] = page.epoch == published.epoch
newest = client.history(HistoryRequest(channel="room:a", limit=1, reverse=True))
said["newest"] = [one.data for one in newest.publications]
client.history_remove(HistoryRemoveRequest(channel="room:a"))
removed = client.history(HistoryRequest(channel="room:a", limit=-1))
said["removed"] = [len(removed.publications), removed.offset]

channels = client.channels(ChannelsRequest(pattern="room:*")).channels
said["channels"] = {name: info.num_clients for name, info in channels.items()}
connections = client.connections(ConnectionsRequest(user="ann", expression="")).connections
said["connections"] = {
    "all": sorted(connections) == sorted([first, second]),
    "of": sorted({(one.user, one.transport, one.protocol) for one in connections.values()}),
    "channels": [sorted(one.state.channels) for one in connections.values()],
}

client.refresh(RefreshRequest(user="ann", client=first, expired=False, expire_at=int(expire_at)))
client.unsubscribe(UnsubscribeRequest(user="ann", channel="room:a", client=first))
batch = client.batch(
    BatchRequest(
        requests=[
            PublishRequest(channel="room:a", data={"n": 3}),
            PresenceStatsRequest(channel="room:a"),
            BroadcastRequest(channels=["room:a"], data={"n": 4}),
            ChannelsRequest(pattern="room:a"),
            InfoRequest(),
        ],
        parallel=False,
    )
)
one, two, three, four, five = batch.replies
said["batch"] = [
    one.offset,
    two.num_clients,
    three.responses[0].result.offset,
    sorted(four.channels),
    five.nodes[0].num_clients,
]
client.disconnect(
    DisconnectRequest(
        user="ann", whitelist=[second], disconnect=Disconnect(code=4500, reason="enough")
    )
)
client.disconnect(DisconnectRequest(user="ann", client=second))

try:
    client.history(HistoryRequest(channel="x:y", limit=1))
except CentApiResponseError as error:
    said["unknown"] = error.code
print(json.dumps(said))
