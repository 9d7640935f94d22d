# Owns: the rows of names: a server of names on the kernel's side, which writes down each question, and programs that ask it.
# What the program sent itself comes from its stack's address; a question of libc's own would reach the server from another.

import os
import re
import subprocess

from network import DEVICE, HOST, HOST6, PEER, PEER6, SILENT
from row import row

from .common import PYTHON, SMALL, nginx_peer, script, url
from .hosts import dhcp_server, lease_environment
from .posix import compiled
from trial import NATIVE, SHIM

HOSTS = """127.0.0.1 localhost
198.18.7.50 fromhosts.hosts.test fromhosts alias1 alias2
198.18.7.51 twice.hosts.test
198.18.7.52 twice.hosts.test second
2001:db8::50 sixhosts.hosts.test
"""
SWITCH = "hosts: files dns\nservices: files\nprotocols: files\n"
MANY = "".join(f"198.18.6.{i} big.example.test\n" for i in range(1, 61))
ZONE = f"""198.18.7.1 four.example.test
198.18.7.1 one.more.example.test
198.18.7.2 both.example.test
2001:db8::1 both.example.test
2001:db8::2 six.example.test
198.18.7.3 many.example.test
198.18.7.4 many.example.test
198.18.0.77 many.example.test
198.18.7.8 four.sub.example.test
{PEER} peer.example.test
{PEER6} peer6.example.test
198.18.7.9 under_score.example.test
{MANY}"""


def settle(t, *, servers=(PEER,), options="timeout:1 attempts:2", switch=SWITCH):
    lines = [f"nameserver {server}" for server in servers]
    t.file("/etc/resolv.conf", "\n".join([*lines, "search sub.example.test example.test", f"options {options}", ""]))
    t.file("/etc/hosts", HOSTS)
    t.file("/etc/nsswitch.conf", switch)
    t.file("/etc/gai.conf", "") if os.path.exists("/etc/gai.conf") else None


def dnsmasq(t, address=PEER, port=53, **options):
    with open(t.path("zone"), "w") as file:
        file.write(ZONE)
    command = ["dnsmasq", "--conf-file=/dev/null", "--no-daemon", "--no-resolv", "--no-hosts", "--user=root", "--group=root"]
    command += ["--bind-interfaces", f"--listen-address={address}", f"--port={port}", "--log-facility=-"]
    command += ["--log-queries", "--cache-size=0", "--no-round-robin", "--log-async=0", f"--addn-hosts={t.path('zone')}"]
    command += ["--pid-file=", "--local=/test/", "--local=/in-addr.arpa/", "--local=/ip6.arpa/", f"--server=/odd.test/{PEER}#5300"]
    command += ["--cname=alias.example.test,four.example.test", "--cname=chain.example.test,alias.example.test"]
    command += ["--txt-record=text.example.test,a text", "--mx-host=mail.example.test,four.example.test,10"]
    command += ["--srv-host=_sip._tcp.example.test,four.example.test,5060", "--ptr-record=77.7.18.198.in-addr.arpa,pointed.test"]
    return t.peer(command, name="dnsmasq", ready=r"read .*zone", **options)


def questions(text):
    """(what was asked, from where), in order."""
    return re.findall(r"query\[(\w+)\] (.*) from (\S+)", text)


def judge(t, server, least):
    """The same questions on both sides, each as often; all from the program's own address."""
    asked = questions(server.out + server.err)
    t.check(len(asked) >= least, f"only {len(asked)} questions")
    for kind, name, source in asked:
        t.check(source == HOST, f"{kind} {name} was asked from {source}, not from {HOST}")
    counts = {}
    for kind, name, _ in asked:
        key = f"{kind} {name.lower()}"
        # Where one answer of two is truncated, libc asks for both again, c-ares for that one.
        if "big.example" not in name:
            counts[key] = counts.get(key, 0) + 1
    t.observe("questions", "\n".join(f"{count} {key}" for key, count in sorted(counts.items())))


