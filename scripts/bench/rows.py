# Owns: the rows: what is measured, and what each figure shall reach. A row is a function of a Side that prepares its servers
# and returns a function measuring once: {figure: value}. Knows nothing of rounds and tables.

import os
import re
import statistics
import subprocess
import time
from contextlib import contextmanager

from network import HOST, PEER, PEER6
from sides import busy_seconds, figures


class Goal:
    """What the ratio of a figure (stack / kernel) shall be: at least or at most."""

    def __init__(self, label, least=None, most=None, aim=None, unit="", scale=1.0):
        self.label, self.least, self.most, self.aim, self.unit, self.scale = label, least, most, aim, unit, scale

    def holds(self, ratio):
        return ratio >= self.least if self.least is not None else ratio <= self.most

    @property
    def text(self):
        return f">= {self.least}" if self.least is not None else f"<= {self.most}"


class Row:
    def __init__(self, name, prepare, goals):
        self.name, self.prepare, self.goals = name, prepare, goals


ROWS = []


def row(name, **goals):
    def add(prepare):
        ROWS.append(Row(name, contextmanager(prepare), goals))
        return prepare

    return add


class Options:
    """What the rows share: where things lie, how long a measurement takes."""

    peer = None  # the bench_peer binary
    scratch = None
    seconds = 1.0


def bench(mode, address, port, *rest):
    return [Options.peer, mode, address, str(port), *map(str, rest)]


@contextmanager
def running(program, ready="ready"):
    try:
        program.until(ready)
        yield program
    finally:
        program.kill()


# --- bulk


def _bulk(side, mode, server, peer=PEER):
    with running(side.peer(bench(server, peer, 7001))):

        def measure():
            before = busy_seconds()
            result = figures(side.program(bench(mode, peer, 7001, Options.seconds)).finish())
            # The warm-up is a tenth of the time and is counted in the processor time: scale the bytes to it.
            whole = result["bytes"] / 0.9
            return {
                "rate": result["bytes"] * 8 / result["seconds"],
                "cpu": (busy_seconds() - before) / (whole / 1e9),
            }

        yield measure


@row(
    "send",
    rate=Goal("bulk send, 128 KB writes", least=1.15, aim=1.4, unit="Gbit/s", scale=1e-9),
    cpu=Goal("CPU per GB sent", most=0.85, aim=0.65, unit="s/GB"),
)
def bulk_send(side):
    yield from _bulk(side, "send", "sink")


@row(
    "receive",
    rate=Goal("bulk receive, 128 KB reads", least=1.0, aim=1.2, unit="Gbit/s", scale=1e-9),
    cpu=Goal("CPU per GB received", most=1.0, aim=0.9, unit="s/GB"),
)
def bulk_receive(side):
    yield from _bulk(side, "receive", "source")


# --- latency


def _pingpong(side, client_cpu, server_cpu, peer=PEER):
    with running(side.peer(bench("echo", peer, 7002), cpu=server_cpu)):
        yield lambda: figures(side.program(bench("pingpong", peer, 7002, 20000), cpu=client_cpu).finish())


@row("pingpong-1", median=Goal("1-byte ping-pong, one core: median", most=0.85, aim=0.75, unit="us", scale=1e6))
def pingpong_one_core(side):
    yield from _pingpong(side, 0, 0)


@row(
    "pingpong-2",
    median=Goal("1-byte ping-pong, two cores: median", most=0.95, aim=0.6, unit="us", scale=1e6),
    p99=Goal("1-byte ping-pong, two cores: p99", most=1.0, aim=0.6, unit="us", scale=1e6),
)
def pingpong_two_cores(side):
    yield from _pingpong(side, 0, 1)


# --- datagrams


@row("udp-pingpong", median=Goal("UDP request and response, two cores: median", most=1.0, aim=0.6, unit="us", scale=1e6))
def datagram_pingpong(side):
    with running(side.peer(bench("udp-echo", PEER, 7010), cpu=1)):
        yield lambda: figures(side.program(bench("udp-pingpong", PEER, 7010, 20000, 1), cpu=0).finish())


def _datagrams(side, sender, receiver, host, at_once):
    """Bytes that arrive while the sender sends as fast as it can."""
    with running(receiver(bench("udp-sink", host, 7011))):

        def measure():
            result = figures(sender(bench("udp-send", host, 7011, Options.seconds, at_once)).finish())
            return {"rate": result["bytes"] * 8 / result["seconds"]}

        yield measure


@row("udp-send", rate=Goal("UDP stream, 1400-byte datagrams sent", least=1.0, aim=1.0, unit="Gbit/s", scale=1e-9))
def datagrams_sent(side):
    yield from _datagrams(side, side.program, side.peer, PEER, 1400)


