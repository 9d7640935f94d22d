// Router discovery and the addresses that come of it; redirects.

import Testing
import Wire

@testable import Netstack

private typealias Bench = IPv6Bench

extension IPv6Bench {
  fileprivate func way(_ to: IPAddress) -> RouteDecision? { stack.decide(to, now: now) }

  /// The address that the prefix 2001:db8:1::/64 makes.
  fileprivate static let autoconfigured = six("2001:db8:1::ff:fe00:1")

  /// So many seconds until `instant`.
  fileprivate func seconds(until instant: Instant) -> Int { Int((instant - now).milliseconds) / 1000 }
}

@Suite("Router discovery")
struct RouterDiscoveryTests {
  @Test("RFC 4861 §6.3.7: routers are asked for at once, then twice more, four seconds apart")
  func solicitations() {
    let bench = IPv6Bench(settled: false)
    func asked() -> [Packet6] { bench.sent().filter { $0.icmp?.type == ICMPv6.routerSolicitation } }
    let first = asked()
    #expect(first.count == 1)
    #expect(first[0].ip.destination == .allRouters && first[0].ip.source == Bench.linkLocal)
    #expect(first[0].ip.hopLimit == 255 && first[0].hardware == MACAddress(group: .allRouters))
    #expect(first[0].payload.count == 8, "RFC 4429 §3.2: an optimistic address tells nobody where we are")
    bench.pass(.milliseconds(3990))
    #expect(asked().isEmpty)
    bench.pass(.milliseconds(20))
    let second = asked()
    #expect(second.count == 1 && Array(second[0].payload[8...]) == [1, 1, 2, 0, 0, 0, 0, 1])
    bench.pass(.milliseconds(4000))
    #expect(asked().count == 1)
    bench.pass(.seconds(60))
    #expect(asked().isEmpty)
  }

  @Test("An advertisement ends the asking")
  func answered() {
    let bench = IPv6Bench(settled: false)
    _ = bench.frames()
    bench.advertisement()
    bench.pass(.seconds(20))
    #expect(bench.sent().allSatisfy { $0.icmp?.type != ICMPv6.routerSolicitation })
  }

  @Test("RFC 4861 §6.1.2: only from a link-local address, over one hop, with code 0")
  func validity() {
    for (from, hopLimit, code) in [
      (six("2001:db8::1"), UInt8(255), UInt8(0)), (Bench.router, 64, 0), (Bench.router, 255, 1),
    ] {
      let bench = IPv6Bench()
      bench.advertisement(from: from, ipHopLimit: hopLimit, code: code)
      #expect(bench.way(Bench.far) == nil)
      #expect(bench.stack.statistics[drop: .ndpMalformed] == 1)
    }
  }

  @Test("RFC 4861 §6.3.4: a default router for its lifetime; 0 takes it away at once")
  func lifetime() {
    let bench = IPv6Bench()
    bench.advertisement(bench.routerOption, lifetime: 60)
    #expect(bench.way(Bench.far)?.nextHop == Bench.router)
    bench.pass(.seconds(59))
    #expect(bench.way(Bench.far) != nil)
    bench.pass(.seconds(2))
    #expect(bench.way(Bench.far) == nil)
    bench.advertisement(lifetime: 60)
    bench.advertisement(lifetime: 0)
    #expect(bench.way(Bench.far) == nil)
  }

  @Test("RFC 4191 §3.2: the router of the highest preference, else the one known first")
  func preference() {
    let bench = IPv6Bench()
    bench.advertisement(from: six("fe80::1"))
    bench.advertisement(from: six("fe80::2"))
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::1"))
    bench.advertisement(flags: 0x18, from: six("fe80::1"))
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::2"), "the first says: rather not")
    bench.advertisement(lifetime: 30, flags: 0x08, from: six("fe80::3"))
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::3"))
    bench.pass(.seconds(31))
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::2"))
  }

