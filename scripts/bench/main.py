# Owns: `make bench`: rounds, ratios, the table. Rows are in rows.py, how programs are started in sides.py.

import argparse
import fnmatch
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(1, os.path.join(TOP, "scripts", "matrix"))

from compile import compile_programs  # noqa: E402
from rows import ALONE, ROWS, Options  # noqa: E402
from sides import KERNEL, STACK, Side, in_isolation, say  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh",
        description="Measures programs under libanp.so against the same programs on the kernel's TCP over a veth pair, "
        "interleaved, in network namespaces of its own. A ratio is the median over the rounds of stack / kernel in the same round.",
    )
    parser.add_argument("rows", nargs="*", help="names of rows, * and ? allowed (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds per row (default 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one measurement (default 1)")
    parser.add_argument("--library", default=os.path.join(TOP, "build", "libanp.so"), help="default: build/libanp.so")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too ('-' = stdout instead of the table)")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--strict", action="store_true", help="exit code 1 if a goal is missed")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds < 0.1:
        parser.error("--rounds must be at least 1, --seconds at least 0.1")
    return options


def spread(values):
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def compare(row, sides, rounds):
    """{figure: result} of a row, both sides in turn in each round."""
    seen = {figure: {KERNEL: [], STACK: []} for figure in row.goals}
    with row.prepare(sides[0]) as first, row.prepare(sides[1]) as second:
        measures = [(sides[0], first), (sides[1], second)]
        for _, measure in measures:
            measure()  # caches, neighbours, TCP's metrics
        for number in range(rounds):
            # Whoever goes second finds the machine as the first left it: take turns.
            for side, measure in measures if number % 2 == 0 else reversed(measures):
                for figure, value in measure().items():
                    if figure in seen:
                        seen[figure][side.name].append(value)
    results = {}
    for figure, goal in row.goals.items():
        kernel, stack = seen[figure][KERNEL], seen[figure][STACK]
        ratios = [b / a for a, b in zip(kernel, stack)]
        results[figure] = {
            "kernel": spread([v * goal.scale for v in kernel]),
            "stack": spread([v * goal.scale for v in stack]),
            "ratio": spread(ratios),
        }
    return results


def measure_alone(row, side, rounds):
    seen = {figure: [] for figure in row.goals}
    for _ in range(min(rounds, row.rounds or rounds)):
        for figure, value in row.measure(side).items():
            seen[figure].append(value)
    return {figure: {"ratio": spread(values)} for figure, values in seen.items()}


def number(value):
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def table(records):
    width = max(len(r["label"]) for r in records)
    unit = max(len(r["unit"]) for r in records)
    lines = [
        f"{'':<{width}}  {'kernel':>8} {'stack':>8} {'':<{unit}}  {'ratio':>6} {'(min - max)':>15}  {'goal':>8} {'aim':>6}",
    ]
    for r in records:
        kernel = number(r["kernel"]["median"]) if "kernel" in r else ""
        stack = number(r["stack"]["median"]) if "stack" in r else ""
        ratio = r["ratio"]
        lines.append(
            f"{r['label']:<{width}}  {kernel:>8} {stack:>8} {r['unit']:<{unit}}  {number(ratio['median']):>6} "
            f"{'(' + number(ratio['min']) + ' - ' + number(ratio['max']) + ')':>15}  {r['goal']:>8} {r['aim']:>6}  "
            + ("ok" if r["holds"] else "MISSED")
        )
    return "\n".join(lines)


def run(options, scratch):
    Options.seconds, Options.scratch = options.seconds, scratch
    chosen = lambda row: not options.rows or any(fnmatch.fnmatch(row.name, pattern) for pattern in options.rows)
    rows, singles = list(filter(chosen, ROWS)), list(filter(chosen, ALONE))
    if not rows and not singles:
        say(f"bench: no row matches {' '.join(options.rows)}; --list shows them")
        return 2
    programs = compile_programs(scratch)
    Options.peer, Options.startup, Options.empty = programs["bench_peer"], programs["startup"], programs["empty"]
    sides = [Side(KERNEL, None), Side(STACK, os.path.realpath(options.library))]
    records, failed = [], []
    for row in rows + singles:
        say(f"{row.name} …")
        try:
            results = compare(row, sides, options.rounds) if row in rows else measure_alone(row, sides[1], options.rounds)
        except (RuntimeError, subprocess.SubprocessError, OSError) as error:
            # The other rows have something to say all the same.
            say(f"bench: {row.name} failed: {error}")
            failed.append(row.name)
            continue
        for figure, result in results.items():
            goal = row.goals[figure]
            record = {"row": row.name, "figure": figure, "label": goal.label, "unit": goal.unit, **result}
            record.update(goal=goal.text, aim=goal.aim, holds=goal.holds(result["ratio"]["median"]))
            records.append(record)
    if options.json == "-":
        print(json.dumps(records, indent=2))
    elif records:
        print(table(records))
        if options.json:
            with open(options.json, "w") as file:
                json.dump(records, file, indent=2)
    missed = sum(not record["holds"] for record in records)
    say(f"{len(records) - missed} goals reached, {missed} missed" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed or missed and options.strict else 0


def main():
    options = arguments()
    if options.list:
        for row in ROWS + ALONE:
            print(f"{row.name:<12} {'; '.join(goal.label for goal in row.goals.values())}")
        return 0
    return in_isolation("bench", options.library, lambda scratch: run(options, scratch))


sys.exit(main())
