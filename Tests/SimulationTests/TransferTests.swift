// Whole transfers between two stacks. What every run checks is in Simulation/Transfer.swift and Monitor.swift: each byte,
// the end, nothing left behind, each segment by TCP's rules. A failure prints its seed; `anp-simulate --seed N` repeats it.

import Netstack
import Simulation
import Testing
import Wire

/// Runs a plan; a failure shows what it was about and how it ended.
@discardableResult
func expectSuccess(_ plan: Plan, _ location: SourceLocation = #_sourceLocation) -> Outcome {
  let outcome = Transfer.run(plan, traceLines: 40)
  if let failure = outcome.failure {
    Issue.record(
      "\(plan.description)\n\(failure)\n\(outcome.trace.joined(separator: "\n"))", sourceLocation: location)
  }
  return outcome
}

private func clean(_ out: Int, _ back: Int, delay: Interval = .milliseconds(5), seed: UInt64 = 1) -> Plan {
  var plan = Plan(seed: seed)
  plan.links = (.clean(rate: 12_500_000, delay: delay), .clean(rate: 12_500_000, delay: delay))
  plan.bytes = (out, back)
  return plan
}

@Suite("Transfers over random links")
struct RandomTransferTests {
  @Test("Byte-exact, always ending, leaving nothing behind", arguments: 1...300)
  func random(seed: UInt64) { expectSuccess(Plan.random(seed, scale: 0.3)) }

  @Test("A run is a function of its seed", arguments: [3, 77, 1234])
  func deterministic(seed: UInt64) {
    let first = Transfer.run(Plan.random(seed, scale: 0.2))
    let second = Transfer.run(Plan.random(seed, scale: 0.2))
    #expect(first.segments == second.segments && first.events == second.events)
    #expect(first.duration == second.duration)
    for counter in Counter.allCases {
      #expect(first.client[counter] == second.client[counter] && first.server[counter] == second.server[counter])
    }
  }
}

@Suite("Transfers of every size")
struct SizeTests {
  @Test("One way", arguments: [0, 1, 2, 535, 536, 1447, 1448, 1449, 2896, 14480, 65535, 65536, 1_000_000, 3_000_000])
  func oneWay(bytes: Int) {
    let there = expectSuccess(clean(bytes, 0))
    let back = expectSuccess(clean(0, bytes))
    for outcome in [there, back] {
      #expect(outcome.client[.tcpRetransSegs] == 0 && outcome.server[.tcpRetransSegs] == 0)
    }
  }

  @Test("Both ways at once", arguments: [(0, 0), (1, 1), (10_000, 1), (300_000, 300_000), (1_500_000, 700_000)])
  func bothWays(out: Int, back: Int) { expectSuccess(clean(out, back)) }

  @Test(
    "RFC 9293 §3.6: half-closed by one side, closed by the other, in every combination", arguments: [true, false],
    [true, false])
  func closing(client: Bool, server: Bool) {
    var plan = clean(50_000, 70_000)
    plan.behaviours.client.halfCloses = client
    plan.behaviours.server.halfCloses = server
    let outcome = expectSuccess(plan)
    #expect(outcome.client[.tcpOutRsts] == 0 && outcome.server[.tcpOutRsts] == 0)
  }
}

@Suite("Transfers over bad links")
struct BadLinkTests {
  private func plan(_ out: Int, _ back: Int, seed: UInt64, _ change: (inout LinkConditions) -> Void) -> Plan {
    var plan = clean(out, back, delay: .milliseconds(10), seed: seed)
    change(&plan.links.out)
    change(&plan.links.back)
    return plan
  }

  @Test("Every tenth frame is lost", arguments: 1...6)
  func loss(seed: UInt64) {
    let outcome = expectSuccess(plan(150_000, 60_000, seed: seed) { $0.loss = 0.1 })
    #expect(outcome.out.lost > 0 && outcome.client[.tcpRetransSegs] > 0)
  }

  @Test("Bursts of loss", arguments: 1...6)
  func bursts(seed: UInt64) {
    expectSuccess(
      plan(200_000, 100_000, seed: seed) {
        $0.burstBegin = 0.01
        $0.burstEnd = 0.2
      })
  }

