// Owns: the program's calls on datagram sockets but for sending (Stack+DatagramSend.swift). Read first: RFC 768, RFC 1122 §4.1,
// udp(7), ip(7), raw(7), icmp(7).

import Wire

extension Stack {
  func datagram(_ socket: SocketHandle) throws(SocketError) -> DatagramPointer {
    guard socket.kind == .datagram, let state = datagrams.pointer(socket.slot) else { throw .badHandle }
    return state
  }

  /// - Parameter proto: the IP protocol of a raw socket.
  package mutating func openDatagram(
    _ kind: DatagramKind, proto: UInt8, isIPv6: Bool, cookie: UInt32, now: Instant
  ) throws(SocketError) -> SocketHandle {
    environment.pointee.now = now
    let state = DatagramSocketState(
      index: datagrams.nextFreeIndex, kind: kind, isIPv6: isIPv6, cookie: cookie, settings: environment.pointee.settings
    )
    guard let handle = datagrams.insert(state) else { throw .outOfMemory }
    let socket = datagrams.pointer(at: handle.index)
    // INET_PROTOSW_REUSE
    socket.pointee.reuseAddress = kind != .udp
    socket.pointee.onlyIPv6 = isIPv6 && kind != .udp
    if kind == .raw {
      // rawv6_init_sk
      if isIPv6, proto == IPProtocol.icmpv6 { socket.pointee.checksumOffset = 2 }
      socket.pointee.local.port = UInt16(proto)
      socket.pointee.includesHeader = proto == IPProtocol.raw
      rawProtocols.hold(socket)
      rawProtocolSet?.pointee.set(proto, true)
    }
    return SocketHandle(.datagram, handle)
  }

