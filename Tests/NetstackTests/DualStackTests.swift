// Both families in one socket, and which sockets may share a port.

import Testing
import Wire

@testable import Netstack

private typealias Bench = IPv6Bench

@Suite("Both IP families")
struct DualStackTests {
  private static let mapped = IPAddress(stackAddress)

  /// How a socket may be bound.
  private struct Binding: CustomStringConvertible {
    var isIPv6: Bool
    var address: IPAddress
    var onlyIPv6 = false
    var description: String
  }

  private static let bindings = [
    Binding(isIPv6: false, address: .anyIPv4, description: "0.0.0.0"),
    Binding(isIPv6: false, address: mapped, description: "198.18.0.4"),
    Binding(isIPv6: true, address: .anyIPv6, description: "::"),
    Binding(isIPv6: true, address: .anyIPv6, onlyIPv6: true, description: ":: alone"),
    Binding(isIPv6: true, address: mapped, description: "::ffff:198.18.0.4"),
    Binding(isIPv6: true, address: IPv6Bench.ours, description: "2001:db8::4"),
    Binding(isIPv6: true, address: .anyIPv4, description: "::ffff:0.0.0.0"),
  ]

  /// Linux's inet_rcv_saddr_equal, rows and columns in the order of `bindings`.
  private static let conflicts: [[Bool]] = [
    [1, 1, 1, 0, 1, 0, 1],
    [1, 1, 1, 0, 1, 0, 1],
    [1, 1, 1, 1, 1, 1, 1],
    [0, 0, 1, 1, 0, 1, 0],
    [1, 1, 1, 0, 1, 0, 1],
    [0, 0, 1, 1, 0, 1, 0],
    [1, 1, 1, 0, 1, 0, 1],
  ].map { $0.map { $0 == 1 } }

  private func open(
    _ bench: IPv6Bench, _ kind: SocketKind, _ binding: Binding, reuse: Bool = false
  ) throws -> SocketHandle {
    let socket = try bench.stack.open(kind, isIPv6: binding.isIPv6, cookie: 1, now: bench.now)
    if reuse { try bench.stack.setOption(socket, .reuseAddress, 1, now: bench.now) }
    if binding.onlyIPv6 { try bench.stack.setOption(socket, .onlyIPv6, 1, now: bench.now) }
    return socket
  }

  @Test(
    "inet_rcv_saddr_equal: which bindings exclude each other", arguments: [SocketKind.stream, .datagram], [false, true])
  func conflicts(kind: SocketKind, reuse: Bool) throws {
    for (i, first) in Self.bindings.enumerated() {
      for (j, second) in Self.bindings.enumerated() {
        let bench = IPv6Bench()
        let a = try open(bench, kind, first, reuse: reuse)
        try bench.stack.bind(a, to: Endpoint(first.address, 80), now: bench.now)
        let b = try open(bench, kind, second, reuse: reuse)
        var failure: SocketError?
        do { try bench.stack.bind(b, to: Endpoint(second.address, 80), now: bench.now) } catch { failure = error }
        let expected: SocketError? = Self.conflicts[i][j] && !reuse ? .addressInUse : nil
        #expect(failure == expected, "\(first), then \(second)")
      }
    }
  }

  @Test("listen(2): SO_REUSEADDR lets two sockets bind what they share, but not both listen there")
  func listening() throws {
    for (i, first) in Self.bindings.enumerated() {
      for (j, second) in Self.bindings.enumerated() {
        let bench = IPv6Bench()
        let a = try open(bench, .stream, first, reuse: true)
        let b = try open(bench, .stream, second, reuse: true)
        try bench.stack.bind(a, to: Endpoint(first.address, 80), now: bench.now)
        try bench.stack.bind(b, to: Endpoint(second.address, 80), now: bench.now)
        try bench.stack.listen(a, backlog: 4, now: bench.now)
        var failure: SocketError?
        do { try bench.stack.listen(b, backlog: 4, now: bench.now) } catch { failure = error }
        #expect(failure == (Self.conflicts[i][j] ? .addressInUse : nil), "\(first), then \(second)")
      }
    }
  }