  @Test("Every fifth frame is overtaken", arguments: 1...6)
  func reordering(seed: UInt64) {
    let outcome = expectSuccess(
      plan(400_000, 100_000, seed: seed) {
        $0.reorder = 0.2
        $0.reorderDelay = .milliseconds(3)
      })
    #expect(outcome.server[.tcpOFOQueue] > 0)
  }

  @Test("Every third frame comes twice", arguments: 1...6)
  func duplication(seed: UInt64) {
    let outcome = expectSuccess(plan(400_000, 100_000, seed: seed) { $0.duplicate = 0.3 })
    #expect(outcome.out.duplicated > 0)
    // RFC 2883: the sender hears of it, and does not take it for loss.
    #expect(outcome.client[.tcpDSACKRecv] > 0 && outcome.client[.tcpTimeouts] == 0)
  }

  @Test("Every twentieth frame is damaged: checksums find each one", arguments: 1...6)
  func corruption(seed: UInt64) {
    let outcome = expectSuccess(plan(200_000, 100_000, seed: seed) { $0.corrupt = 0.05 })
    #expect(outcome.out.corrupted > 0)
    #expect(outcome.server[drop: .tcpChecksum] + outcome.server[drop: .ipChecksum] > 0)
  }

  @Test("Everything at once", arguments: 1...12)
  func everything(seed: UInt64) {
    expectSuccess(
      plan(80_000, 80_000, seed: seed) {
        $0.loss = 0.05
        $0.reorder = 0.1
        $0.reorderDelay = .milliseconds(4)
        $0.duplicate = 0.1
        $0.corrupt = 0.05
        $0.jitter = .milliseconds(2)
        $0.queuePackets = 12
      })
  }

  @Test(
    "RFC 4821 §7.7: a path that swallows large packets without a word is found out", arguments: [true, false],
    [600, 1100, 1300])
  func blackHole(ipv6: Bool, largest: Int) {
    // Nothing that IPv6 sends is smaller than 1280 bytes for the path's sake.
    if ipv6, largest < 1280 + EthernetHeader.length { return }
    var plan = clean(300_000, 0)
    plan.isIPv6 = ipv6
    plan.links.out.largest = largest
    let outcome = expectSuccess(plan)
    #expect(outcome.client[.tcpBlackHoles] == (largest < 1024 ? 2 : 1))
    // Three time-outs, and once found the path is used at its pace.
    #expect(outcome.duration < .seconds(largest < 1024 ? 8 : 4), "\(outcome.duration.milliseconds) ms")
    plan.settings.client.tcpMtuProbing = false
    plan.timeLimit = .seconds(60)
    #expect(Transfer.run(plan).failure != nil, "without looking for it nothing gets through")
  }

  @Test("The line goes dead for ten seconds in the middle", arguments: 1...4)
  func outage(seed: UInt64) {
    let outcome = expectSuccess(
      plan(2_000_000, 0, seed: seed) { $0.outage = (.milliseconds(100), .seconds(10)) })
    #expect(outcome.client[.tcpTimeouts] > 0)
    // Exponential back-off: the line is found again within about its own outage after it came back.
    #expect(outcome.duration < .seconds(25))
  }

  @Test("A queue of ten packets in front of a slow line", arguments: [CongestionAlgorithm.reno, .cubic])
  func shortQueue(algorithm: CongestionAlgorithm) {
    var plan = plan(1_000_000, 0, seed: 1) {
      $0.rate = 250_000
      $0.queuePackets = 10
    }
    plan.settings.client.tcpCongestionControl = algorithm
    let outcome = expectSuccess(plan)
    #expect(outcome.out.queueDrops > 0)
    // 4 s at the line's rate.
    #expect(outcome.duration < .seconds(8))
  }
}

@Suite("Transfers with unusual stacks and programs")
struct UnusualTests {
  @Test("RFC 9293 §3.5: both sides open at the same time", arguments: 1...6)
  func simultaneousOpen(seed: UInt64) {
    var plan = clean(100_000, 100_000, seed: seed)
    plan.simultaneousOpen = true
    if seed > 3 {
      plan.links.out.loss = 0.1
      plan.links.back.loss = 0.1
    }
    expectSuccess(plan)
  }

