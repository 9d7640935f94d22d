// Owns: connections in TIME-WAIT, as records much smaller than a TCB. Read first: RFC 9293 §3.10.7.4 (TIME-WAIT), RFC 6191
// (reuse by timestamps), RFC 1337 (hazards).

import Wire

struct TimeWaitRecord {
  var tuple: FourTuple
  var sndNxt: SequenceNumber
  var rcvNxt: SequenceNumber
  var window: UInt16
  var receiveWindow: Int
  var timestampsOn: Bool
  var recentTimestamp: UInt32
  var recentTimestampAt: Instant
  var timestampOffset: UInt32
  var timer: TimerID
  var next: UInt32 = 0
  var lastAckAt = Instant.zero
}

/// What a segment to a TIME-WAIT connection brings about.
enum TimeWaitVerdict {
  case drop(DropReason)
  /// Acknowledge: the peer repeats itself.
  case acknowledge
  /// The record is to go (a RST).
  case end
  /// A SYN that may begin a new connection on the same socket pair, with an ISS above this (RFC 6191).
  case recycle(above: SequenceNumber)
}

package struct TimeWaitTable: ~Copyable {
  private let key: HashKey
  private var records: Slab<TimeWaitRecord>
  private var buckets: UnsafeMutablePointer<UInt32>
  private static var bucketCount: Int { 4096 }
  private let maximum: Int

  /// Linux's TCP_TIMEWAIT_LEN.
  static var duration: Interval { .seconds(60) }

  init(key: HashKey, maximum: Int) {
    self.key = key
    self.maximum = maximum
    records = Slab(maximum: maximum)
    buckets = .allocate(capacity: Self.bucketCount)
    buckets.initialize(repeating: 0, count: Self.bucketCount)
  }

  deinit { buckets.deallocate() }

  var count: Int { records.count }

  private func bucket(_ tuple: FourTuple) -> Int { Int(truncatingIfNeeded: tuple.hash(key)) & (Self.bucketCount - 1) }

  /// Takes over from a TCB. Beyond the limit nothing is kept (Linux: "time wait bucket table overflow").
  mutating func insert(_ tcb: TCBPointer, _ env: EnvironmentPointer) {
    guard records.count < min(maximum, env.pointee.settings.tcpMaxTimeWaitBuckets) else { return }
    let t = tcb
    var record = TimeWaitRecord(
      tuple: t.pointee.tuple, sndNxt: t.pointee.snd.nxt, rcvNxt: t.pointee.rcv.nxt,
      window: UInt16(min(t.pointee.rcv.wnd >> Int(t.pointee.rcv.shift), 65535)), receiveWindow: t.pointee.rcv.wnd,
      timestampsOn: t.pointee.timestampsOn, recentTimestamp: t.pointee.recentTimestamp,
      recentTimestampAt: t.pointee.recentTimestampAt, timestampOffset: t.pointee.timestampOffset, timer: .none)
    let at = bucket(record.tuple)
    record.next = buckets[at]
    guard let handle = records.insert(record) else { return }
    let timer = env.pointee.wheel.allocate(kind: TimerKind.timeWait, owner: handle.index)
    records.pointer(at: handle.index).pointee.timer = timer
    buckets[at] = handle.index + 1
    env.pointee.wheel.schedule(timer, at: env.pointee.now + Self.duration)
    env.pointee.statistics.count(.tcpTimeWaits)
  }

  func find(_ tuple: FourTuple) -> UInt32? {
    guard records.count > 0 else { return nil }
    var next = buckets[bucket(tuple)]
    while next != 0 {
      let record = records.pointer(at: next - 1)
      if record.pointee.tuple == tuple { return next - 1 }
      next = record.pointee.next
    }
    return nil
  }

  func pointer(at index: UInt32) -> UnsafeMutablePointer<TimeWaitRecord> { records.pointer(at: index) }

  mutating func remove(_ index: UInt32, _ env: EnvironmentPointer) {
    let record = records.pointer(at: index)
    env.pointee.wheel.release(record.pointee.timer)
    let at = bucket(record.pointee.tuple)
    if buckets[at] == index + 1 {
      buckets[at] = record.pointee.next
    } else {
      var next = buckets[at]
      while next != 0 {
        let other = records.pointer(at: next - 1)
        if other.pointee.next == index + 1 {
          other.pointee.next = record.pointee.next
          break
        }
        next = other.pointee.next
      }
    }
    records.remove(at: index)
  }

  /// Whether any record holds the local port (bind without SO_REUSEADDR must fail).
  func holdsPort(_ port: UInt16) -> Bool {
    var index: UInt32 = 0
    while let used = records.nextInUse(from: index) {
      if records.pointer(at: used).pointee.tuple.local.port == port { return true }
      index = used + 1
    }
    return false
  }

  /// RFC 9293 §3.10.7.4 in TIME-WAIT, with RFC 6191's and RFC 1337's additions.
  func segmentArrives(_ segment: Segment, at index: UInt32, _ env: EnvironmentPointer) -> TimeWaitVerdict {
    let record = records.pointer(at: index)
    let now = env.pointee.now
    let stamped = record.pointee.timestampsOn && segment.options.hasTimestamp
    let difference = Int32(bitPattern: segment.options.timestampValue &- record.pointee.recentTimestamp)
    let flags = segment.flags

    if flags.contains(.syn), !flags.contains(.rst), !flags.contains(.ack) {
      // A later incarnation: newer timestamp, or a sequence number beyond everything seen.
      if (stamped && difference > 0) || (!stamped && segment.sequence > record.pointee.rcvNxt) {
        return .recycle(above: record.pointee.sndNxt + 65537)
      }
    }
    if stamped, difference < 0, !flags.contains(.rst) {
      env.pointee.statistics.count(.tcpPAWSEstab)
      return mayAcknowledge(record, now, env) ? .acknowledge : .drop(.tcpPAWS)
    }
    if flags.contains(.rst) {
      // RFC 1337: with tcp_rfc1337 a RST does not cut TIME-WAIT short.
      if segment.sequence == record.pointee.rcvNxt, !env.pointee.settings.tcpRfc1337 { return .end }
      return .drop(.tcpInvalidReset)
    }
    // A pure acknowledgment of our FIN needs no answer; anything else is the peer not knowing that we are done.
    if segment.length == 0, segment.sequence == record.pointee.rcvNxt { return .drop(.tcpClosed) }
    if flags.contains(.fin), segment.end == record.pointee.rcvNxt {
      // The peer's FIN again: our ACK was lost. 2 MSL start anew.
      env.pointee.wheel.schedule(record.pointee.timer, at: now + Self.duration)
      return .acknowledge
    }
    return mayAcknowledge(record, now, env) ? .acknowledge : .drop(.tcpSequenceOutOfWindow)
  }

  private func mayAcknowledge(
    _ record: UnsafeMutablePointer<TimeWaitRecord>, _ now: Instant, _ env: EnvironmentPointer
  ) -> Bool {
    let limit = Interval.milliseconds(env.pointee.settings.tcpInvalidRatelimit)
    if record.pointee.lastAckAt != .zero, now - record.pointee.lastAckAt < limit { return false }
    record.pointee.lastAckAt = now
    return true
  }
}
