// Owns: what a connection sends next, and when it may. `nextSegment` is asked until it has nothing more; each plan it
// returns counts as sent. `Stack/` turns plans into packets. Read first: RFC 9293 §3.7.4 (Nagle), §3.8.4 (keep-alive), §3.8.6
// (window management), RFC 5681 §4.1; Linux's tcp_output.c for the order of the checks.

import Wire

/// One segment to build: headers from the connection, payload out of its send buffer.
struct SegmentPlan {
  var sequence: SequenceNumber
  var flags: TCPFlags
  /// Where the payload begins in the send buffer, and its length; more than `segmentSize` = a super-segment.
  var payloadOffset = 0
  var payloadLength = 0
  var segmentSize = 0
  var options = TCPOptions()
  /// SEG.WND as it goes into the header.
  var window: UInt16 = 0
  var isRetransmission = false
}

extension TransmissionControlBlock {
  /// - Parameter limit: the most payload in one plan: the device's super-segment size, or 0 for one segment.
  mutating func nextSegment(limit: Int, _ env: EnvironmentPointer) -> SegmentPlan? {
    switch state {
    case .closed, .listen, .timeWait:
      work = []
      return nil
    case .synSent, .synReceived:
      return nextHandshakeSegment(env)
    case .established, .finWait1, .finWait2, .closeWait, .lastAck, .closing:
      break
    }
    if blackHoleSegment > 0 { forgetBlackHole(env) }
    if work.contains(.windowProbe) {
      work.remove(.windowProbe)
      if let plan = windowProbe(env) { return plan }
    }
    if work.contains(.keepaliveProbe) {
      work.remove(.keepaliveProbe)
      return emptySegment(at: snd.una + -1, env)
    }
    if work.contains(.lossProbe) {
      work.remove(.lossProbe)
      if let plan = lossProbe(limit: limit, env) { return plan }
    }
    if work.contains(.output) {
      if let plan = nextRetransmission(limit: limit, env) ?? nextNewData(limit: limit, probing: false, env) {
        return plan
      }
      work.subtract([.output, .push])
      armForWhatWaits(env)
    }
    if duplicateAcksOwed > 0 {
      duplicateAcksOwed -= 1
      if duplicateAcksOwed == 0 { work.remove(.ackNow) }
      return emptySegment(at: snd.nxt, env)
    }
    if work.contains(.ackNow) {
      work.remove(.ackNow)
      return emptySegment(at: snd.nxt, env)
    }
    return nil
  }

  // MARK: Handshake

  private mutating func nextHandshakeSegment(_ env: EnvironmentPointer) -> SegmentPlan? {
    if work.contains(.syn) {
      work.remove(.syn)
      work.remove(.ackNow)
      return synSegment(env)
    }
    if work.contains(.ackNow) {
      work.remove(.ackNow)
      if state == .synReceived { return emptySegment(at: snd.nxt, env) }
    }
    work.remove(.output)
    return nil
  }

  private mutating func synSegment(_ env: EnvironmentPointer) -> SegmentPlan {
    var plan = SegmentPlan(sequence: snd.iss, flags: state == .synSent ? .syn : [.syn, .ack])
    let settings = env.pointee.settings
    plan.options.maximumSegmentSize = UInt16(clamping: advertisedSegment)
    // A SYN offers what the settings allow; a SYN-ACK only what the peer offered (RFC 7323 §2.2, §3.2; RFC 2018 §2).
    let first = state == .synSent
    let scale = first ? settings.tcpWindowScaling : windowScaleOn
    let stamps = first ? settings.tcpTimestamps : timestampsOn
    if scale { plan.options.windowScale = rcv.shift }
    if stamps {
      plan.options.hasTimestamp = true
      plan.options.timestampValue = timestamp(env.pointee.now)
      plan.options.timestampEcho = state == .synSent ? 0 : recentTimestamp
    }
    plan.options.sackPermitted = first ? settings.tcpSack : sackOn
    let window = min(receiveSpace, 65535)
    plan.window = UInt16(window)
    rcv.edge = rcv.nxt + window
    rcv.acknowledged = rcv.nxt
    if snd.nxt == snd.iss {
      snd.nxt = snd.iss + 1
      scoreboard.append(start: snd.iss, end: snd.nxt, now: env.pointee.now)
    } else {
      plan.isRetransmission = true
      scoreboard.retransmitted(0, now: env.pointee.now)
      totalRetransmits += 1
    }
    if sendTimer != .retransmit { arm(.retransmit, after: rtt.rto(settings: settings), env) }
    noteSent(plan, env)
    return plan
  }

  // MARK: Acknowledgments and probes

  /// A segment without payload: acknowledgment, window update, probe.
  private mutating func emptySegment(at sequence: SequenceNumber, _ env: EnvironmentPointer) -> SegmentPlan {
    var plan = SegmentPlan(sequence: sequence, flags: .ack)
    complete(&plan, env)
    noteSent(plan, env)
    return plan
  }

