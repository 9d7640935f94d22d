// Owns: SEGMENT ARRIVES in SYN-RECEIVED, ESTABLISHED and all later states: the checks in RFC 9293 §3.10.7.4's order.
// Read first: that section; RFC 5961 §3–5 (blind attacks), RFC 7323 §5 (PAWS), RFC 2883 (D-SACK).

import Wire

extension TransmissionControlBlock {
  mutating func synchronizedSegmentArrives(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    // PAWS comes before the sequence check (RFC 7323 §5.3 R1).
    if timestampsOn, segment.options.hasTimestamp, isOldTimestamp(segment, env), !segment.flags.contains(.rst) {
      env.pointee.statistics.count(.tcpPAWSEstab)
      answerUnacceptable(segment, env)
      return .drop(.tcpPAWS)
    }
    // First, check the sequence number. The lower bound is what was last acknowledged rather than RCV.NXT, so that
    // an acknowledgment overtaken by data still counts (Linux, tcp_sequence).
    if segment.end < rcv.acknowledged || segment.sequence > rcv.edge
      || (segment.sequence == rcv.edge && rcv.wnd > 0 && segment.length > 0)
    {
      if !segment.flags.contains(.rst) {
        if segment.flags.contains(.syn), state != .synReceived { return challenge(env, .tcpSYNChallenge) }
        if state == .synReceived, segment.flags.contains(.syn), segment.sequence == rcv.irs { return resendSynAck(env) }
        answerUnacceptable(segment, env)
      }
      return .drop(.tcpSequenceOutOfWindow)
    }
    // Second, check the RST bit (RFC 5961 §3.2).
    if segment.flags.contains(.rst) { return resetArrives(segment, env) }
    // Fourth, check the SYN bit (RFC 5961 §4.2).
    if segment.flags.contains(.syn) {
      if state == .synReceived, segment.sequence == rcv.irs {
        guard segment.flags.contains(.ack) else { return resendSynAck(env) }
        // The SYN-ACK of a simultaneous open: its acknowledgment counts.
      } else {
        return challenge(env, .tcpSYNChallenge)
      }
    }
    // Fifth, check the ACK field.
    guard segment.flags.contains(.ack) else { return .drop(.tcpInvalidFlags) }
    let ack = segment.header.acknowledgment
    if state == .synReceived {
      guard ack > snd.una, ack <= snd.nxt else { return .reset }
      if deferHandshake(segment, env) { return .drop(.tcpListenQueueFull) }
    } else if ack > snd.nxt {
      answerUnacceptable(segment, env)
      return .drop(.tcpUnacceptableAck)
    } else if ack < snd.una, snd.una - ack > max(snd.maximumWindow, 65535) {
      // RFC 5961 §5.2
      return challenge(env, .tcpChallengeACK)
    }
    noteTimestamp(segment, env)
    acknowledgmentArrives(segment, env)
    if state == .closed { return .done }
    // Sixth (URG): urgent data is taken as ordinary data. Seventh and eighth: text and FIN.
    return textArrives(segment, env)
  }

  // MARK: Checks

  /// RFC 7323 §5.2; after 24 days without traffic TS.Recent is no longer believed (§5.5).
  private func isOldTimestamp(_ segment: Segment, _ env: EnvironmentPointer) -> Bool {
    guard Int32(bitPattern: segment.options.timestampValue &- recentTimestamp) < 0 else { return false }
    return env.pointee.now - recentTimestampAt < .seconds(24 * 86400)
  }

  /// An acknowledgment for a segment that was not acceptable; a few per second for those without data
  /// (tcp_invalid_ratelimit), so that two ends cannot keep each other busy.
  private mutating func answerUnacceptable(_ segment: Segment, _ env: EnvironmentPointer) {
    if segment.payloadLength == 0, !segment.flags.contains(.syn) {
      let limit = Interval.milliseconds(env.pointee.settings.tcpInvalidRatelimit)
      if lastInvalidAckAt != .zero, env.pointee.now - lastInvalidAckAt < limit { return }
      lastInvalidAckAt = env.pointee.now
    }
    if sackOn, env.pointee.settings.tcpDsack, segment.payloadLength > 0, segment.sequence < rcv.nxt {
      duplicateBlock = SACKBlock(start: segment.sequence, end: SequenceNumber.min(segment.end, rcv.nxt))
      env.pointee.statistics.count(.tcpDSACKOldSent)
    }
    work.insert(.ackNow)
  }

