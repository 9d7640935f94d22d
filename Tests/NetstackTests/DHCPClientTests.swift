// The DHCP client in virtual time, without packets; then in a stack, with them.

import Testing
import Wire

@testable import Netstack

private let offered = IPv4Address(198, 18, 0, 50)
private let server = IPv4Address(198, 18, 0, 5)
private let hardware = MACAddress(bits: 0x02_00_00_00_00_01)

/// What a server says, as bytes.
private struct Reply {
  var type: DHCPMessageType
  var address = offered
  var from: IPv4Address? = server
  var lease: UInt32? = 3600
  var more: [(UInt8, [UInt8])] = [(1, [255, 255, 255, 0]), (3, [198, 18, 0, 5])]

  static func word(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }

  func bytes(xid: UInt32, hardware: MACAddress = hardware) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 240)
    bytes.withUnsafeMutableBytes {
      let base = $0.baseAddress!
      base.storeBigEndian32(0x0201_0600, at: 0)
      base.storeBigEndian32(xid, at: 4)
      base.storeBigEndian32(type == .refuse ? 0 : address.bits, at: 16)
      hardware.write(to: base, at: 28)
      base.storeBigEndian32(0x6382_5363, at: 236)
    }
    bytes += [53, 1, type.rawValue]
    if let from { bytes += [54, 4] + Self.word(from.bits) }
    if let lease, type != .refuse { bytes += [51, 4] + Self.word(lease) }
    for (code, value) in more { bytes += [code, UInt8(value.count)] + value }
    return bytes + [255]
  }
}

/// A client, a clock, and what it has sent.
private struct Bench {
  var client = DHCPClient(hardware: hardware, seed: 7)
  var now = Instant(nanoseconds: 5_000_000_000)
  var sent: [(request: DHCPv4Request, to: IPv4Address)] = []
  var probes: [IPv4Address] = []
  var bound: [DHCPLease] = []
  var lost = 0
  /// What the last message was taken for.
  var granted = false

  init(known: DHCPLease? = nil) {
    client.start(known: known, now: now)
    drain()
  }

  mutating func drain() {
    while let action = client.nextAction() {
      switch action {
      case .send(let request, let to): sent.append((request, to))
      case .probe(let address): probes.append(address)
      case .bound(let lease): bound.append(lease)
      case .lost: lost += 1
      }
    }
  }

  /// Lets time pass, with all that is due meanwhile.
  mutating func pass(_ interval: Interval) {
    let end = now + interval
    while client.nextDeadline <= end {
      now = max(now, client.nextDeadline)
      client.advance(to: now)
      drain()
    }
    now = end
  }

  mutating func receive(_ reply: Reply, xid: UInt32? = nil, hardware: MACAddress = hardware) {
    let bytes = reply.bytes(xid: xid ?? sent.last!.request.transactionID, hardware: hardware)
    granted = bytes.withUnsafeBytes { client.receive(DHCPv4Message($0)!, now: now) }
    drain()
  }

  /// All the way to a lease.
  mutating func lease(_ seconds: UInt32 = 3600) {
    receive(Reply(type: .offer))
    receive(Reply(type: .acknowledge, lease: seconds))
    pass(DHCPClient.probeTime)
  }

  var types: [DHCPMessageType] { sent.map(\.request.type) }
  /// Since the start of the bench, whole seconds.
  var seconds: Int { Int((now - Instant(nanoseconds: 5_000_000_000)).milliseconds / 1000) }
}

@Suite("DHCP client")
struct DHCPClientTests {
  @Test("RFC 2131 §3.1: discover, request, acknowledgment; the address is asked for by ARP, then ours")
  func fourMessages() {
    var bench = Bench()
    #expect(bench.client.state == .selecting && bench.types == [.discover])
    let discover = bench.sent[0]
    #expect(discover.to == .limitedBroadcast && discover.request.broadcast && discover.request.clientAddress == .any)
    #expect(discover.request.requestedAddress == nil && discover.request.serverIdentifier == nil)
    bench.receive(Reply(type: .offer))
    #expect(bench.client.state == .requesting && bench.types == [.discover, .request])
    let request = bench.sent[1]
    // RFC 2131 §4.3.2, table 4
    #expect(request.to == .limitedBroadcast && request.request.clientAddress == .any)
    #expect(request.request.requestedAddress == offered && request.request.serverIdentifier == server)
    #expect(request.request.transactionID == discover.request.transactionID)
    #expect(bench.probes == [offered])
    bench.receive(Reply(type: .acknowledge))
    #expect(bench.granted)
    #expect(bench.client.state == .probing && bench.bound.isEmpty && bench.probes == [offered, offered])
    bench.pass(.milliseconds(99))
    #expect(bench.bound.isEmpty)
    bench.pass(.milliseconds(1))
    #expect(bench.client.state == .bound && bench.bound.count == 1)
    #expect(bench.bound[0].address == offered && bench.bound[0].prefixLength == 24)
    #expect(bench.bound[0].routers.first == server && bench.lost == 0)
  }

