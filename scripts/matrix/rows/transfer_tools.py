# Owns: the rows of curl, wget and nc.

import os
import re

from row import row

from network import HOST, PEER, PEER6, SILENT, UNREACHABLE

from .common import MEGABYTE, PYTHON, SMALL, big, nginx_peer, script, url


@row("curl.get-small", roles="client", needs=["curl", "nginx"])
def curl_get_small(t):
    """curl GETs a small file"""
    nginx_peer(t, SMALL)
    format = "%{http_code} %{size_download} %{num_connects} %{remote_ip}\n"
    curl = t.run_program(["curl", "-sS", "-o", t.path("got"), "-w", format, url(f"{SMALL}.bin")])
    t.observe_exit(curl)
    t.observe("curl", curl.out)
    t.succeeded(curl)
    t.same_file(t.path("got"), t.fixtures.file(SMALL))
    t.expect(RxBytes=SMALL, TcpActiveOpens=1, CopyBytesToUser=SMALL)


@row("curl.get-big", roles="client", needs=["curl", "nginx"], seconds=120)
def curl_get_big(t):
    """curl GETs 1 GiB (quick: 64 MiB)"""
    size = big(t)
    nginx_peer(t, size)
    curl = t.run_program(["curl", "-sS", "-o", t.path("got"), url(f"{size}.bin")])
    t.succeeded(curl)
    t.same_file(t.path("got"), t.fixtures.file(size))
    os.unlink(t.path("got"))
    t.expect(RxBytes=size, TcpActiveOpens=1, CopyBytesToUser=size)


@row("curl.get-6", roles="client", needs=["curl", "nginx"])
def curl_get_6(t):
    """curl GETs a small and a large file over IPv6"""
    size = big(t)
    nginx_peer(t, SMALL, size)
    format = "%{http_code} %{size_download} %{num_connects} %{remote_ip} %{local_ip}\n"
    for file in (SMALL, size):
        curl = t.run_program(["curl", "-sS", "-o", t.path("got"), "-w", format, url(f"{file}.bin", host=f"[{PEER6}]")])
        t.observe_exit(curl)
        t.observe("curl", curl.out)
        t.succeeded(curl)
        t.same_file(t.path("got"), t.fixtures.file(file))
    os.unlink(t.path("got"))
    t.expect(RxBytes=size, TcpActiveOpens=2, Ip6InReceives=10, CopyBytesToUser=size)


@row("curl.put", roles="client", needs=["curl", "nginx"], seconds=60)
def curl_put(t):
    """curl PUTs 256 MiB (quick: 16 MiB)"""
    size = big(t) // 4
    nginx_peer(t)
    curl = t.run_program(["curl", "-sS", "-T", t.fixtures.file(size), "-w", "%{http_code} %{size_upload}\n", url("put/x")])
    t.observe_exit(curl)
    t.observe("curl", curl.out)
    t.succeeded(curl)
    t.same_file(t.path("put/x"), t.fixtures.file(size))
    os.unlink(t.path("put/x"))
    t.expect(TxBytes=size, TcpActiveOpens=1, BytesFromUser=size)


@row("curl.put-limited", roles="client", needs=["curl", "nginx"], seconds=60, quick=False)
def curl_put_limited(t):
    """curl PUTs 10 MB with --limit-rate 4M"""
    nginx_peer(t)
    source = t.fixtures.file(10_000_000)
    curl = t.run_program(["curl", "-sS", "--limit-rate", "4M", "-T", source, "-w", "%{http_code} %{time_total}", url("put/x")])
    t.succeeded(curl)
    t.same_file(t.path("put/x"), source)
    code, seconds = curl.out.split()
    t.observe("code", code)
    t.check(1.5 <= float(seconds) <= 4, f"took {seconds} s at 4 MB/s")
    t.expect(TxBytes=10_000_000, TcpActiveOpens=1)


