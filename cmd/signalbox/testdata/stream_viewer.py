"""A viewer of the hub's stream, written with python3-websockets: prints what it sees."""

import asyncio
import json
import sys

import websockets


async def watch(address, token, flood):
    header = {"Authorization": "Bearer " + token}
    async with websockets.connect(address, extra_headers=header) as hub:
        if flood:
            for _ in range(1000):
                await hub.send("nothing of interest")
                await asyncio.sleep(0)
        async for text in hub:
            event = json.loads(text)
            if event["kind"] == "telemetry":
                print("telemetry", event["device"], json.dumps(event["object"]), flush=True)
            elif event["kind"] == "command":
                print("command", event["device"], event["command"]["command"], event["command"]["state"], flush=True)
            elif event["kind"] == "state":
                print("state", event["state"]["device"], event["state"]["presence"], flush=True)
            elif event["kind"] != "cursor":
                print(event["kind"], flush=True)
        print("closed", hub.close_code, hub.close_reason, flush=True)


async def main():
    try:
        await watch(sys.argv[1], sys.argv[2], len(sys.argv) > 3)
    except websockets.ConnectionClosed as end:
        print("closed", end.rcvd.code, end.rcvd.reason, flush=True)


asyncio.run(main())
