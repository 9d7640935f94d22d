#!/usr/bin/env python3
"""Checks the layering rules of docs/ARCHITECTURE.md:

  1. A module imports only what stands below it.
  2. Inside Sources/Netstack a folder names only types and functions declared in folders that stand before it.
  3. Wire and Netstack are sans-I/O: they import no C library.

usage: check-layers.py [ROOT]         check the sources under ROOT (default: this project)
       check-layers.py --self-test    plant one violation of each kind in a copy; all must be found

Works on the text: comments and string literals are blanked, then declarations at the top level of a file and words
that name them are compared. A name that two folders declare counts as declared in the first of them.
"""

import pathlib
import re
import shutil
import sys
import tempfile

# What each module under Sources may import, besides itself.
ALLOWED_IMPORTS = {
    "Wire": set(),
    "Netstack": {"Wire", "Synchronization"},
    "Host": {"Wire", "Netstack", "CSupport", "Synchronization"},
    "Preload": {"Wire", "Netstack", "Host", "CSupport", "Synchronization"},
    "Simulation": {"Wire", "Netstack", "Glibc"},  # memory only: a run is a pure function of its seed
    "anp-simulate": {"Netstack", "Simulation", "Glibc"},
    "anp": {"CLauncher", "ArgumentParser", "Glibc"},
}
NETSTACK_FOLDERS = ["Base", "Buffer", "Link", "IP", "UDP", "TCP", "Socket", "Stack"]
# The C targets include each other's headers the same way.
ALLOWED_INCLUDES = {
    "Support": set(),
    "Names": {"Support"},
    "Interpose": {"Support", "Names"},
    "Launcher": {"Support"},
}

IMPORT = re.compile(r"^\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:\w+\s+)?import\s+(?:(?:struct|class|enum|func|var|let|typealias|protocol)\s+)?(\w+)", re.M)
DECLARATION = re.compile(
    r"^(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|final|indirect|borrowing|consuming|nonisolated)\s+)*"
    r"(?:struct|class|enum|actor|protocol|typealias|func)\s+(\w+)",
    re.M,
)
NESTED = re.compile(r"\b(?:struct|class|enum|actor|protocol|typealias|associatedtype)\s+(\w+)")
WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


def blank_text(source):
    """Replaces comments and the contents of string literals by spaces, keeping lines where they are."""
    out = []
    at, depth = 0, 0
    while at < len(source):
        two = source[at : at + 2]
        if depth or two == "/*":
            if two == "/*":
                depth, step = depth + 1, 2
            elif two == "*/":
                depth, step = depth - 1, 2
            else:
                step = 1
            out.append("".join(c if c == "\n" else " " for c in source[at : at + step]))
            at += step
        elif two == "//":
            end = source.find("\n", at)
            end = len(source) if end < 0 else end
            out.append(" " * (end - at))
            at = end
        elif source[at] == '"':
            quote = '"""' if source.startswith('"""', at) else '"'
            end = at + len(quote)
            while end < len(source) and not source.startswith(quote, end):
                end += 2 if source[end] == "\\" else 1
            end = min(end + len(quote), len(source))
            out.append("".join(c if c == "\n" else " " for c in source[at:end]))
            at = end
        else:
            out.append(source[at])
            at += 1
    return "".join(out)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def swift_files(folder):
    return sorted(folder.rglob("*.swift"))


def check_imports(root, found):
    for module in sorted(path for path in (root / "Sources").iterdir() if path.is_dir()):
        if module.name not in ALLOWED_IMPORTS:
            found.append(f"Sources/{module.name}: unknown module: say in scripts/check-layers.py what it may import")
            continue
        for path in swift_files(module):
            text = blank_text(path.read_text())
            for match in IMPORT.finditer(text):
                name = match.group(1)
                if name not in ALLOWED_IMPORTS[module.name]:
                    found.append(f"{path.relative_to(root)}:{line_of(text, match.start(1))}: {module.name} must not import {name}")


def check_includes(root, found):
    folders = sorted(path for path in (root / "CShim").iterdir() if path.is_dir())
    owner = {header.name: folder.name for folder in folders for header in folder.rglob("*.h")}
    for folder in folders:
        allowed = ALLOWED_INCLUDES.get(folder.name, set()) | {folder.name}
        for path in sorted([*folder.rglob("*.c"), *folder.rglob("*.h")]):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                target = match and owner.get(pathlib.PurePath(match.group(1)).name)
                if target and target not in allowed:
                    found.append(f"{path.relative_to(root)}:{number}: CShim/{folder.name} must not include what belongs to CShim/{target}")


