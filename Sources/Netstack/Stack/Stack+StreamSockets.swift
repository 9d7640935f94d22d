// Owns: the program's calls on stream sockets, as far as the stack's tables are concerned; what they do to the connection
// itself is in Socket/. Read first: RFC 9293 §3.9.1; RFC 6056 §3.3.3 (port selection); connect(2), bind(2), accept(2).

import Wire

extension Stack {
  /// - Parameter isIPv6: of AF_INET6, which speaks to IPv4 too, by mapped addresses (RFC 3493 §3.7).
  package mutating func open(
    _ kind: SocketKind, isIPv6: Bool = false, cookie: UInt32, now: Instant
  ) throws(SocketError) -> SocketHandle {
    environment.pointee.now = now
    switch kind {
    case .stream:
      guard let tcb = makeTCB(cookie: cookie, isOpen: true) else { throw .outOfMemory }
      tcb.pointee.setFamily(isIPv6: isIPv6)
      return SocketHandle(.stream, tcbs.handle(at: tcb.pointee.index))
    case .datagram:
      return try openDatagram(.udp, proto: IPProtocol.udp, isIPv6: isIPv6, cookie: cookie, now: now)
    }
  }

  package mutating func setCookie(_ socket: SocketHandle, _ cookie: UInt32) {
    switch socket.kind {
    case .stream: tcbs.pointer(socket.slot)?.pointee.cookie = cookie
    case .datagram: datagrams.pointer(socket.slot)?.pointee.cookie = cookie
    }
  }

  func stream(_ socket: SocketHandle) throws(SocketError) -> TCBPointer {
    guard socket.kind == .stream, let tcb = tcbs.pointer(socket.slot) else { throw .badHandle }
    return tcb
  }

  // MARK: close

  package mutating func close(_ socket: SocketHandle, now: Instant) {
    environment.pointee.now = now
    if socket.kind == .datagram { return closeDatagram(socket) }
    guard let tcb = tcbs.pointer(socket.slot) else { return }
    let env = environment
    let before = tcb.pointee.state
    tcb.pointee.isOpen = false
    switch before {
    case .listen:
      closeListener(tcb)
    case .closed:
      break
    case .synSent:
      tcb.pointee.finish(env)
    default:
      if tcb.pointee.receiveQueue.readyBytes > 0 || tcb.pointee.options.linger == 0 {
        // Data nobody will read, or an abortive close: the peer must know (RFC 2525 §2.17, RFC 9293 §3.10.5).
        let reason: Counter = tcb.pointee.receiveQueue.readyBytes > 0 ? .tcpAbortOnClose : .tcpAbortOnLinger
        env.pointee.statistics.count(reason)
        sendReset(of: tcb)
        tcb.pointee.finish(env)
      } else {
        tcb.pointee.closeSending(env)
        env.pointee.wheel.cancel(tcb.pointee.lifeTimerID)
        tcb.pointee.armFinWait2(env)
      }
    }
    // Frees the record if the connection is over.
    settle(tcb, before: before)
    flush()
  }

  package func isDrained(_ socket: SocketHandle) -> Bool {
    guard socket.kind == .stream, let tcb = tcbs.pointer(socket.slot) else { return true }
    switch tcb.pointee.state {
    case .closed, .listen, .synSent, .timeWait, .finWait2: return true
    default: break
    }
    return tcb.pointee.snd.una == tcb.pointee.snd.nxt && tcb.pointee.dataEnd <= tcb.pointee.snd.nxt
      && (!tcb.pointee.finQueued || tcb.pointee.finSent)
  }

  // MARK: bind, listen

  package mutating func bind(_ socket: SocketHandle, to local: Endpoint, now: Instant) throws(SocketError) {
    environment.pointee.now = now
    if socket.kind == .datagram { return try bindDatagram(socket, to: local) }
    let tcb = try stream(socket)
    guard tcb.pointee.state == .closed, !tcb.pointee.isInPortTable else { throw .invalidArgument }
    let address = try bindable(
      local.address, isIPv6: tcb.pointee.isIPv6, onlyIPv6: tcb.pointee.options.onlyIPv6,
      freely: tcb.pointee.options.freeBind)
    if local.port == 0 {
      tcb.pointee.tuple.local = Endpoint(address, try freePort(for: tcb, address))
    } else {
      let wanted = Endpoint(address, local.port)
      if demux.conflicts(tcb, wanted, in: tcbs) { throw .addressInUse }
      if !tcb.pointee.options.reuseAddress, timeWaits.holdsPort(local.port) { throw .addressInUse }
      tcb.pointee.tuple.local = wanted
    }
    tcb.pointee.isBound = true
    tcb.pointee.boundAddress = address
    if address.isIPv6Specific { tcb.pointee.options.onlyIPv6 = true }
    demux.holdPort(tcb, in: tcbs)
  }

