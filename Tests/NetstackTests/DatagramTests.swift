// Datagram sockets of a whole stack: SO_REUSEPORT groups, error queues, segments, multicast with IGMP, ping and raw sockets.

import Netstack
import Testing
import Wire

private let here = IPv4Address(198, 18, 0, 4)
private let peer = IPv4Address(198, 18, 0, 5)
private let group = IPv4Address(239, 7, 7, 7)

/// A stack on Ethernet whose peer is known, and frames made by hand.
private final class Bench {
  var stack: Stack
  var now = Instant(nanoseconds: 5_000_000_000)
  let peerMAC = MACAddress(bits: 0x02_0a_0b_0c_0d_0e)
  let ourMAC = MACAddress(bits: 0x02_00_00_00_00_01)

  init(_ change: (inout StackConfiguration) -> Void = { _ in }) {
    var configuration = StackConfiguration()
    configuration.address = here
    configuration.gateway = peer
    configuration.secret = HashKey(1, 2)
    change(&configuration)
    stack = Stack(configuration, now: now)
    var arp = [UInt8](repeating: 0, count: 28)
    arp.withUnsafeMutableBytes {
      ARPPacket(
        operation: ARPPacket.request, senderHardware: peerMAC, senderProtocol: peer, targetHardware: .zero,
        targetProtocol: here
      ).write(to: $0.baseAddress!)
    }
    receive(arp, EtherType.arp, to: .broadcast)
    _ = sent()
  }

  struct Sent {
    var bytes: [UInt8]
    var segmentSize: Int
    var ip: IPv4Header { bytes[14...].withUnsafeBytes { IPv4Header(quoted: UnsafeRawBufferPointer($0))! } }
    /// Behind the IP header.
    var payload: [UInt8] { Array(bytes[(14 + ip.headerLength)...]) }
  }

  func sent() -> [Sent] { stack.takeFrames().map { Sent(bytes: $0.bytes, segmentSize: $0.segmentSize) } }

  func receive(_ payload: [UInt8], _ etherType: UInt16, to: MACAddress? = nil, segmentSize: Int = 0) {
    var bytes = [UInt8](repeating: 0, count: 14)
    bytes.withUnsafeMutableBytes {
      EthernetHeader(destination: to ?? ourMAC, source: peerMAC, etherType: etherType).write(to: $0.baseAddress!)
    }
    stack.receiveFrame(bytes + payload, now: now, segmentSize: segmentSize)
  }

  func receiveIP(
    _ proto: UInt8, _ payload: [UInt8], from: IPv4Address = peer, to: IPv4Address = here, segmentSize: Int = 0
  ) {
    var bytes = [UInt8](repeating: 0, count: 20)
    bytes.withUnsafeMutableBytes {
      IPv4Header(proto: proto, source: from, destination: to, payloadLength: payload.count).write(to: $0.baseAddress!)
    }
    receive(
      bytes + payload, EtherType.ipv4, to: to.isMulticast ? MACAddress(group: IPAddress(to)) : nil,
      segmentSize: segmentSize)
  }

  func receiveUDP(
    _ payload: [UInt8], from: IPv4Address = peer, port: UInt16 = 5000, to: IPv4Address = here, _ destination: UInt16,
    segmentSize: Int = 0
  ) {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    bytes.withUnsafeMutableBytes {
      UDPHeader(sourcePort: port, destinationPort: destination, totalLength: $0.count).write(to: $0.baseAddress!)
    }
    receiveIP(IPProtocol.udp, bytes, from: from, to: to, segmentSize: segmentSize)
  }

  /// An ICMP error about a packet of ours, quoted in full.
  func receiveError(_ type: UInt8, _ code: UInt8, rest: UInt32 = 0, about frame: Sent, from: IPv4Address = peer) {
    receiveIP(IPProtocol.icmp, icmp(type, code, rest: rest, Array(frame.bytes[14...])), from: from)
  }