  @Test("RFC 2131 §4.1: without an answer again after 4 s, 8 s … 64 s, each a second more or less; `secs` counts")
  func retransmission() {
    var bench = Bench()
    var times: [Int64] = [0]
    for _ in 0..<7 {
      let before = bench.sent.count
      while bench.sent.count == before {
        let due = bench.client.nextDeadline
        bench.pass(due - bench.now)
      }
      times.append((bench.now - Instant(nanoseconds: 5_000_000_000)).milliseconds)
    }
    for (i, expected) in [4, 8, 16, 32, 64, 64, 64].enumerated() {
      let gap = times[i + 1] - times[i]
      #expect(abs(gap - Int64(expected) * 1000) <= 1000, "\(i): \(gap)")
    }
    #expect(bench.types.allSatisfy { $0 == .discover })
    #expect(Set(bench.sent.map(\.request.transactionID)).count == 1)
    #expect(bench.sent.last!.request.seconds == UInt16(times.last! / 1000))
    // A late server is as good as any.
    bench.lease()
    #expect(bench.client.state == .bound)
  }

  @Test("RFC 2131 §3.1 (4): a request that nobody answers begins anew")
  func requestUnanswered() {
    var bench = Bench()
    bench.receive(Reply(type: .offer))
    bench.pass(.seconds(40))
    #expect(
      bench.types == [.discover, .request, .request, .request, .discover, .discover]
        || bench.types == [.discover, .request, .request, .request, .discover, .discover, .discover])
    #expect(bench.sent[4].request.transactionID != bench.sent[3].request.transactionID)
  }

  @Test("RFC 2131 §3.1 (5): refused, it begins anew, at once the first time, later ever more slowly")
  func refused() {
    var bench = Bench()
    bench.receive(Reply(type: .offer))
    // Another server's refusal is none (it was not asked).
    bench.receive(Reply(type: .refuse, from: IPv4Address(198, 18, 0, 77)))
    #expect(bench.client.state == .requesting)
    bench.receive(Reply(type: .refuse))
    #expect(bench.client.state == .selecting && bench.types == [.discover, .request, .discover] && bench.seconds == 0)
    for wait in [1, 2, 4] {
      bench.receive(Reply(type: .offer))
      bench.receive(Reply(type: .refuse))
      #expect(bench.client.state == .initial)
      bench.pass(.seconds(wait) - .milliseconds(1))
      #expect(bench.client.state == .initial)
      bench.pass(.milliseconds(1))
      #expect(bench.client.state == .selecting)
    }
    bench.lease()
    #expect(bench.bound.count == 1)
  }

  @Test(
    "RFC 2131 §3.1 (5), RFC 5227 §2.1.1: an address that somebody has is declined; ten seconds later it begins anew")
  func declined() {
    var bench = Bench()
    bench.receive(Reply(type: .offer))
    #expect(bench.client.probed == offered)
    bench.receive(Reply(type: .acknowledge))
    bench.pass(.milliseconds(50))
    bench.client.conflict(now: bench.now)
    bench.drain()
    #expect(bench.client.state == .initial && bench.types == [.discover, .request, .decline])
    let decline = bench.sent[2]
    #expect(decline.to == .limitedBroadcast && decline.request.clientAddress == .any)
    #expect(decline.request.requestedAddress == offered && decline.request.serverIdentifier == server)
    bench.pass(.seconds(9))
    #expect(bench.sent.count == 3 && bench.bound.isEmpty)
    bench.pass(.seconds(1))
    #expect(bench.types.last == .discover && bench.client.state == .selecting)
  }

  @Test("the owner may answer the first probe, before the server has granted the address")
  func declinedEarly() {
    var bench = Bench()
    bench.receive(Reply(type: .offer))
    bench.client.conflict(now: bench.now)
    bench.drain()
    #expect(bench.client.state == .requesting)
    bench.receive(Reply(type: .acknowledge))
    #expect(bench.types.last == .decline && bench.client.state == .initial)
    #expect(bench.client.probed == nil)
  }

  @Test("RFC 2131 §4.4.5: renewed from the server at T1, half the lease; its times begin anew")
  func renewed() {
    var bench = Bench()
    bench.lease(3600)
    bench.pass(.seconds(1799))
    #expect(bench.types.last == .request && bench.sent.count == 2)
    bench.pass(.seconds(1))
    #expect(bench.client.state == .renewing && bench.sent.count == 3)
    let request = bench.sent[2]
    #expect(request.to == server && request.request.clientAddress == offered && !request.request.broadcast)
    #expect(request.request.requestedAddress == nil && request.request.serverIdentifier == nil)
    bench.receive(Reply(type: .acknowledge))
    #expect(bench.granted)
    #expect(bench.client.state == .bound && bench.bound.count == 2 && bench.lost == 0)
    // From when it was asked for, a probe's time ago.
    #expect(bench.bound[1].expiry == bench.now - DHCPClient.probeTime + .seconds(3600))
    // No probe: the address is in use already.
    #expect(bench.probes.count == 2)
  }

  @Test("RFC 2131 §4.4.5: half the time that is left between requests, from everybody at T2, and over at the end")
  func expiry() {
    var bench = Bench()
    bench.lease(3600)
    let begin = bench.bound[0].expiry - .seconds(3600)
    bench.pass(.seconds(3700))
    #expect(bench.lost == 1 && bench.client.lease == nil)
    var renewing = 0
    var rebinding = 0
    for (request, to) in bench.sent.dropFirst(2) where request.type == .request {
      if to == server { renewing += 1 } else { rebinding += 1 }
      #expect(request.clientAddress == offered)
    }
    // 1350 s from T1 to T2: halved down to a minute; 450 s from there to the end.
    #expect((4...7).contains(renewing) && (2...5).contains(rebinding))
    #expect(bench.types.last == .discover && bench.client.state == .selecting)
    #expect(bench.now > begin + .seconds(3600))
  }

  @Test("RFC 2131 §4.4.5: any server may prolong the lease when it is rebound")
  func rebound() {
    var bench = Bench()
    bench.lease(3600)
    bench.pass(.seconds(3200))
    #expect(bench.client.state == .rebinding && bench.sent.last!.to == .limitedBroadcast)
    let other = IPv4Address(198, 18, 0, 77)
    bench.receive(Reply(type: .acknowledge, from: other))
    #expect(bench.granted)
    #expect(bench.client.state == .bound && bench.client.lease?.server == other && bench.lost == 0)
  }

  @Test("a refusal takes the address away, whenever it comes")
  func refusedLater() {
    var bench = Bench()
    bench.lease(3600)
    bench.pass(.seconds(1800))
    bench.receive(Reply(type: .refuse))
    #expect(bench.lost == 1 && bench.client.lease == nil && bench.types.last == .discover)
  }

  @Test("RFC 2131 §3.2, §4.4.2: an earlier lease is used at once and confirmed")
  func reboot() throws {
    var first = Bench()
    first.lease(3600)
    let known = try #require(first.bound.first)
    var bench = Bench(known: known)
    #expect(bench.client.state == .rebooting && bench.bound.count == 1 && bench.types == [.request])
    let request = bench.sent[0]
    // §4.3.2: the address in option 50, no server, ciaddr empty, a broadcast.
    #expect(request.to == .limitedBroadcast && request.request.broadcast && request.request.clientAddress == .any)
    #expect(request.request.requestedAddress == offered && request.request.serverIdentifier == nil)
    bench.pass(.milliseconds(20))
    bench.receive(Reply(type: .acknowledge, lease: 7200))
    #expect(bench.granted)
    #expect(bench.client.state == .bound && bench.bound.count == 2 && bench.lost == 0 && bench.probes.isEmpty)
  }

  @Test("RFC 2131 §3.2 (3): a refusal of the earlier lease ends it")
  func rebootRefused() throws {
    var first = Bench()
    first.lease(3600)
    var bench = Bench(known: first.bound.first)
    bench.receive(Reply(type: .refuse))
    #expect(bench.lost == 1 && bench.types == [.request, .discover])
    bench.lease()
    #expect(bench.client.state == .bound)
  }

  @Test("RFC 2131 §3.2: nobody confirms it: it stays until it runs out, and is renewed in time")
  func rebootUnanswered() throws {
    var first = Bench()
    first.lease(3600)
    var bench = Bench(known: first.bound.first)
    bench.pass(.seconds(60))
    #expect(bench.types == [.request, .request, .request] && bench.client.state == .bound && bench.lost == 0)
    bench.pass(.seconds(1800))
    #expect(bench.client.state == .renewing && bench.sent.last!.to == server)
    bench.pass(.seconds(1800))
    #expect(bench.lost == 1)
  }

  @Test("a lease that has run out counts as none")
  func rebootTooLate() throws {
    var first = Bench()
    first.lease(3600)
    var known = try #require(first.bound.first)
    known.expiry = Instant(nanoseconds: 4_000_000_000)
    let bench = Bench(known: known)
    #expect(bench.client.state == .selecting && bench.bound.isEmpty && bench.types == [.discover])
  }

  @Test("a server that answers the reboot with another address: the old one goes, the new one is probed first")
  func rebootElsewhere() throws {
    var first = Bench()
    first.lease(3600)
    var bench = Bench(known: first.bound.first)
    let other = IPv4Address(198, 18, 0, 51)
    bench.receive(Reply(type: .acknowledge, address: other))
    #expect(bench.lost == 1 && bench.client.state == .probing && bench.probes == [other])
    bench.pass(DHCPClient.probeTime)
    #expect(bench.client.lease?.address == other && bench.client.state == .bound)
  }

  @Test("RFC 2131 §3.3: all ones is for ever")
  func forEver() {
    var bench = Bench()
    bench.lease(.max)
    bench.pass(.seconds(100_000_000))
    #expect(bench.client.state == .bound && bench.sent.count == 2 && bench.bound[0].expiry == .distantFuture)
  }

  @Test("RFC 2131 §4.4.5: T1 and T2 as the server says, its mistakes put right")
  func times() throws {
    func lease(_ t1: UInt32?, _ t2: UInt32?, _ seconds: UInt32 = 1000) throws -> (Int64, Int64) {
      var reply = Reply(type: .acknowledge, lease: seconds)
      if let t1 { reply.more.append((58, Reply.word(t1))) }
      if let t2 { reply.more.append((59, Reply.word(t2))) }
      let bytes = reply.bytes(xid: 1)
      let lease = try bytes.withUnsafeBytes { try #require(DHCPLease(DHCPv4Message($0)!, asked: .zero)) }
      #expect(lease.renewal < lease.rebinding && lease.rebinding < lease.expiry)
      return (lease.renewal.milliseconds / 1000, lease.rebinding.milliseconds / 1000)
    }
    #expect(try lease(nil, nil) == (500, 875))
    #expect(try lease(100, 200) == (100, 200))
    #expect(try lease(900, nil) == (500, 875))
    #expect(try lease(nil, 2000) == (500, 875))
    #expect(try lease(nil, 400).1 == 400)
    #expect(try lease(0, 0) == (500, 875))
    _ = try lease(nil, nil, 1)
    _ = try lease(nil, nil, .max - 1)
  }

  @Test("what is not for us, not now, or says too little changes nothing")
  func strangers() {
    var bench = Bench()
    bench.receive(Reply(type: .offer), xid: 12345)
    bench.receive(Reply(type: .offer), hardware: MACAddress(bits: 0x02_00_00_00_00_02))
    bench.receive(Reply(type: .acknowledge))
    bench.receive(Reply(type: .refuse))
    bench.receive(Reply(type: .offer, from: nil))
    bench.receive(Reply(type: .offer, address: IPv4Address(0, 0, 0, 0)))
    bench.receive(Reply(type: .offer, address: IPv4Address(224, 0, 0, 1)))
    bench.receive(Reply(type: .offer, address: .limitedBroadcast))
    bench.receive(Reply(type: .offer, address: IPv4Address(127, 0, 0, 1)))
    #expect(bench.client.state == .selecting && bench.sent.count == 1)
    bench.receive(Reply(type: .offer))
    // No lease time, no server, a lease of no time.
    bench.receive(Reply(type: .acknowledge, lease: nil))
    #expect(!bench.granted)
    bench.receive(Reply(type: .acknowledge, from: nil))
    #expect(!bench.granted)
    bench.receive(Reply(type: .acknowledge, lease: 0))
    #expect(!bench.granted)
    #expect(bench.client.state == .requesting)
    // A second offer comes too late.
    bench.receive(Reply(type: .offer, address: IPv4Address(198, 18, 0, 99)))
    #expect(bench.sent.last!.request.requestedAddress == offered)
    bench.receive(Reply(type: .acknowledge))
    bench.pass(.seconds(1))
    #expect(bench.client.state == .bound)
  }
}

