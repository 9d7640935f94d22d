// Neighbour discovery: what is believed, who answers whom, what becomes of packets, duplicates of our addresses.

import Testing
import Wire

@testable import Netstack

private typealias Bench = IPv6Bench

extension IPv6Bench {
  fileprivate func state(_ address: IPAddress = peer) -> NeighborTable.State? {
    stack.neighbors.state(address, now: now, settings: &stack.environment.pointee.settings)
  }

  /// A datagram to the peer, which makes the stack look for it.
  fileprivate func knock(_ socket: SocketHandle, _ bytes: [UInt8] = [1], to: IPAddress = peer) throws {
    try send(socket, bytes, to: Endpoint(to, 9))
  }
}

@Suite("Neighbour discovery: what is believed")
struct NeighborValidityTests {
  @Test("RFC 4861 §7.1.1: a solicitation must come over one hop, with code 0, sound options and a unicast target")
  func solicitations() {
    func isAnswered(_ solicit: (IPv6Bench) -> Void) -> Bool {
      let bench = IPv6Bench()
      solicit(bench)
      return !bench.neighborMessages().isEmpty
    }
    #expect(isAnswered { $0.solicit() })
    #expect(!isAnswered { $0.solicit(hopLimit: 254) })
    #expect(!isAnswered { $0.solicit { $0[1] = 1 } })
    #expect(!isAnswered { $0.solicit { $0[25] = 0 } }, "an option without length")
    #expect(!isAnswered { $0.solicit { $0[25] = 2 } }, "one that is longer than the message")
    #expect(!isAnswered { $0.solicit { $0.removeLast(12) } })
    #expect(!isAnswered { $0.solicit(.allNodes, to: Bench.ours) })
    #expect(!isAnswered { $0.solicit(hardware: .broadcast) })
    #expect(!isAnswered { $0.solicit(hardware: .zero) })
    // From nowhere: to the group alone, and without an address.
    #expect(isAnswered { $0.solicit(from: .anyIPv6, hardware: .some(nil)) })
    #expect(!isAnswered { $0.solicit(from: .anyIPv6, hardware: .some(nil), to: Bench.ours) })
    #expect(!isAnswered { $0.solicit(from: .anyIPv6) })
    // Somebody else's address.
    #expect(!isAnswered { $0.solicit(six("2001:db8::6"), to: Bench.ours.solicitedNode) })
  }

  @Test("RFC 4861 §7.1.2: an advertisement that says it is an answer is not sent to a group")
  func advertisements() throws {
    for (solicited, to, hopLimit, isBelieved) in [
      (true, Bench.ours, UInt8(255), true), (false, .allNodes, 255, true), (true, .allNodes, 255, false),
      (true, Bench.ours, 64, false),
    ] {
      let bench = IPv6Bench()
      let socket = try bench.datagramSocket()
      try bench.knock(socket)
      _ = bench.frames()
      bench.advertise(at: bench.peerMAC, solicited: solicited, overrides: true, to: to, hopLimit: hopLimit)
      #expect(bench.sent().count == (isBelieved ? 1 : 0))
      bench.stack.close(socket, now: bench.now)
    }
  }

  @Test("RFC 6980 §5: what comes in fragments, even in one, is no neighbour discovery")
  func fragments() {
    let bench = IPv6Bench()
    let message = NeighborMessage(solicitationFor: Bench.ours, from: bench.peerMAC)
    let packet = Bench.neighbor(message, from: Bench.peer, to: Bench.ours.solicitedNode)
    let body = Array(packet[40...])
    let group = Bench.ours.solicitedNode
    bench.receive(
      bench.frame(Bench.ipv6(44, Bench.fragment(58, offset: 0, more: false, body), to: group, hopLimit: 255)))
    for (start, end) in [(0, 16), (16, 32)] {
      let piece = Bench.fragment(58, offset: start, more: end < 32, Array(body[start..<end]))
      bench.receive(bench.frame(Bench.ipv6(44, piece, to: group, hopLimit: 255)))
    }
    #expect(bench.sent().isEmpty)
    #expect(bench.stack.statistics[drop: .ndpMalformed] == 2)
    #expect(bench.leaks() == (0, 0))
  }
}