  @Test("RFC 4861 §7.2.5: a router that answers as a host is no router any more")
  func noRouterAnyMore() throws {
    let bench = IPv6Bench()
    bench.advertisement(bench.routerOption)
    bench.advertise(
      Bench.router, at: bench.routerMAC, solicited: true, overrides: true, to: Bench.linkLocal, isRouter: true)
    #expect(bench.way(Bench.far) != nil)
    bench.advertise(Bench.router, at: bench.routerMAC, solicited: true, overrides: true, to: Bench.linkLocal)
    #expect(bench.way(Bench.far) == nil)
  }

  @Test("The gateway that is configured stays, whatever is advertised and taken back")
  func configuredGateway() {
    let bench = IPv6Bench { $0.gateway6 = six("fe80::9") }
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::9"))
    bench.advertisement(lifetime: 60, flags: 0x08)
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::9"))
    bench.advertisement(lifetime: 0)
    bench.pass(.seconds(61))
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::9"))
  }

  @Test("Advertised prefixes take no more than half of the room for addresses, and none is for all there is")
  func manyPrefixes() {
    let bench = IPv6Bench()
    for i in 0..<20 { bench.advertisement(Bench.prefixOption("2001:db8:\(100 + i)::")) }
    let addresses = bench.stack.addresses
    #expect((0..<addresses.count).filter { addresses[$0].origin == .autoconfigured }.count == 8)
    let leased = InterfaceAddress(
      IPAddress(IPv4Address(192, 0, 2, 4)), prefixLength: 24, state: .preferred, origin: .leased)
    #expect(bench.stack.addAddress(leased) == true)
  }

  @Test("RFC 4861 §4.2: MTU, hop limit, reachable and retransmission times")
  func parameters() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    bench.advertisement([5, 1, 0, 0, 0, 0, 0x05, 0x78], hopLimit: 44, reachable: 5000, retrans: 300)
    let socket = try bench.datagramSocket()
    try bench.send(socket, pattern(1452), to: Endpoint(Bench.peer, 9))
    let sent = bench.sent()
    #expect(sent.count == 2 && sent.allSatisfy { $0.bytes.count <= 1400 && $0.ip.hopLimit == 44 })
    #expect(bench.stack.settings.neighborReachableTime6 == 5000 && bench.stack.settings.neighborRetransTime6 == 300)
    #expect(bench.stack.settings.neighborReachableTime == 30_000, "ARP goes by its own")
    let (stream, _, _) = try bench.connected()
    #expect(try bench.stack.option(stream, .mtu) == 1400)
    // Too small for IPv6, larger than the device takes: not believed.
    for mtu: [UInt8] in [[0x04, 0xff], [0x06, 0x00]] {
      bench.advertisement([5, 1, 0, 0, 0, 0] + mtu)
      #expect(bench.way(Bench.far)?.mtu == 1400)
    }
    #expect(bench.way(Bench.ours)?.mtu == 65535, "what goes to ourselves needs no link")
    // 0 is "unspecified", and changes nothing.
    bench.advertisement()
    try bench.send(socket, [1], to: Endpoint(Bench.peer, 9))
    #expect(bench.sent().first?.ip.hopLimit == 44)
    bench.stack.close(socket, now: bench.now)
    bench.stack.close(stream, now: bench.now)
  }

  @Test("RFC 8106 §5.1: name servers for their lifetime")
  func nameServers() {
    let bench = IPv6Bench()
    func option(_ last: UInt8, lifetime: UInt8) -> [UInt8] {
      [25, 3, 0, 0, 0, 0, 0, lifetime, 0x20, 1, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [last]
    }
    func servers() -> [IPAddress] { (0..<8).compactMap { bench.stack.routers.nameServer($0) } }
    let before = bench.stack.routers.serverGeneration
    bench.advertisement(option(0x53, lifetime: 60) + option(0x54, lifetime: 200))
    #expect(servers() == [six("2001:db8::53"), six("2001:db8::54")])
    #expect(bench.stack.routers.serverGeneration != before)
    let known = bench.stack.routers.serverGeneration
    bench.advertisement(option(0x53, lifetime: 60))
    #expect(bench.stack.routers.serverGeneration == known, "nothing new")
    bench.pass(.seconds(61))
    #expect(servers() == [six("2001:db8::54")])
    bench.advertisement(option(0x54, lifetime: 0))
    #expect(servers().isEmpty && bench.stack.routers.serverGeneration != known)
  }

  @Test("RFC 4191 §3.1: a route beside the default one, for its lifetime")
  func routes() {
    let bench = IPv6Bench()
    func route(_ lifetime: UInt8) -> [UInt8] { [24, 2, 48, 0, 0, 0, 0, lifetime, 0x20, 1, 0x0d, 0xb8, 0, 0x77, 0, 0] }
    bench.advertisement(route(60), lifetime: 0)
    #expect(bench.way(Bench.far)?.nextHop == Bench.router && bench.way(six("2001:db8:78::1")) == nil)
    bench.pass(.seconds(61))
    #expect(bench.way(Bench.far) == nil)
    bench.advertisement(route(60), lifetime: 0)
    bench.advertisement(route(0), lifetime: 0)
    #expect(bench.way(Bench.far) == nil)
  }
}

