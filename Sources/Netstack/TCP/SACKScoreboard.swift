// Owns: what was sent and is not yet acknowledged, as byte ranges in sequence order, each with the time it was last sent
// and what is known of it. Read first: RFC 2018 §5, RFC 6675 §3–4, RFC 8985 §4–6.
//
//   SND.UNA                                                        SND.NXT
//      │ range │ range(sacked) │ range(lost) │ range │ range(retransmitted) │
//
// Ranges are whatever was sent at one instant, super-segments included; a SACK edge inside one splits it.

import Wire

struct SentRange {
  var start: SequenceNumber
  var end: SequenceNumber
  /// When it was last sent.
  var sentAt: Instant
  var isSacked = false
  /// Marked lost and not sent again since.
  var isLost = false
  /// Sent more than once.
  var isRetransmitted = false
  /// The sender had nothing more to send when this went out: no evidence of the path's rate.
  var length: Int { end - start }
}

/// What one acknowledgment delivered.
struct AckSummary {
  /// Bytes acknowledged cumulatively and newly by SACK: DeliveredData of RFC 6937.
  var delivered = 0
  /// Bytes newly sacked in this acknowledgment.
  var newlySacked = 0
  /// The round-trip time of the newest range that was sent once; nil where there is none (Karn's rule).
  var rtt: Interval?
  /// A range that had been marked lost and was never sent again has arrived after all.
  var lateArrival = false
  /// A range that was sent twice was acknowledged.
  var retransmissionAcked = false
  /// The lowest never-retransmitted range newly delivered below the highest one: reordering (RFC 8985 §4 step 4).
  var sawReordering = false
}

struct SACKScoreboard: ~Copyable {
  private var ranges: UnsafeMutablePointer<SentRange>?
  private var capacity = 0
  private var first = 0
  private(set) var count = 0
  /// Bytes sacked; bytes lost and not sent again.
  private(set) var sackedBytes = 0
  private(set) var lostBytes = 0
  private(set) var sackedRanges = 0
  /// Most recently sent range known delivered: RACK.xmit_ts, RACK.end_seq, RACK.rtt (RFC 8985 §5.2).
  private(set) var rackSentAt = Instant.zero
  private(set) var rackEnd = SequenceNumber(0)
  private(set) var rackRTT = Interval.zero
  private(set) var hasRack = false
  /// RACK.fack: the highest sequence number delivered.
  private(set) var highestDelivered = SequenceNumber(0)
  /// Below this index nothing is lost: where the search for the next retransmission starts.
  private var lostHint = 0
  private var previousBlocks = SACKBlocks()
  /// `highestDelivered` when the segment being processed came in: what lies below it and arrives only now was reordered.
  private var highestBefore = SequenceNumber(0)
  private var hadRack = false

  init() {}

  deinit { ranges?.deallocate() }

  var isEmpty: Bool { count == 0 }

  subscript(_ index: Int) -> SentRange {
    @inline(__always) get { ranges.unsafelyUnwrapped[first &+ index] }
  }

  var head: SentRange? { count > 0 ? self[0] : nil }
  var tail: SentRange? { count > 0 ? self[count - 1] : nil }

  mutating func removeAll() {
    first = 0
    count = 0
    sackedBytes = 0
    lostBytes = 0
    sackedRanges = 0
    lostHint = 0
    previousBlocks = SACKBlocks()
  }

  private mutating func makeRoom() {
    if first + count < capacity { return }
    guard let old = ranges else {
      capacity = 16
      ranges = .allocate(capacity: capacity)
      return
    }
    if first > capacity / 2 {
      old.update(from: old + first, count: count)
      first = 0
      return
    }
    let new = UnsafeMutablePointer<SentRange>.allocate(capacity: capacity * 2)
    new.update(from: old + first, count: count)
    old.deallocate()
    ranges = new
    capacity *= 2
    first = 0
  }

  /// New data went out. Joins what was sent at the same instant.
  mutating func append(start: SequenceNumber, end: SequenceNumber, now: Instant) {
    if count > 0, let ranges {
      let last = ranges + (first + count - 1)
      if last.pointee.end == start, last.pointee.sentAt == now, !last.pointee.isRetransmitted, !last.pointee.isSacked,
        !last.pointee.isLost, end - last.pointee.start <= 1 << 20
      {
        last.pointee.end = end
        return
      }
    }
    makeRoom()
    ranges.unsafelyUnwrapped[first + count] = SentRange(start: start, end: end, sentAt: now)
    count += 1
  }

  /// Cuts range `index` at `at` (strictly inside it) in two.
  private mutating func split(_ index: Int, at: SequenceNumber) {
    makeRoom()
    let base = ranges.unsafelyUnwrapped + first
    var i = count
    while i > index + 1 {
      base[i] = base[i - 1]
      i -= 1
    }
    base[index + 1] = base[index]
    base[index].end = at
    base[index + 1].start = at
    count += 1
    if base[index].isSacked { sackedRanges += 1 }
  }