@row("udp-receive", rate=Goal("UDP stream, 1400-byte datagrams received", least=1.0, aim=1.0, unit="Gbit/s", scale=1e-9))
def datagrams_received(side):
    yield from _datagrams(side, side.peer, side.program, HOST, 1400)


@row("udp-segments", rate=Goal("UDP stream, 64 KB at once (UDP_SEGMENT) sent", least=1.0, aim=1.0, unit="Gbit/s", scale=1e-9))
def segments_sent(side):
    yield from _datagrams(side, side.program, side.peer, PEER, 46 * 1400)


@row(
    "udp-segments-receive",
    rate=Goal("UDP stream, 64 KB at once received (UDP_GRO)", least=1.0, aim=1.0, unit="Gbit/s", scale=1e-9),
)
def segments_received(side):
    yield from _datagrams(side, side.peer, side.program, HOST, 46 * 1400)


# --- connections


@row("connects", rate=Goal("connect, read to the end, close", least=1.1, aim=1.5, unit="k/s", scale=1e-3))
def connects(side):
    yield from _connects(side, PEER)


def _connects(side, peer):
    with running(side.peer(bench("closer", peer, 7003))):
        yield lambda: figures(side.program(bench("connects", peer, 7003, Options.seconds)).finish())


# --- the same over IPv6


@row(
    "send-6",
    rate=Goal("IPv6: bulk send, 128 KB writes", least=1.15, aim=1.4, unit="Gbit/s", scale=1e-9),
    cpu=Goal("IPv6: CPU per GB sent", most=0.85, aim=0.65, unit="s/GB"),
)
def bulk_send_6(side):
    yield from _bulk(side, "send", "sink", PEER6)


@row(
    "receive-6",
    rate=Goal("IPv6: bulk receive, 128 KB reads", least=1.0, aim=1.2, unit="Gbit/s", scale=1e-9),
    cpu=Goal("IPv6: CPU per GB received", most=1.0, aim=0.9, unit="s/GB"),
)
def bulk_receive_6(side):
    yield from _bulk(side, "receive", "source", PEER6)


@row("pingpong-1-6", median=Goal("IPv6: ping-pong, one core: median", most=0.85, aim=0.75, unit="us", scale=1e6))
def pingpong_one_core_6(side):
    yield from _pingpong(side, 0, 0, PEER6)


@row(
    "pingpong-2-6",
    median=Goal("IPv6: ping-pong, two cores: median", most=0.95, aim=0.6, unit="us", scale=1e6),
    p99=Goal("IPv6: ping-pong, two cores: p99", most=1.0, aim=0.6, unit="us", scale=1e6),
)
def pingpong_two_cores_6(side):
    yield from _pingpong(side, 0, 1, PEER6)


@row("connects-6", rate=Goal("IPv6: connect, read to the end, close", least=1.1, aim=1.5, unit="k/s", scale=1e-3))
def connects_6(side):
    yield from _connects(side, PEER6)


# --- real servers


@contextmanager
def redis(side):
    command = ["redis-server", "--port", "6379", "--bind", HOST, "--protected-mode", "no", "--save", "", "--dir", Options.scratch]
    with running(side.program(command), ready="Ready to accept connections"):
        yield


def _redis(side, pipeline, requests):
    def measure():
        command = ["redis-benchmark", "-h", HOST, "-c", "50", "-P", str(pipeline), "-n", str(requests), "-t", "set,get", "--csv"]
        rates = dict(re.findall(r'^"([A-Z]+)","([0-9.]+)"', side.peer(command).finish(), re.MULTILINE))
        return {name.lower(): float(rate) for name, rate in rates.items()}

    with redis(side):
        yield measure


def _redis_goals(pipeline):
    return {
        name: Goal(f"redis {name.upper()}, 50 clients, P={pipeline}", least=1.0, aim=1.3, unit="k/s", scale=1e-3)
        for name in ("get", "set")
    }


@row("redis-1", **_redis_goals(1))
def redis_plain(side):
    yield from _redis(side, 1, 60_000)


@row("redis-16", **_redis_goals(16))
def redis_pipelined(side):
    yield from _redis(side, 16, 400_000)


NGINX = """
daemon off; master_process off; pid {scratch}/nginx-{name}.pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000;
  client_body_temp_path {scratch}/t1; proxy_temp_path {scratch}/t2; fastcgi_temp_path {scratch}/t3;
  uwsgi_temp_path {scratch}/t4; scgi_temp_path {scratch}/t5;
  server {{ listen {host}:8080; root {scratch}/www; }}
}}
"""