@Suite("Neighbour discovery: resolution and reachability")
struct NeighborResolutionTests {
  @Test("RFC 4861 §7.2.2: a packet waits while the group of the neighbour is asked; §7.2.3: every second, three times")
  func resolution() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket()
    try bench.knock(socket, [1])
    try bench.knock(socket, [2])
    let asked = bench.sent()
    #expect(asked.count == 1)
    let question = try #require(asked[0].neighborMessage)
    #expect(question.isSolicitation && question.target == Bench.peer && question.hardware == bench.ourMAC)
    #expect(asked[0].ip.source == Bench.ours && asked[0].ip.destination == Bench.peer.solicitedNode)
    #expect(asked[0].hardware == MACAddress(group: Bench.peer.solicitedNode))
    bench.pass(.milliseconds(1001))
    #expect(bench.neighborMessages().count == 1)
    bench.advertise(at: bench.peerMAC, solicited: true, overrides: true)
    let released = bench.sent()
    #expect(released.map { $0.payload.last } == [1, 2] && released.allSatisfy { $0.hardware == bench.peerMAC })
    #expect(bench.state() == .reachable)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("A target that is an IPv4 address in IPv6's clothes, loopback or nothing is no target")
  func foreignTargets() {
    let bench = IPv6Bench()
    bench.introducePeer()
    for target in [IPAddress(peerAddress), six("::1"), .anyIPv6] {
      let before = bench.stack.statistics[drop: .ndpMalformed]
      bench.advertise(
        target, at: MACAddress(bits: 0x02_66), solicited: false, overrides: true, from: Bench.peer, to: .allNodes)
      bench.solicit(target, to: .allNodes)
      #expect(bench.stack.statistics[drop: .ndpMalformed] == before + 2)
    }
    #expect(bench.stack.neighbors.lookup(IPAddress(peerAddress)) == nil)
  }

  @Test(
    "RFC 4861 §7.2.2: nobody answers: connect hears that the host is unreachable, a UDP socket if it asks (IPV6_RECVERR)"
  )
  func unreachable() throws {
    let bench = IPv6Bench()
    let stream = try bench.stack.open(.stream, isIPv6: true, cookie: 1, now: bench.now)
    try bench.beginConnect(stream, to: Endpoint(Bench.peer, 80))
    let socket = try bench.datagramSocket()
    try bench.stack.setOption(socket, .receiveErrors, 1, now: bench.now)
    try bench.stack.connect(socket, to: Endpoint(six("2001:db8::6"), 9), now: bench.now)
    let silent = try bench.datagramSocket()
    try bench.stack.connect(silent, to: Endpoint(six("2001:db8::7"), 9), now: bench.now)
    try bench.send(silent, [1], to: nil)
    try bench.send(socket, pattern(3000), to: nil)
    bench.pass(.milliseconds(3100))
    #expect(bench.neighborMessages().count == 9)
    #expect(bench.stack.takeError(stream) == .hostUnreachable)
    #expect(bench.stack.takeError(socket) == .hostUnreachable)
    #expect(bench.stack.takeError(silent) == nil)
    #expect(bench.stack.statistics[drop: .neighborUnreachable] == 6, "two SYNs, three pieces, and a datagram")
    bench.stack.close(stream, now: bench.now)
    bench.stack.close(silent, now: bench.now)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 4861 §7.3.3: reachable, stale, delay, probe; an answer without an address confirms the one that is known")
  func unreachabilityDetection() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket()
    try bench.knock(socket)
    bench.advertise(at: bench.peerMAC, solicited: true, overrides: true)
    #expect(bench.state() == .reachable)
    bench.pass(.seconds(46))
    #expect(bench.state() == .stale)
    _ = bench.sent()
    try bench.knock(socket)
    #expect(bench.state() == .delay && bench.sent().map(\.ip.nextHeader) == [IPProtocol.udp])
    bench.pass(.milliseconds(5001))
    #expect(bench.state() == .probe)
    let probes = bench.sent()
    #expect(probes.count == 1 && probes[0].hardware == bench.peerMAC && probes[0].ip.destination == Bench.peer)
    // As Linux answers what was sent to it alone.
    bench.advertise(at: nil, solicited: true, overrides: false)
    #expect(bench.state() == .reachable)
    // Unsolicited it would prove nothing.
    bench.pass(.seconds(46))
    bench.advertise(at: nil, solicited: false, overrides: false)
    #expect(bench.state() == .stale)
    try bench.knock(socket)
    bench.pass(.seconds(9))
    #expect(bench.state() == .failed)
    #expect(bench.neighborMessages().count == 3, "three probes")
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 4861 §7.3.1: a TCP that gets on vouches for the neighbour: nobody is asked; once it does not, he is")
  func confirmation() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    var (socket, port, next) = try bench.connected()
    for _ in 0..<60 {
      bench.pass(.seconds(2))
      _ = try [UInt8](1...3).withUnsafeBytes { try bench.stack.send(socket, $0, flags: [], now: bench.now) }
      next &+= 3
      bench.receive(
        bench.frame(
          Bench.ipv6(IPProtocol.tcp, Bench.tcp(.ack, sourcePort: 80, destinationPort: port, seq: 1, ack: next))))
      #expect(bench.neighborMessages().isEmpty)
    }
    #expect(bench.state() == .reachable)
    bench.pass(.seconds(46))
    _ = try [UInt8](1...3).withUnsafeBytes { try bench.stack.send(socket, $0, flags: [], now: bench.now) }
    bench.pass(.seconds(9))
    #expect(bench.neighborMessages().count == 3 && bench.state() == .failed)
    bench.stack.close(socket, now: bench.now)
  }

