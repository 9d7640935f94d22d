// Owns: SEGMENT ARRIVES in SYN-SENT, and what makes a connection ESTABLISHED. Read first: RFC 9293 §3.10.7.3;
// RFC 7323 §2.2, §3.2 and RFC 2018 §2 for what the SYNs agree on; RFC 9293 §3.5 figure 8 (simultaneous open).

import Wire

extension TransmissionControlBlock {
  mutating func synSentSegmentArrives(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    let flags = segment.flags
    let ack = segment.header.acknowledgment
    // First, check the ACK bit.
    if flags.contains(.ack) {
      if ack <= snd.iss || ack > snd.nxt {
        env.pointee.statistics.count(.tcpInErrs)
        if flags.contains(.rst) { return .drop(.tcpInvalidReset) }
        // A peer that still has an old connection of this name: our RST ends it there, so the SYN may follow at once and need
        // not wait for its time-out (RFC 9293 §3.5.1 figure 9; Linux, once per connection).
        if retransmits == 0 { arm(.retransmit, after: .milliseconds(2), env) }
        return .reset
      }
      if segment.options.hasTimestamp, segment.options.timestampEcho != 0 {
        // An echo from the future or from before the connect belongs to somebody else (Linux: PAWSACTIVEREJECTED).
        let age = timestamp(env.pointee.now) &- segment.options.timestampEcho
        if age > 1 << 30 { return .reset }
      }
    }
    // Second, check the RST bit.
    if flags.contains(.rst) {
      guard flags.contains(.ack) else { return .drop(.tcpInvalidReset) }
      abort(.connectionRefused, env)
      env.pointee.statistics.count(.tcpAttemptFails)
      return .done
    }
    // Fourth, check the SYN bit.
    guard flags.contains(.syn) else { return .drop(.tcpInvalidFlags) }
    takePeersSyn(segment, env)
    if flags.contains(.ack) {
      var context = AckContext()
      advance(to: ack, segment, &context, env)
      snd.wnd = Int(segment.header.window)
      snd.wl1 = segment.sequence
      snd.wl2 = ack
      establish(env)
      work.insert(.ackNow)
      work.insert(.output)
      return .done
    }
    // Simultaneous open.
    enter(.synReceived, env)
    snd.wnd = Int(segment.header.window)
    snd.wl1 = segment.sequence
    snd.wl2 = snd.iss
    work.insert(.syn)
    return .done
  }

  /// IRS, RCV.NXT and the options of the peer's SYN.
  mutating func takePeersSyn(_ segment: Segment, _ env: EnvironmentPointer) {
    let settings = env.pointee.settings
    rcv.irs = segment.sequence
    rcv.nxt = segment.sequence + 1
    rcv.acknowledged = rcv.nxt
    rcv.edge = rcv.nxt + min(receiveSpace, 65535)
    let options = segment.options
    sackOn = settings.tcpSack && options.sackPermitted
    timestampsOn = settings.tcpTimestamps && options.hasTimestamp
    if timestampsOn {
      recentTimestamp = options.timestampValue
      recentTimestampAt = env.pointee.now
    }
    if settings.tcpWindowScaling, let shift = options.windowScale {
      windowScaleOn = true
      snd.shift = shift
    } else {
      windowScaleOn = false
      snd.shift = 0
      rcv.shift = 0
      receiveSpace = min(receiveSpace, 65535)
    }
    // RFC 9293 §3.7.1: without the option 576 or 1280 bytes, less the headers.
    let assumed = tuple.remote.address.isIPv4 ? 536 : 1220
    peerMaximumSegment = max(options.maximumSegmentSize.map { Int($0) } ?? assumed, settings.tcpMinSndMss)
    updateSegmentSize(env)
    receivedSegment = max(min(maximumSegment, advertisedSegment) - (timestampsOn ? 12 : 0), 88)
    lastReceivedAt = env.pointee.now
  }

  /// What the path MTU leaves for options and payload, bytes.
  var maximumPathSegment: Int {
    pathMTU - (tuple.remote.address.isIPv4 ? IPv4Header.minimumLength : IPv6Header.length) - TCPHeader.minimumLength
  }

