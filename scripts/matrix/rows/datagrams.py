# Owns: the rows of programs that speak UDP and ICMP: resolvers, socat, iperf3 -u, ncat -u, asyncio's datagrams; ping, traceroute, mtr
# and nping.

import os
import re
import shutil

from network import DEVICE, HOST, HOST6, PEER, PEER6
from row import row

from .common import PYTHON, SMALL, script


def copy_of(t, tool):
    """The program without its file capabilities: with them it cannot be preloaded."""
    path = t.path(tool)
    if not os.path.exists(path):
        shutil.copyfile(shutil.which(tool), path)
        os.chmod(path, 0o755)
    return path


def normal(text):
    """Times differ; answers, their number and their senders do not."""
    text = re.sub(r"\d+(\.\d+)? ?(ms|msec|usec|s)\b", "#", text)
    return re.sub(r"(time|rtt|ipg|min/avg/max).*", "", text)


def shown(t, program, text=None):
    t.observe_exit(program)
    t.observe(program.name, normal(program.out if text is None else text))
    return program


# Names


def dnsmasq_command(t, address):
    with open(t.path("dnsmasq.conf"), "w") as file:
        file.write(
            "\n".join(
                ["no-resolv", "no-hosts", "local=/test/", "address=/www.test/198.18.7.7", "user=root", "group=root"]
                + ["port=53", "bind-interfaces", "log-facility=-", "edns-packet-max=4096"]
                + [f"listen-address={address}", f"pid-file={t.path('dnsmasq.pid')}"]
                + [f"txt-record=big.test,{','.join([letter * 200] * 4)}" for letter in "xyz"]
                + [""]
            )
        )
    # Without a process of its own for each TCP connection.
    return ["dnsmasq", "-d", "-C", t.path("dnsmasq.conf")]


def dig(where, *words):
    return ["dig", f"@{where}", "+noall", "+answer", "+comments", "+norecurse", "+tries=1", "+time=5", *words]


def dig_text(program):
    return re.sub(r"id: \d+", "id: #", program.out)


@row("dig", roles="client", needs=["dig", "dnsmasq"])
def dig_row(t):
    """dig asks a dnsmasq at the peer: over UDP, a large answer, over TCP, a name that is not there"""
    t.peer(dnsmasq_command(t, PEER), ready="started", listens=53)
    for words in (["www.test"], ["big.test", "txt"], ["+notcp", "+ignore", "big.test", "txt"], ["+tcp", "big.test", "txt"], ["nothing.test"]):
        answer = t.run_program(dig(PEER, *words))
        shown(t, answer, dig_text(answer))
        t.succeeded(answer)
    t.expect(UdpOutDatagrams=4, TcpActiveOpens=1)


@row("dnsmasq", roles="server", needs=["dig", "dnsmasq"])
def dnsmasq(t):
    """dnsmasq answers on the stack, over UDP and TCP"""
    server = t.program(dnsmasq_command(t, HOST), ready="started")
    for words in (["www.test"], ["big.test", "txt"], ["+tcp", "www.test"], ["nothing.test"]):
        answer = t.run_peer(dig(HOST, *words))
        shown(t, answer, dig_text(answer))
        t.succeeded(answer)
    server.stop()
    t.expect(UdpInDatagrams=3, TcpPassiveOpens=1)


# Bytes


@row("socat.udp", roles="client", needs=["socat"])
def socat_udp(t):
    """socat sends a file as datagrams and gets it back"""
    source = t.fixtures.file(SMALL)
    t.peer(["socat", "-d", "-d", f"UDP4-LISTEN:7000,bind={PEER}", "PIPE"], ready="listening on")
    program = t.run_program(["socat", "-t", "1", "-", f"UDP4:{PEER}:7000"], stdin=source)
    t.succeeded(program)
    t.same_file(program.out_path, source)
    t.expect(UdpOutDatagrams=1, UdpInDatagrams=1, IpFragOKs=1, IpReasmOKs=1)