  func icmp(_ type: UInt8, _ code: UInt8, rest: UInt32 = 0, _ payload: [UInt8] = []) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    bytes.withUnsafeMutableBytes {
      ICMPHeader(type: type, code: code, rest: rest).write(to: $0.baseAddress!)
      $0.baseAddress!.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0))), at: 2)
    }
    return bytes
  }

  func udp(_ port: UInt16? = nil, _ options: [SocketOption] = []) throws -> SocketHandle {
    let socket = try stack.open(.datagram, isIPv6: false, cookie: 1, now: now)
    for option in options { try stack.setOption(socket, option, 1, now: now) }
    if let port { try stack.bind(socket, to: Endpoint(.anyIPv4, port), now: now) }
    return socket
  }

  func send(_ socket: SocketHandle, _ bytes: [UInt8], to: IPv4Address = peer, port: UInt16 = 5000) throws {
    _ = try bytes.withUnsafeBytes {
      try stack.sendDatagram(socket, $0, to: Endpoint(IPAddress(to), port), now: now)
    }
  }

  /// The next datagram; nil where there is none.
  func take(_ socket: SocketHandle) -> (bytes: [UInt8], segmentSize: Int)? {
    var buffer = [UInt8](repeating: 0, count: 70000)
    let result = buffer.withUnsafeMutableBytes {
      try? stack.receiveDatagram(socket, into: $0, flags: [], now: now)
    }
    return result.map { (Array(buffer[..<$0.copied]), $0.segmentSize) }
  }

  func takeError(_ socket: SocketHandle) -> (error: ReceivedError, bytes: [UInt8])? {
    var buffer = [UInt8](repeating: 0, count: 2000)
    let result = buffer.withUnsafeMutableBytes { stack.receiveError(socket, into: $0) }
    return result.map { ($0, Array(buffer[..<$0.datagram.copied])) }
  }

  func pass(_ interval: Interval) { stack.pass(interval, from: &now) }
}

