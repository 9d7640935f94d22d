// Owns: getsockopt and setsockopt of stream sockets in the stack's terms, and TCP_INFO. Ranges, rounding and errors as Linux
// (net/core/sock.c, net/ipv4/tcp.c, net/ipv4/ip_sockglue.c). Read first: socket(7), tcp(7), ip(7).

import Wire

extension TransmissionControlBlock {
  mutating func set(_ option: SocketOption, _ value: Int, _ env: EnvironmentPointer) throws(SocketError) {
    let on = value != 0
    switch option {
    case .reuseAddress: options.reuseAddress = on
    case .reusePort: options.reusePort = on
    case .broadcast: options.broadcast = on
    case .linger: options.linger = value
    case .receiveBuffer:
      options.receiveBuffer = max(2 * min(max(value, 0), env.pointee.settings.rmemMax), 2304)
      options.receiveBufferLocked = true
      setReceiveSpace(options.receiveBuffer / 2)
    case .sendBuffer:
      options.sendBuffer = max(2 * min(max(value, 0), env.pointee.settings.wmemMax), 4608)
      options.sendBufferLocked = true
      spaceFreed(env)
    case .receiveLowWater: options.receiveLowWater = value <= 0 ? (value < 0 ? Int(Int32.max) : 1) : value
    case .keepAlive: setKeepAlive(on, env)
    case .noDelay:
      options.noDelay = on
      if on { work.formUnion([.output, .push]) }
    case .cork:
      options.cork = on
      if !on { work.formUnion([.output, .push]) }
    case .maximumSegment:
      guard value == 0 || (88...32767).contains(value) else { throw .invalidArgument }
      options.maximumSegment = value
      if value > 0, state == .closed || state == .listen { advertisedSegment = min(advertisedSegment, value) }
    case .keepIdle:
      try require(1...32767, value)
      options.keepIdle = value
      armKeepalive(env)
    case .keepInterval:
      try require(1...32767, value)
      options.keepInterval = value
    case .keepCount:
      try require(1...127, value)
      options.keepCount = value
    case .userTimeout:
      guard value >= 0 else { throw .invalidArgument }
      options.userTimeout = value
    case .quickAck:
      options.quickAck = on
      interactive = !on
      if on, ackDelayed { work.insert(.ackNow) }
    case .deferAccept: options.deferAccept = max(value, 0)
    case .synCount:
      try require(1...127, value)
      options.synCount = value
    case .linger2: options.linger2 = value
    case .windowClamp:
      guard value >= 0, value != 0 || state == .closed else { throw .invalidArgument }
      options.windowClamp = value
      if value > 0 { receiveSpace = min(receiveSpace, max(value, 2304)) }
    case .congestion:
      guard let algorithm = CongestionAlgorithm(rawValue: UInt8(clamping: value)) else { throw .invalidArgument }
      options.congestion = algorithm
      congestion.use(algorithm)
    case .notSentLowWater:
      options.notSentLowWater = max(value, 0)
      spaceFreed(env)
    case .typeOfService:
      // The low two bits are the stack's, for ECN (Linux, __ip_sock_set_tos).
      options.typeOfService = UInt8(truncatingIfNeeded: value) & ~3
    case .timeToLive:
      guard value == -1 || (1...255).contains(value) else { throw .invalidArgument }
      options.timeToLive = value == -1 ? 0 : value
    case .mtuDiscover:
      try require(0...5, value)
      options.mtuDiscover = value
    case .freeBind: options.freeBind = on
    case .bindAddressNoPort: options.bindAddressNoPort = on
    case .receiveErrors: options.receiveErrors = on
    case .packetInfo, .receiveTTL, .receiveTOS: break
    case .onlyIPv6:
      guard isIPv6, !isInPortTable else { throw .invalidArgument }
      options.onlyIPv6 = on
    case .trafficClass:
      guard (-1...255).contains(value) else { throw .invalidArgument }
      // As for IPv4, ECN is the stack's.
      options.trafficClass = value == -1 ? 0 : UInt8(value) & ~3
    case .unicastHops:
      guard (-1...255).contains(value), value != 0 else { throw .invalidArgument }
      options.hopLimit = max(value, 0)
    case .acceptConnections, .mtu: throw .protocolNotAvailable
    }
  }

