import Netstack
import Testing
import Wire

/// A stack on Ethernet and frames made by hand.
private final class Segment {
  var stack: Stack
  var now = Instant(nanoseconds: 5_000_000_000)
  let peerMAC = MACAddress(bits: 0x02_0a_0b_0c_0d_0e)
  let ourMAC = MACAddress(bits: 0x02_00_00_00_00_01)

  init(_ change: (inout StackConfiguration) -> Void = { _ in }) {
    var configuration = StackConfiguration()
    configuration.address = stackAddress
    configuration.gateway = peerAddress
    configuration.secret = HashKey(1, 2)
    change(&configuration)
    stack = Stack(configuration, now: now)
  }

  func sent() -> [[UInt8]] { stack.takeFrames().map(\.bytes) }

  func receive(_ bytes: [UInt8]) { stack.receiveFrame(bytes, now: now) }

  func frame(_ etherType: UInt16, _ payload: [UInt8], to: MACAddress? = nil) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 14)
    bytes.withUnsafeMutableBytes {
      EthernetHeader(destination: to ?? ourMAC, source: peerMAC, etherType: etherType).write(to: $0.baseAddress!)
    }
    return bytes + payload
  }

  func ipv4(
    _ proto: UInt8, _ payload: [UInt8], from: IPv4Address = peerAddress, to: IPv4Address = stackAddress,
    flags: UInt16 = 0, offset: Int = 0
  ) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 20)
    var header = IPv4Header(
      proto: proto, source: from, destination: to, payloadLength: payload.count, identification: 99, flags: flags)
    header.fragmentOffset = offset
    bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
    return frame(EtherType.ipv4, bytes + payload)
  }

  func udp(_ payload: [UInt8], sourcePort: UInt16 = 5000, destinationPort: UInt16, to: IPv4Address = stackAddress)
    -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    bytes.withUnsafeMutableBytes {
      UDPHeader(sourcePort: sourcePort, destinationPort: destinationPort, totalLength: $0.count).write(
        to: $0.baseAddress!)
      let pseudo = Checksum.pseudoHeader(
        source: IPAddress(peerAddress), destination: IPAddress(to), proto: IPProtocol.udp, length: $0.count)
      let sum = ~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0), pseudo))
      $0.baseAddress!.storeBigEndian16(sum, at: 6)
    }
    return bytes
  }

  func icmp(_ type: UInt8, _ code: UInt8, rest: UInt32 = 0, _ payload: [UInt8]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 8) + payload
    bytes.withUnsafeMutableBytes {
      ICMPHeader(type: type, code: code, rest: rest).write(to: $0.baseAddress!)
      $0.baseAddress!.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0))), at: 2)
    }
    return bytes
  }

  /// The peer's answer to an ARP request, so that IP packets can leave.
  func introducePeer() {
    var bytes = [UInt8](repeating: 0, count: 28)
    bytes.withUnsafeMutableBytes {
      ARPPacket(
        operation: ARPPacket.request, senderHardware: peerMAC, senderProtocol: peerAddress, targetHardware: .zero,
        targetProtocol: stackAddress
      ).write(to: $0.baseAddress!)
    }
    receive(frame(EtherType.arp, bytes, to: .broadcast))
    _ = sent()
  }

  func pass(_ interval: Interval) { stack.pass(interval, from: &now) }
}

private func etherType(_ frame: [UInt8]) -> UInt16 { UInt16(frame[12]) << 8 | UInt16(frame[13]) }

@Suite("Stack on Ethernet")
struct StackTests {
  @Test("RFC 5227 §2.3: the stack announces its address at once")
  func announcement() {
    let s = Segment()
    let frames = s.sent()
    #expect(frames.count == 1)
    #expect(etherType(frames[0]) == EtherType.arp)
    #expect(frames[0][0..<6] == [255, 255, 255, 255, 255, 255])
  }

  @Test("RFC 826: a request for our address is answered to the asker alone")
  func arpReply() {
    let s = Segment()
    _ = s.sent()
    var bytes = [UInt8](repeating: 0, count: 28)
    bytes.withUnsafeMutableBytes {
      ARPPacket(
        operation: ARPPacket.request, senderHardware: s.peerMAC, senderProtocol: peerAddress, targetHardware: .zero,
        targetProtocol: stackAddress
      ).write(to: $0.baseAddress!)
    }
    s.receive(s.frame(EtherType.arp, bytes, to: .broadcast))
    let frames = s.sent()
    #expect(frames.count == 1)
    #expect(frames[0][0..<6] == [2, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e])
    #expect(s.stack.statistics[.arpOutReplies] == 1)
  }

