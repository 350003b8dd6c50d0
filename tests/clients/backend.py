"""The package `cent` against a server: publishes, broadcasts, asks for the node, and guesses a key.

Arguments: the server's address and the key of its HTTP API. Prints one line of JSON.
"""

import json
import sys

from cent import (
    BroadcastRequest,
    CentApiResponseError,
    CentUnauthorizedError,
    Client,
    InfoRequest,
    PresenceRequest,
    PublishRequest,
)

address, key = sys.argv[1:]
client = Client(f"http://{address}/api", key)

client.publish(PublishRequest(channel="news", data={"text": "published", "n": [1, 2.5, None]}))
broadcast = client.broadcast(
    BroadcastRequest(channels=["news", "sport", "empty"], data={"text": "broadcast"})
)
(node,) = client.info(InfoRequest()).nodes

try:
    Client(f"http://{address}/api", "a guess").publish(PublishRequest(channel="news", data={}))
    wrong_key = "accepted"
except CentUnauthorizedError:
    wrong_key = "CentUnauthorizedError"

try:
    client.presence(PresenceRequest(channel="news"))
    unavailable = None
except CentApiResponseError as error:
    unavailable = error.code

print(
    json.dumps(
        {
            "broadcast": [response.error for response in broadcast.responses],
            "num_clients": node.num_clients,
            "num_users": node.num_users,
            "num_subs": node.num_subs,
            "num_channels": node.num_channels,
            "version": node.version,
            "wrong_key": wrong_key,
            "unavailable": unavailable,
        }
    )
)
