"""A threading echo server with blocking calls on ADDRESS PORT; ends after CONNECTIONS."""

import socketserver
import sys


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128
    allow_reuse_address = True


with Server((sys.argv[1], int(sys.argv[2])), Echo) as server:
    print("ready", flush=True)
    for _ in range(int(sys.argv[3])):
        server.handle_request()
# Leaving the block waits for the threads.
print("done")
