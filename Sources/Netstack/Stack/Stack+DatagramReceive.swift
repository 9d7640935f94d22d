// Owns: datagrams on their way from IP to sockets: UDP's, echo replies for ping sockets, copies for raw sockets, and ICMP errors for
// all three. Read first: RFC 768, RFC 1122 §4.1.3; Linux's __udp4_lib_rcv, __udp4_lib_err, ping_rcv, raw_v4_input, rawv6_rcv.
//
// A super-frame of several datagrams (USO) is queued as it came. receiveDatagram gives a socket without UDP_GRO one segment of it
// after the other: no copy, no packet for each.

import Wire

extension Stack {
  // MARK: UDP

  /// `packet` starts at the IP header.
  mutating func receiveUDP(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    if steering.index != 0 {
      return handOver(packet, to: 0, wasLinkBroadcast: ip.wasLinkBroadcast, isDelivered: true)
    }
    let whole = packet.storage.pointee.data
    packet.pull(ip.headerLength)
    guard let udp = UDPHeader(packet.readable), udp.totalLength <= packet.count else {
      env.pointee.statistics.count(.udpInErrors)
      return env.pointee.drop(packet, .udpMalformed, .udp)
    }
    packet.trim(to: udp.totalLength)
    let source = Endpoint(ip.source, udp.sourcePort)
    let destination = Endpoint(ip.destination, udp.destinationPort)
    if packet.storage.pointee.checksumState != .verified, udp.checksum != 0 || !ip.source.isIPv4 {
      // Over IPv6 there is always one (RFC 8200 §8.1).
      let pseudo = Checksum.pseudoHeader(
        source: source.address, destination: destination.address, proto: IPProtocol.udp, length: udp.totalLength)
      guard udp.checksum != 0, Checksum.fold(packet.checksum(from: 0, pseudo)) == 0xffff else {
        env.pointee.statistics.count(.udpInErrors)
        return env.pointee.drop(packet, .udpChecksum, .udp)
      }
    }
    if dhcp != nil, udp.destinationPort == DHCPv4Message.clientPort, ip.source.isIPv4 {
      packet.pull(UDPHeader.length)
      return receiveDHCP(packet)
    }
    if !ip.isOurs { return receiveGroup(packet, source, destination, ip) }
    guard
      let socket = datagramPorts.find(source: source, destination: destination, key: env.pointee.secret, in: datagrams)
    else {
      env.pointee.statistics.count(.udpNoPorts)
      packet.storage.pointee.data = whole
      reportUnreachablePort(packet, ip)
      return env.pointee.drop(packet, .udpNoSocket, .udp)
    }
    packet.pull(UDPHeader.length)
    enqueue(packet, for: socket, source, destination, ip)
  }

  private mutating func reportUnreachablePort(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    if ip.source.isIPv4 {
      reportError(
        ICMPHeader.destinationUnreachable, ICMPHeader.Unreachable.port, about: packet,
        wasLinkBroadcast: ip.wasLinkBroadcast)
    } else {
      reportErrorIPv6(ICMPv6.destinationUnreachable, ICMPv6.Unreachable.port, about: packet, ip)
    }
  }

  /// Broadcast and multicast: a copy to each socket that the datagram is for.
  private mutating func receiveGroup(
    _ packet: PacketBuffer, _ source: Endpoint, _ destination: Endpoint, _ ip: IPPacketInfo
  ) {
    let env = environment
    packet.pull(UDPHeader.length)
    var last: DatagramPointer?
    var socket = datagramPorts.next(after: nil, port: destination.port, in: datagrams)
    while let candidate = socket {
      socket = datagramPorts.next(after: candidate, port: destination.port, in: datagrams)
      guard takes(candidate, source, destination) else { continue }
      if let last, let copy = duplicate(packet) { enqueue(copy, for: last, source, destination, ip) }
      last = candidate
    }
    guard let last else {
      env.pointee.statistics.count(.udpNoPorts)
      return env.pointee.drop(packet, .udpNoSocket, .udp)
    }
    enqueue(packet, for: last, source, destination, ip)
  }

  private func takes(_ socket: DatagramPointer, _ source: Endpoint, _ destination: Endpoint) -> Bool {
    guard socket.pointee.local.address.takes(destination.address, onlyIPv6: socket.pointee.onlyIPv6) else {
      return false
    }
    if let remote = socket.pointee.remote, remote != source { return false }
    return !destination.address.isMulticast || hears(socket, destination.address, from: source.address)
  }

  /// A packet with the same bytes and notes.
  private func duplicate(_ packet: PacketBuffer) -> PacketBuffer? {
    let env = environment
    guard let copy = env.pointee.pool.allocate() else { return nil }
    guard env.pointee.pool.fill(copy, from: packet) else {
      env.pointee.pool.release(copy)
      return nil
    }
    copy.storage.pointee.segmentationType = packet.storage.pointee.segmentationType
    copy.storage.pointee.segmentSize = packet.storage.pointee.segmentSize
    copy.storage.pointee.time = packet.storage.pointee.time
    return copy
  }

