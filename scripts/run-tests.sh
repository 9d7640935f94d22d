#!/bin/sh
# Runs real programs twice, on the kernel's TCP/IP and on the stack, and compares. See docs/TESTING.md, or --help.
here=$(cd "$(dirname "$0")" && pwd) || exit 2
exec python3 -B "$here/matrix/main.py" "$@"
