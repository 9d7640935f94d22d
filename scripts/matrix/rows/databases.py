# Owns: the rows of redis, both ways.

import re

from network import HOST, PEER
from row import row

from .common import script

PORT = "6379"
READY = "Ready to accept connections"


def server_command(t, address):
    return ["redis-server", "--port", PORT, "--bind", address, "--protected-mode", "no", "--save", "", "--dir", t.directory]


def benchmark_command(t, address):
    requests = "10000" if t.quick else "50000"
    return ["redis-benchmark", "-h", address, "-p", PORT, "-n", requests, "-c", "50", "-P", "16", "--csv"] + [
        "-t", "ping,set,get,lpush,lrange_100", "-d", "100"  # fmt: skip
    ]


def observe_benchmark(t, benchmark):
    t.succeeded(benchmark)
    # The first column names the test; the others are rates.
    t.observe("tests", "\n".join(re.findall(r'^"([^"]*)"', benchmark.out, re.MULTILINE)))


def commands(t, run, address):
    """redis-cli with commands on standard input, and with a value of 1 MB."""
    plain = run(["redis-cli", "-h", address, "-p", PORT], stdin=script("redis-commands.txt"), name="cli")
    t.succeeded(plain)
    t.observe("answers", plain.out)
    value = t.fixtures.file(1_000_000)
    store = run(["redis-cli", "-h", address, "-p", PORT, "-x", "SET", "big"], stdin=value, name="store")
    fetch = run(["redis-cli", "-h", address, "-p", PORT, "--raw", "STRLEN", "big"], name="length")
    t.succeeded(store, fetch)
    t.observe("store", store.out + fetch.out)
    t.check(fetch.out.strip() == "1000000", f"the value has {fetch.out.strip()} bytes")


@row("redis.server", roles="server", needs=["redis-server", "redis-cli"])
def redis_server(t):
    """redis-server answers redis-cli"""
    server = t.program(server_command(t, HOST), ready=READY)
    commands(t, t.run_peer, HOST)
    stop = t.run_peer(["redis-cli", "-h", HOST, "-p", PORT, "SHUTDOWN", "NOSAVE"], name="shutdown")
    t.succeeded(stop, server)
    t.expect(RxBytes=1_000_000, TcpPassiveOpens=4)


@row("redis.server-benchmark", roles="server", needs=["redis-server", "redis-cli", "redis-benchmark"], seconds=60)
def redis_server_benchmark(t):
    """redis-server under redis-benchmark: 50 connections, pipelines of 16"""
    server = t.program(server_command(t, HOST), ready=READY)
    observe_benchmark(t, t.run_peer(benchmark_command(t, HOST), name="benchmark"))
    stop = t.run_peer(["redis-cli", "-h", HOST, "-p", PORT, "SHUTDOWN", "NOSAVE"], name="shutdown")
    t.succeeded(stop, server)
    t.expect(RxBytes=1_000_000, TxBytes=1_000_000, TcpPassiveOpens=250)


@row("redis.cli", roles="client", needs=["redis-server", "redis-cli"])
def redis_cli(t):
    """redis-cli asks a redis-server"""
    t.peer(server_command(t, PEER), ready=READY)
    commands(t, t.run_program, PEER)
    t.expect(TxBytes=1_000_000, TcpActiveOpens=3)


@row("redis.benchmark", roles="client", needs=["redis-server", "redis-benchmark"], seconds=60)
def redis_benchmark(t):
    """redis-benchmark: 50 connections, pipelines of 16"""
    t.peer(server_command(t, PEER), ready=READY)
    observe_benchmark(t, t.run_program(benchmark_command(t, PEER), name="benchmark"))
    t.expect(RxBytes=1_000_000, TxBytes=1_000_000, TcpActiveOpens=250)
