// Owns: the life of connections in the stack's tables: from segment to connection or listener, birth out of a SYN, the accept
// queue, TIME-WAIT, and the end. Read first: RFC 9293 §3.10.7.1 (CLOSED), §3.10.7.2 (LISTEN); RFC 6528 (ISN).

import Wire

extension Stack {
  // MARK: Segments

  /// `packet` starts at the TCP header.
  mutating func receiveTCP(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    env.pointee.statistics.count(.tcpInSegs)
    let length = packet.count
    if packet.storage.pointee.checksumState != .verified {
      let pseudo = Checksum.pseudoHeader(
        source: ip.source, destination: ip.destination, proto: IPProtocol.tcp, length: length)
      guard Checksum.fold(packet.checksum(from: 0, pseudo)) == 0xffff else {
        env.pointee.statistics.count(.tcpInErrs)
        return env.pointee.drop(packet, .tcpChecksum, .tcp)
      }
    }
    guard let header = TCPHeader(packet.readable) else {
      env.pointee.statistics.count(.tcpInErrs)
      return env.pointee.drop(packet, .tcpMalformed, .tcp)
    }
    let optionBytes = UnsafeRawBufferPointer(
      start: packet.base + TCPHeader.minimumLength, count: header.headerLength - TCPHeader.minimumLength)
    let segment = Segment(
      header: header, options: TCPOptions(parsing: optionBytes), payloadLength: length - header.headerLength,
      packet: packet)
    let whole = packet.storage.pointee.data
    packet.pull(header.headerLength)
    let tuple = FourTuple(
      local: Endpoint(ip.destination, header.destinationPort), remote: Endpoint(ip.source, header.sourcePort))
    if steering.index != 0, rawProtocolSet?.pointee.isEmpty == false,
      steering.isMine(tuple) || demux.find(tuple, in: tcbs) != nil || timeWaits.find(tuple) != nil
    {
      offerToRaw(packet, ip, start: whole &- ip.headerLength)
    }
    if let tcb = demux.find(tuple, in: tcbs) { return segmentArrives(segment, ip, tcb) }
    if let index = timeWaits.find(tuple) { return timeWaitSegmentArrives(segment, ip, tuple, index) }
    if !steering.isMine(tuple) {
      env.pointee.statistics.count(.tcpInSegs, -1)
      packet.storage.pointee.checksumState = .verified
      packet.storage.pointee.data = whole &- ip.headerLength
      return handOver(packet, to: steering.owner(of: tuple), isDelivered: true)
    }
    if let listener = demux.findListener(tuple, in: tcbs) {
      return listenSegmentArrives(segment, ip, tuple, listener, above: nil)
    }
    refuse(segment, ip, .tcpNoSocket)
  }

  /// RFC 9293 §3.10.7.1: no connection.
  private mutating func refuse(_ segment: Segment, _ ip: IPPacketInfo, _ reason: DropReason) {
    sendReset(for: segment, ip)
    environment.pointee.drop(segment.packet, reason, .tcp)
  }

  private mutating func segmentArrives(_ segment: Segment, _ ip: IPPacketInfo, _ tcb: TCBPointer) {
    let env = environment
    let before = tcb.pointee.state
    if before == .synReceived, mustWaitForAccept(tcb, segment) {
      return env.pointee.drop(segment.packet, .tcpAcceptQueueFull, .tcp)
    }
    let unacknowledged = tcb.pointee.snd.una
    let verdict = tcb.pointee.segmentArrives(segment, env)
    if tcb.pointee.snd.una != unacknowledged { confirmNeighbor(of: tcb) }
    switch verdict {
    case .done: env.pointee.pool.release(segment.packet)
    case .queued: break
    case .drop(let reason): env.pointee.drop(segment.packet, reason, .tcp)
    case .reset: refuse(segment, ip, .tcpClosed)
    }
    settle(tcb, before: before)
  }

  /// Something of ours has arrived: the neighbour that it went through need not be asked whether it is there (RFC 4861 §7.3.1).
  private mutating func confirmNeighbor(of tcb: TCBPointer) {
    let now = environment.pointee.now
    guard now - tcb.pointee.neighborConfirmedAt > .seconds(1) else { return }
    tcb.pointee.neighborConfirmedAt = now
    if device.linkType == .ethernet { neighbors.confirm(tcb.pointee.nextHop, now: now) }
  }

