// Owns: a stack on Ethernet that speaks IPv6, and frames made by hand, for the tests of IPv6. Addresses are written as text.

import Netstack
import Testing
import Wire

/// "2001:db8::4", as RFC 4291 §2.2 writes addresses (without dotted quads).
func six(_ text: String) -> IPAddress {
  func groups(_ part: Substring) -> [UInt64] { part.split(separator: ":").map { UInt64($0, radix: 16)! } }
  var all: [UInt64]
  if let gap = text.range(of: "::") {
    let (front, back) = (groups(text[..<gap.lowerBound]), groups(text[gap.upperBound...]))
    all = front + [UInt64](repeating: 0, count: 8 - front.count - back.count) + back
  } else {
    all = groups(text[...])
  }
  precondition(all.count == 8)
  return IPAddress(high: all[..<4].reduce(0) { $0 << 16 | $1 }, low: all[4...].reduce(0) { $0 << 16 | $1 })
}

extension String {
  /// Without Foundation.
  fileprivate func range(of needle: String) -> Range<Index>? {
    var at = startIndex
    while at < endIndex {
      if self[at...].hasPrefix(needle) { return at..<index(at, offsetBy: needle.count) }
      at = index(after: at)
    }
    return nil
  }
}

/// A frame that the stack sent, taken apart.
struct Packet6 {
  var frame: [UInt8]
  var hardware: MACAddress
  var ip: IPv6Header
  /// Behind the IPv6 header.
  var payload: [UInt8]
  /// From the IPv6 header on.
  var bytes: [UInt8] { Array(frame[14...]) }

  init?(_ frame: [UInt8]) {
    guard frame.count >= 54, frame[12] == 0x86, frame[13] == 0xdd else { return nil }
    self.frame = frame
    hardware = frame.withUnsafeBytes { MACAddress(reading: $0.baseAddress!, at: 0) }
    guard let header = frame[14...].withUnsafeBytes({ IPv6Header(quoted: $0) }) else { return nil }
    ip = header
    payload = Array(frame[54...])
    #expect(header.payloadLength == payload.count, "the length in the header is that of the packet")
  }

  /// Type and code of an ICMPv6 message whose checksum is right.
  var icmp: (type: UInt8, code: UInt8)? {
    guard ip.nextHeader == IPProtocol.icmpv6, payload.count >= 8 else { return nil }
    let pseudo = Checksum.pseudoHeader(
      source: ip.source, destination: ip.destination, proto: IPProtocol.icmpv6, length: payload.count)
    let sum = payload.withUnsafeBytes { Checksum.fold(Checksum.sum($0, pseudo)) }
    #expect(sum == 0xffff, "every message has a right checksum")
    return (payload[0], payload[1])
  }

  /// The second word of an ICMPv6 message.
  var rest: UInt32 { payload[4..<8].reduce(0) { $0 << 8 | UInt32($1) } }

  var neighborMessage: NeighborMessage? {
    guard let icmp, icmp.type == ICMPv6.neighborSolicitation || icmp.type == ICMPv6.neighborAdvertisement else {
      return nil
    }
    #expect(ip.hopLimit == 255)
    return payload.withUnsafeBytes { NeighborMessage($0) }
  }

  var tcp: TCPHeader? {
    guard ip.nextHeader == IPProtocol.tcp else { return nil }
    let pseudo = Checksum.pseudoHeader(
      source: ip.source, destination: ip.destination, proto: IPProtocol.tcp, length: payload.count)
    #expect(payload.withUnsafeBytes { Checksum.fold(Checksum.sum($0, pseudo)) } == 0xffff)
    return payload.withUnsafeBytes { TCPHeader($0) }
  }
}

/// A stack with 2001:db8::4/64 and its link-local address; the peer is 2001:db8::5, a router fe80::1.
final class IPv6Bench {
  var stack: Stack
  var now = Instant(nanoseconds: 5_000_000_000)
  static let ours = six("2001:db8::4")
  static let peer = six("2001:db8::5")
  static let far = six("2001:db8:77::9")
  static let linkLocal = six("fe80::ff:fe00:1")
  static let router = six("fe80::1")
  let ourMAC = MACAddress(bits: 0x02_00_00_00_00_01)
  let peerMAC = MACAddress(bits: 0x02_0a_0b_0c_0d_0e)
  let routerMAC = MACAddress(bits: 0x02_01_01_01_01_01)

  /// - Parameter settled: duplicate address detection and the questions for routers are over.
  init(settled: Bool = true, static hasStatic: Bool = true, _ change: (inout StackConfiguration) -> Void = { _ in }) {
    var configuration = StackConfiguration()
    configuration.address = stackAddress
    configuration.ipv6 = true
    configuration.secret = HashKey(1, 2)
    if hasStatic {
      _ = configuration.moreAddresses.add(
        InterfaceAddress(Self.ours, prefixLength: 64, state: .preferred, origin: .configured))
    }
    change(&configuration)
    stack = Stack(configuration, now: now)
    if settled {
      pass(.seconds(20))
      _ = frames()
    }
  }

