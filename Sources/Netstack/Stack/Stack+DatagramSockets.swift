// Owns: the program's calls on UDP sockets. Read first: RFC 768, RFC 1122 §4.1, udp(7), ip(7).

import Wire

extension Stack {
  private func datagram(_ socket: SocketHandle) throws(SocketError) -> DatagramPointer {
    guard socket.kind == .datagram, let state = datagrams.pointer(socket.slot) else { throw .badHandle }
    return state
  }

  mutating func closeDatagram(_ socket: SocketHandle) {
    guard let state = datagrams.pointer(socket.slot) else { return }
    datagramPorts.release(state, in: datagrams)
    environment.pointee.pool.releaseAll(&state.pointee.queue)
    if state.pointee.isInChangedList { unlinkChanged(state) }
    datagrams.remove(at: state.pointee.index)
  }

  private mutating func unlinkChanged(_ state: DatagramPointer) {
    let me = state.pointee.index + 1
    if changedDatagrams == me {
      changedDatagrams = state.pointee.changedNext
      return
    }
    var next = changedDatagrams
    while next != 0 {
      let other = datagrams.pointer(at: next - 1)
      if other.pointee.changedNext == me {
        other.pointee.changedNext = state.pointee.changedNext
        return
      }
      next = other.pointee.changedNext
    }
  }

  mutating func bindDatagram(_ socket: SocketHandle, to local: Endpoint) throws(SocketError) {
    let state = try datagram(socket)
    guard !state.pointee.isInPortTable else { throw .invalidArgument }
    // UDP may be bound to broadcast and multicast addresses, to receive only those.
    let wanted = local.address
    let group =
      (wanted.isMulticast || routes.isBroadcast(wanted))
      && (wanted.isIPv4 ? !state.pointee.onlyIPv6 : state.pointee.isIPv6)
    let address =
      group
      ? wanted
      : try bindable(
        wanted, isIPv6: state.pointee.isIPv6, onlyIPv6: state.pointee.onlyIPv6, freely: state.pointee.freeBind)
    try hold(state, address, port: local.port)
    state.pointee.isBound = true
    state.pointee.boundAddress = address
  }

  private mutating func hold(_ state: DatagramPointer, _ address: IPAddress, port: UInt16) throws(SocketError) {
    if port != 0 {
      if datagramPorts.conflicts(state, Endpoint(address, port), in: datagrams) { throw .addressInUse }
      state.pointee.local = Endpoint(address, port)
    } else {
      let range = environment.pointee.settings.ipLocalPortRange
      let count = Int(range.last) - Int(range.first) + 1
      let start = environment.pointee.random.below(count)
      var found: UInt16?
      for i in 0..<count {
        let candidate = UInt16(Int(range.first) + (start + i) % count)
        if !datagramPorts.conflicts(state, Endpoint(address, candidate), in: datagrams) {
          found = candidate
          break
        }
      }
      guard let found else { throw .wouldBlock }
      state.pointee.local = Endpoint(address, found)
    }
    datagramPorts.hold(state)
  }

  mutating func connectDatagram(_ socket: SocketHandle, to remote: Endpoint) throws(SocketError) {
    let state = try datagram(socket)
    if remote.address.isUnspecified, remote.port == 0 { return try disconnectDatagram(socket) }
    let route = try way(from: state, to: remote.address)
    if !state.pointee.isInPortTable { try hold(state, state.pointee.anyAddress, port: 0) }
    if state.pointee.local.address.isUnspecified { state.pointee.local.address = route.source }
    state.pointee.remote = remote
  }

  mutating func disconnectDatagram(_ socket: SocketHandle) throws(SocketError) {
    let state = try datagram(socket)
    state.pointee.remote = nil
    if state.pointee.isBound {
      state.pointee.local.address = state.pointee.boundAddress
    } else {
      datagramPorts.release(state, in: datagrams)
      state.pointee.local = Endpoint(state.pointee.anyAddress, 0)
    }
  }

  /// The way from a socket to `remote`, if its family and options allow one.
  private func way(from state: DatagramPointer, to remote: IPAddress) throws(SocketError) -> RouteDecision {
    // An address of one family reaches no other, nor does an IPV6_V6ONLY socket.
    let bound = state.pointee.local.address
    guard remote.isIPv4 ? !state.pointee.onlyIPv6 : state.pointee.isIPv6,
      bound == .anyIPv6 || bound.isIPv4 == remote.isIPv4,
      let route = decide(remote, now: environment.pointee.now)
    else { throw .networkUnreachable }
    switch route.kind {
    case .broadcast where !state.pointee.broadcast: throw .accessDenied
    case .prohibit: throw .accessDenied
    case .unreachable: throw .hostUnreachable
    case .blackhole: throw .invalidArgument
    case .unicast, .local, .broadcast, .multicast: return route
    }
  }

  mutating func shutdownDatagram(_ socket: SocketHandle, _ how: ShutdownHow) throws(SocketError) {
    let state = try datagram(socket)
    let isConnected = state.pointee.remote != nil
    if how != .write { state.pointee.readShutdown = true }
    if how != .read { state.pointee.writeShutdown = true }
    noteChanged(state, state.pointee.readiness)
    // Linux does it and complains all the same.
    if !isConnected { throw .notConnected }
  }

