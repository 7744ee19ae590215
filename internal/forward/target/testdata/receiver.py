"""A WebSocket receiver: prints the port it listens on, and then each message."""
import asyncio
import websockets


async def receive(ws, _path=None):
    async for message in ws:
        print(type(message).__name__, len(message), flush=True)
        if message == "enough":
            await ws.close(1001, "enough")


async def main():
    async with websockets.serve(receive, "127.0.0.1", 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Future()


asyncio.run(main())