@Suite("Addresses out of prefixes")
struct AutoconfigurationTests {
  @Test("RFC 4862 §5.5.3: an address of the prefix, asked for and used at once")
  func address() throws {
    let bench = IPv6Bench(static: false)
    bench.advertisement(bench.routerOption + Bench.prefixOption("2001:db8:1::"))
    let address = try #require(bench.address(Bench.autoconfigured))
    #expect(address.state == .optimistic && address.origin == .autoconfigured)
    #expect(bench.seconds(until: address.validUntil) == 3600 && bench.seconds(until: address.preferredUntil) == 1800)
    let sent = bench.sent()
    let probe = try #require(sent.first)
    #expect(probe.neighborMessage?.target == Bench.autoconfigured && probe.ip.source == .anyIPv6)
    #expect(probe.hardware == MACAddress(group: Bench.autoconfigured.solicitedNode), "to the group, not to the router")
    #expect(bench.way(six("2001:db8:1::7"))?.nextHop == six("2001:db8:1::7"))
    #expect(bench.way(Bench.far)?.source == Bench.autoconfigured)
    bench.pass(.seconds(2))
    #expect(bench.address(Bench.autoconfigured)?.state == .preferred)
    #expect(bench.leaks() == (0, 0))
  }

  @Test(
    "RFC 4429 §3.3: while it is not sure a neighbour is reached over the router, other than groups and the router itself"
  )
  func detour() throws {
    let bench = IPv6Bench(static: false)
    bench.advertisement(bench.routerOption + Bench.prefixOption("2001:db8:1::"))
    _ = bench.frames()
    let socket = try bench.datagramSocket()
    try bench.send(socket, [1], to: Endpoint(six("2001:db8:1::7"), 9))
    try bench.send(socket, [1], to: Endpoint(six("ff02::fb"), 9))
    let sent = bench.sent()
    #expect(sent.map(\.hardware) == [bench.routerMAC, MACAddress(group: six("ff02::fb"))])
    bench.pass(.seconds(2))
    _ = bench.frames()
    try bench.send(socket, [1], to: Endpoint(six("2001:db8:1::7"), 9))
    #expect(bench.neighborMessages().map(\.target) == [six("2001:db8:1::7")])
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 4861 §6.3.4, RFC 4862 §5.5.3: on the link and autonomous are two things; what makes no sense is ignored")
  func flags() {
    let cases: [(name: String, option: [UInt8], onLink: Bool, address: Bool)] = [
      ("both", Bench.prefixOption("2001:db8:1::"), true, true),
      ("on the link", Bench.prefixOption("2001:db8:1::", autonomous: false), true, false),
      ("autonomous", Bench.prefixOption("2001:db8:1::", onLink: false), false, true),
      ("neither", Bench.prefixOption("2001:db8:1::", onLink: false, autonomous: false), false, false),
      ("not 64", Bench.prefixOption("2001:db8:1::", length: 56), true, false),
      ("preferred for longer than valid", Bench.prefixOption("2001:db8:1::", valid: 10, preferred: 20), true, false),
      ("over already", Bench.prefixOption("2001:db8:1::", valid: 0, preferred: 0), false, false),
      ("link-local", Bench.prefixOption("fe80::"), false, false),
      ("group", Bench.prefixOption("ff02::"), false, false),
    ]
    for (name, option, onLink, hasAddress) in cases {
      let bench = IPv6Bench(static: false)
      let count = bench.stack.addresses.count
      bench.advertisement(option, lifetime: 0)
      #expect((bench.stack.routes.lookup(six("2001:db8:1::7"), now: bench.now) != nil) == onLink, "\(name)")
      #expect((bench.address(Bench.autoconfigured) != nil) == hasAddress, "\(name)")
      #expect(bench.stack.addresses.count == count + (hasAddress ? 1 : 0), "\(name)")
    }
  }

  @Test("RFC 4862 §5.5.4: preferred, deprecated, gone; the prefix goes from the link with its own lifetime")
  func lifetimes() throws {
    let bench = IPv6Bench(static: false)
    bench.advertisement(Bench.prefixOption("2001:db8:1::", valid: 100, preferred: 50))
    bench.pass(.seconds(49))
    #expect(bench.address(Bench.autoconfigured)?.state == .preferred)
    bench.pass(.seconds(2))
    #expect(bench.address(Bench.autoconfigured)?.state == .deprecated)
    _ = bench.frames()
    // Still ours.
    bench.solicit(Bench.autoconfigured, from: six("fe80::5"))
    #expect(bench.neighborMessages().map(\.target) == [Bench.autoconfigured])
    bench.advertisement(Bench.prefixOption("2001:db8:1::", valid: 100, preferred: 50))
    #expect(bench.address(Bench.autoconfigured)?.state == .preferred)
    bench.pass(.seconds(101))
    #expect(bench.address(Bench.autoconfigured) == nil)
    #expect(bench.stack.routes.lookup(six("2001:db8:1::7"), now: bench.now)?.nextHop == Bench.router)
    _ = bench.frames()
    bench.solicit(Bench.autoconfigured, from: six("fe80::5"))
    #expect(bench.sent().isEmpty)
  }

  @Test(
    "RFC 4862 §5.5.3 (e): nobody takes an address away within two hours",
    arguments: [
      // first valid lifetime, after so long, then told → left
      (10000, 0, 8000, 8000), (10000, 0, 60, 7200), (10000, 5000, 60, 5000), (10000, 5000, 5001, 5001),
      (100, 0, 50, 100), (100, 0, 200, 200), (100, 0, 0, 100), (7201, 0, 0, 7200),
    ])
  func twoHours(first: UInt32, after: Int, told: UInt32, left: Int) throws {
    let bench = IPv6Bench(static: false)
    bench.advertisement(Bench.prefixOption("2001:db8:1::", valid: first, preferred: min(first, 50)), lifetime: 9000)
    bench.pass(.seconds(after))
    bench.advertisement(Bench.prefixOption("2001:db8:1::", valid: told, preferred: min(told, 40)), lifetime: 9000)
    let address = try #require(bench.address(Bench.autoconfigured))
    #expect(bench.seconds(until: address.validUntil) == left)
    #expect(bench.seconds(until: address.preferredUntil) == Int(min(told, 40)), "the preferred one is always taken")
  }

  @Test("All ones are for ever")
  func forEver() throws {
    let bench = IPv6Bench(static: false)
    bench.advertisement(Bench.prefixOption("2001:db8:1::", valid: .max, preferred: .max))
    bench.pass(.seconds(1_000_000))
    #expect(bench.address(Bench.autoconfigured)?.state == .preferred)
    #expect(bench.stack.routes.lookup(six("2001:db8:1::7"), now: bench.now) != nil)
  }

  @Test("A prefix that is configured stays on the link, whatever routers say of it")
  func configuredPrefix() {
    let bench = IPv6Bench()
    bench.advertisement(Bench.prefixOption("2001:db8::", autonomous: false, valid: 60, preferred: 60))
    #expect(bench.way(Bench.peer)?.nextHop == Bench.peer)
    bench.pass(.seconds(61))
    #expect(bench.way(Bench.peer)?.nextHop == Bench.peer)
    bench.advertisement(Bench.prefixOption("2001:db8::", autonomous: false, valid: 60, preferred: 60))
    bench.advertisement(Bench.prefixOption("2001:db8::", autonomous: false, valid: 0, preferred: 0))
    #expect(bench.way(Bench.peer)?.nextHop == Bench.peer)
    // Nor is the configured address a router's to take.
    bench.advertisement(Bench.prefixOption("2001:db8::", valid: 1, preferred: 1))
    bench.pass(.seconds(2))
    #expect(bench.address(Bench.ours)?.state == .preferred)
  }

  @Test("A duplicate out of a prefix goes, with it nothing else")
  func duplicate() {
    let bench = IPv6Bench()
    bench.advertisement(Bench.prefixOption("2001:db8:1::"))
    bench.advertise(
      Bench.autoconfigured, at: bench.peerMAC, solicited: false, overrides: true, to: .allNodes)
    #expect(bench.address(Bench.autoconfigured) == nil)
    #expect(bench.way(six("2001:db8:1::7"))?.nextHop == six("2001:db8:1::7"))
    #expect(bench.address(Bench.ours)?.state == .preferred)
    bench.advertisement(Bench.prefixOption("2001:db8:1::") + Bench.prefixOption("2001:db8:2::"))
    #expect(bench.address(Bench.autoconfigured) == nil, "it is still somebody else's (RFC 4862 §5.4.5)")
    #expect(bench.address(six("2001:db8:2::ff:fe00:1")) != nil)
  }
}

@Suite("Redirects")
struct RedirectTests {
  private func redirect(
    _ bench: IPv6Bench, _ destination: IPAddress, to target: IPAddress, from: IPAddress = IPv6Bench.router,
    hopLimit: UInt8 = 255, hardware: MACAddress? = nil
  ) {
    var bytes = [UInt8](repeating: 0, count: 40 + (hardware == nil ? 0 : 8))
    bytes[0] = ICMPv6.redirect
    bytes.withUnsafeMutableBytes {
      target.write16(to: $0.baseAddress!, at: 8)
      destination.write16(to: $0.baseAddress!, at: 24)
      if let hardware {
        $0.baseAddress!.storeByte(2, at: 40)
        $0.baseAddress!.storeByte(1, at: 41)
        hardware.write(to: $0.baseAddress!, at: 42)
      }
    }
    let message = Bench.checked(bytes, IPProtocol.icmpv6, at: 2, from: from, to: Bench.ours)
    bench.receive(
      bench.frame(
        Bench.ipv6(IPProtocol.icmpv6, message, from: from, hopLimit: hopLimit), from: bench.routerMAC))
  }