  package mutating func sendDatagram(
    _ socket: SocketHandle, _ bytes: UnsafeRawBufferPointer, to: Endpoint?, now: Instant
  ) throws(SocketError) -> Int {
    let env = environment
    env.pointee.now = now
    let state = try datagram(socket)
    if let pending = state.pointee.error {
      state.pointee.error = nil
      throw pending
    }
    if state.pointee.writeShutdown { throw .brokenPipe }
    guard let remote = to ?? state.pointee.remote else { throw .destinationAddressRequired }
    guard remote.port != 0 else { throw .invalidArgument }
    let isIPv4 = remote.address.isIPv4
    let most = isIPv4 ? 65535 - IPv4Header.minimumLength : 65535
    guard bytes.count <= most - UDPHeader.length else { throw .messageTooLong }
    // Bound or connected to IPv4, it speaks no IPv6 (udpv6_sendmsg).
    if !isIPv4, state.pointee.isIPv6, state.pointee.local.address.isIPv4 { throw .addressFamilyNotSupported }
    let route = try way(from: state, to: remote.address)
    if !state.pointee.isInPortTable { try hold(state, state.pointee.anyAddress, port: 0) }
    let total = UDPHeader.length + bytes.count
    let tooLong = total + (isIPv4 ? IPv4Header.minimumLength : IPv6Header.length) > route.mtu
    if tooLong, state.pointee.mtuDiscover == 2 || state.pointee.mtuDiscover == 3 { throw .messageTooLong }
    let source = state.pointee.local.address.isUnspecified ? route.source : state.pointee.local.address
    guard let packet = datagramPacket(bytes) else { throw .noBufferSpace }
    env.pointee.statistics.count(.copiesIn)
    env.pointee.statistics.count(.bytesIn, bytes.count)
    env.pointee.statistics.count(.copyBytesIn, bytes.count)
    env.pointee.statistics.count(.udpOutDatagrams)
    UDPHeader(sourcePort: state.pointee.local.port, destinationPort: remote.port, totalLength: total)
      .write(to: packet.push(UDPHeader.length))
    if tooLong {
      // The pieces have no checksum field of their own: it must be complete before the cut.
      completeNow(packet, source: source, destination: remote.address)
    } else {
      completeChecksum(
        packet, offset: UDPHeader.checksumOffset, proto: IPProtocol.udp, source: source, destination: remote.address)
    }
    if env.pointee.trace.allows(.udp, .debug) {
      var event = TraceEvent(now, .udp, .debug, .datagramOut)
      event.tuple = FourTuple(local: Endpoint(source, state.pointee.local.port), remote: remote)
      event.length = UInt32(bytes.count)
      env.pointee.trace.append(event)
    }
    dispatch(packet, state, source, remote, tooLong: tooLong)
    flush()
    return bytes.count
  }

  private mutating func dispatch(
    _ packet: PacketBuffer, _ state: DatagramPointer, _ source: IPAddress, _ remote: Endpoint, tooLong: Bool
  ) {
    let isIPv4 = remote.address.isIPv4
    let isGroup = remote.address.isMulticast
    route(
      packet, proto: IPProtocol.udp, source: source, destination: remote.address,
      typeOfService: isIPv4 ? state.pointee.typeOfService : state.pointee.trafficClass,
      timeToLive: isIPv4 ? state.pointee.timeToLive : isGroup ? 1 : state.pointee.hopLimit,
      dontFragment: !tooLong && state.pointee.mtuDiscover != 0)
  }

  private func completeNow(_ packet: PacketBuffer, source: IPAddress, destination: IPAddress) {
    let pseudo = Checksum.pseudoHeader(
      source: source, destination: destination, proto: IPProtocol.udp, length: packet.count)
    let sum = ~Checksum.fold(packet.checksum(from: 0, pseudo))
    packet.base.storeBigEndian16(sum == 0 ? 0xffff : sum, at: UDPHeader.checksumOffset)
  }

