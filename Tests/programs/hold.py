"""Listens on ADDRESS PORT and accepts until told to end: holds a stack up for those who look at it from outside."""

import signal
import socket
import sys

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
