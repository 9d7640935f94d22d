// Owns: sending for ping sockets (echo requests) and raw ones, of both families. Read first: icmp(7), raw(7), RFC 3542 §3; Linux's
// ping_v4_sendmsg, ping_v6_sendmsg, raw_sendmsg, rawv6_sendmsg for what is refused and in which order.
//
//                     ping                                   raw
//   IPv4   identifier and checksum are ours       the bytes as they are; IP_HDRINCL: with their IP header
//   IPv6   so, the sum with a pseudo-header       the bytes with a checksum where IPV6_CHECKSUM says, always in ICMPv6; IPV6_HDRINCL

import Wire

extension Stack {
  // MARK: Ping sockets

  mutating func sendEcho(
    _ state: DatagramPointer, _ bytes: UnsafeRawBufferPointer, _ message: DatagramMessage
  ) throws(SocketError) {
    let type = state.pointee.isIPv6 ? ICMPv6.echoRequest : ICMPHeader.echoRequest
    guard bytes.count <= 65535 else { throw .messageTooLong }
    guard bytes.count >= ICMPHeader.length, bytes[0] == type, bytes[1] == 0 else { throw .invalidArgument }
    // IPv4 in IPv6's clothes
    if state.pointee.isIPv6, let given = message.destination, given.address.isIPv4 { throw .invalidArgument }
    var path = try path(state, message)
    path.flowPort = UInt16(type) << 8
    if !state.pointee.isInPortTable { try holdPort(state) }
    let isLarge = try isCut(bytes.count, state, path)
    // The header in a place of its own, as the identifier is ours to choose.
    guard
      let packet = datagramPacket(UnsafeRawBufferPointer(rebasing: bytes[ICMPHeader.length...]))
    else { throw .noBufferSpace }
    let base = packet.push(ICMPHeader.length)
    let sequence = UInt32(bytes[6]) << 8 | UInt32(bytes[7])
    // The two families' messages begin alike.
    ICMPHeader(type: type, code: 0, rest: UInt32(state.pointee.local.port) << 16 | sequence).write(to: base)
    let proto = state.pointee.isIPv6 ? IPProtocol.icmpv6 : IPProtocol.icmp
    base.storeBigEndian16(~sum(packet, proto, path), at: 2)
    countOut(proto)
    traceICMP(state.pointee.isIPv6 ? .icmp6Out : .icmpOut, type, 0, local: path.source, remote: path.remote.address)
    output(packet, proto, state, path, isLarge: isLarge)
  }

  /// Whether a payload of `count` bytes leaves in fragments.
  private mutating func isCut(
    _ count: Int, _ state: DatagramPointer, _ path: DatagramPath
  ) throws(SocketError) -> Bool {
    guard count <= path.mostPayload else { throw tooLarge(state, path, mtu: path.mtu) }
    let isLarge = count + path.headerLength > path.mtu
    if isLarge, state.pointee.cutsNothing {
      throw tooLarge(state, path, mtu: path.mtu)
    }
    return isLarge
  }

  /// The sum that the checksum field completes, which is zero now; ICMPv4's knows no pseudo-header.
  private func sum(_ packet: PacketBuffer, _ proto: UInt8, _ path: DatagramPath) -> UInt16 {
    if proto == IPProtocol.icmp, path.remote.address.isIPv4 { return Checksum.fold(packet.checksum(from: 0)) }
    let pseudo = Checksum.pseudoHeader(
      source: path.source, destination: path.remote.address, proto: proto, length: packet.count)
    return Checksum.fold(packet.checksum(from: 0, pseudo))
  }

  private func countOut(_ proto: UInt8) {
    if proto == IPProtocol.icmp { environment.pointee.statistics.count(.icmpOutMsgs) }
    if proto == IPProtocol.icmpv6 { environment.pointee.statistics.count(.icmp6OutMsgs) }
  }

  // MARK: Raw sockets

  mutating func sendRaw(
    _ state: DatagramPointer, _ bytes: UnsafeRawBufferPointer, _ message: DatagramMessage
  ) throws(SocketError) {
    guard bytes.count <= 65535 else { throw .messageTooLong }
    let proto = UInt8(truncatingIfNeeded: state.pointee.local.port)
    if state.pointee.isIPv6, let given = message.destination, given.port != 0 {
      // An IPv6 destination may name the protocol in the place of a port.
      guard given.port == UInt16(proto) || proto == IPProtocol.raw, given.port <= 255 else { throw .invalidArgument }
    }
    var path = try path(state, message)
    if proto == IPProtocol.icmpv6, bytes.count >= 2 { path.flowPort = UInt16(bytes[0]) << 8 | UInt16(bytes[1]) }
    if state.pointee.includesHeader {
      return state.pointee.isIPv6
        ? try sendWithHeaderIPv6(state, bytes, path) : try sendWithHeader(state, bytes, path)
    }
    let isLarge = try isCut(bytes.count, state, path)
    let offset = state.pointee.checksumOffset
    if offset >= 0, offset >= bytes.count - 1 { throw .invalidArgument }
    guard let packet = datagramPacket(bytes) else { throw .noBufferSpace }
    if offset >= 0 { completeRaw(packet, at: offset, proto, path) }
    countOut(proto)
    output(packet, proto, state, path, isLarge: isLarge)
  }