  /// The handshake's last segment while the listener's accept queue is full: it is dropped, and the peer's next one tried
  /// again (Linux without tcp_abort_on_overflow).
  private mutating func mustWaitForAccept(_ tcb: TCBPointer, _ segment: Segment) -> Bool {
    guard let parent = tcb.pointee.parent, segment.flags.contains(.ack), !segment.flags.contains(.rst),
      let listener = tcbs.pointer(parent), listener.pointee.queuedForAccept > listener.pointee.backlog
    else { return false }
    environment.pointee.statistics.count(.tcpListenOverflows)
    environment.pointee.statistics.count(.tcpListenDrops)
    if environment.pointee.settings.tcpAbortOnOverflow {
      sendReset(of: tcb)
      tcb.pointee.finish(environment)
      settle(tcb, before: .synReceived)
    }
    return true
  }

  // MARK: LISTEN

  private mutating func listenSegmentArrives(
    _ segment: Segment, _ ip: IPPacketInfo, _ tuple: FourTuple, _ listener: TCBPointer, above floor: SequenceNumber?
  ) {
    let env = environment
    switch listener.pointee.listenSegmentArrives(segment) {
    case .reset:
      return refuse(segment, ip, .tcpInvalidFlags)
    case .drop(let reason):
      return env.pointee.drop(segment.packet, reason, .tcp)
    case .open:
      break
    }
    let limit = min(max(listener.pointee.backlog, 1), env.pointee.settings.tcpMaxSynBacklog)
    if listener.pointee.queuedForAccept > listener.pointee.backlog {
      env.pointee.statistics.count(.tcpListenOverflows)
      env.pointee.statistics.count(.tcpListenDrops)
      return env.pointee.drop(segment.packet, .tcpAcceptQueueFull, .tcp)
    }
    guard listener.pointee.handshakes <= limit, let child = makeTCB(cookie: 0, isOpen: false) else {
      env.pointee.statistics.count(.tcpListenDrops)
      return env.pointee.drop(segment.packet, .tcpListenQueueFull, .tcp)
    }
    child.pointee.tuple = tuple
    child.pointee.isIPv6 = listener.pointee.isIPv6
    child.pointee.parent = tcbs.handle(at: listener.pointee.index)
    listener.pointee.countHandshakes(1)
    prepare(child, floor: floor)
    let iss = child.pointee.snd.iss
    child.pointee.open(from: segment, listener: listener, iss: iss, env)
    demux.insert(child, in: tcbs)
    demux.holdPort(child, in: tcbs)
    env.pointee.pool.release(segment.packet)
    noteWork(child)
  }

  /// What a connection needs before its first segment: ISS, timestamp offset, route, segment size.
  mutating func prepare(_ tcb: TCBPointer, floor: SequenceNumber?) {
    let env = environment
    tcb.pointee.snd.iss = initialSequence(tcb.pointee.tuple)
    if let floor, tcb.pointee.snd.iss < floor { tcb.pointee.snd.iss = floor }
    tcb.pointee.timestampOffset = timestampOffset(tcb.pointee.tuple)
    tcb.pointee.ipIdentification = UInt16(truncatingIfNeeded: env.pointee.random.next())
    let isIPv4 = tcb.pointee.tuple.remote.address.isIPv4
    if !isIPv4 {
      // RFC 6437 §3: a label that nobody can guess, the same for all of the connection.
      let hash = tcb.pointee.tuple.hash(Self.key(4, of: env.pointee.secret))
      tcb.pointee.flowLabel = UInt32(truncatingIfNeeded: hash) & 0xf_ffff
    }
    var linkMTU = linkMTU(tcb.pointee.tuple.remote.address)
    if let route = routes.lookup(tcb.pointee.tuple.remote.address, now: env.pointee.now) {
      if route.kind == .local { linkMTU = route.mtu }
      tcb.pointee.neighborGeneration = routes.generation
      tcb.pointee.nextHop = route.nextHop
      tcb.pointee.pathMTU = route.mtu
    }
    let headers = (isIPv4 ? IPv4Header.minimumLength : IPv6Header.length) + TCPHeader.minimumLength
    tcb.pointee.advertisedSegment = linkMTU - headers
    if tcb.pointee.options.maximumSegment > 0 {
      tcb.pointee.advertisedSegment = min(tcb.pointee.advertisedSegment, tcb.pointee.options.maximumSegment)
    }
  }