@row("curl.keep-alive", roles="client", needs=["curl", "nginx"])
def curl_keep_alive(t):
    """curl GETs three files over one connection"""
    nginx_peer(t, SMALL, MEGABYTE)
    names = [f"{SMALL}.bin", f"{MEGABYTE}.bin", "missing"]
    outputs = [word for name in names for word in ("-o", t.path("got-" + name))]
    format = "%{http_code} %{num_connects} %{size_download}\n"
    curl = t.run_program(["curl", "-sS", "-w", format, *outputs, *map(url, names)])
    t.observe_exit(curl)
    t.observe("curl", curl.out)
    for size in (SMALL, MEGABYTE):
        t.same_file(t.path(f"got-{size}.bin"), t.fixtures.file(size))
    t.expect(RxBytes=SMALL + MEGABYTE, TcpActiveOpens=1)


@row("curl.parallel", roles="client", needs=["curl", "nginx"])
def curl_parallel(t):
    """curl --parallel GETs one file 20 times at once"""
    nginx_peer(t, MEGABYTE)
    arguments = [word for i in range(20) for word in ("-o", t.path(f"got-{i}"), url(f"{MEGABYTE}.bin"))]
    curl = t.run_program(["curl", "-sS", "--no-keepalive", "--parallel", "--parallel-immediate", "--parallel-max", "20", *arguments])
    t.observe_exit(curl)
    t.succeeded(curl)
    for i in range(20):
        t.same_file(t.path(f"got-{i}"), t.fixtures.file(MEGABYTE))
    t.expect(RxBytes=20 * MEGABYTE, TcpActiveOpens=2)


@row("curl.refused", roles="client", needs=["curl"])
def curl_refused(t):
    """curl to a closed port"""
    curl = t.run_program(["curl", "-sS", url("x", port=8999)])
    t.observe_exit(curl)
    t.observe("curl", re.sub(r"after \d+ ms", "after # ms", curl.err))
    t.check(curl.popen.returncode == 7, f"curl exited with {curl.popen.returncode}, not 7")
    t.expect(TcpActiveOpens=1, TcpAttemptFails=1)


@row("curl.unroutable", roles="client", needs=["curl"])
def curl_unroutable(t):
    """curl --connect-timeout 2 to an address that swallows packets"""
    curl = t.run_program(["curl", "-sS", "--connect-timeout", "2", "-w", "%{time_total}", url("x", host=SILENT)])
    t.observe_exit(curl)
    t.check(curl.popen.returncode == 28, f"curl exited with {curl.popen.returncode}, not 28")
    t.check(1.9 < float(curl.out) < 3, f"gave up after {curl.out} s")
    t.expect(TcpActiveOpens=1, TcpRetransSegs=1)


@row("curl.unreachable", roles="client", needs=["curl"])
def curl_unreachable(t):
    """curl to an address for which a router answers 'host unreachable'"""
    curl = t.run_program(["curl", "-sS", url("x", host=UNREACHABLE)])
    t.observe_exit(curl)
    t.observe("curl", re.sub(r"after \d+ ms", "after # ms", curl.err))
    t.expect(TcpActiveOpens=1, IcmpInDestUnreachs=1)


@row("curl.no-neighbour", roles="client", needs=["curl"])
def curl_no_neighbour(t):
    """curl to an address of its own network that nobody has"""
    curl = t.run_program(["curl", "-sS", "-w", "%{time_total}", url("x", host="198.18.0.99")])
    t.observe_exit(curl)
    t.check(2 < float(curl.out) < 5, f"gave up after {curl.out} s, where Linux takes 3")
    t.expect(ArpOutRequests=3)


