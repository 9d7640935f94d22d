"""HTTP with what Python brings: ADDRESS PORT SMALL LARGE. A server has files SMALL.bin, LARGE.bin and stores PUTs to /put/."""

import hashlib
import http.client
import sys
import urllib.error
import urllib.request

address, port, small, large = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
base = f"http://{address}:{port}"


def show(what, data):
    print(what, len(data), hashlib.sha1(data).hexdigest())


for name in (small, large):
    with urllib.request.urlopen(f"{base}/{name}.bin", timeout=20) as response:
        show(f"GET {name} {response.status} {response.headers['Content-Length']}", response.read())

try:
    urllib.request.urlopen(f"{base}/missing", timeout=20)
except urllib.error.HTTPError as error:
    print("GET missing", error.code)

try:
    urllib.request.urlopen(f"http://{address}:8999/", timeout=20)
except urllib.error.URLError as error:
    print("refused", error.reason)

# One connection for several requests, and bodies in both directions.
connection = http.client.HTTPConnection(address, port, timeout=20)
body = bytes(range(256)) * 4000
for i in range(3):
    connection.request("PUT", f"/put/python-{i}", body)
    response = connection.getresponse()
    response.read()
    print("PUT", response.status)
connection.request("GET", f"/{small}.bin")
show("GET again", connection.getresponse().read())
connection.close()