  @Test("RFC 1122 §3.2.2.6: an echo request is answered with the same data; broken ones are counted and dropped")
  func echo() {
    let s = Segment()
    s.introducePeer()
    let request = s.icmp(ICMPHeader.echoRequest, 0, rest: 0x0001_0002, Array(1...200))
    s.receive(s.ipv4(IPProtocol.icmp, request))
    let frames = s.sent()
    #expect(frames.count == 1)
    #expect(frames[0][34] == ICMPHeader.echoReply)
    #expect(Array(frames[0][38...]) == [0, 1, 0, 2] + Array(1...200))
    var broken = request
    broken[20] ^= 1
    s.receive(s.ipv4(IPProtocol.icmp, broken))
    #expect(s.sent().isEmpty)
    #expect(s.stack.statistics[drop: .icmpChecksum] == 1)
    #expect(s.stack.leakReport().packets == 0)
  }

  @Test("RFC 791: a fragmented echo request is put together and its reply cut again")
  func fragmentedEcho() {
    let s = Segment()
    s.introducePeer()
    let request = s.icmp(ICMPHeader.echoRequest, 0, pattern(3000))
    s.receive(s.ipv4(IPProtocol.icmp, Array(request[..<1480]), flags: IPv4Header.flagMoreFragments))
    s.receive(s.ipv4(IPProtocol.icmp, Array(request[2960...]), offset: 2960))
    #expect(s.sent().isEmpty)
    s.receive(s.ipv4(IPProtocol.icmp, Array(request[1480..<2960]), flags: IPv4Header.flagMoreFragments, offset: 1480))
    let frames = s.sent()
    #expect(frames.count == 3)
    #expect(frames.allSatisfy { $0.count <= 1514 })
    #expect(s.stack.statistics[.ipReasmOKs] == 1)
    #expect(s.stack.leakReport().packets == 0)
  }

  @Test("RFC 1122 §4.1.3.1: a datagram for no socket draws port unreachable, one to a broadcast address nothing")
  func portUnreachable() {
    let s = Segment()
    s.introducePeer()
    s.receive(s.ipv4(IPProtocol.udp, s.udp([1, 2, 3], destinationPort: 33434)))
    let frames = s.sent()
    #expect(frames.count == 1)
    #expect(frames[0][34] == 3 && frames[0][35] == 3)
    #expect(Array(frames[0][42..<46]) == [0x45, 0, 0, 31], "the quote starts at the datagram's IP header")
    let broadcast = IPv4Address(198, 18, 0, 255)
    s.receive(s.ipv4(IPProtocol.udp, s.udp([1], destinationPort: 33434, to: broadcast), to: broadcast))
    #expect(s.sent().isEmpty)
    #expect(s.stack.statistics[drop: .udpNoSocket] == 2)
  }

  @Test(
    "udp(7): a bound socket receives with source and length; a connected one only its peer's, and hears of ICMP errors")
  func udpSockets() throws {
    let s = Segment()
    s.introducePeer()
    let socket = try s.stack.open(.datagram, cookie: 3, now: s.now)
    try s.stack.bind(socket, to: Endpoint(.anyIPv4, 53), now: s.now)
    s.receive(s.ipv4(IPProtocol.udp, s.udp(pattern(100), destinationPort: 53)))
    s.receive(s.ipv4(IPProtocol.udp, s.udp([], destinationPort: 53)))
    #expect(s.stack.readiness(socket).contains(.readable))
    #expect(s.stack.unreadBytes(socket) == 100)
    var buffer = [UInt8](repeating: 0, count: 40)
    let got = try buffer.withUnsafeMutableBytes { raw throws(SocketError) in
      try s.stack.receiveDatagram(socket, into: raw, flags: [], now: s.now)
    }
    #expect(got.copied == 40 && got.length == 100)
    #expect(got.source == Endpoint(IPAddress(peerAddress), 5000))
    #expect(buffer == Array(pattern(100)[..<40]))
    let empty = try buffer.withUnsafeMutableBytes { raw throws(SocketError) in
      try s.stack.receiveDatagram(socket, into: raw, flags: [], now: s.now)
    }
    #expect(empty.length == 0)
    try s.stack.connect(socket, to: Endpoint(IPAddress(peerAddress), 7777), now: s.now)
    s.receive(s.ipv4(IPProtocol.udp, s.udp([1], destinationPort: 53)))
    #expect(s.stack.statistics[drop: .udpNoSocket] == 1)
    let sent: [UInt8] = [9, 9]
    _ = try sent.withUnsafeBytes { raw throws(SocketError) in try s.stack.sendDatagram(socket, raw, to: nil, now: s.now)
    }
    let frames = s.sent()
    let ours = try #require(frames.last { etherType($0) == EtherType.ipv4 && $0[23] == IPProtocol.udp })
    s.receive(s.ipv4(IPProtocol.icmp, s.icmp(3, 3, Array(ours[14..<42]))))
    #expect(s.stack.takeError(socket) == .connectionRefused)
    s.stack.close(socket, now: s.now)
    #expect(s.stack.leakReport() == (0, 0))
  }

