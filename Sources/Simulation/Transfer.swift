// Owns: the scenario that is run over and over: two hosts, one or more connections, bytes both ways, every byte checked; then
// everything must end, and nothing may be left behind. A plan says it all; `Plan.random(seed)` draws one.

import Netstack
import Wire

package struct Plan: Sendable {
  package var seed: UInt64
  package var ethernet = true
  /// The connections are over IPv6; the hosts have IPv4 addresses as well.
  package var isIPv6 = false
  /// Client to server, server to client.
  package var links = (out: LinkConditions(), back: LinkConditions())
  package var settings = (client: Settings(), server: Settings())
  package var capabilities = (client: DeviceCapabilities(), server: DeviceCapabilities())
  package var devices = (client: DeviceConditions(), server: DeviceConditions())
  /// Queues of the devices, each with a stack of its own.
  package var queues = (client: 1, server: 1)
  package var bytes = (out: 0, back: 0)
  package var behaviours = (client: Behaviour(), server: Behaviour())
  package var listenerOptions: [(SocketOption, Int)] = []
  package var connections = 1
  /// Both sides connect to each other at the same time (RFC 9293 §3.5, figure 7).
  package var simultaneousOpen = false
  /// Virtual: without timestamps and SACK a lossy path may cost a time-out of two minutes for every few segments, for
  /// Karn's rule keeps the back-off until new data is acknowledged.
  package var timeLimit = Interval.seconds(6 * 3600)

  package init(seed: UInt64) { self.seed = seed }
}

package struct Outcome: Sendable {
  /// nil = as it should be.
  package var failure: String?
  /// The last frames, where it failed.
  package var trace: [String] = []
  /// From the beginning until the last program had all its bytes.
  package var duration = Interval.zero
  package var segments = 0
  package var events = 0
  package var client = Statistics()
  package var server = Statistics()
  package var out = LinkCounters()
  package var back = LinkCounters()
  package var information = TCPInfo()
}