  /// The payload in a packet of its own, with headroom for the headers.
  private func datagramPacket(_ bytes: UnsafeRawBufferPointer) -> PacketBuffer? {
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

  package mutating func receiveDatagram(
    _ socket: SocketHandle, into destination: UnsafeMutableRawBufferPointer, flags: ReceiveFlags, now: Instant
  ) throws(SocketError) -> ReceivedDatagram {
    let env = environment
    env.pointee.now = now
    let state = try datagram(socket)
    if let pending = state.pointee.error {
      state.pointee.error = nil
      throw pending
    }
    // After SHUT_RD datagrams still come; only a call that would wait ends, with zero (the shell sees to that).
    guard let packet = state.pointee.queue.first else { throw .wouldBlock }
    let length = packet.count
    let copied = packet.copy(
      from: 0,
      to: UnsafeMutableRawBufferPointer(start: destination.baseAddress, count: min(destination.count, length)))
    env.pointee.statistics.count(.copiesOut)
    env.pointee.statistics.count(.copyBytesOut, copied)
    let result = ReceivedDatagram(
      copied: copied, length: length, source: packet.storage.pointee.source,
      destination: packet.storage.pointee.destination, timeToLive: packet.storage.pointee.timeToLive,
      typeOfService: packet.storage.pointee.typeOfService, time: packet.storage.pointee.time)
    if !flags.contains(.peek) {
      state.pointee.queue.remove(packet)
      state.pointee.queuedMemory -= packet.truesize
      env.pointee.pool.release(packet)
    }
    return result
  }

  // MARK: Options

  mutating func setDatagramOption(_ socket: SocketHandle, _ option: SocketOption, _ value: Int) throws(SocketError) {
    let state = try datagram(socket)
    let settings = environment.pointee.settings
    let on = value != 0
    switch option {
    case .reuseAddress: state.pointee.reuseAddress = on
    case .reusePort: state.pointee.reusePort = on
    case .broadcast: state.pointee.broadcast = on
    case .linger: state.pointee.linger = value
    case .receiveBuffer: state.pointee.receiveBuffer = max(2 * min(max(value, 0), settings.rmemMax), 2304)
    case .sendBuffer: state.pointee.sendBuffer = max(2 * min(max(value, 0), settings.wmemMax), 4608)
    case .receiveLowWater: state.pointee.receiveLowWater = max(value, 1)
    case .typeOfService: state.pointee.typeOfService = UInt8(truncatingIfNeeded: value)
    case .timeToLive:
      guard value == -1 || (1...255).contains(value) else { throw .invalidArgument }
      state.pointee.timeToLive = max(value, 0)
    case .mtuDiscover:
      guard (0...5).contains(value) else { throw .invalidArgument }
      state.pointee.mtuDiscover = value
    case .receiveErrors: state.pointee.receiveErrors = on
    case .packetInfo: state.pointee.packetInfo = on
    case .receiveTTL: state.pointee.receiveTTL = on
    case .receiveTOS: state.pointee.receiveTOS = on
    case .freeBind: state.pointee.freeBind = on
    case .onlyIPv6:
      guard state.pointee.isIPv6, !state.pointee.isInPortTable else { throw .invalidArgument }
      state.pointee.onlyIPv6 = on
    case .trafficClass:
      guard (-1...255).contains(value) else { throw .invalidArgument }
      state.pointee.trafficClass = UInt8(max(value, 0))
    case .unicastHops:
      guard (-1...255).contains(value), value != 0 else { throw .invalidArgument }
      state.pointee.hopLimit = max(value, 0)
    case .keepAlive, .bindAddressNoPort: break
    case .acceptConnections, .noDelay, .cork, .maximumSegment, .keepIdle, .keepInterval, .keepCount, .userTimeout,
      .quickAck, .deferAccept, .synCount, .linger2, .windowClamp, .congestion, .notSentLowWater, .mtu:
      throw .protocolNotAvailable
    }
  }

  func datagramOption(_ socket: SocketHandle, _ option: SocketOption) throws(SocketError) -> Int {
    let state = try datagram(socket)
    switch option {
    case .reuseAddress: return state.pointee.reuseAddress ? 1 : 0
    case .reusePort: return state.pointee.reusePort ? 1 : 0
    case .broadcast: return state.pointee.broadcast ? 1 : 0
    case .linger: return state.pointee.linger
    case .receiveBuffer: return state.pointee.receiveBuffer
    case .sendBuffer: return state.pointee.sendBuffer
    case .receiveLowWater: return state.pointee.receiveLowWater
    case .acceptConnections, .keepAlive, .bindAddressNoPort: return 0
    case .typeOfService: return Int(state.pointee.typeOfService)
    case .timeToLive:
      return state.pointee.timeToLive > 0 ? state.pointee.timeToLive : Int(environment.pointee.settings.ipDefaultTTL)
    case .mtuDiscover: return state.pointee.mtuDiscover
    case .mtu:
      guard let remote = state.pointee.remote,
        let route = routes.lookup(remote.address, now: environment.pointee.now)
      else { throw .notConnected }
      return route.mtu
    case .receiveErrors: return state.pointee.receiveErrors ? 1 : 0
    case .packetInfo: return state.pointee.packetInfo ? 1 : 0
    case .receiveTTL: return state.pointee.receiveTTL ? 1 : 0
    case .receiveTOS: return state.pointee.receiveTOS ? 1 : 0
    case .freeBind: return state.pointee.freeBind ? 1 : 0
    case .onlyIPv6: return state.pointee.onlyIPv6 ? 1 : 0
    case .trafficClass: return Int(state.pointee.trafficClass)
    case .unicastHops:
      return state.pointee.hopLimit > 0 ? state.pointee.hopLimit : Int(environment.pointee.settings.ipDefaultTTL)
    case .noDelay, .cork, .maximumSegment, .keepIdle, .keepInterval, .keepCount, .userTimeout, .quickAck, .deferAccept,
      .synCount, .linger2, .windowClamp, .congestion, .notSentLowWater:
      throw .protocolNotAvailable
    }
  }
}
