// Owns: what happens to a frame between two hosts, in one direction: a queue in front of a line of some rate, then delay,
// loss, reordering, duplication and corruption. All chance comes from one seeded generator. Knows nothing of what a frame
// means, but for where its Ethernet header ends.

import Netstack

/// A frame on its way. A value: a copy of what the stack gave.
package struct Frame: Sendable {
  package var bytes: [UInt8]
  /// As a TAP device says with virtio_net_hdr: the checksum was left undone or has been checked.
  package var isVerified = false
  package var isCorrupted = false
  /// Payload of each segment of a super-frame; 0 = none.
  package var segmentSize: UInt16 = 0

  package init(bytes: [UInt8]) { self.bytes = bytes }
}

package struct LinkConditions: Sendable {
  /// Bytes per second; nil = the line takes no time.
  package var rate: Int?
  package var delay = Interval.zero
  /// Up to this much more, evenly; by itself it does not change the order.
  package var jitter = Interval.zero
  /// Chance that a frame is held up by `reorderDelay` and overtaken.
  package var reorder = 0.0
  package var reorderDelay = Interval.zero
  /// Chance that a frame is lost, each for itself.
  package var loss = 0.0
  /// Bursts (Gilbert's model): chance per frame that one begins, and that it ends; in a burst all are lost. A second of
  /// silence ends it too, or a few frames minutes apart would all be of one burst.
  package var burstBegin = 0.0
  package var burstEnd = 0.3
  package var duplicate = 0.0
  /// Chance that a byte is changed behind the link header, where checksums must find it.
  package var corrupt = 0.0
  /// What waits in front of the line; a frame more is lost.
  package var queuePackets = 1000
  package var queueBytes = Int.max
  /// Frames of more bytes than this vanish: a router that does not say so.
  package var largest: Int?
  /// Nothing gets through for some time, from so long after the beginning.
  package var outage: (after: Interval, length: Interval)?

  package init() {}

  /// A line that loses nothing.
  package static func clean(rate: Int?, delay: Interval) -> LinkConditions {
    var conditions = LinkConditions()
    conditions.rate = rate
    conditions.delay = delay
    return conditions
  }
}

package struct LinkCounters: Sendable {
  package var sent = 0
  package var delivered = 0
  package var lost = 0
  package var queueDrops = 0
  package var duplicated = 0
  package var corrupted = 0
  package var reordered = 0
}

package struct Link {
  package var conditions: LinkConditions
  package private(set) var counters = LinkCounters()
  private var random: SeededRandom
  /// When the line has sent what was given to it.
  private var freeAt = Instant.zero
  private var lastArrival = Instant.zero
  private var inBurst = false
  private var lastSentAt = Instant.zero
  /// Departures of what waits, oldest first.
  private var waiting: [(departure: Instant, bytes: Int)] = []
  private var waitingFirst = 0
  private var waitingBytes = 0
  /// Bytes that are never corrupted: an Ethernet header, which a frame check sequence protects.
  private let headerLength: Int

  private let start: Instant

  package init(_ conditions: LinkConditions, seed: UInt64, headerLength: Int, start: Instant) {
    self.conditions = conditions
    self.start = start
    self.headerLength = headerLength
    random = SeededRandom(seed: seed)
  }

  private mutating func chance(_ probability: Double) -> Bool {
    probability > 0 && Double(random.next() >> 11) < probability * Double(UInt64(1) << 53)
  }

  private mutating func upTo(_ interval: Interval) -> Interval {
    interval.nanoseconds <= 0
      ? .zero : Interval(nanoseconds: Int64(random.next() % UInt64(interval.nanoseconds + 1)))
  }

  /// Takes a frame at `now`; calls `deliver` for each copy that arrives, with the time at which it does.
  package mutating func send(_ frame: Frame, now: Instant, deliver: (Instant, Frame) -> Void) {
    counters.sent += 1
    guard let departure = enqueue(frame.bytes.count, now) else {
      counters.queueDrops += 1
      return
    }
    if isLost(now) || conditions.largest.map({ frame.bytes.count > $0 }) ?? false {
      counters.lost += 1
      return
    }
    var frame = frame
    if chance(conditions.corrupt) { corrupt(&frame) }
    let copies = chance(conditions.duplicate) ? 2 : 1
    if copies == 2 { counters.duplicated += 1 }
    for _ in 0..<copies {
      var arrival = departure + conditions.delay + upTo(conditions.jitter)
      if chance(conditions.reorder) {
        arrival = arrival + conditions.reorderDelay
        counters.reordered += 1
      } else {
        arrival = max(arrival, lastArrival)
        lastArrival = arrival
      }
      counters.delivered += 1
      if frame.isCorrupted { counters.corrupted += 1 }
      deliver(arrival, frame)
    }
  }

  /// When the last byte has left; nil where the queue is full.
  private mutating func enqueue(_ bytes: Int, _ now: Instant) -> Instant? {
    guard let rate = conditions.rate else { return now }
    while waitingFirst < waiting.count, waiting[waitingFirst].departure <= now {
      waitingBytes -= waiting[waitingFirst].bytes
      waitingFirst += 1
    }
    if waitingFirst > 256, waitingFirst * 2 > waiting.count {
      waiting.removeFirst(waitingFirst)
      waitingFirst = 0
    }
    guard waiting.count - waitingFirst < conditions.queuePackets, waitingBytes + bytes <= conditions.queueBytes else {
      return nil
    }
    let time = Interval(nanoseconds: Int64(bytes) * 1_000_000_000 / Int64(rate))
    freeAt = max(freeAt, now) + time
    waiting.append((freeAt, bytes))
    waitingBytes += bytes
    return freeAt
  }

  private mutating func isLost(_ now: Instant) -> Bool {
    if let outage = conditions.outage, now - start >= outage.after, now - start < outage.after + outage.length {
      return true
    }
    if now - lastSentAt > .seconds(1) { inBurst = false }
    lastSentAt = now
    if inBurst {
      if chance(conditions.burstEnd) { inBurst = false }
    } else if chance(conditions.burstBegin) {
      inBurst = true
    }
    return chance(conditions.loss) || inBurst
  }

  /// Changes one byte of an IP packet: what one's complement sums are sure to find. ARP and IPv6's header have no checksum, so they
  /// are spared; so is what IPv6 sends to groups, as hosts that are not in them never look at the checksum.
  private mutating func corrupt(_ frame: inout Frame) {
    guard !frame.isVerified, frame.bytes.count > headerLength + 20 else { return }
    var covered = headerLength
    if frame.bytes[headerLength] >> 4 == 6 {
      covered += 40
      if frame.bytes.count <= covered || frame.bytes[headerLength + 24] == 0xff { return }
    } else if headerLength > 0, frame.bytes[12] != 0x08 || frame.bytes[13] != 0x00 {
      return
    }
    let at = covered + random.below(frame.bytes.count - covered)
    frame.bytes[at] ^= UInt8(1 + random.below(255))
    frame.isCorrupted = true
  }
}
