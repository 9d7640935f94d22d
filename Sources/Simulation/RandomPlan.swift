// Owns: drawing a plan from a seed: links from perfect to awful, stacks with features on and off, programs from hasty to slow.

import Netstack

extension Plan {
  /// - Parameter scale: multiplies the number of bytes.
  package static func random(_ seed: UInt64, scale: Double = 1) -> Plan {
    var draw = Draw(seed: seed)
    var plan = Plan(seed: seed)
    plan.ethernet = draw.chance(0.7)
    plan.links = (draw.link(), draw.link())
    // Most paths are alike in both directions.
    if draw.chance(0.5) { plan.links.back = plan.links.out }
    plan.settings = (draw.settings(), draw.settings())
    let mtu = draw.pick([1500, 1500, 1500, 576, 1280, 9000, 296])
    plan.capabilities = (draw.capabilities(mtu), draw.capabilities(mtu))
    plan.devices = (draw.device(), draw.device())
    if plan.links.out.corrupt == 0, plan.links.back.corrupt == 0, draw.chance(0.2) {
      // As between a TAP device and its kernel.
      plan.devices.client.passesSuperFrames = true
      plan.devices.server.passesSuperFrames = true
    }
    if draw.chance(0.5) {
      plan.capabilities.client.largestSuperPacket = 192 << 10
      plan.capabilities.server.largestSuperPacket = 192 << 10
    }
    plan.behaviours = (draw.behaviour(), draw.behaviour())
    plan.listenerOptions = plan.behaviours.server.options
    plan.connections = draw.chance(0.8) ? 1 : 2 + draw.below(3)
    plan.simultaneousOpen = draw.chance(0.07)
    plan.bytes = (draw.size(plan, plan.links.out, scale), draw.size(plan, plan.links.back, scale))
    if draw.chance(0.25) { plan.queues = (1 + draw.below(3), 1 + draw.below(3)) }
    // A quarter of all. Links too narrow for it are IPv4's alone (RFC 8200 §5).
    if draw.chance(0.35), mtu >= 1280 { plan.useIPv6() }
    return plan
  }
}

extension Plan {
  package mutating func useIPv6() {
    isIPv6 = true
    capabilities.client.tcpSegmentation6 = capabilities.client.tcpSegmentation4
    capabilities.server.tcpSegmentation6 = capabilities.server.tcpSegmentation4
  }
}

/// Draws the parts of a plan.
private struct Draw {
  private var random: SeededRandom

  init(seed: UInt64) { random = SeededRandom(seed: seed ^ 0x5eed_0f_1a11) }

  mutating func below(_ n: Int) -> Int { random.below(n) }
  mutating func unit() -> Double { Double(random.next() >> 11) / Double(UInt64(1) << 53) }
  mutating func chance(_ p: Double) -> Bool { unit() < p }
  mutating func pick<T>(_ values: [T]) -> T { values[below(values.count)] }
  /// Between two values, each order of magnitude as likely as another.
  mutating func logarithmic(_ low: Int, _ high: Int) -> Int {
    var bits = 0
    while low << bits < high { bits += 1 }
    let shift = below(bits + 1)
    let base = min(low << shift, high)
    return min(base + below(base + 1), high)
  }

  mutating func link() -> LinkConditions {
    var link = LinkConditions()
    if chance(0.7) { link.rate = logarithmic(20_000, 100_000_000) }
    link.delay = .microseconds(chance(0.1) ? 0 : logarithmic(50, 300_000))
    if chance(0.4) { link.jitter = link.delay / pick([1, 4, 20]) }
    if chance(0.3) {
      link.reorder = unit() * pick([0.02, 0.2])
      link.reorderDelay = .microseconds(logarithmic(10, 50_000))
    }
    if chance(0.5) { link.loss = unit() * pick([0.01, 0.05, 0.15]) }
    if chance(0.15) {
      link.burstBegin = unit() * 0.02
      link.burstEnd = 0.2 + unit() * 0.6
    }
    if chance(0.25) { link.duplicate = unit() * pick([0.02, 0.3]) }
    if chance(0.25) { link.corrupt = unit() * pick([0.01, 0.1]) }
    link.queuePackets = logarithmic(5, 2000)
    if chance(0.08) { link.outage = (.milliseconds(logarithmic(1, 5000)), .milliseconds(logarithmic(10, 5000))) }
    return link
  }

