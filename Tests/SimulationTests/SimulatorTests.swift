// The simulator itself: links do what they say, the monitor sees what is wrong.

import Netstack
import Testing
import Wire

@testable import Simulation

@Suite("Simulated link")
struct LinkTests {
  private func run(
    _ conditions: LinkConditions, frames: Int, bytes: Int = 1000, spacing: Interval = .milliseconds(1), seed: UInt64 = 1
  )
    -> (arrivals: [(Instant, UInt8)], counters: LinkCounters)
  {
    var link = Link(conditions, seed: seed, headerLength: 14, start: .zero)
    var arrivals: [(Instant, UInt8)] = []
    for i in 0..<frames {
      var frame = Frame(bytes: [UInt8](repeating: 0, count: bytes))
      frame.bytes[0] = UInt8(truncatingIfNeeded: i)
      frame.bytes[12] = 8
      link.send(frame, now: .zero + spacing * i) { arrivals.append(($0, $1.bytes[0])) }
    }
    return (arrivals, link.counters)
  }

  @Test("Rate and delay")
  func rate() {
    let (arrivals, _) = run(.clean(rate: 1_000_000, delay: .milliseconds(10)), frames: 3, spacing: .zero)
    #expect(arrivals.map(\.0) == [11, 12, 13].map { .zero + .milliseconds($0) })
  }

  @Test("A full queue loses what comes last")
  func queue() {
    var conditions = LinkConditions.clean(rate: 1_000_000, delay: .zero)
    conditions.queuePackets = 5
    let (arrivals, counters) = run(conditions, frames: 8, spacing: .zero)
    #expect(arrivals.map(\.1) == [0, 1, 2, 3, 4] && counters.queueDrops == 3)
    conditions.queuePackets = 100
    conditions.queueBytes = 2500
    #expect(run(conditions, frames: 8, spacing: .zero).counters.queueDrops == 6)
    #expect(run(conditions, frames: 8, spacing: .milliseconds(2)).counters.queueDrops == 0)
  }

  @Test("Jitter keeps the order, reordering does not")
  func order() {
    var conditions = LinkConditions.clean(rate: nil, delay: .milliseconds(5))
    conditions.jitter = .milliseconds(20)
    let jittered = run(conditions, frames: 100).arrivals
    #expect(jittered.map(\.0) == jittered.map(\.0).sorted())
    conditions.jitter = .zero
    conditions.reorder = 0.2
    conditions.reorderDelay = .milliseconds(5)
    let reordered = run(conditions, frames: 100)
    let byTime = reordered.arrivals.sorted { $0.0 < $1.0 }.map(\.1)
    #expect(byTime != byTime.sorted() && reordered.counters.reordered > 5)
  }

  @Test("Chances are met", arguments: [0.01, 0.1, 0.5])
  func chances(p: Double) {
    let n = 20_000
    let tolerance = 5 * (p * (1 - p) * Double(n)).squareRoot()
    var conditions = LinkConditions()
    conditions.loss = p
    #expect(abs(Double(run(conditions, frames: n).counters.lost) - p * Double(n)) < tolerance)
    conditions.loss = 0
    conditions.duplicate = p
    #expect(abs(Double(run(conditions, frames: n).counters.duplicated) - p * Double(n)) < tolerance)
    conditions.duplicate = 0
    conditions.corrupt = p
    #expect(abs(Double(run(conditions, frames: n).counters.corrupted) - p * Double(n)) < tolerance)
  }

  @Test("Bursts have the length they should")
  func bursts() {
    var conditions = LinkConditions()
    conditions.burstBegin = 0.01
    conditions.burstEnd = 0.25
    let n = 50_000
    let lost = run(conditions, frames: n).counters.lost
    // 0.01 / (0.01 + 0.25) of the time.
    #expect(abs(Double(lost) / Double(n) - 0.01 / 0.26) < 0.008)
  }

  @Test("Nothing passes during an outage")
  func outage() {
    var conditions = LinkConditions()
    conditions.outage = (.milliseconds(10), .milliseconds(20))
    #expect(run(conditions, frames: 50).arrivals.map(\.1) == Array(0..<10) + Array(30..<50))
  }

  @Test("The link header and ARP are not corrupted")
  func sparedBytes() {
    var conditions = LinkConditions()
    conditions.corrupt = 1
    var link = Link(conditions, seed: 1, headerLength: 14, start: .zero)
    for etherType: UInt8 in [0, 6] {
      for _ in 0..<500 {
        var frame = Frame(bytes: [UInt8](repeating: 0, count: 60))
        frame.bytes[12] = 8
        frame.bytes[13] = etherType
        link.send(frame, now: .zero) { _, arrived in
          #expect(Array(arrived.bytes[..<14]) == Array(frame.bytes[..<14]))
          #expect(arrived.isCorrupted == (etherType == 0))
          #expect((arrived.bytes != frame.bytes) == (etherType == 0))
        }
      }
    }
  }
}

