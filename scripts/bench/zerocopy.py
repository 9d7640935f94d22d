# Owns: `make bench-zerocopy`: write against send with MSG_ZEROCOPY, the kernel's and the stack's, for several sizes.

import argparse
import os
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(1, os.path.join(TOP, "scripts", "matrix"))

from compile import compile_programs  # noqa: E402
from network import PEER  # noqa: E402
from sides import KERNEL, STACK, Side, busy_seconds, figures, in_isolation, say  # noqa: E402

SIZES = [4096, 16384, 65536, 262144, 1048576]
WAYS = [(side, way) for side in (KERNEL, STACK) for way in ("plain", "zerocopy")]


def measure(side, peer, seconds, size, way):
    before = busy_seconds()
    figure = figures(side.program([peer, "send", PEER, "7001", str(seconds), str(size), way]).finish())
    gigabytes = figure["total"] / 1e9
    return {
        "rate": figure["bytes"] * 8 / figure["seconds"] / 1e9,
        "process": figure["process"] / gigabytes,
        "system": (busy_seconds() - before) / gigabytes,
    }


def run(options, scratch):
    peer = compile_programs(scratch)["bench_peer"]
    sides = {KERNEL: Side(KERNEL, None), STACK: Side(STACK, os.path.realpath(options.library))}
    servers = [side.peer([peer, "sink", PEER, "7001"]) for side in sides.values()]
    seen = {(size, *way): [] for size in SIZES for way in WAYS}
    try:
        for server in servers:
            server.until("ready")
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for size, side, way in seen:
                seen[size, side, way].append(measure(sides[side], peer, options.seconds, size, way))
    finally:
        for server in servers:
            server.kill()
    median = lambda size, way, figure: statistics.median(r[figure] for r in seen[(size, *way)])
    for figure, title in (
        ("process", "the process's CPU seconds per GB"),
        ("system", "the whole machine's CPU seconds per GB"),
        ("rate", "Gbit/s"),
    ):
        print(f"\n{title}\n{'write':>9}" + "".join(f"{side + ' ' + way:>18}" for side, way in WAYS))
        for size in SIZES:
            print(f"{size >> 10:>6} KB" + "".join(f"{median(size, way, figure):>18.3f}" for way in WAYS))
    return 0


def main():
    parser = argparse.ArgumentParser(prog="make bench-zerocopy", description="MSG_ZEROCOPY against plain writes.")
    parser.add_argument("--rounds", type=int, default=7, help="rounds, each over all sizes (default 7)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one transfer (default 0.5)")
    parser.add_argument("--library", default=os.path.join(TOP, "build", "libanp.so"), help="default: build/libanp.so")
    options = parser.parse_args()
    return in_isolation("bench-zerocopy", options.library, lambda scratch: run(options, scratch))


sys.exit(main())
