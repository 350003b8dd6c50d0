"""The package `centrifuge-python`, told what to do by lines of JSON, as drive.mjs is.

Arguments: a server's address and the key of tokens.
"""

import asyncio
import base64
import dataclasses
import hashlib
import hmac
import json
import sys
import time

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    ReplyError,
    SubscriptionEventHandler,
)

address, secret = sys.argv[1:]


def say(event, **fields):
    print(json.dumps({**fields, "event": event}, default=str), flush=True)


def plain(value):
    """A context or result of the library as it is, under the names of its fields."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value


def sign(claims):
    def part(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = part(b'{"alg":"HS256","typ":"JWT"}')
    text = f"{header}.{part(json.dumps(claims).encode())}"
    digest = hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()
    return f"{text}.{part(digest)}"


def asks(claims, seconds):
    async def token(*_):
        say("token asked", channel=claims.get("channel"))
        return sign({**claims, "exp": int(time.time()) + (seconds or 3600)})

    return token if claims else None


def reporting(base, prefixes):
    """A handler of all events that `base` names; what stands before some of the names."""

    def report(name):
        async def on(self, context):
            fields = plain(context)
            say(prefixes.get(name, "") + name.removeprefix("on_"), **fields)

        return on

    names = [name for name in vars(base) if name.startswith("on_")]
    return type("Reporting", (base,), {name: report(name) for name in names})()


SERVER_SIDE = "subscribed subscribing unsubscribed publication join leave"
client = None


async def do(command):
    global client
    options = {**command}
    name, channel = options.pop("do"), options.pop("channel", None)
    if name == "connect":
        client = Client(
            f"ws://{address}/connection/websocket",
            events=reporting(
                ClientEventHandler, {f"on_{word}": "server " for word in SERVER_SIDE.split()}
            ),
            get_token=asks(options.get("claims"), options.get("seconds")),
            data=options.get("data"),
            min_reconnect_delay=0.02,
            max_reconnect_delay=0.2,
            proxy=None,
        )
        return await client.connect()
    if name == "subscribe":
        subscription = client.get_subscription(channel)
        if subscription is None:
            claims = options.get("claims")
            subscription = client.new_subscription(
                channel,
                events=reporting(SubscriptionEventHandler, {}),
                get_token=asks(claims and {**claims, "channel": channel}, options.get("seconds")),
                join_leave=options.get("joinLeave", False),
            )
        return await subscription.subscribe()
    if name == "unsubscribe":
        return await client.get_subscription(channel).unsubscribe()
    if name == "disconnect":
        return await client.disconnect()
    if name == "rpc":
        return await client.rpc(options["method"], options["data"])
    return await getattr(client, name)(channel, **options)


async def main():
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            say("answer", result=plain(await do(json.loads(line))))
        except ReplyError as error:
            say("answer", error={"code": error.code})
        except CentrifugeError as error:
            say("answer", error={"code": None, "message": str(error)})


asyncio.run(main())
