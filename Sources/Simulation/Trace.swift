// Owns: a run as lines like tcpdump's, for people: which frame left or reached which host when. Frames are kept as bytes and
// only turned into text when somebody wants to read them.

import Netstack
import Wire

package final class Trace {
  private struct Record {
    var time: Instant
    var host: String
    var sent: Bool
    var corrupted: Bool
    var head: [UInt8]
    var length: Int
    /// Something inside the stack, rather than a frame.
    var event: TraceEvent?
  }

  private struct Direction: Hashable {
    var source: IPAddress
    var sourcePort: UInt16
    var destinationPort: UInt16
  }

  private let linkHeader: Int
  private let capacity: Int
  private var records: [Record] = []
  private var first = 0
  /// ISS of each direction, to print sequence numbers from zero.
  private var initial: [Direction: UInt32] = [:]
  private var start: Instant?

  package init(linkHeader: Int, capacity: Int) {
    self.linkHeader = linkHeader
    self.capacity = capacity
  }

  func note(_ frame: Frame, _ host: Host, sent: Bool) {
    if start == nil { start = host.now }
    if sent, let segment = WireSegment(frame.bytes, linkHeader: linkHeader), segment.tcp.flags.contains(.syn) {
      initial[Self.direction(segment)] = segment.tcp.sequence.value
    }
    let record = Record(
      time: host.now, host: host.name, sent: sent, corrupted: frame.isCorrupted,
      head: Array(frame.bytes.prefix(linkHeader + 120)), length: frame.bytes.count)
    append(record)
  }

  /// Segments are seen as frames already; what else the stack tells is noted in between.
  func note(_ event: TraceEvent, _ host: Host) {
    if event.kind == .segmentIn || event.kind == .segmentOut { return }
    append(
      Record(time: event.time, host: host.name, sent: false, corrupted: false, head: [], length: 0, event: event))
  }

  private func append(_ record: Record) {
    if records.count < capacity {
      records.append(record)
    } else {
      records[first] = record
      first = (first + 1) % capacity
    }
  }

  private static func direction(_ segment: WireSegment) -> Direction {
    Direction(
      source: segment.source, sourcePort: segment.tcp.sourcePort, destinationPort: segment.tcp.destinationPort)
  }

  private static func reverse(_ segment: WireSegment) -> Direction {
    Direction(
      source: segment.destination, sourcePort: segment.tcp.destinationPort, destinationPort: segment.tcp.sourcePort)
  }

  /// The last `count` records, oldest first.
  package func lines(last count: Int) -> [String] {
    let ordered = Array(records[first...] + records[..<first])
    return ordered.suffix(count).map(line)
  }

  private func line(_ record: Record) -> String {
    let micros = (record.time - (start ?? .zero)).microseconds
    let fraction = String(micros % 1_000_000)
    let time = "\(micros / 1_000_000)." + String(repeating: "0", count: 6 - fraction.count) + fraction
    if let event = record.event {
      return "\(time) \(record.host)   \(event.tuple.local.port): \(event.kind) \(event.a) \(event.b)"
    }
    let mark = record.corrupted ? " (corrupted)" : ""
    return "\(time) \(record.host) \(record.sent ? "sends   " : "receives") \(describe(record))\(mark)"
  }

  private func describe(_ record: Record) -> String {
    guard let segment = WireSegment(record.head, linkHeader: linkHeader) else { return describeOther(record) }
    let tcp = segment.tcp
    let base = initial[Self.direction(segment)] ?? 0
    let ackBase = initial[Self.reverse(segment)] ?? 0
    let length = record.length - segment.payload.lowerBound
    var flags = ""
    if tcp.flags.contains(.syn) { flags += "S" }
    if tcp.flags.contains(.fin) { flags += "F" }
    if tcp.flags.contains(.rst) { flags += "R" }
    if tcp.flags.contains(.psh) { flags += "P" }
    if tcp.flags.contains(.ack) { flags += "." }
    let sequence = tcp.sequence.value &- base
    var text = "\(tcp.sourcePort) > \(tcp.destinationPort): Flags [\(flags)], seq \(sequence)"
    if length > 0 { text += ":\(sequence &+ UInt32(length))" }
    if tcp.flags.contains(.ack) { text += ", ack \(tcp.acknowledgment.value &- ackBase)" }
    text += ", win \(tcp.window)\(describe(segment.options, ackBase)), length \(length)"
    return text
  }

  private func describe(_ options: TCPOptions, _ ackBase: UInt32) -> String {
    var parts: [String] = []
    if let mss = options.maximumSegmentSize { parts.append("mss \(mss)") }
    if options.sackPermitted { parts.append("sackOK") }
    if options.hasTimestamp { parts.append("TS val \(options.timestampValue) ecr \(options.timestampEcho)") }
    if let shift = options.windowScale { parts.append("wscale \(shift)") }
    if options.sack.count > 0 {
      let blocks = (0..<options.sack.count).map {
        "{\(options.sack[$0].start.value &- ackBase):\(options.sack[$0].end.value &- ackBase)}"
      }
      parts.append("sack \(options.sack.count) \(blocks.joined())")
    }
    return parts.isEmpty ? "" : ", options [\(parts.joined(separator: ","))]"
  }

  private func describeOther(_ record: Record) -> String {
    if linkHeader > 0, record.head.count >= 42, record.head[12] == 0x08, record.head[13] == 0x06 {
      let arp = record.head[14...].withUnsafeBytes { ARPPacket(UnsafeRawBufferPointer(rebasing: $0[...])) }
      guard let arp else { return "ARP, malformed" }
      return arp.operation == ARPPacket.request
        ? "ARP, who has \(Self.text(arp.targetProtocol)) tell \(Self.text(arp.senderProtocol))"
        : "ARP, \(Self.text(arp.senderProtocol)) is at \(String(arp.senderHardware.bits, radix: 16))"
    }
    if let text = describeNeighborMessage(record.head) { return text }
    return "frame of \(record.length) bytes"
  }

  private func describeNeighborMessage(_ head: [UInt8]) -> String? {
    guard head.count > linkHeader + IPv6Header.length, head[linkHeader] >> 4 == 6 else { return nil }
    let type = head[linkHeader + IPv6Header.length]
    guard head[linkHeader + 6] == IPProtocol.icmpv6 else { return nil }
    let body = head[(linkHeader + IPv6Header.length)...]
    let message = body.withUnsafeBytes { NeighborMessage($0) }
    guard let message, type == ICMPv6.neighborSolicitation || type == ICMPv6.neighborAdvertisement else {
      return "ICMP6, type \(type)"
    }
    let hardware = message.hardware.map { String($0.bits, radix: 16) } ?? "an unknown place"
    return message.isSolicitation
      ? "ICMP6, who has \(Self.text(message.target)), asks \(hardware)"
      : "ICMP6, \(Self.text(message.target)) is at \(hardware)"
  }

  /// All eight groups, without the rules for leaving some out.
  private static func text(_ address: IPAddress) -> String {
    [address.high, address.low].flatMap { half in
      [48, 32, 16, 0].map { String(half >> UInt64($0) & 0xffff, radix: 16) }
    }.joined(separator: ":")
  }

  private static func text(_ address: IPv4Address) -> String {
    "\(address.bits >> 24).\(address.bits >> 16 & 255).\(address.bits >> 8 & 255).\(address.bits & 255)"
  }
}
