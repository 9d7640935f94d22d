// Owns: how loss is found and repaired: the send timer's expiry, RACK's judgement after an acknowledgment, recovery with PRR,
// NewReno's partial acknowledgments where SACK is off, and undo. Read first: RFC 6298 §5, RFC 8985 §6–7, RFC 6937 §3,
// RFC 6582 §3.2, RFC 3522 (Eifel) and RFC 3708 (D-SACK) for undo.

import Wire

/// What a timer's expiry means for the connection as a whole.
enum TimerVerdict {
  case nothing
  /// It gave up: the error is set, the state is CLOSED.
  case timedOut
}

/// What `recover` needs to know of the segment.
struct AckContext {
  var summary = AckSummary()
  /// SND.UNA moved by this many bytes.
  var acked = 0
  /// The segment counts as a duplicate acknowledgment (RFC 5681 §2).
  var isDuplicate = false
  var hasDSACK = false
  var priorUna = SequenceNumber(0)
  /// Bytes in flight before the segment.
  var priorFlight = 0
  /// The segment's timestamp echo, where timestamps are on.
  var echo: UInt32?
}

extension TransmissionControlBlock {
  // MARK: Timer expiry

  mutating func sendTimerExpired(_ env: EnvironmentPointer) -> TimerVerdict {
    let timer = sendTimer
    sendTimer = .idle
    switch timer {
    case .idle:
      return .nothing
    case .retransmit:
      return state == .synSent || state == .synReceived ? handshakeTimeout(env) : retransmissionTimeout(env)
    case .tailLossProbe:
      work.insert(.lossProbe)
      return .nothing
    case .reorder:
      detectLoss(AckContext(), env)
      work.insert(.output)
      if sendTimer == .idle, snd.una != snd.nxt {
        arm(.retransmit, after: rtt.rto(settings: env.pointee.settings), env)
      }
      return .nothing
    case .persist:
      return persistTimeout(env)
    case .cork:
      if isHeld {
        isHeld = false
        moreComing = false
      }
      work.formUnion([.output, .push])
      return .nothing
    }
  }

  private mutating func giveUp(_ env: EnvironmentPointer) -> TimerVerdict {
    error = softError ?? .timedOut
    env.pointee.statistics.count(.tcpAbortOnTimeout)
    return .timedOut
  }

  private mutating func handshakeTimeout(_ env: EnvironmentPointer) -> TimerVerdict {
    let settings = env.pointee.settings
    let allowed: Int
    if state == .synReceived, parent != nil {
      allowed = settings.tcpSynackRetries
    } else {
      allowed = options.synCount > 0 ? options.synCount : settings.tcpSynRetries
    }
    if retransmits == 0 { retransmitsSince = env.pointee.now }
    let elapsed = env.pointee.now - lastSentAt
    if options.userTimeout > 0, parent == nil, elapsed >= .milliseconds(options.userTimeout) { return giveUp(env) }
    if synRetries >= allowed { return giveUp(env) }
    synRetries += 1
    retransmits += 1
    rtt.backoff += 1
    env.pointee.statistics.count(.tcpTimeouts)
    env.pointee.statistics.count(.tcpRetransSegs)
    trace(
      .retransmissionTimeout, .info, a: rtt.rto(settings: settings).microseconds, b: Int64(rtt.backoff), env)
    work.insert(.syn)
    return .nothing
  }

  private mutating func retransmissionTimeout(_ env: EnvironmentPointer) -> TimerVerdict {
    guard snd.una != snd.nxt else { return .nothing }
    let settings = env.pointee.settings
    let now = env.pointee.now
    if retransmits == 0 { retransmitsSince = scoreboard.head.map { $0.sentAt } ?? now }
    let patience: Interval
    if options.userTimeout > 0 {
      patience = .milliseconds(options.userTimeout)
    } else if isOrphan {
      let retries = settings.tcpOrphanRetries == 0 ? 8 : settings.tcpOrphanRetries
      patience = self.patience(doublings: retries, env)
    } else {
      patience = self.patience(doublings: settings.tcpRetries2, env)
    }
    // A peer with a closed window that still answers is alive: probing goes on (RFC 9293 §3.8.6.1).
    let peerAlive = snd.wnd == 0 && now - lastAckAt < .milliseconds(2 * settings.tcpRtoMax)
    if retransmits > 0, now - retransmitsSince >= patience, !peerAlive { return giveUp(env) }

    env.pointee.statistics.count(.tcpTimeouts)
    enterLoss(env)
    retransmits += 1
    rtt.backoff += 1
    lossProbeEnd = nil
    if retransmits >= settings.tcpRetries1 { suspectBlackHole(env) }
    let rto = rtt.rto(settings: settings)
    trace(.retransmissionTimeout, .info, a: rto.microseconds, b: Int64(rtt.backoff), env)
    arm(.retransmit, after: rto, env)
    work.insert(.output)
    return .nothing
  }