@row("socat.udp-server", roles="server", needs=["socat"])
def socat_udp_server(t):
    """socat echoes datagrams"""
    source = t.fixtures.file(SMALL)
    server = t.program(["socat", "-d", "-d", f"UDP4-LISTEN:7000,bind={HOST}", "PIPE"], ready="listening on")
    client = t.run_peer(["socat", "-t", "1", "-", f"UDP4:{HOST}:7000"], stdin=source)
    t.succeeded(client)
    t.same_file(client.out_path, source)
    server.stop()
    t.expect(UdpOutDatagrams=1, UdpInDatagrams=1, IpFragOKs=1, IpReasmOKs=1)


@row("ncat.udp", roles="client", needs=["ncat"])
def ncat_udp(t):
    """ncat -u sends a datagram and gets one back"""
    peer = t.peer([PYTHON, script("udp_echo.py"), PEER, "7000", "1"], ready="ready")
    # What it reads must not end before the answer has come.
    program = t.run_program(["sh", "-c", f"(echo a datagram; sleep 1) | ncat -n -u {PEER} 7000"], name="ncat")
    t.observe_exit(program)
    t.observe("ncat", program.out)
    t.check(program.out == "a datagram\n", f"ncat printed {program.out!r}")
    t.succeeded(peer)
    t.expect(UdpOutDatagrams=1, UdpInDatagrams=1)


def iperf3_udp(t, *words):
    t.peer(["iperf3", "-s", "-1", "-B", PEER, "--forceflush"], ready="Server listening")
    program = t.run_program(["iperf3", "-c", PEER, "-u", "-b", "5M", "-l", "1400", "-n", "500000", *words])
    t.succeeded(program)
    # On a busy machine some find no room.
    lost = re.search(r" (\d+)/\d+ \(.*%\)\s+receiver", program.out)
    t.check(lost is not None and int(lost[1]) < 90, f"datagrams were lost: {program.out[-600:]}")


@row("iperf3.udp", roles="client", needs=["iperf3"])
def iperf3_udp_send(t):
    """iperf3 -u sends 500 kB at 5 Mbit/s"""
    iperf3_udp(t)
    t.expect(UdpOutDatagrams=357)


@row("iperf3.udp-receive", roles="client", needs=["iperf3"])
def iperf3_udp_receive(t):
    """iperf3 -u -R receives 500 kB at 5 Mbit/s"""
    iperf3_udp(t, "-R")
    t.expect(UdpInDatagrams=270)


@row("python.asyncio-datagrams", roles="client")
def asyncio_datagrams(t):
    """asyncio's datagram endpoints: 200 exchanges over each of 20 sockets"""
    server = t.peer([PYTHON, script("asyncio_datagrams.py"), "serve", PEER, "7000", "4000"], ready="ready")
    client = t.run_program([PYTHON, script("asyncio_datagrams.py"), "connect", PEER, "7000", "20", "200"])
    t.succeeded(client)
    t.observe("client", client.out)
    server.stop()
    t.expect(UdpOutDatagrams=4000, UdpInDatagrams=4000)


# Looking at the network


@row("ping.program", roles="client", needs=["ping"])
def ping(t):
    """ping under the stack: small, large, cut up, with what routers say, to nobody"""
    tool = copy_of(t, "ping")
    for words in (
        ["-c", "3", "-i", "0.2", PEER],
        ["-c", "2", "-i", "0.2", "-s", "1472", "-M", "do", PEER],
        ["-c", "1", "-s", "1473", "-M", "do", PEER],
        ["-c", "2", "-i", "0.2", "-s", "20000", PEER],
        ["-c", "2", "-i", "0.2", "-t", "1", "198.19.1.1"],
        ["-c", "1", "-W", "1", "198.19.0.1"],
        ["-c", "1", HOST],
        ["-c", "3", "-q", "-f", PEER],
    ):
        shown(t, t.run_program([tool, "-n", "-W", "2", *words]))
    t.expect(IcmpOutMsgs=12)