  /// `packet` holds what the program is to get.
  @inline(__always)
  private mutating func enqueue(
    _ packet: PacketBuffer, for socket: DatagramPointer, _ source: Endpoint, _ destination: Endpoint, _ ip: IPPacketInfo
  ) {
    let env = environment
    // What Linux would count, so that as many find room. A large buffer counts with what is in it, in whole pages: a super-frame of
    // two datagrams must not cost as much as one of forty. Memory that is held is at most some sixteen times as much.
    let linear = packet.linearCount
    let count = packet.count
    let charge =
      count <= 384 ? 768 : BufferPool.smallSize + (count > linear ? (count - linear + 4095) & ~4095 : 0)
    guard socket.pointee.queuedMemory + charge <= socket.pointee.receiveBuffer else {
      socket.pointee.drops &+= 1
      if socket.pointee.kind == .udp { env.pointee.statistics.count(.udpRcvbufErrors) }
      return env.pointee.drop(packet, .udpReceiveBufferFull, .udp)
    }
    packet.storage.pointee.source = source
    packet.storage.pointee.destination = destination
    packet.storage.pointee.timeToLive = ip.timeToLive
    packet.storage.pointee.typeOfService = ip.typeOfService
    packet.storage.pointee.charge = UInt32(truncatingIfNeeded: charge)
    packet.storage.pointee.drops = socket.pointee.drops
    let segment = Int(packet.storage.pointee.segmentSize)
    // Only UDP's sockets know of super-frames: others get a packet whole.
    if packet.storage.pointee.segmentationType != .udpL4 || segment >= count || socket.pointee.kind != .udp {
      packet.storage.pointee.segmentSize = 0
    }
    if socket.pointee.kind == .udp {
      env.pointee.statistics.count(
        .udpInDatagrams, packet.storage.pointee.segmentSize == 0 ? 1 : (count + segment - 1) / segment)
    }
    socket.pointee.queuedMemory += charge
    socket.pointee.queue.append(packet)
    noteChanged(socket, .readable)
  }

  // MARK: Ping sockets

  /// An echo reply, from its ICMP header on. False where no ping socket has asked.
  mutating func receiveEchoReply(_ packet: PacketBuffer, _ ip: IPPacketInfo) -> Bool {
    guard pingIdentifiers.count > 0, let icmp = ICMPHeader(packet.readable) else { return false }
    let identifier = UInt16(icmp.rest >> 16)
    let source = Endpoint(ip.source, 0)
    let destination = Endpoint(ip.destination, identifier)
    var socket = pingIdentifiers.next(after: nil, port: identifier, in: datagrams)
    while let candidate = socket {
      socket = pingIdentifiers.next(after: candidate, port: identifier, in: datagrams)
      guard candidate.pointee.local.address.takes(ip.destination, onlyIPv6: true) else { continue }
      if let remote = candidate.pointee.remote, remote.address != ip.source { continue }
      enqueue(packet, for: candidate, source, destination, ip)
      return true
    }
    return false
  }

  // MARK: Raw sockets

  /// Gives each raw socket that listens to the packet's protocol a copy of it: of IPv4 from its IP header on, of IPv6 what is behind
  /// the headers. True where one does. `packet` starts at the IP header.
  mutating func deliverToRaw(_ packet: PacketBuffer, _ ip: IPPacketInfo) -> Bool {
    var isTaken = false
    let port = UInt16(ip.proto)
    var socket = rawProtocols.next(after: nil, port: port, in: datagrams)
    while let candidate = socket {
      socket = rawProtocols.next(after: candidate, port: port, in: datagrams)
      guard takesRaw(candidate, packet, ip) else { continue }
      isTaken = true
      guard !isFiltered(candidate, packet, ip), isIntact(candidate, packet, ip), let copy = duplicate(packet) else {
        continue
      }
      if !ip.source.isIPv4 { copy.pull(ip.headerLength) }
      enqueue(copy, for: candidate, Endpoint(ip.source, 0), Endpoint(ip.destination, 0), ip)
    }
    return isTaken
  }

  private func takesRaw(_ socket: DatagramPointer, _ packet: PacketBuffer, _ ip: IPPacketInfo) -> Bool {
    guard socket.pointee.local.address.takes(ip.destination, onlyIPv6: true) else { return false }
    if let remote = socket.pointee.remote, remote.address != ip.source { return false }
    return !ip.destination.isMulticast || hears(socket, ip.destination, from: ip.source)
  }

  private func isFiltered(_ socket: DatagramPointer, _ packet: PacketBuffer, _ ip: IPPacketInfo) -> Bool {
    guard ip.proto == IPProtocol.icmp || ip.proto == IPProtocol.icmpv6, packet.linearCount > ip.headerLength
    else { return false }
    let type = packet.readable[ip.headerLength]
    if ip.proto == IPProtocol.icmpv6, !ip.source.isIPv4 { return socket.pointee.icmp6Filter.blocks(type) }
    return ip.proto == IPProtocol.icmp && type < 32 && socket.pointee.icmpFilter >> UInt32(type) & 1 != 0
  }