def run(t, what, **environment):
    program = t.run_program([compiled(t, script("names.c")), what], name=what, **environment)
    t.observe(what, program.out)
    t.observe_exit(program)
    t.observe("stderr", "\n".join(line for line in program.err.splitlines() if not line.startswith("anp")))
    t.succeeded(program)
    return program


@row("names.table", roles="client", needs=["cc", "dnsmasq"], seconds=60)
def names_table(t):
    """a table of look-ups against dnsmasq: the same answers, questions and errors"""
    settle(t)
    server = dnsmasq(t)
    run(t, "table")
    judge(t, server, 100)
    t.expect(UdpOutDatagrams=100, UdpInDatagrams=100, TcpActiveOpens=5)


@row("names.given", roles="client", needs=["cc"])
def names_given(t):
    """addresses and services given as such: nobody is asked, but for one name at the end"""
    settle(t)
    server = dnsmasq(t)
    run(t, "given")
    asked = questions(server.err)
    t.check(asked == [("A", "four.example.test", HOST)], f"asked was {asked}")
    t.expect(UdpOutDatagrams=1)


@row("names.fails", roles="client", needs=["cc"], seconds=90)
def names_fails(t):
    """servers that fail, refuse, lie and truncate"""
    settle(t)
    server = t.peer([PYTHON, script("names_server.py"), PEER, "53"], ready="ready")
    run(t, "fails")
    judge(t, server, 50)
    t.expect(UdpOutDatagrams=50, TcpActiveOpens=1)


@row("names.mutated", roles="client", seconds=120)
def names_mutated(t):
    """a thousand damaged answers: every question comes to an end (a few on the native side, where libc waits for better ones)"""
    settle(t, options="timeout:1 attempts:1")
    t.peer([PYTHON, script("names_server.py"), PEER, "53"], ready="ready")
    count = 10 if t.side == NATIVE else 1000
    program = t.run_program([PYTHON, script("names_mutated.py"), str(count)])
    t.succeeded(program)
    t.check(program.out == f"{3 * count} questions came to an end\n", program.out)
    t.expect(UdpOutDatagrams=3 * count, UdpInDatagrams=3 * count)


@row("names.options", roles="client", needs=["cc", "dnsmasq"], seconds=60)
def names_options(t):
    """resolv.conf's options, LOCALDOMAIN, RES_OPTIONS, HOSTALIASES, the program's own state; EDNS, AD and DO on the wire"""
    odd = t.peer([PYTHON, script("names_server.py"), PEER, "5300"], ready="ready")
    server = dnsmasq(t)
    with open(t.path("aliases"), "w") as file:
        file.write("other somewhere.else.test\nnick four.example.test\n")
    for options, environment in (
        ("ndots:1", {}),
        ("ndots:3", {}),
        ("use-vc", {}),
        ("single-request", {}),
        ("no-aaaa", {}),
        ("edns0", {}),
        ("trust-ad", {}),
        ("attempts:1", {"RES_OPTIONS": "ndots:2"}),
        ("attempts:1", {"LOCALDOMAIN": "example.test"}),
        ("attempts:1", {"HOSTALIASES": t.path("aliases")}),
    ):
        settle(t, options=f"timeout:1 {options}")
        words = " ".join([options, *environment])
        program = t.run_program([compiled(t, script("names.c")), "few"], **environment)
        t.observe(words, program.out)
        t.succeeded(program)
    judge(t, server, 100)
    # What dnsmasq hands on carries its own flags; the program asks this one directly at the end.
    direct = [line for line in odd.out.splitlines() if f" from {HOST}" in line]
    t.observe("asked directly", "\n".join(direct))
    server.stop()
    settle(t, options="timeout:1 edns0 trust-ad")
    seen = t.peer([PYTHON, script("names_server.py"), PEER, "53"], name="seen", ready="ready")
    program = t.run_program([compiled(t, script("names.c")), "few"])
    t.observe("EDNS and AD", program.out)
    seen = "\n".join(sorted(set(seen.out.splitlines())))
    t.observe("seen", seen)
    t.check("DO" in seen and "EDNS 1200" in seen and "AD" in seen, f"seen was {seen}")
    t.expect(UdpOutDatagrams=100, TcpActiveOpens=5)


