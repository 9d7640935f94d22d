import Netstack
import Synchronization
import Testing
import Wire

/// Several stacks with one address, as a device with several queues has them. Frames are made by hand; strays are brought over as
/// the shell does it.
private final class Machine {
  final class Queue {
    var stack: Stack
    init(_ configuration: StackConfiguration, now: Instant) { stack = Stack(configuration, now: now) }
  }

  var now = Instant(nanoseconds: 1_000_000_000_000)
  let queues: [Queue]

  init(count: Int = 2, link: DeviceCapabilities.LinkType = .ip) {
    var configuration = StackConfiguration()
    configuration.device.linkType = link
    configuration.address = stackAddress
    configuration.secret = HashKey(1, 2)
    configuration.stackCount = count
    // For as long as the tests run, as the shell's for as long as the process.
    configuration.rawProtocolSet = .allocate(capacity: 1)
    configuration.rawProtocolSet?.initialize(to: RawProtocolSet())
    let start = now
    queues = (0..<count).map { index in
      configuration.stackIndex = index
      configuration.seed = UInt64(index)
      return Queue(configuration, now: start)
    }
  }

  subscript(_ index: Int) -> Queue { queues[index] }

  func receive(_ bytes: [UInt8], at queue: Int) {
    queues[queue].stack.receiveFrame(bytes, now: now)
    deliverStrays(of: queue)
  }

  private func deliverStrays(of queue: Int) {
    var strays = queues[queue].stack.takeStrays()
    var next = strays.first
    while let packet = next {
      next = packet.next
      for other in queues.indices where other != queue {
        let owner = Int(packet.storage.pointee.steeredTo)
        guard owner == other || owner == Stack.everyOther else { continue }
        queues[other].stack.receiveStray(packet, now: now)
        queues[other].stack.finishBatch(now: now)
        deliverStrays(of: other)
      }
    }
    queues[queue].stack.release(&strays)
  }

  /// What each queue has sent, as bytes.
  func sent(_ queue: Int) -> [[UInt8]] { queues[queue].stack.takeFrames().map(\.bytes) }

  /// Which queue a peer's connection to `port` from `peerPort` belongs to.
  func owner(_ port: UInt16, _ peerPort: UInt16) -> Int {
    self[0].stack.steering.owner(of: Self.tuple(port, peerPort))
  }

  static func tuple(_ port: UInt16, _ peerPort: UInt16) -> FourTuple {
    FourTuple(
      local: Endpoint(IPAddress(stackAddress), port), remote: Endpoint(IPAddress(peerAddress), peerPort))
  }

  /// A peer's port whose connections to `port` belong to `queue`, from `first` on.
  func peerPort(for port: UInt16, _ queue: Int, from first: UInt16 = 1000) -> UInt16 {
    var candidate = first
    while owner(port, candidate) != queue { candidate += 1 }
    return candidate
  }

  func total(_ counter: Counter) -> UInt64 { queues.reduce(0) { $0 + $1.stack.statistics[counter] } }

  func leaks() -> Int {
    queues.reduce(0) { sum, queue in
      while queue.stack.nextChanged() != nil {}
      let left = queue.stack.leakReport()
      return sum + left.packets + left.sockets
    }
  }

  /// One queue for what waits at all of `listeners`.
  func joined(_ listeners: [SocketHandle]) -> ListenQueuePointer {
    let queue = ListenQueuePointer.allocate(capacity: 1)
    queue.initialize(to: ListenQueue())
    for (index, listener) in listeners.enumerated() { queues[index].stack.join(listener, queue) }
    return queue
  }

  func listen(port: UInt16, backlog: Int = 5, cookie: UInt32 = 1, reusePort: Bool = false) throws -> [SocketHandle] {
    try queues.map { queue in
      let socket = try queue.stack.open(.stream, cookie: cookie, now: now)
      if reusePort { try queue.stack.setOption(socket, .reusePort, 1, now: now) }
      try queue.stack.bind(socket, to: Endpoint(.anyIPv4, port), now: now)
      try queue.stack.listen(socket, backlog: backlog, now: now)
      return socket
    }
  }
}

private func ipv4(_ proto: UInt8, _ payload: [UInt8], flags: UInt16 = 0, offset: Int = 0) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 20)
  var header = IPv4Header(
    proto: proto, source: peerAddress, destination: stackAddress, payloadLength: payload.count, identification: 9,
    flags: flags)
  header.fragmentOffset = offset
  bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
  return bytes + payload
}

