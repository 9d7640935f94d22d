// Owns: SEGMENT ARRIVES (RFC 9293 §3.10.7) for a connection: which state's rules apply, and the fast path that Van Jacobson
// called header prediction. The rules of the states are in SegmentArrives+Listen, +SynSent and +Synchronized; CLOSED (no
// connection at all) is answered by `Stack/` with a RST. Nothing here sends: what must go out is noted in `work`.

import Wire

/// A segment after its checksum and header were found good.
struct Segment {
  var header: TCPHeader
  var options: TCPOptions
  /// SEG.LEN without SYN and FIN: payload, bytes. The packet's `data` points at it.
  var payloadLength: Int
  var packet: PacketBuffer

  @inline(__always) var flags: TCPFlags { header.flags }
  @inline(__always) var sequence: SequenceNumber { header.sequence }
  /// The sequence number after the segment (SYN and FIN count one each: RFC 9293 §3.4).
  @inline(__always) var end: SequenceNumber {
    let control = (flags.contains(.syn) ? 1 : 0) + (flags.contains(.fin) ? 1 : 0)
    return header.sequence + (payloadLength &+ control)
  }
  /// SEG.LEN
  @inline(__always) var length: Int { end - header.sequence }
}

/// What becomes of the segment's packet, and whether somebody must be answered outside the connection's own output.
enum SegmentVerdict {
  /// Done with; the packet is free.
  case done
  /// The receive queue has the packet.
  case queued
  /// Not accepted; the packet is free.
  case drop(DropReason)
  /// Answer with a RST as for a segment to a closed port (RFC 9293 §3.5.2); the packet is free.
  case reset
}