  /// RFC 4821 §7.7, Linux's tcp_mtu_probing: full segments vanish time after time, and no router says that they are too large.
  /// Smaller ones are tried, at first of tcp_base_mss, then half as large each time. Whatever was the matter, after a while the
  /// path is taken for what it was.
  private mutating func suspectBlackHole(_ env: EnvironmentPointer) {
    let settings = env.pointee.settings
    // What routers may cut up does not vanish for its size. IPv6 has no links of less than 1280 bytes.
    let isIPv4 = tuple.remote.address.isIPv4
    guard settings.tcpMtuProbing, options.mtuDiscover != 0 || !isIPv4 else { return }
    let least = isIPv4 ? settings.tcpMinSndMss : 1280 - IPv6Header.length - TCPHeader.minimumLength
    let size = max(blackHoleSegment == 0 ? settings.tcpBaseMss : blackHoleSegment / 2, least)
    guard size < maximumSegment, min(snd.nxt - snd.una, segmentPayload) > size else { return }
    blackHoleSegment = size
    blackHoleUntil = env.pointee.now + .seconds(settings.routeMTUExpires)
    env.pointee.statistics.count(.tcpBlackHoles)
    updateSegmentSize(env)
    scoreboard.markAllLost()
    congestion.window = segmentPayload
    trace(.pathMTU, .info, a: Int64(size + pathMTU - maximumPathSegment), env)
  }

  /// Another try with segments as large as the path is said to take.
  mutating func forgetBlackHole(_ env: EnvironmentPointer) {
    guard env.pointee.now >= blackHoleUntil else { return }
    blackHoleSegment = 0
    updateSegmentSize(env)
  }

  /// RFC 5681 §3.1 equation 4 on the first time-out of a window; cwnd becomes one segment beyond what is still in flight.
  private mutating func enterLoss(_ env: EnvironmentPointer) {
    let segment = segmentPayload
    let now = env.pointee.now
    if recovery != .loss || snd.una >= recoveryPoint || retransmits == 0 {
      if recovery == .open || recovery == .disorder || (recovery == .loss && retransmits == 0) {
        congestion.reduce(flight: pipe, segment: segment, now: now)
      }
      undoMarker = snd.una
      undoRetransmissions = 0
      firstRetransmissionStamp = 0
    }
    if !sackOn { duplicateAcks = 0 }
    scoreboard.markLostAfterTimeout(rtt: sackOn ? rackWindow(env) : .zero, now: now)
    if !sackOn { scoreboard.markAllLost() }
    congestion.window = pipe + segment
    congestion.acknowledgedBytes = 0
    recovery = .loss
    recoveryPoint = snd.nxt
    prrOut = 0
    reorderingWindowPersist = max(reorderingWindowPersist - 1, 0)
    trace(
      .recoveryEnter, .info, a: Int64(congestion.window), b: Int64(clamping: congestion.slowStartThreshold), env)
  }

  /// RTT plus reordering window: what was sent later than this ago may still arrive.
  private func rackWindow(_ env: EnvironmentPointer) -> Interval {
    guard scoreboard.hasRack else { return rtt.smoothed }
    return scoreboard.rackRTT + reorderingWindow()
  }

  private mutating func persistTimeout(_ env: EnvironmentPointer) -> TimerVerdict {
    let settings = env.pointee.settings
    let now = env.pointee.now
    guard snd.una == snd.nxt, dataEnd > snd.nxt || (finQueued && !finSent) else {
      work.insert(.output)
      return .nothing
    }
    let limit =
      isOrphan ? (settings.tcpOrphanRetries == 0 ? 8 : settings.tcpOrphanRetries) : settings.tcpRetries2
    let timeout = options.userTimeout > 0 ? Interval.milliseconds(options.userTimeout) : nil
    // TCP_USER_TIMEOUT counts also while the peer answers with a closed window (RFC 5482 §3, tcp_probe_timer).
    if let timeout {
      if now - probesSince >= timeout { return giveUp(env) }
    } else if probesOut > limit {
      return giveUp(env)
    }
    probesOut += 1
    persistBackoff += 1
    env.pointee.statistics.count(.tcpZeroWindowProbes)
    trace(.windowProbe, .info, a: Int64(probesOut), env)
    work.insert(.windowProbe)
    var wait = max(rtt.base, 200_000_000)
    for _ in 0..<min(persistBackoff, 20) { wait = min(wait * 2, Int64(settings.tcpRtoMax) * 1_000_000) }
    arm(.persist, after: Interval(nanoseconds: wait), env)
    return .nothing
  }