  private func require(_ range: ClosedRange<Int>, _ value: Int) throws(SocketError) {
    guard range.contains(value) else { throw .invalidArgument }
  }

  private mutating func setReceiveSpace(_ space: Int) {
    receiveSpace = max(space, 1152)
    // Before the handshake the scale follows from the buffer (tcp_select_initial_window).
    if state == .closed || state == .listen { rcv.shift = Self.windowShift(for: receiveSpace) }
  }

  /// The smallest shift with which `space` fits in 16 bits (RFC 7323 §2.2; at most 14).
  static func windowShift(for space: Int) -> UInt8 {
    var shift = 0
    while shift < 14, space >> shift > 65535 { shift += 1 }
    return UInt8(shift)
  }

  private mutating func setKeepAlive(_ on: Bool, _ env: EnvironmentPointer) {
    options.keepAlive = on
    guard state.isSynchronized, isOpen else { return }
    if on { armKeepalive(env) } else { env.pointee.wheel.cancel(lifeTimerID) }
  }

  func get(_ option: SocketOption, _ env: EnvironmentPointer) throws(SocketError) -> Int {
    let settings = env.pointee.settings
    return switch option {
    case .reuseAddress: options.reuseAddress ? 1 : 0
    case .reusePort: options.reusePort ? 1 : 0
    case .broadcast: options.broadcast ? 1 : 0
    case .linger: options.linger
    case .receiveBuffer: options.receiveBuffer
    case .sendBuffer: options.sendBuffer
    case .receiveLowWater: options.receiveLowWater
    case .acceptConnections: state == .listen ? 1 : 0
    case .keepAlive: options.keepAlive ? 1 : 0
    case .noDelay: options.noDelay ? 1 : 0
    case .cork: options.cork ? 1 : 0
    case .maximumSegment: reportedSegment
    case .keepIdle: options.keepIdle > 0 ? options.keepIdle : settings.tcpKeepaliveTime
    case .keepInterval: options.keepInterval > 0 ? options.keepInterval : settings.tcpKeepaliveInterval
    case .keepCount: options.keepCount > 0 ? options.keepCount : settings.tcpKeepaliveProbes
    case .userTimeout: options.userTimeout
    case .quickAck: interactive ? 0 : 1
    case .deferAccept: roundedDeferAccept
    case .synCount: options.synCount > 0 ? options.synCount : settings.tcpSynRetries
    case .linger2: options.linger2 > 0 ? options.linger2 : (options.linger2 < 0 ? -1 : settings.tcpFinTimeout)
    case .windowClamp: options.windowClamp
    case .congestion: Int(options.congestion.rawValue)
    case .notSentLowWater: options.notSentLowWater
    case .typeOfService: Int(options.typeOfService)
    case .timeToLive: options.timeToLive > 0 ? options.timeToLive : Int(settings.ipDefaultTTL)
    case .mtuDiscover: options.mtuDiscover
    case .mtu:
      if state == .closed || state == .listen { throw .notConnected } else { pathMTU }
    case .freeBind: options.freeBind ? 1 : 0
    case .bindAddressNoPort: options.bindAddressNoPort ? 1 : 0
    case .receiveErrors: options.receiveErrors ? 1 : 0
    case .packetInfo, .receiveTTL, .receiveTOS: 0
    case .onlyIPv6: options.onlyIPv6 ? 1 : 0
    case .trafficClass: Int(options.trafficClass)
    case .unicastHops: options.hopLimit > 0 ? options.hopLimit : Int(settings.ipDefaultTTL)
    }
  }

  /// TCP_MAXSEG: before a connection what was asked for, else 536; then the payload of a full segment.
  private var reportedSegment: Int {
    switch state {
    case .closed, .listen, .synSent: options.maximumSegment > 0 ? options.maximumSegment : 536
    default: segmentPayload
    }
  }

