// Trace events as lines; statistics as lines.

import Netstack
import Testing
import Wire

@testable import Host

private func endpoint(_ last: UInt8, _ port: UInt16) -> Endpoint {
  Endpoint(IPAddress(IPv4Address(198, 18, 0, last)), port)
}

private func line(
  _ category: TraceCategory, _ kind: TraceKind, level: TraceLevel = .debug,
  _ change: (inout TraceEvent) -> Void = { _ in }
) -> String {
  var event = TraceEvent(Instant(nanoseconds: 5_000_000_000), category, level, kind)
  event.tuple = FourTuple(local: endpoint(4, 40912), remote: endpoint(5, 8000))
  change(&event)
  return text { Log.format(event, since: Instant(nanoseconds: 3_765_544_999), to: &$0) }
}

@Suite("The log's lines")
struct LogTests {
  @Test("a SYN going out: seconds, category, level, who to whom, flags, relative numbers")
  func synOut() {
    let said = line(.tcp, .segmentOut) {
      $0.flags = .syn
      $0.window = 64240
    }
    #expect(said == "    1.234455 tcp   debug out 198.18.0.4:40912 > 198.18.0.5:8000 [S] seq 0 win 64240 len 0")
  }

  @Test("data coming in names its sender first, and its range of sequence numbers")
  func dataIn() {
    let said = line(.tcp, .segmentIn, level: .trace) {
      $0.flags = [.psh, .ack]
      $0.sequence = 1
      $0.acknowledgment = 78
      $0.length = 1448
      $0.window = 65160
    }
    #expect(
      said
        == "    1.234455 tcp   trace in  198.18.0.5:8000 > 198.18.0.4:40912 [P.] seq 1:1449 ack 78 win 65160 len 1448")
  }

  @Test(
    "flags as tcpdump writes them",
    arguments: [
      (TCPFlags.syn, "[S]"), ([.syn, .ack], "[S.]"), (.ack, "[.]"), ([.fin, .ack], "[F.]"),
      ([.fin, .psh, .ack], "[FP.]"), (.rst, "[R]"),
      ([.rst, .ack], "[R.]"), ([.psh, .ack, .urg], "[P.U]"), ([.syn, .ece, .cwr], "[SEW]"), ([], "[none]"),
    ] as [(TCPFlags, String)])
  func flags(flags: TCPFlags, written: String) {
    #expect(line(.tcp, .segmentOut) { $0.flags = flags }.contains(" \(written) "))
  }

  @Test("a retransmission says so, a segment that came in with the same mark does not")
  func retransmission() {
    #expect(line(.tcp, .segmentOut) { $0.b = 1 }.hasSuffix(" retransmission"))
    #expect(!line(.tcp, .segmentIn) { $0.b = 1 }.hasSuffix(" retransmission"))
  }

  @Test("the other events")
  func others() {
    let start = "198.18.0.4:40912 > 198.18.0.5:8000"
    #expect(
      line(.tcp, .stateChange) {
        $0.a = Int64(TCPState.synSent.rawValue)
        $0.b = Int64(TCPState.established.rawValue)
      }.hasSuffix("\(start) SYN-SENT -> ESTABLISHED"))
    #expect(
      line(.timer, .retransmissionTimeout) {
        $0.a = 200_000
        $0.b = 2
      }.hasSuffix("\(start) retransmission timeout, RTO 200000 us, back-off 2"))
    #expect(
      line(.arp, .arpRequestOut) {
        $0.a = 0xc612_0004
        $0.b = 0xc612_0005
      }.hasSuffix("arp   debug out who has 198.18.0.5? tell 198.18.0.4"))
    #expect(
      line(.arp, .neighborResolved) {
        $0.tuple.remote = Endpoint(IPAddress(IPv4Address(198, 18, 0, 5)), 0)
        $0.b = 0x0200_5e10_0001
      }.hasSuffix("neighbor 198.18.0.5 is at 02:00:5e:10:00:01"))
    #expect(
      line(.icmp, .icmpIn) {
        $0.a = 3 << 8 | 3
        $0.tuple.local.port = 0
        $0.tuple.remote.port = 0
      }.hasSuffix("in  198.18.0.5 > 198.18.0.4 port unreachable len 0"))
    #expect(
      line(.ip, .drop) {
        $0.a = Int64(DropReason.ipChecksum.rawValue)
        $0.tuple = FourTuple(local: .none, remote: .none)
      }.hasSuffix("drop: ip-checksum"))
  }

  @Test("no event is without words, and none is longer than a line")
  func allKinds() {
    var raw: UInt8 = 0
    while let kind = TraceKind(rawValue: raw) {
      let said = line(.socket, kind, level: .error) {
        $0.tuple = FourTuple(
          local: Endpoint(IPAddress(high: .max, low: .max), .max),
          remote: Endpoint(IPAddress(high: .max, low: .max), .max))
        $0.flags = TCPFlags(rawValue: 255)
        $0.sequence = .max
        $0.acknowledgment = .max
        $0.length = .max
        $0.window = .max
        $0.a = kind == .drop ? 0 : .max
        $0.b = .min
      }
      #expect(said.count > 30, "\(kind)")
      #expect(said.count < 320, "\(kind)")
      raw += 1
    }
    #expect(raw > 20)
  }
}