  /// RFC 5961 §7: a challenge ACK, limited per connection and second.
  private mutating func challenge(_ env: EnvironmentPointer, _ counter: Counter) -> SegmentVerdict {
    let now = env.pointee.now
    if lastChallengeAt == .zero || now - lastChallengeAt >= .seconds(1) {
      lastChallengeAt = now
      challengesInSecond = 0
    }
    if challengesInSecond < min(env.pointee.settings.tcpChallengeAckLimit, 100) {
      challengesInSecond += 1
      env.pointee.statistics.count(counter)
      if counter != .tcpChallengeACK { env.pointee.statistics.count(.tcpChallengeACK) }
      work.insert(.ackNow)
    }
    return .drop(.tcpUnacceptableAck)
  }

  private mutating func resendSynAck(_ env: EnvironmentPointer) -> SegmentVerdict {
    work.insert(.syn)
    return .done
  }

  /// RFC 5961 §3.2: only the exact next sequence number resets; others in the window are asked to prove themselves.
  private mutating func resetArrives(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    guard segment.sequence == rcv.nxt else {
      // A RST at the end of what was SACKed is Linux's answer to data behind a hole.
      if receiveQueue.hasEarly, segment.sequence == receiveQueue.blocks[0].end {
        return reset(env)
      }
      return segment.sequence > rcv.nxt ? challenge(env, .tcpChallengeACK) : .drop(.tcpInvalidReset)
    }
    return reset(env)
  }

  private mutating func reset(_ env: EnvironmentPointer) -> SegmentVerdict {
    switch state {
    case .synReceived:
      env.pointee.statistics.count(.tcpAttemptFails)
      abort(.connectionRefused, env)
    case .closeWait:
      env.pointee.statistics.count(.tcpEstabResets)
      abort(.brokenPipe, env)
    default:
      env.pointee.statistics.count(.tcpEstabResets)
      abort(.connectionReset, env)
    }
    return .done
  }

  /// TCP_DEFER_ACCEPT: the handshake's last ACK is overlooked until data comes or the SYN-ACK was repeated long enough.
  private mutating func deferHandshake(_ segment: Segment, _ env: EnvironmentPointer) -> Bool {
    guard parent != nil, options.deferAccept > 0, segment.payloadLength == 0, !segment.flags.contains(.fin) else {
      return false
    }
    var covered = 0
    var step = 1
    for _ in 0..<synRetries {
      covered += step
      step *= 2
    }
    guard covered < options.deferAccept else { return false }
    deferredAcked = true
    return true
  }

  // MARK: Fifth: the ACK field

  private mutating func acknowledgmentArrives(_ segment: Segment, _ env: EnvironmentPointer) {
    let ack = segment.header.acknowledgment
    var context = AckContext()
    context.priorUna = snd.una
    context.priorFlight = snd.nxt - snd.una
    context.echo = timestampsOn && segment.options.hasTimestamp ? segment.options.timestampEcho : nil
    lastAckAt = env.pointee.now

    if state == .synReceived {
      // RFC 9293: SND.WND from this segment, scaled from now on; a SYN's window never is (RFC 7323 §2.2).
      advance(to: ack, segment, &context, env)
      snd.wnd = Int(segment.header.window) << (segment.flags.contains(.syn) ? 0 : Int(snd.shift))
      snd.wl1 = segment.sequence
      snd.wl2 = ack
      establish(env)
      work.insert(.output)
      return
    }
    let hadOutstanding = snd.una != snd.nxt
    let windowChanged = updateSendWindow(segment, env)
    if ack > snd.una {
      advance(to: ack, segment, &context, env)
    } else {
      scoreboard.beginAcknowledgment()
      context.isDuplicate =
        ack == snd.una && hadOutstanding && segment.payloadLength == 0 && !windowChanged
        && !segment.flags.contains(.fin) && !segment.flags.contains(.syn)
      // A pure acknowledgment answers a window probe or keep-alive.
      if segment.payloadLength == 0 {
        keepaliveProbesOut = 0
        if !hadOutstanding { probesOut = 0 }
      }
    }
    if sackOn, segment.options.sack.count > 0 { takeSACK(segment, ack, &context, env) }
    if hadOutstanding || context.hasDSACK {
      recover(context, env)
      if context.acked > 0 || context.summary.newlySacked > 0 { env.pointee.statistics.count(.tcpPureAcks) }
    }
    work.insert(.output)
    ownFinAcknowledged(env)
  }

