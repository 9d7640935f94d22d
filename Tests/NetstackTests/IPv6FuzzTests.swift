// Frames that are nearly right, thousands of them, against stacks with sockets: nothing may trap, nothing may be left over, nothing
// may grow without bound, and what is sent in answer must be sound.

import Testing
import Wire

@testable import Netstack

private typealias Bench = IPv6Bench

private struct Fuzzer {
  var random: SeededRandom
  let bench: IPv6Bench
  /// The last packets that the stack sent, to be quoted in errors.
  var sent: [[UInt8]] = []
  var connectionPort: UInt16 = 0
  /// What the connection's other end would send next, and has got.
  var (sequence, acknowledgment) = (UInt32(1), UInt32(0))

  init(seed: UInt64, _ bench: IPv6Bench) {
    random = SeededRandom(seed: seed)
    self.bench = bench
  }

  mutating func chance(_ percent: Int) -> Bool { random.below(100) < percent }
  mutating func pick<T>(_ values: [T]) -> T { values[random.below(values.count)] }
  mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) } }

  mutating func address() -> IPAddress {
    if chance(70) { return pick([Bench.peer, Bench.peer, Bench.router, six("fe80::5"), six("2001:db8::6")]) }
    return pick([
      .anyIPv6, .allNodes, Bench.ours, Bench.linkLocal, IPAddress(peerAddress), six("::1"), Bench.far,
      IPAddress(high: random.next(), low: random.next()),
    ])
  }

  mutating func destination() -> IPAddress {
    if chance(70) { return pick([Bench.ours, Bench.linkLocal]) }
    return pick([.allNodes, Bench.ours.solicitedNode, Bench.linkLocal.solicitedNode, six("ff01::1"), Bench.peer])
  }

  /// Options of neighbour discovery, sound and unsound.
  mutating func options() -> [UInt8] {
    var all: [UInt8] = []
    for _ in 0..<random.below(4) {
      switch random.below(8) {
      case 0: all += [1, 1] + bytes(6)
      case 1: all += [2, 1] + bytes(6)
      case 2:
        all += Bench.prefixOption(
          pick(["2001:db8:1::", "2001:db8:2::", "fe80::", "2001:db8::"]), length: pick([64, 64, 64, 0, 128, 129]),
          valid: pick([0, 1, 60, .max]), preferred: pick([0, 1, 60]))
      case 3: all += [5, 1, 0, 0] + pick([[0, 0, 5, 0], [0, 0, 5, 0xdc], bytes(4)])
      case 4: all += [25, 3, 0, 0] + bytes(20)
      case 5: all += [24, UInt8(1 + random.below(3)), UInt8(random.below(140)), pick([0, 8, 24])] + bytes(20)
      case 6: all += [14, 1] + bytes(6)
      default: all += [UInt8(random.below(256)), UInt8(random.below(4))] + bytes(6)
      }
    }
    return all
  }

  /// A transport's packet, its checksum still to be made: protocol, where the checksum is, bytes.
  mutating func message(_ source: IPAddress, _ destination: IPAddress) -> (UInt8, Int, [UInt8]) {
    func written(_ address: IPAddress) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: 16)
      bytes.withUnsafeMutableBytes { address.write16(to: $0.baseAddress!, at: 0) }
      return bytes
    }
    switch random.below(9) {
    case 0:
      return (58, 2, [135, 0, 0, 0, 0, 0, 0, 0] + written(pick([Bench.ours, Bench.linkLocal, address()])) + options())
    case 1:
      return (58, 2, [136, 0, 0, 0, pick([0, 0x20, 0x40, 0x60, 0xe0]), 0, 0, 0] + written(address()) + options())
    case 2: return (58, 2, [134, 0, 0, 0, 64, pick([0, 8, 0x18]), 0, pick([0, 1, 200])] + bytes(8) + options())
    case 3:
      return (
        58, 2, [137, 0, 0, 0, 0, 0, 0, 0] + written(address()) + written(pick([Bench.far, address()])) + options()
      )
    case 4: return (58, 2, [128, 0, 0, 0] + bytes(4 + random.below(3000)))
    case 5:
      let quoted = sent.isEmpty ? bytes(60) : pick(sent)
      return (
        58, 2, [pick([1, 2, 3, 4, 100]), UInt8(random.below(8)), 0, 0] + bytes(4) + quoted.prefix(random.below(1232))
      )
    case 6:
      return (17, 6, Array(Bench.udp(bytes(random.below(2000)), destinationPort: pick([53, 53, 99])).prefix(5000)))
    case 7:
      var flags = TCPFlags(rawValue: UInt8(truncatingIfNeeded: random.next()))
      if chance(50) { flags = pick([.syn, .ack, [.ack, .fin], .rst, [.syn, .ack]]) }
      return (
        6, 16,
        Bench.tcp(
          flags, sourcePort: UInt16(1000 + random.below(30)), destinationPort: pick([80, 80, 81]),
          seq: UInt32(random.below(4)), ack: UInt32(truncatingIfNeeded: random.next()), bytes(random.below(50)),
          mss: pick([nil, 1000, 0]))
      )
    default:
      return (
        6, 16,
        Bench.tcp(
          pick([.ack, [.ack, .psh], [.ack, .fin], .rst]), sourcePort: 7, destinationPort: connectionPort,
          seq: sequence &+ UInt32(random.below(3000)), ack: acknowledgment, bytes(random.below(2000)))
      )
    }
  }

  mutating func damage(_ bytes: inout [UInt8]) {
    guard !bytes.isEmpty else { return }
    switch random.below(4) {
    case 0: bytes.removeLast(random.below(bytes.count))
    case 1: bytes += self.bytes(random.below(40))
    default:
      for _ in 0...random.below(3) { bytes[random.below(bytes.count)] = pick([0, 1, 255, UInt8(random.below(256))]) }
    }
  }

  /// One packet, or its fragments.
  mutating func packets() -> [[UInt8]] {
    let source = address()
    let destination = destination()
    var (next, checksumAt, body) = message(source, destination)
    if chance(40) { damage(&body) }
    if chance(90), body.count > checksumAt + 1 {
      body = Bench.checked(body, next, at: checksumAt, from: source, to: destination)
    }
    for _ in 0..<(chance(30) ? random.below(4) : 0) {
      switch random.below(4) {
      case 0: body = [next, 0, UInt8(random.below(4)), chance(80) ? 0 : 1, 0, 0, 0, 0] + body
      case 1: body = Bench.fragment(next, offset: 0, more: false, body)
      default:
        body =
          Bench.options(next, pick([[], [5, 2, 0, 0], [0x1e, 3, 1, 2, 3], [UInt8(random.below(256)), 1, 0]])) + body
      }
      next = pick([60, 60, 43, 0, 44]) == 0 ? 0 : body.count > 8 ? pick([60, 43, 44, 60]) : next
    }
    let hopLimit: UInt8 = chance(85) ? 255 : 64
    guard chance(25), body.count > 8 else {
      return [Bench.ipv6(next, body, from: source, to: destination, hopLimit: hopLimit)]
    }
    var pieces: [[UInt8]] = []
    let identification = UInt32(random.below(20))
    var offset = 0
    while offset < body.count {
      let length = chance(95) ? min(body.count - offset, 8 * (1 + random.below(180))) : min(body.count - offset, 13)
      var piece = Bench.fragment(
        next, offset: offset & ~7, more: offset + length < body.count, identification: identification,
        Array(body[offset..<offset + length]))
      var kind: UInt8 = 44
      if chance(20) {
        piece = Bench.options(44, [1, 254] + [UInt8](repeating: 0, count: 254)) + piece
        kind = 60
      }
      if !chance(3) { pieces.append(Bench.ipv6(kind, piece, from: source, to: destination, hopLimit: hopLimit)) }
      if chance(5), let again = pieces.last { pieces.append(again) }
      if !chance(5) { offset += length }
    }
    return chance(50) ? pieces : pieces.reversed()
  }

  mutating func frames() -> [[UInt8]] {
    var frames: [[UInt8]] = []
    for var packet in packets() {
      if chance(15) { damage(&packet) }
      if packet.count < 40 { packet += [UInt8](repeating: 0, count: 40 - packet.count) }
      frames.append(bench.frame(packet, to: chance(3) ? .broadcast : nil))
    }
    return frames
  }

  /// Keeps what a stack has sent; every packet is looked at by `Packet6`.
  mutating func note(_ packets: [Packet6]) {
    for packet in packets where packet.ip.nextHeader != 44 {
      _ = packet.icmp
      _ = packet.tcp
      #expect(!packet.ip.source.isMulticast)
      sent.append(packet.bytes)
      if sent.count > 20 { sent.removeFirst() }
    }
  }
}