  /// TCP_DEFER_ACCEPT is kept as a number of SYN-ACK retransmissions: 1, 3, 7, 15 … seconds.
  private var roundedDeferAccept: Int {
    guard options.deferAccept > 0 else { return 0 }
    var covered = 1
    var step = 1
    while covered < options.deferAccept, covered < 1 << 20 {
      step = min(step * 2, 120)
      covered += step
    }
    return covered
  }

  // MARK: TCP_INFO

  func information(_ env: EnvironmentPointer) -> TCPInfo {
    var info = TCPInfo()
    let now = env.pointee.now
    let segment = max(segmentPayload, 1)
    func segments(_ bytes: Int) -> UInt32 { UInt32(clamping: (bytes + segment - 1) / segment) }
    func since(_ instant: Instant) -> UInt32 {
      instant == .zero ? 0 : UInt32(clamping: (now - instant).milliseconds)
    }
    info.state = state.rawValue
    if state == .listen {
      info.unacked = UInt32(queuedForAccept)
      info.sacked = UInt32(backlog)
      return info
    }
    info.congestionState = recovery.rawValue
    info.retransmits = UInt8(clamping: retransmits)
    info.probes = UInt8(clamping: max(probesOut, keepaliveProbesOut))
    info.backoff = UInt8(clamping: max(rtt.backoff, sendTimer == .persist ? persistBackoff : 0))
    info.optionTimestamps = timestampsOn
    info.optionSACK = sackOn
    info.optionWindowScale = windowScaleOn
    info.sendWindowScale = snd.shift
    info.receiveWindowScale = windowScaleOn ? rcv.shift : 0
    info.rto = UInt32(clamping: rtt.rto(settings: env.pointee.settings).microseconds)
    info.ato = UInt32(clamping: ackTimeout.microseconds)
    info.sendMSS = UInt32(segment)
    info.receiveMSS = UInt32(receivedSegment)
    info.unacked = segments(snd.nxt - snd.una)
    info.sacked = segments(scoreboard.sackedBytes)
    info.lost = segments(scoreboard.lostBytes)
    info.lastDataSentMilliseconds = since(lastSentAt)
    info.lastDataReceivedMilliseconds = since(lastReceivedAt)
    info.lastAckReceivedMilliseconds = since(lastAckAt)
    info.pathMTU = UInt32(pathMTU)
    info.rtt = UInt32(clamping: rtt.srtt / 1000)
    info.rttVariance = UInt32(clamping: rtt.rttvar / 1000)
    info.minimumRTT = UInt32(clamping: rtt.minimum / 1000)
    info.sendSlowStartThreshold =
      congestion.slowStartThreshold == .max ? 0x7fff_ffff : segments(congestion.slowStartThreshold)
    info.receiveSlowStartThreshold = UInt32(clamping: receiveSpace)
    info.sendCongestionWindow = UInt32(clamping: max(congestion.window / segment, 1))
    info.advertisedMSS = UInt32(max(advertisedSegment - (timestampsOn ? 12 : 0), 0))
    info.reordering = UInt32(env.pointee.settings.tcpReordering)
    info.reorderingSeen = reorderingCount
    info.receiveRTT = UInt32(clamping: receiverRTT / 1000)
    info.receiveSpace = UInt32(clamping: max(tuneSpace, 0))
    info.totalRetransmits = totalRetransmits
    info.bytesAcked = bytesAcked
    info.bytesReceived = bytesReceived
    info.bytesSent = bytesSent + bytesRetransmitted
    info.bytesRetransmitted = bytesRetransmitted
    info.segmentsOut = segmentsOut
    info.segmentsIn = segmentsIn
    info.dataSegmentsIn = dataSegmentsIn
    info.dataSegmentsOut = dataSegmentsOut
    info.notSentBytes = UInt32(clamping: max(dataEnd - SequenceNumber.max(snd.nxt, snd.bufferStart), 0))
    info.dsackDuplicates = dsackDuplicates
    info.outOfOrderPackets = outOfOrderCount
    info.sendWindow = UInt32(clamping: snd.wnd)
    info.receiveWindow = UInt32(clamping: rcv.wnd)
    if rtt.srtt > 0 { info.pacingRate = UInt64(congestion.window) * 1_000_000_000 / UInt64(rtt.srtt) }
    info.deliveryRate = info.pacingRate
    return info
  }
}
