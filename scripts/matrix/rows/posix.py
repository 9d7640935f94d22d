# Owns: a row for each C program of Tests/programs that talks to the puppet. Programs that need none, and those whose first
# lines say otherwise, are described by their header comment: see `settings`.

import glob
import os
import re
import subprocess
import threading

from network import HOST, HOST6, PEER, PEER6
from row import row

from .common import PROGRAMS, PYTHON

HERE = os.path.dirname(os.path.abspath(__file__))
_compiling = threading.Lock()
ACCEPTED = os.path.join(PROGRAMS, "accepted-differences.tsv")


def settings(path):
    """`// row: seconds=60 full alone devices=2` in a program's first lines; without such a line it has no row here."""
    with open(path) as file:
        head = "".join(file.readline() for _ in range(30))
    match = re.search(r"^// row:(.*)$", head, re.MULTILINE)
    if match is None:
        return None
    words = dict(word.partition("=")[::2] for word in match[1].split())
    about = re.search(r"^// ([A-Z].*)$", head, re.MULTILINE)
    return words, (about[1] if about else "")


def accepted(name):
    """(native pattern, shim pattern, reason) of the differences that program may show."""
    entries = []
    if os.path.exists(ACCEPTED):
        with open(ACCEPTED) as file:
            for line in file:
                if line.strip() and not line.startswith("#"):
                    program, native, shim, reason = line.rstrip("\n").split("\t")
                    if program == name:
                        entries.append((native, shim, reason))
    return entries


def compiled(t, source):
    """The program, compiled once in a run of the judge: never stale, and a run of all takes few seconds for it."""
    binary = os.path.join(t.fixtures.directory, os.path.basename(source)[:-2])
    with _compiling:  # the two sides run at the same time
        if os.path.exists(binary):
            return binary
        compiler = os.environ.get("CC", "cc")
        flags = ["-std=gnu17", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread", "-Wno-unused-result"]
        result = subprocess.run([compiler, *flags, "-o", binary, source], capture_output=True, text=True)
        t.check(result.returncode == 0, f"does not compile: {result.stderr[:500]}")
    return binary


def add(source, words, about):
    name = os.path.basename(source)[:-2]

    def run(t):
        binary = compiled(t, source)
        # A relative name: a unix socket's address has little room, and a results directory may lie deep.
        puppet = t.peer([PYTHON, "-B", os.path.join(HERE, "..", "puppet.py"), "puppet.sock", HOST, PEER, HOST6, PEER6], ready="ready")
        size = str((16 if t.quick else 256) << 20)
        program = t.program([binary], PUPPET="puppet.sock", HOST=HOST, PEER=PEER, HOST6=HOST6, PEER6=PEER6, TRANSFER_BYTES=size)
        try:
            program.wait()
        finally:
            # What it said so far is worth comparing even when it hangs.
            t.observe("output", program.out)
        t.observe_exit(program)
        t.observe("stderr", "\n".join(line for line in program.err.splitlines() if not line.startswith("anp")))
        t.succeeded(puppet)
        t.peer_connects = int(re.search(r"connects (\d+)", puppet.out)[1])
        # Asserted, not only compared: a native run that fails would make two equal failures a success.
        t.succeeded(program)
        t.expect(RxFrames=1, TxFrames=1)

    run.__doc__ = about
    row(
        f"posix.{name}",
        roles="puppet",
        needs=["cc"],
        seconds=int(words.get("seconds", 30)),
        quick="full" not in words,
        together="alone" not in words,
        devices=int(words.get("devices", 1)),
        accepted=accepted(name),
    )(run)


for _source in sorted(glob.glob(os.path.join(PROGRAMS, "*.c"))):
    _settings = settings(_source)
    if _settings is not None:
        add(_source, *_settings)