  @Test("RFC 9293 §3.8.6.1: a reader that sleeps closes the window, probes keep the connection alive")
  func slowReader() {
    var plan = clean(600_000, 0)
    plan.behaviours.server.readBurst = 100_000
    plan.behaviours.server.readPause = .seconds(3)
    plan.behaviours.server.options = [(.receiveBuffer, 8192)]
    plan.listenerOptions = plan.behaviours.server.options
    let outcome = expectSuccess(plan)
    #expect(outcome.client[.tcpZeroWindowProbes] > 0)
    #expect(outcome.client[.tcpTimeouts] == 0)
  }

  @Test("A window update that is lost is made up for by a probe", arguments: 1...5)
  func lostWindowUpdate(seed: UInt64) {
    var plan = clean(300_000, 0, seed: seed)
    plan.behaviours.server.readBurst = 20_000
    plan.behaviours.server.readPause = .seconds(1)
    plan.behaviours.server.options = [(.receiveBuffer, 4096)]
    plan.listenerOptions = plan.behaviours.server.options
    plan.links.back.loss = 0.3
    expectSuccess(plan)
  }

  @Test("Features off, one by one and all together", arguments: 0..<32)
  func features(bits: Int) {
    var plan = clean(300_000, 50_000, seed: UInt64(bits))
    plan.links.out.loss = 0.02
    plan.links.back.loss = 0.02
    func set(_ settings: inout Settings) {
      settings.tcpSack = bits & 1 == 0
      settings.tcpTimestamps = bits & 2 == 0
      settings.tcpWindowScaling = bits & 4 == 0
      settings.tcpRecovery = bits & 8 == 0 ? 1 : 0
      settings.tcpEarlyRetrans = bits & 8 == 0 ? 3 : 0
    }
    set(&plan.settings.client)
    // Both without, or only one.
    if bits & 16 == 0 { set(&plan.settings.server) }
    expectSuccess(plan)
  }

  @Test(
    "RFC 9293 §3.7.1: from the smallest MTU to jumbo frames", arguments: [68 + 40, 296, 576, 1280, 1500, 9000, 65535])
  func mtu(bytes: Int) {
    var plan = clean(200_000, 200_000)
    plan.capabilities.client.mtu = bytes
    plan.capabilities.server.mtu = bytes
    expectSuccess(plan)
    plan.ethernet = false
    expectSuccess(plan)
  }

  @Test("RFC 6691: two hosts of different MTU agree on the smaller segment")
  func differentMTU() {
    var plan = clean(200_000, 200_000)
    plan.capabilities.client.mtu = 9000
    plan.capabilities.server.mtu = 1500
    let outcome = expectSuccess(plan)
    #expect(outcome.information.sendMSS == 1448)
  }