  /// IPV6_CHECKSUM: what is damaged the socket never sees.
  private func isIntact(_ socket: DatagramPointer, _ packet: PacketBuffer, _ ip: IPPacketInfo) -> Bool {
    guard socket.pointee.checksumOffset >= 0, packet.storage.pointee.checksumState != .verified else { return true }
    let pseudo = Checksum.pseudoHeader(
      source: ip.source, destination: ip.destination, proto: ip.proto, length: packet.count - ip.headerLength)
    return Checksum.fold(packet.checksum(from: ip.headerLength, pseudo)) == 0xffff
  }

  // MARK: Errors

  /// An ICMP error about a datagram of ours. `message` starts at the ICMP header; `offender` sent it.
  mutating func datagramErrorArrives(_ error: ICMPError, in message: PacketBuffer, from offender: IPAddress) {
    let isSizeMatter = error.nextHopMTU != nil
    guard let meaning = error.meaning else { return }
    let record = ErrorRecord(
      meaning.error, error.isIPv6 ? .icmp6 : .icmp, type: error.type, code: error.code,
      information: UInt32(error.nextHopMTU ?? 0), offender: offender)
    tellOwners(
      of: error.quoted, error.proto, isFatal: meaning.fatal || isSizeMatter, isSizeMatter: isSizeMatter, record,
      message,
      header: ICMPHeader.length, transport: error.transportOffset)
  }

  /// A packet that starts at its IP header found no neighbour. Linux tells its sockets by an ICMP message to itself.
  mutating func datagramUnreachable(_ packet: PacketBuffer, _ quoted: FourTuple, _ proto: UInt8, transport: Int) {
    let isIPv4 = quoted.local.address.isIPv4
    let record = ErrorRecord(
      .hostUnreachable, isIPv4 ? .icmp : .icmp6,
      type: isIPv4 ? ICMPHeader.destinationUnreachable : ICMPv6.destinationUnreachable,
      code: isIPv4 ? ICMPHeader.Unreachable.host : 3, offender: quoted.local.address)
    tellOwners(
      of: quoted, proto, isFatal: false, isSizeMatter: false, record, packet, header: 0, transport: transport)
  }

  /// `packet` has the datagram's IP header at `header` and its transport header at `transport`.
  private mutating func tellOwners(
    of quoted: FourTuple, _ proto: UInt8, isFatal: Bool, isSizeMatter: Bool, _ record: ErrorRecord,
    _ packet: PacketBuffer, header: Int, transport: Int
  ) {
    let host = Endpoint(quoted.remote.address, 0)
    switch proto {
    case IPProtocol.udp:
      guard
        let socket = datagramPorts.find(
          source: quoted.remote, destination: quoted.local, key: environment.pointee.secret, in: datagrams),
        !isSizeMatter || socket.pointee.mtuDiscover != 0
      else { break }
      tell(
        socket, isFatal: isFatal, record, about: quoted.remote, at: quoted.local.address, packet,
        from: transport + UDPHeader.length)
    case IPProtocol.icmp, IPProtocol.icmpv6:
      guard packet.linearCount >= transport + ICMPHeader.length,
        packet.readable[transport]
          == (proto == IPProtocol.icmp ? ICMPHeader.echoRequest : ICMPv6.echoRequest)
      else { break }
      let identifier = UnsafeRawPointer(packet.base).bigEndian16(at: transport + 4)
      var next = pingIdentifiers.next(after: nil, port: identifier, in: datagrams)
      while let socket = next {
        next = pingIdentifiers.next(after: socket, port: identifier, in: datagrams)
        guard socket.pointee.local.address.takes(quoted.local.address, onlyIPv6: true) else { continue }
        tell(socket, isFatal: isFatal, record, about: host, at: quoted.local.address, packet, from: transport)
        break
      }
    default: break
    }
    guard rawProtocols.count > 0 else { return }
    var next = rawProtocols.next(after: nil, port: UInt16(proto), in: datagrams)
    while let socket = next {
      next = rawProtocols.next(after: socket, port: UInt16(proto), in: datagrams)
      guard socket.pointee.local.address.takes(quoted.local.address, onlyIPv6: true) else { continue }
      if let remote = socket.pointee.remote, remote.address != quoted.remote.address { continue }
      let begin = socket.pointee.includesHeader ? header : transport
      tell(socket, isFatal: isFatal, record, about: host, at: quoted.local.address, packet, from: begin)
    }
  }

  /// Only who asks (IP_RECVERR) or is connected hears of errors; without having asked, of hard ones only (udp(7)).
  mutating func tell(
    _ socket: DatagramPointer, isFatal: Bool, _ record: ErrorRecord, about remote: Endpoint, at ours: IPAddress,
    _ message: PacketBuffer?, from offset: Int
  ) {
    let env = environment
    if socket.pointee.receiveErrors {
      socket.pointee.appendError(
        record, about: remote, at: ours, message, from: offset, time: env.pointee.now, pool: &env.pointee.pool)
    } else if !isFatal || socket.pointee.remote == nil {
      return
    }
    socket.pointee.error = record.error
    noteChanged(socket, [.error, .readable, .writable])
  }
}
