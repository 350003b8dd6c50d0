"""The package `cent`, called as it is told: a line ["method", {parameters}] in, its answer out.

Arguments: the server's address and the key of its HTTP API.
"""

import json
import sys

import cent

address, key = sys.argv[1:]
client = cent.Client(f"http://{address}/api", key)

for line in sys.stdin:
    method, parameters = json.loads(line)
    name = "".join(word.capitalize() for word in method.split("_")) + "Request"
    try:
        result = getattr(client, method)(getattr(cent, name)(**parameters))
        answer = {"result": result.model_dump(mode="json", exclude_none=True)}
    except cent.CentApiResponseError as error:
        answer = {"error": error.code}
    print(json.dumps({**answer, "event": "answer"}), flush=True)