  /// Index of the first range that ends after `sequence`.
  private func firstEnding(after sequence: SequenceNumber) -> Int {
    var low = 0
    var high = count
    while low < high {
      let middle = (low + high) / 2
      if self[middle].end <= sequence { low = middle + 1 } else { high = middle }
    }
    return low
  }

  /// RACK_update (RFC 8985 §6.2 step 1–2) for a range that is now known delivered. `echo` is the time that the peer's
  /// timestamp echo stands for, if there is one.
  private mutating func delivered(
    _ range: SentRange, now: Instant, minimumRTT: Interval, echo: Instant?, _ summary: inout AckSummary
  ) {
    if range.isRetransmitted { summary.retransmissionAcked = true }
    if range.isLost { summary.lateArrival = true }
    let rtt = now - range.sentAt
    if !range.isRetransmitted {
      summary.rtt = rtt
      if hadRack, range.end < highestBefore { summary.sawReordering = true }
    } else {
      // Perhaps the acknowledgment of the first copy: not evidence about the second (RFC 8985 §6.2 step 2).
      if let echo, echo < range.sentAt - .milliseconds(1) { return }
      if rtt < minimumRTT { return }
    }
    if !hasRack || range.sentAt > rackSentAt || (range.sentAt == rackSentAt && range.end > rackEnd) {
      hasRack = true
      rackSentAt = range.sentAt
      rackEnd = range.end
      rackRTT = rtt
    }
  }

  /// Call once per segment, before `acknowledge` and `apply`.
  mutating func beginAcknowledgment() {
    highestBefore = highestDelivered
    hadRack = hasRack
  }

  private mutating func noteHighest(_ sequence: SequenceNumber, hadRack: Bool) {
    if !hadRack || sequence > highestDelivered { highestDelivered = sequence }
  }

  /// Drops everything below `ack` (SND.UNA moves there).
  mutating func acknowledge(
    upTo ack: SequenceNumber, now: Instant, minimumRTT: Interval, echo: Instant?, _ summary: inout AckSummary
  ) {
    guard let ranges else { return }
    while count > 0 {
      let range = ranges[first]
      if range.start >= ack { break }
      let end = SequenceNumber.min(range.end, ack)
      let bytes = end - range.start
      if range.isSacked {
        sackedBytes -= bytes
      } else {
        summary.delivered += bytes
        let had = hasRack
        var piece = range
        piece.end = end
        delivered(piece, now: now, minimumRTT: minimumRTT, echo: echo, &summary)
        noteHighest(end, hadRack: had)
      }
      if range.isLost { lostBytes -= bytes }
      if end == range.end {
        if range.isSacked { sackedRanges -= 1 }
        first += 1
        count -= 1
        if lostHint > 0 { lostHint -= 1 }
      } else {
        ranges[first].start = end
        break
      }
    }
    if count == 0 { first = 0 }
  }

  /// Takes the SACK blocks of a segment. `una` and `nxt` bound what can be true (RFC 2018 §5.1).
  mutating func apply(
    _ blocks: borrowing SACKBlocks, una: SequenceNumber, nxt: SequenceNumber, now: Instant, minimumRTT: Interval,
    echo: Instant?, _ summary: inout AckSummary
  ) {
    var used = SACKBlocks()
    for i in 0..<blocks.count {
      var block = blocks[i]
      guard block.start < block.end, block.end <= nxt, block.end > una else { continue }
      if block.start < una { block.start = una }
      used.append(block)
      // What the previous segment said already needs no second look.
      var start = block.start
      for j in 0..<previousBlocks.count {
        let known = previousBlocks[j]
        if known.start <= start, known.end > start { start = SequenceNumber.min(known.end, block.end) }
      }
      if start < block.end {
        mark(SACKBlock(start: start, end: block.end), now: now, minimumRTT: minimumRTT, echo: echo, &summary)
      }
    }
    previousBlocks = used
  }

  private mutating func mark(
    _ block: SACKBlock, now: Instant, minimumRTT: Interval, echo: Instant?, _ summary: inout AckSummary
  ) {
    var index = firstEnding(after: block.start)
    while index < count {
      let range = self[index]
      if range.start >= block.end { break }
      if range.isSacked {
        index += 1
        continue
      }
      if range.start < block.start {
        split(index, at: block.start)
        index += 1
        continue
      }
      if range.end > block.end { split(index, at: block.end) }
      let piece = self[index]
      let had = hasRack
      delivered(piece, now: now, minimumRTT: minimumRTT, echo: echo, &summary)
      noteHighest(piece.end, hadRack: had)
      let base = ranges.unsafelyUnwrapped + (first + index)
      if base.pointee.isLost {
        base.pointee.isLost = false
        lostBytes -= piece.length
      }
      base.pointee.isSacked = true
      sackedBytes += piece.length
      sackedRanges += 1
      summary.delivered += piece.length
      summary.newlySacked += piece.length
      index += 1
    }
  }

