# Owns: `make bench-lecture`: the classic optimisations of a network stack, switched on and off one at a time, and what each
# does to packets, copies, cost, throughput and latency. Under the library only; the peer is the kernel. Results go to
# docs/lecture.tsv and, where matplotlib is there, docs/lecture.png.

import argparse
import os
import re
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(1, os.path.join(TOP, "scripts", "matrix"))

from compile import compile_programs  # noqa: E402
from network import DEVICE, PEER  # noqa: E402
from sides import STACK, Side, busy_seconds, figures, in_isolation, say  # noqa: E402

# What is changed, the settings, the device's MTU.
STEPS = [
    ("all on (default)", {}, 1500),
    ("no super-frames over 64 KB (BIG TCP)", {"ANP_OFFLOAD": "-big-tcp"}, 1500),
    ("no zero-copy on send", {"ANP_OFFLOAD": "-zero-copy"}, 1500),
    ("no scatter-gather (frames put together first)", {"ANP_OFFLOAD": "-sg"}, 1500),
    ("no TSO", {"ANP_OFFLOAD": "-tso"}, 1500),
    ("no GRO", {"ANP_OFFLOAD": "-gro"}, 1500),
    ("no checksum offload (nor TSO, GRO)", {"ANP_OFFLOAD": "-csum"}, 1500),
    ("no offload", {"ANP_OFFLOAD": "-all"}, 1500),
    ("no offload, jumbo frames (MTU 9000)", {"ANP_OFFLOAD": "-all"}, 9000),
    ("no busy polling (receive thread does all)", {"ANP_BUSY_POLL": "off"}, 1500),
    ("polling by the waiting thread, no spinning", {"ANP_BUSY_POLL": "0"}, 1500),
    ("interrupt coalescing, 50 us", {"ANP_COALESCE": "rx-usecs:50"}, 1500),
    ("no offload, NAPI budget 64", {"ANP_OFFLOAD": "-all", "ANP_BUSY_POLL": "off"}, 1500),
    ("no offload, NAPI budget 1", {"ANP_OFFLOAD": "-all", "ANP_BUSY_POLL": "off", "ANP_BUDGET": "1"}, 1500),
    ("receive ring of 2 frames, no offload", {"ANP_OFFLOAD": "-all", "ANP_RING": "rx:2"}, 1500),
]

COLUMNS = [
    ("send", "send Gbit/s"),
    ("send_cpu", "send CPU s/GB"),
    ("send_packets", "send frames/MB"),
    ("send_packet_cost", "send us/frame"),
    ("send_copied", "send copied %"),
    ("receive", "receive Gbit/s"),
    ("receive_cpu", "receive CPU s/GB"),
    ("receive_packets", "receive frames/MB"),
    ("receive_packet_cost", "receive us/frame"),
    ("polls", "frames/poll"),
    ("latency", "round trip us"),
]


def counters(path):
    with open(path) as file:
        text = file.read()
    os.unlink(path)
    return {name: int(value) for name, value in re.findall(r"^([A-Za-z]+) (\d+)$", text, re.MULTILINE)}


class Lecture:
    def __init__(self, side, peer, scratch, seconds):
        self.side, self.peer, self.scratch, self.seconds = side, peer, scratch, seconds

    def run(self, mode, port, amount, settings, cpu=None):
        path = os.path.join(self.scratch, "statistics")
        before = busy_seconds()
        command = [self.peer, mode, PEER, str(port), str(amount)]
        out = self.side.program(command, cpu=cpu, environment={**settings, "ANP_STATS": path}).finish()
        return figures(out), counters(path), busy_seconds() - before

    def measure(self, settings):
        result = {}
        figure, count, cpu = self.run("send", 7001, self.seconds, settings)
        total = count["BytesFromUser"]
        result["send"] = figure["bytes"] * 8 / figure["seconds"] / 1e9
        result["send_cpu"] = cpu / (total / 1e9)
        result["send_packets"] = count["TxFrames"] / (total / 1e6)
        result["send_packet_cost"] = 1e6 * cpu / count["TxFrames"]
        result["send_copied"] = 100 * (count["CopyBytesFromUser"] + count.get("DeviceCopyBytes", 0)) / total
        figure, count, cpu = self.run("receive", 7002, self.seconds, settings)
        total = count["CopyBytesToUser"]
        result["receive"] = figure["bytes"] * 8 / figure["seconds"] / 1e9
        result["receive_cpu"] = cpu / (total / 1e9)
        result["receive_packets"] = count["RxFrames"] / (total / 1e6)
        result["receive_packet_cost"] = 1e6 * cpu / count["RxFrames"]
        result["polls"] = count["RxFrames"] / max(1, count["RxPolls"])
        figure, _, _ = self.run("pingpong", 7003, 10_000, settings)
        result["latency"] = figure["median"] * 1e6
        return result