@row("names.silence", roles="client", needs=["cc"], seconds=60, together=True)
def names_silence(t):
    """servers that say nothing: as long as resolv.conf's options say"""
    settle(t, servers=(SILENT,))
    run(t, "silence")
    t.expect(UdpOutDatagrams=8)


@row("names.second-server", roles="client", needs=["dnsmasq"], seconds=30, together=True)
def names_second_server(t):
    """of two servers the first is silent"""
    settle(t, servers=(SILENT, PEER))
    server = dnsmasq(t)
    result = t.run_program(["getent", "ahostsv4", "four.example.test"])
    t.observe("getent", result.out)
    t.succeeded(result)
    judge(t, server, 1)
    t.expect(UdpOutDatagrams=2)


@row("names.inet6", roles="client", needs=["curl", "nginx", "dnsmasq"])
def names_inet6(t):
    """a server with an IPv6 address is asked, a host is reached at its IPv6 address"""
    settle(t, servers=(PEER6,))
    server = dnsmasq(t, PEER6)
    nginx_peer(t, SMALL)
    format = "%{http_code} %{remote_ip}\n"
    curl = t.run_program(["curl", "-sS", "-o", t.path("got"), "-w", format, url(f"{SMALL}.bin", host="peer6.example.test")])
    t.observe("curl", curl.out)
    t.succeeded(curl)
    # Not how often: on a link that has just come up the first answer may be lost.
    asked = questions(server.err)
    t.check(asked and all(source == HOST6 for _, _, source in asked), f"asked was {asked}")
    t.expect(RxBytes=SMALL, TcpActiveOpens=1, UdpOutDatagrams=1)


@row(
    "names.later",
    roles="client",
    needs=["cc", "dnsmasq"],
    seconds=30,
    accepted=[("gai_suspend for 50 ms = EAI_SYSTEM", "gai_suspend for 50 ms = EAI_AGAIN", "glibc 2.36 mistakes its own time-out")],
)
def names_later(t):
    """getaddrinfo_a with all its ways to tell"""
    settle(t)
    t.peer([PYTHON, script("names_server.py"), PEER, "5300"], ready="ready")
    server = dnsmasq(t)
    run(t, "later")
    t.check(all(source == HOST for _, _, source in questions(server.err)), "a question came from elsewhere")
    t.expect(UdpOutDatagrams=5)


@row("names.threads", roles="client", needs=["cc", "dnsmasq"], seconds=60, devices=2)
def names_threads(t):
    """look-ups in four threads, in a child; one cancelled in its wait"""
    settle(t)
    t.peer([PYTHON, script("names_server.py"), PEER, "5300"], ready="ready")
    server = dnsmasq(t)
    run(t, "threads")
    if t.side == SHIM:
        known = (HOST, "198.18.1.4")
        t.check(all(source in known for _, _, source in questions(server.err)), "a question came from elsewhere")
    t.expect(UdpOutDatagrams=200)


@row("names.cancelled", roles="client", needs=["cc"], seconds=30, together=True)
def names_cancelled(t):
    """look-ups cancelled in their wait give the program's memory back"""
    settle(t)
    server = t.peer([PYTHON, script("names_server.py"), PEER, "53"], ready="ready")
    program = t.run_program([compiled(t, script("names.c")), "cancelled"])
    t.observe("cancelled", program.out)
    t.succeeded(program)
    t.check("silent.odd.test" in server.out, "the server was not asked")
    # glibc's own look-up is not as careful.
    left = int(re.search(r"left behind (-?\d+)", program.err).group(1))
    t.check(t.side == NATIVE or left <= 8, f"each cancelled look-up left {left} bytes behind")
    t.expect(UdpOutDatagrams=120)