  @Test("bind(2): an address of the other family, IPv4 with IPV6_V6ONLY, an address that is not ours")
  func refusals() throws {
    let bench = IPv6Bench()
    for kind in [SocketKind.stream, .datagram] {
      let four = try bench.stack.open(kind, isIPv6: false, cookie: 1, now: bench.now)
      for address in [IPAddress.anyIPv6, Bench.ours] {
        #expect(throws: SocketError.invalidArgument) {
          try bench.stack.bind(four, to: Endpoint(address, 80), now: bench.now)
        }
      }
      #expect(throws: SocketError.invalidArgument) { try bench.stack.setOption(four, .onlyIPv6, 1, now: bench.now) }
      let six = try bench.stack.open(kind, isIPv6: true, cookie: 1, now: bench.now)
      #expect(throws: SocketError.addressNotAvailable) {
        try bench.stack.bind(six, to: Endpoint(Bench.peer, 80), now: bench.now)
      }
      try bench.stack.setOption(six, .onlyIPv6, 1, now: bench.now)
      for address in [IPAddress.anyIPv4, Self.mapped] {
        #expect(throws: SocketError.invalidArgument) {
          try bench.stack.bind(six, to: Endpoint(address, 80), now: bench.now)
        }
      }
      try bench.stack.bind(six, to: Endpoint(.anyIPv6, 80), now: bench.now)
      #expect(throws: SocketError.invalidArgument) { try bench.stack.setOption(six, .onlyIPv6, 0, now: bench.now) }
      #expect(try bench.stack.option(six, .onlyIPv6) == 1)
    }
  }

  private func listener(_ bench: IPv6Bench, _ binding: Binding, reusePort: Bool = false) throws -> SocketHandle {
    let socket = try open(bench, .stream, binding)
    if reusePort { try bench.stack.setOption(socket, .reusePort, 1, now: bench.now) }
    try bench.stack.bind(socket, to: Endpoint(binding.address, 80), now: bench.now)
    try bench.stack.listen(socket, backlog: 8, now: bench.now)
    return socket
  }

  @Test(
    "RFC 3493 §5.3: :: takes connections of both families, with IPV6_V6ONLY IPv6's alone; IPv4 peers have mapped addresses"
  )
  func listeners() throws {
    for onlyIPv6 in [false, true] {
      let bench = IPv6Bench()
      let server = try listener(bench, Self.bindings[onlyIPv6 ? 3 : 2])
      let four = try bench.stack.open(.stream, isIPv6: false, cookie: 2, now: bench.now)
      try bench.beginConnect(four, to: Endpoint(Self.mapped, 80))
      #expect(bench.stack.takeError(four) == (onlyIPv6 ? .connectionRefused : nil))
      let six = try bench.stack.open(.stream, isIPv6: true, cookie: 2, now: bench.now)
      try bench.beginConnect(six, to: Endpoint(Bench.ours, 80))
      if !onlyIPv6 {
        let child = try bench.stack.accept(server, cookie: 3, now: bench.now)
        #expect(try bench.stack.remoteEndpoint(child) == bench.stack.localEndpoint(four))
        #expect(bench.stack.localEndpoint(child) == Endpoint(Self.mapped, 80))
      }
      let child = try bench.stack.accept(server, cookie: 3, now: bench.now)
      #expect(try bench.stack.remoteEndpoint(child) == bench.stack.localEndpoint(six))
      #expect(bench.stack.localEndpoint(child) == Endpoint(Bench.ours, 80))
      #expect(bench.frames().isEmpty, "nothing of it goes out")
    }
  }

  @Test("inet_lookup_listener: by address, then by its own family's wildcard, then by :: that takes both")
  func preference() throws {
    let bench = IPv6Bench()
    let both = try listener(bench, Self.bindings[2], reusePort: true)
    let four = try listener(bench, Self.bindings[0], reusePort: true)
    func connect() throws {
      let client = try bench.stack.open(.stream, isIPv6: false, cookie: 2, now: bench.now)
      try bench.beginConnect(client, to: Endpoint(Self.mapped, 80))
    }
    for _ in 0..<10 {
      try connect()
      _ = try bench.stack.accept(four, cookie: 3, now: bench.now)
    }
    let exact = try listener(bench, Self.bindings[4], reusePort: true)
    for _ in 0..<10 {
      try connect()
      _ = try bench.stack.accept(exact, cookie: 3, now: bench.now)
    }
    #expect(throws: SocketError.wouldBlock) { try bench.stack.accept(both, cookie: 3, now: bench.now) }
  }

  @Test("connect(2): a family reaches no address of the other, but for an AF_INET6 socket IPv4's by mapped ones")
  func connect() throws {
    let bench = IPv6Bench()
    func outcome(_ kind: SocketKind, _ binding: Binding?, _ to: IPAddress) throws -> SocketError? {
      let socket = try open(bench, kind, binding ?? Self.bindings[2])
      if let binding, !(binding.onlyIPv6 && binding.address.isUnspecified) {
        try bench.stack.bind(socket, to: Endpoint(binding.address, 0), now: bench.now)
      }
      defer { bench.stack.close(socket, now: bench.now) }
      do {
        try bench.stack.connect(socket, to: Endpoint(to, 9), now: bench.now)
        return nil
      } catch { return error == .inProgress ? nil : error }
    }
    let peer4 = IPAddress(peerAddress)
    for kind in [SocketKind.stream, .datagram] {
      #expect(try outcome(kind, Self.bindings[2], peer4) == nil)
      #expect(try outcome(kind, Self.bindings[2], Bench.peer) == nil)
      #expect(try outcome(kind, Self.bindings[3], peer4) == .networkUnreachable)
      #expect(try outcome(kind, Self.bindings[4], peer4) == nil)
      #expect(try outcome(kind, Self.bindings[4], Bench.peer) == .networkUnreachable)
      #expect(try outcome(kind, Self.bindings[5], peer4) == .networkUnreachable)
      #expect(try outcome(kind, Self.bindings[5], Bench.peer) == nil)
      #expect(try outcome(kind, Self.bindings[0], Bench.peer) == .networkUnreachable)
      #expect(try outcome(kind, nil, six("2001:db8:99::1")) == .networkUnreachable, "no route")
    }
    #expect(try outcome(.stream, nil, six("ff02::1")) == .networkUnreachable)
  }

  @Test("connect(2) undone: a dual-stack socket is as good as new for the other family")
  func reconnect() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let socket = try bench.datagramSocket()
    try bench.stack.connect(socket, to: Endpoint(IPAddress(peerAddress), 9), now: bench.now)
    #expect(bench.stack.localEndpoint(socket).address == Self.mapped)
    try bench.stack.disconnect(socket, now: bench.now)
    #expect(bench.stack.localEndpoint(socket).address == .anyIPv6)
    try bench.stack.connect(socket, to: Endpoint(Bench.peer, 9), now: bench.now)
    #expect(bench.stack.localEndpoint(socket).address == Bench.ours)
    let stream = try bench.stack.open(.stream, isIPv6: true, cookie: 1, now: bench.now)
    try bench.beginConnect(stream, to: Endpoint(IPAddress(peerAddress), 9))
    try bench.stack.disconnect(stream, now: bench.now)
    try bench.beginConnect(stream, to: Endpoint(Bench.peer, 9))
    #expect(bench.stack.localEndpoint(stream).address == Bench.ours)
    bench.stack.close(socket, now: bench.now)
    bench.stack.close(stream, now: bench.now)
  }

  @Test("udp(7): one socket for datagrams of both families; one of IPv4's own comes first")
  func datagrams() throws {
    let bench = IPv6Bench()
    let both = try bench.datagramSocket(port: 53)
    let sender4 = try bench.stack.open(.datagram, isIPv6: false, cookie: 2, now: bench.now)
    let sender6 = try bench.stack.open(.datagram, isIPv6: true, cookie: 2, now: bench.now)
    try bench.send(sender4, [4], to: Endpoint(Self.mapped, 53))
    try bench.send(sender6, [6], to: Endpoint(Bench.ours, 53))
    let first = try bench.receiveDatagram(both)
    #expect(first.bytes == [4] && first.from == Endpoint(Self.mapped, bench.stack.localEndpoint(sender4).port))
    let second = try bench.receiveDatagram(both)
    #expect(second.bytes == [6] && second.from == Endpoint(Bench.ours, bench.stack.localEndpoint(sender6).port))
    // The answer to IPv4, from the dual-stack socket.
    try bench.send(both, [44], to: first.from)
    #expect(try bench.receiveDatagram(sender4).from == Endpoint(Self.mapped, 53))
    bench.stack.close(both, now: bench.now)
    let only = try bench.stack.open(.datagram, isIPv6: true, cookie: 1, now: bench.now)
    try bench.stack.setOption(only, .onlyIPv6, 1, now: bench.now)
    try bench.stack.bind(only, to: Endpoint(.anyIPv6, 53), now: bench.now)
    try bench.stack.connect(sender4, to: Endpoint(Self.mapped, 53), now: bench.now)
    try bench.send(sender4, [4], to: nil)
    #expect(bench.stack.takeError(sender4) == .connectionRefused)
    #expect(throws: SocketError.networkUnreachable) { try bench.send(only, [1], to: Endpoint(Self.mapped, 9)) }
    for socket in [only, sender4, sender6] { bench.stack.close(socket, now: bench.now) }
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 9293 §3.7.1: without the option a peer takes 1220 bytes over IPv6; we offer the link's MTU less 60")
  func segmentSize() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let socket = try bench.stack.open(.stream, isIPv6: true, cookie: 1, now: bench.now)
    try bench.beginConnect(socket, to: Endpoint(Bench.peer, 80))
    let syn = try #require(bench.sent().last)
    let header = try #require(syn.tcp)
    let options = syn.payload[20...].withUnsafeBytes { TCPOptions(parsing: $0) }
    #expect(options.maximumSegmentSize == 1440)
    bench.receive(
      bench.frame(
        Bench.ipv6(
          IPProtocol.tcp,
          Bench.tcp(
            [.syn, .ack], sourcePort: 80, destinationPort: header.sourcePort, seq: 0,
            ack: header.sequence.value &+ 1))))
    #expect(try bench.stack.option(socket, .maximumSegment) == 1220)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 6437 §3: a connection's packets have one flow label, another's another")
  func flowLabels() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    var labels: Set<UInt32> = []
    for _ in 0..<5 {
      let socket = try bench.stack.open(.stream, isIPv6: true, cookie: 1, now: bench.now)
      try bench.beginConnect(socket, to: Endpoint(Bench.peer, 80))
      bench.pass(.milliseconds(1100))
      let sent = bench.sent().filter { $0.tcp != nil }
      #expect(sent.count == 2 && sent[0].ip.flowLabel == sent[1].ip.flowLabel)
      labels.insert(sent[0].ip.flowLabel)
      bench.stack.close(socket, now: bench.now)
    }
    #expect(labels.count == 5)
  }
}

