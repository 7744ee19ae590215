"""A device of the original remote-control server, on the websockets library alone.

It prints what the hub sends, byte for byte, and ends after the command «restart».
"""
import asyncio
import json
import sys

import websockets


def say(*words):
    print(*words, flush=True)


async def refused(url, frame):
    async with websockets.connect(url) as ws:
        say(">", frame)
        await ws.send(frame)
        try:
            while True:
                say("<", await ws.recv())
        except websockets.ConnectionClosed:
            say("closed", ws.close_code)


async def main(url):
    await refused(url, '{"type": "auth", "name": "esp01", "password": "4321"}')
    await refused(url, '{"type": "auth", "name": "nobody", "password": "1234"}')
    await refused(url, '{"type": "auth"}')
    await refused(url, '{"type": "telemetry", "status": "ready"}')
    await refused(url, '{}')
    await refused(url, 'hello, hub')
    async with websockets.connect(url + "any/path", subprotocols=["arduino"]) as ws:
        say("subprotocol", ws.subprotocol, "extensions", ws.response_headers.get("Sec-WebSocket-Extensions"))
        await ws.send(json.dumps({"type": "auth", "name": "esp01", "password": "1234"}))
        await ws.send(json.dumps({"type": "unknown to the hub", "status": "wrong"}))
        await ws.send(json.dumps({"type": "auth", "name": "esp02", "password": "5678"}))
        await ws.send(json.dumps({"type": "telemetry", "status": "first", "old": True}))
        await ws.send(json.dumps({"type": "telemetry", "status": "работает", "servo1": 90, "servo2": 90,
                                  "button1": "released", "button2": "pressed", "temp": 15.0, "sign": "🚦 <&>"},
                                 ensure_ascii=False).encode())
        while True:
            message = await ws.recv()
            say("<", message)
            if json.loads(message)["command"] == "restart":
                break
        await ws.send("this is no JSON")
        try:
            say("<", await ws.recv())
        except websockets.ConnectionClosed:
            say("closed", ws.close_code)


asyncio.run(asyncio.wait_for(main(sys.argv[1]), 600))