@Suite("IPv6 under nearly right frames")
struct IPv6FuzzTests {
  @Test("Thousands of them: no trap, nothing left over, nothing without bound", arguments: [1, 2, 3, 4], [1, 3])
  func survives(seed: UInt64, queues: Int) throws {
    let machine = IPv6Machine(count: queues)
    let first = machine.queues[0]
    var fuzzer = Fuzzer(seed: seed, first)
    let listeners = try machine.queues.map { queue in
      let socket = try queue.stack.open(.stream, isIPv6: true, cookie: 1, now: queue.now)
      try queue.stack.bind(socket, to: Endpoint(.anyIPv6, 80), now: queue.now)
      try queue.stack.listen(socket, backlog: 5, now: queue.now)
      return socket
    }
    let datagrams = try first.datagramSocket(port: 53)
    let connected = try first.datagramSocket(port: 54)
    try first.stack.connect(connected, to: Endpoint(Bench.peer, 9), now: first.now)
    first.introducePeer()
    let (connection, port, next) = try first.connected(to: Endpoint(Bench.peer, 7))
    fuzzer.connectionPort = port
    fuzzer.acknowledgment = next
    var accepted: [(Int, SocketHandle)] = []
    var most = 0
    for round in 0..<3000 {
      for frame in fuzzer.frames() {
        machine.receive(frame, at: fuzzer.random.below(queues))
        for queue in machine.queues {
          fuzzer.note(queue.sent())
          most = max(most, queue.stack.leakReport().packets)
        }
      }
      // The program does something, too.
      if round % 7 == 0 {
        _ = try? first.send(datagrams, pattern(fuzzer.random.below(4000)), to: Endpoint(Bench.peer, 9))
        _ = try? first.send(connected, [1], to: nil)
        let data = pattern(fuzzer.random.below(3000))
        _ = data.withUnsafeBytes { raw in
          do throws(SocketError) { return try first.stack.send(connection, raw, flags: [], now: first.now) } catch {
            return 0
          }
        }
        while first.stack.unreadBytes(datagrams) > 0, (try? first.receiveDatagram(datagrams)) != nil {}
        for (index, queue) in machine.queues.enumerated() {
          while let child = try? queue.stack.accept(listeners[index], cookie: 2, now: queue.now) {
            accepted.append((index, child))
          }
        }
      }
      for (index, queue) in machine.queues.enumerated() {
        queue.pass(.milliseconds(round % 1000 == 999 ? 61_000 : 20))
        machine.deliverStrays(of: index)
        while queue.stack.nextChanged() != nil {}
        fuzzer.note(queue.sent())
        #expect(queue.stack.addresses.count <= InterfaceAddresses.maximumCount)
        #expect(queue.stack.neighbors.count <= queue.stack.settings.neighborMaximum)
        #expect(queue.stack.reassembly.memory <= queue.stack.settings.ipfragHighThreshold)
      }
    }
    #expect(most < 4000, "packets held at once")
    #expect(first.stack.statistics[.ip6InDelivers] > 500 && first.stack.statistics[.ipReasmOKs] > 20)
    for (index, child) in accepted { machine.queues[index].stack.close(child, now: machine.queues[index].now) }
    for (index, listener) in listeners.enumerated() {
      machine.queues[index].stack.close(listener, now: machine.queues[index].now)
    }
    for socket in [datagrams, connected, connection] { first.stack.close(socket, now: first.now) }
    for _ in 0..<200 {
      for (index, queue) in machine.queues.enumerated() {
        queue.pass(.seconds(10))
        machine.deliverStrays(of: index)
        _ = queue.frames()
      }
    }
    for queue in machine.queues {
      let left = queue.leaks()
      #expect(left.packets == 0 && left.sockets == 0)
      #expect(queue.stack.reassembly.memory == 0 && queue.stack.reassembly.count == 0)
    }
  }
}