  /// IPV6_CHECKSUM: whatever the program has put there, the right sum takes its place.
  private func completeRaw(_ packet: PacketBuffer, at offset: Int, _ proto: UInt8, _ path: DatagramPath) {
    // The payload is all in one piece: behind the headroom, or in a buffer of its own.
    let first = packet.linearCount > 0 ? packet.base : packet.storage.pointee.fragments[0].base
    guard let base = first else { return }
    base.storeBigEndian16(0, at: offset)
    var checksum = ~sum(packet, proto, path)
    // UDP says "none" with zero (RFC 768).
    if checksum == 0, proto == IPProtocol.udp { checksum = 0xffff }
    base.storeBigEndian16(checksum, at: offset)
  }

  /// IP_HDRINCL: the program's own header; source, identification, length and checksum are filled in (raw(7)).
  private mutating func sendWithHeader(
    _ state: DatagramPointer, _ bytes: UnsafeRawBufferPointer, _ path: DatagramPath
  ) throws(SocketError) {
    // What routers on the way have said is the program's own affair.
    let limit = path.kind == .local ? path.mtu : device.mtu
    guard bytes.count <= limit else { throw tooLarge(state, path, mtu: limit) }
    guard bytes.count >= IPv4Header.minimumLength else { throw .invalidArgument }
    let headerLength = Int(bytes[0] & 0xf) * 4
    guard headerLength >= IPv4Header.minimumLength, headerLength <= bytes.count else { throw .invalidArgument }
    let packet = try packetWithHeader(bytes, headerLength)
    let base = packet.base
    base.storeBigEndian16(UInt16(bytes.count), at: 2)
    if UnsafeRawPointer(base).bigEndian32(at: 12) == 0 { base.storeBigEndian32(path.source.v4.bits, at: 12) }
    if UnsafeRawPointer(base).bigEndian16(at: 4) == 0 {
      nextIdentification &+= 1
      base.storeBigEndian16(nextIdentification, at: 4)
    }
    base.storeBigEndian16(0, at: 10)
    base.storeBigEndian16(
      ~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer(start: base, count: headerLength))), at: 10)
    environment.pointee.statistics.count(.ipOutRequests)
    leave(packet, headerLength, path)
  }

  /// IPV6_HDRINCL: nothing is filled in (rawv6_send_hdrinc).
  private mutating func sendWithHeaderIPv6(
    _ state: DatagramPointer, _ bytes: UnsafeRawBufferPointer, _ path: DatagramPath
  ) throws(SocketError) {
    // What routers on the way have said is the program's own affair.
    let limit = path.kind == .local ? path.mtu : device.mtu
    guard bytes.count <= limit else { throw tooLarge(state, path, mtu: limit) }
    guard bytes.count >= IPv6Header.length else { throw .invalidArgument }
    let packet = try packetWithHeader(bytes, IPv6Header.length)
    environment.pointee.statistics.count(.ip6OutRequests)
    leave(packet, IPv6Header.length, path)
  }

  private func packetWithHeader(
    _ bytes: UnsafeRawBufferPointer, _ headerLength: Int
  ) throws(SocketError) -> PacketBuffer {
    guard let packet = datagramPacket(bytes) else { throw .noBufferSpace }
    if packet.linearCount == 0 {
      // A large one begins in a fragment: its header must be where headers are.
      packet.push(headerLength).copyMemory(from: bytes.baseAddress.unsafelyUnwrapped, byteCount: headerLength)
      packet.storage.pointee.fragments[0].base = packet.storage.pointee.fragments[0].base.map { $0 + headerLength }
      packet.storage.pointee.fragments[0].length -= headerLength
    }
    return packet
  }

  private mutating func leave(_ packet: PacketBuffer, _ headerLength: Int, _ path: DatagramPath) {
    if path.kind == .local { return loopBack(packet) }
    packet.storage.pointee.checksumStart = UInt16(headerLength)
    transmitIP(packet, nextHop: path.nextHop)
  }
}