def _wrk(side, file, size):
    www = os.path.join(Options.scratch, "www")
    os.makedirs(www, exist_ok=True)
    with open(os.path.join(www, file), "wb") as out:
        out.write(os.urandom(size))
    for directory in (Options.scratch, www):
        os.chmod(directory, 0o755)
    configuration = os.path.join(Options.scratch, f"nginx-{side.name}.conf")
    with open(configuration, "w") as out:
        out.write(NGINX.format(scratch=Options.scratch, name=side.name, host=HOST))
    url = f"http://{HOST}:8080/{file}"
    nginx = side.program(["nginx", "-c", configuration])
    try:
        probe = ["curl", "-sS", "-o", os.devnull, "--retry", "50", "--retry-connrefused", "--retry-all-errors", "--retry-delay", "0"]
        side.peer([*probe, "--retry-max-time", "10", "--connect-timeout", "2", url]).finish()

        def measure():
            out = side.peer(["wrk", "-t", "1", "-c", "64", "-d", f"{max(1, round(Options.seconds))}s", url]).finish()
            if re.search("Non-2xx|Socket errors", out):
                raise RuntimeError(f"wrk: {out}")
            return {"rate": float(re.search(r"Requests/sec:\s+([0-9.]+)", out).group(1))}

        yield measure
    finally:
        nginx.kill()


@row("wrk-1k", rate=Goal("wrk -c 64 on nginx, 1 KB file", least=1.0, aim=1.2, unit="k/s", scale=1e-3))
def wrk_small(side):
    yield from _wrk(side, "small", 1024)


@row("wrk-1m", rate=Goal("wrk -c 64 on nginx, 1 MB file", least=1.0, aim=1.2, unit="k/s", scale=1e-3))
def wrk_large(side):
    yield from _wrk(side, "large", 1 << 20)


# --- rows that compare the stack with itself, or the library with an empty one: `alone` rows, measured on one side


class Alone:
    """A figure that is no ratio to the kernel: measured in its own way, {figure: value} each round."""

    def __init__(self, name, measure, goals, rounds=None):
        self.name, self.measure, self.goals, self.rounds = name, measure, goals, rounds


ALONE = []


def alone(name, rounds=None, **goals):
    def add(measure):
        ALONE.append(Alone(name, measure, goals, rounds))
        return measure

    return add


def _private(pid, mapping=None):
    """Private memory of a process, KB: of the mappings whose name holds `mapping`, or of all."""
    total, counts = 0, False
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                counts = mapping is None or mapping in line
            elif counts and line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1])
    return total


@alone(
    "idle",
    rounds=2,
    ratio=Goal("busy connection beside 10,000 idle ones in its epoll set, against none", least=0.95, aim=1.0),
    memory=Goal("memory of an idle connection", most=4.0, aim=1.0, unit="KB"),
)
def idle_connections(side):
    count = 10_000
    with running(side.program(bench("epoll-echo", HOST, 7004))) as server:

        def rate():
            return 1 / figures(side.peer(bench("pingpong", HOST, 7004, 20000)).finish())["median"]

        rate()
        alone_rate = rate()
        before = _private(server.popen.pid)
        idle = side.peer(bench("idle", HOST, 7004, count), stdin=subprocess.PIPE)
        try:
            idle.until("ready", seconds=60)
            time.sleep(0.5)
            after = _private(server.popen.pid)
            beside = rate()
        finally:
            idle.kill()
    return {"ratio": beside / alone_rate, "memory": (after - before) / count}


@alone("closes", rounds=1, ratio=Goal("connect and close first, 60 s: last tenth against first", least=0.9, aim=1.0))
def closes(side):
    with running(side.peer(bench("drain", PEER, 7005))):
        result = figures(side.program(bench("closes", PEER, 7005, 60)).finish(200))
    return {"ratio": result["last"] / result["first"]}


@alone("start-up", rounds=1, ratio=Goal("start-up of /bin/true against an empty library", most=1.1, aim=1.0))
def start_up(side):
    out = subprocess.run(
        [Options.startup, Options.empty, side.library, "400", "/bin/true"], capture_output=True, text=True, check=True
    ).stdout
    return {"ratio": float(re.search(r"ratio ([0-9.]+)", out).group(1))}


@alone("footprint", rounds=1, memory=Goal("private memory in a program without sockets", most=300, aim=150, unit="KB"))
def footprint(side):
    """Most of it are file pages that the kernel maps around those that are touched (fault-around, in windows of 64 KB): where
    the library happens to lie in memory decides how many. So it is the median of many starts."""

    def private(library):
        process = subprocess.Popen(["sleep", "10"], env={"LD_PRELOAD": library})
        try:
            time.sleep(0.1)
            return _private(process.pid)
        finally:
            process.kill()
            process.wait()

    return {"memory": statistics.median(private(side.library) - private(Options.empty) for _ in range(25))}
