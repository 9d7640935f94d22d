# Owns: building the small C programs that the benchmarks use. Knows no row.

import os
import subprocess

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def compile_programs(scratch):
    """{name: path} of bench_peer, startup and an empty library."""

    def cc(target, *words):
        path = os.path.join(scratch, target)
        subprocess.run(["cc", "-O2", "-o", path, *words], check=True)
        return path

    return {
        "bench_peer": cc("bench_peer", "-pthread", os.path.join(TOP, "Tests", "bench", "bench_peer.c")),
        "startup": cc("startup", os.path.join(TOP, "Tests", "programs", "startup.c")),
        "empty": cc("empty.so", "-shared", "-fPIC", "-x", "c", os.devnull),
    }