@Suite("Frames over IPv6")
struct IPv6FrameTests {
  /// A TCP segment over IPv6 as a stack would hand it over, its checksum left undone.
  private func superFrame(linkHeader: Int, payload: Int) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: linkHeader + 40 + 32 + payload)
    for i in 0..<payload { bytes[linkHeader + 72 + i] = UInt8(truncatingIfNeeded: i &* 7) }
    bytes.withUnsafeMutableBytes {
      let base = $0.baseAddress!
      if linkHeader > 0 {
        EthernetHeader(destination: .zero, source: .zero, etherType: EtherType.ipv6).write(to: base)
      }
      let (here, there) = (IPAddress(high: 0x2001_0db8 << 32, low: 4), IPAddress(high: 0x2001_0db8 << 32, low: 5))
      IPv6Header(nextHeader: 6, source: here, destination: there, payloadLength: 32 + payload).write(
        to: base + linkHeader)
      TCPHeader(
        sourcePort: 1, destinationPort: 2, sequence: SequenceNumber(0xffff_fff0), acknowledgment: SequenceNumber(9),
        headerLength: 32, flags: [.ack, .psh, .fin], window: 500
      ).write(to: base + linkHeader + 40)
    }
    return bytes
  }

  @Test(
    "Segments cut by the device are whole packets with right lengths, sequence numbers and checksums",
    arguments: [0, 14])
  func segmentation(linkHeader: Int) throws {
    let whole = superFrame(linkHeader: linkHeader, payload: 3001)
    let segments = Offload.segment(whole, transport: linkHeader + 40, size: 1000, isIPv6: true)
    #expect(segments.count == 4)
    var payload: [UInt8] = []
    for (i, bytes) in segments.enumerated() {
      let segment = try #require(WireSegment(bytes, linkHeader: linkHeader))
      let ip = try #require(bytes[linkHeader...].withUnsafeBytes { IPv6Header(quoted: $0) })
      #expect(ip.payloadLength == bytes.count - linkHeader - 40)
      #expect(segment.tcp.sequence == SequenceNumber(0xffff_fff0) + 1000 * i)
      #expect(segment.tcp.flags.contains(.fin) == (i == 3) && segment.tcp.flags.contains(.psh) == (i == 3))
      let pseudo = Checksum.pseudoHeader(
        source: ip.source, destination: ip.destination, proto: 6, length: ip.payloadLength)
      let sum = bytes[(linkHeader + 40)...].withUnsafeBytes { Checksum.fold(Checksum.sum($0, pseudo)) }
      #expect(sum == 0xffff)
      payload += bytes[segment.payload]
    }
    #expect(payload == Array(whole[(linkHeader + 72)...]))
  }

  @Test("A segment is decoded by its family; what is none is not")
  func decoding() throws {
    let bytes = superFrame(linkHeader: 14, payload: 10)
    let segment = try #require(WireSegment(bytes, linkHeader: 14))
    #expect(segment.source == IPAddress(high: 0x2001_0db8 << 32, low: 4) && segment.destination.low == 5)
    #expect(segment.payload == 86..<96)
    var other = bytes
    other[13] = 0x00
    #expect(WireSegment(other, linkHeader: 14) == nil)
    other = bytes
    other[12] = 8
    other[13] = 0
    #expect(WireSegment(other, linkHeader: 14) == nil, "IPv6 in a frame of IPv4")
    other = bytes
    other[14 + 6] = 17
    #expect(WireSegment(other, linkHeader: 14) == nil)
  }

  @Test("Only what a checksum covers is damaged", arguments: [0, 14])
  func corruption(linkHeader: Int) {
    var conditions = LinkConditions()
    conditions.corrupt = 1
    var link = Link(conditions, seed: 1, headerLength: linkHeader, start: .zero)
    let bytes = superFrame(linkHeader: linkHeader, payload: 10)
    for _ in 0..<300 {
      link.send(Frame(bytes: bytes), now: .zero) { _, arrived in
        #expect(arrived.isCorrupted && arrived.bytes[..<(linkHeader + 40)] == bytes[..<(linkHeader + 40)])
        #expect(arrived.bytes != bytes)
      }
    }
    var group = bytes
    group[linkHeader + 24] = 0xff
    link.send(Frame(bytes: group), now: .zero) { _, arrived in #expect(!arrived.isCorrupted) }
  }
}