/// A stack without an address, and frames made by hand.
private final class LeasedStack {
  var stack: Stack
  var now = Instant(nanoseconds: 5_000_000_000)
  static let serverHardware = MACAddress(bits: 0x02_0a_0b_0c_0d_0e)

  init(known: [UInt8]? = nil, gateway: IPv4Address? = nil, index: Int = 0, count: Int = 1) {
    var configuration = StackConfiguration()
    configuration.address = .any
    configuration.secret = HashKey(1, 2)
    configuration.stackIndex = index
    configuration.stackCount = count
    stack = Stack(configuration, now: now)
    guard index == 0 else { return }
    if let known {
      known.withUnsafeBytes { stack.startDHCP(known: $0, asked: now - .seconds(60), gateway: gateway, now: now) }
    } else {
      stack.startDHCP(known: nil, asked: .zero, gateway: gateway, now: now)
    }
  }

  func sent() -> [[UInt8]] { stack.takeFrames().map(\.bytes) }

  /// DHCP messages among the frames: destination of the packet, type, transaction.
  func messages() -> [(to: IPv4Address, type: DHCPMessageType, xid: UInt32)] {
    sent().compactMap { frame in
      guard frame.count > 14 + 28 + 240, frame[12...13] == [8, 0], frame[23] == 17 else { return nil }
      return frame.withUnsafeBytes { raw in
        let base = raw.baseAddress! + 14
        let (header, _) = IPv4Header.parse(
          UnsafeRawBufferPointer(start: base, count: raw.count - 14), length: raw.count - 14)
        let udp = UDPHeader(UnsafeRawBufferPointer(start: base + 20, count: raw.count - 34))!
        let message = DHCPv4Message(UnsafeRawBufferPointer(start: base + 28, count: raw.count - 42))!
        #expect(udp.sourcePort == 68 && udp.destinationPort == 67)
        let pseudo = Checksum.pseudoHeader(
          source: IPAddress(header!.source), destination: IPAddress(header!.destination), proto: 17,
          length: udp.totalLength)
        let sum = Checksum.sum(UnsafeRawBufferPointer(start: base + 20, count: udp.totalLength), pseudo)
        #expect(Checksum.fold(sum) == 0xffff)
        return (header!.destination, message.type, message.transactionID)
      }
    }
  }