  mutating func closeDatagram(_ socket: SocketHandle) {
    guard let state = datagrams.pointer(socket.slot) else { return }
    dropPending(state)
    leaveAll(state)
    releasePort(state)
    environment.pointee.pool.releaseAll(&state.pointee.queue)
    environment.pointee.pool.releaseAll(&state.pointee.errors)
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

  // MARK: Ports and names

  private mutating func releasePort(_ state: DatagramPointer) {
    switch state.pointee.kind {
    case .udp: datagramPorts.release(state, in: datagrams)
    case .ping: pingIdentifiers.release(state, in: datagrams)
    case .raw:
      let proto = state.pointee.local.port
      rawProtocols.release(state, in: datagrams)
      if rawProtocols.next(after: nil, port: proto, in: datagrams) == nil {
        rawProtocolSet?.pointee.set(UInt8(truncatingIfNeeded: proto), false)
      }
    }
  }

  mutating func bindDatagram(_ socket: SocketHandle, to local: Endpoint) throws(SocketError) {
    let state = try datagram(socket)
    let isRaw = state.pointee.kind == .raw
    // UDP may be bound to broadcast and multicast addresses, to receive only those.
    let wanted = local.address
    if isRaw, state.pointee.isIPv6, wanted.isIPv4 { throw .addressNotAvailable }
    let group =
      state.pointee.kind != .ping && (wanted.isMulticast || routes.isBroadcast(wanted))
      && (wanted.isIPv4 ? !state.pointee.onlyIPv6 : state.pointee.isIPv6)
    let address =
      group
      ? wanted
      : try bindable(
        wanted, isIPv6: state.pointee.isIPv6, onlyIPv6: state.pointee.onlyIPv6, freely: state.pointee.freeBind)
    guard isRaw || !state.pointee.isInPortTable else { throw .invalidArgument }
    if isRaw { state.pointee.local.address = address } else { try hold(state, address, port: local.port) }
    state.pointee.isBound = true
    state.pointee.boundAddress = address
    if address.isIPv6Specific { state.pointee.onlyIPv6 = true }
  }

  private mutating func hold(_ state: DatagramPointer, _ address: IPAddress, port: UInt16) throws(SocketError) {
    if port != 0 {
      if conflicts(state, Endpoint(address, port)) { throw .addressInUse }
      state.pointee.local = Endpoint(address, port)
    } else {
      // Identifiers of echo requests may be any number but 0.
      let range =
        state.pointee.kind == .ping ? (first: 1, last: 65535) : environment.pointee.settings.ipLocalPortRange
      let count = Int(range.last) - Int(range.first) + 1
      let start = environment.pointee.random.below(count)
      var found: UInt16?
      for i in 0..<count {
        let candidate = UInt16(Int(range.first) + (start + i) % count)
        if !conflicts(state, Endpoint(address, candidate)) {
          found = candidate
          break
        }
      }
      guard let found else { throw .wouldBlock }
      state.pointee.local = Endpoint(address, found)
    }
    if state.pointee.kind == .ping { pingIdentifiers.hold(state) } else { datagramPorts.hold(state) }
  }

  private func conflicts(_ state: DatagramPointer, _ local: Endpoint) -> Bool {
    state.pointee.kind == .ping
      ? pingIdentifiers.conflicts(state, local, in: datagrams) : datagramPorts.conflicts(state, local, in: datagrams)
  }

  /// Gives a socket that has none a port.
  package mutating func holdAnyPort(_ socket: SocketHandle, now: Instant) throws(SocketError) {
    environment.pointee.now = now
    let state = try datagram(socket)
    if !state.pointee.isInPortTable { try hold(state, state.pointee.anyAddress, port: 0) }
  }

  mutating func connectDatagram(_ socket: SocketHandle, to remote: Endpoint) throws(SocketError) {
    let state = try datagram(socket)
    if remote.address.isUnspecified, remote.port == 0 { return try disconnectDatagram(socket) }
    let route = try way(from: state, to: remote.address)
    if !state.pointee.isInPortTable { try hold(state, state.pointee.anyAddress, port: 0) }
    if state.pointee.local.address.isUnspecified { state.pointee.local.address = route.source }
    state.pointee.remote = remote
  }

  package func hasPeer(_ socket: SocketHandle) -> Bool { datagrams.pointer(socket.slot)?.pointee.remote != nil }

  /// The socket has a peer somewhere else: a port that nobody may send to. disconnect undoes it, and connect.
  package mutating func hearNobody(_ socket: SocketHandle) throws(SocketError) {
    let state = try datagram(socket)
    state.pointee.local.address = state.pointee.boundAddress
    state.pointee.remote = Endpoint(state.pointee.anyAddress, 0)
  }

  mutating func disconnectDatagram(_ socket: SocketHandle) throws(SocketError) {
    let state = try datagram(socket)
    state.pointee.remote = nil
    if state.pointee.isBound || state.pointee.kind == .raw {
      state.pointee.local.address = state.pointee.boundAddress
    } else {
      releasePort(state)
      state.pointee.local = Endpoint(state.pointee.anyAddress, 0)
    }
  }

  /// The way from a socket to `remote`, if its family and options allow one.
  func way(from state: DatagramPointer, to remote: IPAddress) throws(SocketError) -> RouteDecision {
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

  // MARK: Receiving

  package mutating func receiveDatagram(
    _ socket: SocketHandle, into destination: UnsafeMutableRawBufferPointer, flags: ReceiveFlags, now: Instant
  ) throws(SocketError) -> ReceivedDatagram {
    let env = environment
    env.pointee.now = now
    let state = try datagram(socket)
    if let pending = state.pointee.error {
      if !flags.contains(.keepError) { state.pointee.error = nil }
      throw pending
    }
    // After SHUT_RD datagrams still come; only a call that would wait ends, with zero (the shell sees to that).
    guard let packet = state.pointee.queue.first else { throw .wouldBlock }
    let controls = state.pointee.controls
    let isWhole = controls.contains(.segmentSize)
    let length = DatagramSocketState.length(of: packet, isWhole: isWhole)
    let copied = packet.copy(
      from: 0,
      to: UnsafeMutableRawBufferPointer(start: destination.baseAddress, count: min(destination.count, length)))
    env.pointee.statistics.count(.copiesOut)
    env.pointee.statistics.count(.copyBytesOut, copied)
    var result = ReceivedDatagram(copied: copied, length: length, packet, controls: controls)
    if isWhole { result.segmentSize = Int(packet.storage.pointee.segmentSize) }
    if flags.contains(.peek) { return result }
    if length < packet.count {
      packet.pull(length)
      return result
    }
    state.pointee.queue.remove(packet)
    state.pointee.queuedMemory -= Int(packet.storage.pointee.charge)
    env.pointee.pool.release(packet)
    return result
  }

  /// MSG_ERRQUEUE: the oldest error; nil where there is none.
  package mutating func receiveError(
    _ socket: SocketHandle, into destination: UnsafeMutableRawBufferPointer
  ) -> ReceivedError? {
    guard socket.kind == .datagram, let state = datagrams.pointer(socket.slot) else { return nil }
    let taken = state.pointee.takeError(into: destination, pool: &environment.pointee.pool)
    if !state.pointee.errors.isEmpty { noteChanged(state, .error) }
    return taken
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
    case .receiveErrors:
      state.pointee.receiveErrors = on
      if !on { state.pointee.forgetErrors(pool: &environment.pointee.pool) }
    case .packetInfo: state.pointee.want(.packetInfo, on)
    case .receiveTTL: state.pointee.want(.timeToLive, on)
    case .receiveTOS: state.pointee.want(.typeOfService, on)
    case .freeBind: state.pointee.freeBind = on
    case .onlyIPv6:
      guard state.pointee.isIPv6, !state.pointee.isInPortTable else { throw .invalidArgument }
      state.pointee.onlyIPv6 = on || state.pointee.kind != .udp
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
    case .packetInfo: return state.pointee.controls.contains(.packetInfo) ? 1 : 0
    case .receiveTTL: return state.pointee.controls.contains(.timeToLive) ? 1 : 0
    case .receiveTOS: return state.pointee.controls.contains(.typeOfService) ? 1 : 0
    case .freeBind: return state.pointee.freeBind ? 1 : 0
    case .onlyIPv6: return state.pointee.onlyIPv6 && state.pointee.kind == .udp ? 1 : 0
    case .trafficClass: return Int(state.pointee.trafficClass)
    case .unicastHops:
      return state.pointee.hopLimit > 0 ? state.pointee.hopLimit : Int(environment.pointee.settings.ipDefaultTTL)
    case .noDelay, .cork, .maximumSegment, .keepIdle, .keepInterval, .keepCount, .userTimeout, .quickAck, .deferAccept,
      .synCount, .linger2, .windowClamp, .congestion, .notSentLowWater:
      throw .protocolNotAvailable
    }
  }

  package mutating func setOption(
    _ socket: SocketHandle, _ option: DatagramOption, _ value: Int, now: Instant
  ) throws(SocketError) {
    environment.pointee.now = now
    let state = try datagram(socket)
    let on = value != 0
    switch option {
    case .dropCount: state.pointee.want(.dropCount, on)
    case .withoutChecksum: state.pointee.withoutChecksum = on
    case .originalDestination: state.pointee.want(.originalDestination, on)
    case .multicastTimeToLive:
      guard (-1...255).contains(value) else { throw .invalidArgument }
      state.pointee.multicastTimeToLive = value < 0 ? 1 : value
    case .multicastLoop: state.pointee.multicastLoop = on
    case .multicastAll:
      guard (0...1).contains(value) else { throw .invalidArgument }
      state.pointee.multicastAll = on
    case .includesHeader, .includesHeader6:
      guard state.pointee.kind == .raw else { throw .protocolNotAvailable }
      state.pointee.includesHeader = on
    case .checksumOffset:
      guard state.pointee.kind == .raw else { throw .protocolNotAvailable }
      guard value <= 0 || value & 1 == 0 else { throw .invalidArgument }
      state.pointee.checksumOffset = max(value, -1)
    case .icmpFilter: state.pointee.icmpFilter = UInt32(truncatingIfNeeded: value)
    case .isCorked:
      state.pointee.isCorked = on
      if !on, state.pointee.pending != nil { try sendPending(state) }
    case .segmentSize:
      guard (0...65535).contains(value) else { throw .invalidArgument }
      state.pointee.segmentSize = value
    case .receivesSegments: state.pointee.want(.segmentSize, on)
    case .packetInfo6: state.pointee.want(.packetInfo6, on)
    case .hopLimit6: state.pointee.want(.hopLimit6, on)
    case .trafficClass6: state.pointee.want(.trafficClass6, on)
    case .originalDestination6: state.pointee.want(.originalDestination6, on)
    case .oldPacketInfo6: state.pointee.want(.oldPacketInfo6, on)
    case .oldHopLimit6: state.pointee.want(.oldHopLimit6, on)
    case .multicastHops:
      guard (-1...255).contains(value) else { throw .invalidArgument }
      state.pointee.multicastHops = value < 0 ? 1 : value
    case .multicastAll6:
      guard (0...1).contains(value) else { throw .invalidArgument }
      state.pointee.multicastAll = on
    }
  }

  package mutating func setFilter(_ socket: SocketHandle, _ filter: ICMP6Filter) throws(SocketError) {
    try datagram(socket).pointee.icmp6Filter = filter
  }

  package func option(_ socket: SocketHandle, _ option: DatagramOption) throws(SocketError) -> Int {
    let state = try datagram(socket)
    switch option {
    case .dropCount: return state.pointee.controls.contains(.dropCount) ? 1 : 0
    case .withoutChecksum: return state.pointee.withoutChecksum ? 1 : 0
    case .originalDestination: return state.pointee.controls.contains(.originalDestination) ? 1 : 0
    case .multicastTimeToLive: return state.pointee.multicastTimeToLive
    case .multicastLoop: return state.pointee.multicastLoop ? 1 : 0
    case .multicastAll: return state.pointee.multicastAll ? 1 : 0
    case .includesHeader, .includesHeader6: return state.pointee.includesHeader ? 1 : 0
    case .checksumOffset: return state.pointee.checksumOffset
    case .icmpFilter: return Int(state.pointee.icmpFilter)
    case .isCorked: return state.pointee.isCorked ? 1 : 0
    case .segmentSize: return state.pointee.segmentSize
    case .receivesSegments: return state.pointee.controls.contains(.segmentSize) ? 1 : 0
    case .packetInfo6: return state.pointee.controls.contains(.packetInfo6) ? 1 : 0
    case .hopLimit6: return state.pointee.controls.contains(.hopLimit6) ? 1 : 0
    case .trafficClass6: return state.pointee.controls.contains(.trafficClass6) ? 1 : 0
    case .originalDestination6: return state.pointee.controls.contains(.originalDestination6) ? 1 : 0
    case .oldPacketInfo6: return state.pointee.controls.contains(.oldPacketInfo6) ? 1 : 0
    case .oldHopLimit6: return state.pointee.controls.contains(.oldHopLimit6) ? 1 : 0
    case .multicastHops: return state.pointee.multicastHops
    case .multicastAll6: return state.pointee.multicastAll ? 1 : 0
    }
  }
}

extension DatagramSocketState {
  fileprivate mutating func want(_ control: DatagramControls, _ on: Bool) {
    if on { controls.insert(control) } else { controls.remove(control) }
  }
}
