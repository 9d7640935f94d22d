// Owns: the table of throughput for loss × round-trip time: what the congestion control and loss recovery make of a path.

import Netstack

package enum Throughput {
  /// A transfer of `bytes` from client to server over a bottleneck of `rate` bytes per second with a queue of one
  /// bandwidth-delay product (at least 20 packets).
  package static func plan(
    bytes: Int, rate: Int, roundTrip: Interval, loss: Double, algorithm: CongestionAlgorithm, seed: UInt64
  ) -> Plan {
    var plan = Plan(seed: seed)
    var link = LinkConditions.clean(rate: rate, delay: roundTrip / 2)
    link.queuePackets = max(20, rate * Int(roundTrip.microseconds) / 1_000_000 / 1514)
    plan.links = (link, link)
    plan.links.out.loss = loss
    plan.settings.client.tcpCongestionControl = algorithm
    plan.settings.server.tcpCongestionControl = algorithm
    plan.behaviours.client.writeSize = 65_536
    plan.behaviours.server.readSize = 65_536
    plan.bytes = (bytes, 0)
    return plan
  }

  /// Megabits per second of payload.
  package static func measure(_ plan: Plan) -> (rate: Double, outcome: Outcome) {
    let outcome = Transfer.run(plan)
    let seconds = Double(outcome.duration.nanoseconds) / 1e9
    return (seconds > 0 ? Double(plan.bytes.out) * 8 / seconds / 1e6 : 0, outcome)
  }

  package static func table(rate: Int = 12_500_000, bytes: Int = 20_000_000) -> String {
    let roundTrips = [1, 10, 30, 100, 300]
    let losses = [0, 0.0001, 0.001, 0.01, 0.03, 0.1]
    var text = "Mbit/s of \(rate * 8 / 1_000_000), one connection, \(bytes / 1_000_000) MB, queue of one BDP\n"
    for algorithm in CongestionAlgorithm.allCases {
      text += "\n\(pad("\(algorithm.name)", 12))" + roundTrips.map { pad("\($0) ms", 9) }.joined() + "\n"
      for loss in losses {
        text += pad("loss \(loss * 100)%", 12)
        for roundTrip in roundTrips {
          // Slow cells get fewer bytes, or they would take virtual hours.
          let fewer = loss >= 0.01 ? bytes / 10 : bytes
          let plan = plan(
            bytes: fewer, rate: rate, roundTrip: .milliseconds(roundTrip), loss: loss, algorithm: algorithm, seed: 1)
          let (megabits, outcome) = measure(plan)
          text += pad(outcome.failure == nil ? tenths(megabits) : "failed", 9)
        }
        text += "\n"
      }
    }
    return text
  }

  private static func tenths(_ value: Double) -> String {
    let n = Int(value * 10 + 0.5)
    return "\(n / 10).\(n % 10)"
  }

  private static func pad(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }
}

extension Plan {
  /// What a failing run was about, in a few lines.
  package var description: String {
    """
    seed \(seed): \(bytes.out) bytes out, \(bytes.back) back, \(connections) connections\
    \(simultaneousOpen ? ", opened from both sides" : ""), \(isIPv6 ? "IPv6" : "IPv4") over \(ethernet ? "Ethernet" : "layer 3"), MTU \(capabilities.client.mtu)
      out   \(links.out)
      back  \(links.back)
      A     \(behaviours.client), offload \(capabilities.client.checksumOffload)/\(capabilities.client.tcpSegmentation4), \(devices.client)
      B     \(behaviours.server), offload \(capabilities.server.checksumOffload)/\(capabilities.server.tcpSegmentation4), \(devices.server)
      A     sack \(settings.client.tcpSack) ts \(settings.client.tcpTimestamps) ws \(settings.client.tcpWindowScaling) \(settings.client.tcpCongestionControl.name) rmem \(settings.client.tcpRmem) wmem \(settings.client.tcpWmem)
      B     sack \(settings.server.tcpSack) ts \(settings.server.tcpTimestamps) ws \(settings.server.tcpWindowScaling) \(settings.server.tcpCongestionControl.name) rmem \(settings.server.tcpRmem) wmem \(settings.server.tcpWmem)
    """
  }
}