  /// RFC 9293 §3.8.6.1: where the window is open a little, what fits; else a segment that the peer must answer because its
  /// sequence number is old.
  private mutating func windowProbe(_ env: EnvironmentPointer) -> SegmentPlan? {
    if snd.edge > snd.nxt, let plan = nextNewData(limit: 0, probing: true, env) { return plan }
    return emptySegment(at: snd.una + -1, env)
  }

  /// RFC 8985 §7.3: new data if the window has room, else the last segment again.
  private mutating func lossProbe(limit: Int, _ env: EnvironmentPointer) -> SegmentPlan? {
    guard lossProbeEnd == nil, snd.una < snd.nxt else { return nil }
    let retransmitBefore = snd.nxt
    if snd.edge > snd.nxt, dataEnd > snd.nxt {
      let window = congestion.window
      congestion.window = max(window, pipe + segmentPayload)
      work.insert(.push)
      let plan = nextNewData(limit: 0, probing: false, env)
      congestion.window = window
      if let plan {
        lossProbeEnd = snd.nxt
        lossProbeWasRetransmission = false
        env.pointee.statistics.count(.tcpLossProbes)
        trace(.lossProbe, .info, env)
        arm(.retransmit, after: rtt.rto(settings: env.pointee.settings), env)
        return plan
      }
    }
    guard let (index, range) = scoreboard.probeRange(limit: segmentPayload) else { return nil }
    let plan = retransmission(of: index, range, env)
    lossProbeEnd = retransmitBefore
    lossProbeWasRetransmission = true
    env.pointee.statistics.count(.tcpLossProbes)
    trace(.lossProbe, .info, env)
    arm(.retransmit, after: rtt.rto(settings: env.pointee.settings), env)
    return plan
  }

  // MARK: Data

  private mutating func nextRetransmission(limit: Int, _ env: EnvironmentPointer) -> SegmentPlan? {
    guard scoreboard.lostBytes > 0 else { return nil }
    let segment = segmentPayload
    let flight = pipe
    let room = congestion.window - flight
    guard room > 0 else { return nil }
    let most = max(min(room, max(limit, segment)) / segment * segment, segment)
    guard let (index, range) = scoreboard.nextLost(limit: most) else { return nil }
    if room < min(range.length, segment), flight > 0 { return nil }
    // Beyond the window only the first byte's segment is sent (Linux, __tcp_retransmit_skb).
    if range.start >= snd.edge, range.start != snd.una { return nil }
    return retransmission(of: index, range, env)
  }

  private mutating func retransmission(of index: Int, _ range: SentRange, _ env: EnvironmentPointer) -> SegmentPlan {
    var plan = SegmentPlan(sequence: range.start, flags: .ack)
    let end = SequenceNumber.min(range.end, dataEnd)
    plan.payloadOffset = range.start - snd.bufferStart
    plan.payloadLength = max(end - range.start, 0)
    plan.segmentSize = segmentPayload
    plan.isRetransmission = true
    if finSent, range.end > dataEnd { plan.flags.insert(.fin) }
    if end == dataEnd { plan.flags.insert(.psh) }
    scoreboard.retransmitted(index, now: env.pointee.now)
    if firstRetransmissionStamp == 0 { firstRetransmissionStamp = max(timestamp(env.pointee.now), 1) }
    undoRetransmissions += 1
    prrOut += range.length
    totalRetransmits += UInt32((range.length + segmentPayload - 1) / segmentPayload)
    bytesRetransmitted += UInt64(range.length)
    env.pointee.statistics.count(.tcpRetransSegs, (range.length + segmentPayload - 1) / segmentPayload)
    complete(&plan, env)
    noteSent(plan, env)
    armAfterSend(env)
    return plan
  }

  /// Whether a segment smaller than SMSS may go out now: Nagle's rule as Minshall changed it (RFC 9293 §3.7.4, Linux's
  /// tcp_nagle_check), TCP_CORK and MSG_MORE.
  /// - Parameter segments: full ones that it would follow in the same super-segment. Behind many it goes along: what Nagle's rule
  /// is against is a network full of small packets.
  private func mayPushSmall(behind segments: Int = 0) -> Bool {
    if work.contains(.push) || finQueued { return true }
    if options.cork || moreComing { return false }
    if options.noDelay || segments >= 16 { return true }
    let smallOutstanding = snd.smallEnd > snd.una && snd.smallEnd <= snd.nxt && snd.una != snd.nxt
    return !smallOutstanding
  }