def text(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def plot(rows, path):
    try:
        import matplotlib
    except ImportError:
        say("bench-lecture: no plot, python3-matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name, _ in rows]
    panels = [("send", "receive", "Gbit/s"), ("send_cpu", "receive_cpu", "CPU seconds per GB"), ("latency", None, "round trip, us")]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(15, 0.42 * len(names) + 1.4), sharey=True)
    at = range(len(names))
    for axis, (first, second, label) in zip(axes, panels):
        height = 0.8 if second is None else 0.4
        axis.barh([y - (0 if second is None else 0.2) for y in at], [r[first] for _, r in rows], height, label="send")
        if second:
            axis.barh([y + 0.2 for y in at], [r[second] for _, r in rows], height, label="receive")
            axis.legend(loc="lower right", fontsize=8)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(list(at), names, fontsize=9)
    axes[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    say(f"bench-lecture: {path}")


def run(options, scratch):
    programs = compile_programs(scratch)
    side = Side(STACK, os.path.realpath(options.library))
    servers = [side.peer([programs["bench_peer"], mode, PEER, str(port)]) for mode, port in (("sink", 7001), ("source", 7002), ("echo", 7003))]
    rows = []
    try:
        for server in servers:
            server.until("ready")
        lecture = Lecture(side, programs["bench_peer"], scratch, options.seconds)
        seen = {name: [] for name, _, _ in STEPS}
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            for name, settings, mtu in STEPS:
                side.programs[1].ip(f"link set {DEVICE} mtu {mtu}")
                seen[name].append(lecture.measure(settings))
        for name, results in seen.items():
            rows.append((name, {key: statistics.median(r[key] for r in results) for key, _ in COLUMNS}))
    finally:
        for server in servers:
            server.kill()
    lines = ["\t".join(["what is changed", *(title for _, title in COLUMNS)])]
    lines += ["\t".join([name, *(text(row[key]) for key, _ in COLUMNS)]) for name, row in rows]
    with open(os.path.join(options.output, "lecture.tsv"), "w") as file:
        file.write("\n".join(lines) + "\n")
    width = max(len(name) for name, _ in rows)
    print(f"{'':<{width}}" + "".join(f"{title.split()[0]:>9}" for _, title in COLUMNS))
    print(f"{'':<{width}}" + "".join(f"{' '.join(title.split()[1:]):>9}"[:9] for _, title in COLUMNS))
    for name, row in rows:
        print(f"{name:<{width}}" + "".join(f"{text(row[key]):>9}" for key, _ in COLUMNS))
    plot(rows, os.path.join(options.output, "lecture.png"))
    return 0


def main():
    parser = argparse.ArgumentParser(
        prog="make bench-lecture", description="Switches the classic optimisations of a network stack on and off and measures each."
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each over all settings (default 5)")
    parser.add_argument("--seconds", type=float, default=0.6, help="length of one transfer (default 0.6)")
    parser.add_argument("--library", default=os.path.join(TOP, "build", "libanp.so"), help="default: build/libanp.so")
    parser.add_argument("--output", default=os.path.join(TOP, "docs"), help="folder for lecture.tsv and lecture.png (default docs)")
    options = parser.parse_args()
    return in_isolation("bench-lecture", options.library, lambda scratch: run(options, scratch))


sys.exit(main())
