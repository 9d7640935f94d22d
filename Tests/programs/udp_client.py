"""Sends COUNT datagrams of many sizes to ADDRESS PORT, one after the other, and checks that each comes back whole."""

import socket
import sys

with socket.socket(type=socket.SOCK_DGRAM) as client:
    client.settimeout(5)
    client.connect((sys.argv[1], int(sys.argv[2])))
    for i in range(int(sys.argv[3])):
        data = bytes([i % 256]) * (i * 37 % 8000)
        client.send(data)
        assert client.recv(65536) == data, f"datagram {i} came back changed"
print("all came back")