  @Test("RFC 4861 §8.3: another router, or the neighbour itself, from now on, for some minutes")
  func taken() throws {
    let bench = IPv6Bench()
    bench.advertisement(bench.routerOption)
    redirect(bench, Bench.far, to: six("fe80::2"))
    #expect(bench.way(Bench.far)?.nextHop == six("fe80::2"))
    #expect(bench.way(six("2001:db8:77::a"))?.nextHop == Bench.router, "nobody else")
    // The new first hop may send on.
    let other = six("2001:db8:66::1")
    redirect(bench, other, to: other, hardware: bench.peerMAC)
    #expect(bench.way(other)?.nextHop == other)
    let socket = try bench.datagramSocket()
    try bench.send(socket, [1], to: Endpoint(other, 9))
    #expect(bench.sent().last?.hardware == bench.peerMAC)
    bench.pass(.seconds(601))
    #expect(bench.way(other)?.nextHop == Bench.router)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 4861 §8.1: only from the first hop in use, over one hop, to a router's link-local address")
  func refused() {
    let bench = IPv6Bench()
    bench.advertisement(bench.routerOption)
    redirect(bench, Bench.far, to: six("fe80::2"), from: six("fe80::3"))
    redirect(bench, Bench.far, to: six("fe80::2"), hopLimit: 254)
    redirect(bench, Bench.far, to: six("2001:db8::7"))
    redirect(bench, Bench.far, to: Bench.linkLocal)
    redirect(bench, Bench.peer, to: six("fe80::2"))
    redirect(bench, six("ff05::1"), to: six("fe80::2"))
    redirect(bench, Bench.ours, to: six("fe80::2"))
    #expect(bench.way(Bench.far)?.nextHop == Bench.router)
    #expect(bench.way(Bench.peer)?.nextHop == Bench.peer && bench.way(Bench.ours)?.kind == .local)
  }
}

@Suite("Source address selection")
struct AddressSelectionTests {
  /// What is chosen of `candidates` for `destination`; a leading "-" is deprecated, "~" optimistic.
  private func choose(_ destination: String, _ candidates: [String]) -> IPAddress? {
    var addresses = InterfaceAddresses()
    for candidate in candidates {
      let state: InterfaceAddress.State =
        candidate.hasPrefix("-") ? .deprecated : candidate.hasPrefix("~") ? .optimistic : .preferred
      let text = String(candidate.drop { $0 == "-" || $0 == "~" })
      _ = addresses.add(InterfaceAddress(six(text), prefixLength: 64, state: state, origin: .configured))
    }
    return AddressSelection.source(for: six(destination), among: addresses)
  }

