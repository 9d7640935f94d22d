"""Asks for names whose answers names_server.py has damaged, COUNT of them. What comes of each is nobody's business, but that
something does: an answer or an error, within its time.

python3 names_mutated.py COUNT
"""

import concurrent.futures
import socket
import sys

outcomes = {"answers": 0, "errors": 0}


def ask(seed):
    name = f"mutated{seed}.odd.test"
    for question in (
        lambda: socket.getaddrinfo(name, 80, proto=socket.IPPROTO_TCP, flags=socket.AI_CANONNAME),
        lambda: socket.gethostbyname_ex(name),
        lambda: socket.gethostbyaddr(f"198.18.8.{seed % 256}"),
    ):
        try:
            question()
            outcomes["answers"] += 1
        except (OSError, UnicodeError):
            outcomes["errors"] += 1


with concurrent.futures.ThreadPoolExecutor(16) as pool:
    for _ in pool.map(ask, range(int(sys.argv[1]))):
        pass
print(f"{outcomes['answers'] + outcomes['errors']} questions came to an end")
print(f"{outcomes['answers']} answers, {outcomes['errors']} errors", file=sys.stderr)
