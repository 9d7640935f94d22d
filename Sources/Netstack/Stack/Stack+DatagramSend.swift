// Owns: sending datagrams: UDP's, alone, put together from several calls, or many at once (UDP_SEGMENT); what all kinds of them share
// on their way to IP. Echo requests and raw packets: Stack+RawSend.swift. Read first: RFC 768, RFC 1122 §4.1; Linux's udp_sendmsg,
// ip_append_data for what is refused and in which order; Documentation/networking/segmentation-offloads.rst on USO.

import Wire

/// Where a datagram goes and how: what the call, the socket and the route say, put together.
struct DatagramPath {
  var source: IPAddress
  var remote: Endpoint
  var nextHop: IPAddress
  var mtu: Int
  /// RouteDecision's
  var mtuLocked: Bool
  var kind: RouteDecision.Kind
  var timeToLive: Int
  var typeOfService: UInt8
  /// What Linux's IPv6 flow key has for the destination's port: of ICMPv6 its type and code.
  var flowPort: UInt16 = 0
  /// Of the IP header, bytes.
  var headerLength: Int { remote.address.isIPv4 ? IPv4Header.minimumLength : IPv6Header.length }
  /// The most that fits behind it: IPv6's length field does not count the header.
  var mostPayload: Int { remote.address.isIPv4 ? 65535 - IPv4Header.minimumLength : 65535 }
}

extension Stack {
  /// Most datagrams that one call is cut into (UDP_MAX_SEGMENTS).
  private static var mostSegments: Int { 128 }

  package mutating func sendDatagram(
    _ socket: SocketHandle, _ bytes: UnsafeRawBufferPointer, _ message: DatagramMessage, now: Instant
  ) throws(SocketError) -> Int {
    let env = environment
    env.pointee.now = now
    let state = try datagram(socket)
    if let pending = state.pointee.error {
      state.pointee.error = nil
      throw pending
    }
    if state.pointee.writeShutdown { throw .brokenPipe }
    switch state.pointee.kind {
    case .udp:
      if state.pointee.pending != nil || state.pointee.isCorked || message.more {
        try append(bytes, message, to: state)
      } else {
        try sendUDP(state, bytes, message)
      }
    case .ping: try sendEcho(state, bytes, message)
    case .raw: try sendRaw(state, bytes, message)
    }
    env.pointee.statistics.count(.copiesIn)
    env.pointee.statistics.count(.bytesIn, bytes.count)
    env.pointee.statistics.count(.copyBytesIn, bytes.count)
    flush()
    return bytes.count
  }

  package mutating func sendDatagram(
    _ socket: SocketHandle, _ bytes: UnsafeRawBufferPointer, to destination: Endpoint?, now: Instant
  ) throws(SocketError) -> Int {
    try sendDatagram(socket, bytes, DatagramMessage(to: destination), now: now)
  }

  mutating func path(
    _ state: DatagramPointer, _ message: DatagramMessage
  ) throws(SocketError) -> DatagramPath {
    guard let remote = message.destination ?? state.pointee.remote else { throw .destinationAddressRequired }
    if state.pointee.kind == .udp, message.destination != nil, remote.port == 0 { throw .invalidArgument }
    if message.interface != 0, message.interface != device.interfaceIndex { throw .noDevice }
    // Bound or connected to IPv4, it speaks no IPv6 (udpv6_sendmsg).
    if !remote.address.isIPv4, state.pointee.isIPv6, state.pointee.local.address.isIPv4 {
      throw .addressFamilyNotSupported
    }
    let route = try way(from: state, to: remote.address)
    let local = state.pointee.local.address
    // A socket that is bound to a group sends from the interface's own address.
    var source = local.isUnspecified || local.isMulticast || routes.isBroadcast(local) ? route.source : local
    if !message.source.isUnspecified {
      guard message.source.isIPv4 == remote.address.isIPv4 else { throw .invalidArgument }
      guard owns(message.source) || state.pointee.freeBind else { throw .networkUnreachable }
      source = message.source
    }
    let isIPv4 = remote.address.isIPv4
    var timeToLive = isIPv4 ? state.pointee.timeToLive : state.pointee.hopLimit
    if route.kind == .multicast {
      timeToLive = isIPv4 ? state.pointee.multicastTimeToLive : state.pointee.multicastHops
    }
    if message.timeToLive >= 0 { timeToLive = message.timeToLive }
    var typeOfService = isIPv4 ? state.pointee.typeOfService : state.pointee.trafficClass
    if message.typeOfService >= 0 { typeOfService = UInt8(truncatingIfNeeded: message.typeOfService) }
    // IP_PMTUDISC_PROBE, _INTERFACE and _OMIT go by the device, whatever routers have said (ip_sk_use_pmtu).
    let mtu = state.pointee.mtuDiscover >= 3 && route.kind != .local ? device.mtu : route.mtu
    return DatagramPath(
      source: source, remote: remote, nextHop: route.nextHop, mtu: mtu, mtuLocked: route.mtuLocked, kind: route.kind,
      timeToLive: timeToLive, typeOfService: typeOfService, flowPort: state.pointee.kind == .udp ? remote.port : 0)
  }