  // MARK: Out

  func frames() -> [[UInt8]] { stack.takeFrames().map(\.bytes) }

  /// What the stack has sent over IPv6.
  func sent() -> [Packet6] { frames().compactMap { Packet6($0) } }

  func neighborMessages() -> [NeighborMessage] { sent().compactMap(\.neighborMessage) }

  // MARK: In

  func receive(_ bytes: [UInt8]) { stack.receiveFrame(bytes, now: now) }

  /// A frame around `packet`, which starts at its IPv6 header; by default to where its destination says.
  func frame(_ packet: [UInt8], from: MACAddress? = nil, to: MACAddress? = nil) -> [UInt8] {
    let destination = packet[24..<40].withUnsafeBytes { IPAddress(reading16: $0.baseAddress!, at: 0) }
    var bytes = [UInt8](repeating: 0, count: 14)
    bytes.withUnsafeMutableBytes {
      EthernetHeader(
        destination: to ?? (destination.isMulticast ? MACAddress(group: destination) : ourMAC), source: from ?? peerMAC,
        etherType: EtherType.ipv6
      ).write(to: $0.baseAddress!)
    }
    return bytes + packet
  }

  static func ipv6(
    _ next: UInt8, _ payload: [UInt8], from: IPAddress = peer, to: IPAddress = ours, hopLimit: UInt8 = 64,
    trafficClass: UInt8 = 0
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 40)
    bytes.withUnsafeMutableBytes {
      IPv6Header(
        nextHeader: next, source: from, destination: to, payloadLength: payload.count, trafficClass: trafficClass,
        hopLimit: hopLimit
      ).write(to: $0.baseAddress!)
    }
    return bytes + payload
  }

  /// A transport's packet with its checksum made.
  static func checked(
    _ bytes: [UInt8], _ proto: UInt8, at offset: Int, from: IPAddress, to: IPAddress
  ) -> [UInt8] {
    var bytes = bytes
    bytes.withUnsafeMutableBytes {
      $0.baseAddress!.storeBigEndian16(0, at: offset)
      let pseudo = Checksum.pseudoHeader(source: from, destination: to, proto: proto, length: $0.count)
      $0.baseAddress!.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0), pseudo)), at: offset)
    }
    return bytes
  }

  static func icmp(
    _ type: UInt8, rest: UInt32 = 0, _ payload: [UInt8], from: IPAddress = peer, to: IPAddress = ours
  ) -> [UInt8] { icmp(type, 0, rest: rest, payload, from: from, to: to) }

  static func icmp(
    _ type: UInt8, _ code: UInt8, rest: UInt32 = 0, _ payload: [UInt8], from: IPAddress = peer,
    to: IPAddress = ours
  ) -> [UInt8] {
    let word = [UInt8(rest >> 24), UInt8(rest >> 16 & 255), UInt8(rest >> 8 & 255), UInt8(rest & 255)]
    return checked([type, code, 0, 0] + word + payload, IPProtocol.icmpv6, at: 2, from: from, to: to)
  }

  static func udp(
    _ payload: [UInt8], sourcePort: UInt16 = 5000, destinationPort: UInt16, from: IPAddress = peer,
    to: IPAddress = ours
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    bytes.withUnsafeMutableBytes {
      UDPHeader(sourcePort: sourcePort, destinationPort: destinationPort, totalLength: $0.count).write(
        to: $0.baseAddress!)
    }
    return checked(bytes, IPProtocol.udp, at: 6, from: from, to: to)
  }

  static func tcp(
    _ flags: TCPFlags, sourcePort: UInt16, destinationPort: UInt16, seq: UInt32, ack: UInt32 = 0,
    _ payload: [UInt8] = [], mss: UInt16? = nil, from: IPAddress = peer, to: IPAddress = ours
  ) -> [UInt8] {
    var options = TCPOptions()
    options.maximumSegmentSize = mss
    var bytes = [UInt8](repeating: 0, count: 20 + options.encodedLength) + payload
    bytes.withUnsafeMutableBytes {
      TCPHeader(
        sourcePort: sourcePort, destinationPort: destinationPort, sequence: SequenceNumber(seq),
        acknowledgment: SequenceNumber(ack), headerLength: 20 + options.encodedLength, flags: flags, window: 65535
      ).write(to: $0.baseAddress!)
      options.write(to: $0.baseAddress! + 20)
    }
    return checked(bytes, IPProtocol.tcp, at: 16, from: from, to: to)
  }

  /// A fragment header and `piece` behind it.
  static func fragment(
    _ next: UInt8, offset: Int, more: Bool, identification: UInt32 = 77, _ piece: [UInt8]
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8)
    bytes.withUnsafeMutableBytes {
      IPv6Fragment(nextHeader: next, offset: offset, moreFollow: more, identification: identification)
        .write(to: $0.baseAddress!)
    }
    return bytes + piece
  }

  /// Hop-by-hop or destination options, padded to a multiple of eight.
  static func options(_ next: UInt8, _ options: [UInt8] = []) -> [UInt8] {
    var bytes = [next, 0] + options
    var missing = (8 - bytes.count % 8) % 8
    if missing == 1 {
      bytes.append(0)
      missing = 0
    }
    if missing > 1 { bytes += [1, UInt8(missing - 2)] + [UInt8](repeating: 0, count: missing - 2) }
    bytes[1] = UInt8(bytes.count / 8 - 1)
    return bytes
  }

  // MARK: Neighbour discovery

  static func neighbor(
    _ message: NeighborMessage, from: IPAddress, to: IPAddress, hopLimit: UInt8 = 255, isRouter: Bool = false,
    _ change: (inout [UInt8]) -> Void = { _ in }
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: message.encodedLength)
    bytes.withUnsafeMutableBytes { message.write(to: $0.baseAddress!) }
    if isRouter { bytes[4] |= 0x80 }
    change(&bytes)
    return ipv6(
      IPProtocol.icmpv6, checked(bytes, IPProtocol.icmpv6, at: 2, from: from, to: to), from: from, to: to,
      hopLimit: hopLimit)
  }

  /// The peer asks for `target`, so that we know where it is.
  func solicit(
    _ target: IPAddress = ours, from: IPAddress = peer, hardware: MACAddress?? = nil, to: IPAddress? = nil,
    nonce: UInt64? = nil, hopLimit: UInt8 = 255, _ change: (inout [UInt8]) -> Void = { _ in }
  ) {
    let message = NeighborMessage(solicitationFor: target, from: hardware ?? peerMAC, nonce: nonce)
    receive(
      frame(Self.neighbor(message, from: from, to: to ?? target.solicitedNode, hopLimit: hopLimit, change)))
  }

  func advertise(
    _ target: IPAddress = peer, at hardware: MACAddress?, solicited: Bool, overrides: Bool, from: IPAddress? = nil,
    to: IPAddress = ours, isRouter: Bool = false, hopLimit: UInt8 = 255,
    _ change: (inout [UInt8]) -> Void = { _ in }
  ) {
    let message = NeighborMessage(advertising: target, at: hardware, solicited: solicited, overrides: overrides)
    receive(
      frame(
        Self.neighbor(message, from: from ?? target, to: to, hopLimit: hopLimit, isRouter: isRouter, change)))
  }

  func introducePeer(_ address: IPAddress = peer) {
    solicit(from: address)
    _ = frames()
  }

  // MARK: Routers

  static func prefixOption(
    _ prefix: String, length: UInt8 = 64, onLink: Bool = true, autonomous: Bool = true, valid: UInt32 = 3600,
    preferred: UInt32 = 1800
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 32)
    bytes[0] = 3
    bytes[1] = 4
    bytes[2] = length
    bytes[3] = (onLink ? 0x80 : 0) | (autonomous ? 0x40 : 0)
    bytes.withUnsafeMutableBytes {
      $0.baseAddress!.storeBigEndian32(valid, at: 4)
      $0.baseAddress!.storeBigEndian32(preferred, at: 8)
      six(prefix).write16(to: $0.baseAddress!, at: 16)
    }
    return bytes
  }

  /// A router advertises.
  func advertisement(
    _ options: [UInt8] = [], lifetime: UInt16 = 1800, flags: UInt8 = 0, hopLimit: UInt8 = 0, reachable: UInt32 = 0,
    retrans: UInt32 = 0, from: IPAddress = router, to: IPAddress = .allNodes, ipHopLimit: UInt8 = 255, code: UInt8 = 0
  ) {
    var bytes = [UInt8](repeating: 0, count: 16) + options
    bytes[0] = 134
    bytes[1] = code
    bytes[4] = hopLimit
    bytes[5] = flags
    bytes.withUnsafeMutableBytes {
      $0.baseAddress!.storeBigEndian16(lifetime, at: 6)
      $0.baseAddress!.storeBigEndian32(reachable, at: 8)
      $0.baseAddress!.storeBigEndian32(retrans, at: 12)
    }
    bytes = Self.checked(bytes, IPProtocol.icmpv6, at: 2, from: from, to: to)
    receive(
      frame(Self.ipv6(IPProtocol.icmpv6, bytes, from: from, to: to, hopLimit: ipHopLimit), from: routerMAC))
  }

  var routerOption: [UInt8] {
    var bytes: [UInt8] = [1, 1, 0, 0, 0, 0, 0, 0]
    bytes.withUnsafeMutableBytes { routerMAC.write(to: $0.baseAddress!, at: 2) }
    return bytes
  }

  // MARK: Time and sockets

  func pass(_ interval: Interval) { stack.pass(interval, from: &now) }

  /// An address of the interface.
  func address(_ address: IPAddress) -> InterfaceAddress? {
    guard let at = stack.addresses.index(of: address) else { return nil }
    return stack.addresses[at]
  }

  func datagramSocket(port: UInt16 = 0, at address: IPAddress = .anyIPv6) throws -> SocketHandle {
    let socket = try stack.open(.datagram, isIPv6: true, cookie: 1, now: now)
    if port != 0 { try stack.bind(socket, to: Endpoint(address, port), now: now) }
    return socket
  }

  @discardableResult
  func send(_ socket: SocketHandle, _ bytes: [UInt8], to: Endpoint?) throws -> Int {
    try bytes.withUnsafeBytes { raw throws(SocketError) in
      try stack.sendDatagram(socket, raw, to: to, now: now)
    }
  }

  func receiveDatagram(_ socket: SocketHandle) throws -> (bytes: [UInt8], from: Endpoint) {
    var bytes = [UInt8](repeating: 0, count: 65536)
    let got = try bytes.withUnsafeMutableBytes { raw throws(SocketError) in
      try stack.receiveDatagram(socket, into: raw, flags: [], now: now)
    }
    return (Array(bytes[..<got.copied]), got.source)
  }

  func beginConnect(_ socket: SocketHandle, to: Endpoint) throws {
    do { try stack.connect(socket, to: to, now: now) } catch { guard error == .inProgress else { throw error } }
  }

  /// A connection that the stack opens to `remote`, its handshake done.
  func connected(to remote: Endpoint = Endpoint(peer, 80), mss: UInt16 = 1440) throws -> (
    socket: SocketHandle, port: UInt16, next: UInt32
  ) {
    let socket = try stack.open(.stream, isIPv6: true, cookie: 1, now: now)
    try beginConnect(socket, to: remote)
    let syn = try #require(sent().last)
    let header = try #require(syn.tcp)
    receive(
      frame(
        Self.ipv6(
          IPProtocol.tcp,
          Self.tcp(
            [.syn, .ack], sourcePort: remote.port, destinationPort: header.sourcePort, seq: 0,
            ack: header.sequence.value &+ 1, mss: mss, from: remote.address, to: syn.ip.source), from: remote.address,
          to: syn.ip.source)))
    _ = sent()
    return (socket, header.sourcePort, header.sequence.value &+ 1)
  }

  func leaks() -> (packets: Int, sockets: Int) {
    while stack.nextChanged() != nil {}
    return stack.leakReport()
  }
}

