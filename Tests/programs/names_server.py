"""A server of names that misbehaves: what it does with a question is the first label of the name.

python3 names_server.py ADDRESS PORT      UDP and TCP; prints each question with its type and where it came from
"""

import random
import socket
import struct
import sys
import threading

A, CNAME, PTR, MX, AAAA = 1, 5, 12, 15, 28
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)


def encode(name):
    labels = [label for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label.encode("latin-1") for label in labels) + b"\0"


def record(name, kind, data):
    return encode(name) + struct.pack("!HHIH", kind, 1, 60, len(data)) + data


def mutated(reply, start, seed):
    """`reply` with some of its bytes changed, cut out, doubled, or made pointers (RFC 1035 §4.1.4). The head and the question
    stay, up to `start`, but for the counts of records: who asked does not wait for another answer then."""
    chance = random.Random(seed)
    reply = bytearray(reply)
    for _ in range(chance.randint(1, 6)):
        at = chance.choice([*range(6, 12), *range(start, len(reply))])
        change = chance.randrange(6) if at >= start else 0
        if change < 2:
            reply[at] = chance.choice([0, 1, 63, 64, 191, 192, 255, chance.randrange(256)])
        elif change == 2:
            reply[at : at + 2] = struct.pack("!H", 0xC000 | chance.randrange(len(reply) + 8))
        elif change == 3:
            del reply[at : at + chance.randint(1, 12)]
        elif change == 4:
            reply[at:at] = reply[at : at + chance.randint(1, 40)]
        else:
            del reply[at:]
    return bytes(reply)


def answer(message, is_tcp, source):
    at, labels = 12, []
    while message[at]:
        labels.append(message[at + 1 : at + 1 + message[at]].decode("latin-1"))
        at += 1 + message[at]
    kind = struct.unpack("!H", message[at + 1 : at + 3])[0]
    question = message[12 : at + 5]
    name, word = ".".join(labels), labels[0].lower()
    more = message[at + 5 :]
    # AD in the question (RFC 6840 §5.7), and the OPT record with its size and DO (RFC 6891 §6.1).
    said = " AD" * (message[3] >> 5 & 1) + (f" EDNS {struct.unpack('!H', more[3:5])[0]}" if more else "")
    said += " DO" if more and more[7] & 0x80 else ""
    # In one piece: print writes the end of the line by itself, and UDP and TCP are answered by threads of their own.
    sys.stdout.write(f"query[{kind}] {name} from {source[0]}{' over TCP' if is_tcp else ''}{said}\n")
    sys.stdout.flush()
    code, records, truncated = NOERROR, [], False
    address = record(name, A, socket.inet_aton("198.18.7.40"))
    if word == "silent":
        return None
    if word in ("servfail", "refused", "notimp", "formerr"):
        code = {"servfail": SERVFAIL, "refused": REFUSED, "notimp": NOTIMP, "formerr": FORMERR}[word]
    elif word == "plain":
        records = [address] if kind == A else []
    elif word == "servfailsix":
        code, records = (SERVFAIL, []) if kind == AAAA else (NOERROR, [address])
    elif word == "nxsix":
        code, records = (NXDOMAIN, []) if kind == AAAA else (NOERROR, [address])
    elif word == "loop":
        records = [record(name, CNAME, encode(name))]
    elif word == "dangling":
        records = [record(name, CNAME, encode("nowhere.odd.test"))]
    elif word == "otheraddress":
        # Of another name than the one asked for: to be ignored.
        records = [record("other.odd.test", A, socket.inet_aton("198.18.7.66"))] if kind == A else []
    elif word == "badname":
        records = [record(name, CNAME, encode("not a host.odd.test")), record("not a host.odd.test", A, b"\1\2\3\4")]
    elif word == "truncated":
        truncated = not is_tcp
        records = [address] if is_tcp and kind == A else []
    elif word.startswith("mutated"):
        target = record("target.odd.test", kind, b"\x20\x01\x0d\xb8" * 4 if kind == AAAA else b"\xc6\x12\x07\x28")
        records = [record(name, CNAME, encode("target.odd.test")), target, target, record(name, MX, b"\0\1" + encode(name))]
    elif name.endswith(".8.18.198.in-addr.arpa"):
        records = [record(name, PTR, encode("one.odd.test")), record(name, PTR, encode("two.odd.test"))]
    elif word == "1" and kind == PTR:
        code = SERVFAIL
    flags = 0x8080 | (message[2] & 1) << 8 | truncated << 9 | code
    reply = message[:2] + struct.pack("!HHHHH", flags, 1, len(records), 0, 0) + question + b"".join(records)
    if word.startswith("mutated") or name.endswith(".8.18.198.in-addr.arpa"):
        return mutated(reply, 12 + len(question), f"{name} {kind}")
    return reply


def serve_tcp(listener):
    while True:
        connection, source = listener.accept()
        with connection:
            stream = connection.makefile("rb")
            while length := stream.read(2):
                reply = answer(stream.read(struct.unpack("!H", length)[0]), True, source)
                if reply:
                    connection.sendall(struct.pack("!H", len(reply)) + reply)


def main():
    address, port = sys.argv[1], int(sys.argv[2])
    listener = socket.create_server((address, port))
    threading.Thread(target=serve_tcp, args=[listener], daemon=True).start()
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((address, port))
    print("ready", flush=True)
    while True:
        message, source = datagrams.recvfrom(4096)
        if reply := answer(message, False, source):
            datagrams.sendto(reply, source)


main()