  /// RFC 6528 §3: a clock of 4 µs plus a keyed hash of the socket pair.
  private func initialSequence(_ tuple: FourTuple) -> SequenceNumber {
    let clock = UInt64(bitPattern: environment.pointee.now.nanoseconds) >> 12
    return SequenceNumber(UInt32(truncatingIfNeeded: clock &+ tuple.hash(Self.key(1, of: environment.pointee.secret))))
  }

  /// RFC 7323 §7.1: a clock per pair of hosts, so that it says nothing about the machine but is monotonic for TIME-WAIT.
  private func timestampOffset(_ tuple: FourTuple) -> UInt32 {
    var hosts = tuple
    hosts.local.port = 0
    hosts.remote.port = 0
    return UInt32(truncatingIfNeeded: hosts.hash(Self.key(2, of: timestampSecret)))
  }

  static func key(_ purpose: UInt64, of secret: HashKey) -> HashKey {
    HashKey(secret.k0 ^ purpose &* 0x9e37_79b9_7f4a_7c15, secret.k1)
  }

  // MARK: TIME-WAIT

  private mutating func timeWaitSegmentArrives(
    _ segment: Segment, _ ip: IPPacketInfo, _ tuple: FourTuple, _ index: UInt32
  ) {
    let env = environment
    switch timeWaits.segmentArrives(segment, at: index, env) {
    case .drop(let reason):
      env.pointee.drop(segment.packet, reason, .tcp)
    case .acknowledge:
      acknowledgeFromTimeWait(index)
      env.pointee.pool.release(segment.packet)
    case .end:
      timeWaits.remove(index, env)
      env.pointee.pool.release(segment.packet)
    case .recycle(let floor):
      guard let listener = demux.findListener(tuple, in: tcbs) else { return refuse(segment, ip, .tcpNoSocket) }
      timeWaits.remove(index, env)
      env.pointee.statistics.count(.tcpTimeWaitRecycled)
      listenSegmentArrives(segment, ip, tuple, listener, above: floor)
    }
  }

  private mutating func acknowledgeFromTimeWait(_ index: UInt32) {
    let record = timeWaits.pointer(at: index).pointee
    var options = TCPOptions()
    if record.timestampsOn {
      options.hasTimestamp = true
      options.timestampValue =
        UInt32(truncatingIfNeeded: environment.pointee.now.milliseconds) &+ record.timestampOffset
      options.timestampEcho = record.recentTimestamp
    }
    let header = TCPHeader(
      sourcePort: record.tuple.local.port, destinationPort: record.tuple.remote.port, sequence: record.sndNxt,
      acknowledgment: record.rcvNxt, headerLength: TCPHeader.minimumLength + options.encodedLength, flags: .ack,
      window: record.window)
    sendBare(
      header, options, local: record.tuple.local.address, remote: record.tuple.remote.address, timeToLive: 0,
      typeOfService: 0)
  }

  // MARK: Life and death

  mutating func makeTCB(cookie: UInt32, isOpen: Bool) -> TCBPointer? {
    guard
      let handle = tcbs.insert(
        TransmissionControlBlock(index: tcbs.nextFreeIndex, cookie: cookie, isOpen: isOpen, env: environment))
    else { return nil }
    let tcb = tcbs.pointer(at: handle.index)
    let space = environment.pointee.settings.tcpRmem
    tcb.pointee.receiveSpace = space.initial / 2
    // The scale must do for the largest window auto-tuning may reach (tcp_select_initial_window).
    tcb.pointee.rcv.shift = TransmissionControlBlock.windowShift(for: space.maximum)
    return tcb
  }

  /// After anything that may have changed a connection: its tables follow its state, what is new is noted, and it ends if
  /// it is over.
  mutating func settle(_ tcb: TCBPointer, before: TCPState) {
    let state = tcb.pointee.state
    if state != before {
      if before == .synReceived, state.isSynchronized, tcb.pointee.parent != nil { handshakeDone(tcb) }
      if state == .timeWait { enterTimeWait(tcb) }
      if state == .closed { leaveTables(tcb, before: before) }
    }
    noteChanged(tcb)
    noteWork(tcb)
    if tcb.pointee.state == .closed { releaseIfOver(tcb) }
  }

