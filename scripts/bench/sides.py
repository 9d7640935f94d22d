# Owns: the two sides of a comparison (the same program on the kernel's TCP over a veth pair, and under the library over a TAP),
# starting programs there, and the machine's processor time. Knows no row.

import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

import network

KERNEL, STACK = "kernel", "stack"


class Program:
    """A started program whose output is read as it comes."""

    def __init__(self, command, popen):
        self.command, self.popen = command, popen
        self.out = ""

    def until(self, pattern, seconds=20):
        end = time.monotonic() + seconds
        while not re.search(pattern, self.out):
            if not select.select([self.popen.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise RuntimeError(f"{self.command[:4]} did not say '{pattern}' in {seconds} s: {self.out!r}")
            data = os.read(self.popen.stdout.fileno(), 65536)
            if not data:
                raise RuntimeError(f"{self.command[:4]} ended with {self.popen.wait()} before it said '{pattern}': {self.out!r}")
            self.out += data.decode(errors="replace")

    def finish(self, seconds=120):
        """Waits for its end; what it printed."""
        out, _ = self.popen.communicate(timeout=seconds)
        self.out += out.decode(errors="replace")
        if self.popen.returncode != 0:
            raise RuntimeError(f"{self.command} ended with {self.popen.returncode}: {self.out[-300:]}")
        return self.out

    def kill(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()


class Side:
    """Where a program under test runs (`program`) and its kernel peers (`peer`)."""

    def __init__(self, name, library):
        self.name, self.library = name, library
        self.programs = network.kernel_to_kernel() if name == KERNEL else network.stack_to_kernel()
        # Rows that open tens of thousands of connections leave as many ports in TIME-WAIT.
        for namespace in self.programs:
            namespace.sysctl("ipv4/ip_local_port_range", "1024 65535")

    def _start(self, namespace, command, environment, cpu, stdin):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("ANP_", "LD_"))}
        env.update(LC_ALL="C.UTF-8", **environment)
        if cpu is not None:
            command = ["taskset", "--cpu-list", str(cpu), *command]
        with namespace:
            popen = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
        return Program(command, popen)

    def program(self, command, cpu=None, stdin=subprocess.DEVNULL, environment={}):
        """The program under test: on this side's own TCP."""
        extra = {}
        if self.name == STACK:
            extra = {"LD_PRELOAD": self.library, **network.stack_environment(), **environment}
        return self._start(self.programs[0], command, extra, cpu, stdin)

    def peer(self, command, cpu=None, stdin=subprocess.DEVNULL):
        """Its peer: always the kernel's TCP."""
        return self._start(self.programs[1], command, {}, cpu, stdin)


def in_isolation(name, library, run):
    """The exit code of `run(scratch)`, in network and process namespaces of its own, with a folder that is gone after."""
    if not os.path.exists(library):
        say(f"{name}: no {library}: 'make' builds it")
        return 2
    scratch = tempfile.mkdtemp(prefix=f"anp-{name}.")
    try:
        return network.isolated(scratch, lambda: run(scratch))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def busy_seconds():
    """Processor time of the whole machine since it started: all but idle, waiting and stolen."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq = map(int, file.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def figures(text):
    """bench_peer's "name value" lines."""
    return {name: float(value) for name, value in re.findall(r"^([a-z0-9]+) ([-+.e0-9]+)$", text, re.MULTILINE)}


def say(text):
    print(text, file=sys.stderr, flush=True)