  /// EMSGSIZE, which the error queue hears of too (ip_local_error).
  mutating func tooLarge(_ state: DatagramPointer, _ path: DatagramPath, mtu: Int) -> SocketError {
    if state.pointee.receiveErrors {
      let env = environment
      let port = path.remote.address.isIPv4 ? state.pointee.remote?.port ?? 0 : path.flowPort
      state.pointee.appendError(
        ErrorRecord(.messageTooLong, .local, information: UInt32(mtu)),
        about: Endpoint(path.remote.address, port), at: state.pointee.local.address, nil, from: 0,
        time: env.pointee.now,
        pool: &env.pointee.pool)
      noteChanged(state, .error)
    }
    return .messageTooLong
  }

  // MARK: UDP

  private mutating func sendUDP(
    _ state: DatagramPointer, _ bytes: UnsafeRawBufferPointer, _ message: DatagramMessage
  ) throws(SocketError) {
    let path = try path(state, message)
    let headers = path.headerLength + UDPHeader.length
    guard bytes.count + UDPHeader.length <= path.mostPayload else { throw tooLarge(state, path, mtu: path.mtu) }
    if !state.pointee.isInPortTable { try holdPort(state) }
    let segment = message.segmentSize >= 0 ? message.segmentSize : state.pointee.segmentSize
    if segment > 0 { return try sendSegments(state, bytes, segment, path, mayLend: message.mayLend) }
    let isLarge = bytes.count + headers > path.mtu
    if isLarge, state.pointee.cutsNothing {
      throw tooLarge(state, path, mtu: path.mtu)
    }
    guard let packet = datagramPacket(bytes) else { throw .noBufferSpace }
    environment.pointee.statistics.count(.udpOutDatagrams)
    finishUDP(packet, state, path, isLarge: isLarge)
  }

  mutating func holdPort(_ state: DatagramPointer) throws(SocketError) {
    try holdAnyPort(SocketHandle(.datagram, datagrams.handle(at: state.pointee.index)), now: environment.pointee.now)
  }

  /// UDP_SEGMENT: the device cuts, or we do.
  private mutating func sendSegments(
    _ state: DatagramPointer, _ bytes: UnsafeRawBufferPointer, _ segment: Int, _ path: DatagramPath, mayLend: Bool
  ) throws(SocketError) {
    let env = environment
    let headers = path.headerLength + UDPHeader.length
    if min(bytes.count, segment) + headers > path.mtu { throw .messageTooLong }
    guard bytes.count <= segment * Self.mostSegments, !state.pointee.withoutChecksum else { throw .invalidArgument }
    let count = max(1, (bytes.count + segment - 1) / segment)
    env.pointee.statistics.count(.udpOutDatagrams, count)
    // A packet to ourselves is never cut.
    if count > 1, device.udpSegmentation || path.kind == .local, path.kind == .unicast || path.kind == .local {
      let lends = mayLend && path.kind == .unicast && isOnItsWay(path.nextHop)
      guard let packet = lends ? lentPacket(bytes, state) : datagramPacket(bytes) else { throw .noBufferSpace }
      packet.storage.pointee.segmentationType = .udpL4
      packet.storage.pointee.segmentSize = UInt16(segment)
      return finishUDP(packet, state, path, isLarge: false)
    }
    var offset = 0
    repeat {
      let end = min(offset + segment, bytes.count)
      guard let packet = datagramPacket(UnsafeRawBufferPointer(rebasing: bytes[offset..<end])) else {
        throw .noBufferSpace
      }
      finishUDP(packet, state, path, isLarge: false)
      offset = end
    } while offset < bytes.count
  }