private func tcp(
  _ flags: TCPFlags, to port: UInt16, from peerPort: UInt16, seq: UInt32, ack: UInt32 = 0, _ payload: [UInt8] = []
) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 20) + payload
  bytes.withUnsafeMutableBytes {
    TCPHeader(
      sourcePort: peerPort, destinationPort: port, sequence: SequenceNumber(seq), acknowledgment: SequenceNumber(ack),
      headerLength: 20, flags: flags, window: 65535
    ).write(to: $0.baseAddress!)
    let pseudo = Checksum.pseudoHeader(
      source: IPAddress(peerAddress), destination: IPAddress(stackAddress), proto: IPProtocol.tcp, length: $0.count)
    $0.baseAddress!.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0), pseudo)), at: 16)
  }
  return bytes
}

private func icmp(_ type: UInt8, _ code: UInt8, _ payload: [UInt8]) -> [UInt8] {
  var bytes: [UInt8] = [type, code, 0, 0, 0, 0, 0, 0] + payload
  let sum = ~bytes.withUnsafeBytes { Checksum.fold(Checksum.sum($0)) }
  bytes[2] = UInt8(sum >> 8)
  bytes[3] = UInt8(sum & 255)
  return ipv4(IPProtocol.icmp, bytes)
}

private func sequence(_ packet: [UInt8]) -> UInt32 { packet[24..<28].reduce(0) { $0 << 8 | UInt32($1) } }

@Suite("Several stacks with one address")
struct SteeringTests {
  @Test("Both ends of a connection mean the same stack; connections are spread over all")
  func owner() {
    let machine = Machine(count: 3)
    var seen: [Int: Int] = [:]
    for port in UInt16(1000)..<1300 {
      let tuple = Machine.tuple(80, port)
      let owner = machine[0].stack.steering.owner(of: tuple)
      #expect(machine[2].stack.steering.owner(of: FourTuple(local: tuple.remote, remote: tuple.local)) == owner)
      seen[owner, default: 0] += 1
    }
    #expect(seen.count == 3 && seen.values.allSatisfy { (60...140).contains($0) })
  }

