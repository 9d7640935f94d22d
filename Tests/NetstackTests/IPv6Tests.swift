// IPv6 from frame to socket: extension headers, fragments, ICMPv6, path MTU, both families in one socket.

import Testing
import Wire

@testable import Netstack

private typealias Bench = IPv6Bench

@Suite("IPv6 header and extension headers on the way in")
struct IPv6ReceiveTests {
  private func reply(_ bench: IPv6Bench, _ next: UInt8, _ chain: [UInt8], to: IPAddress = IPv6Bench.ours) -> Packet6? {
    bench.receive(bench.frame(IPv6Bench.ipv6(next, chain, to: to)))
    let sent = bench.sent()
    #expect(sent.count <= 1)
    return sent.first
  }

  @Test("RFC 4443 §4.2: an echo request is answered with the same data, from the address that was asked")
  func echo() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let request = Bench.icmp(128, rest: 0x0001_0002, pattern(200))
    let answer = try #require(reply(bench, IPProtocol.icmpv6, request))
    #expect(answer.icmp! == (129, 0) && answer.rest == 0x0001_0002 && Array(answer.payload[8...]) == pattern(200))
    #expect(answer.ip.source == Bench.ours && answer.ip.destination == Bench.peer && answer.ip.hopLimit == 64)
    #expect(bench.stack.statistics[.icmp6InEchos] == 1)
    // To a group: from an address of ours (RFC 4443 §4.2).
    let toAll = Bench.icmp(128, pattern(20), to: .allNodes)
    let group = try #require(reply(bench, IPProtocol.icmpv6, toAll, to: .allNodes))
    #expect(group.icmp! == (129, 0) && group.ip.source == Bench.ours)
    // Not ours, not our group.
    for elsewhere in [six("2001:db8::6"), six("ff02::2"), six("ff02::1:ff00:99")] {
      #expect(reply(bench, IPProtocol.icmpv6, Bench.icmp(128, [], to: elsewhere), to: elsewhere) == nil)
    }
    #expect(bench.leaks() == (0, 0))
  }

  @Test("A wrong checksum, a source that is no node, loopback and IPv4 in IPv6's clothes are dropped")
  func refused() {
    let bench = IPv6Bench()
    bench.introducePeer()
    var broken = Bench.icmp(128, [1, 2, 3])
    broken[9] ^= 1
    bench.receive(bench.frame(Bench.ipv6(IPProtocol.icmpv6, broken)))
    #expect(bench.stack.statistics[drop: .icmpChecksum] == 1)
    for source in [six("ff02::1"), six("::1"), IPAddress(peerAddress), .anyIPv6] {
      bench.receive(bench.frame(Bench.ipv6(IPProtocol.icmpv6, Bench.icmp(128, [], from: source), from: source)))
      bench.receive(
        bench.frame(Bench.ipv6(IPProtocol.udp, Bench.udp([1], destinationPort: 9, from: source), from: source)))
    }
    let mapped = IPAddress(stackAddress)
    bench.receive(bench.frame(Bench.ipv6(IPProtocol.udp, Bench.udp([1], destinationPort: 9, to: mapped), to: mapped)))
    #expect(bench.sent().isEmpty)
    #expect(bench.stack.statistics[drop: .ipMartianSource] == 8)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 8200 §4: options and headers with nothing to do are passed over")
  func passedOver() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let request = Bench.icmp(128, [7])
    let chain =
      Bench.options(43, [5, 2, 0, 0]) + [60, 0, 4, 0, 0, 0, 0, 0] + Bench.options(58, [0x1e, 1, 0]) + request
    #expect(try #require(reply(bench, 0, chain)).icmp! == (129, 0))
    #expect(reply(bench, 59, [1, 2, 3]) == nil)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 4443 §3.4: parameter problems: code and pointer, quoting the packet")
  func parameterProblems() throws {
    let cases: [(name: String, next: UInt8, chain: [UInt8], code: UInt8, pointer: UInt32)] = [
      ("unknown next header", 200, [1, 2, 3, 4], 1, 6),
      ("unknown behind options", 60, Bench.options(200) + [1], 1, 40),
      ("hop-by-hop second", 60, Bench.options(0) + Bench.options(58), 1, 40),
      ("routing with segments left", 43, [58, 0, 0, 2, 0, 0, 0, 0], 0, 42),
      ("unknown option", 60, Bench.options(58, [1, 0, 0x80, 0]), 2, 44),
      ("unknown option, not to groups", 60, Bench.options(58, [0xc2, 4, 0, 0, 0, 0]), 2, 42),
    ]
    for (name, next, chain, code, pointer) in cases {
      let bench = IPv6Bench()
      bench.introducePeer()
      let error = try #require(reply(bench, next, chain), "\(name)")
      #expect(error.icmp! == (4, code) && error.rest == pointer, "\(name)")
      #expect(Array(error.payload[8...]) == Bench.ipv6(next, chain), "\(name)")
      #expect(bench.leaks() == (0, 0))
    }
  }

  @Test(
    "RFC 8200 §4.2: an unknown option of type 01 is dropped without a word; RFC 4443 §2.4 (e.3): of type 10 told even to senders to groups"
  )
  func groups() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    #expect(reply(bench, 60, Bench.options(58, [0x40, 0])) == nil)
    #expect(reply(bench, 60, Bench.options(58, [0xc0, 0]), to: .allNodes) == nil)
    #expect(reply(bench, 60, Bench.options(200), to: .allNodes) == nil, "code 1 is not told")
    let told = try #require(reply(bench, 60, Bench.options(58, [0x80, 0]), to: .allNodes))
    #expect(told.icmp! == (4, 2) && told.ip.source == Bench.ours)
  }

  @Test("RFC 4443 §2.4: no error about an error, a redirect, to no single node, or about what came in a frame to many")
  func mayNotReport() {
    let bench = IPv6Bench()
    bench.introducePeer()
    func may(_ next: UInt8, _ chain: [UInt8], from: IPAddress = IPv6Bench.peer, evenMulticast: Bool = true) -> Bool {
      let bytes = Bench.ipv6(next, chain, from: from)
      return bytes.withUnsafeBytes {
        ICMPv6Messages.mayReport(IPv6Header(quoted: $0)!, $0, wasLinkBroadcast: false, evenMulticast: evenMulticast)
      }
    }
    let rest = [UInt8](repeating: 0, count: 7)
    for type: UInt8 in [1, 2, 3, 4, 100, 127, 137] {
      #expect(!may(60, Bench.options(58, [0x1e, 0]) + [type] + rest))
      #expect(!may(44, Bench.fragment(58, offset: 0, more: true, [type] + rest)))
      #expect(!may(44, Bench.fragment(58, offset: 8, more: true, [type] + rest)), "it may be a piece of an error")
    }
    for type: UInt8 in [128, 129, 133, 136, 200] { #expect(may(58, [type] + rest)) }
    #expect(!may(58, []), "it cannot be told")
    for source in [IPAddress.anyIPv6, .allNodes] { #expect(!may(17, rest, from: source)) }
    let datagram = Bench.udp([1], destinationPort: 9)
    bench.receive(bench.frame(Bench.ipv6(IPProtocol.udp, datagram), to: .broadcast))
    #expect(bench.sent().isEmpty)
    #expect(bench.stack.statistics[drop: .udpNoSocket] == 1)
  }

  @Test("RFC 4443 §2.4 (c): an error fills no more than 1280 bytes")
  func quoteSize() throws {
    for count in [0, 100, 1231, 1232, 1233, 1400] {
      let bench = IPv6Bench()
      bench.introducePeer()
      let chain = [UInt8](repeating: 3, count: count)
      let error = try #require(reply(bench, 200, chain))
      #expect(error.bytes.count == min(1280, 40 + 8 + 40 + count))
      #expect(Array(error.payload[8...]) == Array(Bench.ipv6(200, chain).prefix(1232)))
    }
  }

  @Test("RFC 4443 §2.4 (f): errors are limited")
  func rateLimit() {
    let bench = IPv6Bench()
    bench.introducePeer()
    var count = 0
    for _ in 0..<50 where reply(bench, 200, [1]) != nil { count += 1 }
    #expect(count == 6)
    #expect(bench.stack.statistics[.icmpOutRateLimited] == 44)
    bench.pass(.seconds(1))
    #expect(reply(bench, 200, [1]) != nil)
  }

  @Test("Every packet cut at every byte is dropped, and nothing is lost for it")
  func truncated() {
    let bench = IPv6Bench()
    bench.introducePeer()
    let packets = [
      Bench.ipv6(IPProtocol.icmpv6, Bench.icmp(128, pattern(9))),
      Bench.ipv6(IPProtocol.udp, Bench.udp(pattern(9), destinationPort: 9)),
      Bench.ipv6(IPProtocol.tcp, Bench.tcp(.syn, sourcePort: 9, destinationPort: 9, seq: 0, mss: 1000)),
      Bench.ipv6(
        0,
        Bench.options(43) + [60, 0, 4, 0, 0, 0, 0, 0] + Bench.options(44, [0x1e, 2, 0, 0])
          + Bench.fragment(17, offset: 0, more: false, Bench.udp([1], destinationPort: 9))),
      Bench.ipv6(44, Bench.fragment(17, offset: 8, more: true, pattern(16))),
    ]
    for packet in packets {
      for length in 0..<packet.count {
        bench.receive(bench.frame(packet + [UInt8](repeating: 0, count: 40)).prefix(14 + length).map { $0 })
        // The same with a length that says so: cut inside the headers.
        guard length >= 40 else { continue }
        var cut = Array(packet[..<length])
        cut[4] = UInt8((length - 40) >> 8)
        cut[5] = UInt8((length - 40) & 255)
        bench.receive(bench.frame(cut))
      }
    }
    bench.pass(.seconds(61))
    _ = bench.sent()
    bench.pass(.seconds(10))
    _ = bench.sent()
    #expect(bench.leaks() == (0, 0))
  }
}

@Suite("IPv6 fragments")
struct IPv6FragmentTests {
  private func pieces(_ whole: [UInt8], _ next: UInt8, sizes: [Int], identification: UInt32 = 77) -> [[UInt8]] {
    var pieces: [[UInt8]] = []
    var offset = 0
    for (i, size) in sizes.enumerated() {
      pieces.append(
        Bench.ipv6(
          44,
          Bench.fragment(
            next, offset: offset, more: i < sizes.count - 1, identification: identification,
            Array(whole[offset..<offset + size]))))
      offset += size
    }
    precondition(offset == whole.count)
    return pieces
  }

  @Test(
    "RFC 8200 §4.5: a datagram is put together in any order",
    arguments: [[0, 1, 2], [2, 1, 0], [1, 2, 0], [2, 0, 1]])
  func reassembly(order: [Int]) throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    let datagram = Bench.udp(pattern(3000), destinationPort: 53)
    let pieces = pieces(datagram, 17, sizes: [1448, 1448, 112])
    for i in order { bench.receive(bench.frame(pieces[i])) }
    #expect(try bench.receiveDatagram(socket).bytes == pattern(3000))
    #expect(bench.stack.statistics[.ipReasmOKs] == 1 && bench.stack.statistics[.ipReasmReqds] == 3)
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test(
    "RFC 8200 §4.5: next header and unfragmentable part are the first fragment's; the identification and both addresses tell apart"
  )
  func firstCounts() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let socket = try bench.datagramSocket(port: 53)
    let datagram = Bench.udp(pattern(40), destinationPort: 53)
    // The last says TCP, and has options that the first has not.
    bench.receive(
      bench.frame(
        Bench.ipv6(
          60, Bench.options(44, [0x1e, 2, 0, 0]) + Bench.fragment(6, offset: 24, more: false, Array(datagram[24...])))))
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 0, more: true, Array(datagram[..<24])))))
    #expect(try bench.receiveDatagram(socket).bytes == pattern(40))
    // Another identification, another source.
    bench.receive(
      bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 0, more: true, identification: 1, Array(datagram[..<24])))))
    bench.receive(
      bench.frame(
        Bench.ipv6(44, Bench.fragment(17, offset: 24, more: false, identification: 2, Array(datagram[24...])))))
    bench.receive(
      bench.frame(
        Bench.ipv6(
          44, Bench.fragment(17, offset: 24, more: false, identification: 1, Array(datagram[24...])),
          from: six("2001:db8::6"))))
    #expect(bench.stack.unreadBytes(socket) == 0)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 8200 §4.5: an echo request with hop-by-hop options in front is put together, its answer cut again")
  func echo() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let request = Bench.icmp(128, pattern(3000))
    for (offset, end) in [(0, 1400), (1400, 2800), (2800, 3008)] {
      let piece = Bench.fragment(58, offset: offset, more: end < 3008, Array(request[offset..<end]))
      bench.receive(bench.frame(Bench.ipv6(0, Bench.options(44) + piece)))
    }
    let answers = bench.sent()
    #expect(answers.map(\.bytes.count) == [1496, 1496, 48 + 3008 - 2 * 1448])
    #expect(answers.allSatisfy { $0.ip.nextHeader == 44 })
    let whole = answers.flatMap { $0.payload[8...] }
    #expect(whole.count == 3008 && whole[0] == 129 && Array(whole[8...]) == pattern(3000))
    let headers = answers.map { $0.payload.withUnsafeBytes { IPv6Fragment($0.baseAddress!, at: 0) } }
    #expect(headers.map(\.offset) == [0, 1448, 2896] && headers.map(\.moreFollow) == [true, true, false])
    #expect(Set(headers.map(\.identification)).count == 1 && headers.allSatisfy { $0.nextHeader == 58 })
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 5722: an overlap drops the whole; a plain duplicate does not")
  func overlap() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    let datagram = Bench.udp(pattern(92), destinationPort: 53)
    func piece(_ start: Int, _ end: Int, _ identification: UInt32) {
      bench.receive(
        bench.frame(
          Bench.ipv6(
            44,
            Bench.fragment(
              17, offset: start, more: end < 100, identification: identification, Array(datagram[start..<end])))))
    }
    piece(0, 48, 1)
    piece(40, 80, 1)
    #expect(bench.stack.statistics[drop: .fragmentOverlap] == 1)
    piece(48, 100, 1)
    #expect(bench.stack.unreadBytes(socket) == 0)
    piece(0, 48, 2)
    piece(0, 48, 2)
    piece(48, 100, 2)
    #expect(bench.stack.unreadBytes(socket) == 92)
    bench.stack.close(socket, now: bench.now)
    bench.pass(.seconds(61))
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 6946: an atomic fragment is a packet of its own, whatever waits with the same identification")
  func atomic() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    let datagram = Bench.udp(pattern(92), destinationPort: 53)
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 0, more: true, Array(datagram[..<48])))))
    let other = Bench.udp([5, 6], destinationPort: 53)
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 0, more: false, other))))
    #expect(try bench.receiveDatagram(socket).bytes == [5, 6])
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 48, more: false, Array(datagram[48...])))))
    #expect(try bench.receiveDatagram(socket).bytes == pattern(92))
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 8200 §4.5: a piece of odd length, one that ends beyond 65,535 bytes: parameter problem with its pointer")
  func lengths() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 0, more: true, pattern(21)))))
    let odd = try #require(bench.sent().first)
    #expect(odd.icmp! == (4, 0) && odd.rest == 4)
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(17, offset: 65528, more: false, pattern(8)))))
    let long = try #require(bench.sent().first)
    #expect(long.icmp! == (4, 0) && long.rest == 42)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 7112 §5: all headers, the transport's too, are in the first fragment")
  func headerChain() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let options = Bench.options(6, [0x1e, 20] + [UInt8](repeating: 0, count: 20))
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(60, offset: 0, more: true, Array(options[..<16])))))
    let extensionCut = try #require(bench.sent().first)
    #expect(extensionCut.icmp! == (4, 3) && extensionCut.rest == 0)
    let segment = Bench.tcp(.syn, sourcePort: 9, destinationPort: 9, seq: 0)
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(6, offset: 0, more: true, Array(segment[..<16])))))
    let transportCut = try #require(bench.sent().first)
    #expect(transportCut.icmp! == (4, 3) && transportCut.rest == 0)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 8200 §4.5: after sixty seconds the pieces go, and with the first of them in hand the sender hears of it")
  func timeout() throws {
    let bench = IPv6Bench()
    let datagram = Bench.udp(pattern(92), destinationPort: 53)
    let first = Bench.ipv6(44, Bench.fragment(17, offset: 0, more: true, Array(datagram[..<48])))
    bench.receive(bench.frame(first))
    bench.receive(
      bench.frame(
        Bench.ipv6(44, Bench.fragment(17, offset: 48, more: false, identification: 78, Array(datagram[48...])))))
    bench.pass(.seconds(59))
    bench.introducePeer()
    bench.pass(.milliseconds(1100))
    let told = bench.sent()
    let error = try #require(told.first)
    #expect(told.count == 1 && error.icmp! == (3, 1) && Array(error.payload[8...]) == first)
    #expect(bench.stack.statistics[.ipReasmTimeout] == 2)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("More than 64 datagrams in pieces at once: IPv6 has no ipfrag_max_dist")
  func manyAtOnce() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    let datagram = Bench.udp(pattern(24), destinationPort: 53)
    for last in [false, true] {
      for i in 0..<100 {
        bench.receive(
          bench.frame(
            Bench.ipv6(
              44,
              Bench.fragment(
                17, offset: last ? 16 : 0, more: !last, identification: UInt32(i),
                Array(last ? datagram[16...] : datagram[..<16])))))
      }
    }
    #expect(bench.stack.statistics[.ipReasmOKs] == 100)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 8200 §4.1: a fragment inside of what has been put together is not")
  func nested() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let inner = Bench.fragment(17, offset: 0, more: false, identification: 5, Bench.udp([1], destinationPort: 53))
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(44, offset: 0, more: true, Array(inner[..<16])))))
    bench.receive(bench.frame(Bench.ipv6(44, Bench.fragment(44, offset: 16, more: false, Array(inner[16...])))))
    let told = try #require(bench.sent().first)
    #expect(told.icmp! == (4, 0) && told.rest == 40)
    #expect(bench.stack.statistics[drop: .udpNoSocket] == 0)
    #expect(bench.leaks() == (0, 0))
  }

  @Test(
    "Extension headers so long that no transport header fits behind them are dropped, not written beyond the buffer")
  func longUnfragmentablePart() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    let padding = (0..<5).flatMap { _ in [UInt8(1), 254] + [UInt8](repeating: 0, count: 254) }
    let options = Bench.options(44, padding + [1, 100] + [UInt8](repeating: 0, count: 100))
    let datagram = Bench.udp(pattern(2000), destinationPort: 53)
    var offset = 0
    while offset < datagram.count {
      let length = min(64, datagram.count - offset)
      let piece = Bench.fragment(
        17, offset: offset, more: offset + length < datagram.count, Array(datagram[offset..<offset + length]))
      bench.receive(bench.frame(Bench.ipv6(60, options + piece)))
      offset += length
    }
    #expect(bench.stack.statistics[drop: .noBuffer] == 1)
    #expect(bench.stack.unreadBytes(socket) == 0)
    // Some hundred bytes are no trouble.
    let short = Bench.options(44, Array(padding[..<256]))
    offset = 0
    while offset < datagram.count {
      let length = min(1024, datagram.count - offset)
      let piece = Bench.fragment(
        17, offset: offset, more: offset + length < datagram.count, Array(datagram[offset..<offset + length]))
      bench.receive(bench.frame(Bench.ipv6(60, short + piece)))
      offset += length
    }
    #expect(try bench.receiveDatagram(socket).bytes == pattern(2000))
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 3168 §5.3: congestion experienced by one piece is the whole's")
  func ecn() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    let datagram = Bench.udp(pattern(92), destinationPort: 53)
    bench.receive(
      bench.frame(
        Bench.ipv6(44, Bench.fragment(17, offset: 0, more: true, Array(datagram[..<48])), trafficClass: 0xb9)))
    bench.receive(
      bench.frame(
        Bench.ipv6(44, Bench.fragment(17, offset: 48, more: false, Array(datagram[48...])), trafficClass: 0xbb)))
    var buffer = [UInt8](repeating: 0, count: 200)
    let got = try buffer.withUnsafeMutableBytes { raw throws(SocketError) in
      try bench.stack.receiveDatagram(socket, into: raw, flags: [], now: bench.now)
    }
    #expect(got.typeOfService == 0xbb && got.copied == 92)
    bench.stack.close(socket, now: bench.now)
  }

  @Test(
    "A datagram larger than the MTU leaves in pieces that come together at the other end",
    arguments: [1453, 3000, 9001, 65527])
  func large(count: Int) throws {
    let here = IPv6Bench()
    let there = IPv6Bench(static: false) {
      _ = $0.moreAddresses.add(
        InterfaceAddress(Bench.peer, prefixLength: 64, state: .preferred, origin: .configured))
    }
    here.introducePeer()
    let sender = try here.datagramSocket()
    let receiver = try there.datagramSocket(port: 53)
    #expect(try here.send(sender, pattern(count), to: Endpoint(Bench.peer, 53)) == count)
    let pieces = here.sent()
    #expect(pieces.count == (count + 8 + 1447) / 1448 && pieces.allSatisfy { $0.bytes.count <= 1500 })
    for piece in pieces.reversed() { there.receive(there.frame(piece.bytes)) }
    #expect(try there.receiveDatagram(receiver).bytes == pattern(count))
    here.stack.close(sender, now: here.now)
    there.stack.close(receiver, now: there.now)
    #expect(here.leaks() == (0, 0) && there.leaks() == (0, 0))
  }

  @Test("RFC 8200 §8.1: the largest datagram has 65,527 bytes; with IPV6_MTU_DISCOVER set to do, none is cut")
  func limits() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let socket = try bench.datagramSocket()
    let peer = Endpoint(Bench.peer, 9)
    #expect(throws: SocketError.messageTooLong) { try bench.send(socket, pattern(65528), to: peer) }
    #expect(try bench.send(socket, pattern(1452), to: peer) == 1452)
    #expect(bench.sent().map(\.bytes.count) == [1500])
    try bench.stack.setOption(socket, .mtuDiscover, 2, now: bench.now)
    #expect(throws: SocketError.messageTooLong) { try bench.send(socket, pattern(1453), to: peer) }
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }
}

