"""An asyncio echo server and its client: serve|connect ADDRESS PORT CONNECTIONS. Prints what it did, the same each time."""

import asyncio
import sys

ROUNDS, SIZE = 10, 2000


async def serve(address, port, expected):
    done, bytes_echoed, finished = 0, 0, asyncio.Event()

    async def echo(reader, writer):
        nonlocal done, bytes_echoed
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
            bytes_echoed += len(data)
        writer.close()
        await writer.wait_closed()
        done += 1
        if done == expected:
            finished.set()

    server = await asyncio.start_server(echo, address, port, backlog=512)
    print("ready", flush=True)
    async with server:
        await finished.wait()
    print(f"served {done} connections, {bytes_echoed} bytes")


async def connect(address, port, count):
    barrier = asyncio.Event()
    opened = 0

    async def talk(number):
        nonlocal opened
        reader, writer = await asyncio.open_connection(address, port)
        opened += 1
        if opened == count:
            barrier.set()  # all are open at once from here on
        await barrier.wait()
        for i in range(ROUNDS):
            message = bytes([(number + i) % 256]) * SIZE
            writer.write(message)
            await writer.drain()
            assert await reader.readexactly(SIZE) == message, f"connection {number} got something else back"
        writer.write_eof()
        assert await reader.read() == b"", f"connection {number} got more than it sent"
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(talk(number) for number in range(count)))
    print(f"{count} connections, {count * ROUNDS * SIZE} bytes each way")


role, address, port, count = sys.argv[1:]
asyncio.run({"serve": serve, "connect": connect}[role](address, int(port), int(count)))