  @Test(
    "RFC 1122 §2.3.2.1: an IPv4 neighbour that has not been heard of for a while is asked, too, while packets go there")
  func unreachabilityDetectionOfARP() throws {
    let bench = IPv6Bench()
    var request = [UInt8](repeating: 0, count: 14 + 28)
    request.withUnsafeMutableBytes {
      EthernetHeader(destination: .broadcast, source: bench.peerMAC, etherType: EtherType.arp).write(
        to: $0.baseAddress!)
      ARPPacket(
        operation: ARPPacket.request, senderHardware: bench.peerMAC, senderProtocol: peerAddress,
        targetHardware: .zero, targetProtocol: stackAddress
      ).write(to: $0.baseAddress! + 14)
    }
    bench.receive(request)
    _ = bench.frames()
    let socket = try bench.stack.open(.datagram, cookie: 1, now: bench.now)
    try bench.knock(socket, to: IPAddress(peerAddress))
    #expect(bench.state(IPAddress(peerAddress)) == .delay && bench.frames().count == 1)
    bench.pass(.milliseconds(5001))
    let asked = bench.frames()
    #expect(bench.state(IPAddress(peerAddress)) == .probe)
    #expect(asked.count == 1 && asked[0][12...13] == [0x08, 0x06] && asked[0][..<6] == [2, 10, 11, 12, 13, 14])
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 4861 §7.2.4: an answer without an address to a first question is none")
  func incomplete() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket()
    try bench.knock(socket)
    bench.advertise(at: nil, solicited: true, overrides: false)
    #expect(bench.state() == .incomplete)
    bench.stack.close(socket, now: bench.now)
    bench.pass(.seconds(5))
    _ = bench.frames()
    #expect(bench.leaks() == (0, 0))
  }