  /// - Parameter probing: send a partial segment if the window allows no more (a window probe).
  private mutating func nextNewData(limit: Int, probing: Bool, _ env: EnvironmentPointer) -> SegmentPlan? {
    let available = dataEnd - snd.nxt
    let finPending = finQueued && !finSent
    guard available > 0 || finPending else { return nil }
    let segment = segmentPayload
    if snd.una == snd.nxt { restartAfterIdle(segment, env) }
    let windowRoom = snd.edge - snd.nxt
    guard windowRoom > 0 else { return nil }
    let flight = pipe
    let congestionRoom = congestion.window - flight
    if available > 0, flight > 0, congestionRoom < min(segment, available) {
      windowLimited = true
      return nil
    }
    var length = min(available, windowRoom, max(congestionRoom, segment), max(limit, segment))
    if length == available {
      let partial = length % segment
      if partial != 0, !mayPushSmall(behind: length / segment) { length -= partial }
    } else if length >= segment {
      length -= length % segment
    } else if !probing, length * 2 < snd.maximumWindow {
      // The window allows less than a segment: wait until it opens, or the persist timer overrides
      // (RFC 9293 §3.8.6.2.1).
      return nil
    }
    guard length > 0 || (finPending && available == 0) else { return nil }
    length = max(length, 0)

    var plan = SegmentPlan(sequence: snd.nxt, flags: .ack)
    plan.payloadOffset = snd.nxt - snd.bufferStart
    plan.payloadLength = length
    plan.segmentSize = segment
    var end = snd.nxt + length
    if length == available {
      plan.flags.insert(.psh)
      if finPending, snd.edge >= end + 1 {
        plan.flags.insert(.fin)
        finSent = true
        end += 1
      }
    }
    if length == 0 { plan.flags.remove(.psh) }
    if length % segment != 0 { snd.smallEnd = end }
    scoreboard.append(start: snd.nxt, end: end, now: env.pointee.now)
    snd.nxt = end
    prrOut += length
    if congestion.window - pipe < segment { windowLimited = true }
    let now = env.pointee.now
    if now - lastReceivedAt < ackTimeout { interactive = true }
    lastSentAt = now
    bytesSent += UInt64(length)
    dataSegmentsOut += UInt32((length + segment - 1) / segment)
    complete(&plan, env)
    noteSent(plan, env)
    armAfterSend(env)
    return plan
  }

  /// RFC 5681 §4.1 and tcp_slow_start_after_idle.
  private mutating func restartAfterIdle(_ segment: Int, _ env: EnvironmentPointer) {
    let settings = env.pointee.settings
    guard settings.tcpSlowStartAfterIdle, lastSentAt != .zero else { return }
    let idle = env.pointee.now - lastSentAt
    let rto = Interval(nanoseconds: rtt.base)
    if idle > rto { congestion.idled(idle, rto: rto, segment: segment) }
  }

  // MARK: Header fields

  /// Options, acknowledgment's window; what every segment after the handshake has.
  private mutating func complete(_ plan: inout SegmentPlan, _ env: EnvironmentPointer) {
    if timestampsOn {
      plan.options.hasTimestamp = true
      plan.options.timestampValue = timestamp(env.pointee.now)
      plan.options.timestampEcho = recentTimestamp
    }
    if sackOn {
      let room = timestampsOn ? 3 : 4
      if let block = duplicateBlock {
        plan.options.sack.append(block)
        duplicateBlock = nil
      }
      if receiveQueue.hasEarly {
        for i in 0..<receiveQueue.blocks.count where plan.options.sack.count < room {
          plan.options.sack.append(receiveQueue.blocks[i])
        }
      }
      // SACK blocks take room from the payload; the packet must not outgrow the path.
      if plan.options.sack.count > 0, plan.payloadLength > 0 {
        let extra = 4 + 8 * plan.options.sack.count
        plan.segmentSize = max(plan.segmentSize - extra, 1)
        if plan.payloadLength + extra > segmentPayload, plan.payloadLength <= segmentPayload {
          // A single segment that would no longer fit goes without the blocks; the next pure ACK has them.
          plan.options.sack = SACKBlocks()
          plan.segmentSize = segmentPayload
          work.insert(.ackNow)
        } else if plan.payloadLength > segmentPayload {
          plan.options.sack = SACKBlocks()
          plan.segmentSize = segmentPayload
          work.insert(.ackNow)
        }
      }
    }
    plan.window = selectWindow(env)
  }

  /// SEG.WND (RFC 9293 §3.8.6.2.2): the free receive space, but never less than what was offered before, and no small
  /// steps forward. Moves `rcv.edge`.
  private mutating func selectWindow(_ env: EnvironmentPointer) -> UInt16 {
    let current = rcv.wnd
    var offer = freeReceiveSpace
    if offer < current || offer - current < min(receivedSegment, receiveSpace / 2) {
      // Rounded up, so that scaling does not take back what was offered.
      offer = current
    }
    let unit = 1 << Int(rcv.shift)
    // What is new is rounded down, but not below what was offered before (RFC 7323 §2.4).
    let offered = (current + unit - 1) >> Int(rcv.shift)
    let field = min(max(offered, offer >> Int(rcv.shift)), 65535)
    let edge = rcv.nxt + field << Int(rcv.shift)
    rcv.edge = SequenceNumber.max(rcv.edge, edge)
    return UInt16(field)
  }

