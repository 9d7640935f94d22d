# Owns: the command line, the loop over the rows, the table. Read docs/TESTING.md first, then row.py, trial.py, network.py.

import argparse
import concurrent.futures
import difflib
import fnmatch
import glob
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import network
from row import ROWS, Fixtures
from trial import NATIVE, SHIM, Failure, Trial

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))


def arguments():
    parser = argparse.ArgumentParser(
        prog="run-tests.sh",
        description="Runs programs on the kernel's TCP/IP and under the stack, and compares what they do.",
    )
    parser.add_argument("rows", nargs="*", metavar="row", help="names or patterns, as in 'curl.*' (default: all)")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--quick", action="store_true", help="fewer rows, smaller transfers: under 3 minutes")
    parser.add_argument(
        "--library",
        default=os.path.join(ROOT, "build", "libanp.so"),
        metavar="PATH",
        help="the library to test; several separated by ':' are preloaded in that order (default: build/libanp.so)",
    )
    parser.add_argument(
        "--sanitize", choices=["address"], help="build the library with AddressSanitizer, test that, and fail on its reports"
    )
    parser.add_argument("--native", action="store_true", help="both sides on the kernel: tests the rows themselves")
    parser.add_argument("--results", default=os.path.join(ROOT, "results", "matrix"), metavar="DIR", help="logs go here")
    parser.add_argument("--keep", action="store_true", help="keep the logs of rows that passed, too")
    parser.add_argument("--debug", metavar="AREAS", help="ANP_DEBUG for the program; the log goes to the row's directory")
    parser.add_argument(
        "--with",
        dest="settings",
        action="append",
        default=[],
        metavar="ANP_X=VALUE",
        help="a setting of the stack, as in --with ANP_OFFLOAD=-tso; may be given several times",
    )
    parser.add_argument("--verbose", action="store_true", help="show differences and reasons in full")
    options = parser.parse_args()
    for setting in options.settings:
        if not re.match("ANP_[A-Z_]+=", setting):
            parser.error(f"--with takes ANP_NAME=VALUE, not {setting}")
    return options


def chosen(options):
    if not options.rows:
        return [row for row in ROWS if row.quick or not options.quick]
    match = lambda row, pattern: fnmatch.fnmatch(row.name, pattern) or row.name.split(".")[0] == pattern
    for pattern in options.rows:
        if not any(match(row, pattern) for row in ROWS):
            sys.exit(f"run-tests.sh: no row is named '{pattern}'; --list names them")
    # A pattern names no more than --quick would run; a row's own name does.
    wanted = lambda row, pattern: match(row, pattern) and (row.quick or not options.quick or pattern == row.name)
    return [row for row in ROWS if any(wanted(row, pattern) for pattern in options.rows)]


