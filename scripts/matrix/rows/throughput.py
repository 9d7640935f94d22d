# Owns: the rows of iperf3, client and server.

import json

from network import HOST, HOST6, PEER, PEER6
from row import row

PORT = "5201"


def judge(t, client):
    t.observe_exit(client)
    report = json.loads(client.out)
    t.check("error" not in report, f"iperf3: {report.get('error')}")
    start, end = report["start"]["test_start"], report["end"]
    t.observe("test", {key: start[key] for key in ("protocol", "num_streams", "reverse", "blksize")})
    t.observe("streams", len(end["streams"]))
    t.succeeded(client)
    received = end["sum_received"]["bytes"]
    t.check(received > 10_000_000, f"only {received} bytes arrived")
    for stream in end["streams"]:
        t.check(stream["receiver"]["bytes"] > 0, "a stream carried nothing")
    return received, len(end["streams"])


def options(t, *more):
    return ["-p", PORT, "-J", "-t", "1" if t.quick else "5", *more]


def client(t, *more):
    server = t.peer(["iperf3", "-s", "-1", "-p", PORT, "--forceflush"], listens=int(PORT))
    received, streams = judge(t, t.run_program(["iperf3", "-c", PEER6 if "-6" in more else PEER, *options(t, *more)]))
    t.succeeded(server)
    t.expect_steady(100)
    t.expect(TcpActiveOpens=1 + streams, **{"RxBytes" if "-R" in more else "TxBytes": received})


def server(t, *more):
    program = t.program(["iperf3", "-s", "-1", "-p", PORT, "--forceflush"], ready="Server listening")
    received, streams = judge(t, t.run_peer(["iperf3", "-c", HOST6 if "-6" in more else HOST, *options(t, *more)]))
    t.succeeded(program)
    t.observe_exit(program)
    t.expect_steady(100)
    t.expect(TcpPassiveOpens=1 + streams, **{"TxBytes" if "-R" in more else "RxBytes": received})


@row("iperf3.client", roles="client", needs=["iperf3"])
def iperf3_client(t):
    """iperf3 sends"""
    client(t)


@row("iperf3.client-reverse", roles="client", needs=["iperf3"])
def iperf3_client_reverse(t):
    """iperf3 -R receives"""
    client(t, "-R")


@row("iperf3.client-parallel", roles="client", needs=["iperf3"])
def iperf3_client_parallel(t):
    """iperf3 -P 4 sends over four connections"""
    client(t, "-P", "4")


@row("iperf3.client-parallel-reverse", roles="client", needs=["iperf3"], quick=False)
def iperf3_client_parallel_reverse(t):
    """iperf3 -P 4 -R receives over four connections"""
    client(t, "-P", "4", "-R")


@row("iperf3.server", roles="server", needs=["iperf3"])
def iperf3_server(t):
    """iperf3 -s receives"""
    server(t)


@row("iperf3.server-reverse", roles="server", needs=["iperf3"])
def iperf3_server_reverse(t):
    """iperf3 -s sends to a client with -R"""
    server(t, "-R")


@row("iperf3.server-parallel", roles="server", needs=["iperf3"])
def iperf3_server_parallel(t):
    """iperf3 -s receives over four connections"""
    server(t, "-P", "4")


@row("iperf3.client-6", roles="client", needs=["iperf3"])
def iperf3_client_6(t):
    """iperf3 -6 sends over IPv6"""
    client(t, "-6")


@row("iperf3.client-6-reverse", roles="client", needs=["iperf3"])
def iperf3_client_6_reverse(t):
    """iperf3 -6 -R receives over IPv6"""
    client(t, "-6", "-R")


@row("iperf3.server-6", roles="server", needs=["iperf3"])
def iperf3_server_6(t):
    """iperf3 -s receives over IPv6 on its dual-stack socket"""
    server(t, "-6")