  @inline(__always)
  private mutating func setLost(_ index: Int) {
    let range = ranges.unsafelyUnwrapped + (first + index)
    range.pointee.isLost = true
    lostBytes += range.pointee.length
    if index < lostHint { lostHint = index }
  }

  /// RACK_detect_loss (RFC 8985 §6.2 step 5): marks what was sent long enough before the newest delivered range.
  /// Returns how long until the next range must be judged (nil: none waits), and the bytes newly lost.
  mutating func detectLoss(reorderingWindow: Interval, now: Instant) -> (wait: Interval?, newlyLost: Int) {
    guard hasRack, count > 0 else { return (nil, 0) }
    var wait: Interval?
    var newlyLost = 0
    for index in 0..<count {
      let range = self[index]
      let sentBefore =
        range.sentAt < rackSentAt || (range.sentAt == rackSentAt && range.end < rackEnd)
      if !sentBefore {
        // Never-retransmitted ranges are in order of time: nothing further on can have been sent earlier.
        if !range.isRetransmitted { break }
        continue
      }
      if range.isSacked || range.isLost { continue }
      let remaining = range.sentAt + rackRTT + reorderingWindow - now
      if remaining <= .zero {
        setLost(index)
        newlyLost += range.length
      } else if wait.map({ $0 < remaining }) ?? true {
        wait = remaining
      }
    }
    return (wait, newlyLost)
  }

  /// After a retransmission time-out: the first range is lost, and every other one that is not sacked and was sent more
  /// than an RTT (and the reordering window) ago. If the peer went back on its SACKs (the first range is sacked), they are
  /// forgotten (RFC 2018 §8).
  mutating func markLostAfterTimeout(rtt: Interval, now: Instant) {
    guard count > 0, let ranges else { return }
    let reneged = self[0].isSacked
    if reneged {
      for i in 0..<count where ranges[first + i].isSacked {
        ranges[first + i].isSacked = false
        // When it will be acknowledged says nothing about the path any more (Karn's rule).
        ranges[first + i].isRetransmitted = true
      }
      sackedBytes = 0
      sackedRanges = 0
      previousBlocks = SACKBlocks()
    }
    for i in 0..<count {
      let range = self[i]
      if range.isSacked || range.isLost { continue }
      if i > 0, !reneged, range.sentAt + rtt > now { continue }
      setLost(i)
    }
    lostHint = 0
  }

  /// Marks the first `bytes` (at most the first range) lost: NewReno without SACK (RFC 6582 §3.2), and IP's MTU notices.
  mutating func markHeadLost(_ bytes: Int) {
    guard count > 0, !self[0].isSacked, !self[0].isLost else { return }
    if self[0].length > bytes { split(0, at: self[0].start + bytes) }
    setLost(0)
    lostHint = 0
  }

  mutating func markAllLost() {
    for i in 0..<count where !self[i].isSacked && !self[i].isLost { setLost(i) }
    lostHint = 0
  }

  /// The first lost range, at most `limit` bytes of it (the rest stays lost); nil where nothing is.
  mutating func nextLost(limit: Int) -> (index: Int, range: SentRange)? {
    guard lostBytes > 0 else { return nil }
    var index = lostHint
    while index < count, !self[index].isLost { index += 1 }
    lostHint = index
    guard index < count else { return nil }
    if self[index].length > limit { split(index, at: self[index].start + limit) }
    return (index, self[index])
  }

  /// Range `index` went out again.
  mutating func retransmitted(_ index: Int, now: Instant) {
    let range = ranges.unsafelyUnwrapped + (first + index)
    if range.pointee.isLost {
      range.pointee.isLost = false
      lostBytes -= range.pointee.length
    }
    range.pointee.isRetransmitted = true
    range.pointee.sentAt = now
  }

  /// The last range, cut to at most `limit` bytes at its end: what a tail loss probe sends again.
  mutating func probeRange(limit: Int) -> (index: Int, range: SentRange)? {
    guard count > 0 else { return nil }
    var index = count - 1
    while index > 0, self[index].isSacked { index -= 1 }
    if self[index].isSacked { return nil }
    if self[index].length > limit {
      split(index, at: self[index].end + -limit)
      index += 1
    }
    return (index, self[index])
  }

  /// Forgets every loss mark: a time-out or recovery was spurious.
  mutating func clearLost() {
    guard lostBytes > 0, let ranges else { return }
    for i in 0..<count { ranges[first + i].isLost = false }
    lostBytes = 0
  }

  /// Whether anything was sent more than once and is still out.
  var hasRetransmitted: Bool {
    for i in 0..<count where self[i].isRetransmitted { return true }
    return false
  }
}