  /// SMSS: the least of the peer's option, the path and TCP_MAXSEG (RFC 6691, RFC 9293 §3.7.1).
  mutating func updateSegmentSize(_ env: EnvironmentPointer) {
    var size = min(peerMaximumSegment, maximumPathSegment)
    if options.maximumSegment > 0 { size = min(size, options.maximumSegment) }
    if blackHoleSegment > 0 { size = min(size, blackHoleSegment) }
    maximumSegment = max(size, env.pointee.settings.tcpMinSndMss)
  }

  /// Both SYNs are acknowledged.
  mutating func establish(_ env: EnvironmentPointer) {
    enter(.established, env)
    snd.maximumWindow = snd.wnd
    let segment = segmentPayload
    congestion = CongestionControl(algorithm: options.congestion, segment: segment)
    // RFC 6298 §5.7, RFC 5681 §3.1: a lost SYN means a window of one segment.
    if synRetries > 1 { congestion.window = segment }
    synRetries = 0
    retransmits = 0
    if !rtt.hasSample { rtt.backoff = 0 }
    recovery = .open
    quickAcks = 16
    tuneAt = env.pointee.now
    tuneSpace = receiveSpace / 2
    growSendBuffer(env)
    armKeepalive(env)
    raise(.writable)
    wantsSpace = false
  }

  // MARK: Ending

  /// The connection is over at once: `why` is what the program is told next.
  mutating func abort(_ why: SocketError?, _ env: EnvironmentPointer) {
    if let why { error = why }
    finish(env)
    raise([.readable, .writable, .error, .hangUp, .readHangUp])
  }

  /// CLOSED: nothing is sent or expected any more. What was received can still be read.
  mutating func finish(_ env: EnvironmentPointer) {
    cancelTimers(env)
    if state != .closed { enter(.closed, env) }
    work = []
    duplicateAcksOwed = 0
    scoreboard.removeAll()
    snd.una = snd.nxt
    finReceived = true
    sendBuffer.drop(sendBuffer.count)
    snd.bufferStart = snd.nxt
    raise([.readable, .writable, .hangUp, .readHangUp])
  }

  // MARK: Keep-alive, FIN-WAIT-2 (the "life" timer)

  func keepIdle(_ env: EnvironmentPointer) -> Interval {
    .seconds(options.keepIdle > 0 ? options.keepIdle : env.pointee.settings.tcpKeepaliveTime)
  }
  func keepInterval(_ env: EnvironmentPointer) -> Interval {
    .seconds(options.keepInterval > 0 ? options.keepInterval : env.pointee.settings.tcpKeepaliveInterval)
  }

  mutating func armKeepalive(_ env: EnvironmentPointer) {
    guard options.keepAlive, state.isSynchronized, !isOrphan else { return }
    env.pointee.wheel.schedule(lifeTimerID, at: env.pointee.now + keepIdle(env))
  }

  mutating func lifeTimerExpired(_ env: EnvironmentPointer) -> TimerVerdict {
    let now = env.pointee.now
    if isOrphan {
      // An orphan in FIN-WAIT-2 waited tcp_fin_timeout for the peer's FIN.
      if state == .finWait2 {
        finish(env)
        return .timedOut
      }
      return .nothing
    }
    guard options.keepAlive, state.isSynchronized else { return .nothing }
    // Busy in another way: data in flight is its own probe.
    let quiet = now - max(lastReceivedAt, lastAckAt)
    if snd.una != snd.nxt || dataEnd > snd.nxt || quiet < keepIdle(env) {
      env.pointee.wheel.schedule(lifeTimerID, at: now + max(keepIdle(env) - quiet, .milliseconds(1)))
      return .nothing
    }
    let count = options.keepCount > 0 ? options.keepCount : env.pointee.settings.tcpKeepaliveProbes
    let tooLong = options.userTimeout > 0 && quiet >= .milliseconds(options.userTimeout) && keepaliveProbesOut > 0
    if tooLong || (options.userTimeout == 0 && keepaliveProbesOut >= count) {
      error = softError ?? .timedOut
      env.pointee.statistics.count(.tcpAbortOnTimeout)
      return .timedOut
    }
    keepaliveProbesOut += 1
    env.pointee.statistics.count(.tcpKeepAlive)
    trace(.keepaliveProbe, .info, a: Int64(keepaliveProbesOut), env)
    work.insert(.keepaliveProbe)
    env.pointee.wheel.schedule(lifeTimerID, at: now + keepInterval(env))
    return .nothing
  }
}