  /// The address to bind: ours, or any.
  func bindable(_ wanted: IPAddress, isIPv6: Bool, onlyIPv6: Bool, freely: Bool) throws(SocketError) -> IPAddress {
    if wanted.isIPv4 ? onlyIPv6 : !isIPv6 { throw .invalidArgument }
    // ::ffff:0.0.0.0 on an AF_INET6 socket is the wildcard of IPv4 alone.
    if wanted.isUnspecified { return wanted }
    guard owns(wanted) || freely else { throw .addressNotAvailable }
    return wanted
  }

  /// A port nobody holds, from a random start (RFC 6056 §3.3.2).
  private mutating func freePort(for tcb: TCBPointer, _ address: IPAddress) throws(SocketError) -> UInt16 {
    let range = environment.pointee.settings.ipLocalPortRange
    let count = Int(range.last) - Int(range.first) + 1
    let start = environment.pointee.random.below(count)
    for i in 0..<count {
      let port = UInt16(Int(range.first) + (start + i) % count)
      if !demux.conflicts(tcb, Endpoint(address, port), in: tcbs), !demux.isTakenByBind(port, in: tcbs) { return port }
    }
    throw .addressInUse
  }

  package mutating func listen(_ socket: SocketHandle, backlog: Int, now: Instant) throws(SocketError) {
    environment.pointee.now = now
    guard socket.kind == .stream else { throw .notSupported }
    let tcb = try stream(socket)
    let limit = environment.pointee.settings.somaxconn
    let wanted = backlog < 0 || backlog > limit ? limit : backlog
    if tcb.pointee.state == .listen {
      tcb.pointee.backlog = wanted
      return
    }
    guard tcb.pointee.state == .closed else { throw .invalidArgument }
    if tcb.pointee.isInPortTable {
      // Sharing a port by SO_REUSEADDR ends where both listen.
      if listensAlready(tcb) { throw .addressInUse }
    } else {
      let address = tcb.pointee.tuple.local.address
      tcb.pointee.tuple.local = Endpoint(address, try freePort(for: tcb, address))
      demux.holdPort(tcb, in: tcbs)
    }
    renew(tcb)
    tcb.pointee.tuple.remote = Endpoint(tcb.pointee.anyAddress, 0)
    tcb.pointee.backlog = wanted
    tcb.pointee.enter(.listen, environment)
    demux.insertListener(tcb)
  }