  @Test("RFC 6724 §5, rule by rule, and §10.1's examples; in either order")
  func rules() {
    let cases: [(rule: String, destination: String, best: String, other: String)] = [
      ("1: same address", "2001:db8:1::1", "2001:db8:1::1", "2001:db8:1::2"),
      ("1 before 3", "2001:db8:1::1", "-2001:db8:1::1", "2001:db8:1::2"),
      // §10.1
      ("2: scope", "2001:db8:1::1", "2001:db8:3::1", "fe80::1"),
      ("2: scope", "ff05::1", "2001:db8:3::1", "fe80::1"),
      ("2: link-local suits link-local", "fe80::1", "fe80::2", "2001:db8:1::1"),
      ("2: link-local suits the link's groups", "ff02::1", "fe80::2", "2001:db8:1::1"),
      ("2 before 3", "2001:db8:1::1", "-2001:db8:1::3", "fe80::1"),
      ("3: not deprecated", "2001:db8:1::1", "2001:db8:3::1", "-2001:db8:1::2"),
      ("3: RFC 4429: not optimistic", "2001:db8:1::1", "2001:db8:3::1", "~2001:db8:1::2"),
      ("6: label", "2002:c633:6401::1", "2002:c633:6401::d5e3:7953:13eb:22e8", "2001:db8:1::2"),
      ("6: label", "2001:db8:1::1", "2001:db8:1::2", "2002:c633:6401::2"),
      ("6: label of ULA", "fd00:1::1", "fd00:2::1", "2001:db8:1::1"),
      ("8: longest matching prefix", "2001:db8:1::1", "2001:db8:1::2", "2001:db8:3::2"),
    ]
    for (rule, destination, best, other) in cases {
      let expected = six(String(best.drop { $0 == "-" || $0 == "~" }))
      #expect(choose(destination, [best, other]) == expected, "\(rule): \(destination)")
      #expect(choose(destination, [other, best]) == expected, "\(rule): \(destination)")
    }
    // §2.2 of RFC 6724: bits beyond the prefix length do not count; the first stays.
    #expect(choose("2001:db8:1::ff", ["2001:db8:1::1", "2001:db8:1::fe"]) == six("2001:db8:1::1"))
    #expect(choose("2001:db8:1::1", []) == nil)
  }