  @Test(
    "RFC 4861 §7.2.5: what an advertisement with another, or the same, address makes of an entry",
    arguments: [
      // another address, solicited, override → state, is the new address taken?
      (true, true, true, NeighborTable.State.reachable, true), (true, false, true, .stale, true),
      (true, true, false, .stale, false), (true, false, false, .stale, false),
      (false, true, true, .reachable, false), (false, false, true, .reachable, false),
      (false, true, false, .reachable, false), (false, false, false, .reachable, false),
    ])
  func flags(other: Bool, solicited: Bool, overrides: Bool, state: NeighborTable.State, isTaken: Bool) throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket()
    try bench.knock(socket)
    bench.advertise(at: bench.peerMAC, solicited: true, overrides: true)
    _ = bench.sent()
    let elsewhere = MACAddress(bits: 0x02_99_99_99_99_99)
    bench.advertise(at: other ? elsewhere : bench.peerMAC, solicited: solicited, overrides: overrides)
    #expect(bench.state() == state)
    try bench.knock(socket)
    #expect(bench.sent().last?.hardware == (isTaken ? elsewhere : bench.peerMAC))
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 4861 §7.2.5: an advertisement makes no entry; a solicitation for us does (§7.2.3)")
  func entries() {
    let bench = IPv6Bench()
    bench.advertise(at: bench.peerMAC, solicited: true, overrides: true)
    #expect(bench.state() == nil)
    bench.solicit()
    #expect(bench.state() == .delay, "stale, and used at once for the answer")
  }

  @Test("RFC 4861 §7.2.4: a question is answered to the asker, solicited and overriding, with our address")
  func answer() throws {
    let bench = IPv6Bench()
    bench.solicit()
    let sent = bench.sent()
    #expect(sent.count == 1 && sent[0].hardware == bench.peerMAC)
    #expect(sent[0].ip.source == Bench.ours && sent[0].ip.destination == Bench.peer)
    let answer = try #require(sent[0].neighborMessage)
    #expect(!answer.isSolicitation && answer.isSolicited && answer.overrides && !answer.isRouter)
    #expect(answer.target == Bench.ours && answer.hardware == bench.ourMAC)
    // The link-local address too; a unicast question.
    bench.solicit(Bench.linkLocal, from: six("fe80::5"), to: Bench.linkLocal)
    #expect(bench.sent().map(\.ip.source) == [Bench.linkLocal])
    // Who does not say where it is, is asked first.
    bench.solicit(from: six("2001:db8::7"), hardware: .some(nil), to: Bench.ours)
    let question = try #require(bench.neighborMessages().first)
    #expect(question.isSolicitation && question.target == six("2001:db8::7"))
    bench.advertise(six("2001:db8::7"), at: bench.peerMAC, solicited: true, overrides: true)
    #expect(bench.neighborMessages().map(\.isSolicited) == [true])
    #expect(bench.leaks() == (0, 0))
  }
}

@Suite("Duplicate addresses")
struct DuplicateAddressTests {
  @Test(
    "RFC 4862 §5.4.2: the group of an address is joined before it is probed, and left with the last address that has it"
  )
  func groups() throws {
    /// The record types of reports about `group` (RFC 3810 §5.2.12), and the probes for `target`, in their order.
    func story(_ bench: Bench, _ group: IPAddress, _ target: IPAddress) -> [String] {
      bench.sent().compactMap { packet in
        if packet.ip.nextHeader == 0, packet.payload[8] == 143 {
          let about = packet.payload.withUnsafeBytes { IPAddress(reading16: $0.baseAddress!, at: 20) }
          return about == group ? "report \(packet.payload[16])" : nil
        }
        return packet.neighborMessage.flatMap { $0.target == target && $0.isSolicitation ? "probe" : nil }
      }
    }
    let group = six("ff02::1:ff00:4")
    #expect(Bench.ours.solicitedNode == group)
    let bench = Bench(settled: false)
    #expect(story(bench, group, Bench.ours) == ["report 4", "probe"])
    bench.pass(.seconds(20))
    #expect(story(bench, group, Bench.ours) == ["report 4"], "once more, as a report may be lost")
    let second = six("2001:db8:1::4")
    bench.stack.addAddress(InterfaceAddress(second, prefixLength: 64, state: .preferred, origin: .configured))
    #expect(story(bench, group, second) == ["probe"], "we are members already")
    bench.stack.removeAddress(Bench.ours)
    bench.pass(.seconds(20))
    #expect(story(bench, group, second) == [])
    bench.stack.removeAddress(second)
    bench.pass(.seconds(20))
    #expect(story(bench, group, second) == ["report 3", "report 3"])
  }

