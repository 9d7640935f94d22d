# asyncio's datagram endpoints, echoing and asking. "serve ADDRESS PORT COUNT" ends after COUNT datagrams; "connect ADDRESS PORT
# SOCKETS EACH" has so many sockets, each with one question at a time.

import asyncio
import sys


class Echo(asyncio.DatagramProtocol):
    def __init__(self, left, done):
        self.left, self.done = left, done

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.transport.sendto(data, address)
        self.left -= 1
        if self.left == 0:
            self.done.set_result(None)


class Asker(asyncio.DatagramProtocol):
    def __init__(self, number, left, done):
        self.number, self.left, self.done = number, left, done

    def connection_made(self, transport):
        self.transport = transport
        self.ask()

    def ask(self):
        self.question = bytes((self.number + self.left + i) % 256 for i in range(1 + self.left * 7 % 1400))
        self.transport.sendto(self.question)

    def datagram_received(self, data, address):
        assert data == self.question, f"{len(data)} bytes instead of {len(self.question)}"
        self.left -= 1
        if self.left == 0:
            self.done.set_result(None)
        else:
            self.ask()

    def error_received(self, error):
        self.done.set_exception(error)


async def serve(address, port, count):
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    await loop.create_datagram_endpoint(lambda: Echo(count, done), local_addr=(address, port))
    print("ready", flush=True)
    await done


async def connect(address, port, sockets, each):
    loop = asyncio.get_running_loop()
    answers = []
    for number in range(sockets):
        done = loop.create_future()
        answers.append(done)
        await loop.create_datagram_endpoint(lambda: Asker(number, each, done), remote_addr=(address, port))
    await asyncio.wait_for(asyncio.gather(*answers), 20)
    print(f"{sockets * each} answers")


mode, address, *numbers = sys.argv[1:]
asyncio.run((serve if mode == "serve" else connect)(address, *map(int, numbers)))
