# Owns: `make profile`: where the time of send, receive and round trips goes: a list, and a flame graph to click on.
# Sampling is perf's, of the process alone: what the kernel does on its behalf is in it, what other processes do is not.

import argparse
import collections
import html
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(1, os.path.join(TOP, "scripts", "matrix"))

from compile import compile_programs  # noqa: E402
from network import PEER  # noqa: E402
from sides import STACK, Side, in_isolation, say  # noqa: E402

# What is profiled: the client's mode, the server's, the amount per second of profile.
MODES = {"send": ("sink", 1), "receive": ("source", 1), "pingpong": ("echo", 40_000)}
WIDTH, ROW = 1400, 17


def stacks(path):
    """{(outermost, …, innermost): samples} of a perf record."""
    text = subprocess.run(["perf", "script", "-i", path, "-F", "ip,sym"], capture_output=True, text=True, check=True).stdout
    text = subprocess.run(["swift", "demangle", "--simplified"], input=text, capture_output=True, text=True, check=True).stdout
    seen = collections.Counter()
    for block in text.split("\n\n"):
        names = [re.sub(r"^\s*[0-9a-f]+ ", "", line).strip() for line in block.splitlines() if line.strip()]
        names = [name for name in names if name != "[unknown]"]
        if names:
            seen[tuple(reversed(names))] += 1
    return seen


def table(seen, lines):
    """Who has most samples itself, and with what it calls."""
    total = sum(seen.values())
    own, whole = collections.Counter(), collections.Counter()
    for names, count in seen.items():
        own[names[-1]] += count
        for name in set(names):
            whole[name] += count
    result = [f"{'self':>7} {'total':>7}"]
    for name, count in own.most_common(lines):
        result.append(f"{100 * count / total:6.1f}% {100 * whole[name] / total:6.1f}%  {name[:110]}")
    return "\n".join(result)


def flame_graph(seen, title):
    """An SVG: each box a function, as wide as its share of the samples, above the one that called it."""
    total = sum(seen.values())
    boxes, deepest = [], max(map(len, seen))

    def lay(entries, depth, x):
        groups = collections.OrderedDict()
        for names, count in entries:
            if len(names) > depth:
                groups.setdefault(names[depth], []).append((names, count))
        for name, group in sorted(groups.items()):
            count = sum(count for _, count in group)
            width = WIDTH * count / total
            if width >= 0.4:
                boxes.append((x, depth, width, name, count))
                lay(group, depth + 1, x)
            x += width

    lay(list(seen.items()), 0, 0)
    height = (deepest + 2) * ROW
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">',
        f'<text x="4" y="13">{html.escape(title)}: {total} samples; point at a box for its share</text>',
    ]
    for x, depth, width, name, count in boxes:
        y = height - (depth + 1) * ROW
        # The kernel's functions are not capitalised and have no dots or parentheses.
        color = "#f4a582" if re.fullmatch(r"[a-z0-9_.]+", name) else "#92c5de"
        text = html.escape(name[: int(width / 6.7)]) if width > 20 else ""
        out.append(
            f'<g><title>{html.escape(name)} {100 * count / total:.1f}%</title>'
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.3, 0.3):.1f}" height="{ROW - 1}" fill="{color}"/>'
            f'<text x="{x + 2:.1f}" y="{y + 12}">{text}</text></g>'
        )
    return "\n".join(out + ["</svg>"])


def profile(side, peer, mode, seconds, output, scratch):
    server_mode, amount = MODES[mode]
    server = side.peer([peer, server_mode, PEER, "7001"])
    record = os.path.join(scratch, mode)
    try:
        server.until("ready")
        # perf itself must not run under the library.
        program = [peer, mode, PEER, "7001", str(amount * seconds)]
        preload = ["env", f"LD_PRELOAD={side.library}"]
        side.program(["perf", "record", "-q", "-F", "2999", "-g", "-o", record, "--", *preload, *program], environment={"LD_PRELOAD": ""}).finish()
    finally:
        server.kill()
    seen = stacks(record)
    if not seen:
        raise RuntimeError(f"perf took no sample of {mode}")
    path = os.path.join(output, f"{mode}.svg")
    with open(path, "w") as file:
        file.write(flame_graph(seen, f"{mode} under {os.path.basename(side.library)}"))
    print(f"\n{mode}\n{table(seen, 25)}\nflame graph: {path}")


def run(options, scratch):
    peer = compile_programs(scratch)["bench_peer"]
    side = Side(STACK, os.path.realpath(options.library))
    os.makedirs(options.output, exist_ok=True)
    for mode in options.modes or MODES:
        say(f"{mode} …")
        profile(side, peer, mode, options.seconds, options.output, scratch)
    return 0


def main():
    parser = argparse.ArgumentParser(prog="make profile", description="Where the time goes in a program under libanp.so.")
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"what to profile: {', '.join(MODES)} (default: all)")
    parser.add_argument("--seconds", type=int, default=3, help="length of each (default 3)")
    parser.add_argument("--library", default=os.path.join(TOP, "build", "libanp.so"), help="default: build/libanp.so")
    parser.add_argument("--output", default=os.path.join(TOP, "results", "profile"), help="folder for the SVGs")
    options = parser.parse_args()
    unknown = [mode for mode in options.modes if mode not in MODES]
    if unknown:
        parser.error(f"there is no {unknown[0]}: it takes {', '.join(MODES)}")
    return in_isolation("profile", options.library, lambda scratch: run(options, scratch))


sys.exit(main())