  mutating func settings() -> Settings {
    var settings = Settings()
    settings.tcpSack = chance(0.85)
    settings.tcpDsack = chance(0.85)
    settings.tcpTimestamps = chance(0.8)
    settings.tcpWindowScaling = chance(0.85)
    settings.tcpCongestionControl = chance(0.7) ? .cubic : .reno
    settings.tcpModerateRcvbuf = chance(0.8)
    settings.tcpSlowStartAfterIdle = chance(0.8)
    settings.tcpEarlyRetrans = chance(0.85) ? 3 : 0
    settings.tcpRecovery = chance(0.85) ? 1 : 0
    // Awful links lose many SYNs in a row.
    settings.tcpSynRetries = 12
    settings.tcpSynackRetries = 12
    settings.tcpRetries2 = 25
    settings.tcpOrphanRetries = 25
    settings.neighborMulticastSolicit = 30
    if chance(0.3) {
      settings.tcpRmem.initial = logarithmic(4096, 1_000_000)
      settings.tcpRmem.maximum = max(settings.tcpRmem.initial, logarithmic(8192, 6_000_000))
    }
    if chance(0.3) {
      settings.tcpWmem.initial = logarithmic(4096, 1_000_000)
      settings.tcpWmem.maximum = max(settings.tcpWmem.initial, logarithmic(8192, 4_000_000))
    }
    return settings
  }

  mutating func capabilities(_ mtu: Int) -> DeviceCapabilities {
    var device = DeviceCapabilities()
    device.mtu = mtu
    device.checksumOffload = chance(0.5)
    device.tcpSegmentation4 = device.checksumOffload && chance(0.7)
    return device
  }

  mutating func device() -> DeviceConditions {
    var device = DeviceConditions()
    if chance(0.4) { device.readDelay = .microseconds(logarithmic(1, 2000)) }
    if chance(0.5) { device.interruptDelay = .microseconds(logarithmic(1, 500)) }
    return device
  }

  mutating func behaviour() -> Behaviour {
    var behaviour = Behaviour()
    behaviour.writeSize = logarithmic(1, 65_536)
    behaviour.readSize = logarithmic(1, 65_536)
    if chance(0.2) { behaviour.writePause = .microseconds(logarithmic(10, 200_000)) }
    if chance(0.3) {
      behaviour.readPause = .microseconds(logarithmic(10, 500_000))
      behaviour.readBurst = logarithmic(1000, 200_000)
    }
    behaviour.saysMore = chance(0.1)
    behaviour.halfCloses = chance(0.75)
    if chance(0.4) { behaviour.options.append((.noDelay, 1)) }
    if chance(0.1) { behaviour.options.append((.quickAck, 1)) }
    if chance(0.2) { behaviour.options.append((.receiveBuffer, logarithmic(1024, 200_000))) }
    if chance(0.2) { behaviour.options.append((.sendBuffer, logarithmic(2048, 200_000))) }
    if chance(0.1) {
      behaviour.options.append((.keepAlive, 1))
      behaviour.options.append((.keepIdle, 1 + below(20)))
      behaviour.options.append((.keepInterval, 1 + below(20)))
    }
    if chance(0.05) { behaviour.options.append((.maximumSegment, 88 + below(1400))) }
    return behaviour
  }

  /// Bytes for one direction: none, a few, some MB; fewer where link or programs are slow, so that a run ends.
  mutating func size(_ plan: Plan, _ link: LinkConditions, _ scale: Double) -> Int {
    if chance(0.15) { return 0 }
    var size = chance(0.2) ? below(3000) : logarithmic(1000, chance(0.15) ? 3_000_000 : 300_000)
    size = Int(Double(size) * scale)
    // At most some two minutes of line time, and some ten thousand calls.
    if let rate = link.rate { size = min(size, rate * 120) }
    for behaviour in [plan.behaviours.client, plan.behaviours.server] {
      size = min(size, behaviour.writeSize * 5000, behaviour.readSize * 5000)
      if behaviour.writePause > .zero { size = min(size, behaviour.writeSize * 300) }
      if behaviour.readPause > .zero { size = min(size, behaviour.readBurst * 100) }
    }
    let losses = link.loss + link.burstBegin / max(link.burstEnd, 0.1) + link.corrupt
    if losses > 0.03 { size = min(size, 200_000) }
    return size
  }
}