@Suite("Simulated world")
struct WorldTests {
  private final class Recorder: Program {
    var log: [Int] = []
    let id: Int
    let shared: Log
    final class Log { var entries: [Int] = [] }
    init(_ id: Int, _ shared: Log) {
      self.id = id
      self.shared = shared
    }
    func ready(_ socket: SocketHandle, _ events: Readiness, on host: Host) {}
    func timer(on host: Host) { shared.entries.append(id) }
  }

  @Test("Events come by time, and by scheduling where the time is the same")
  func order() {
    let world = World(now: .zero)
    let host = Host("A", StackConfiguration(), device: DeviceConditions(), seed: 1, world: world)
    let log = Recorder.Log()
    var random = SeededRandom(seed: 1)
    var expected: [(time: Int, id: Int)] = []
    for id in 0..<300 {
      let time = random.below(50)
      expected.append((time, id))
      host.wake(Recorder(id, log), at: .zero + .milliseconds(time))
    }
    world.run(until: .zero + .seconds(1))
    #expect(log.entries == expected.sorted { ($0.time, $0.id) < ($1.time, $1.id) }.map(\.id))
    #expect(world.now >= .zero + .milliseconds(49))
  }
}

@Suite("Monitor")
struct MonitorTests {
  fileprivate final class Bench {
    let world = World(now: .zero + .seconds(1))
    let monitor = Monitor(linkHeader: 0, traceCapacity: 100)
    let a: Host
    let b: Host

    init() {
      func host(_ name: String, _ last: UInt8, _ world: World) -> Host {
        var configuration = StackConfiguration()
        configuration.device.linkType = .ip
        configuration.address = IPv4Address(198, 18, 0, last)
        return Host(name, configuration, device: DeviceConditions(), seed: 1, world: world)
      }
      a = host("A", 4, world)
      b = host("B", 5, world)
    }

    /// A segment from one host, which the other one gets.
    func pass(
      _ fromA: Bool, _ flags: TCPFlags, seq: Int, ack: Int = 0, window: UInt16 = 1000, length: Int = 0,
      delivered: Bool = true, _ change: (inout TCPOptions) -> Void = { _ in }
    ) {
      var options = TCPOptions()
      if flags.contains(.syn) { options.maximumSegmentSize = 1200 }
      change(&options)
      let headerLength = 20 + options.encodedLength
      let (from, to) = fromA ? (a, b) : (b, a)
      let header = IPv4Header(
        proto: IPProtocol.tcp, source: from.address, destination: to.address, payloadLength: headerLength + length)
      var bytes = [UInt8](repeating: 0, count: header.totalLength)
      bytes.withUnsafeMutableBytes {
        header.write(to: $0.baseAddress!)
        TCPHeader(
          sourcePort: fromA ? 1 : 2, destinationPort: fromA ? 2 : 1,
          sequence: SequenceNumber((fromA ? 5000 : 0xffff_ff00) &+ UInt32(seq)),
          acknowledgment: SequenceNumber((fromA ? 0xffff_ff00 : 5000) &+ UInt32(ack)), headerLength: headerLength,
          flags: flags, window: window
        ).write(to: $0.baseAddress! + 20)
        options.write(to: $0.baseAddress! + 40)
      }
      let frame = Frame(bytes: bytes)
      monitor.sent(frame, by: from)
      if delivered { monitor.received(frame, by: to) }
    }

    func handshake() {
      pass(true, .syn, seq: 0)
      pass(false, [.syn, .ack], seq: 0, ack: 1)
      pass(true, .ack, seq: 1, ack: 1)
    }
  }

  private func failure(_ body: (Bench) -> Void) -> String? {
    let bench = Bench()
    bench.handshake()
    #expect(bench.world.failure == nil)
    body(bench)
    return bench.world.failure
  }

  @Test("A well-behaved conversation passes")
  func good() {
    let problem = failure {
      $0.pass(true, .ack, seq: 1, ack: 1, length: 500)
      $0.pass(true, .ack, seq: 501, ack: 1, length: 100, delivered: false)
      $0.pass(true, .ack, seq: 601, ack: 1, length: 300)
      $0.pass(false, .ack, seq: 1, ack: 501, window: 500) {
        $0.sack.append(SACKBlock(start: SequenceNumber(5601), end: SequenceNumber(5901)))
      }
      $0.pass(true, .ack, seq: 501, ack: 1, length: 100)
      $0.pass(false, .ack, seq: 1, ack: 901, window: 100)
      $0.pass(true, [.ack, .fin], seq: 901, ack: 1, length: 50)
      $0.pass(false, [.ack, .fin], seq: 1, ack: 952, window: 50)
      $0.pass(true, .ack, seq: 952, ack: 2)
    }
    #expect(problem == nil)
  }