  func receive(_ frame: [UInt8]) { stack.receiveFrame(frame, now: now) }

  func receive(_ reply: Reply, xid: UInt32, to: IPv4Address = .limitedBroadcast) {
    let payload = reply.bytes(xid: xid)
    var bytes = [UInt8](repeating: 0, count: 14 + 28) + payload
    bytes.withUnsafeMutableBytes { raw in
      let base = raw.baseAddress!
      EthernetHeader(
        destination: to == .limitedBroadcast ? .broadcast : hardware, source: Self.serverHardware,
        etherType: EtherType.ipv4
      ).write(to: base)
      IPv4Header(proto: 17, source: server, destination: to, payloadLength: payload.count + 8).write(to: base + 14)
      UDPHeader(sourcePort: 67, destinationPort: 68, totalLength: payload.count + 8).write(to: base + 34)
    }
    receive(bytes)
  }

  func arp(_ packet: ARPPacket) {
    var bytes = [UInt8](repeating: 0, count: 42)
    bytes.withUnsafeMutableBytes {
      EthernetHeader(destination: .broadcast, source: Self.serverHardware, etherType: EtherType.arp).write(
        to: $0.baseAddress!)
      packet.write(to: $0.baseAddress! + 14)
    }
    receive(bytes)
  }

  func pass(_ interval: Interval) {
    let end = now + interval
    while let deadline = stack.nextDeadline(), deadline <= end {
      now = max(now, deadline)
      stack.advance(to: now)
    }
    now = end
  }