@row("names.stale", roles="client", needs=["cc", "dnsmasq"])
def names_stale(t):
    """resolv.conf changes after the program's res_init: the new file counts, unless the program changed its state; so does ANP_DNS"""
    server = dnsmasq(t)
    program = compiled(t, script("names.c"))
    next_file, setting = t.path("next"), {} if t.side == NATIVE else {"ANP_DNS": PEER}
    for word, named, environment in (("own", PEER, {}), ("stale", PEER if t.side == NATIVE else "198.18.0.98", setting)):
        settle(t, servers=("198.18.0.99",), options="timeout:1 attempts:1")
        with open(next_file, "w") as file:
            file.write(f"nameserver {named}\nsearch more.example.test\noptions timeout:1 attempts:1\n")
        result = t.run_program([program, word], NEXT=next_file, **environment)
        t.observe(word, result.out)
        t.succeeded(result)
    judge(t, server, 7)
    t.expect(UdpOutDatagrams=7)


@row("names.curl", roles="client", needs=["curl", "nginx", "dnsmasq"])
def names_curl(t):
    """curl GETs from a host by its name"""
    settle(t)
    server = dnsmasq(t)
    nginx_peer(t, SMALL)
    format = "%{http_code} %{size_download} %{remote_ip}\n"
    curl = t.run_program(["curl", "-sS", "-o", t.path("got"), "-w", format, url(f"{SMALL}.bin", host="peer.example.test")])
    t.observe("curl", curl.out)
    t.succeeded(curl)
    t.same_file(t.path("got"), t.fixtures.file(SMALL))
    missing = t.run_program(["curl", "-sS", url("x", host="nothing.example.test")])
    t.observe("missing", missing.err)
    t.observe_exit(missing)
    # curl's build decides whether it asks for both families.
    t.check(all(source == HOST for _, _, source in questions(server.err)), "a question came from elsewhere")
    t.expect(RxBytes=SMALL, TcpActiveOpens=1, UdpOutDatagrams=2)


@row("names.getent", roles="client", needs=["dnsmasq"])
def names_getent(t):
    """getent ahosts and hosts: the DNS, /etc/hosts, what there is not; hostid"""
    settle(t)
    server = dnsmasq(t)
    for words in (
        ["ahosts", "four.example.test"],
        ["ahosts", "both.example.test"],
        ["ahosts", "alias"],
        ["ahostsv6", "both"],
        ["hosts", "four"],
        ["hosts", "198.18.7.1"],
        ["ahosts", "fromhosts"],
        ["hosts", "198.18.7.50"],
        ["ahosts", "nothing"],
        ["hosts", "198.18.7.99"],
    ):
        result = t.run_program(["getent", *words])
        t.observe(" ".join(words), result.out)
        t.observe_exit(result)
    t.observe("hostid", t.run_program(["hostid"]).out)
    judge(t, server, 5)
    t.expect(UdpOutDatagrams=5)


@row("names.python", roles="client", needs=["dnsmasq"])
def names_python(t):
    """python's socket module: addresses, names, the machine's own name"""
    settle(t)
    server = dnsmasq(t)
    lines = [
        "import socket",
        "print(socket.getaddrinfo('both.example.test', 80, type=socket.SOCK_STREAM))",
        "print(socket.gethostbyname('four'))",
        "print(socket.gethostbyname_ex('chain.example.test'))",
        "print(socket.gethostbyaddr('198.18.7.1'))",
        "print(socket.getnameinfo(('198.18.7.1', 80), 0))",
        "print(socket.getfqdn('four'))",
        "try: socket.getaddrinfo('nothing.example.test', 80)",
        "except OSError as error: print(error)",
    ]
    result = t.run_program([PYTHON, "-c", "\n".join(lines)], name="python")
    t.observe("python", result.out)
    t.succeeded(result)
    judge(t, server, 5)
    t.expect(UdpOutDatagrams=5)