@row("ping.program-6", roles="client", needs=["ping"])
def ping_6(t):
    """ping -6 under the stack: small, large, cut up, link-local, with what a router says, to ourselves and to nobody"""
    tool = copy_of(t, "ping")
    for words in (
        ["-c", "3", "-i", "0.2", PEER6],
        ["-c", "2", "-i", "0.2", "-s", "1452", "-M", "do", PEER6],
        ["-c", "1", "-s", "1453", "-M", "do", PEER6],
        ["-c", "2", "-i", "0.2", "-s", "20000", PEER6],
        ["-c", "2", "-i", "0.2", "-t", "9", "-Q", "32", PEER6],
        ["-c", "1", "-W", "1", "2001:db8:7::1"],
        ["-c", "1", HOST6],
        ["-c", "1", "-W", "1", "2001:db8::99"],
        ["-c", "3", "-q", "-f", PEER6],
    ):
        shown(t, t.run_program([tool, "-6", "-n", "-W", "2", *words]))
    # The peer's address on the link is its device's own.
    listed = t.run_peer(["ip", "-6", "-o", "addr", "show", "dev", DEVICE, "scope", "link"])
    link = re.search(r"fe80::\S+(?=/64)", listed.out)[0]
    answer = t.run_program([tool, "-6", "-n", "-W", "2", "-c", "2", "-i", "0.2", f"{link}%{DEVICE}"])
    t.succeeded(answer)
    # The peer's differs.
    shown(t, answer, normal(answer.out).replace(link, "fe80::#"))
    t.expect(Icmp6OutMsgs=12)


@row("traceroute.program", roles="client", needs=["traceroute"])
def traceroute(t):
    """traceroute under the stack: UDP, ICMP, TCP"""
    tool = copy_of(t, "traceroute")
    for words in ([PEER], ["-I", PEER], ["-T", "-p", "7999", PEER], ["-I", "198.19.1.1"], ["-U", "-p", "7999", PEER]):
        program = shown(t, t.run_program([tool, "-n", "-N", "1", "-q", "2", "-w", "2", "-m", "3", *words]))
        t.succeeded(program)
    t.expect(IcmpInDestUnreachs=4)


@row("traceroute.program-6", roles="client", needs=["traceroute"])
def traceroute_6(t):
    """traceroute -6 under the stack: UDP, ICMP, TCP"""
    tool = copy_of(t, "traceroute")
    for words in ([PEER6], ["-I", PEER6], ["-T", "-p", "7999", PEER6], ["-I", "2001:db8:7::1"], ["-U", "-p", "7999", PEER6]):
        program = shown(t, t.run_program([tool, "-6", "-n", "-N", "1", "-q", "2", "-w", "2", "-m", "3", *words]))
        t.succeeded(program)
    t.expect(Icmp6OutMsgs=4)


def mtr_report(t, *target):
    helper = copy_of(t, "mtr-packet")
    for words in ([], ["-u"], ["-T", "-P", "7999"]):
        program = t.run_program(["mtr", "-n", "-r", "-c", "2", "-i", "0.2", "-m", "4", *words, *target], MTR_PACKET=helper)
        t.succeeded(program)
        t.observe_exit(program)
        hosts = [line.split()[1:4] for line in program.out.splitlines() if "|--" in line]
        t.observe("hops", hosts)
        t.check(hosts and hosts[0][0] == target[-1] and hosts[0][1] == "0.0%", f"mtr saw {hosts}")


@row("mtr", roles="client", needs=["mtr"])
def mtr(t):
    """mtr --report: ICMP, UDP and TCP"""
    mtr_report(t, PEER)
    t.expect(IcmpInMsgs=2)


@row("mtr.program-6", roles="client", needs=["mtr"])
def mtr_6(t):
    """mtr -6 --report: ICMP, UDP and TCP"""
    mtr_report(t, "-6", PEER6)
    t.expect(Icmp6InMsgs=2)


@row("nping", roles="client", needs=["nping"])
def nping(t):
    """nping's modes that need no packet capture: TCP connections and UDP"""
    for words in (["--tcp-connect", "-p", "7999"], ["--udp", "--unprivileged", "-p", "7999"]):
        program = t.run_program(["nping", "-c", "2", "--delay", "100ms", *words, PEER])
        t.observe_exit(program)
        text = re.sub(r"(SENT|RCVD) \(.*?\)", r"\1", program.out)
        text = re.sub(r"Starting Nping.*", "", text)
        text = re.sub(r"(Max|Tx) (rtt|time|bytes/s|pkts/s).*|Rx time.*|Nping done.*|.*ratio.*", "", text)
        t.observe("nping", re.sub(r"\d+(\.\d+)? ?(ms|seconds)", "#", text))
        t.succeeded(program)
    t.expect(TcpActiveOpens=2, UdpOutDatagrams=2)