  /// SND.WND, SND.WL1, SND.WL2 (RFC 9293 §3.10.7.4): only from a segment not older than the last that told.
  private mutating func updateSendWindow(_ segment: Segment, _ env: EnvironmentPointer) -> Bool {
    let ack = segment.header.acknowledgment
    let window = Int(segment.header.window) << Int(snd.shift)
    // The order of acknowledgments counts, not of sequence numbers alone (RFC 9293 erratum; Linux's
    // tcp_may_update_window).
    let newer =
      ack > snd.una || segment.sequence > snd.wl1 || (segment.sequence == snd.wl1 && (window > snd.wnd || window == 0))
    guard newer, ack >= snd.una else { return false }
    snd.wl1 = segment.sequence
    snd.wl2 = ack
    let changed = window != snd.wnd
    snd.wnd = window
    if window > snd.maximumWindow { snd.maximumWindow = window }
    if changed, window > 0, sendTimer == .persist {
      disarmSendTimer(env)
      probesOut = 0
    }
    return changed
  }

  private mutating func takeSACK(
    _ segment: Segment, _ ack: SequenceNumber, _ context: inout AckContext, _ env: EnvironmentPointer
  ) {
    let blocks = segment.options.sack
    var news = SACKBlocks()
    for i in 0..<blocks.count {
      // RFC 2883 §4: the first block may report a duplicate: below the ACK, or inside the second block.
      if i == 0 {
        let first = blocks[0]
        let inSecond =
          blocks.count > 1 && first.start >= blocks[1].start && first.end <= blocks[1].end
        if first.end <= ack || inSecond {
          context.hasDSACK = true
          dsackDuplicates &+= 1
          if undoRetransmissions > 0 { undoRetransmissions -= 1 }
          env.pointee.statistics.count(.tcpDSACKRecv)
          continue
        }
      }
      news.append(blocks[i])
    }
    scoreboard.apply(
      news, una: snd.una, nxt: snd.nxt, now: env.pointee.now, minimumRTT: Interval(nanoseconds: rtt.minimum),
      echo: echoInstant(segment, env), &context.summary)
  }

  /// RFC 9293 §3.10.7.4: what an acknowledged FIN changes.
  private mutating func ownFinAcknowledged(_ env: EnvironmentPointer) {
    guard finSent, snd.una == snd.nxt else { return }
    switch state {
    case .finWait1:
      enter(.finWait2, env)
      raise(.writable)
      armFinWait2(env)
    case .closing:
      enter(.timeWait, env)
    case .lastAck:
      finish(env)
    default:
      break
    }
  }

  /// An orphan does not wait for the peer's FIN for ever (tcp_fin_timeout, TCP_LINGER2).
  mutating func armFinWait2(_ env: EnvironmentPointer) {
    guard state == .finWait2, isOrphan else { return }
    let seconds = options.linger2 > 0 ? min(options.linger2, 120) : env.pointee.settings.tcpFinTimeout
    env.pointee.wheel.schedule(lifeTimerID, at: env.pointee.now + .seconds(seconds))
  }

  // MARK: Seventh and eighth: text and FIN

  private mutating func textArrives(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    let hasFin = segment.flags.contains(.fin)
    guard segment.payloadLength > 0 || hasFin else { return .done }
    guard state.canReceive else {
      // The peer's FIN was taken: nothing can follow it.
      if segment.end > rcv.nxt { return .drop(.tcpClosed) }
      work.insert(.ackNow)
      return .drop(.tcpDuplicate)
    }
    // Data for a program that will never read it (RFC 9293 §3.6.1, RFC 2525 §2.17).
    if readShutdown || isOrphan, state != .established, segment.payloadLength > 0,
      segment.sequence + segment.payloadLength > rcv.nxt
    {
      env.pointee.statistics.count(.tcpAbortOnData)
      abort(.connectionReset, env)
      return .reset
    }
    let packet = segment.packet
    packet.storage.pointee.sequence = segment.sequence
    packet.storage.pointee.endSequence = segment.end
    packet.storage.pointee.flags = hasFin ? .fin : []

    if segment.end <= rcv.nxt { return duplicate(segment, env) }
    if segment.sequence > rcv.nxt { return early(segment, env) }
    return inOrder(segment, env)
  }

  private mutating func duplicate(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    reportDuplicate(segment.sequence, segment.end, env)
    quickAcks = max(quickAcks, 2)
    work.insert(.ackNow)
    return .drop(.tcpDuplicate)
  }

  private mutating func reportDuplicate(_ start: SequenceNumber, _ end: SequenceNumber, _ env: EnvironmentPointer) {
    guard sackOn, env.pointee.settings.tcpDsack else { return }
    duplicateBlock = SACKBlock(start: start, end: end)
    env.pointee.statistics.count(.tcpDSACKOldSent)
  }