  @Test("RFC 4862 §5.4.2: an address is asked for from nowhere, with a nonce (RFC 7527), and is ours a second later")
  func probe() throws {
    let bench = IPv6Bench(settled: false)
    let sent = bench.sent()
    let probes = sent.filter { $0.neighborMessage != nil }
    #expect(probes.map { $0.neighborMessage!.target } == [Bench.ours, Bench.linkLocal])
    for probe in probes {
      let message = probe.neighborMessage!
      #expect(probe.ip.source == .anyIPv6 && probe.ip.destination == message.target.solicitedNode)
      #expect(message.isSolicitation && message.hardware == nil && message.nonce != nil)
      #expect(bench.address(message.target)?.state == .optimistic)
    }
    bench.pass(.milliseconds(1001))
    #expect(bench.address(Bench.ours)?.state == .preferred && bench.address(Bench.linkLocal)?.state == .preferred)
  }

  @Test(
    "RFC 4429 §3.3: meanwhile questions are answered without overriding anybody, and no solicitation of ours tells where we are"
  )
  func optimistic() throws {
    let bench = IPv6Bench(settled: false)
    _ = bench.frames()
    bench.solicit()
    let answer = try #require(bench.neighborMessages().first)
    #expect(answer.isSolicited && !answer.overrides && answer.hardware == bench.ourMAC)
    let socket = try bench.datagramSocket()
    try bench.knock(socket, to: six("fe80::9"))
    let question = try #require(bench.neighborMessages().first)
    #expect(question.hardware == nil)
    bench.pass(.milliseconds(1500))
    #expect(bench.neighborMessages().last?.hardware == bench.ourMAC)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 4862 §5.4.3, §5.4.4: somebody else has it, or wants it too: it goes")
  func duplicate() {
    for advertised in [true, false] {
      let bench = IPv6Bench(settled: false)
      if advertised {
        bench.advertise(Bench.ours, at: bench.peerMAC, solicited: false, overrides: true, to: .allNodes)
      } else {
        bench.solicit(from: .anyIPv6, hardware: .some(nil), nonce: 5)
      }
      #expect(bench.address(Bench.ours) == nil && bench.address(Bench.linkLocal) != nil)
      #expect(bench.stack.statistics[.ndpConflicts] == 1)
      _ = bench.frames()
      bench.solicit()
      #expect(bench.sent().isEmpty)
      #expect(throws: SocketError.addressNotAvailable) { try bench.datagramSocket(port: 53, at: Bench.ours) }
      bench.pass(.seconds(5))
      #expect(bench.address(Bench.ours) == nil)
    }
  }

  @Test("RFC 7527: our own probe, come back, is not somebody else's")
  func loopedBack() throws {
    let bench = IPv6Bench(settled: false)
    for frame in bench.frames() { bench.receive(frame) }
    #expect(bench.address(Bench.ours) != nil && bench.address(Bench.linkLocal) != nil)
    #expect(bench.stack.statistics[.ndpConflicts] == 0)
  }

  @Test(
    "RFC 4862 §5.4.3: what is ours is defended: the prober hears of it, with all others; an advertisement changes nothing"
  )
  func defence() throws {
    let bench = IPv6Bench()
    bench.solicit(from: .anyIPv6, hardware: .some(nil), nonce: 5)
    let sent = bench.sent()
    #expect(sent.count == 1 && sent[0].ip.destination == .allNodes && sent[0].hardware == MACAddress(group: .allNodes))
    let answer = try #require(sent[0].neighborMessage)
    #expect(!answer.isSolicited && answer.overrides && answer.target == Bench.ours && answer.hardware == bench.ourMAC)
    bench.advertise(Bench.ours, at: bench.peerMAC, solicited: false, overrides: true, to: .allNodes)
    #expect(bench.address(Bench.ours)?.state == .preferred)
    #expect(bench.leaks() == (0, 0))
  }
}