@Suite("Datagram sockets")
struct DatagramTests {
  @Test("A SO_REUSEPORT group shares out senders, and each sender has one socket")
  func reusePort() throws {
    let bench = Bench()
    let sockets = try (0..<4).map { _ in try bench.udp(7000, [.reusePort]) }
    for port in UInt16(1000)..<1200 {
      bench.receiveUDP([1], port: port, 7000)
      bench.receiveUDP([2], port: port, 7000)
    }
    let counts = sockets.map { socket in
      var count = 0
      while bench.take(socket) != nil { count += 1 }
      return count
    }
    #expect(counts.reduce(0, +) == 400)
    for count in counts { #expect(count % 2 == 0 && count > 40, "\(counts)") }
    // One that has a peer is not for others'.
    try bench.stack.connect(sockets[0], to: Endpoint(IPAddress(peer), 9), now: bench.now)
    for port in UInt16(1000)..<1050 { bench.receiveUDP([1], port: port, 7000) }
    #expect(bench.take(sockets[0]) == nil)
    sockets.forEach { bench.stack.close($0, now: bench.now) }
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("IP_RECVERR: errors wait in a queue, with who said it and what it was about; SO_ERROR tells the first")
  func errorQueue() throws {
    let bench = Bench()
    let socket = try bench.udp(7000, [.receiveErrors])
    try bench.send(socket, [1, 2, 3], port: 9)
    try bench.send(socket, [4, 5], port: 10)
    let frames = bench.sent()
    bench.receiveError(3, 3, about: frames[0])
    bench.receiveError(11, 0, about: frames[1], from: IPv4Address(198, 18, 0, 77))
    #expect(bench.stack.readiness(socket).contains(.error))
    #expect(bench.stack.takeError(socket) == .hostUnreachable)
    let first = try #require(bench.takeError(socket))
    #expect(first.bytes == [1, 2, 3])
    #expect(first.error.record.error == .connectionRefused && first.error.record.origin == .icmp)
    #expect(first.error.record.type == 3 && first.error.record.code == 3)
    #expect(first.error.record.offender == IPAddress(peer))
    #expect(first.error.datagram.source == Endpoint(IPAddress(peer), 9))
    #expect(bench.stack.takeError(socket) == .hostUnreachable, "the next one's")
    let second = try #require(bench.takeError(socket))
    #expect(second.bytes == [4, 5] && second.error.record.offender == IPAddress(IPv4Address(198, 18, 0, 77)))
    #expect(bench.stack.takeError(socket) == nil)
    #expect(bench.takeError(socket) == nil)
    #expect(!bench.stack.readiness(socket).contains(.error))
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("Without IP_RECVERR a socket that is not connected hears nothing; the queue has a limit")
  func errorsUnasked() throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    try bench.send(socket, [1])
    let frame = bench.sent()[0]
    bench.receiveError(3, 3, about: frame)
    #expect(bench.stack.takeError(socket) == nil)
    try bench.stack.setOption(socket, .receiveErrors, 1, now: bench.now)
    for _ in 0..<1000 { bench.receiveError(3, 3, about: frame) }
    var count = 0
    while bench.takeError(socket) != nil { count += 1 }
    #expect(count > 10 && count < 200)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("UDP_SEGMENT: one super-frame where the device cuts, datagrams where it does not", arguments: [true, false])
  func segments(offload: Bool) throws {
    let bench = Bench {
      $0.device.checksumOffload = offload
      $0.device.udpSegmentation = offload
    }
    let socket = try bench.udp(7000)
    try bench.stack.setOption(socket, DatagramOption.segmentSize, 1000, now: bench.now)
    try bench.send(socket, [UInt8](repeating: 7, count: 2500))
    let frames = bench.sent()
    if offload {
      #expect(frames.count == 1 && frames[0].segmentSize == 1000 && frames[0].payload.count == 2508)
    } else {
      #expect(frames.map { $0.payload.count } == [1008, 1008, 508])
      for frame in frames {
        let pseudo = Checksum.pseudoHeader(
          source: IPAddress(here), destination: IPAddress(peer), proto: IPProtocol.udp, length: frame.payload.count)
        let sum = frame.payload.withUnsafeBytes { Checksum.fold(Checksum.sum($0, pseudo)) }
        #expect(sum == 0xffff)
      }
    }
    #expect(bench.stack.statistics[.udpOutDatagrams] == 3)
    #expect(throws: SocketError.messageTooLong) { try bench.send(socket, [UInt8](repeating: 7, count: 65508)) }
    try bench.stack.setOption(socket, DatagramOption.segmentSize, 10, now: bench.now)
    #expect(throws: SocketError.invalidArgument, "more than 128") {
      try bench.send(socket, [UInt8](repeating: 7, count: 1290))
    }
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("A received super-frame is given out datagram by datagram, or whole with UDP_GRO")
  func receivedSegments() throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    let payload = (0..<3300).map { UInt8(truncatingIfNeeded: $0) }
    bench.receiveUDP(payload, 7000, segmentSize: 1000)
    #expect(bench.stack.unreadBytes(socket) == 1000)
    var whole: [UInt8] = []
    for size in [1000, 1000, 1000, 300] {
      let taken = try #require(bench.take(socket))
      #expect(taken.bytes.count == size && taken.segmentSize == 0)
      whole += taken.bytes
    }
    #expect(whole == payload && bench.take(socket) == nil)
    try bench.stack.setOption(socket, DatagramOption.receivesSegments, 1, now: bench.now)
    bench.receiveUDP(payload, 7000, segmentSize: 1000)
    let taken = try #require(bench.take(socket))
    #expect(taken.bytes == payload && taken.segmentSize == 1000)
    bench.receiveUDP([1], 7000)
    #expect(bench.take(socket)?.segmentSize == 0)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("MSG_MORE and UDP_CORK put a datagram together")
  func cork() throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    var message = DatagramMessage(to: Endpoint(IPAddress(peer), 9))
    message.more = true
    _ = try [UInt8]([1, 2]).withUnsafeBytes { try bench.stack.sendDatagram(socket, $0, message, now: bench.now) }
    #expect(bench.sent().isEmpty)
    try bench.send(socket, [3], port: 77)
    let frames = bench.sent()
    #expect(frames.count == 1 && Array(frames[0].payload[8...]) == [1, 2, 3])
    #expect(frames[0].payload[2...3] == [0, 9], "the first call says where it goes")
    try bench.stack.setOption(socket, DatagramOption.isCorked, 1, now: bench.now)
    try bench.send(socket, [4])
    #expect(bench.sent().isEmpty)
    try bench.stack.setOption(socket, DatagramOption.isCorked, 0, now: bench.now)
    #expect(bench.sent().count == 1)
    message.more = true
    _ = try [UInt8]([1, 2]).withUnsafeBytes { try bench.stack.sendDatagram(socket, $0, message, now: bench.now) }
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0) && bench.sent().isEmpty)
  }