extension TransmissionControlBlock {
  mutating func segmentArrives(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict {
    // A super-frame counts as the segments it stands for.
    let size = Int(segment.packet.storage.pointee.segmentSize)
    let count = size > 0 && segment.payloadLength > size ? UInt32((segment.payloadLength + size - 1) / size) : 1
    segmentsIn &+= count
    if segment.payloadLength > 0 { dataSegmentsIn &+= count }
    if env.pointee.trace.allows(.tcp, .debug) {
      let shift = segment.flags.contains(.syn) ? 0 : Int(snd.shift)
      traceSegment(
        .segmentIn, flags: segment.flags, sequence: segment.sequence, acknowledgment: segment.header.acknowledgment,
        length: segment.payloadLength, window: Int(segment.header.window) << shift, again: false, env)
    }
    switch state {
    case .established:
      if let verdict = headerPrediction(segment, env) { return verdict }
      return synchronizedSegmentArrives(segment, env)
    case .synSent:
      return synSentSegmentArrives(segment, env)
    case .synReceived, .finWait1, .finWait2, .closeWait, .closing, .lastAck, .timeWait:
      return synchronizedSegmentArrives(segment, env)
    case .closed, .listen:
      return .reset
    }
  }

  // MARK: The fast path

  /// Header prediction: in ESTABLISHED the next segment is nearly always either the next data in order or a pure
  /// acknowledgment of new data, with an unchanged window and no option but the timestamp. nil: take the slow path.
  @inline(__always)
  private mutating func headerPrediction(_ segment: Segment, _ env: EnvironmentPointer) -> SegmentVerdict? {
    let flags = segment.flags.subtracting(.psh)
    guard flags == .ack, segment.sequence == rcv.nxt, segment.options.sack.count == 0,
      Int(segment.header.window) << Int(snd.shift) == snd.wnd, !receiveQueue.hasEarly,
      segment.options.hasTimestamp == timestampsOn, recovery == .open, scoreboard.sackedBytes == 0
    else { return nil }
    if timestampsOn, Int32(bitPattern: segment.options.timestampValue &- recentTimestamp) < 0 { return nil }
    let ack = segment.header.acknowledgment

    let isNews = ack != snd.una
    if isNews { guard ack > snd.una, ack <= snd.nxt, lossProbeEnd == nil else { return nil } }
    guard isNews || segment.payloadLength > 0 else { return nil }

    if segment.payloadLength == 0 {
      noteTimestamp(segment, env)
      noteWindowOrigin(segment)
      env.pointee.statistics.count(.tcpHPAcks)
      acknowledge(upTo: ack, segment, env)
      work.insert(.output)
      return .done
    }
    guard segment.payloadLength <= rcv.wnd, !readShutdown, receiveQueue.memory < memoryLimit else { return nil }
    noteTimestamp(segment, env)
    noteWindowOrigin(segment)
    env.pointee.statistics.count(.tcpHPHits)
    if isNews {
      // An answer: it acknowledges the question.
      acknowledge(upTo: ack, segment, env)
      if dataEnd > snd.nxt { work.insert(.output) }
    }
    acceptInOrder(segment, env)
    return .queued
  }

  /// SND.WL1 and SND.WL2: the window was confirmed by this segment. Left 2^31 behind, they would make every later one look older.
  @inline(__always)
  private mutating func noteWindowOrigin(_ segment: Segment) {
    snd.wl1 = segment.sequence
    snd.wl2 = segment.header.acknowledgment
  }

  /// New data of ours acknowledged, nothing lost.
  @inline(__always)
  private mutating func acknowledge(upTo ack: SequenceNumber, _ segment: Segment, _ env: EnvironmentPointer) {
    var context = AckContext()
    context.priorUna = snd.una
    context.echo = timestampsOn ? segment.options.timestampEcho : nil
    advance(to: ack, segment, &context, env)
    congestionGrowth(context.acked, env)
  }

  @inline(__always)
  private mutating func congestionGrowth(_ acked: Int, _ env: EnvironmentPointer) {
    let segment = segmentPayload
    if windowLimited {
      congestion.acknowledged(acked, segment: segment, rtt: rtt.smoothed, now: env.pointee.now)
      if pipe + segment <= congestion.window { windowLimited = false }
    }
  }

  /// TS.Recent (RFC 7323 §4.3): taken when the segment covers Last.ACK.sent.
  @inline(__always)
  mutating func noteTimestamp(_ segment: Segment, _ env: EnvironmentPointer) {
    guard timestampsOn, segment.options.hasTimestamp, segment.sequence <= rcv.acknowledged else { return }
    if Int32(bitPattern: segment.options.timestampValue &- recentTimestamp) >= 0 {
      recentTimestamp = segment.options.timestampValue
      recentTimestampAt = env.pointee.now
    }
  }

  // MARK: Acknowledgment of new data

  /// SND.UNA moves to `ack`: buffer, scoreboard, RTT, timer (RFC 9293 §3.10.7.4 "Fifth, check the ACK field").
  mutating func advance(
    to ack: SequenceNumber, _ segment: Segment, _ context: inout AckContext, _ env: EnvironmentPointer
  ) {
    let now = env.pointee.now
    context.acked = ack - snd.una
    scoreboard.beginAcknowledgment()
    scoreboard.acknowledge(
      upTo: ack, now: now, minimumRTT: Interval(nanoseconds: rtt.minimum), echo: echoInstant(segment, env),
      &context.summary)
    // Linux counts the SYN that an active open had acknowledged, and every FIN.
    if state != .synReceived { bytesAcked &+= UInt64(context.acked) }
    snd.una = ack
    let bytes = SequenceNumber.min(ack, dataEnd) - snd.bufferStart
    if bytes > 0 {
      sendBuffer.drop(bytes)
      snd.bufferStart += bytes
      spaceFreed(env)
    }
    takeRTT(context, segment, env)
    retransmits = 0
    probesOut = 0
    keepaliveProbesOut = 0
    softError = nil
    lastAckAt = now
    growSendBuffer(env)
    rearmAfterAck(env)
  }

  /// The time on our clock that the peer's timestamp echo stands for.
  func echoInstant(_ segment: Segment, _ env: EnvironmentPointer) -> Instant? {
    guard timestampsOn, segment.options.hasTimestamp, segment.options.timestampEcho != 0 else { return nil }
    let age = timestamp(env.pointee.now) &- segment.options.timestampEcho
    guard age < 1 << 30 else { return nil }
    // The echo is in whole milliseconds: the end of that millisecond.
    return Instant(nanoseconds: (env.pointee.now.milliseconds - Int64(age) + 1) * 1_000_000)
  }

  /// A round-trip sample: exact from ranges that were sent once (Karn's rule), else from the timestamp echo
  /// (RFC 7323 §4.1).
  mutating func takeRTT(_ context: AckContext, _ segment: Segment, _ env: EnvironmentPointer) {
    // An acknowledgment that also covers a retransmission was held up by it: what was sent once may have arrived long ago.
    if let sample = context.summary.rtt, !context.summary.retransmissionAcked {
      rtt.sample(sample, now: env.pointee.now, settings: &env.pointee.settings)
    } else if timestampsOn, segment.options.hasTimestamp, segment.options.timestampEcho != 0, context.acked > 0 {
      let age = timestamp(env.pointee.now) &- segment.options.timestampEcho
      guard age < 1 << 24 else { return }
      rtt.sample(.milliseconds(max(Int(age), 1)), now: env.pointee.now, settings: &env.pointee.settings)
    } else {
      return
    }
    trace(.rttSample, .trace, a: rtt.latest / 1000, b: rtt.srtt / 1000, env)
  }

  /// EPOLLOUT's edge: the program was told "no room", and a third of the buffer is free again (sk_stream_write_space).
  mutating func spaceFreed(_ env: EnvironmentPointer) {
    if wantsSpace, isWritable {
      wantsSpace = false
      raise(.writable)
    }
  }

  /// Bytes the program may queue.
  var sendLimit: Int { options.sendBuffer }
  var isWritable: Bool {
    let low = options.notSentLowWater
    if low > 0, dataEnd - SequenceNumber.max(snd.nxt, snd.bufferStart) >= low { return false }
    return sendBuffer.count * 3 <= sendLimit * 2
  }

  /// Send-buffer auto-tuning: room for two windows (Linux's tcp_sndbuf_expand).
  mutating func growSendBuffer(_ env: EnvironmentPointer) {
    guard !options.sendBufferLocked else { return }
    let wanted = min(max(2 * congestion.window, 87040), env.pointee.settings.tcpWmem.maximum)
    if wanted > options.sendBuffer { options.sendBuffer = wanted }
  }

  // MARK: Data in order

  /// Takes the payload of a segment that starts at RCV.NXT and lies inside the window; the queue owns the packet after.
  @inline(__always)
  mutating func acceptInOrder(_ segment: Segment, _ env: EnvironmentPointer) {
    let length = segment.payloadLength
    rcv.nxt += length
    bytesReceived &+= UInt64(length)
    lastReceivedAt = env.pointee.now
    if receiveQueue.ready.last != nil { env.pointee.statistics.count(.tcpRcvCoalesce) }
    segment.packet.storage.pointee.endSequence = rcv.nxt
    receiveQueue.appendInOrder(segment.packet, length: length, &env.pointee.pool)
    noteReceivedSize(length, segment)
    measureReceiverRTT(segment, env)
    scheduleAck(env)
    if receiveQueue.readyBytes >= options.receiveLowWater { raise(.readable) }
  }

  /// The peer's MSS as it shows (Linux's tcp_measure_rcv_mss).
  @inline(__always)
  private mutating func noteReceivedSize(_ length: Int, _ segment: Segment) {
    let size = segment.packet.storage.pointee.segmentSize
    let seen = size != 0 ? Int(size) : length
    if seen >= receivedSegment || size != 0 {
      receivedSegment = min(seen, advertisedSegment)
    } else {
      smallReceived = min(smallReceived + 1, 2)
    }
  }

  /// Delayed acknowledgments (RFC 5681 §4.2, RFC 9293 §3.8.6.3): at once for a second full segment or while quick ACKs
  /// last, else after up to 40 ms (more when the program answers by itself).
  mutating func scheduleAck(_ env: EnvironmentPointer) {
    let unacknowledged = rcv.nxt - rcv.acknowledged
    if unacknowledged > receivedSegment || quickAcks > 0 || options.quickAck && !interactive {
      work.insert(.ackNow)
      return
    }
    guard !ackDelayed else { return }
    ackDelayed = true
    env.pointee.statistics.count(.tcpDelayedAcks)
    env.pointee.wheel.schedule(delayedAckTimerID, at: env.pointee.now + ackTimeout)
  }

  mutating func delayedAckTimerExpired(_ env: EnvironmentPointer) {
    guard ackDelayed else { return }
    ackDelayed = false
    work.insert(.ackNow)
  }

  // MARK: Receive-buffer auto-tuning (Linux's DRS)

  @inline(__always)
  private mutating func measureReceiverRTT(_ segment: Segment, _ env: EnvironmentPointer) {
    guard timestampsOn, segment.options.timestampEcho != 0, segment.options.timestampEcho != receiverRTTStamp,
      segment.payloadLength >= receivedSegment
    else { return }
    receiverRTTStamp = segment.options.timestampEcho
    let age = timestamp(env.pointee.now) &- segment.options.timestampEcho
    guard age < 1 << 20 else { return }
    let sample = max(Int64(age), 1) * 1_000_000
    receiverRTT = receiverRTT == 0 ? sample : receiverRTT + (sample - receiverRTT) / 8
  }

  /// The program took `n` bytes: once per RTT the window is made twice what it took (tcp_rcv_space_adjust).
  mutating func noteCopied(_ n: Int, _ env: EnvironmentPointer) {
    tuneCopied += n
    let now = env.pointee.now
    let round = receiverRTT != 0 ? receiverRTT : (rtt.srtt != 0 ? rtt.srtt : 1_000_000)
    guard (now - tuneAt).nanoseconds >= round else { return }
    if tuneCopied > tuneSpace {
      if env.pointee.settings.tcpModerateRcvbuf, !options.receiveBufferLocked {
        var wanted = 2 * tuneCopied + 16 * advertisedSegment
        // What was taken grew: it will grow again while the next window is filled, as in slow start.
        wanted += 2 * (wanted * (tuneCopied - tuneSpace) / tuneSpace)
        let most = env.pointee.settings.tcpRmem.maximum / 2
        if wanted > receiveSpace {
          receiveSpace = min(wanted, most)
          options.receiveBuffer = max(options.receiveBuffer, 2 * receiveSpace)
        }
      }
      tuneSpace = tuneCopied
    }
    tuneCopied = 0
    tuneAt = now
  }

  /// After the program read: whether the peer should hear of the larger window now (tcp_cleanup_rbuf).
  mutating func considerWindowUpdate(_ env: EnvironmentPointer) {
    guard state.isSynchronized || state == .synReceived, !finReceived else { return }
    if ackDelayed {
      // Small segments mostly end a message, and the peer may hold the next for the acknowledgment (Nagle): once all is read it
      // goes out, but for a program that has been answering.
      let isRead = receiveQueue.readyBytes == 0 && (smallReceived == 2 || smallReceived == 1 && !interactive)
      if isRead || rcv.nxt - rcv.acknowledged > receivedSegment { work.insert(.ackNow) }
    }
    let free = freeReceiveSpace
    let current = rcv.wnd
    if 2 * current <= min(receiveSpace, rcvWindowClamp), free >= 2 * current,
      free - current >= min(receivedSegment, receiveSpace / 2)
    {
      work.insert(.ackNow)
    }
  }

  private var rcvWindowClamp: Int { options.windowClamp > 0 ? options.windowClamp : Int.max }
}
