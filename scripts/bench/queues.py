# Owns: `make bench-queues`: two threads with a connection each, on the kernel's TCP and on the stack with one queue of the device and
# with two. Each thread has a server process of its own at the other end.

import argparse
import os
import re
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(1, os.path.join(TOP, "scripts", "matrix"))

from compile import compile_programs  # noqa: E402
from network import PEER  # noqa: E402
from sides import KERNEL, STACK, Side, in_isolation, say  # noqa: E402

THREADS = 2
WAYS = [("kernel", KERNEL, {}), ("1 queue", STACK, {"ANP_QUEUES": "1"}), ("2 queues", STACK, {"ANP_QUEUES": "2"})]


def bulk(figures):
    return sum(bytes * 8 / seconds for bytes, seconds in zip(figures["bytes"], figures["seconds"])) / 1e9


# What is measured: the server's mode, the client's, how much of it, what the figures say and in which unit.
ROWS = [
    ("send, 128 KB writes", "sink", "send", lambda o: o.seconds, bulk, "Gbit/s"),
    ("receive, 128 KB reads", "source", "receive", lambda o: o.seconds, bulk, "Gbit/s"),
    ("1-byte ping-pong", "echo", "pingpong", lambda o: 20000, lambda f: sum(1 / t for t in f["median"]) / 1e3, "k/s"),
    ("connect, read to the end, close", "closer", "connects", lambda o: o.seconds, lambda f: sum(f["rate"]) / 1e3, "k/s"),
]


def all_figures(text):
    """bench_peer's "name value" lines of all threads: {name: [value, …]}."""
    found = {}
    for name, value in re.findall(r"^([a-z0-9]+) ([-+.e0-9]+)$", text, re.MULTILINE):
        found.setdefault(name, []).append(float(value))
    return found


def measure(options, sides, peer, row):
    title, server_mode, mode, amount, meaning, unit = row
    seen = {name: [] for name, _, _ in WAYS}
    servers = [
        side.peer([peer, server_mode, PEER, str(7001 + thread)]) for side in sides.values() for thread in range(THREADS)
    ]
    try:
        for server in servers:
            server.until("ready")
        for number in range(options.rounds):
            # Whoever goes first finds the machine as the last round left it: take turns.
            turn = number % len(WAYS)
            for name, side, environment in WAYS[turn:] + WAYS[:turn]:
                command = [peer, "--threads", str(THREADS), mode, PEER, "7001", str(amount(options))]
                seen[name].append(meaning(all_figures(sides[side].program(command, environment=environment).finish())))
    finally:
        for server in servers:
            server.kill()
    ratios = sorted(b / a for a, b in zip(seen["1 queue"], seen["2 queues"]))
    medians = "".join(f"{statistics.median(seen[name]):>10.2f}" for name, _, _ in WAYS)
    print(f"{title:<33}{medians} {unit:<7}{statistics.median(ratios):>7.2f}  ({ratios[0]:.2f} - {ratios[-1]:.2f})", flush=True)


def run(options, scratch):
    peer = compile_programs(scratch)["bench_peer"]
    sides = {KERNEL: Side(KERNEL, None), STACK: Side(STACK, os.path.realpath(options.library))}
    heading = "".join(f"{name:>10}" for name, _, _ in WAYS)
    print(f"{'two threads together':<33}{heading} {'':<7}{'2 queues / 1 (min - max)':>24}")
    for row in ROWS:
        say(f"{row[0]} …")
        measure(options, sides, peer, row)
    return 0


def main():
    parser = argparse.ArgumentParser(
        prog="make bench-queues", description="Two threads on one queue of the device and on two, beside the kernel's TCP over veth."
    )
    parser.add_argument("--rounds", type=int, default=7, help="rounds per row (default 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement (default 1)")
    parser.add_argument("--library", default=os.path.join(TOP, "build", "libanp.so"), help="default: build/libanp.so")
    options = parser.parse_args()
    return in_isolation("bench-queues", options.library, lambda scratch: run(options, scratch))


sys.exit(main())