package enum Transfer {
  private static let port: UInt16 = 8000
  private static let firstClientPort: UInt16 = 40_000

  /// 2001:db8::4 and ::5.
  private static func address6(_ last: UInt8) -> IPAddress { IPAddress(high: 0x2001_0db8 << 32, low: UInt64(last)) }

  /// - Parameter events: what the stacks tell about themselves goes into the trace, down to this level.
  package static func run(_ plan: Plan, traceLines: Int = 60, events: TraceLevel = .off) -> Outcome {
    var random = SeededRandom(seed: plan.seed)
    // The clock starts anywhere, so that sequence numbers and timestamps wrap around in some runs.
    let world = World(now: Instant(nanoseconds: Int64(random.below(1 << 31)) * 4_000_000 + 1_000_000_000))
    let linkHeader = plan.ethernet ? EthernetHeader.length : 0
    let monitor = Monitor(linkHeader: linkHeader, traceCapacity: max(traceLines, 100))
    world.observer = monitor

    func makeHost(
      _ name: String, _ last: UInt8, _ settings: Settings, _ capabilities: DeviceCapabilities,
      _ device: DeviceConditions, _ queues: Int
    ) -> Host {
      var configuration = StackConfiguration()
      configuration.device = capabilities
      configuration.device.linkType = plan.ethernet ? .ethernet : .ip
      configuration.device.hardwareAddress = MACAddress(bits: 0x02_00_00_00_00_00 | UInt64(last))
      configuration.address = IPv4Address(198, 18, 0, last)
      configuration.device.hostAddress = IPv4Address(198, 18, 0, last == 4 ? 5 : 4)
      configuration.ipv6 = plan.isIPv6
      if plan.isIPv6 {
        _ = configuration.moreAddresses.add(
          InterfaceAddress(address6(last), prefixLength: 64, state: .preferred, origin: .configured))
      }
      configuration.settings = settings
      configuration.secret = HashKey(random.next(), random.next())
      configuration.seed = random.next()
      configuration.stackCount = queues
      return Host.machine(name, configuration, device: device, seed: random.next(), world: world)
    }
    let client = makeHost(
      "A", 4, plan.settings.client, plan.capabilities.client, plan.devices.client, plan.queues.client)
    let server = makeHost(
      "B", 5, plan.settings.server, plan.capabilities.server, plan.devices.server, plan.queues.server)
    world.connect(
      client, to: server, Link(plan.links.out, seed: random.next(), headerLength: linkHeader, start: world.now))
    world.connect(
      server, to: client, Link(plan.links.back, seed: random.next(), headerLength: linkHeader, start: world.now))
    for host in [client, server] {
      for queue in host.queues {
        for category in TraceCategory.allCases { queue.stack.trace.filter.set(category, events) }
      }
      world.add(host)
    }

    var outgoing: [Pattern] = []
    var incoming: [Pattern] = []
    for _ in 0..<plan.connections {
      outgoing.append(Pattern(seed: random.next()))
      incoming.append(Pattern(seed: random.next()))
    }
    let (outs, backs) = (outgoing, incoming)
    func index(_ clientPort: UInt16) -> Int { min(Int(clientPort &- firstClientPort), plan.connections - 1) }
    monitor.pattern = { host, localPort, remotePort in
      host === client ? outs[index(localPort)] : backs[index(remotePort)]
    }
    func serverProgram(_ i: Int) -> StreamProgram {
      StreamProgram(
        "B\(i)", plan.behaviours.server, sends: backs[i], plan.bytes.back, expects: outs[i], plan.bytes.out)
    }

    // One in each of the server's stacks.
    let listeners = server.queues.map { _ in
      ListenerProgram(options: plan.listenerOptions) { serverProgram(index($0.port)) }
    }
    if !plan.simultaneousOpen {
      for (listener, queue) in zip(listeners, server.queues) {
        listener.listen(on: queue, port: port, isIPv6: plan.isIPv6)
      }
    }
    var clients: [StreamProgram] = []
    var servers: [StreamProgram] = []
    for i in 0..<plan.connections {
      let program = StreamProgram(
        "A\(i)", plan.behaviours.client, sends: outs[i], plan.bytes.out, expects: backs[i], plan.bytes.back)
      clients.append(program)
      let clientPort = firstClientPort + UInt16(i)
      let serverPort = plan.simultaneousOpen ? port + UInt16(i) : port
      let there = Endpoint(plan.isIPv6 ? address6(5) : IPAddress(server.address), serverPort)
      let here = Endpoint(plan.isIPv6 ? address6(4) : IPAddress(client.address), clientPort)
      if plan.simultaneousOpen {
        let other = serverProgram(i)
        servers.append(other)
        other.connect(
          from: server.queue(for: FourTuple(local: there, remote: here)), to: here, localPort: serverPort)
      }
      program.connect(
        from: client.queue(for: FourTuple(local: here, remote: there)), to: there, localPort: clientPort)
    }

    let start = world.now
    let done = world.run(until: start + plan.timeLimit) {
      clients.allSatisfy(\.isDone)
        && (plan.simultaneousOpen ? servers : listeners.flatMap(\.accepted)).filter(\.isDone).count == plan.connections
    }
    var outcome = Outcome()
    servers += listeners.flatMap(\.accepted)
    outcome.duration = (clients + servers).map { $0.finishedAt - start }.max() ?? .zero
    outcome.information = clients.first?.information ?? TCPInfo()
    if !done, world.failure == nil {
      let progress = (clients + servers).map { "\($0.label): \($0.received) received\($0.isDone ? ", done" : "")" }
      world.fail("did not end within \(plan.timeLimit.milliseconds / 1000) s; \(progress.joined(separator: "; "))")
    }
    if world.failure == nil { settle(world, client, server, listeners) }
    outcome.failure = world.failure
    outcome.segments = monitor.segments
    outcome.events = world.eventCount
    outcome.client = statistics(client)
    outcome.server = statistics(server)
    outcome.out = world.link(from: client).counters
    outcome.back = world.link(from: server).counters
    if outcome.failure != nil { outcome.trace = monitor.trace.lines(last: traceLines) }
    if outcome.failure != nil, traceLines > 0 {
    }
    return outcome
  }

  /// Lets time run until both stacks have forgotten everything, and counts what checksums had to find.
  private static func settle(_ world: World, _ client: Host, _ server: Host, _ listeners: [ListenerProgram]) {
    for (listener, queue) in zip(listeners, server.queues) { listener.close(on: queue) }
    func left(_ host: Host) -> (packets: Int, sockets: Int) {
      host.queues.reduce(into: (0, 0)) { sum, queue in
        let left = queue.stack.leakReport()
        sum = (sum.0 + left.packets, sum.1 + left.sockets)
      }
    }
    let clean = world.run(until: world.now + .seconds(7200)) {
      [client, server].allSatisfy { left($0) == (0, 0) }
    }
    if world.failure == nil {
      // Frames still on the line.
      world.run(until: world.now + .seconds(10))
    }
    if !clean {
      world.fail("left behind: A \(left(client)), B \(left(server)) (packets, sockets)")
    }
    for host in [client, server] {
      let found = integrityDrops(statistics(host))
      let corrupted = host.queues.reduce(0) { $0 + $1.corruptedReceived }
      if found != corrupted {
        world.fail("\(host.name): \(corrupted) corrupted frames came in, \(found) were found out")
      }
    }
  }

  /// Of all queues of a machine.
  private static func statistics(_ machine: Host) -> Statistics {
    machine.queues.reduce(into: Statistics()) { $0.add($1.stack.statistics) }
  }

  /// Drops that only a damaged packet can cause here.
  private static func integrityDrops(_ statistics: Statistics) -> Int {
    let reasons: [DropReason] = [
      .ipTruncated, .ipVersion, .ipHeaderLength, .ipTotalLength, .ipChecksum, .icmpMalformed, .icmpChecksum,
      .udpMalformed, .udpChecksum, .tcpMalformed, .tcpChecksum,
    ]
    return reasons.reduce(0) { $0 + Int(statistics[drop: $1]) }
  }
}
