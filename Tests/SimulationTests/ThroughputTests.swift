// How fast, and how well behaved: floors for throughput, and what must not be needed on a good path.

import Netstack
import Simulation
import Testing

@Suite("Throughput")
struct ThroughputTests {
  /// 20 Mbit/s, so that a debug build gets through.
  private let rate = 2_500_000

  @Test(
    "A clean path is filled, whatever its length", arguments: [1, 20, 100, 200], CongestionAlgorithm.allCases)
  func clean(roundTripMilliseconds: Int, algorithm: CongestionAlgorithm) {
    // Enough bytes that slow start is a small part: forty round trips' worth of the line.
    let roundTrip = Interval.milliseconds(roundTripMilliseconds)
    let bytes = min(max(1_000_000, rate * roundTripMilliseconds * 40 / 1000), 5_000_000)
    let plan = Throughput.plan(
      bytes: bytes, rate: rate, roundTrip: roundTrip, loss: 0, algorithm: algorithm, seed: 1)
    let (megabits, outcome) = Throughput.measure(plan)
    #expect(outcome.failure == nil)
    #expect(outcome.client[.tcpTimeouts] == 0)
    #expect(megabits > (roundTripMilliseconds > 100 ? 8 : 14), "\(megabits) of 20 Mbit/s")
  }

  @Test("RFC 8985: single losses are repaired without a time-out", arguments: 1...5)
  func fewLosses(seed: UInt64) {
    let plan = Throughput.plan(
      bytes: 1_500_000, rate: rate, roundTrip: .milliseconds(20), loss: 0.002, algorithm: .cubic, seed: seed)
    let (_, outcome) = Throughput.measure(plan)
    #expect(outcome.failure == nil)
    #expect(outcome.client[.tcpTimeouts] == 0)
    // Retransmitted: what was lost, and hardly more.
    #expect(Int(outcome.client[.tcpRetransSegs]) <= outcome.out.lost + outcome.out.queueDrops + 3)
  }

  @Test("RFC 8985 §6.2: reordering within a quarter of the round trip costs no window", arguments: 1...3)
  func reordering(seed: UInt64) {
    var plan = Throughput.plan(
      bytes: 2_000_000, rate: rate, roundTrip: .milliseconds(40), loss: 0, algorithm: .cubic, seed: seed)
    plan.links.out.reorder = 0.05
    plan.links.out.reorderDelay = .milliseconds(4)
    let (megabits, outcome) = Throughput.measure(plan)
    #expect(outcome.failure == nil)
    #expect(megabits > 8, "\(megabits) of 20 Mbit/s")
  }

  @Test("More loss is slower, and never a standstill")
  func ordered() {
    var last = Double.infinity
    for loss in [0, 0.01, 0.1] {
      let plan = Throughput.plan(
        bytes: 400_000, rate: rate, roundTrip: .milliseconds(30), loss: loss, algorithm: .cubic, seed: 3)
      let (megabits, outcome) = Throughput.measure(plan)
      #expect(outcome.failure == nil)
      #expect(megabits < last && megabits > 0.1)
      last = megabits
    }
  }
}