@row("names.redis", roles="client", needs=["redis-server", "redis-cli", "dnsmasq"])
def names_redis(t):
    """redis-cli -h NAME"""
    settle(t)
    server = dnsmasq(t)
    t.peer(["redis-server", "--bind", PEER, "--port", "6379", "--save", "", "--protected-mode", "no"], listens=6379)
    result = t.run_program(["redis-cli", "-h", "peer.example.test", "ping"])
    t.observe("redis-cli", result.out)
    t.succeeded(result)
    t.check(all(source == HOST for _, _, source in questions(server.err)), "a question came from elsewhere")
    t.expect(TcpActiveOpens=1, UdpOutDatagrams=1)


@row("names.module", roles="client", needs=["cc", "dnsmasq"])
def names_module(t):
    """a service of nsswitch.conf that only libc has: asked in its turn, and the DNS is not asked for what it knows"""
    settle(t, switch="hosts: files anptest [TRYAGAIN=return] dns\n")
    module = t.path("libnss_anptest.so.2")
    compiled = subprocess.run(
        ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", module, script("nss_module.c")], capture_output=True, text=True
    )
    t.check(compiled.returncode == 0, compiled.stderr[:500])
    server = dnsmasq(t)
    environment = {"LD_LIBRARY_PATH": t.directory, "NSS_MODULE_LOG": t.path("asked")}
    for words in (
        ["ahosts", "host.module"],
        ["ahostsv6", "host.module"],
        ["hosts", "host.module"],
        ["hosts", "198.18.7.60"],
        ["ahosts", "four.example.test"],
        ["ahosts", "fromhosts"],
    ):
        result = t.run_program(["getent", *words], **environment)
        t.observe(" ".join(words), result.out)
        t.observe_exit(result)
    with open(t.path("asked")) as file:
        t.observe("asked of the module", "".join(sorted(file)))
    judge(t, server, 1)
    t.expect(UdpOutDatagrams=1)


@row("names.resolve", roles="client", needs=["dnsmasq"])
def names_resolve(t):
    """nsswitch.conf as systemd's manual has it: what systemd-resolved answers without asking is not asked for"""
    settle(t, switch="hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n")
    server = dnsmasq(t)
    for words in (
        ["ahosts", "localhost"],
        ["ahosts", "fromhosts"],
        ["hosts", "198.18.7.50"],
        ["hosts", "127.0.0.1"],
        ["ahosts", "four.example.test"],
        ["ahosts", "nothing.example.test"],
        ["hosts", "198.18.7.99"],
    ):
        result = t.run_program(["getent", *words])
        t.observe(" ".join(words), result.out)
        t.observe_exit(result)
    judge(t, server, 4)
    # Without systemd-resolved libc has only /etc/hosts, which does not tell this.
    if t.side == SHIM:
        for name, kind, address in (
            ("localhost", "ahostsv6", "::1"),
            ("a.localhost", "ahostsv4", "127.0.0.1"),
            ("b.localhost.", "ahostsv6", "::1"),
            ("localhost.localdomain", "ahostsv4", "127.0.0.1"),
            ("::1", "hosts", "::1"),
        ):
            result = t.run_program(["getent", kind, name])
            t.check(result.out.startswith(address + " "), f"{kind} {name} gave {result.out!r}")
    asked = [name for _, name, _ in questions(server.out + server.err)]
    strayed = [name for name in asked if not re.search(r"(four|nothing)\.example\.test|^99\.7\.18\.198\.", name)]
    t.check(not strayed, f"asked was {strayed}")
    # Servers out of reach: "resolve" is not available, and the next services are asked; their failure is still that of servers.
    settle(t, servers=(SILENT,), options="timeout:1 attempts:1", switch="hosts: resolve [!UNAVAIL=return] files dns\n")
    line = "import socket\ntry: socket.getaddrinfo('four.example.test', 80)\nexcept OSError as error: print(error)"
    result = t.run_program([PYTHON, "-c", line], name="python")
    t.observe("silence", result.out)
    t.expect(UdpOutDatagrams=4)


