"""A viewer as the original's documents describe it, with Debian's python3-websockets.

viewer.py live URI N       hello; realtime when sending comes; leaves after N readings
viewer.py history URI      each 20 rows by a connection of their own, until empty comes

It prints each message as it came, and «closed CODE» when the hub closes.
"""
import asyncio
import json
import ssl
import sys

import websockets

CONTEXT = ssl.create_default_context()
CONTEXT.check_hostname = False
CONTEXT.verify_mode = ssl.CERT_NONE


def connect(uri):
    return websockets.connect(uri, ssl=CONTEXT if uri.startswith("wss:") else None)


async def live(uri, readings):
    async with connect(uri) as socket:
        await socket.send("hello")
        async for message in socket:
            print(message, flush=True)
            kind = json.loads(message)["type"]
            if kind == "sending":
                await socket.send("realtime")
            elif kind == "new_data":
                readings -= 1
                if readings == 0:
                    return
        print("closed", socket.close_code, flush=True)


async def history(uri):
    row, more = 0, True
    while more:
        async with connect(uri) as socket:
            await socket.send("hello")
            async for message in socket:
                print(message, flush=True)
                kind = json.loads(message)["type"]
                if kind == "sending":
                    await socket.send("database:%d" % row)
                elif kind == "empty":
                    more = False
                elif kind == "close":
                    break
        row += 20


async def main():
    try:
        if sys.argv[1] == "live":
            await asyncio.wait_for(live(sys.argv[2], int(sys.argv[3])), 60)
        else:
            await asyncio.wait_for(history(sys.argv[2]), 60)
    except websockets.ConnectionClosed as closed:
        print("closed", closed.code, flush=True)


asyncio.run(main())