/// Several stacks with the same addresses, as the queues of one device. Strays are brought over as the shell does it.
final class IPv6Machine {
  let queues: [IPv6Bench]
  init(count: Int = 2, static hasStatic: Bool = true) {
    queues = (0..<count).map { index in
      IPv6Bench(static: hasStatic) {
        $0.stackCount = count
        $0.stackIndex = index
      }
    }
  }

  func receive(_ frame: [UInt8], at queue: Int) {
    queues[queue].receive(frame)
    deliverStrays(of: queue)
  }

  func deliverStrays(of queue: Int) {
    var strays = queues[queue].stack.takeStrays()
    var next = strays.first
    while let packet = next {
      next = packet.next
      let owner = Int(packet.storage.pointee.steeredTo)
      for other in queues.indices where other != queue && (owner == other || owner == Stack.everyOther) {
        queues[other].stack.receiveStray(packet, now: queues[other].now)
        queues[other].stack.finishBatch(now: queues[other].now)
        deliverStrays(of: other)
      }
    }
    queues[queue].stack.release(&strays)
  }

  func total(_ counter: Counter) -> UInt64 { queues.reduce(0) { $0 + $1.stack.statistics[counter] } }

  /// A peer's port whose connections to `port` belong to `queue`.
  func peerPort(for port: UInt16, _ queue: Int) -> UInt16 {
    var candidate: UInt16 = 1000
    while queues[0].stack.steering.owner(
      of: FourTuple(local: Endpoint(IPv6Bench.ours, port), remote: Endpoint(IPv6Bench.peer, candidate))) != queue
    { candidate += 1 }
    return candidate
  }

  func expectNothingLeft() {
    for queue in queues {
      let left = queue.leaks()
      #expect(left.packets == 0 && left.sockets == 0)
    }
  }
}
