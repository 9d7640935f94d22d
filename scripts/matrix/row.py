# Owns: what a row is, the list of all rows, and the files they share.

import os
import random
import shutil

ROWS = []


class Row:
    def __init__(self, name, function, roles, needs, seconds, quick, together, devices, accepted):
        self.name, self.function, self.roles, self.needs = name, function, roles, needs
        self.seconds, self.quick, self.together, self.devices = seconds, quick, together, devices
        self.accepted = [entry for entry in accepted if entry[0] != "*"]
        self.known = next((reason for native, _, reason in accepted if native == "*"), None)
        self.summary = (function.__doc__ or "").strip().splitlines()[0] if function.__doc__ else ""

    def missing(self):
        return [tool for tool in self.needs if shutil.which(tool) is None]


def row(name, *, roles, needs=(), seconds=30, quick=True, together=False, devices=1, accepted=()):
    """Makes a function a row.

    roles: what the program under test is. "client": it opens all connections, "server": it accepts all, "puppet": the
    peer is puppet.py and counts its own. They decide what the kernel's counters must show.
    seconds: the longest a side may take. quick: whether --quick includes it. together: both sides at the same time, for
    what mostly waits. devices: how many TAPs the shim's side has. accepted: see apply_accepted in main.py.
    """

    def add(function):
        ROWS.append(Row(name, function, roles.split(), needs, seconds, quick, together, devices, accepted))
        return function

    return add


class Fixtures:
    """Files that programs transfer: content from a fixed seed, made once, when first asked for."""

    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory, exist_ok=True)
        # An odd block length: no block boundary ever falls on a segment or page boundary twice running.
        self._block = random.Random(198).randbytes((1 << 20) + 4099)

    def file(self, size, variant=0):
        path = os.path.join(self.directory, f"{size}-{variant}.bin")
        if not os.path.exists(path):
            with open(path + ".part", "wb") as file:
                block = self._block[variant:] + self._block[:variant]
                left = size
                while left > 0:
                    left -= file.write(block[:left])
            os.rename(path + ".part", path)
        return path