@row("wget.get", roles="client", needs=["wget", "nginx"])
def wget_get(t):
    """wget GETs 64 MiB (quick: 4 MiB), a missing file, and resumes"""
    size = big(t) // 16
    nginx_peer(t, size)
    wget = t.run_program(["wget", "-q", "-O", t.path("got"), url(f"{size}.bin")])
    t.observe_exit(wget)
    t.succeeded(wget)
    t.same_file(t.path("got"), t.fixtures.file(size))
    missing = t.run_program(["wget", "-nv", "-O", t.path("nothing"), url("missing")])
    t.observe_exit(missing)
    os.truncate(t.path("got"), size // 3)
    again = t.run_program(["wget", "-q", "-c", "-O", t.path("got"), url(f"{size}.bin")])
    t.observe_exit(again)
    t.same_file(t.path("got"), t.fixtures.file(size))
    t.expect(RxBytes=size + size * 2 // 3, TcpActiveOpens=3)


def nc_judge(t, nc, peer, outgoing, incoming):
    t.succeeded(nc, peer)
    t.observe_exit(nc)
    t.same_file(nc.out_path, incoming)
    t.same_file(peer.out_path, outgoing)
    # Not TxBytes: what nc leaves in the send buffer goes out after its end, when the counters have been printed.
    t.expect(BytesFromUser=os.path.getsize(outgoing), RxBytes=os.path.getsize(incoming))


def nc_connect(t, up, down, order):
    outgoing, incoming = t.fixtures.file(up), t.fixtures.file(down, variant=77)
    peer = t.peer([PYTHON, script("exchange.py"), "listen", PEER, "7000", incoming, order], listens=7000)
    nc = t.run_program(["nc", "-n", "-N", PEER, "7000"], stdin=outgoing)
    nc_judge(t, nc, peer, outgoing, incoming)
    t.expect(TcpActiveOpens=1)


@row("nc.connect-sends-more", roles="client", needs=["nc"])
def nc_connect_sends_more(t):
    """nc connects and sends 16 MiB, most of it after the peer's half-close"""
    nc_connect(t, 16 << 20, 1 << 20, "first")


@row("nc.connect-receives-more", roles="client", needs=["nc"])
def nc_connect_receives_more(t):
    """nc connects, sends 1 kB, half-closes, and then receives 16 MiB"""
    nc_connect(t, 1000, 16 << 20, "last")


def nc_listen(t, up, down):
    # An nc that listens leaves when its peer half-closes: here the peer does so last.
    outgoing, incoming = t.fixtures.file(up), t.fixtures.file(down, variant=77)
    nc = t.program(["nc", "-n", "-v", "-N", "-l", "7000"], stdin=outgoing, ready="Listening on")
    peer = t.run_peer([PYTHON, script("exchange.py"), "connect", HOST, "7000", incoming, "last"])
    nc_judge(t, nc, peer, outgoing, incoming)
    t.observe("nc", re.sub(r"\d+$", "#", nc.err.strip()))
    t.expect(TcpPassiveOpens=1)


@row("nc.listen-sends-more", roles="server", needs=["nc"])
def nc_listen_sends_more(t):
    """nc -l sends 16 MiB, half-closes, and then receives 1 MiB"""
    nc_listen(t, 16 << 20, 1 << 20)


@row("nc.listen-receives-more", roles="server", needs=["nc"])
def nc_listen_receives_more(t):
    """nc -l sends 1 kB, half-closes, and then receives 16 MiB"""
    nc_listen(t, 1000, 16 << 20)


@row("nc.udp", roles="client", needs=["nc"])
def nc_udp(t):
    """nc -u sends a datagram and gets one back"""
    peer = t.peer([PYTHON, script("udp_echo.py"), PEER, "7000", "1"], ready="ready")
    with open(t.path("message"), "w") as file:
        file.write("a datagram\n")
    nc = t.run_program(["nc", "-n", "-u", "-W", "1", "-w", "3", PEER, "7000"], stdin=t.path("message"))
    t.observe_exit(nc)
    t.observe("nc", nc.out)
    t.check(nc.out == "a datagram\n", f"nc printed {nc.out!r}")
    t.succeeded(peer)
    t.expect(UdpOutDatagrams=1, UdpInDatagrams=1)