  /// `packet` holds the payload. `isLarge`: it will be cut into fragments.
  private mutating func finishUDP(
    _ packet: PacketBuffer, _ state: DatagramPointer, _ path: DatagramPath, isLarge: Bool
  ) {
    let env = environment
    let payload = packet.count
    UDPHeader(
      sourcePort: state.pointee.local.port, destinationPort: path.remote.port, totalLength: payload + UDPHeader.length
    ).write(to: packet.push(UDPHeader.length))
    if state.pointee.withoutChecksum, path.remote.address.isIPv4 {
      // Zero says that there is none (RFC 768).
    } else if isLarge {
      // The pieces have no checksum field of their own: it must be complete before the cut.
      completeNow(packet, source: path.source, destination: path.remote.address)
    } else {
      completeChecksum(
        packet, offset: UDPHeader.checksumOffset, proto: IPProtocol.udp, source: path.source,
        destination: path.remote.address)
    }
    if env.pointee.trace.allows(.udp, .debug) {
      var event = TraceEvent(env.pointee.now, .udp, .debug, .datagramOut)
      event.tuple = FourTuple(local: Endpoint(path.source, state.pointee.local.port), remote: path.remote)
      event.length = UInt32(payload)
      env.pointee.trace.append(event)
    }
    output(packet, IPProtocol.udp, state, path, isLarge: isLarge)
  }

  private func completeNow(_ packet: PacketBuffer, source: IPAddress, destination: IPAddress) {
    let pseudo = Checksum.pseudoHeader(
      source: source, destination: destination, proto: IPProtocol.udp, length: packet.count)
    let sum = ~Checksum.fold(packet.checksum(from: 0, pseudo))
    packet.base.storeBigEndian16(sum == 0 ? 0xffff : sum, at: UDPHeader.checksumOffset)
  }

  /// The payload in a packet of its own, with headroom for the headers.
  func datagramPacket(_ bytes: UnsafeRawBufferPointer) -> PacketBuffer? {
    let env = environment
    guard let packet = env.pointee.pool.allocateForTransmit() else { return nil }
    guard bytes.count > 0, let from = bytes.baseAddress else { return packet }
    if bytes.count <= packet.tailroom {
      packet.put(bytes.count).copyMemory(from: from, byteCount: bytes.count)
      return packet
    }
    guard env.pointee.pool.attachLarge(packet), let large = packet.storage.pointee.large else {
      env.pointee.pool.release(packet)
      return nil
    }
    large.copyMemory(from: from, byteCount: bytes.count)
    packet.addFragment(large, bytes.count)
    return packet
  }

  /// The payload where the program has it.
  private func lentPacket(_ bytes: UnsafeRawBufferPointer, _ state: DatagramPointer) -> PacketBuffer? {
    guard let packet = environment.pointee.pool.allocateForTransmit(), let from = bytes.baseAddress else { return nil }
    packet.addFragment(UnsafeMutableRawPointer(mutating: from), bytes.count)
    packet.storage.pointee.lentBy = state.pointee.index + 1
    state.pointee.lentFrames += 1
    return packet
  }

  /// A frame would go to the device next: it waits for no other, and for no neighbour.
  private func isOnItsWay(_ nextHop: IPAddress) -> Bool {
    transmitQueue.isEmpty && !isDetecting && (device.linkType == .ip || neighbors.lookup(nextHop) != nil)
  }

  /// How many frames still point into the memory of what was sent with `mayLend`.
  package func lentFrames(_ socket: SocketHandle) -> Int { datagrams.pointer(socket.slot)?.pointee.lentFrames ?? 0 }

  /// `packet` starts at the transport header.
  mutating func output(
    _ packet: PacketBuffer, _ proto: UInt8, _ state: DatagramPointer, _ path: DatagramPath, isLarge: Bool
  ) {
    let env = environment
    let isGroup = path.kind == .multicast || path.kind == .broadcast
    if isGroup, hearsItself(state, path) { loopCopy(packet, proto, path) }
    if path.kind == .multicast, path.timeToLive == 0 { return env.pointee.pool.release(packet) }
    guard path.remote.address.isIPv4 else {
      return sendIPv6(
        packet, proto: proto, source: path.source, destination: path.remote.address, nextHop: path.nextHop,
        trafficClass: path.typeOfService, hopLimit: path.timeToLive, flowLabel: 0, mtu: path.mtu)
    }
    nextIdentification &+= 1
    // IP_PMTUDISC_DO and _PROBE; _WANT unless a router on the way takes less than we believe (ip_dont_fragment).
    let mode = state.pointee.mtuDiscover
    let dontFragment = mode == 2 || mode == 3 || mode == 1 && !isLarge && !path.mtuLocked
    sendIPv4(
      packet, proto: proto, source: path.source.v4, destination: path.remote.address.v4, nextHop: path.nextHop,
      typeOfService: path.typeOfService, timeToLive: path.timeToLive, identification: nextIdentification,
      flags: dontFragment ? IPv4Header.flagDontFragment : 0, mtu: path.mtu)
  }