  @Test("RFC 6724 §2.1: the policy table")
  func policies() {
    let rows: [(String, Int, Int)] = [
      ("::1", 50, 0), ("2001:db8::1", 40, 1), ("2002::1", 30, 2), ("2001::1", 5, 5), ("fc00::1", 3, 13),
      ("fdff::1", 3, 13), ("::9", 1, 3), ("fec0::1", 1, 11), ("3ffe::1", 1, 12), ("fe80::1", 40, 1), ("ff02::1", 40, 1),
      ("2001:1::1", 40, 1),
    ]
    for (address, precedence, label) in rows {
      let policy = AddressSelection.policy(six(address))
      #expect(policy.precedence == precedence && policy.label == label, "\(address)")
    }
    #expect(AddressSelection.policy(IPAddress(peerAddress)).precedence == 35)
    #expect(AddressSelection.policy(IPAddress(peerAddress)).label == 4)
  }

  @Test("RFC 6724 §3.1, §3.2: scopes")
  func scopes() {
    for (address, scope) in [
      ("ff01::1", 1), ("ff02::1", 2), ("ff05::1", 5), ("ff0e::1", 14), ("fe80::1", 2), ("::1", 2), ("fec0::1", 5),
      ("fc00::1", 14), ("2001:db8::1", 14),
    ] { #expect(AddressSelection.scope(six(address)) == scope, "\(address)") }
    #expect(AddressSelection.scope(IPAddress(IPv4Address(169, 254, 1, 1))) == 2)
    #expect(AddressSelection.scope(IPAddress(IPv4Address(127, 0, 0, 1))) == 2)
    #expect(AddressSelection.scope(IPAddress(IPv4Address(10, 0, 0, 1))) == 14)
  }

  @Test("A socket without an address sends from the one that suits its destination; bound, from its own")
  func sockets() throws {
    let bench = IPv6Bench {
      _ = $0.moreAddresses.add(
        InterfaceAddress(six("2001:db8:2::4"), prefixLength: 64, state: .preferred, origin: .configured))
    }
    for (to, from) in [
      ("2001:db8::5", Bench.ours), ("2001:db8:2::5", six("2001:db8:2::4")), ("fe80::5", Bench.linkLocal),
    ] {
      bench.introducePeer(six(to))
      let socket = try bench.datagramSocket()
      try bench.send(socket, [1], to: Endpoint(six(to), 9))
      #expect(bench.sent().last?.ip.source == from)
      let stream = try bench.stack.open(.stream, isIPv6: true, cookie: 1, now: bench.now)
      try bench.beginConnect(stream, to: Endpoint(six(to), 9))
      #expect(bench.stack.localEndpoint(stream).address == from)
      bench.stack.close(socket, now: bench.now)
      bench.stack.close(stream, now: bench.now)
      let bound = try bench.datagramSocket(port: 77, at: six("2001:db8:2::4"))
      _ = bench.sent()
      try bench.send(bound, [1], to: Endpoint(six(to), 9))
      #expect(bench.sent().last?.ip.source == six("2001:db8:2::4"))
      bench.stack.close(bound, now: bench.now)
    }
    #expect(bench.leaks() == (0, 0))
  }
}