  /// Bytes of window that the receive buffer has room for.
  var freeReceiveSpace: Int {
    if receiveQueue.memory > 2 * memoryLimit { return 0 }
    return max(receiveSpace - receiveQueue.readyBytes, 0)
  }

  /// Memory that received packets may hold, bytes.
  var memoryLimit: Int { max(options.receiveBuffer, 2 * receiveSpace) }

  /// Every segment that goes out carries the acknowledgment (but a first SYN).
  private mutating func noteSent(_ plan: SegmentPlan, _ env: EnvironmentPointer) {
    segmentsOut &+= 1
    if plan.flags.contains(.ack) {
      if quickAcks > 0 { quickAcks -= 1 }
      rcv.acknowledged = rcv.nxt
      smallReceived = 0
      if duplicateAcksOwed == 0 { work.remove(.ackNow) }
      if ackDelayed {
        ackDelayed = false
        env.pointee.wheel.cancel(delayedAckTimerID)
      }
    }
    if env.pointee.trace.allows(.tcp, .debug) {
      let shift = plan.flags.contains(.syn) ? 0 : Int(rcv.shift)
      traceSegment(
        .segmentOut, flags: plan.flags, sequence: plan.sequence, acknowledgment: rcv.nxt, length: plan.payloadLength,
        window: Int(plan.window) << shift, again: plan.isRetransmission, env)
    }
  }

  // MARK: The send timer

  /// A probe time-out may be armed (RFC 8985 §7.2).
  private func lossProbeAllowed(_ env: EnvironmentPointer) -> Bool {
    sackOn && env.pointee.settings.tcpEarlyRetrans >= 3 && recovery == .open && lossProbeEnd == nil && rtt.hasSample
      && scoreboard.sackedBytes == 0 && retransmits == 0
  }

  /// Something was sent: PTO or RTO, whichever applies.
  private mutating func armAfterSend(_ env: EnvironmentPointer) {
    if lossProbeAllowed(env) {
      armLossProbe(env)
    } else if sendTimer != .retransmit && sendTimer != .reorder {
      arm(.retransmit, after: rtt.rto(settings: env.pointee.settings), env)
    }
  }

  /// RFC 8985 §7.2: PTO = 2·SRTT, plus the peer's worst delayed-ACK time when only one segment is out; never after the RTO.
  private mutating func armLossProbe(_ env: EnvironmentPointer) {
    var wait = rtt.smoothed * 2
    if snd.nxt - snd.una <= segmentPayload { wait = wait + .milliseconds(200) } else { wait = wait + .milliseconds(2) }
    let rto = rtt.rto(settings: env.pointee.settings)
    let oldest = scoreboard.head.map { $0.sentAt } ?? env.pointee.now
    let untilRTO = oldest + rto - env.pointee.now
    if untilRTO <= wait {
      arm(.retransmit, after: max(untilRTO, .milliseconds(1)), env)
    } else {
      arm(.tailLossProbe, after: wait, env)
    }
  }

  /// SND.UNA moved: the timer starts again (RFC 6298 §5.3), or stops when all is acknowledged.
  mutating func rearmAfterAck(_ env: EnvironmentPointer) {
    if snd.una == snd.nxt {
      if sendTimer != .persist && sendTimer != .cork { disarmSendTimer(env) }
    } else if lossProbeAllowed(env) {
      armLossProbe(env)
    } else {
      arm(.retransmit, after: rtt.rto(settings: env.pointee.settings), env)
    }
  }

  /// Nothing more can be sent now; if nothing is in flight either, only a timer gets what waits going.
  private mutating func armForWhatWaits(_ env: EnvironmentPointer) {
    guard snd.una == snd.nxt else { return }
    let waits = dataEnd > snd.nxt || (finQueued && !finSent)
    guard waits else {
      if sendTimer == .persist || sendTimer == .cork { disarmSendTimer(env) }
      return
    }
    // Held back by the program and not by the window, which may be smaller than a segment.
    if options.cork || moreComing, snd.edge >= dataEnd, dataEnd - snd.nxt < segmentPayload {
      if sendTimer == .idle {
        arm(.cork, after: isHeld ? env.pointee.settings.tcpAutocorkingTime : .milliseconds(200), env)
      }
      return
    }
    if sendTimer != .persist {
      persistBackoff = 0
      probesOut = 0
      probesSince = env.pointee.now
      arm(.persist, after: max(Interval(nanoseconds: rtt.base), .milliseconds(200)), env)
    }
  }
}