  func lease(_ reply: Reply = Reply(type: .acknowledge)) {
    let xid = messages().last!.xid
    receive(Reply(type: .offer), xid: xid)
    receive(reply, xid: xid)
    pass(DHCPClient.probeTime)
  }

  func bind(_ socket: SocketHandle, _ local: Endpoint) throws { try stack.bind(socket, to: local, now: now) }
  func connect(_ socket: SocketHandle, _ remote: Endpoint) throws { try stack.connect(socket, to: remote, now: now) }
  func news() -> (lease: DHCPLease?, granting: UnsafeRawBufferPointer, asked: Instant) { stack.takeLeaseNews() }
  var hasNews: Bool { stack.hasLeaseNews }
  func event() -> TraceKind? { stack.trace.next()?.kind }
  var notForUs: UInt64 { stack.statistics[drop: .ipNotForUs] }
  var current: DHCPLease? { stack.lease }
  var address: IPv4Address { stack.addresses.ipv4 }
  var addressCount: Int { stack.addresses.count }
  var routeCount: Int { stack.routes.count }
  var generation: UInt32 { stack.routes.generation }

  func way(to address: IPv4Address) -> RouteDecision? { stack.routes.lookup(IPAddress(address), now: now) }
}

@Suite("DHCP in the stack")
struct DHCPStackTests {
  @Test(
    "no room among the addresses for the leased one: it is no lease of ours, no route leads from it, and the log has it"
  )
  func noRoom() {
    let host = LeasedStack()
    var i = 0
    while host.addressCount < InterfaceAddresses.maximumCount {
      host.stack.addAddress(
        InterfaceAddress(
          IPAddress(high: 0x2001_0db8_0000_0000, low: UInt64(100 + i)), prefixLength: 64, state: .preferred,
          origin: .configured))
      i += 1
    }
    host.stack.trace.filter.set(.ip, .error)
    host.lease()
    #expect(host.address == .any && host.current == nil)
    #expect(host.event() == .leaseHasNoRoom)
    #expect(host.way(to: server) == nil && host.way(to: IPv4Address(10, 0, 0, 1)) == nil)
    #expect(host.hasNews && host.news().lease == nil)
    // Once there is room, the next acknowledgment gives the address.
    host.stack.removeAddress(IPAddress(high: 0x2001_0db8_0000_0000, low: 100))
    host.pass(.seconds(3200))
    host.receive(Reply(type: .acknowledge), xid: host.messages().last!.xid)
    #expect(host.address == offered && host.news().lease?.address == offered)
  }