  @Test(
    "Segmentation and checksums by the device, cut on the wire or passed on whole", arguments: [true, false],
    [true, false])
  func offloads(segmentation: Bool, whole: Bool) {
    var plan = clean(2_000_000, 500_000)
    for offload in [\Plan.capabilities.client, \Plan.capabilities.server] {
      plan[keyPath: offload].checksumOffload = true
      plan[keyPath: offload].tcpSegmentation4 = segmentation
    }
    plan.devices.client.passesSuperFrames = whole
    plan.devices.server.passesSuperFrames = whole
    if !whole { plan.links.out.loss = 0.005 }
    let outcome = expectSuccess(plan)
    if segmentation, whole { #expect(outcome.client[.txFrames] < outcome.client[.tcpOutSegs] / 4) }
  }

  @Test(
    "IPv6: segmentation and checksums by the device or not, with and without a link", arguments: [true, false],
    [true, false])
  func ipv6(offload: Bool, ethernet: Bool) {
    for whole in [false, true] {
      var plan = clean(2_000_000, 500_000)
      plan.ethernet = ethernet
      for side in [\Plan.capabilities.client, \Plan.capabilities.server] {
        plan[keyPath: side].checksumOffload = offload
        plan[keyPath: side].tcpSegmentation4 = offload
      }
      plan.useIPv6()
      plan.devices.client.passesSuperFrames = whole
      plan.devices.server.passesSuperFrames = whole
      if !whole { plan.links.out.loss = 0.005 }
      let outcome = expectSuccess(plan)
      #expect(outcome.information.sendMSS == 1428)
      #expect(outcome.server[.ip6InDelivers] >= outcome.server[.tcpInSegs] && outcome.server[.ipInDelivers] == 0)
      if offload, whole { #expect(outcome.client[.txFrames] < outcome.client[.tcpOutSegs] / 4) }
    }
  }

  @Test("IPv6: a link that loses every tenth frame, questions after neighbours among them", arguments: 1...6)
  func ipv6Loss(seed: UInt64) {
    var plan = clean(100_000, 50_000, seed: seed)
    plan.useIPv6()
    plan.settings.client.neighborMulticastSolicit = 30
    plan.settings.server.neighborMulticastSolicit = 30
    plan.links.out.loss = 0.1
    plan.links.back.loss = 0.1
    plan.links.out.corrupt = 0.02
    let outcome = expectSuccess(plan)
    #expect(outcome.client[.ndpOutSolicitations] > 0 && outcome.client[.tcpRetransSegs] > 0)
  }

  @Test("Super-segments of more than 64 KB; pieces of them get lost", arguments: [65_535, 192 << 10])
  func bigTCP(largest: Int) {
    var plan = clean(8_000_000, 0)
    plan.capabilities.client.checksumOffload = true
    plan.capabilities.client.tcpSegmentation4 = true
    plan.capabilities.client.largestSuperPacket = largest
    plan.behaviours.client.writeSize = 65_536
    plan.links = (.clean(rate: nil, delay: .milliseconds(1)), .clean(rate: nil, delay: .milliseconds(1)))
    plan.links.out.loss = 0.002
    let outcome = expectSuccess(plan)
    #expect((8_000_000 / outcome.client[.txFrames] > 65_535) == (largest > 65_535))
    #expect(outcome.client[.tcpRetransSegs] > 0)
  }

  @Test(
    "Several queues, frames at any of them by chance: strays are brought over, and nothing else is different",
    arguments: 1...5)
  func queues(seed: UInt64) {
    var plan = clean(400_000, 200_000, seed: seed)
    plan.queues = (2, 3)
    plan.connections = 3
    plan.links.out.loss = 0.01
    plan.links.back.loss = 0.01
    let outcome = expectSuccess(plan)
    #expect(outcome.client[.rxSteered] > 50 && outcome.server[.rxSteered] > 50)
    // Each packet counts once, whoever got it.
    #expect(outcome.server[.ipInDelivers] == outcome.server[.tcpInSegs])
  }

  @Test("A device that takes its time to read frames never sees them change", arguments: 1...5)
  func slowDevice(seed: UInt64) {
    var plan = clean(500_000, 300_000, seed: seed)
    plan.devices.client.readDelay = .milliseconds(15)
    plan.devices.server.readDelay = .milliseconds(15)
    plan.links.out.loss = 0.02
    plan.behaviours.client.options = [(.sendBuffer, 8192)]
    expectSuccess(plan)
  }

  @Test("One byte at a time, with and without Nagle", arguments: [true, false])
  func tinyWrites(noDelay: Bool) {
    var plan = clean(3000, 0)
    plan.behaviours.client.writeSize = 1
    plan.behaviours.client.options = [(.noDelay, noDelay ? 1 : 0)]
    let outcome = expectSuccess(plan)
    // RFC 9293 §3.7.4: Nagle's rule joins them.
    if !noDelay { #expect(outcome.information.dataSegmentsOut < 50) }
  }

  @Test("MSG_MORE joins writes into full segments, the last one goes out at once")
  func more() {
    var plan = clean(100_000, 0)
    plan.behaviours.client.writeSize = 100
    plan.behaviours.client.saysMore = true
    plan.behaviours.client.options = [(.noDelay, 1)]
    let outcome = expectSuccess(plan)
    #expect(outcome.information.dataSegmentsOut <= 100_000 / 1448 + 8)
  }

  @Test("Four connections share a line", arguments: 1...3)
  func connections(seed: UInt64) {
    var plan = clean(400_000, 100_000, seed: seed)
    plan.connections = 4
    plan.links.out.rate = 1_000_000
    plan.links.out.queuePackets = 30
    expectSuccess(plan)
  }

  @Test("A small send buffer, a small receive buffer, both", arguments: [(2048, 0), (0, 2048), (2048, 2048)])
  func smallBuffers(send: Int, receive: Int) {
    var plan = clean(60_000, 60_000)
    var options: [(SocketOption, Int)] = []
    if send > 0 { options.append((.sendBuffer, send)) }
    if receive > 0 { options.append((.receiveBuffer, receive)) }
    plan.behaviours.client.options = options
    plan.behaviours.server.options = options
    plan.listenerOptions = options
    expectSuccess(plan)
  }
}