  private func listensAlready(_ tcb: TCBPointer) -> Bool {
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let other = tcbs.pointer(at: used)
      guard other != tcb, other.pointee.state == .listen,
        other.pointee.tuple.local.port == tcb.pointee.tuple.local.port
      else { continue }
      let a = other.pointee.tuple.local.address
      let b = tcb.pointee.tuple.local.address
      guard
        a.overlaps(
          b, onlyIPv6: other.pointee.options.onlyIPv6, otherOnlyIPv6: tcb.pointee.options.onlyIPv6)
      else { continue }
      if !(other.pointee.options.reusePort && tcb.pointee.options.reusePort) { return true }
    }
    return false
  }

  /// A record that was a connection before starts from nothing, but for options and the port.
  private func renew(_ tcb: TCBPointer) {
    tcb.pointee.finQueued = false
    tcb.pointee.finSent = false
    tcb.pointee.finReceived = false
    tcb.pointee.streamEnded = false
    tcb.pointee.readShutdown = false
    tcb.pointee.error = nil
    tcb.pointee.softError = nil
    tcb.pointee.retransmits = 0
    tcb.pointee.synRetries = 0
    tcb.pointee.rtt = RTTEstimator()
    tcb.pointee.scoreboard.removeAll()
    tcb.pointee.receiveQueue.releaseAll(&environment.pointee.pool)
    tcb.pointee.rcv.edge = tcb.pointee.rcv.nxt
    tcb.pointee.lossProbeEnd = nil
    tcb.pointee.recovery = .open
    tcb.pointee.lastSentAt = .zero
    tcb.pointee.blackHoleSegment = 0
  }

  // MARK: connect

  package mutating func connect(_ socket: SocketHandle, to remote: Endpoint, now: Instant) throws(SocketError) {
    environment.pointee.now = now
    if socket.kind == .datagram { return try connectDatagram(socket, to: remote) }
    let tcb = try stream(socket)
    if let pending = tcb.pointee.error {
      // Who learns of a failed attempt from connect itself has a fresh socket again (__inet_stream_connect).
      if tcb.pointee.state == .closed { forget(tcb) }
      tcb.pointee.error = nil
      throw pending
    }
    switch tcb.pointee.state {
    case .closed: break
    case .synSent, .synReceived: throw .alreadyInProgress
    default: throw .isConnected
    }
    let env = environment
    guard !remote.address.isUnspecified else { throw .connectionRefused }
    let bound = tcb.pointee.boundAddress
    // An address of one family reaches no other, nor does an IPV6_V6ONLY socket.
    guard remote.address.isIPv4 ? !tcb.pointee.options.onlyIPv6 : tcb.pointee.isIPv6,
      bound == .anyIPv6 || bound.isIPv4 == remote.address.isIPv4
    else { throw .networkUnreachable }
    guard let route = decide(remote.address, now: now) else { throw .networkUnreachable }
    switch route.kind {
    case .unicast, .local: break
    case .prohibit: throw .accessDenied
    case .unreachable: throw .hostUnreachable
    case .blackhole: throw .invalidArgument
    case .broadcast, .multicast: throw .networkUnreachable
    }
    renew(tcb)
    let source = tcb.pointee.tuple.local.address.isUnspecified ? route.source : tcb.pointee.tuple.local.address
    var floor: SequenceNumber?
    if tcb.pointee.isInPortTable {
      let tuple = FourTuple(local: Endpoint(source, tcb.pointee.tuple.local.port), remote: remote)
      guard steering.isMine(tuple), isFree(tuple, &floor) else { throw .addressNotAvailable }
      tcb.pointee.tuple = tuple
    } else {
      tcb.pointee.tuple = try ephemeral(source, remote, &floor)
      demux.holdPort(tcb, in: tcbs)
    }
    prepare(tcb, floor: floor)
    tcb.pointee.snd.una = tcb.pointee.snd.iss
    tcb.pointee.snd.nxt = tcb.pointee.snd.iss
    tcb.pointee.snd.bufferStart = tcb.pointee.snd.iss + 1
    tcb.pointee.snd.smallEnd = tcb.pointee.snd.iss
    tcb.pointee.snd.wnd = 0
    tcb.pointee.rcv.irs = SequenceNumber(0)
    tcb.pointee.rcv.nxt = SequenceNumber(0)
    tcb.pointee.lastSentAt = now
    tcb.pointee.enter(.synSent, env)
    demux.insert(tcb, in: tcbs)
    env.pointee.statistics.count(.tcpActiveOpens)
    tcb.pointee.work.insert(.syn)
    settle(tcb, before: .synSent)
    flush()
    throw .inProgress
  }

  /// connect(2) with AF_UNSPEC: the connection is reset, a listener stops, and the socket is as good as new; what bind
  /// chose stays (tcp_disconnect).
  package mutating func disconnect(_ socket: SocketHandle, now: Instant) throws(SocketError) {
    environment.pointee.now = now
    if socket.kind == .datagram { return try disconnectDatagram(socket) }
    let tcb = try stream(socket)
    let before = tcb.pointee.state
    if before == .listen {
      closeListener(tcb)
    } else if before != .closed {
      if before != .synSent { sendReset(of: tcb) }
      tcb.pointee.finish(environment)
      settle(tcb, before: before)
    }
    forget(tcb)
    flush()
  }

  /// What is left of the last connection goes, but for what the program chose.
  private mutating func forget(_ tcb: TCBPointer) {
    renew(tcb)
    tcb.pointee.tuple.remote = Endpoint(tcb.pointee.anyAddress, 0)
    if tcb.pointee.isBound {
      tcb.pointee.tuple.local.address = tcb.pointee.boundAddress
    } else {
      // The number of the port is still told by getsockname, as in Linux, but no longer held.
      demux.releasePort(tcb, in: tcbs)
      tcb.pointee.tuple.local.address = tcb.pointee.anyAddress
    }
  }

  /// Whether the socket pair is unused; a TIME-WAIT one may be taken over when its timestamps are a second old (RFC 6191 §2,
  /// tcp_tw_reuse).
  private mutating func isFree(_ tuple: FourTuple, _ floor: inout SequenceNumber?) -> Bool {
    if demux.find(tuple, in: tcbs) != nil { return false }
    guard let index = timeWaits.find(tuple) else { return true }
    let record = timeWaits.pointer(at: index).pointee
    guard environment.pointee.settings.tcpTimeWaitReuse != 0, record.timestampsOn,
      environment.pointee.now - record.recentTimestampAt > .seconds(1)
    else { return false }
    floor = record.sndNxt + 65537
    timeWaits.remove(index, environment)
    environment.pointee.statistics.count(.tcpTimeWaitRecycled)
    return true
  }

  /// RFC 6056 §3.3.3: the search starts where a keyed hash of the remote end says, plus a step per connection.
  private mutating func ephemeral(
    _ source: IPAddress, _ remote: Endpoint, _ floor: inout SequenceNumber?
  ) throws(SocketError) -> FourTuple {
    let range = environment.pointee.settings.ipLocalPortRange
    let count = Int(range.last) - Int(range.first) + 1
    let start = environment.pointee.random.below(count)
    for i in 0..<count {
      let port = UInt16(Int(range.first) + (start + i) % count)
      if demux.isTakenByBind(port, in: tcbs) { continue }
      let tuple = FourTuple(local: Endpoint(source, port), remote: remote)
      if steering.isMine(tuple), isFree(tuple, &floor) { return tuple }
    }
    throw .addressNotAvailable
  }

  // MARK: accept

  package mutating func accept(_ socket: SocketHandle, cookie: UInt32, now: Instant) throws(SocketError) -> SocketHandle
  {
    environment.pointee.now = now
    guard socket.kind == .stream else { throw .notSupported }
    let listener = try stream(socket)
    guard listener.pointee.state == .listen else { throw .invalidArgument }
    guard listener.pointee.acceptFirst != 0 else { throw .wouldBlock }
    let child = tcbs.pointer(at: listener.pointee.acceptFirst - 1)
    listener.pointee.acceptFirst = child.pointee.acceptNext
    if listener.pointee.acceptFirst == 0 { listener.pointee.acceptLast = 0 }
    listener.pointee.countForAccept(-1)
    child.pointee.acceptNext = 0
    child.pointee.parent = nil
    child.pointee.isOpen = true
    child.pointee.cookie = cookie
    child.pointee.events = []
    child.pointee.armKeepalive(environment)
    return SocketHandle(.stream, tcbs.handle(at: child.pointee.index))
  }

  // MARK: send, receive, shutdown

  package mutating func send(
    _ socket: SocketHandle, _ bytes: UnsafeRawBufferPointer, flags: SendFlags, now: Instant
  ) throws(SocketError) -> Int {
    environment.pointee.now = now
    let tcb = try stream(socket)
    let n: Int
    do throws(SocketError) {
      n = try tcb.pointee.queue(bytes, flags, environment)
    } catch {
      // A full buffer has been told to go out.
      noteWork(tcb)
      flush()
      throw error
    }
    noteWork(tcb)
    flush()
    return n
  }

  /// Whether what `send` with `.hold` took is still held back.
  @inline(__always)
  package func isHeld(_ socket: SocketHandle) -> Bool { tcbs.pointer(socket.slot)?.pointee.isHeld ?? false }

  /// Nothing came after a `send` with `.hold`.
  package mutating func push(_ socket: SocketHandle, now: Instant) {
    guard let tcb = tcbs.pointer(socket.slot), tcb.pointee.isHeld else { return }
    environment.pointee.now = now
    tcb.pointee.isHeld = false
    tcb.pointee.moreComing = false
    tcb.pointee.work.insert(.output)
    noteWork(tcb)
    flush()
  }

  /// Whether `send` with `.lend` is of use: hardly anything waits in front of the new bytes, and they can leave at once.
  package func canLend(_ socket: SocketHandle) -> Bool {
    guard let tcb = tcbs.pointer(socket.slot), tcb.pointee.state == .established, tcb.pointee.error == nil,
      !tcb.pointee.sendBuffer.isLent,
      tcb.pointee.dataEnd - tcb.pointee.snd.nxt < tcb.pointee.segmentPayload, tcb.pointee.recovery == .open,
      !tcb.pointee.options.cork,
      !owns(tcb.pointee.tuple.remote.address)
    else { return false }
    return neighbors.lookup(tcb.pointee.nextHop) != nil || device.linkType == .ip
  }

  /// After `send` with `.lend`, until it returns true: copies what has not been acknowledged. The lender's memory is its own again.
  package mutating func settleLoan(_ socket: SocketHandle) -> Bool {
    guard let tcb = tcbs.pointer(socket.slot) else { return true }
    guard tcb.pointee.sendBuffer.isLent || tcb.pointee.sendBuffer.isPinned else { return true }
    let rest = tcb.pointee.sendBuffer.lentCount
    guard tcb.pointee.sendBuffer.settle() else { return false }
    if rest > 0 {
      environment.pointee.statistics.count(.copiesIn)
      environment.pointee.statistics.count(.copyBytesIn, rest)
    }
    letOthersIn(tcb)
    return true
  }

  /// For a loan that must not be read here: where its bytes are to be put (in order, in two runs), without the stack being held;
  /// then comes `takeOverLoan`. nil while a frame that is on its way to the device leaves no room.
  package mutating func reserveForLoan(
    _ socket: SocketHandle
  ) -> (UnsafeMutableRawBufferPointer, UnsafeMutableRawBufferPointer)? {
    tcbs.pointer(socket.slot)?.pointee.sendBuffer.reserveForLoan()
  }

  /// The lender's memory is its own again once `settleLoan` says so: frames may still point there.
  package mutating func takeOverLoan(_ socket: SocketHandle) {
    guard let tcb = tcbs.pointer(socket.slot) else { return }
    environment.pointee.statistics.count(.copiesIn)
    environment.pointee.statistics.count(.copyBytesIn, tcb.pointee.sendBuffer.lentCount)
    tcb.pointee.sendBuffer.takeOver()
    if tcb.pointee.isZombie { releaseIfOver(tcb) }
  }

  /// Whoever came while bytes were lent was refused.
  private mutating func letOthersIn(_ tcb: TCBPointer) {
    tcb.pointee.spaceFreed(environment)
    noteChanged(tcb)
  }

  /// Bytes of `send` with `.lend` that are neither acknowledged nor copied.
  @inline(__always)
  package func lentBytes(_ socket: SocketHandle) -> Int { tcbs.pointer(socket.slot)?.pointee.sendBuffer.lentCount ?? 0 }

  /// Bytes of a stream in the send buffer, sent or not (SIOCOUTQ).
  @inline(__always)
  package func unacknowledgedBytes(_ socket: SocketHandle) -> Int {
    socket.kind == .stream ? tcbs.pointer(socket.slot)?.pointee.sendBuffer.count ?? 0 : 0
  }

  package mutating func receive(
    _ socket: SocketHandle, into destination: UnsafeMutableRawBufferPointer, flags: ReceiveFlags, now: Instant
  ) throws(SocketError) -> Int {
    environment.pointee.now = now
    let tcb = try stream(socket)
    let n = try tcb.pointee.read(destination, flags, environment)
    if tcb.pointee.work.rawValue != 0 {
      noteWork(tcb)
      flush()
    }
    return n
  }

  package mutating func shutdown(_ socket: SocketHandle, _ how: ShutdownHow, now: Instant) throws(SocketError) {
    environment.pointee.now = now
    if socket.kind == .datagram { return try shutdownDatagram(socket, how) }
    let tcb = try stream(socket)
    let env = environment
    let before = tcb.pointee.state
    switch before {
    case .closed:
      throw .notConnected
    case .listen:
      // As in Linux, SHUT_RD ends listening; SHUT_WR alone changes nothing.
      if how != .write {
        closeListener(tcb)
        tcb.pointee.raise([.hangUp, .readable])
        settle(tcb, before: .closed)
      }
      return flush()
    case .synSent:
      // A connect that waits meanwhile is told (tcp_disconnect).
      tcb.pointee.abort(.connectionReset, env)
    default:
      if how != .write {
        tcb.pointee.readShutdown = true
        tcb.pointee.raise([.readable, .readHangUp])
        if tcb.pointee.finQueued { tcb.pointee.raise(.hangUp) }
      }
      if how != .read { tcb.pointee.closeSending(env) }
    }
    settle(tcb, before: before)
    flush()
  }

  // MARK: What a program may ask

  package func readiness(_ socket: SocketHandle) -> Readiness {
    switch socket.kind {
    case .stream:
      guard let tcb = tcbs.pointer(socket.slot) else { return [.error, .hangUp] }
      let ready = tcb.pointee.readiness
      // Who looks and finds no room wants to hear when there is (tcp_poll sets SOCK_NOSPACE).
      if !ready.contains(.writable) { tcb.pointee.wantsSpace = true }
      return ready
    case .datagram:
      return datagrams.pointer(socket.slot)?.pointee.readiness ?? [.error, .hangUp]
    }
  }

  package mutating func takeError(_ socket: SocketHandle) -> SocketError? {
    switch socket.kind {
    case .stream:
      guard let tcb = tcbs.pointer(socket.slot) else { return nil }
      defer { tcb.pointee.error = nil }
      return tcb.pointee.error
    case .datagram:
      guard let datagram = datagrams.pointer(socket.slot) else { return nil }
      defer { datagram.pointee.error = nil }
      return datagram.pointee.error
    }
  }

  package func localEndpoint(_ socket: SocketHandle) -> Endpoint {
    switch socket.kind {
    case .stream: tcbs.pointer(socket.slot)?.pointee.tuple.local ?? Endpoint(.anyIPv4, 0)
    case .datagram: datagrams.pointer(socket.slot)?.pointee.local ?? Endpoint(.anyIPv4, 0)
    }
  }

  package func remoteEndpoint(_ socket: SocketHandle) throws(SocketError) -> Endpoint {
    switch socket.kind {
    case .stream:
      let tcb = try stream(socket)
      switch tcb.pointee.state {
      case .closed, .listen, .synSent: throw .notConnected
      default: return tcb.pointee.tuple.remote
      }
    case .datagram:
      // A peer without a port, as raw sockets have, is none to speak of (inet_getname).
      guard let remote = datagrams.pointer(socket.slot)?.pointee.remote, remote.port != 0 else { throw .notConnected }
      return remote
    }
  }

  package mutating func setOption(_ socket: SocketHandle, _ option: SocketOption, _ value: Int, now: Instant)
    throws(SocketError)
  {
    environment.pointee.now = now
    if socket.kind == .datagram { return try setDatagramOption(socket, option, value) }
    let tcb = try stream(socket)
    try tcb.pointee.set(option, value, environment)
    if tcb.pointee.state == .closed || tcb.pointee.state == .listen {
      tcb.pointee.work = []
    } else {
      settle(tcb, before: tcb.pointee.state)
      flush()
    }
  }

  package func option(_ socket: SocketHandle, _ option: SocketOption) throws(SocketError) -> Int {
    if socket.kind == .datagram { return try datagramOption(socket, option) }
    return try stream(socket).pointee.get(option, environment)
  }

  package func information(_ socket: SocketHandle, now: Instant) -> TCPInfo {
    environment.pointee.now = now
    return tcbs.pointer(socket.slot)?.pointee.information(environment) ?? TCPInfo()
  }

  package func unreadBytes(_ socket: SocketHandle) -> Int {
    switch socket.kind {
    case .stream: tcbs.pointer(socket.slot)?.pointee.receiveQueue.readyBytes ?? 0
    case .datagram: datagrams.pointer(socket.slot)?.pointee.nextLength ?? 0
    }
  }

  package func isListening(_ socket: SocketHandle) -> Bool {
    socket.kind == .stream && tcbs.pointer(socket.slot)?.pointee.state == .listen
  }
}
