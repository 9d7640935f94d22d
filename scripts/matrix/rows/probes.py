# Owns: the rows that look at the stack from outside, with ping, arping and traceroute, while a program holds it up.

import re

from network import DEVICE, HOST
from row import row

from .common import PYTHON, script


def hold(t):
    """A program whose listening socket brings the stack up; it ends when told to."""
    return t.program([PYTHON, script("hold.py"), HOST, "7000"], ready="ready")


def release(t, holder):
    holder.stop()
    t.succeeded(holder)


def probe(t, command, **options):
    result = t.run_peer(command, **options)
    t.observe_exit(result)
    # Times differ; answers, their number and their senders do not.
    text = re.sub(r"\d+(\.\d+)? ?(ms|msec|usec)\b", "#", result.out)
    t.observe(result.name, re.sub(r"(time|rtt|ipg|min/avg/max).*", "", text))
    return result


@row("ping", roles="server", needs=["ping"])
def ping(t):
    """ping: small, a full frame, and fragmented"""
    holder = hold(t)
    for options in (["-c", "5", "-i", "0.2"], ["-c", "2", "-s", "1472", "-M", "do"], ["-c", "3", "-i", "0.3", "-s", "20000"]):
        result = probe(t, ["ping", "-n", "-W", "2", *options, HOST])
        t.succeeded(result)
        t.check(" 0% packet loss" in result.out, "packets were lost")
    release(t, holder)
    t.expect(IcmpInEchos=10, IcmpOutEchoReps=10, IpReasmOKs=3, IpFragOKs=3)


@row("ping.flood", roles="server", needs=["ping"], quick=False)
def ping_flood(t):
    """ping -f: 5000 echoes, none lost"""
    holder = hold(t)
    t.succeeded(t.run_peer(["ping", "-n", "-q", "-f", "-c", "5000", HOST]))
    release(t, holder)
    t.expect(IcmpInEchos=5000, IcmpOutEchoReps=5000)


@row("arping", roles="server", needs=["arping"])
def arping(t):
    """arping asks for the stack's address three times"""
    holder = hold(t)
    # The hardware address is the stack's own: only its being one and the same is compared.
    result = t.run_peer(["arping", "-c", "3", "-i", DEVICE, HOST])
    t.succeeded(result)
    addresses = set(re.findall(r"from ([0-9a-f:]{17})", result.out))
    t.observe("addresses", len(addresses))
    t.observe("replies", re.search(r"(\d+) packets transmitted, *(\d+) packets received.*", result.out)[0])
    release(t, holder)
    t.expect(ArpInRequests=3, ArpOutReplies=3)


@row("traceroute", roles="server", needs=["traceroute"])
def traceroute(t):
    """traceroute to the stack: UDP, ICMP, TCP to a closed and an open port"""
    holder = hold(t)
    for options in ([], ["-I"], ["-T", "-p", "7999"], ["-T", "-p", "7000"]):
        # One probe at a time: of many at once the limit on ICMP errors leaves some unanswered, and with several queues of the device
        # (ANP_QUEUES) any of them.
        result = probe(t, ["traceroute", "-n", "-N", "1", "-q", "2", "-w", "2", "-m", "5", *options, HOST])
        t.succeeded(result)
        t.check(re.search(rf"^ 1  {re.escape(HOST)} ", result.out, re.MULTILINE), "the stack did not answer at hop 1")
        t.check(" 2 " not in result.out.split("\n", 1)[1][:4], "went beyond the stack")
    release(t, holder)
    t.expect(IcmpOutDestUnreachs=2, IcmpInEchos=2, TcpOutRsts=1)