  @Test("RFC 2132 §5.1: the lease's MTU goes for configured routes, too")
  func configuredRoute() {
    let host = LeasedStack()
    var reply = Reply(type: .acknowledge)
    reply.more.append((26, [5, 120]))
    host.lease(reply)
    let far = IPv4Address(203, 0, 113, 0)
    for (wanted, expected) in [(1500, 1400), (1300, 1300)] {
      host.stack.addRoute(
        Route(
          prefix: IPAddress(far), prefixLength: 24, gateway: IPAddress(server), source: IPAddress(offered), mtu: wanted)
      )
      #expect(host.way(to: far)?.mtu == expected)
    }
  }

  @Test("from no address at all to one with a network, a gateway and an MTU; announced")
  func lease() {
    let host = LeasedStack()
    #expect(host.address == .any && host.way(to: server) == nil)
    var reply = Reply(type: .acknowledge)
    reply.more.append((26, [5, 120]))
    host.lease(reply)
    #expect(host.address == offered)
    #expect(host.way(to: server)?.mtu == 1400 && host.way(to: server)?.nextHop == IPAddress(server))
    #expect(host.way(to: IPv4Address(10, 0, 0, 1))?.nextHop == IPAddress(server))
    #expect(host.way(to: IPv4Address(198, 18, 0, 255))?.kind == .broadcast)
    #expect(host.hasNews)
    let (news, granting, asked) = host.news()
    #expect(news?.address == offered && asked == Instant(nanoseconds: 5_000_000_000) && !host.hasNews)
    #expect(DHCPv4Message(granting)?.yourAddress == offered)
    let frames = host.sent().filter { $0[12...13] == [8, 6] }
    // Two probes from 0.0.0.0, one announcement.
    #expect(frames.map { Array($0[28..<32]) } == [[0, 0, 0, 0], [0, 0, 0, 0], [198, 18, 0, 50]])
  }