  @Test("What was put together is copied into its frame: the memory that it was put together in is not lent")
  func corkedSegments() throws {
    let bench = Bench {
      $0.device.checksumOffload = true
      $0.device.udpSegmentation = true
    }
    let socket = try bench.udp(7000)
    try bench.stack.setOption(socket, DatagramOption.segmentSize, 1400, now: bench.now)
    let payload = (0..<40_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
    var message = DatagramMessage(to: Endpoint(IPAddress(peer), 9))
    message.mayLend = true
    message.more = true
    _ = try payload[..<20_000].withUnsafeBytes { try bench.stack.sendDatagram(socket, $0, message, now: bench.now) }
    message.more = false
    _ = try payload[20_000...].withUnsafeBytes { try bench.stack.sendDatagram(socket, $0, message, now: bench.now) }
    #expect(bench.stack.lentFrames(socket) == 0)
    let frames = bench.sent()
    #expect(frames.count == 1 && Array(frames[0].payload[8...]) == payload)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("IP_HDRINCL: a packet that does not fit one buffer leaves with the header that the program wrote")
  func largeWithHeader() throws {
    let bench = Bench { $0.device.mtu = 9000 }
    let raw = try bench.stack.openDatagram(.raw, proto: IPProtocol.raw, isIPv6: false, cookie: 1, now: bench.now)
    var packet = (0..<8000).map { UInt8(truncatingIfNeeded: $0 &* 5) }
    packet.withUnsafeMutableBytes {
      IPv4Header(proto: 99, source: here, destination: peer, payloadLength: 7980).write(to: $0.baseAddress!)
    }
    try bench.send(raw, packet)
    let frame = try #require(bench.sent().first)
    #expect(frame.bytes[14] == 0x45 && frame.bytes[23] == 99)
    #expect(frame.bytes[14..<34].withUnsafeBytes { Checksum.fold(Checksum.sum($0)) } == 0xffff)
    #expect(frame.bytes.count == 8014 && Array(frame.bytes[34...]) == Array(packet[20...]))
    bench.stack.close(raw, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("IP_RECVERR off: the errors that waited give their memory back to the receive buffer")
  func errorMemory() throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    try bench.stack.setOption(socket, .receiveBuffer, 4096, now: bench.now)
    try bench.send(socket, [1])
    let frame = bench.sent()[0]
    for _ in 0..<10 {
      try bench.stack.setOption(socket, .receiveErrors, 1, now: bench.now)
      for _ in 0..<10 { bench.receiveError(3, 3, about: frame) }
      try bench.stack.setOption(socket, .receiveErrors, 0, now: bench.now)
    }
    _ = bench.stack.takeError(socket)
    for i in 0..<8 { bench.receiveUDP([UInt8(i)], 7000) }
    for i in 0..<8 { #expect(bench.take(socket)?.bytes == [UInt8(i)]) }
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  /// ip(7), and Linux's ip_dont_fragment, ip_sk_use_pmtu, ip_sk_ignore_df.
  @Test("IP_MTU_DISCOVER: which modes set DF, which refuse, and which believe routers", arguments: 0...5)
  func mtuDiscover(mode: Int) throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    try bench.stack.setOption(socket, .mtuDiscover, mode, now: bench.now)
    func sizes(_ length: Int) -> [Int]? {
      do { try bench.send(socket, [UInt8](repeating: 7, count: length)) } catch { return nil }
      return bench.sent().map { $0.bytes.count - 14 }
    }
    try bench.send(socket, [1])
    #expect((bench.sent()[0].ip.flags & IPv4Header.flagDontFragment != 0) == (1...3).contains(mode))
    let refuses = (2...4).contains(mode)
    #expect(sizes(1473) == (refuses ? nil : [1500, 21]))
    // A router on the way takes 1400 bytes.
    try bench.stack.setOption(socket, .mtuDiscover, 2, now: bench.now)
    try bench.send(socket, [UInt8](repeating: 7, count: 1472))
    bench.receiveError(3, 4, rest: 1400, about: bench.sent()[0])
    _ = bench.stack.takeError(socket)
    try bench.stack.setOption(socket, .mtuDiscover, mode, now: bench.now)
    #expect(sizes(1472) == (mode >= 3 ? [1500] : refuses ? nil : [1396, 124]))
    // One takes less than we believe: the route's MTU is locked.
    try bench.stack.setOption(socket, .mtuDiscover, 2, now: bench.now)
    try bench.send(socket, [UInt8](repeating: 7, count: 1000))
    bench.receiveError(3, 4, rest: 100, about: bench.sent()[0])
    _ = bench.stack.takeError(socket)
    try bench.stack.setOption(socket, .mtuDiscover, mode, now: bench.now)
    try bench.send(socket, [1])
    #expect((bench.sent()[0].ip.flags & IPv4Header.flagDontFragment != 0) == (2...3).contains(mode))
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test(
    "Ping sockets: the identifier is the socket's, replies come by it; raw sockets get copies but for what they filter")
  func echoes() throws {
    let bench = Bench()
    let ping = try bench.stack.openDatagram(.ping, proto: IPProtocol.icmp, isIPv6: false, cookie: 1, now: bench.now)
    let raw = try bench.stack.openDatagram(.raw, proto: IPProtocol.icmp, isIPv6: false, cookie: 2, now: bench.now)
    try bench.send(ping, bench.icmp(8, 0, rest: 0x1234_0007, [9, 9]))
    let frame = bench.sent()[0]
    let identifier = UInt32(bench.stack.localEndpoint(ping).port)
    #expect(identifier != 0 && frame.payload.count == 10)
    #expect(frame.payload.withUnsafeBytes { Checksum.fold(Checksum.sum($0)) } == 0xffff)
    bench.receiveIP(IPProtocol.icmp, bench.icmp(0, 0, rest: identifier << 16 | 7, [9, 9]))
    #expect(bench.take(ping)?.bytes.count == 10)
    let copy = try #require(bench.take(raw))
    #expect(copy.bytes.count == 30 && copy.bytes[0] == 0x45, "from the IP header on")
    bench.receiveIP(IPProtocol.icmp, bench.icmp(0, 0, rest: (identifier ^ 1) << 16))
    #expect(bench.take(ping) == nil && bench.take(raw) != nil)
    try bench.stack.setOption(raw, DatagramOption.icmpFilter, 1, now: bench.now)
    bench.receiveIP(IPProtocol.icmp, bench.icmp(0, 0, rest: identifier << 16))
    #expect(bench.take(ping) != nil && bench.take(raw) == nil)
    #expect(throws: SocketError.invalidArgument) { try bench.send(ping, bench.icmp(0, 0)) }
    bench.stack.close(ping, now: bench.now)
    bench.stack.close(raw, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }
}

@Suite("IGMP")
struct IGMPTests {
  /// (type, source count) of each group record of the reports among `frames`.
  private func records(_ frames: [Bench.Sent]) -> [[Int]] {
    frames.filter { $0.ip.proto == IPProtocol.igmp }.map {
      #expect($0.ip.timeToLive == 1 && $0.ip.headerLength == 24)
      #expect($0.payload.withUnsafeBytes { Checksum.fold(Checksum.sum($0)) } == 0xffff)
      return [Int($0.payload[8]), Int($0.payload[11])]
    }
  }

  private func query(_ bench: Bench, group: IPv4Address = .any, sources: [IPv4Address] = [], isVersion2: Bool = false) {
    var bytes = [UInt8](repeating: 0, count: isVersion2 ? 8 : 12 + 4 * sources.count)
    bytes.withUnsafeMutableBytes {
      let base = $0.baseAddress!
      base.storeByte(0x11, at: 0)
      base.storeByte(50, at: 1)
      base.storeBigEndian32(group.bits, at: 4)
      if !isVersion2 { base.storeBigEndian16(UInt16(sources.count), at: 10) }
      for (i, source) in sources.enumerated() { base.storeBigEndian32(source.bits, at: 12 + 4 * i) }
      base.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0))), at: 2)
    }
    bench.receiveIP(IPProtocol.igmp, bytes, to: group == .any ? IPv4Address(224, 0, 0, 1) : group)
  }

  private func change(_ bench: Bench, _ socket: SocketHandle, _ change: Stack.MembershipChange) throws {
    try bench.stack.changeMembership(socket, IPAddress(group), change, now: bench.now)
  }

  @Test("RFC 3376 §5.1: joining and leaving are said at once and once more within a second")
  func joinAndLeave() throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    try change(bench, socket, .join)
    #expect(records(bench.sent()) == [[4, 0]], "CHANGE_TO_EXCLUDE")
    bench.pass(.milliseconds(1001))
    #expect(records(bench.sent()) == [[4, 0]])
    bench.pass(.seconds(5))
    #expect(records(bench.sent()).isEmpty)
    bench.receiveUDP([1], to: group, 7000)
    #expect(bench.take(socket) != nil)
    // A second member changes nothing, nor does the first to leave.
    let other = try bench.udp(7001)
    try change(bench, other, .join)
    try change(bench, other, .leave)
    #expect(records(bench.sent()).isEmpty)
    bench.stack.close(socket, now: bench.now)
    bench.pass(.seconds(5))
    #expect(records(bench.sent()) == [[3, 0], [3, 0]], "CHANGE_TO_INCLUDE of nothing")
    bench.receiveUDP([1], to: group, 7001)
    #expect(bench.take(other) == nil)
    bench.stack.close(other, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0))
  }