@Suite("Several stacks with the same IPv6 addresses")
struct IPv6SteeringTests {
  @Test("RFC 4861 §7.2.4: one of them answers a question, all learn who asked, and it is counted once")
  func solicitation() {
    let machine = IPv6Machine()
    let bench = machine.queues[1]
    let before = (machine.total(.ip6InReceives), machine.total(.icmp6InMsgs))
    let message = NeighborMessage(solicitationFor: Bench.ours, from: bench.peerMAC)
    machine.receive(bench.frame(Bench.neighbor(message, from: Bench.peer, to: Bench.ours.solicitedNode)), at: 1)
    #expect(machine.queues.map { $0.neighborMessages().count } == [0, 1])
    for queue in machine.queues { #expect(queue.stack.neighbors.lookup(Bench.peer) == bench.peerMAC) }
    #expect(machine.total(.ip6InReceives) - before.0 == 1 && machine.total(.icmp6InMsgs) - before.1 == 1)
    #expect(machine.total(.ip6InDelivers) == 1 && machine.total(.ndpInSolicitations) == 1)
    machine.expectNothingLeft()
  }

  @Test("Neighbour discovery to a group that only the first stack has joined goes round once")
  func unjoinedGroup() throws {
    let machine = IPv6Machine()
    let bench = machine.queues[0]
    let socket = try bench.datagramSocket(port: 5353)
    try bench.stack.changeMembership(socket, six("ff02::fb"), .join, now: bench.now)
    for queue in machine.queues { _ = queue.frames() }
    let message = NeighborMessage(solicitationFor: six("2001:db8::99"), from: bench.peerMAC)
    let before = machine.total(.rxSteered)
    machine.receive(bench.frame(Bench.neighbor(message, from: Bench.peer, to: six("ff02::fb"))), at: 0)
    #expect(machine.total(.rxSteered) - before <= 1)
  }

  @Test("RFC 4862 §5.5.3: all get the address that a router's prefix makes, one of them asks whether it is free")
  func advertisement() throws {
    let machine = IPv6Machine(count: 3, static: false)
    let address = six("2001:db8:1::ff:fe00:1")
    let bench = machine.queues[2]
    bench.advertisement(bench.routerOption + Bench.prefixOption("2001:db8:1::"))
    machine.deliverStrays(of: 2)
    for queue in machine.queues {
      #expect(queue.address(address)?.state == .optimistic)
      #expect(queue.stack.decide(Bench.far, now: queue.now)?.nextHop == Bench.router)
    }
    #expect(machine.queues.map { $0.neighborMessages().map(\.target) } == [[address], [], []])
    #expect(machine.total(.ndpInRouterAdvertisements) == 1)
    // Somebody has it.
    bench.advertise(address, at: bench.peerMAC, solicited: false, overrides: true, to: .allNodes)
    machine.deliverStrays(of: 2)
    for queue in machine.queues { #expect(queue.address(address) == nil) }
    machine.expectNothingLeft()
  }

  @Test("A segment for another of them, with extension headers and in an atomic fragment, is brought to its owner")
  func segments() throws {
    let machine = IPv6Machine()
    let listeners = try machine.queues.map { queue in
      let socket = try queue.stack.open(.stream, isIPv6: true, cookie: 1, now: queue.now)
      try queue.stack.bind(socket, to: Endpoint(.anyIPv6, 80), now: queue.now)
      try queue.stack.listen(socket, backlog: 5, now: queue.now)
      return socket
    }
    for queue in machine.queues { queue.introducePeer() }
    for queue in machine.queues.indices { machine.deliverStrays(of: queue) }
    for queue in machine.queues { _ = queue.frames() }
    let before = machine.total(.tcpInSegs)
    let port = machine.peerPort(for: 80, 1)
    let bench = machine.queues[0]
    let syn = Bench.tcp(.syn, sourcePort: port, destinationPort: 80, seq: 0, mss: 1000)
    machine.receive(bench.frame(Bench.ipv6(60, Bench.options(6, [0x1e, 2, 0, 0]) + syn)), at: 0)
    let answer = try #require(machine.queues[1].sent().first?.tcp)
    let next = answer.sequence.value &+ 1
    let ack = Bench.tcp(.ack, sourcePort: port, destinationPort: 80, seq: 1, ack: next, [1, 2, 3])
    machine.receive(bench.frame(Bench.ipv6(44, Bench.fragment(6, offset: 0, more: false, ack))), at: 0)
    // In real pieces: put together by the first, whoever gets them.
    let data = Bench.tcp(.ack, sourcePort: port, destinationPort: 80, seq: 4, ack: next, pattern(44))
    machine.receive(bench.frame(Bench.ipv6(44, Bench.fragment(6, offset: 0, more: true, Array(data[..<32])))), at: 1)
    machine.receive(bench.frame(Bench.ipv6(44, Bench.fragment(6, offset: 32, more: false, Array(data[32...])))), at: 0)
    let child = try machine.queues[1].stack.accept(listeners[1], cookie: 2, now: machine.queues[1].now)
    #expect(machine.queues[1].stack.unreadBytes(child) == 47)
    #expect(machine.total(.tcpInSegs) - before == 3 && machine.total(.ipReasmOKs) == 1)
    machine.queues[1].stack.close(child, now: machine.queues[1].now)
    for (queue, listener) in zip(machine.queues, listeners) {
      queue.stack.close(listener, now: queue.now)
      _ = queue.frames()
    }
    machine.expectNothingLeft()
  }

  @Test("RFC 4443 §3: an error finds the connection that it is about; an echo is answered where it comes in")
  func errors() throws {
    let machine = IPv6Machine()
    for queue in machine.queues {
      queue.introducePeer()
      var strays = queue.stack.takeStrays()
      queue.stack.release(&strays)
    }
    let queue = machine.queues[1]
    let socket = try queue.stack.open(.stream, isIPv6: true, cookie: 1, now: queue.now)
    try queue.beginConnect(socket, to: Endpoint(Bench.peer, 80))
    let syn = try #require(queue.sent().last)
    let before = machine.total(.icmp6InMsgs)
    machine.receive(queue.frame(Bench.ipv6(IPProtocol.icmpv6, Bench.icmp(1, 3, syn.bytes))), at: 0)
    #expect(queue.stack.takeError(socket) == .hostUnreachable)
    machine.receive(queue.frame(Bench.ipv6(IPProtocol.icmpv6, Bench.icmp(128, [1]))), at: 1)
    #expect(machine.queues.map { $0.sent().count } == [0, 1])
    #expect(machine.total(.icmp6InMsgs) - before == 2)
    queue.stack.close(socket, now: queue.now)
    machine.expectNothingLeft()
  }

  @Test("A record for another stack is of the same family")
  func likeness() throws {
    let machine = IPv6Machine()
    let (first, second) = (machine.queues[0], machine.queues[1])
    for isIPv6 in [true, false] {
      let socket = try first.stack.open(.stream, isIPv6: isIPv6, cookie: 1, now: first.now)
      let other = try second.stack.open(
        like: try first.stack.likeness(of: socket), cookie: 1, now: second.now)
      let wildcard = isIPv6 ? IPAddress.anyIPv6 : .anyIPv4
      #expect(second.stack.localEndpoint(other) == Endpoint(wildcard, 0))
      try second.stack.bind(other, to: Endpoint(wildcard, isIPv6 ? 80 : 81), now: second.now)
      try second.stack.listen(other, backlog: 1, now: second.now)
      first.stack.close(socket, now: first.now)
      second.stack.close(other, now: second.now)
    }
    machine.expectNothingLeft()
  }
}