def check_folders(root, found):
    netstack = root / "Sources" / "Netstack"
    for stray in sorted(netstack.iterdir()):
        if stray.name not in NETSTACK_FOLDERS:
            found.append(f"{stray.relative_to(root)}: not one of the folders {', '.join(NETSTACK_FOLDERS)}")
    texts = {
        folder: [(path, blank_text(path.read_text())) for path in swift_files(netstack / folder)]
        for folder in NETSTACK_FOLDERS
        if (netstack / folder).is_dir()
    }
    declared = {}  # name -> position of the first folder that declares it
    for position, folder in enumerate(NETSTACK_FOLDERS):
        for _, text in texts.get(folder, []):
            for match in DECLARATION.finditer(text):
                declared.setdefault(match.group(1), position)
    own = set()  # types of any depth, up to the folder that is looked at: Inner of Outer.Inner is no later folder's Inner
    for position, folder in enumerate(NETSTACK_FOLDERS):
        for _, text in texts.get(folder, []):
            own.update(NESTED.findall(text))
        for path, text in texts.get(folder, []):
            for match in WORD.finditer(text):
                name = match.group(0)
                if declared.get(name, -1) <= position or name in own:
                    continue
                # A member or a local of the same name is none of ours: functions count only where they are called as such.
                if name[0].islower() and (text[match.end() : match.end() + 1] != "(" or is_member_or_local(name, text)):
                    continue
                found.append(
                    f"{path.relative_to(root)}:{line_of(text, match.start())}: Netstack/{folder} must not name {name}, "
                    f"which belongs to Netstack/{NETSTACK_FOLDERS[declared[name]]}"
                )


def is_member_or_local(name, text):
    return re.search(rf"\b(?:func|let|var)\s+{name}\b", text) is not None


def check(root):
    found = []
    check_imports(root, found)
    check_includes(root, found)
    check_folders(root, found)
    return found


def self_test(project):
    plants = {
        "Sources/Wire/Planted.swift": "import Netstack\n",
        "Sources/Netstack/Base/Planted.swift": "import Glibc\n",
        "Sources/Host/Planted.swift": "@testable import Preload\n",
        "Sources/Netstack/Buffer/Planted.swift": "struct Planted { var above: [Later: Int] }\nlet s = \"Later\" // Later\n",
        "Sources/Netstack/TCP/Planted.swift": "struct Later {}\nfunc later(_ x: Int) {}\n",
        "Sources/Netstack/UDP/Planted.swift": "/* Later */\nfunc use() { later(1) }\n",
        "Sources/Netstack/Odd/Planted.swift": "struct Odd {}\n",
        "CShim/Support/planted.c": '#include "planted_above.h"\n',
        "CShim/Interpose/planted_above.h": "\n",
    }
    expected = [
        "Sources/Wire/Planted.swift:1: Wire must not import Netstack",
        "Sources/Netstack/Base/Planted.swift:1: Netstack must not import Glibc",
        "Sources/Host/Planted.swift:1: Host must not import Preload",
        "Sources/Netstack/Buffer/Planted.swift:1: Netstack/Buffer must not name Later, which belongs to Netstack/TCP",
        "Sources/Netstack/UDP/Planted.swift:2: Netstack/UDP must not name later, which belongs to Netstack/TCP",
        "Sources/Netstack/Odd: not one of the folders Base, Buffer, Link, IP, UDP, TCP, Socket, Stack",
        "CShim/Support/planted.c:1: CShim/Support must not include what belongs to CShim/Interpose",
    ]
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        for part in ("Sources", "CShim"):
            shutil.copytree(project / part, copy / part)
        before = set(check(copy))
        for name, text in plants.items():
            path = copy / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        found = set(check(copy)) - before
    wrong = [f"not found: {line}" for line in expected if line not in found]
    wrong += [f"found, but not planted: {line}" for line in sorted(found - set(expected))]
    print("\n".join(wrong) or f"check-layers: all {len(expected)} planted violations are found")
    return 1 if wrong else 0


def main():
    project = pathlib.Path(__file__).resolve().parent.parent
    if sys.argv[1:] == ["--self-test"]:
        return self_test(project)
    if sys.argv[1:2] and sys.argv[1].startswith("-"):
        print(__doc__)
        return 0 if sys.argv[1] in ("-h", "--help") else 2
    found = check(pathlib.Path(sys.argv[1]).resolve() if sys.argv[1:] else project)
    for line in found:
        print(line)
    print(f"check-layers: {len(found)} violations" if found else "check-layers: the layers are as they should be")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
