# Owns: CPython's own tests of sockets, natively and under the shim with ANP_LOOPBACK=stack, test by test. Lost is a test that passes
# natively and not under the shim; exceptions.tsv names those that may be lost, with reasons. Read first: README.md's settings.

import argparse
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.realpath(os.path.join(HERE, "..", ".."))
sys.path.insert(0, os.path.join(TOP, "scripts", "matrix"))

import network  # noqa: E402

MODULES = [
    "test_socket", "test_socketserver", "test_selectors", "test_select", "test_poll", "test_epoll", "test_httplib", "test_ssl",
    "test_asyncio",
]
# These have pipes and socket pairs only: nothing to carry.
WITHOUT_NETWORK = ["test_selectors", "test_select", "test_poll"]
PYTHON = "/usr/bin/python3"
# Address families that are the kernel's alone, some of which wait for ever where the kernel's modules are missing.
NOT_OURS = ["*VSOCK*", "*CAN*", "*ISOTP*", "*J1939*", "*RDS*", "*TIPC*", "*QIPCRTR*", "*Bluetooth*"]
DEVICES = 4  # a child process that uses sockets needs a device of its own


def exceptions():
    """(pattern, reason)"""
    with open(os.path.join(HERE, "exceptions.tsv")) as file:
        lines = [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
    return [tuple(line.split("\t")) for line in lines]


def run(module, shim, library, directory, seconds):
    """{test: status} of a module; where a test hangs or crashes, the others still run."""
    namespace, _ = network.stack_to_kernel(DEVICES)
    results = os.path.join(directory, "results.jsonl")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("ANP_", "LD_", "PYTHON"))}
    environment.update(LC_ALL="C.UTF-8", TMPDIR=directory, **network.stack_environment(DEVICES))
    statistics = os.path.join(directory, "statistics")
    if shim:
        environment.update(LD_PRELOAD=library, ANP_LOOPBACK="stack", ANP_STATS=statistics)
    with open(os.path.join(directory, "output"), "w") as output:
        for _ in range(50):
            with namespace:
                command = [PYTHON, os.path.join(HERE, "runner.py"), module, results, str(seconds), *NOT_OURS]
                process = subprocess.Popen(
                    command, env=environment, cwd=directory, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            try:
                process.wait(900)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            status, complete = read(results)
            if complete:
                break
    carried = 0
    if shim and os.path.exists(statistics):
        with open(statistics) as file:
            carried = sum(map(int, re.findall(r"Bytes(?:From|To)User\s+(\d+)", file.read())))
    return status, complete, carried


def read(path):
    status, complete = {}, False
    if os.path.exists(path):
        with open(path) as file:
            for line in file:
                entry = json.loads(line)
                if entry.get("status") == "complete":
                    complete = True
                else:
                    status[entry["id"]] = entry.get("status", "hung")
    return status, complete


def compare(options, scratch):
    known, totals = exceptions(), {"kept": 0, "lost": 0, "known": 0}
    print(f"{'module':18} {'natively':>9} {'lost':>6} {'known':>6} {'carried':>12}")
    for module in options.modules or MODULES:
        directories = {}
        for side in ("native", "shim"):
            directories[side] = os.path.join(options.keep or scratch, module, side)
            shutil.rmtree(directories[side], ignore_errors=True)
            os.makedirs(directories[side])
        native, _, _ = run(module, False, options.library, directories["native"], options.seconds)
        shim, complete, carried = run(module, True, options.library, directories["shim"], options.seconds)
        passed = [test for test, status in native.items() if status == "ok"]
        missing = {test: shim.get(test, "not run") for test in passed if shim.get(test) != "ok"}
        reasons = {test: next((r for p, r in known if fnmatch.fnmatchcase(test, p)), None) for test in missing}
        lost = [test for test in missing if reasons[test] is None]
        print(f"{module:18} {len(passed):9} {len(lost):6} {len(missing) - len(lost):6} {carried:12}", flush=True)
        for test in sorted(missing):
            print(f"    {missing[test]:8} {test}{'  known: ' + reasons[test] if reasons[test] else ''}")
        if not passed or not complete:
            print(f"    {module} did not come to its end")
            totals["lost"] += 1
        if carried == 0 and module not in WITHOUT_NETWORK:
            print(f"    {module}: nothing went through the stack")
            totals["lost"] += 1
        totals["kept"] += len(passed) - len(missing)
        totals["lost"] += len(lost)
        totals["known"] += len(missing) - len(lost)
    print(f"{totals['kept']} passed, {totals['lost']} failed, {totals['known']} known")
    return 1 if totals["lost"] else 0


def main():
    parser = argparse.ArgumentParser(description="CPython's tests of sockets, natively and under the shim: which ones are lost.")
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(MODULES)} (default: all)")
    parser.add_argument("--library", default=os.path.join(TOP, "build", "libanp.so"), help="default: build/libanp.so")
    parser.add_argument("--seconds", type=float, default=60, help="the longest that a test may take (default 60)")
    parser.add_argument("--keep", metavar="DIRECTORY", help="where outputs and results stay")
    options = parser.parse_args()
    if unknown := [module for module in options.modules if module not in MODULES]:
        parser.error(f"no such module: {', '.join(unknown)}")
    if not os.path.exists(options.library):
        print(f"test-suites: no {options.library}: 'make' builds it", file=sys.stderr)
        return 2
    if options.keep:
        options.keep = os.path.abspath(options.keep)
    scratch = tempfile.mkdtemp(prefix="anp-suites.")
    try:
        return network.isolated(scratch, lambda: compare(options, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