  // MARK: To ourselves as well

  /// Broadcasts come back to the sender's own host, and multicasts where it listens and IP_MULTICAST_LOOP is on.
  private func hearsItself(_ state: DatagramPointer, _ path: DatagramPath) -> Bool {
    path.kind == .broadcast || state.pointee.multicastLoop && listens(to: path.remote.address)
  }

  private mutating func loopCopy(_ packet: PacketBuffer, _ proto: UInt8, _ path: DatagramPath) {
    let env = environment
    let length = packet.count
    guard let copy = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .ip) }
    guard env.pointee.pool.fill(copy, from: packet) else { return env.pointee.drop(copy, .noBuffer, .ip) }
    let timeToLive =
      path.timeToLive > 0 ? UInt8(path.timeToLive) : path.kind == .multicast ? 0 : env.pointee.settings.ipDefaultTTL
    if path.remote.address.isIPv4 {
      IPv4Header(
        proto: proto, source: path.source.v4, destination: path.remote.address.v4, payloadLength: length,
        typeOfService: path.typeOfService, identification: nextIdentification, timeToLive: timeToLive
      ).write(to: copy.push(IPv4Header.minimumLength))
    } else {
      IPv6Header(
        nextHeader: proto, source: path.source, destination: path.remote.address, payloadLength: length,
        trafficClass: path.typeOfService, flowLabel: 0, hopLimit: timeToLive
      ).write(to: copy.push(IPv6Header.length))
    }
    copy.storage.pointee.isLooped = true
    copy.storage.pointee.checksumState = .verified
    copy.storage.pointee.time = env.pointee.now
    loopbackQueue.append(copy)
  }

  // MARK: In pieces

  private mutating func append(
    _ bytes: UnsafeRawBufferPointer, _ message: DatagramMessage, to state: DatagramPointer
  ) throws(SocketError) {
    if state.pointee.pending == nil {
      // What can be refused is refused at once.
      let path = try path(state, message)
      guard bytes.count + UDPHeader.length <= path.mostPayload else {
        throw tooLarge(state, path, mtu: path.mtu)
      }
      if !state.pointee.isInPortTable { try holdPort(state) }
      var first = message
      // It goes out of memory that is gone when the device writes the frame.
      first.mayLend = false
      let made = UnsafeMutablePointer<PendingDatagram>.allocate(capacity: 1)
      made.initialize(
        to: PendingDatagram(memory: .allocate(byteCount: 65536, alignment: 16), length: 0, message: first))
      state.pointee.pending = made
    }
    let pending = state.pointee.pending.unsafelyUnwrapped
    guard pending.pointee.length + bytes.count + IPv4Header.minimumLength + UDPHeader.length <= 65535 else {
      dropPending(state)
      throw .messageTooLong
    }
    if let from = bytes.baseAddress, bytes.count > 0 {
      (pending.pointee.memory + pending.pointee.length).copyMemory(from: from, byteCount: bytes.count)
    }
    pending.pointee.length += bytes.count
    if !message.more, !state.pointee.isCorked { try sendPending(state) }
  }

  mutating func sendPending(_ state: DatagramPointer) throws(SocketError) {
    guard let pending = state.pointee.pending else { return }
    let message = pending.pointee.message
    let bytes = UnsafeRawBufferPointer(start: pending.pointee.memory, count: pending.pointee.length)
    do throws(SocketError) {
      try sendUDP(state, bytes, message)
    } catch {
      dropPending(state)
      throw error
    }
    dropPending(state)
    flush()
  }

  func dropPending(_ state: DatagramPointer) {
    guard let pending = state.pointee.pending else { return }
    state.pointee.pending = nil
    pending.pointee.memory.deallocate()
    pending.deallocate()
  }
}
