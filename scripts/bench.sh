#!/bin/sh
# Measures the stack against the kernel's TCP over veth, side by side. See docs/PERFORMANCE.md, or --help.
here=$(cd "$(dirname "$0")" && pwd) || exit 2
exec python3 -B "$here/bench/main.py" "$@"