  @Test("Each breach is seen")
  func breaches() {
    let breaches: [(String, (Bench) -> Void)] = [
      ("window's edge", { $0.pass(true, .ack, seq: 1, ack: 1, length: 1001) }),
      ("has reached it", { $0.pass(false, .ack, seq: 1, ack: 2) }),
      (
        "has reached it",
        {
          $0.pass(true, .ack, seq: 1, ack: 1, length: 100, delivered: false)
          $0.pass(false, .ack, seq: 1, ack: 101)
        }
      ),
      (
        "acknowledgment back",
        {
          $0.pass(true, .ack, seq: 1, ack: 1, length: 100)
          $0.pass(false, .ack, seq: 1, ack: 101)
          $0.pass(false, .ack, seq: 1, ack: 51)
        }
      ),
      ("shrinks its window", { $0.pass(false, .ack, seq: 1, ack: 1, window: 999) }),
      (
        "peer's MSS",
        {
          $0.pass(false, .ack, seq: 1, ack: 1, window: 2000)
          $0.pass(true, .ack, seq: 1, ack: 1, length: 1201)
        }
      ),
      (
        "behind its FIN",
        {
          $0.pass(true, [.ack, .fin], seq: 1, ack: 1)
          $0.pass(true, .ack, seq: 1, ack: 1, length: 10)
        }
      ),
      (
        "moves its FIN",
        {
          $0.pass(true, [.ack, .fin], seq: 1, ack: 1, length: 10)
          $0.pass(true, [.ack, .fin], seq: 1, ack: 1, length: 9)
        }
      ),
      (
        "has not reached it",
        {
          $0.pass(false, .ack, seq: 1, ack: 1) {
            $0.sack.append(SACKBlock(start: SequenceNumber(5100), end: SequenceNumber(5200)))
          }
        }
      ),
      (
        "empty SACK block",
        {
          $0.pass(false, .ack, seq: 1, ack: 1) {
            $0.sack.append(SACKBlock(start: SequenceNumber(5100), end: SequenceNumber(5100)))
          }
        }
      ),
      (
        "never had a SYN",
        { bench in
          bench.monitor.sent(Frame(bytes: bench.strayACK()), by: bench.a)
        }
      ),
      ("without ACK", { $0.pass(true, [], seq: 1, length: 5) }),
      ("larger than the MTU", { $0.monitor.sent(Frame(bytes: [UInt8](repeating: 0, count: 1501)), by: $0.a) }),
    ]
    for (words, breach) in breaches {
      let found = failure(breach)
      #expect(found?.contains(words) == true, "expected '\(words)', found \(found ?? "nothing")")
    }
  }

  @Test("RFC 7323: a segment without timestamps, and a clock that goes backwards")
  func timestamps() {
    for (value, present, words) in [(UInt32(5), true, "backwards"), (20, false, "without timestamps")] {
      let bench = Bench()
      func stamp(_ value: UInt32) -> (inout TCPOptions) -> Void {
        {
          $0.hasTimestamp = true; $0.timestampValue = value
        }
      }
      bench.pass(true, .syn, seq: 0, stamp(10))
      bench.pass(false, [.syn, .ack], seq: 0, ack: 1, stamp(1))
      bench.pass(true, .ack, seq: 1, ack: 1, stamp(12))
      #expect(bench.world.failure == nil)
      bench.pass(true, .ack, seq: 1, ack: 1, length: 5) { if present { stamp(value)(&$0) } }
      #expect(bench.world.failure?.contains(words) == true)
    }
  }

  @Test("Wrong bytes are seen where they are sent")
  func wrongBytes() {
    let bench = Bench()
    let pattern = Pattern(seed: 9)
    bench.monitor.pattern = { _, _, _ in pattern }
    bench.handshake()
    bench.pass(true, .ack, seq: 1, ack: 1, length: 100)
    #expect(bench.world.failure?.contains("wrong bytes") == true)
  }
}

extension MonitorTests.Bench {
  /// An acknowledgment from a port that nobody opened.
  fileprivate func strayACK() -> [UInt8] {
    let header = IPv4Header(proto: IPProtocol.tcp, source: a.address, destination: b.address, payloadLength: 20)
    var bytes = [UInt8](repeating: 0, count: 40)
    bytes.withUnsafeMutableBytes {
      header.write(to: $0.baseAddress!)
      TCPHeader(
        sourcePort: 77, destinationPort: 2, sequence: SequenceNumber(1), acknowledgment: SequenceNumber(1),
        headerLength: 20, flags: .ack, window: 1
      ).write(to: $0.baseAddress! + 20)
    }
    return bytes
  }
}
