# Owns: the rows of nginx under the shim, driven by curl, ab and wrk on the kernel's stack.

import os
import re
import signal

from network import HOST, HOST6
from row import row

from .common import MEGABYTE, SMALL, big, nginx_command, url, web_root


def start_nginx(t, *sizes):
    """nginx says nothing when it is ready: ask until it answers."""
    server = t.program(nginx_command(t, web_root(t, *sizes)))
    probe = t.run_peer(
        ["curl", "-sS", "-o", os.devnull, "--retry", "50", "--retry-delay", "0", "--retry-connrefused"]
        + ["--retry-all-errors", "--retry-max-time", "10", "--connect-timeout", "2", url(f"{sizes[0]}.bin", host=HOST)],
        name="probe",
    )
    t.succeeded(probe)
    return server


def end_nginx(t, server):
    code = server.stop(signal.SIGQUIT)
    t.observe("nginx exit code", code)
    t.check(code == 0, f"nginx exited with {code}: {server.err[-200:]}")
    with open(t.path("nginx.log")) as file:
        log = file.read()
    t.check(not re.search(r"\[(alert|crit|emerg)\]", log), f"nginx complains: {log[-300:]}")


@row("nginx.get-big", roles="server", needs=["nginx", "curl"], seconds=120)
def nginx_get_big(t):
    """nginx serves 1 GiB (quick: 64 MiB) with sendfile"""
    size = big(t)
    server = start_nginx(t, SMALL, size)
    t.succeeded(t.run_peer(["curl", "-sS", "-o", t.path("got"), url(f"{size}.bin", host=HOST)]))
    t.same_file(t.path("got"), t.fixtures.file(size))
    os.unlink(t.path("got"))
    end_nginx(t, server)
    t.expect(TxBytes=size, TcpPassiveOpens=2)


@row("nginx.get-6", roles="server", needs=["nginx", "curl"], seconds=60)
def nginx_get_6(t):
    """nginx serves a large file over IPv6"""
    size = big(t) // 4
    server = start_nginx(t, SMALL, size)
    t.succeeded(t.run_peer(["curl", "-sS", "-o", t.path("got"), url(f"{size}.bin", host=f"[{HOST6}]")]))
    t.same_file(t.path("got"), t.fixtures.file(size))
    os.unlink(t.path("got"))
    end_nginx(t, server)
    t.expect(TxBytes=size, TcpPassiveOpens=2)


@row("nginx.put", roles="server", needs=["nginx", "curl"], seconds=60)
def nginx_put(t):
    """nginx stores a PUT of 256 MiB (quick: 16 MiB)"""
    size = big(t) // 4
    server = start_nginx(t, SMALL)
    source = t.fixtures.file(size)
    t.succeeded(t.run_peer(["curl", "-sS", "-f", "-T", source, url("put/x", host=HOST)]))
    t.same_file(t.path("put/x"), source)
    os.unlink(t.path("put/x"))
    end_nginx(t, server)
    t.expect(RxBytes=size, TcpPassiveOpens=2)


def ab(t, requests, *options):
    server = start_nginx(t, SMALL)
    result = t.run_peer(["ab", "-q", "-n", str(requests), *options, url(f"{SMALL}.bin", host=HOST)])
    t.succeeded(result)
    for label in ("Complete requests", "Failed requests", "Non-2xx responses", "HTML transferred"):
        match = re.search(label + r":\s+(\d+)", result.out)
        t.observe(label, match and match[1])
    t.check(re.search(r"Failed requests:\s+0\b", result.out), "ab counts failed requests")
    t.check(re.search(rf"Complete requests:\s+{requests}\b", result.out), "ab counts too few requests")
    end_nginx(t, server)
    t.expect(TxBytes=requests * SMALL)


@row("ab.keep-alive", roles="server", needs=["nginx", "ab", "curl"])
def ab_keep_alive(t):
    """ab against nginx, 50 connections kept alive"""
    ab(t, 5000, "-k", "-c", "50")
    t.expect(TcpPassiveOpens=50)


@row("ab.close", roles="server", needs=["nginx", "ab", "curl"])
def ab_close(t):
    """ab against nginx, a connection for each request"""
    requests = 2000 if t.quick else 10_000
    ab(t, requests, "-c", "20")
    t.expect(TcpPassiveOpens=requests)


def wrk(t, size, connections):
    server = start_nginx(t, size)
    seconds = 1 if t.quick else 5
    result = t.run_peer(["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", url(f"{size}.bin", host=HOST)])
    t.succeeded(result)
    t.check("Socket errors" not in result.out, "wrk: " + "".join(re.findall("Socket errors.*", result.out)))
    t.check("Non-2xx" not in result.out, "wrk counts responses other than 2xx")
    requests = int(re.search(r"(\d+) requests in", result.out)[1])
    t.check(requests > 100, f"wrk got only {requests} requests answered")
    end_nginx(t, server)
    t.expect(TxBytes=requests * size, TcpPassiveOpens=connections)


@row("wrk.small", roles="server", needs=["nginx", "wrk", "curl"])
def wrk_small(t):
    """wrk against nginx, 32 connections, 4 kB files"""
    wrk(t, SMALL, 32)


@row("wrk.large", roles="server", needs=["nginx", "wrk", "curl"], quick=False)
def wrk_large(t):
    """wrk against nginx, 16 connections, 1 MB files"""
    wrk(t, MEGABYTE, 16)