  @Test("RFC 3376 §5.2: queries are answered within their time, about the group or the sources that are asked for")
  func queries() throws {
    let bench = Bench()
    let socket = try bench.udp(7000)
    query(bench)
    bench.pass(.seconds(6))
    #expect(records(bench.sent()).isEmpty, "nothing to say")
    try change(bench, socket, .join)
    bench.pass(.seconds(2))
    _ = bench.sent()
    query(bench)
    #expect(records(bench.sent()).isEmpty)
    bench.pass(.milliseconds(5001))
    #expect(records(bench.sent()) == [[2, 0]], "MODE_IS_EXCLUDE")
    query(bench, group: IPv4Address(239, 1, 1, 1))
    query(bench, group: group, sources: [peer])
    bench.pass(.milliseconds(5001))
    #expect(records(bench.sent()) == [[1, 1]], "MODE_IS_INCLUDE, as the source is not excluded")
    try change(bench, socket, .block(IPAddress(peer)))
    #expect(records(bench.sent()) == [[6, 1]], "BLOCK_OLD_SOURCES")
    bench.pass(.seconds(2))
    _ = bench.sent()
    query(bench, group: group, sources: [peer])
    bench.pass(.milliseconds(5001))
    #expect(records(bench.sent()).isEmpty)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 3376 §3: a source-specific member hears its sources; filters of several sockets add up")
  func sources() throws {
    let bench = Bench()
    let other = IPv4Address(198, 18, 0, 77)
    let socket = try bench.udp(7000)
    try change(bench, socket, .joinSource(IPAddress(peer)))
    #expect(records(bench.sent()) == [[5, 1]], "ALLOW_NEW_SOURCES")
    bench.receiveUDP([1], to: group, 7000)
    bench.receiveUDP([2], from: other, to: group, 7000)
    #expect(bench.take(socket)?.bytes == [1])
    #expect(bench.take(socket) == nil)
    let second = try bench.udp(7001)
    try change(bench, second, .join)
    bench.pass(.seconds(2))
    #expect(records(bench.sent()).last == [4, 0])
    bench.receiveUDP([2], from: other, to: group, 7000)
    #expect(bench.take(socket) == nil, "what the other wants is not for this one")
    try change(bench, second, .leave)
    bench.pass(.seconds(2))
    #expect(records(bench.sent()).last == [3, 1])
    #expect(throws: SocketError.addressNotAvailable) { try change(bench, socket, .leaveSource(IPAddress(other))) }
    #expect(throws: SocketError.invalidArgument) { try change(bench, socket, .block(IPAddress(other))) }
    bench.stack.close(socket, now: bench.now)
    bench.stack.close(second, now: bench.now)
  }

  @Test("RFC 3376 §7.2.1: to a router of version 2 version 2 is spoken")
  func version2() throws {
    let bench = Bench()
    query(bench, isVersion2: true)
    let socket = try bench.udp(7000)
    try change(bench, socket, .join)
    let report = bench.sent()[0]
    #expect(report.payload[0] == 0x16 && report.ip.destination == group && report.payload.count == 8)
    bench.pass(.seconds(2))
    _ = bench.sent()
    try change(bench, socket, .leave)
    let leave = bench.sent()[0]
    #expect(leave.payload[0] == 0x17 && leave.ip.destination == IPv4Address(224, 0, 0, 2))
    bench.pass(.seconds(300))
    _ = bench.sent()
    try change(bench, socket, .join)
    #expect(bench.sent()[0].payload[0] == 0x22, "long after its last query")
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 3810 §5.2: over IPv6 a report of MLD version 2, behind a router alert, to ff02::16")
  func listenerReport() throws {
    let bench = Bench()
    let socket = try bench.stack.open(.datagram, isIPv6: true, cookie: 1, now: bench.now)
    let group = IPAddress(high: 0xff15 << 48, low: 7)
    try bench.stack.changeMembership(socket, group, .join, now: bench.now)
    let frame = try #require(bench.sent().first { $0.bytes[12...13] == [0x86, 0xdd] }).bytes
    #expect(frame[20] == 0 && frame[21] == 1, "hop-by-hop options, hop limit 1")
    #expect(Array(frame[54..<62]) == [58, 0, 5, 2, 0, 0, 1, 0])
    let message = Array(frame[62...])
    #expect(message[0] == 143 && message[7] == 1 && message[8] == 4, "one record: CHANGE_TO_EXCLUDE")
    #expect(message.withUnsafeBytes { IPAddress(reading16: $0.baseAddress!, at: 12) } == group)
    let (source, destination) = frame.withUnsafeBytes {
      (IPAddress(reading16: $0.baseAddress!, at: 22), IPAddress(reading16: $0.baseAddress!, at: 38))
    }
    #expect(destination == IPAddress(high: 0xff02 << 48, low: 0x16))
    let pseudo = Checksum.pseudoHeader(
      source: source, destination: destination, proto: IPProtocol.icmpv6, length: message.count)
    #expect(message.withUnsafeBytes { Checksum.fold(Checksum.sum($0, pseudo)) } == 0xffff)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.stack.leakReport() == (0, 0) || bench.stack.nextDeadline() != nil)
  }

  @Test("A filter that grew too large is one of everything; unions and intersections follow RFC 3376 §3.2")
  func merging() {
    func filter(_ isInclude: Bool, _ sources: [Int]) -> SourceFilter {
      var made = SourceFilter(isInclude: isInclude)
      for source in sources { made.insert(IPAddress(IPv4Address(bits: UInt32(source)))) }
      return made
    }
    #expect(filter(true, [1, 2]).merged(with: filter(true, [2, 3])) == filter(true, [1, 2, 3]))
    #expect(filter(false, [1, 2]).merged(with: filter(false, [2, 3])) == filter(false, [2]))
    #expect(filter(false, [1, 2]).merged(with: filter(true, [2, 3])) == filter(false, [1]))
    #expect(filter(true, [2, 3]).merged(with: filter(false, [1, 2])) == filter(false, [1]))
    #expect(filter(true, Array(1...20)).merged(with: filter(true, Array(21...40))) == .all)
  }
}