  // MARK: After an acknowledgment

  /// RACK_update_reo_wnd (RFC 8985 §6.2 step 4).
  private func reorderingWindow() -> Interval {
    if !reorderingSeen {
      if recovery == .recovery || recovery == .loss { return .zero }
      if scoreboard.sackedRanges >= 3 || scoreboard.sackedBytes >= 3 * segmentPayload { return .zero }
    }
    let quarter = rtt.minimum / 4 * Int64(reorderingWindowMultiplier)
    return Interval(nanoseconds: min(quarter, rtt.srtt))
  }

  private mutating func noteReordering(_ context: AckContext) {
    if context.summary.sawReordering {
      reorderingSeen = true
      reorderingCount &+= 1
    }
    if context.hasDSACK {
      if dsackRound.map({ snd.una >= $0 }) ?? true {
        dsackRound = snd.nxt
        reorderingWindowMultiplier = min(reorderingWindowMultiplier + 1, 16)
        reorderingWindowPersist = 16
      }
    } else if reorderingWindowPersist == 0 {
      reorderingWindowMultiplier = 1
    }
  }

  /// RACK_detect_loss and its timer. Returns the bytes newly marked lost.
  @discardableResult
  private mutating func detectLoss(_ context: AckContext, _ env: EnvironmentPointer) -> Int {
    guard sackOn else { return 0 }
    let result = scoreboard.detectLoss(reorderingWindow: reorderingWindow(), now: env.pointee.now)
    if result.newlyLost > 0, recovery == .open || recovery == .disorder { enterRecovery(env) }
    if let wait = result.wait, snd.una != snd.nxt {
      arm(.reorder, after: max(wait, .milliseconds(1)), env)
    } else if sendTimer == .reorder {
      arm(.retransmit, after: rtt.rto(settings: env.pointee.settings), env)
    }
    return result.newlyLost
  }

  private mutating func enterRecovery(_ env: EnvironmentPointer) {
    env.pointee.statistics.count(sackOn ? .tcpSackRecovery : .tcpRenoRecovery)
    env.pointee.statistics.count(.tcpFastRetrans)
    congestion.reduce(flight: pipe, segment: segmentPayload, now: env.pointee.now)
    recovery = .recovery
    recoveryPoint = snd.nxt
    prrPriorWindow = max(congestion.window, segmentPayload)
    prrDelivered = 0
    prrOut = 0
    undoMarker = snd.una
    undoRetransmissions = 0
    firstRetransmissionStamp = 0
    lossProbeEnd = nil
    trace(
      .recoveryEnter, .info, a: Int64(congestion.window), b: Int64(congestion.slowStartThreshold), env)
  }

  private mutating func leaveRecovery(_ env: EnvironmentPointer) {
    if recovery == .recovery || recovery == .cwr {
      congestion.window = max(congestion.slowStartThreshold, segmentPayload)
    }
    recovery = .open
    undoMarker = nil
    duplicateAcks = 0
    scoreboard.clearLost()
    reorderingWindowPersist = max(reorderingWindowPersist - 1, 0)
    trace(
      .recoveryExit, .info, a: Int64(congestion.window), b: Int64(clamping: congestion.slowStartThreshold), env)
  }

  /// What recovery retransmitted was not lost: the echo is of a time before the first retransmission (RFC 3522), or every
  /// retransmission was reported as a duplicate (RFC 3708).
  private func wasSpurious(_ context: AckContext) -> Bool {
    guard undoMarker != nil, recovery == .recovery || recovery == .loss else { return false }
    if let echo = context.echo, context.acked > 0, firstRetransmissionStamp != 0,
      Int32(bitPattern: echo &- firstRetransmissionStamp) < 0
    {
      return true
    }
    return undoRetransmissions == 0 && context.hasDSACK && firstRetransmissionStamp != 0
  }

  private mutating func undo(_ env: EnvironmentPointer) {
    congestion.undo()
    scoreboard.clearLost()
    rtt.backoff = 0
    retransmits = 0
    env.pointee.statistics.count(.tcpUndo)
    recovery = .open
    undoMarker = nil
    duplicateAcks = 0
    trace(
      .recoveryExit, .info, a: Int64(congestion.window), b: Int64(clamping: congestion.slowStartThreshold), env)
  }

