"""UDP echo on ADDRESS PORT; ends after COUNT datagrams."""

import socket
import sys

with socket.socket(type=socket.SOCK_DGRAM) as server:
    server.bind((sys.argv[1], int(sys.argv[2])))
    print("ready", flush=True)
    for _ in range(int(sys.argv[3])):
        data, source = server.recvfrom(65536)
        server.sendto(data, source)
print("done")