  private mutating func inOrder(_ original: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    var segment = original
    let packet = segment.packet
    var hasFin = segment.flags.contains(.fin)
    // Cut what is old from the front …
    let old = rcv.nxt - segment.sequence
    if old > 0 {
      reportDuplicate(segment.sequence, rcv.nxt, env)
      packet.pull(min(old, segment.payloadLength))
      segment.payloadLength -= min(old, segment.payloadLength)
      segment.header.sequence = rcv.nxt
      work.insert(.ackNow)
    }
    // … and what is beyond the window from the end.
    if segment.payloadLength > rcv.wnd {
      guard rcv.wnd > 0 else {
        // A window probe: the answer tells the window as it is now.
        work.insert(.ackNow)
        return .drop(.tcpReceiveBufferFull)
      }
      packet.trim(to: rcv.wnd)
      segment.payloadLength = rcv.wnd
      hasFin = false
      work.insert(.ackNow)
    }
    var queued = false
    if segment.payloadLength > 0 {
      if receiveQueue.memory > 2 * memoryLimit {
        env.pointee.statistics.count(.tcpRcvPruned)
        work.insert(.ackNow)
        return .drop(.tcpReceiveBufferFull)
      }
      acceptInOrder(segment, env)
      queued = true
    }
    if hasFin { finArrives(env) }
    if receiveQueue.hasEarly { drainEarly(env) }
    return queued ? .queued : .done
  }

  /// Early segments that RCV.NXT has reached move over; a gap that closes is acknowledged at once (RFC 5681 §4.2).
  private mutating func drainEarly(_ env: EnvironmentPointer) {
    work.insert(.ackNow)
    while let packet = receiveQueue.takeEarly(reached: rcv.nxt, &env.pointee.pool) {
      let fin = packet.storage.pointee.flags.contains(.fin)
      let length = packet.storage.pointee.endSequence - rcv.nxt - (fin ? 1 : 0)
      if finReceived {
        env.pointee.pool.release(packet)
        continue
      }
      if length > 0 {
        rcv.nxt += length
        bytesReceived &+= UInt64(length)
        receiveQueue.appendInOrder(packet, length: length, &env.pointee.pool)
        raise(.readable)
      } else {
        env.pointee.pool.release(packet)
      }
      if fin { finArrives(env) }
    }
    receiveQueue.trimBlocks(below: rcv.nxt)
  }

  private mutating func early(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    work.insert(.ackNow)
    if !sackOn { duplicateAcksOwed = min(duplicateAcksOwed + 1, 64) }
    outOfOrderCount &+= 1
    quickAcks = max(quickAcks, 2)
    let packet = segment.packet
    let room = rcv.edge - segment.sequence
    guard room > 0 else { return .drop(.tcpSequenceOutOfWindow) }
    if segment.payloadLength > room {
      packet.trim(to: room)
      packet.storage.pointee.endSequence = rcv.edge
      packet.storage.pointee.flags = []
    }
    // The queue's memory limit: the segment nearest to RCV.NXT is worth most.
    if receiveQueue.memory + packet.truesize > 2 * memoryLimit {
      let dropped = receiveQueue.pruneEarly(to: memoryLimit, &env.pointee.pool)
      env.pointee.statistics.count(.tcpOFODrop, dropped)
      if receiveQueue.memory + packet.truesize > 2 * memoryLimit { return .drop(.tcpOutOfOrderLimit) }
    }
    switch receiveQueue.insertEarly(packet, &env.pointee.pool) {
    case .queued:
      env.pointee.statistics.count(.tcpOFOQueue)
      return .queued
    case .duplicate:
      env.pointee.statistics.count(.tcpOFOMerge)
      reportDuplicate(segment.sequence, segment.end, env)
      return .drop(.tcpDuplicate)
    }
  }

  /// Eighth, check the FIN bit. RCV.NXT is at the FIN.
  private mutating func finArrives(_ env: EnvironmentPointer) {
    guard !finReceived else { return }
    finReceived = true
    streamEnded = true
    rcv.nxt += 1
    if rcv.edge < rcv.nxt { rcv.edge = rcv.nxt }
    work.insert(.ackNow)
    raise([.readable, .readHangUp])
    switch state {
    case .synReceived, .established:
      enter(.closeWait, env)
    case .finWait1:
      // Had our FIN been acknowledged the state would be FIN-WAIT-2 already.
      enter(.closing, env)
      raise(.hangUp)
    case .finWait2:
      enter(.timeWait, env)
      raise(.hangUp)
    default:
      break
    }
  }
}
