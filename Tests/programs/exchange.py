"""The other end of an nc: listen|connect ADDRESS PORT FILE first|last.

first: sends FILE, half-closes, then receives. last: receives until the other end half-closes, and only then sends FILE.
What it received goes to standard output.
"""

import socket
import sys

role, address, port, path, order = sys.argv[1:]


def send(connection):
    with open(path, "rb") as file:
        connection.sendfile(file)
    connection.shutdown(socket.SHUT_WR)


def receive(connection):
    while data := connection.recv(1 << 18):
        sys.stdout.buffer.write(data)


if role == "listen":
    with socket.create_server((address, int(port))) as server:
        connection = server.accept()[0]
else:
    connection = socket.create_connection((address, int(port)))
with connection:
    for step in (send, receive) if order == "first" else (receive, send):
        step(connection)
