# Owns: the rows of Python and node, as clients and as servers.

import os
import signal

from network import HOST, PEER
from row import row

from .common import MEGABYTE, PYTHON, SMALL, nginx_peer, script, url, web_root


def finished(t, program):
    """A script of Tests/programs: its output is the same each time."""
    t.succeeded(program)
    t.observe_exit(program)
    t.observe(program.name, program.out)


@row("python.urllib", roles="client", needs=["nginx"])
def python_urllib(t):
    """python3 urllib and http.client against nginx"""
    nginx_peer(t, SMALL, 5 * MEGABYTE)
    finished(t, t.run_program([PYTHON, script("http_client.py"), PEER, "8000", str(SMALL), str(5 * MEGABYTE)]))
    t.expect(RxBytes=SMALL + 5 * MEGABYTE, TxBytes=3 * MEGABYTE, TcpActiveOpens=4)


@row("python.http-server", roles="server", needs=["curl"])
def python_http_server(t):
    """python3 -m http.server serves 8 curls at once, 5 files each"""
    root = web_root(t, SMALL, MEGABYTE)
    server = t.program([PYTHON, "-u", "-m", "http.server", "8000", "--directory", root], ready="Serving HTTP")
    names = [f"{MEGABYTE}.bin", f"{SMALL}.bin"] * 2 + [f"{MEGABYTE}.bin"]
    clients = []
    for i in range(8):
        outputs = [word for j, name in enumerate(names) for word in ("-o", t.path(f"got-{i}-{j}"))]
        clients.append(t.peer(["curl", "-sS", "-f", *outputs, *(url(name, host=HOST) for name in names)]))
    t.succeeded(*clients)
    for i in range(8):
        for j, name in enumerate(names):
            t.same_file(t.path(f"got-{i}-{j}"), os.path.join(root, name))
    t.observe("server exit code", server.stop(signal.SIGINT))
    t.observe("requests", sum('"GET /' in line and " 200 " in line for line in server.err.splitlines()))
    t.expect(TxBytes=8 * 3 * MEGABYTE, TcpPassiveOpens=40)


@row("python.asyncio-server", roles="server")
def python_asyncio_server(t):
    """asyncio echo server, 200 connections at once"""
    server = t.program([PYTHON, script("asyncio_echo.py"), "serve", HOST, "7000", "200"], ready="ready")
    client = t.run_peer([PYTHON, script("asyncio_echo.py"), "connect", HOST, "7000", "200"])
    t.succeeded(client)
    t.observe("client", client.out)
    finished(t, server)
    t.expect(RxBytes=200 * 20_000, TxBytes=200 * 20_000, TcpPassiveOpens=200)


@row("python.asyncio-client", roles="client")
def python_asyncio_client(t):
    """asyncio client, 200 connections at once"""
    server = t.peer([PYTHON, script("asyncio_echo.py"), "serve", PEER, "7000", "200"], listens=7000)
    finished(t, t.run_program([PYTHON, script("asyncio_echo.py"), "connect", PEER, "7000", "200"]))
    t.succeeded(server)
    t.observe("server", server.out)
    t.expect(RxBytes=200 * 20_000, TxBytes=200 * 20_000, TcpActiveOpens=200)


@row("python.threads", roles="server")
def python_threads(t):
    """a threading socketserver with blocking calls, 50 connections at once"""
    server = t.program([PYTHON, script("threads_echo.py"), HOST, "7000", "50"], ready="ready")
    client = t.run_peer([PYTHON, script("asyncio_echo.py"), "connect", HOST, "7000", "50"])
    t.succeeded(client)
    finished(t, server)
    t.expect(RxBytes=50 * 20_000, TxBytes=50 * 20_000, TcpPassiveOpens=50)


@row("python.udp", roles="server")
def python_udp(t):
    """a UDP echo server answers 200 datagrams of up to 8 kB"""
    server = t.program([PYTHON, script("udp_echo.py"), HOST, "7000", "200"], ready="ready")
    client = t.run_peer([PYTHON, script("udp_client.py"), HOST, "7000", "200"])
    t.succeeded(client)
    t.observe("client", client.out)
    finished(t, server)
    t.expect(UdpInDatagrams=200, UdpOutDatagrams=200)


@row("node.client", roles="client", needs=["node", "nginx"])
def node_client(t):
    """node http client: keep-alive, 20 at once, a PUT, an error"""
    nginx_peer(t, SMALL, MEGABYTE)
    finished(t, t.run_program(["node", script("http_client.js"), PEER, "8000", str(SMALL), str(MEGABYTE)]))
    t.expect(RxBytes=20 * MEGABYTE, TxBytes=2 * MEGABYTE, TcpActiveOpens=21)


@row("node.server", roles="server", needs=["node", "curl"])
def node_server(t):
    """node http server: 8 curls POST 1 MB and get it back, 3 times each"""
    server = t.program(["node", script("http_server.js"), "8000"], ready="ready")
    source = t.fixtures.file(MEGABYTE)
    clients = []
    for i in range(8):
        request = ["-f", "-H", "Expect:", "--data-binary", f"@{source}"]
        outputs = [word for j in range(3) for word in ("-o", t.path(f"got-{i}-{j}"), url("echo", host=HOST))]
        clients.append(t.peer(["curl", "-sS", *request, *outputs]))
    t.succeeded(*clients)
    for i in range(8):
        for j in range(3):
            t.same_file(t.path(f"got-{i}-{j}"), source)
    server.stop(signal.SIGTERM)
    finished(t, server)
    t.expect(RxBytes=24 * MEGABYTE, TxBytes=24 * MEGABYTE, TcpPassiveOpens=8)
