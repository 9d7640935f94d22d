# Owns: one run of one row on one side (native or shim): starting and stopping programs, what they showed, and the proof
# that the stack carried the traffic. Read network.py first. Knows no row.

import glob
import os
import re
import shutil
import signal
import subprocess
import threading
import time

import network

NATIVE, SHIM = "native", "shim"


class Failure(Exception):
    """The row failed on this side; the text says why."""


class Process:
    """A started program. Output goes to files, so that nothing blocks on a full pipe."""

    def __init__(self, trial, name, command, popen, out, err):
        self.trial, self.name, self.command, self.popen = trial, name, command, popen
        self.out_path, self.err_path = out, err

    @property
    def pid(self):
        return self.popen.pid

    def _text(self, path):
        with open(path, errors="replace") as file:
            return file.read()

    @property
    def out(self):
        return self._text(self.out_path)

    @property
    def err(self):
        return self._text(self.err_path)

    def wait(self, seconds=None):
        """Its exit code (negative: the signal that ended it)."""
        try:
            return self.popen.wait(self.trial.remaining() if seconds is None else seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} still runs after {time.monotonic() - self.trial.started:.0f} s") from None

    def until(self, pattern, seconds=10):
        """Waits until its output holds a match."""
        end = time.monotonic() + seconds
        while not re.search(pattern, self.out + self.err):
            if self.popen.poll() is not None:
                raise Failure(f"{self.name} ended with {self.popen.returncode} before it said '{pattern}'")
            if time.monotonic() > end:
                raise Failure(f"{self.name} did not say '{pattern}' in {seconds} s")
            time.sleep(0.005)

    def stop(self, number=signal.SIGTERM, seconds=5):
        """Ends it as an operator would; its exit code."""
        if self.popen.poll() is None:
            os.kill(self.popen.pid, number)
        return self.wait(seconds)

    def kill(self):
        """It and what it started, for good."""
        try:
            os.killpg(self.popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()


class Trial:
    def __init__(self, side, row, directory, fixtures, libraries, options):
        self.side, self.row, self.directory, self.fixtures = side, row, directory, fixtures
        self.quick, self.libraries, self.debug = options.quick, libraries, options.debug
        self.settings = options.settings
        self.sanitize = options.sanitize
        self.steady = 0  # see `expect_steady`
        self.observations = []  # (label, text), compared between the sides
        self.processes = []
        self.program_sessions = set()
        self.expected = []  # (counter, at least), of the stack
        self.peer_connects = 0  # connections the peers opened, where a row knows
        self.statistics = {}
        self.leaks = set()
        self.files = {}  # see `file`
        self.started = time.monotonic()
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        networks = network.kernel_to_kernel() if side == NATIVE else network.stack_to_kernel(row.devices)
        self.program_namespace, self.peer_namespace = networks
        self._stop_watching = threading.Event()
        self._watcher = None

    # Programs

    def remaining(self):
        return max(0.1, self.started + self.row.seconds - time.monotonic())

    def path(self, name):
        return os.path.join(self.directory, name)

    def _start(self, namespace, name, command, stdin, stdout, environment):
        count = sum(1 for process in self.processes if process.name.split("#")[0] == name)
        label = name if count == 0 else f"{name}#{count + 1}"
        out, err = stdout or self.path(f"{label}.out"), self.path(f"{label}.err")
        with open(self.path("commands"), "a") as log:
            log.write(f"{label}: {' '.join(command)}\n")
        env = {k: v for k, v in os.environ.items() if not k.startswith(("ANP_", "LD_"))}
        # Proxies and locales of the machine's owner are not part of the test.
        env = {k: v for k, v in env.items() if not k.lower().endswith("_proxy")}
        env.update(LC_ALL="C.UTF-8", **environment)
        # `env` and not our own environment: exec'd by the time the program starts, it is never itself preloaded.
        with namespace, open(stdin or os.devnull, "rb") as input, open(out, "wb") as output, open(err, "wb") as errors:
            popen = subprocess.Popen(
                command,
                stdin=input,
                stdout=output,
                stderr=errors,
                env=env,
                cwd=self.directory,
                start_new_session=True,
                preexec_fn=network.with_files(self.files) if self.files else None,
            )
        process = Process(self, label, command, popen, out, err)
        self.processes.append(process)
        return process

    def peer(
        self, command, *, name=None, stdin=None, stdout=None, listens=None, ready=None, beside=False, **environment
    ):
        """Starts a peer on the kernel's stack; waits until it listens on a port or says that it is ready.

        beside: on the program's own machine, where natively the peers are on another.
        """
        namespace = self.program_namespace if beside else self.peer_namespace
        process = self._start(
            namespace, name or "peer-" + os.path.basename(command[0]), command, stdin, stdout, environment
        )
        if ready is not None:
            process.until(ready)
        end = time.monotonic() + 10
        while listens is not None and not self.peer_namespace.listening(listens):
            if process.popen.poll() is not None or time.monotonic() > end:
                raise Failure(f"{process.name} does not listen on {listens}: {process.err[-300:]}")
            time.sleep(0.005)
        return process

    def run_peer(self, command, **options):
        process = self.peer(command, **options)
        process.wait()
        return process

    def program(self, command, *, name=None, stdin=None, stdout=None, ready=None, **environment):
        """Starts the program under test: on the kernel's stack or under the shim, as the side says."""
        name = name or os.path.basename(command[0])
        if self.side == SHIM:
            index = len(self.program_sessions)
            environment = {
                "LD_PRELOAD": ":".join(self.libraries),
                **network.stack_environment(self.row.devices),
                **dict(setting.split("=", 1) for setting in self.settings),
                "ANP_STATS": self.path(f"statistics.{index}"),
                "ANP_LOG": self.path(f"anp-log.{index}"),
                # Only AddressSanitizer's run-time library reads it; see `sanitizer_report`.
                "ASAN_OPTIONS": f"detect_leaks=0:exitcode=99:log_path={self.path('asan')}",
                **({"ANP_DEBUG": self.debug} if self.debug else {}),
                **environment,
            }
        process = self._start(self.program_namespace, name, command, stdin, stdout, environment)
        self.program_sessions.add(process.pid)
        if self.side == SHIM and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, daemon=True)
            self._watcher.start()
        if ready is not None:
            process.until(ready)
        return process

    def run_program(self, command, **options):
        process = self.program(command, **options)
        process.wait()
        return process

    def file(self, path, text):
        """Programs started from now on find this in a file of /etc that exists."""
        self.files[path] = self.path(os.path.basename(path))
        with open(self.files[path], "w") as file:
            file.write(text)

    # What is seen

    def observe(self, label, value):
        """Must be the same on both sides."""
        self.observations.append((label, str(value)))

    def check(self, condition, message):
        """Must hold on each side."""
        if not condition:
            raise Failure(message)

    def observe_exit(self, process):
        self.observe(f"{process.name} exit code", process.popen.returncode)

    def succeeded(self, *processes):
        for process in processes:
            code = process.wait()
            said = (process.err or process.out).strip()[-300:]
            self.check(code == 0, f"{process.name} exited with {code}: {said}")

    def same_file(self, got, expected):
        if subprocess.run(["cmp", got, expected], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE).returncode != 0:
            self.check(False, f"{os.path.basename(got)} is not byte for byte {os.path.basename(expected)}")

    # The proof

    def expect(self, **counters):
        """The stack's counters, at least: RxBytes=…, TcpActiveOpens=…"""
        self.expected += counters.items()

    def expect_steady(self, frames):
        """Of the stack: at most one allocation for so many frames (what connections and buffers took at the start)."""
        self.steady = frames

    def _watch(self):
        """Looks again and again whether a program under the shim owns a kernel socket that has an address."""
        with self.peer_namespace:
            while not self._stop_watching.wait(0.05):
                self._look_for_leaks()

    def _look_for_leaks(self):
        sockets = self.peer_namespace.sockets()
        if not sockets:
            return
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            try:
                if os.getsid(int(entry.name)) not in self.program_sessions:
                    continue
                for descriptor in os.scandir(f"/proc/{entry.name}/fd"):
                    match = re.match(r"socket:\[(\d+)\]", os.readlink(descriptor.path))
                    if match and match[1] in sockets:
                        self.leaks.add(sockets[match[1]])
            except OSError:
                continue  # it has ended meanwhile

    def _read_statistics(self):
        for path in glob.glob(self.path("statistics.*")):
            with open(path, errors="replace") as file:
                for line in file:
                    match = re.match(r"\s*([A-Za-z0-9-]+):?\s+(\d+)\s*$", line)
                    if match:
                        self.statistics[match[1]] = self.statistics.get(match[1], 0) + int(match[2])

    def sanitizer_report(self):
        for report in glob.glob(self.path("asan.*")):
            with open(report, errors="replace") as file:
                found = re.search(r"ERROR: (.*)", file.read())
            return f"{found[1] if found else 'AddressSanitizer reports'} ({os.path.basename(report)})"
        return None

    @property
    def carried(self):
        return self.statistics.get("RxBytes", 0) + self.statistics.get("TxBytes", 0)

    def prove(self):
        """After the programs ended: that the stack, and not the kernel, carried the traffic."""
        if self.side == NATIVE:
            return
        # Counters are exact where looking at /proc/net now and then may miss a short connection.
        kernel = self.peer_namespace.counters("Tcp")
        if self.leaks:
            raise Failure("kernel sockets of the program: " + "; ".join(sorted(self.leaks)))
        if "client" in self.row.roles and "server" not in self.row.roles and kernel["ActiveOpens"] != 0:
            raise Failure(f"the kernel opened {kernel['ActiveOpens']} connections")
        if "server" in self.row.roles and "client" not in self.row.roles and kernel["PassiveOpens"] != 0:
            raise Failure(f"the kernel accepted {kernel['PassiveOpens']} connections")
        if "puppet" in self.row.roles and kernel["ActiveOpens"] != self.peer_connects:
            raise Failure(f"the kernel opened {kernel['ActiveOpens']} connections, the peer {self.peer_connects}")
        self._read_statistics()
        if not self.statistics:
            raise Failure("no statistics: the stack was never used, or ANP_STATS did not write them")
        frames = self.statistics.get("RxFrames", 0) + self.statistics.get("TxFrames", 0)
        allocations = self.statistics.get("Allocations", 0)
        # A sanitizer's allocator counts nothing.
        if self.steady and allocations > 0 and allocations > frames / self.steady:
            raise Failure(f"{allocations} allocations for {frames} frames, expected at most one in {self.steady}")
        if self.steady and allocations == 0 and not self.sanitize:
            raise Failure("no allocation was counted")
        for counter, least in self.expected:
            if self.statistics.get(counter, 0) < least:
                raise Failure(f"{counter} is {self.statistics.get(counter, 0)}, expected at least {least}")

    def close(self):
        for process in reversed(self.processes):
            process.kill()
        self._stop_watching.set()
        if self._watcher is not None:
            self._watcher.join()
        for namespace in {self.program_namespace, self.peer_namespace}:
            namespace.close()
