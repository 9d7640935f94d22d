// Owns: rules of TCP that can be checked from outside, on every segment of a run: what a host sends is judged by what it has
// sent and received before. Read first: RFC 9293 §3.4, §3.8; RFC 7323 §2–§5; RFC 2018 §3–§4, RFC 2883.

import Netstack
import Wire

package final class Monitor: Observer {
  private struct Direction: Hashable {
    var source: IPAddress
    var destination: IPAddress
    var sourcePort: UInt16
    var destinationPort: UInt16
    var reversed: Direction {
      Direction(
        source: destination, destination: source, sourcePort: destinationPort, destinationPort: sourcePort)
    }
  }

  /// What is known of one direction of a connection. Positions count from the ISS: the SYN is 0, the first byte 1.
  private struct Half {
    var initial: UInt32
    /// The initial sequence number of the connection before, where this one took its name over.
    var replaced: UInt32?
    var maximumSegment = 536
    var shift: Int?
    var sackPermitted = false
    var timestamps = false
    var isReset = false
    /// Position behind the last byte or FIN sent.
    var sentEnd = 1
    var finPosition: Int?
    /// Farthest the receiver has let us send, by segments that reached us; nil before the first.
    var allowedEnd: Int?
    /// What has reached the other host: position behind the in-order part, and islands beyond.
    var deliveredEnd = 0
    var islands: [Range<Int>] = []
    var deliveredFin = false
    /// What we, as a receiver, have told: last acknowledgment and farthest window edge, positions of the other direction.
    var acknowledged = 0
    var edge = 0
    var timestamp: UInt32?

    func position(_ sequence: SequenceNumber) -> Int { Int(Int32(bitPattern: sequence.value &- initial)) }

    mutating func deliver(_ range: Range<Int>) {
      guard !range.isEmpty else { return }
      if range.lowerBound <= deliveredEnd {
        deliveredEnd = max(deliveredEnd, range.upperBound)
      } else {
        islands.append(range)
        islands.sort { $0.lowerBound < $1.lowerBound }
      }
      while let next = islands.first, next.lowerBound <= deliveredEnd {
        deliveredEnd = max(deliveredEnd, next.upperBound)
        islands.removeFirst()
      }
      var merged: [Range<Int>] = []
      for island in islands {
        if let last = merged.last, last.upperBound >= island.lowerBound {
          merged[merged.count - 1] = last.lowerBound..<max(last.upperBound, island.upperBound)
        } else {
          merged.append(island)
        }
      }
      islands = merged
    }

    func hasDelivered(_ range: Range<Int>) -> Bool {
      range.upperBound <= deliveredEnd
        || islands.contains { $0.lowerBound <= range.lowerBound && range.upperBound <= $0.upperBound }
    }
  }

  private let linkHeader: Int
  private var halves: [Direction: Half] = [:]
  package let trace: Trace
  /// What the sender of a direction sends; nil where nobody knows.
  package var pattern: (_ from: Host, _ localPort: UInt16, _ remotePort: UInt16) -> Pattern? = { _, _, _ in nil }
  package private(set) var segments = 0

  package init(linkHeader: Int, traceCapacity: Int) {
    self.linkHeader = linkHeader
    trace = Trace(linkHeader: linkHeader, capacity: traceCapacity)
  }

  private func direction(_ segment: WireSegment) -> Direction {
    Direction(
      source: segment.source, destination: segment.destination, sourcePort: segment.tcp.sourcePort,
      destinationPort: segment.tcp.destinationPort)
  }

  // MARK: What leaves a host

  package func sent(_ frame: Frame, by host: Host) {
    trace.note(frame, host, sent: true)
    if frame.bytes.count - linkHeader > host.stack.device.mtu, frame.segmentSize == 0 {
      host.world.fail("\(host.name): a frame of \(frame.bytes.count) bytes is larger than the MTU")
    }
    guard let segment = WireSegment(frame.bytes, linkHeader: linkHeader) else { return }
    segments += 1
    let key = direction(segment)
    if segment.tcp.flags.contains(.rst) {
      halves[key]?.isReset = true
      return
    }
    if segment.tcp.flags.contains(.syn) { noteSYN(segment, key) }
    guard var half = halves[key] else {
      return host.world.fail("\(host.name): sent a segment of a connection that never had a SYN")
    }
    if let problem = judge(segment, &half, halves[key.reversed], frame, host, key) {
      host.world.fail("\(host.name): \(problem)")
    }
    halves[key] = half
  }

  private func noteSYN(_ segment: WireSegment, _ key: Direction) {
    let initial = segment.tcp.sequence.value
    if let known = halves[key], known.initial == initial { return }
    var half = Half(initial: initial)
    half.replaced = halves[key]?.initial
    half.maximumSegment = Int(segment.options.maximumSegmentSize ?? 536)
    half.shift = segment.options.windowScale.map(Int.init)
    half.sackPermitted = segment.options.sackPermitted
    half.timestamps = segment.options.hasTimestamp
    halves[key] = half
  }

  private func judge(
    _ segment: WireSegment, _ half: inout Half, _ other: Half?, _ frame: Frame, _ host: Host, _ key: Direction
  ) -> String? {
    let tcp = segment.tcp
    let isSYN = tcp.flags.contains(.syn)
    if let problem = judgeData(segment, &half, other, frame, host, key) { return problem }
    guard tcp.flags.contains(.ack) else {
      return isSYN ? nil : "a segment without ACK after the SYN"
    }
    guard let other else { return "acknowledges a connection that the peer never opened" }
    let timestamps = half.timestamps && other.timestamps
    if timestamps, !segment.options.hasTimestamp { return "RFC 7323 §3.2: a segment without timestamps" }
    if timestamps, let last = half.timestamp, Int32(bitPattern: segment.options.timestampValue &- last) < 0 {
      return "RFC 7323 §5.4: its timestamp clock went backwards"
    }
    half.timestamp = segment.options.timestampValue

    // A late SYN of the old connection has made the peer open anew; TIME-WAIT here answers it with what it knew
    // (RFC 9293 §3.10.7.4, "fourth, check the SYN bit").
    if let replaced = other.replaced,
      Int(Int32(bitPattern: tcp.acknowledgment.value &- replaced)) == half.acknowledged
    {
      return nil
    }
    let acknowledged = other.position(tcp.acknowledgment)
    if acknowledged > other.deliveredEnd {
      return "acknowledges \(acknowledged), but only \(other.deliveredEnd) has reached it"
    }
    if acknowledged < half.acknowledged {
      return "takes an acknowledgment back: \(half.acknowledged), now \(acknowledged)"
    }
    half.acknowledged = acknowledged
    let shift = isSYN || half.shift == nil || other.shift == nil ? 0 : half.shift!
    let edge = acknowledged + Int(tcp.window) << shift
    // After FIN the window means nothing; that of a SYN, unscaled, may not be able to say what an earlier segment said.
    if edge < half.edge, !other.deliveredFin, !isSYN {
      return "RFC 9293 §3.8.6: shrinks its window from \(half.edge) to \(edge)"
    }
    half.edge = max(half.edge, edge)
    return judgeSACK(segment, other, acknowledged)
  }

  private func judgeData(
    _ segment: WireSegment, _ half: inout Half, _ other: Half?, _ frame: Frame, _ host: Host, _ key: Direction
  ) -> String? {
    let tcp = segment.tcp
    let isFIN = tcp.flags.contains(.fin)
    let length = segment.payload.count
    guard length > 0 || isFIN else { return nil }
    let start = half.position(tcp.sequence) + (tcp.flags.contains(.syn) ? 1 : 0)
    let end = start + length
    if length > 0 {
      guard let other else { return "sends data before the peer's SYN" }
      if frame.segmentSize == 0, length + segment.optionLength > other.maximumSegment {
        return
          "RFC 9293 §3.7.1: \(length) bytes and \(segment.optionLength) of options exceed the peer's MSS \(other.maximumSegment)"
      }
      if let allowed = half.allowedEnd, end > allowed {
        return "sends up to \(end), beyond the window's edge \(allowed)"
      }
      if let fin = half.finPosition, end > fin { return "sends data behind its FIN" }
      if start >= 1, let pattern = pattern(host, tcp.sourcePort, tcp.destinationPort) {
        let right = frame.bytes.withUnsafeBytes {
          pattern.matches(UnsafeRawBufferPointer(rebasing: $0[segment.payload]), at: start - 1)
        }
        if !right { return "sends wrong bytes at \(start)" }
      }
    }
    if isFIN {
      if let fin = half.finPosition, fin != end { return "moves its FIN from \(fin) to \(end)" }
      if end < half.sentEnd, half.finPosition == nil { return "sends FIN in the middle of its data" }
      half.finPosition = end
    }
    half.sentEnd = max(half.sentEnd, end + (isFIN ? 1 : 0))
    return nil
  }

  private func judgeSACK(_ segment: WireSegment, _ other: Half, _ acknowledged: Int) -> String? {
    for i in 0..<segment.options.sack.count {
      let block = segment.options.sack[i]
      let range = (other.position(block.start), other.position(block.end))
      guard range.0 < range.1 else { return "RFC 2018 §3: an empty SACK block" }
      guard other.hasDelivered(range.0..<range.1) else {
        return "RFC 2018 §4: SACKs \(range.0):\(range.1), which has not reached it"
      }
      // The first may report a duplicate (RFC 2883 §4).
      if i > 0, range.0 <= acknowledged { return "RFC 2018 §3: SACKs what it acknowledges" }
    }
    return nil
  }

  package func noted(_ event: TraceEvent, by host: Host) { trace.note(event, host) }

  // MARK: What reaches a host

  package func received(_ frame: Frame, by host: Host) {
    trace.note(frame, host, sent: false)
    guard !frame.isCorrupted, let segment = WireSegment(frame.bytes, linkHeader: linkHeader),
      host.stack.addresses.contains(segment.destination)
    else { return }
    let key = direction(segment)
    guard !segment.tcp.flags.contains(.rst), var half = halves[key] else { return }
    let isSYN = segment.tcp.flags.contains(.syn)
    let isFIN = segment.tcp.flags.contains(.fin)
    let start = half.position(segment.tcp.sequence)
    half.deliver(start..<start + segment.payload.count + (isSYN ? 1 : 0) + (isFIN ? 1 : 0))
    if isFIN, half.deliveredEnd == half.finPosition.map({ $0 + 1 }) { half.deliveredFin = true }
    halves[key] = half
    guard segment.tcp.flags.contains(.ack), var back = halves[key.reversed] else { return }
    let shift = isSYN || half.shift == nil || back.shift == nil ? 0 : half.shift!
    let edge = back.position(segment.tcp.acknowledgment) + Int(segment.tcp.window) << shift
    back.allowedEnd = max(back.allowedEnd ?? edge, edge)
    halves[key.reversed] = back
  }
}