  /// The child moves from the SYN queue to the accept queue.
  private mutating func handshakeDone(_ tcb: TCBPointer) {
    let env = environment
    env.pointee.statistics.count(.tcpPassiveOpens)
    guard let parent = tcb.pointee.parent, let listener = tcbs.pointer(parent), listener.pointee.state == .listen else {
      return
    }
    listener.pointee.countHandshakes(-1)
    listener.pointee.countForAccept(1)
    tcb.pointee.acceptNext = 0
    if listener.pointee.acceptLast != 0 {
      tcbs.pointer(at: listener.pointee.acceptLast - 1).pointee.acceptNext = tcb.pointee.index + 1
    } else {
      listener.pointee.acceptFirst = tcb.pointee.index + 1
    }
    listener.pointee.acceptLast = tcb.pointee.index + 1
    listener.pointee.raise(.readable)
    noteChanged(listener)
  }

  private mutating func enterTimeWait(_ tcb: TCBPointer) {
    let env = environment
    // The acknowledgment of the peer's FIN goes out first, while the connection still can.
    tcb.pointee.state = .finWait2
    tcb.pointee.work.formIntersection(.ackNow)
    transmit(tcb)
    tcb.pointee.state = .timeWait
    demux.remove(tcb, in: tcbs)
    timeWaits.insert(tcb, env)
    tcb.pointee.finish(env)
    leaveTables(tcb, before: .timeWait)
  }

  private mutating func leaveTables(_ tcb: TCBPointer, before: TCPState) {
    demux.remove(tcb, in: tcbs)
    if !tcb.pointee.isBound || !tcb.pointee.isOpen { demux.releasePort(tcb, in: tcbs) }
    // A child that never finished its handshake is nobody's.
    if before == .synReceived, let parent = tcb.pointee.parent {
      tcb.pointee.parent = nil
      if let listener = tcbs.pointer(parent), listener.pointee.state == .listen { listener.pointee.countHandshakes(-1) }
    }
  }

  /// Frees the record of a connection that is closed, not open in the program, and not on its way to the device.
  mutating func releaseIfOver(_ tcb: TCBPointer) {
    guard tcb.pointee.state == .closed, !tcb.pointee.isOpen, tcb.pointee.parent == nil else { return }
    tcb.pointee.isZombie = true
    guard !tcb.pointee.isInWorkList, !tcb.pointee.isInChangedList, !tcb.pointee.sendBuffer.isPinned else { return }
    demux.remove(tcb, in: tcbs)
    demux.releasePort(tcb, in: tcbs)
    tcb.pointee.receiveQueue.releaseAll(&environment.pointee.pool)
    tcb.pointee.releaseTimers(environment)
    tcbs.remove(at: tcb.pointee.index)
  }

  /// A listener goes: children in the accept queue are reset, those still shaking hands forgotten.
  mutating func closeListener(_ listener: TCBPointer) {
    let env = environment
    demux.removeListener(listener, in: tcbs)
    let handle = tcbs.handle(at: listener.pointee.index)
    listener.pointee.enter(.closed, env)
    listener.pointee.acceptFirst = 0
    listener.pointee.acceptLast = 0
    listener.pointee.countForAccept(-listener.pointee.acceptCount)
    listener.pointee.countHandshakes(-listener.pointee.synCount)
    listener.pointee.listenQueue = nil
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let child = tcbs.pointer(at: used)
      guard child.pointee.parent == handle else { continue }
      let before = child.pointee.state
      if before.isSynchronized { sendReset(of: child) }
      child.pointee.parent = nil
      child.pointee.finish(env)
      if before == .closed { releaseIfOver(child) } else { settle(child, before: before) }
    }
    if !listener.pointee.isBound || !listener.pointee.isOpen { demux.releasePort(listener, in: tcbs) }
  }

  /// True while a connection still has bytes or a FIN to bring over. TIME-WAIT does not count.
  package func hasUnfinishedSends() -> Bool {
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let tcb = tcbs.pointer(at: used)
      switch tcb.pointee.state {
      case .closed, .listen, .synSent, .timeWait: continue
      default: break
      }
      if tcb.pointee.snd.una != tcb.pointee.snd.nxt || tcb.pointee.dataEnd > tcb.pointee.snd.nxt { return true }
      if tcb.pointee.finQueued, !tcb.pointee.finSent { return true }
    }
    return false
  }

  /// Resets every connection: the program died.
  package mutating func abortAll(now: Instant) {
    let env = environment
    env.pointee.now = now
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let tcb = tcbs.pointer(at: used)
      let before = tcb.pointee.state
      if before == .closed || before == .listen { continue }
      if before != .synSent { sendReset(of: tcb) }
      tcb.pointee.abort(.connectionAborted, env)
      settle(tcb, before: before)
    }
    flush()
  }
}