  /// RFC 8985 §7.4.2: a probe that was itself the repair of a loss costs a window reduction.
  private mutating func settleLossProbe(_ context: AckContext, _ env: EnvironmentPointer) {
    guard let end = lossProbeEnd else { return }
    if !lossProbeWasRetransmission {
      if snd.una >= end { lossProbeEnd = nil }
      return
    }
    if context.hasDSACK {
      lossProbeEnd = nil
    } else if snd.una > end || (snd.una == end && context.acked > 0 && !context.isDuplicate && sackOn) {
      lossProbeEnd = nil
      guard recovery == .open || recovery == .disorder else { return }
      // The original was lost and the probe repaired it, unless the acknowledgment is the original's.
      if context.summary.retransmissionAcked {
        congestion.reduce(flight: pipe, segment: segmentPayload, now: env.pointee.now)
        congestion.window = min(congestion.window, congestion.slowStartThreshold)
        env.pointee.statistics.count(.tcpLossProbeRecovery)
      }
    } else if context.isDuplicate, snd.una == end {
      lossProbeEnd = nil
    }
  }

  /// The sender's part of an acknowledgment that was taken into the scoreboard: loss, recovery, window.
  mutating func recover(_ context: AckContext, _ env: EnvironmentPointer) {
    settleLossProbe(context, env)
    noteReordering(context)
    let segment = segmentPayload

    if wasSpurious(context) { undo(env) }
    if !sackOn { countDuplicate(context, env) }
    let newlyLost = detectLoss(context, env)

    switch recovery {
    case .open, .disorder, .cwr:
      if scoreboard.lostBytes > 0, recovery != .cwr { enterRecovery(env) }
      if recovery == .open || recovery == .disorder {
        recovery = scoreboard.sackedBytes > 0 || duplicateAcks > 0 ? .disorder : .open
      }
    case .recovery, .loss:
      if snd.una >= recoveryPoint {
        leaveRecovery(env)
      } else if !sackOn, context.acked > 0, recovery == .recovery {
        // RFC 6582 §3.2 step 4: a partial acknowledgment says that the next segment is lost too.
        duplicateAcks = max(duplicateAcks - (context.acked + segment - 1) / segment, 0)
        scoreboard.markHeadLost(segment)
      }
    }

    watchForReneging(context, env)
    if recovery == .recovery {
      proportionalRate(context, newlyLost: newlyLost)
    } else if context.acked > 0 || context.summary.delivered > 0 {
      let grows = recovery == .open || recovery == .disorder || recovery == .loss
      if grows, windowLimited || recovery == .loss, context.acked > 0 {
        congestion.acknowledged(context.acked, segment: segment, rtt: rtt.smoothed, now: env.pointee.now)
      }
      if pipe + segment <= congestion.window { windowLimited = false }
    }
  }

  /// RFC 2018 §8: SND.UNA stands at data that the peer had SACKed, so it has thrown them away again. A time-out will send
  /// them anew, and soon: nothing else is going to (Linux, tcp_check_sack_reneging).
  private mutating func watchForReneging(_ context: AckContext, _ env: EnvironmentPointer) {
    guard context.acked > 0, let head = scoreboard.head, head.isSacked else { return }
    arm(.retransmit, after: max(rtt.smoothed / 2, .milliseconds(10)), env)
  }

  /// RFC 5681 §3.2 / RFC 6582 without SACK: the third duplicate acknowledgment means loss.
  private mutating func countDuplicate(_ context: AckContext, _ env: EnvironmentPointer) {
    if context.isDuplicate {
      if snd.una != snd.nxt { duplicateAcks += 1 }
      if duplicateAcks == 3, recovery == .open || recovery == .disorder {
        enterRecovery(env)
        scoreboard.markHeadLost(segmentPayload)
      }
    } else if context.acked > 0, recovery != .recovery {
      duplicateAcks = 0
    }
  }

  /// RFC 6937 §3.1: as much is sent as was delivered, in proportion to the reduction; the slow-start bound below
  /// ssthresh.
  private mutating func proportionalRate(_ context: AckContext, newlyLost: Int) {
    let delivered =
      sackOn ? context.summary.delivered : (context.isDuplicate ? segmentPayload : context.acked)
    let segment = segmentPayload
    guard delivered > 0 else { return }
    prrDelivered += delivered
    let flight = pipe
    let threshold = congestion.slowStartThreshold
    var allowed: Int
    if flight > threshold {
      allowed = (threshold * prrDelivered + prrPriorWindow - 1) / prrPriorWindow - prrOut
    } else {
      allowed = max(prrDelivered - prrOut, delivered)
      if context.acked > 0, newlyLost == 0 { allowed += segment }
      allowed = min(allowed, threshold - flight)
    }
    // The first retransmission always goes out (RFC 6937 §3, fast retransmit).
    allowed = max(allowed, prrOut == 0 ? segment : 0)
    congestion.window = max(flight + allowed, segment)
  }
}