def sanitized_library():
    """Builds the shipped form of the library with AddressSanitizer: its run-time library must come first."""
    scratch = os.path.join(ROOT, ".build-embedded-address")
    build = ["swift", "build", "-c", "release", "--traits", "Embedded", "--sanitize=address", "--product", "anp"]
    if subprocess.run([*build, "--scratch-path", scratch], cwd=ROOT).returncode != 0:
        sys.exit("run-tests.sh: the build with AddressSanitizer failed")
    library = os.path.join(scratch, "release", "libanp.so")
    with open(library, "rb") as file:
        if b"__asan_report" not in file.read():
            sys.exit(f"run-tests.sh: {library} is not instrumented")
    # Swift's toolchain brings clang, and clang the run-time library.
    clang = os.path.join(os.path.dirname(os.path.realpath(shutil.which("swift"))), "clang")
    name = f"libclang_rt.asan-{os.uname().machine}.so"
    runtime = subprocess.run([clang, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(runtime):
        sys.exit(f"run-tests.sh: {clang} does not know where its {name} is")
    return f"{runtime}:{library}"


class Outcome:
    def __init__(self):
        self.failure, self.observations, self.carried, self.seconds, self.notes = None, [], 0, 0.0, []
        self.known = None  # why the row is known to differ


def run(side, row, directory, fixtures, libraries, options):
    outcome = Outcome()
    trial = Trial(side, row, directory, fixtures, libraries, options)
    try:
        row.function(trial)
        trial.prove()
    except Failure as failure:
        outcome.failure = " ".join(str(failure).split())
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        # What a program printed was not what the row knows how to read.
        outcome.failure = f"{type(error).__name__}: {error}"
    finally:
        # Whatever else went wrong came of it.
        outcome.failure = trial.sanitizer_report() or outcome.failure
        outcome.observations, outcome.seconds = trial.observations, time.monotonic() - trial.started
        trial.close()
    outcome.carried = trial.carried
    return outcome


def lines(observations):
    return [f"{label}: {line}" for label, text in observations for line in text.splitlines() or [""]]


def apply_accepted(row, native, shim):
    """Replaces differences that are known and reasoned by what the native side shows; names what was used.

    See Tests/programs/accepted-differences.tsv: row, native pattern, shim pattern, reason.
    """
    used = []
    matcher = difflib.SequenceMatcher(None, native, shim, autojunk=False)
    result = []
    for kind, n1, n2, s1, s2 in matcher.get_opcodes():
        if kind != "replace" or n2 - n1 != s2 - s1:
            result += shim[s1:s2]
            continue
        for ours, theirs in zip(native[n1:n2], shim[s1:s2]):
            entry = next((e for e in row.accepted if re.search(e[0], ours) and re.search(e[1], theirs)), None)
            if entry is not None:
                used.append(entry)
            result.append(theirs if entry is None else ours)
    return result, used


def judge(row, options, fixtures, libraries):
    """Runs a row on both sides: (native, shim, why it failed or None)."""
    base = os.path.join(options.results, row.name)
    missing = row.missing()
    if missing:
        outcome = Outcome()
        outcome.failure = f"not installed: {', '.join(missing)}"
        return outcome, Outcome(), outcome.failure
    other = NATIVE if options.native else SHIM
    sides = [(NATIVE, os.path.join(base, "native")), (other, os.path.join(base, "again" if options.native else "shim"))]
    start = lambda side: run(side[0], row, side[1], fixtures, libraries, options)
    if row.together:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            native, shim = pool.map(start, sides)
    else:
        native = start(sides[0])
        shim = start(sides[1]) if native.failure is None else Outcome()
    if native.failure is not None:
        return native, shim, f"native: {native.failure}"
    expected, got = lines(native.observations), lines(shim.observations)
    got, used = apply_accepted(row, expected, got) if not options.native else (got, [])
    shim.notes = [f"accepted: {entry[2]}" for entry in dict.fromkeys(used)]
    difference = list(difflib.unified_diff(expected, got, "native", "shim", lineterm="", n=2))
    if difference:
        with open(os.path.join(base, "difference.txt"), "w") as file:
            file.write("\n".join(difference) + "\n")
    if shim.failure is not None:
        return native, shim, shim.failure
    if row.known and not options.native:
        # It must still end well, over the stack, and must still differ: otherwise its entry has become a lie.
        shim.known = f"known: {row.known}"
        return native, shim, None if difference else "no longer differs: remove it from accepted-differences.tsv"
    if difference:
        changed = [line for line in difference[2:] if line[0] in "+-"]
        if options.verbose:
            return native, shim, "\n    ".join(["differs:"] + difference)
        return native, shim, f"differs in {len(changed)} lines, first {changed[0]}"
    return native, shim, None


def size(count):
    for unit in ("B", "kB", "MB", "GB"):
        if count < 10_000 or unit == "GB":
            return f"{count:.0f} {unit}"
        count /= 1000


def main():
    # A shell starts what runs in the background with these ignored, and so would be every program here that is to end by them.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    options = arguments()
    import rows  # noqa: F401  (fills ROWS)

    if options.list:
        for row in ROWS:
            print(f"{row.name:<28} {'quick' if row.quick else '     '}  {row.summary}")
        return 0
    selected = chosen(options)
    if options.sanitize:
        options.library = sanitized_library()
    libraries = [os.path.realpath(path) for path in options.library.split(":")]
    if not options.native:
        for path in libraries:
            if not os.path.exists(path):
                sys.exit(f"run-tests.sh: {path} is not there: run make first, or name a library with --library")
        if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
            sys.exit("run-tests.sh: /dev/net/tun cannot be opened: run as root, or chmod 0666 /dev/net/tun")
    os.makedirs(options.results, exist_ok=True)
    scratch = os.path.join(options.results, f"scratch-{os.getpid()}")
    for left in glob.glob(os.path.join(options.results, "scratch-*")):
        # Of a run that was killed and could not clean up.
        if not os.path.exists(f"/proc/{left.rpartition('-')[2]}"):
            shutil.rmtree(left, ignore_errors=True)
    os.makedirs(scratch)
    try:
        return network.isolated(scratch, lambda: judge_all(selected, options, libraries, scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def judged(selected, options, fixtures, libraries):
    """(row, what `judge` says) in the order of the rows. Those that mostly wait are two at a time."""
    start = lambda row: judge(row, options, fixtures, libraries)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for together, group in itertools.groupby(selected, lambda row: row.together):
            rows = list(group)
            yield from zip(rows, pool.map(start, rows) if together else map(start, rows))


def difference(options, row, most=16):
    """The first lines of what differs between the sides, where that is why the row failed."""
    path = os.path.join(options.results, row.name, "difference.txt")
    if not os.path.exists(path):
        return []
    with open(path, errors="replace") as file:
        return file.read().splitlines()[:most]


def judge_all(selected, options, libraries, scratch):
    fixtures = Fixtures(scratch)
    width = max(len(row.name) for row in selected)
    print(f"{'row':<{width}}  {'native':<7} {'shim':<7} {'carried':>9} {'seconds':>13}")
    passed, failures, started = 0, [], time.monotonic()
    for row, (native, shim, reason) in judged(selected, options, fixtures, libraries):
        word = lambda outcome, blamed: (
            "FAIL" if blamed else "-" if not outcome.seconds else "known" if outcome.known else "ok"
        )
        comment = reason or shim.known
        of_native = native.failure is not None
        print(
            f"{row.name:<{width}}  {word(native, of_native):<7} {word(shim, reason and not of_native):<7} "
            f"{size(shim.carried):>9} {native.seconds:>6.1f}{shim.seconds:>7.1f}" + (f"  {comment}" if comment else ""),
            flush=True,
        )
        for note in shim.notes if options.verbose else []:
            print(f"    {note}")
        if reason is None:
            passed += 1
            if not options.keep:
                shutil.rmtree(os.path.join(options.results, row.name), ignore_errors=True)
        else:
            failures.append(row)
            for line in difference(options, row):
                print(f"    FAIL {row.name}: {line}", flush=True)
    if failures:
        print(f"\nlogs of failed rows: {options.results}/{{{','.join(row.name for row in failures)}}}")
    print(f"\n{time.monotonic() - started:.0f} s")
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures else 0


sys.exit(main())