@Suite("The statistics' lines")
struct StatisticsTests {
  private func lines(
    _ statistics: Statistics, _ calls: DeviceCalls = DeviceCalls(), queueDrops: UInt64? = nil, leftToKeeper: Int = 0
  )
    -> [String]
  {
    var all = ""
    ExitStatistics.format(statistics, calls: calls, queueDrops: queueDrops, leftToKeeper: leftToKeeper, process: 17) {
      all += String(decoding: $0, as: UTF8.self)
    }
    #expect(all.hasSuffix("\n"))
    return all.split(separator: "\n").map(String.init)
  }

  @Test("each line is a name and a number; the core is there even when nothing happened")
  func core() {
    let all = lines(Statistics())
    for line in all {
      let words = line.split(separator: " ", omittingEmptySubsequences: false)
      #expect(words.count == 2 && UInt64(words[1]) != nil, "\(line)")
    }
    #expect(all.first == "Process 17")
    #expect(all.contains("RxFrames 0") && all.contains("TcpRetransSegs 0") && all.contains("Drops 0"))
    #expect(!all.contains { $0.hasPrefix("TcpTimeouts") || $0.hasPrefix("Drop:") })
  }

  @Test("what the keeper has still to send is named, if there is any")
  func keeper() {
    #expect(lines(Statistics(), leftToKeeper: 4711).last == "BytesLeftToKeeper 4711")
    #expect(!lines(Statistics()).contains { $0.hasPrefix("BytesLeftToKeeper") })
  }

  @Test("what happened is there, drops by reason and in sum")
  func counted() {
    var statistics = Statistics()
    statistics.count(.tcpTimeouts, 3)
    statistics[drop: .tcpChecksum] = 2
    statistics[drop: .noBuffer] = 5
    var calls = DeviceCalls()
    calls.readBytes = 1 << 40
    let all = lines(statistics, calls, queueDrops: 9)
    for wanted in [
      "TcpTimeouts 3", "Drop:tcp-checksum 2", "Drop:no-buffer 5", "Drops 7", "DeviceReadBytes 1099511627776",
      "DeviceQueueDrops 9",
    ] {
      #expect(all.contains(wanted), "\(wanted)")
    }
  }

  @Test("all counters at once fit, in whole lines")
  func everything() {
    var statistics = Statistics()
    for counter in Counter.allCases { statistics[counter] = .max }
    for reason in DropReason.allCases { statistics[drop: reason] = 1 }
    let all = lines(statistics)
    #expect(all.count >= Counter.allCases.count + DropReason.allCases.count)
    #expect(all.contains("Drops \(DropReason.allCases.count)"))
  }

  @Test("/proc/net/dev: the frames the kernel dropped on their way to us")
  func queueDrops() {
    let file = """
      Inter-|   Receive                                                |  Transmit
       face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
          lo:    1000      10    0    0    0     0          0         0     1000      10    0    1    0     0       0          0
      anp01:       1       1    0    0    0     0          0         0        1       1    0    2    0     0       0          0
        anp0:     512       4    0    0    0     0          0         0     4096      40    0   37    0     0       0          0

      """
    let bytes = Array(file.utf8)
    bytes.withUnsafeBytes { raw in
      #expect(ExitStatistics.parseQueueDrops(raw, "anp0") == 37)
      #expect(ExitStatistics.parseQueueDrops(raw, "anp01") == 2)
      #expect(ExitStatistics.parseQueueDrops(raw, "anp") == nil)
    }
  }
}