  @Test("RFC 6056: connect without bind chooses a port that makes the connection the stack's own")
  func ephemeralPorts() throws {
    let machine = Machine()
    for index in 0..<2 {
      for _ in 0..<50 {
        let socket = try machine[index].stack.open(.stream, cookie: 1, now: machine.now)
        #expect(throws: SocketError.inProgress) {
          try machine[index].stack.connect(socket, to: Endpoint(IPAddress(peerAddress), 80), now: machine.now)
        }
        #expect(machine.owner(machine[index].stack.localEndpoint(socket).port, 80) == index)
      }
    }
  }

  @Test("A bound socket connects only where its connection belongs")
  func boundElsewhere() throws {
    let machine = Machine()
    let port: UInt16 = 5000
    let remote = machine.peerPort(for: port, 1)
    let socket = try machine[0].stack.open(.stream, cookie: 1, now: machine.now)
    try machine[0].stack.bind(socket, to: Endpoint(.anyIPv4, port), now: machine.now)
    let there = Endpoint(IPAddress(peerAddress), remote)
    #expect(machine[0].stack.owner(of: socket, connectedTo: there, now: machine.now) == 1)
    #expect(throws: SocketError.addressNotAvailable) {
      try machine[0].stack.connect(socket, to: there, now: machine.now)
    }
  }

  @Test("A handshake that comes in at the wrong queue is finished by its owner, and each packet counted once")
  func strayHandshake() throws {
    let machine = Machine()
    let listeners = try machine.listen(port: 80)
    let from = machine.peerPort(for: 80, 1)
    machine.receive(ipv4(IPProtocol.tcp, tcp(.syn, to: 80, from: from, seq: 100)), at: 0)
    #expect(machine.sent(0).isEmpty)
    let answer = try #require(machine.sent(1).first)
    machine.receive(
      ipv4(IPProtocol.tcp, tcp(.ack, to: 80, from: from, seq: 101, ack: sequence(answer) &+ 1, [1, 2, 3])), at: 0)
    #expect(machine[0].stack.readiness(listeners[0]) == [])
    let child = try machine[1].stack.accept(listeners[1], cookie: 2, now: machine.now)
    #expect(machine[1].stack.unreadBytes(child) == 3)
    #expect(machine.total(.rxSteered) == 2)
    #expect(machine.total(.ipInReceives) == 2 && machine.total(.ipInDelivers) == 2 && machine.total(.tcpInSegs) == 2)
    machine[1].stack.close(child, now: machine.now)
    for index in 0..<2 { machine[index].stack.close(listeners[index], now: machine.now) }
    _ = machine.sent(1)
    #expect(machine.leaks() == 0)
  }

  @Test("listen(2): the backlog is one for all stacks")
  func sharedBacklog() throws {
    let machine = Machine()
    let listeners = try machine.listen(port: 80, backlog: 1)
    let queue = machine.joined(listeners)
    defer {
      queue.deinitialize(count: 1)
      queue.deallocate()
    }
    func handshake(_ owner: Int, from first: UInt16) -> Bool {
      let from = machine.peerPort(for: 80, owner, from: first)
      machine.receive(ipv4(IPProtocol.tcp, tcp(.syn, to: 80, from: from, seq: 0)), at: owner)
      guard let answer = machine.sent(owner).first else { return false }
      machine.receive(
        ipv4(IPProtocol.tcp, tcp(.ack, to: 80, from: from, seq: 1, ack: sequence(answer) &+ 1)), at: owner)
      return true
    }
    #expect(handshake(0, from: 1000) && handshake(1, from: 2000))
    #expect(machine[0].stack.information(listeners[0], now: machine.now).unacked == 2)
    #expect(!handshake(0, from: 3000) && !handshake(1, from: 4000), "both are full")
    _ = try machine[1].stack.accept(listeners[1], cookie: 1, now: machine.now)
    #expect(handshake(0, from: 5000), "there is room for one more, wherever it comes")
    for index in 0..<2 { machine[index].stack.close(listeners[index], now: machine.now) }
    #expect(queue.pointee.accepted.load(ordering: .relaxed) == 0)
    #expect(queue.pointee.handshakes.load(ordering: .relaxed) == 0)
  }

  @Test("A half-open connection that is reset leaves the common count of handshakes")
  func handshakeCount() throws {
    let machine = Machine()
    let listeners = try machine.listen(port: 80)
    let queue = machine.joined(listeners)
    defer {
      queue.deinitialize(count: 1)
      queue.deallocate()
    }
    let from = machine.peerPort(for: 80, 1)
    machine.receive(ipv4(IPProtocol.tcp, tcp(.syn, to: 80, from: from, seq: 0)), at: 1)
    #expect(queue.pointee.handshakes.load(ordering: .relaxed) == 1)
    machine.receive(ipv4(IPProtocol.tcp, tcp(.rst, to: 80, from: from, seq: 1)), at: 0)
    #expect(queue.pointee.handshakes.load(ordering: .relaxed) == 0)
    for index in 0..<2 { machine[index].stack.close(listeners[index], now: machine.now) }
  }

  @Test("SO_REUSEPORT: of as many listeners as stacks each has its connections in one stack")
  func reusePort() throws {
    let machine = Machine()
    let first = try machine.listen(port: 80, cookie: 1, reusePort: true)
    let second = try machine.listen(port: 80, cookie: 2, reusePort: true)
    var homes: [UInt32: Set<Int>] = [:]
    for from in UInt16(1000)..<1040 {
      let owner = machine.owner(80, from)
      machine.receive(ipv4(IPProtocol.tcp, tcp(.syn, to: 80, from: from, seq: 0)), at: 0)
      let answer = try #require(machine.sent(owner).first)
      machine.receive(ipv4(IPProtocol.tcp, tcp(.ack, to: 80, from: from, seq: 1, ack: sequence(answer) &+ 1)), at: 0)
      for (cookie, listeners) in [(UInt32(1), first), (2, second)]
      where machine[owner].stack.readiness(listeners[owner]).contains(.readable) {
        homes[cookie, default: []].insert(owner)
        _ = try machine[owner].stack.accept(listeners[owner], cookie: 9, now: machine.now)
      }
    }
    #expect(homes.count == 2 && homes.values.allSatisfy { $0.count == 1 } && homes[1] != homes[2])
  }

  @Test("UDP and its fragments are the first stack's, wherever they come in")
  func datagrams() throws {
    let machine = Machine()
    let socket = try machine[0].stack.open(.datagram, cookie: 1, now: machine.now)
    try machine[0].stack.bind(socket, to: Endpoint(.anyIPv4, 53), now: machine.now)
    var datagram = [UInt8](repeating: 7, count: 8 + 3000)
    datagram.withUnsafeMutableBytes {
      UDPHeader(sourcePort: 9, destinationPort: 53, totalLength: 3008).write(to: $0.baseAddress!)
    }
    machine.receive(ipv4(IPProtocol.udp, Array(datagram[..<1480]), flags: IPv4Header.flagMoreFragments), at: 1)
    machine.receive(ipv4(IPProtocol.udp, Array(datagram[1480...]), offset: 1480), at: 0)
    #expect(machine[0].stack.unreadBytes(socket) == 3000)
    #expect(machine.total(.ipReasmOKs) == 1 && machine.total(.ipReasmReqds) == 2)
    machine[0].stack.close(socket, now: machine.now)
    #expect(machine.leaks() == 0)
  }

  @Test("RFC 791: a segment put together from fragments goes on to its connection's stack")
  func fragmentedSegment() throws {
    let machine = Machine()
    let listeners = try machine.listen(port: 80)
    let from = machine.peerPort(for: 80, 1)
    machine.receive(ipv4(IPProtocol.tcp, tcp(.syn, to: 80, from: from, seq: 0)), at: 1)
    let iss = sequence(try #require(machine.sent(1).first))
    let segment = tcp([.ack, .psh], to: 80, from: from, seq: 1, ack: iss &+ 1, pattern(2000))
    machine.receive(ipv4(IPProtocol.tcp, Array(segment[..<1480]), flags: IPv4Header.flagMoreFragments), at: 1)
    machine.receive(ipv4(IPProtocol.tcp, Array(segment[1480...]), offset: 1480), at: 1)
    let child = try machine[1].stack.accept(listeners[1], cookie: 2, now: machine.now)
    #expect(machine[1].stack.unreadBytes(child) == 2000)
  }

  @Test(
    "Raw sockets are the first stack's: whatever stays in another is copied to them, once; errors about what they sent, too"
  )
  func rawSockets() throws {
    let machine = Machine()
    func open(_ proto: UInt8) throws -> SocketHandle {
      try machine[0].stack.openDatagram(.raw, proto: proto, isIPv6: false, cookie: 1, now: machine.now)
    }
    /// How many packets wait at `socket`, whose length is told.
    func taken(_ socket: SocketHandle) -> [Int] {
      var lengths: [Int] = []
      var buffer = [UInt8](repeating: 0, count: 2000)
      while let datagram = try? buffer.withUnsafeMutableBytes({
        try machine[0].stack.receiveDatagram(socket, into: $0, flags: [], now: machine.now)
      }) {
        lengths.append(datagram.length)
      }
      return lengths
    }
    let (echoes, segments, others) = (try open(IPProtocol.icmp), try open(IPProtocol.tcp), try open(253))
    for queue in 0..<2 {
      machine.receive(icmp(8, 0, [1, 2, 3, 4]), at: queue)
      #expect(taken(echoes) == [32] && machine.sent(queue).count == 1)
      for owner in 0..<2 {
        let segment = tcp(.syn, to: 81, from: machine.peerPort(for: 81, owner), seq: 5)
        machine.receive(ipv4(IPProtocol.tcp, segment), at: queue)
        #expect(taken(segments) == [40])
        #expect(machine.sent(owner).count == 1 && machine.sent(1 - owner).isEmpty, "its RST")
        // What a raw socket of ours sent by itself, and has been turned back.
        try machine[0].stack.setOption(segments, .receiveErrors, 1, now: machine.now)
        var quoted = ipv4(IPProtocol.tcp, tcp(.syn, to: machine.peerPort(for: 82, owner), from: 82, seq: 1))
        (quoted[12..<16], quoted[16..<20]) = (quoted[16..<20], quoted[12..<16])
        machine.receive(icmp(11, 0, Array(quoted[..<28])), at: queue)
        #expect(machine[0].stack.takeError(segments) == .hostUnreachable)
        var buffer = [UInt8](repeating: 0, count: 100)
        var errors = 0
        while buffer.withUnsafeMutableBytes({ machine[0].stack.receiveError(segments, into: $0) }) != nil {
          errors += 1
        }
        #expect(errors == 1 && taken(echoes) == [56])
        try machine[0].stack.setOption(segments, .receiveErrors, 0, now: machine.now)
      }
      machine.receive(ipv4(253, [1, 2, 3]), at: queue)
      #expect(taken(others) == [23] && machine.sent(queue).isEmpty, "no ICMP error: somebody has it")
    }
    let before = (machine.total(.ipInReceives), machine.total(.ipInDelivers))
    #expect(before == (12, 12), "each packet is counted once")
    for socket in [echoes, segments, others] { machine[0].stack.close(socket, now: machine.now) }
    machine.receive(ipv4(253, [1, 2, 3]), at: 1)
    #expect(machine.sent(1).count == 1, "nobody has it any more")
    #expect(machine.leaks() == 0)
  }

  @Test("RFC 792: an ICMP error finds the connection that it is about; an echo is answered where it comes in")
  func errors() throws {
    let machine = Machine()
    let socket = try machine[1].stack.open(.stream, cookie: 1, now: machine.now)
    #expect(throws: SocketError.inProgress) {
      try machine[1].stack.connect(socket, to: Endpoint(IPAddress(peerAddress), 80), now: machine.now)
    }
    let syn = try #require(machine.sent(1).first)
    machine.receive(icmp(3, 1, Array(syn[..<28])), at: 0)
    #expect(machine[1].stack.takeError(socket) == .hostUnreachable)
    #expect(machine.total(.icmpInMsgs) == 1 && machine.total(.icmpInDestUnreachs) == 1)
    machine.receive(icmp(8, 0, [1, 2, 3, 4]), at: 1)
    #expect(machine.sent(1).count == 1 && machine.sent(0).isEmpty)
    #expect(machine.total(.rxSteered) == 1)
  }

  @Test("RFC 826: one stack answers a request, and all learn where a neighbour is")
  func arp() throws {
    let machine = Machine(link: .ethernet)
    let peer = MACAddress(bits: 0x02_0a_0b_0c_0d_0e)
    _ = machine.sent(0)
    #expect(machine.sent(1).isEmpty, "one announcement is enough")
    var bytes = [UInt8](repeating: 0, count: 14 + 28)
    bytes.withUnsafeMutableBytes {
      EthernetHeader(destination: .broadcast, source: peer, etherType: EtherType.arp).write(to: $0.baseAddress!)
      ARPPacket(
        operation: ARPPacket.request, senderHardware: peer, senderProtocol: peerAddress, targetHardware: .zero,
        targetProtocol: stackAddress
      ).write(to: $0.baseAddress! + 14)
    }
    machine.receive(bytes, at: 1)
    #expect(machine.sent(1).count == 1 && machine.sent(0).isEmpty)
    let socket = try machine[0].stack.open(.stream, cookie: 1, now: machine.now)
    #expect(throws: SocketError.inProgress) {
      try machine[0].stack.connect(socket, to: Endpoint(IPAddress(peerAddress), 80), now: machine.now)
    }
    let frame = try #require(machine.sent(0).first)
    #expect(frame[12] == 0x08 && frame[13] == 0x00, "the SYN itself, not a question")
    #expect(machine.total(.arpInRequests) == 1)
  }

  @Test("A record for another stack has what the program set, and no port")
  func likeness() throws {
    let machine = Machine()
    let socket = try machine[0].stack.open(.stream, cookie: 1, now: machine.now)
    let options: [(SocketOption, Int)] = [
      (.noDelay, 1), (.receiveBuffer, 9000), (.congestion, Int(CongestionAlgorithm.reno.rawValue)),
      (.maximumSegment, 700),
    ]
    for (option, value) in options { try machine[0].stack.setOption(socket, option, value, now: machine.now) }
    let other = try machine[1].stack.open(like: try machine[0].stack.likeness(of: socket), cookie: 1, now: machine.now)
    for (option, _) in options {
      #expect(try machine[1].stack.option(other, option) == machine[0].stack.option(socket, option))
    }
    try machine[1].stack.bind(other, to: Endpoint(.anyIPv4, 81), now: machine.now)
    #expect(machine[1].stack.hasPort(other) == true)
    machine[1].stack.unbind(other)
    #expect(machine[1].stack.hasPort(other) == false && machine[1].stack.localEndpoint(other).port == 0)
  }
}