  @Test("a server that answers to the address it offers is heard, until there is an address; others' ports are not")
  func unicastOffer() {
    let host = LeasedStack()
    let xid = host.messages().last!.xid
    host.receive(Reply(type: .offer), xid: xid, to: offered)
    host.receive(Reply(type: .acknowledge), xid: xid, to: offered)
    host.pass(DHCPClient.probeTime)
    #expect(host.address == offered)
    let other = LeasedStack(index: 1, count: 2)
    other.receive(Reply(type: .offer), xid: xid, to: offered)
    var strays = other.stack.takeStrays()
    #expect(!strays.isEmpty)
    other.stack.release(&strays)
    let before = host.notForUs
    host.receive(Reply(type: .offer), xid: xid, to: IPv4Address(198, 18, 0, 51))
    #expect(host.notForUs == before + 1)
  }

  @Test("RFC 3442: classless routes instead of the router; 0.0.0.0 is on the link; a configured gateway wins")
  func classless() {
    var reply = Reply(type: .acknowledge)
    reply.more.append((121, [8, 10, 198, 18, 0, 7, 24, 192, 0, 2, 0, 0, 0, 0]))
    let host = LeasedStack()
    host.lease(reply)
    #expect(host.way(to: IPv4Address(10, 0, 0, 1))?.nextHop == IPAddress(IPv4Address(198, 18, 0, 7)))
    #expect(host.way(to: IPv4Address(192, 0, 2, 1))?.nextHop == IPAddress(IPv4Address(192, 0, 2, 1)))
    #expect(host.way(to: IPv4Address(11, 0, 0, 1)) == nil)
    let other = LeasedStack(gateway: IPv4Address(198, 18, 0, 9))
    other.lease(reply)
    #expect(other.way(to: IPv4Address(11, 0, 0, 1))?.nextHop == IPAddress(IPv4Address(198, 18, 0, 9)))
  }

  @Test("RFC 2131 §4.4.5: when the lease ends, address and routes go; new sockets find no way, no address")
  func expiry() throws {
    let host = LeasedStack()
    host.lease(Reply(type: .acknowledge, lease: 600))
    _ = host.news()
    let socket = try host.stack.open(.stream, isIPv6: false, cookie: 1, now: host.now)
    try host.stack.bind(socket, to: Endpoint(IPAddress(offered), 7000), now: host.now)
    host.pass(.seconds(601))
    #expect(host.hasNews && host.current == nil && host.news().lease == nil)
    #expect(host.address == .any && host.way(to: server) == nil && host.routeCount == 0)
    let late = try host.stack.open(.stream, isIPv6: false, cookie: 2, now: host.now)
    #expect(throws: SocketError.addressNotAvailable) { try host.bind(late, Endpoint(IPAddress(offered), 7001)) }
    #expect(throws: SocketError.networkUnreachable) { try host.connect(late, Endpoint(IPAddress(server), 80)) }
    // It goes on asking.
    #expect(host.messages().last?.type == .discover)
  }

  @Test("RFC 2131 §4.4.5: a connection does not send from an address whose lease has ended; leased again, it goes on")
  func connectionAfterTheLease() throws {
    let host = LeasedStack()
    host.lease()
    let socket = try host.stack.open(.stream, isIPv6: false, cookie: 1, now: host.now)
    #expect(throws: SocketError.inProgress) { try host.connect(socket, Endpoint(IPAddress(server), 80)) }
    host.stack.finishBatch(now: host.now)
    host.arp(
      ARPPacket(
        operation: ARPPacket.reply, senderHardware: LeasedStack.serverHardware, senderProtocol: server,
        targetHardware: hardware, targetProtocol: offered))
    func segments() -> Int { host.sent().filter { $0[12...13] == [8, 0] && $0[23] == 6 }.count }
    #expect(segments() == 1)
    let lease = host.current!
    host.stack.uninstallLease()
    host.pass(.seconds(4))
    #expect(segments() == 0)
    host.stack.install(lease, gateway: nil)
    host.pass(.seconds(8))
    #expect(segments() >= 1)
  }