  @Test("RFC 791: a datagram larger than the MTU leaves in fragments; with DF demanded it is refused")
  func largeDatagram() throws {
    let s = Segment()
    s.introducePeer()
    let socket = try s.stack.open(.datagram, cookie: 3, now: s.now)
    let bytes = pattern(9000)
    let peer = Endpoint(IPAddress(peerAddress), 9)
    _ = try bytes.withUnsafeBytes { raw throws(SocketError) in
      try s.stack.sendDatagram(socket, raw, to: peer, now: s.now)
    }
    #expect(s.sent().count == 7)
    try s.stack.setOption(socket, .mtuDiscover, 2, now: s.now)
    #expect(throws: SocketError.messageTooLong) {
      try bytes.withUnsafeBytes { raw throws(SocketError) in try s.stack.sendDatagram(socket, raw, to: peer, now: s.now)
      }
    }
    #expect(s.stack.leakReport().packets == 0)
  }

  @Test("RFC 1122 §2.3.2.2: a SYN waits for ARP; without an answer connect fails with EHOSTUNREACH")
  func unresolvable() throws {
    let s = Segment()
    _ = s.sent()
    let socket = try s.stack.open(.stream, cookie: 1, now: s.now)
    #expect(throws: SocketError.inProgress) {
      try s.stack.connect(socket, to: Endpoint(IPAddress(IPv4Address(198, 18, 0, 77)), 80), now: s.now)
    }
    #expect(s.sent().map(etherType) == [EtherType.arp])
    s.pass(.seconds(4))
    #expect(s.stack.takeError(socket) == .hostUnreachable)
    #expect(s.stack.statistics[drop: .neighborUnreachable] >= 1)
  }

  @Test("RFC 1191 §6.4: fragmentation needed makes the connection's segments smaller")
  func pathMTU() throws {
    let s = Segment()
    s.introducePeer()
    let far = IPv4Address(203, 0, 113, 9)
    let socket = try s.stack.open(.stream, cookie: 1, now: s.now)
    #expect(throws: SocketError.inProgress) {
      try s.stack.connect(socket, to: Endpoint(IPAddress(far), 80), now: s.now)
    }
    let syn = try #require(s.sent().last)
    let port = UInt16(syn[34]) << 8 | UInt16(syn[35])
    let iss = UInt32(syn[38]) << 24 | UInt32(syn[39]) << 16 | UInt32(syn[40]) << 8 | UInt32(syn[41])
    var options = TCPOptions()
    options.maximumSegmentSize = 1460
    var synAck = [UInt8](repeating: 0, count: 20 + options.encodedLength)
    synAck.withUnsafeMutableBytes {
      TCPHeader(
        sourcePort: 80, destinationPort: port, sequence: SequenceNumber(1), acknowledgment: SequenceNumber(iss) + 1,
        headerLength: $0.count, flags: [.syn, .ack], window: 65535
      ).write(to: $0.baseAddress!)
      options.write(to: $0.baseAddress! + 20)
      let pseudo = Checksum.pseudoHeader(
        source: IPAddress(far), destination: IPAddress(stackAddress), proto: 6, length: $0.count)
      $0.baseAddress!.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer($0), pseudo)), at: 16)
    }
    s.receive(s.ipv4(IPProtocol.tcp, synAck, from: far))
    let data = pattern(1460)
    _ = s.sent()
    _ = try data.withUnsafeBytes { raw throws(SocketError) in try s.stack.send(socket, raw, flags: [], now: s.now) }
    let big = try #require(s.sent().last)
    #expect(big.count == 14 + 1500)
    #expect(big[20] & 0x40 != 0, "DF is set")
    s.receive(s.ipv4(IPProtocol.icmp, s.icmp(3, 4, rest: 1000, Array(big[14..<(14 + 28)]))))
    let again = s.sent()
    #expect(again.count == 2)
    #expect(again[0].count == 14 + 1000)
    #expect(try s.stack.option(socket, .mtu) == 1000)
  }

  @Test("A program's own address works: client and server in one stack, nothing on the wire")
  func ownAddress() throws {
    let s = Segment()
    _ = s.sent()
    let listener = try s.stack.open(.stream, cookie: 1, now: s.now)
    try s.stack.bind(listener, to: Endpoint(.anyIPv4, 80), now: s.now)
    try s.stack.listen(listener, backlog: 4, now: s.now)
    let client = try s.stack.open(.stream, cookie: 2, now: s.now)
    #expect(throws: SocketError.inProgress) {
      try s.stack.connect(client, to: Endpoint(IPAddress(stackAddress), 80), now: s.now)
    }
    let server = try s.stack.accept(listener, cookie: 3, now: s.now)
    let data = pattern(40000)
    let n = try data.withUnsafeBytes { raw throws(SocketError) in try s.stack.send(client, raw, flags: [], now: s.now) }
    var got: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while got.count < n {
      let m = try buffer.withUnsafeMutableBytes { raw throws(SocketError) in
        try s.stack.receive(server, into: raw, flags: [], now: s.now)
      }
      got += buffer[..<m]
    }
    #expect(got == Array(data[..<n]))
    #expect(s.sent().isEmpty)
  }
}