@row("names.setting", roles="client", needs=["dnsmasq"])
def names_setting(t):
    """ANP_DNS names the server, with a port; what resolv.conf names is not asked"""
    # On the kernel's side resolv.conf does: it knows no ports.
    settle(t, servers=(PEER if t.side == NATIVE else "198.18.0.99",))
    port = "53" if t.side == NATIVE else "5353"
    server = dnsmasq(t, port=port)
    result = t.run_program(["getent", "ahosts", "four"], **({} if t.side == NATIVE else {"ANP_DNS": f"{PEER}:{port}"}))
    t.observe("getent", result.out)
    t.succeeded(result)
    judge(t, server, 1)
    t.expect(UdpOutDatagrams=1)


@row("names.lease", roles="client", needs=["dnsmasq"])
def names_lease(t):
    """the server and the search list that come with a lease: asked instead of resolv.conf's, from the first look-up on"""
    settle(t)
    of_network = "search example.test\nnameserver 198.18.0.5\n"
    t.file("/etc/resolv.conf", of_network if t.side == NATIVE else "search elsewhere.test\nnameserver 198.18.0.99\n")
    dhcp_server(t, f"--dhcp-option=option:dns-server,{PEER}", "--dhcp-option=option:domain-search,example.test")
    server = dnsmasq(t)
    environment = {} if t.side == NATIVE else lease_environment(t)
    for words in (["ahosts", "four"], ["hosts", "198.18.7.1"]):
        result = t.run_program(["getent", *words], **environment)
        t.observe(" ".join(words), result.out)
        t.succeeded(result)
    asked = questions(server.err)
    t.check(asked and all(source == HOST or source.startswith("198.18.0.5") for _, _, source in asked), f"asked was {asked}")
    t.check(all(source != PEER for _, _, source in asked), "the kernel asked")
    t.observe("questions", "\n".join(sorted(f"{kind} {name}" for kind, name, _ in asked)))
    t.expect(UdpOutDatagrams=3)


@row("names.router", roles="client", needs=["dnsmasq"])
def names_router(t):
    """the server that an IPv6 router advertises is asked once the advertisement has come"""
    settle(t, servers=(PEER6 if t.side == NATIVE else "198.18.0.99",))
    command = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", f"--interface={DEVICE}", "--bind-dynamic"]
    command += ["--user=root", "--log-facility=-", f"--pid-file={t.path('pid')}", "--enable-ra", "--dhcp-range=2001:db8::,ra-only,64"]
    command += [f"--dhcp-option=option6:dns-server,[{PEER6}]", f"--dhcp-leasefile={t.path('leases')}"]
    t.peer(command, name="router", ready="router advertisement on")
    server = dnsmasq(t, PEER6)
    lines = [
        "import socket, time",
        # The stack starts with the first datagram, and asks for routers.
        f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('{PEER}', 9))",
        "time.sleep(1.5)",
        "print(socket.getaddrinfo('four', 80, type=socket.SOCK_STREAM))",
    ]
    environment = {} if t.side == NATIVE else {"ANP_ADDR6": f"auto,{HOST6}/64"}
    result = t.run_program([PYTHON, "-c", "\n".join(lines)], name="python", **environment)
    t.observe("python", result.out)
    t.succeeded(result)
    asked = questions(server.err)
    t.check(asked and all(source.startswith("2001:db8:") and source != PEER6 for _, _, source in asked), f"asked was {asked}")
    t.expect(UdpOutDatagrams=1)


@row("names.loopback", roles="client", needs=["dnsmasq", "curl", "nginx"])
def names_loopback(t):
    """a resolver of this machine on loopback is asked through the kernel, the host it tells of through the stack"""
    settle(t, servers=("127.0.0.53",))
    nginx_peer(t, SMALL)
    server = dnsmasq(t, "127.0.0.53", beside=True)
    curl = t.run_program(["curl", "-sS", "-o", t.path("got"), "-w", "%{http_code}", url(f"{SMALL}.bin", host="peer.example.test")])
    t.observe("curl", curl.out)
    t.succeeded(curl)
    t.check(any(source == "127.0.0.1" for _, _, source in questions(server.err)), "the resolver was not asked")
    t.expect(RxBytes=SMALL, TcpActiveOpens=1)