  @Test("renewed from our address, by unicast: no route is lost meanwhile, no second announcement")
  func renewal() {
    let host = LeasedStack()
    host.lease(Reply(type: .acknowledge, lease: 600))
    _ = host.sent()
    let generation = host.generation
    host.pass(.seconds(300))
    // Where the server is has to be asked first.
    host.arp(
      ARPPacket(
        operation: ARPPacket.reply, senderHardware: LeasedStack.serverHardware, senderProtocol: server,
        targetHardware: hardware, targetProtocol: offered))
    let message = host.messages().last
    #expect(message?.type == .request && message?.to == server)
    host.receive(Reply(type: .acknowledge, lease: 600), xid: message?.xid ?? 0, to: offered)
    #expect(host.current?.expiry == host.now - DHCPClient.probeTime + .seconds(600))
    #expect(host.generation == generation && host.hasNews)
    #expect(host.sent().isEmpty)
  }

  @Test(
    "RFC 5227 §2.1.1: an answer to the probe, or another's probe for the same address, declines it",
    arguments: [true, false])
  func conflict(answers: Bool) {
    let host = LeasedStack()
    let xid = host.messages().last!.xid
    host.receive(Reply(type: .offer), xid: xid)
    host.receive(Reply(type: .acknowledge), xid: xid)
    // The server itself asks whether the address is free: no conflict. Nor is our own probe, come back.
    host.arp(
      ARPPacket(
        operation: ARPPacket.request, senderHardware: LeasedStack.serverHardware, senderProtocol: server,
        targetHardware: .zero, targetProtocol: offered))
    host.arp(
      ARPPacket(
        operation: ARPPacket.request, senderHardware: hardware, senderProtocol: .any, targetHardware: .zero,
        targetProtocol: offered))
    host.arp(
      ARPPacket(
        operation: answers ? ARPPacket.reply : ARPPacket.request, senderHardware: LeasedStack.serverHardware,
        senderProtocol: answers ? offered : .any, targetHardware: answers ? hardware : .zero, targetProtocol: offered))
    host.pass(.seconds(1))
    #expect(host.messages().map(\.type) == [.request, .decline] && host.current == nil)
  }

  @Test("an earlier run's message gives the address at once; another device's, or a broken one, does not")
  func known() {
    let host = LeasedStack(known: Reply(type: .acknowledge).bytes(xid: 3))
    #expect(host.address == offered && host.hasNews)
    #expect(host.current?.expiry == host.now + .seconds(3540))
    #expect(host.messages().map(\.type) == [.request])
    let (_, granting, asked) = host.news()
    #expect(granting.count > 240 && asked == host.now - .seconds(60))
    let foreign = Reply(type: .acknowledge).bytes(xid: 3, hardware: LeasedStack.serverHardware)
    for bytes in [
      foreign, Reply(type: .acknowledge, lease: 60).bytes(xid: 3), [1, 2, 3], Reply(type: .offer).bytes(xid: 3),
    ] {
      let other = LeasedStack(known: bytes)
      #expect(other.address == .any && other.messages().map(\.type) == [.discover])
    }
  }

  @Test("of several stacks the first has the client; the others take its lease, answer no message, announce nothing")
  func several() {
    let second = LeasedStack(index: 1, count: 2)
    #expect(second.sent().isEmpty)
    let first = LeasedStack(count: 2)
    first.lease()
    let lease = first.news().lease!
    second.stack.install(lease, gateway: nil)
    #expect(second.address == offered && second.sent().isEmpty)
    #expect(second.way(to: IPv4Address(10, 0, 0, 1))?.nextHop == IPAddress(server))
    second.receive(Reply(type: .acknowledge), xid: 1)
    var strays = second.stack.takeStrays()
    #expect(!strays.isEmpty)
    second.stack.release(&strays)
    second.stack.uninstallLease()
    #expect(second.addressCount == 0 && second.routeCount == 0)
  }

  @Test("random messages to the client's port do no harm")
  func fuzz() {
    let host = LeasedStack()
    var random = SeededRandom(seed: 5)
    for _ in 0..<2000 {
      let xid = host.messages().last?.xid ?? 0
      var reply = Reply(type: DHCPMessageType(rawValue: UInt8(random.next() % 8) + 1)!)
      reply.address = IPv4Address(bits: UInt32(truncatingIfNeeded: random.next()))
      reply.lease = UInt32(truncatingIfNeeded: random.next())
      reply.more = [
        (
          UInt8(truncatingIfNeeded: random.next()),
          (0..<random.next() % 20).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        )
      ]
      host.receive(reply, xid: xid)
      host.pass(.milliseconds(Int(random.next() % 5000)))
    }
    let (packets, _) = host.stack.leakReport()
    #expect(packets == 0)
  }
}