@Suite("ICMPv6 errors to sockets, path MTU")
struct ICMPv6ErrorTests {
  /// An error about `ours`, a packet that the stack sent, from a router.
  private func error(
    _ bench: IPv6Bench, _ type: UInt8, _ code: UInt8, rest: UInt32 = 0, about ours: [UInt8],
    from: IPAddress = six("2001:db8::1")
  ) {
    bench.receive(
      bench.frame(
        Bench.ipv6(IPProtocol.icmpv6, Bench.icmp(type, code, rest: rest, ours, from: from), from: from)))
  }

  @Test("RFC 4443 §3.1: a datagram for no socket draws port unreachable, one to a group nothing")
  func portUnreachable() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let datagram = Bench.ipv6(IPProtocol.udp, Bench.udp([1, 2, 3], destinationPort: 33434))
    bench.receive(bench.frame(datagram))
    let told = try #require(bench.sent().first)
    #expect(told.icmp! == (1, 4) && told.rest == 0 && Array(told.payload[8...]) == datagram)
    #expect(told.ip.source == Bench.ours)
    bench.receive(
      bench.frame(
        Bench.ipv6(IPProtocol.udp, Bench.udp([1], destinationPort: 33434, to: .allNodes), to: .allNodes)))
    #expect(bench.sent().isEmpty)
    #expect(bench.stack.statistics[drop: .udpNoSocket] == 2)
  }

  @Test("RFC 8200 §8.1: UDP without a checksum is dropped")
  func noChecksum() throws {
    let bench = IPv6Bench()
    let socket = try bench.datagramSocket(port: 53)
    var datagram = Bench.udp([1, 2, 3], destinationPort: 53)
    datagram[6] = 0
    datagram[7] = 0
    bench.receive(bench.frame(Bench.ipv6(IPProtocol.udp, datagram)))
    #expect(bench.stack.unreadBytes(socket) == 0 && bench.stack.statistics[drop: .udpChecksum] == 1)
    bench.stack.close(socket, now: bench.now)
  }

  static let errors: [(UInt8, UInt8, SocketError?, SocketError?)] = [
    // type, code, what a connected UDP socket hears, what connect fails with
    (1, 0, nil, .networkUnreachable), (1, 1, .accessDenied, .accessDenied), (1, 2, nil, .hostUnreachable),
    (1, 3, nil, .hostUnreachable), (1, 4, .connectionRefused, .connectionRefused),
    (1, 5, .accessDenied, .accessDenied), (1, 6, .accessDenied, .accessDenied), (3, 0, nil, .hostUnreachable),
    (4, 1, .protocolError, .protocolError), (129, 0, nil, nil), (100, 0, nil, nil),
  ]

  @Test("icmpv6_err_convert: what a connected UDP socket and connect are told", arguments: errors)
  func meaning(type: UInt8, code: UInt8, udp: SocketError?, tcp: SocketError?) throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let socket = try bench.datagramSocket()
    try bench.stack.connect(socket, to: Endpoint(Bench.peer, 9), now: bench.now)
    try bench.send(socket, [1, 2, 3], to: nil)
    error(bench, type, code, about: try #require(bench.sent().last).bytes)
    #expect(bench.stack.takeError(socket) == udp)
    let stream = try bench.stack.open(.stream, isIPv6: true, cookie: 1, now: bench.now)
    try bench.beginConnect(stream, to: Endpoint(Bench.peer, 9))
    error(bench, type, code, about: try #require(bench.sent().last).bytes)
    #expect(bench.stack.takeError(stream) == tcp)
    bench.stack.close(socket, now: bench.now)
    bench.stack.close(stream, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 5927: an error about a packet that we did not send, or that is not in flight, is not believed")
  func forged() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let (socket, port, next) = try bench.connected()
    let segment = Bench.tcp(
      .ack, sourcePort: port, destinationPort: 80, seq: next &+ 70000, [1], from: Bench.ours, to: Bench.peer)
    error(bench, 2, 0, rest: 1280, about: Bench.ipv6(IPProtocol.tcp, segment, from: Bench.ours, to: Bench.peer))
    #expect(try bench.stack.option(socket, .mtu) == 1500)
    let other = six("2001:db8::8")
    error(bench, 1, 4, about: Bench.ipv6(IPProtocol.tcp, segment, from: other, to: Bench.peer))
    #expect(bench.stack.takeError(socket) == nil)
    // A later fragment quoted: what stands where ports would be is payload.
    let quoted = Bench.ipv6(
      44, Bench.fragment(6, offset: 1448, more: false, segment), from: Bench.ours, to: Bench.peer)
    error(bench, 2, 0, rest: 1280, about: quoted)
    let message = Bench.icmp(1, 4, quoted)
    #expect(message.withUnsafeBytes { ICMPError(v6: $0) } == nil)
    let first = Bench.ipv6(44, Bench.fragment(6, offset: 0, more: true, segment), from: Bench.ours, to: Bench.peer)
    let whole = Bench.icmp(1, 4, first)
    #expect(whole.withUnsafeBytes { ICMPError(v6: $0) }?.quoted.local.port == port)
    for length in 0..<whole.count {
      let cut = Array(whole[..<length])
      let needed = 8 + 40 + 8 + 8
      #expect((cut.withUnsafeBytes { ICMPError(v6: $0) } != nil) == (length >= needed))
    }
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 8201 §4: packet too big makes the connection's segments smaller, and what was out goes again")
  func pathMTU() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let (socket, _, _) = try bench.connected()
    let data = pattern(1440)
    _ = try data.withUnsafeBytes { raw throws(SocketError) in
      try bench.stack.send(socket, raw, flags: [], now: bench.now)
    }
    let big = try #require(bench.sent().last)
    #expect(big.bytes.count == 1500)
    error(bench, 2, 0, rest: 1400, about: Array(big.bytes.prefix(1232)))
    let again = bench.sent()
    #expect(again.map(\.bytes.count) == [1400, 160])
    #expect(try bench.stack.option(socket, .mtu) == 1400)
    #expect(again[0].tcp?.sequence == big.tcp?.sequence)
    // Never larger by such a message, never below 1280 (RFC 8201 §4).
    error(bench, 2, 0, rest: 9000, about: Array(again[0].bytes.prefix(1232)))
    #expect(try bench.stack.option(socket, .mtu) == 1400)
    error(bench, 2, 0, rest: 600, about: Array(again[0].bytes.prefix(1232)))
    #expect(try bench.stack.option(socket, .mtu) == 1280)
    #expect(bench.sent().first?.bytes.count == 1280)
    // After ten minutes it is tried again.
    bench.stack.close(socket, now: bench.now)
  }

  @Test("net.ipv4.ip_no_pmtu_disc is IPv4's alone")
  func noDiscovery() throws {
    let bench = IPv6Bench { $0.settings.ipNoPmtuDiscovery = true }
    bench.introducePeer()
    let (socket, _, _) = try bench.connected()
    let data = pattern(1440)
    _ = try data.withUnsafeBytes { raw throws(SocketError) in
      try bench.stack.send(socket, raw, flags: [], now: bench.now)
    }
    error(bench, 2, 0, rest: 1300, about: Array(try #require(bench.sent().last).bytes.prefix(1232)))
    #expect(try bench.stack.option(socket, .mtu) == 1300)
    bench.stack.close(socket, now: bench.now)
  }

  @Test("RFC 8201: datagrams to a path that turned out narrow are cut to fit it")
  func datagrams() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let socket = try bench.datagramSocket()
    let peer = Endpoint(Bench.peer, 9)
    try bench.send(socket, pattern(1452), to: peer)
    let quoted = Array(try #require(bench.sent().last).bytes.prefix(1232))
    // About what no socket has sent it teaches nothing.
    var foreign = quoted
    foreign[41] ^= 1
    error(bench, 2, 0, rest: 1300, about: foreign)
    try bench.send(socket, pattern(1452), to: peer)
    #expect(bench.sent().map(\.bytes.count) == [1500])
    error(bench, 2, 0, rest: 1300, about: quoted)
    try bench.send(socket, pattern(1452), to: peer)
    let pieces = bench.sent()
    #expect(pieces.count == 2 && pieces.allSatisfy { $0.bytes.count <= 1300 && $0.ip.nextHeader == 44 })
    // The largest that fits uncut.
    try bench.send(socket, pattern(1252), to: peer)
    #expect(bench.sent().map(\.bytes.count) == [1300])
    bench.pass(.seconds(601))
    bench.introducePeer()
    try bench.send(socket, pattern(1452), to: peer)
    #expect(bench.sent().map(\.bytes.count) == [1500])
    bench.stack.close(socket, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }
}

@Suite("Ping and raw sockets of IPv6")
struct RawIPv6Tests {
  private typealias Bench = IPv6Bench

  private func open(_ bench: IPv6Bench, _ kind: DatagramKind, _ proto: UInt8) throws -> SocketHandle {
    try bench.stack.openDatagram(kind, proto: proto, isIPv6: true, cookie: 1, now: bench.now)
  }

  private func reply(_ bench: IPv6Bench, _ rest: UInt32, _ change: (inout [UInt8]) -> Void = { _ in }) {
    var message = Bench.icmp(ICMPv6.echoReply, rest: rest, [9, 9])
    change(&message)
    bench.receive(bench.frame(Bench.ipv6(IPProtocol.icmpv6, message)))
  }

  @Test(
    "RFC 4443 §4.1: the identifier is the socket's, the checksum the stack's; replies come by it, to IPv6's socket alone"
  )
  func echoes() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let ping = try open(bench, .ping, IPProtocol.icmpv6)
    try bench.send(ping, [128, 0, 0xff, 0xff, 0x12, 0x34, 0, 7, 9, 9], to: Endpoint(Bench.peer, 0))
    let sent = try #require(bench.sent().last)
    let identifier = UInt32(bench.stack.localEndpoint(ping).port)
    #expect(identifier != 0 && sent.icmp! == (128, 0) && sent.rest == identifier << 16 | 7)
    let other = try bench.stack.openDatagram(.ping, proto: IPProtocol.icmp, isIPv6: false, cookie: 2, now: bench.now)
    try bench.stack.bind(other, to: Endpoint(.anyIPv4, UInt16(identifier)), now: bench.now)
    reply(bench, identifier << 16 | 7)
    let got = try bench.receiveDatagram(ping)
    #expect(got.bytes.count == 10 && got.bytes[0] == 129 && got.from == Endpoint(Bench.peer, 0))
    reply(bench, (identifier ^ 1) << 16)
    #expect(bench.stack.unreadBytes(ping) == 0 && bench.stack.unreadBytes(other) == 0)
    #expect(throws: SocketError.invalidArgument) {
      try bench.send(ping, [8, 0, 0, 0, 0, 0, 0, 0], to: Endpoint(Bench.peer, 0))
    }
    bench.stack.close(ping, now: bench.now)
    bench.stack.close(other, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 3542 §3: a raw socket's ICMPv6 begins at its header, passes the filter, and is never damaged")
  func rawICMP() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let raw = try open(bench, .raw, IPProtocol.icmpv6)
    reply(bench, 5)
    #expect(try bench.receiveDatagram(raw).bytes.first == 129)
    reply(bench, 5) { $0[9] ^= 1 }
    #expect(bench.stack.unreadBytes(raw) == 0, "a wrong checksum")
    // Neighbour discovery, too.
    bench.solicit()
    #expect(try bench.receiveDatagram(raw).bytes.first == ICMPv6.neighborSolicitation)
    var filter = ICMP6Filter()
    filter.words[4] = 1 << 1
    try bench.stack.setFilter(raw, filter)
    reply(bench, 5)
    #expect(bench.stack.unreadBytes(raw) == 0)
    try bench.send(raw, [128, 0, 0x12, 0x34, 0, 1, 0, 1], to: Endpoint(Bench.peer, 0))
    #expect(try #require(bench.sent().last).icmp! == (128, 0), "whatever checksum it had")
    #expect(throws: SocketError.invalidArgument) { try bench.send(raw, [128, 0, 0], to: Endpoint(Bench.peer, 0)) }
    bench.stack.close(raw, now: bench.now)
    #expect(bench.leaks() == (0, 0))
  }

  @Test("RFC 3542 §3.1: IPV6_CHECKSUM; a protocol that a raw socket takes draws no parameter problem")
  func checksum() throws {
    let bench = IPv6Bench()
    bench.introducePeer()
    let raw = try open(bench, .raw, 253)
    let unchecked: [UInt8] = [1, 2, 0, 0, 5, 6]
    bench.receive(bench.frame(Bench.ipv6(253, unchecked)))
    #expect(try bench.receiveDatagram(raw).bytes == unchecked)
    #expect(throws: SocketError.invalidArgument) {
      try bench.stack.setOption(raw, DatagramOption.checksumOffset, 3, now: bench.now)
    }
    try bench.stack.setOption(raw, DatagramOption.checksumOffset, 2, now: bench.now)
    bench.receive(bench.frame(Bench.ipv6(253, unchecked)))
    #expect(bench.stack.unreadBytes(raw) == 0)
    let checked = Bench.checked(unchecked, 253, at: 2, from: Bench.peer, to: Bench.ours)
    bench.receive(bench.frame(Bench.ipv6(253, checked)))
    #expect(try bench.receiveDatagram(raw).bytes == checked)
    try bench.send(raw, unchecked, to: Endpoint(Bench.peer, 253))
    #expect(
      try #require(bench.sent().last).payload
        == Bench.checked(unchecked, 253, at: 2, from: Bench.ours, to: Bench.peer))
    #expect(throws: SocketError.invalidArgument) { try bench.send(raw, unchecked, to: Endpoint(Bench.peer, 17)) }
    bench.stack.close(raw, now: bench.now)
    bench.receive(bench.frame(Bench.ipv6(253, unchecked)))
    #expect(try #require(bench.sent().last).icmp! == (4, 1))
    #expect(bench.leaks() == (0, 0))
  }

  @Test("Several queues: a reply that comes in elsewhere finds its socket in the first stack")
  func queues() throws {
    let machine = IPv6Machine()
    let first = machine.queues[0]
    let ping = try open(first, .ping, IPProtocol.icmpv6)
    try first.stack.bind(ping, to: Endpoint(.anyIPv6, 77), now: first.now)
    let message = Bench.icmp(ICMPv6.echoReply, rest: 77 << 16, [9])
    machine.receive(first.frame(Bench.ipv6(IPProtocol.icmpv6, message)), at: 1)
    #expect(try first.receiveDatagram(ping).bytes == message)
    first.stack.close(ping, now: first.now)
    machine.expectNothingLeft()
  }
}
