// Owns: a conversation between one stack (layer 3, no link) and segments made by hand. The tests speak in relative sequence
// numbers: the stack's ISS and the peer's are 0.

import Netstack
import Testing
import Wire

let stackAddress = IPv4Address(198, 18, 0, 4)
let peerAddress = IPv4Address(198, 18, 0, 5)

/// A segment as seen on the wire, sequence numbers relative to the initial ones of each side.
struct SeenSegment: Equatable, CustomStringConvertible {
  var flags: TCPFlags
  var sequence: Int
  var acknowledgment: Int
  var payload: [UInt8]
  var window: Int
  var options: TCPOptions

  static func == (a: SeenSegment, b: SeenSegment) -> Bool { a.description == b.description }

  var description: String {
    var text = ""
    for (flag, letter) in [(TCPFlags.syn, "S"), (.fin, "F"), (.rst, "R"), (.psh, "P"), (.ack, ".")]
    where flags.contains(flag) { text += letter }
    text += " \(sequence):\(sequence + payload.count)(\(payload.count))"
    if flags.contains(.ack) { text += " ack \(acknowledgment)" }
    return text
  }
}

/// One stack and a peer that is the test itself.
final class Conversation {
  var stack: Stack
  var now = Instant(nanoseconds: 1_000_000_000_000)
  var peerPort: UInt16
  var localPort: UInt16
  var peerISS: UInt32 = 0x7000_0000
  var stackISS: UInt32 = 0
  /// Whether the peer's segments carry timestamps, and the last value of the stack's to echo.
  var timestamps = false
  var timestampEcho: UInt32 = 0
  var timestampValue: UInt32 = 1000

  init(
    localPort: UInt16 = 0, peerPort: UInt16 = 8080, mtu: Int = 1500,
    _ change: (inout StackConfiguration) -> Void = { _ in }
  ) {
    var configuration = StackConfiguration()
    configuration.device.linkType = .ip
    configuration.device.mtu = mtu
    configuration.address = stackAddress
    configuration.secret = HashKey(1, 2)
    configuration.seed = 3
    change(&configuration)
    stack = Stack(configuration, now: now)
    self.localPort = localPort
    self.peerPort = peerPort
  }

  var peer: Endpoint { Endpoint(IPAddress(peerAddress), peerPort) }

  /// Another peer's port and sequence numbers.
  struct Peer {
    var port: UInt16
    var stackISS: UInt32 = 0
    init(port: UInt16) { self.port = port }
  }

  /// Speaks as `other` for a while; tells `other` what it learns of the stack's ISS.
  @discardableResult
  func with(_ other: Peer, _ body: () throws -> Void) rethrows -> Peer {
    let own = (peerPort, stackISS)
    (peerPort, stackISS) = (other.port, other.stackISS)
    try body()
    var after = other
    after.stackISS = stackISS
    (peerPort, stackISS) = own
    return after
  }

  /// What the peer has acknowledged so far, for tests that keep count.
  var acknowledged = 1

  // MARK: Time

  func pass(_ interval: Interval) {
    let end = now + interval
    while let deadline = stack.nextDeadline(), deadline <= end {
      now = max(now, deadline)
      stack.advance(to: now)
    }
    now = end
    stack.advance(to: now)
  }

  // MARK: Packets

  /// Everything the stack has sent since the last look.
  func sent() -> [SeenSegment] {
    var seen: [SeenSegment] = []
    while let packet = stack.nextTransmit() {
      var bytes = [UInt8](repeating: 0, count: packet.count)
      _ = bytes.withUnsafeMutableBytes { packet.copy(from: 0, to: $0) }
      stack.transmitted(packet)
      bytes.withUnsafeBytes { raw in
        let (ip, _) = IPv4Header.parse(raw, length: raw.count)
        guard let ip, ip.proto == IPProtocol.tcp else { return }
        let body = UnsafeRawBufferPointer(rebasing: raw[ip.headerLength..<ip.totalLength])
        let pseudo = Checksum.pseudoHeader(
          source: IPAddress(ip.source), destination: IPAddress(ip.destination), proto: ip.proto, length: body.count)
        #expect(Checksum.fold(Checksum.sum(body, pseudo)) == 0xffff, "every segment has a right checksum")
        guard let header = TCPHeader(body) else { return }
        let options = TCPOptions(parsing: UnsafeRawBufferPointer(rebasing: body[20..<header.headerLength]))
        if header.flags.contains(.syn) {
          stackISS = header.sequence.value
          localPort = header.sourcePort
        }
        if options.hasTimestamp { timestampEcho = options.timestampValue }
        seen.append(
          SeenSegment(
            flags: header.flags, sequence: Int(Int32(bitPattern: header.sequence.value &- stackISS)),
            acknowledgment: Int(Int32(bitPattern: header.acknowledgment.value &- peerISS)),
            payload: Array(body[header.headerLength...]), window: Int(header.window), options: options))
      }
    }
    return seen
  }

  /// The peer sends a segment.
  func inject(
    _ flags: TCPFlags, seq: Int, ack: Int = 0, _ payload: [UInt8] = [], window: Int = 65535,
    options extra: TCPOptions? = nil, batch: Bool = true
  ) {
    var options = extra ?? TCPOptions()
    if timestamps, !options.hasTimestamp {
      options.hasTimestamp = true
      options.timestampValue = timestampValue
      options.timestampEcho = timestampEcho
    }
    let header = TCPHeader(
      sourcePort: peerPort, destinationPort: localPort, sequence: SequenceNumber(peerISS) + seq,
      acknowledgment: flags.contains(.ack) ? SequenceNumber(stackISS) + ack : SequenceNumber(0),
      headerLength: 20 + options.encodedLength, flags: flags, window: UInt16(window))
    let length = header.headerLength + payload.count
    guard let packet = stack.allocateReceiveBuffer() else {
      Issue.record("no receive buffer")
      return
    }
    let base = packet.put(20 + length)
    IPv4Header(proto: IPProtocol.tcp, source: peerAddress, destination: stackAddress, payloadLength: length).write(
      to: base)
    header.write(to: base + 20)
    options.write(to: base + 40)
    for (i, byte) in payload.enumerated() { (base + 20 + header.headerLength).storeByte(byte, at: i) }
    let body = UnsafeRawBufferPointer(start: base + 20, count: length)
    let pseudo = Checksum.pseudoHeader(
      source: IPAddress(peerAddress), destination: IPAddress(stackAddress), proto: IPProtocol.tcp, length: length)
    (base + 20).storeBigEndian16(~Checksum.fold(Checksum.sum(body, pseudo)), at: 16)
    stack.receive(packet, now: now)
    if batch { stack.finishBatch(now: now) }
  }

  // MARK: Sockets

  /// An active open, both handshakes done; the peer offers the options given.
  func connected(mss: UInt16 = 1460, sack: Bool = true, scale: UInt8? = 7, window: Int = 65535, rtt: Interval = .zero)
    throws -> SocketHandle
  {
    let socket = try open()
    do { try stack.connect(socket, to: peer, now: now) } catch { #expect(error == .inProgress) }
    let syn = sent()
    #expect(syn.map(\.description) == ["S 0:0(0)"])
    pass(rtt)
    var options = TCPOptions()
    options.maximumSegmentSize = mss
    options.sackPermitted = sack
    options.windowScale = scale
    if timestamps {
      options.hasTimestamp = true
      options.timestampValue = timestampValue
      options.timestampEcho = timestampEcho
    }
    inject([.syn, .ack], seq: 0, ack: 1, window: window, options: options)
    #expect(sent().map(\.description) == [". 1:1(0) ack 1"])
    return socket
  }

  func open() throws -> SocketHandle {
    let socket = try stack.open(.stream, cookie: 7, now: now)
    return socket
  }

  func send(_ socket: SocketHandle, _ bytes: [UInt8], _ flags: SendFlags = []) throws -> Int {
    try bytes.withUnsafeBytes { raw throws(SocketError) in try stack.send(socket, raw, flags: flags, now: now) }
  }

  func lend(_ socket: SocketHandle, _ memory: UnsafeMutableRawBufferPointer) throws -> Int {
    try stack.send(socket, UnsafeRawBufferPointer(memory), flags: .lend, now: now)
  }

  func canLend(_ socket: SocketHandle) -> Bool { stack.canLend(socket) }
  func settleLoan(_ socket: SocketHandle) -> Bool { stack.settleLoan(socket) }
  func lentBytes(_ socket: SocketHandle) -> Int { stack.lentBytes(socket) }
  func unacknowledgedBytes(_ socket: SocketHandle) -> Int { stack.unacknowledgedBytes(socket) }

  func receive(_ socket: SocketHandle, _ count: Int = 65536, _ flags: ReceiveFlags = []) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let n = try bytes.withUnsafeMutableBytes { raw throws(SocketError) in
      try stack.receive(socket, into: raw, flags: flags, now: now)
    }
    return Array(bytes[0..<n])
  }

  /// What is still out after the shell has heard of every change.
  func leaks() -> (packets: Int, sockets: Int) {
    while stack.nextChanged() != nil {}
    return stack.leakReport()
  }

  func state(_ socket: SocketHandle) -> TCPState? { TCPState(rawValue: stack.information(socket, now: now).state) }
}

/// `n` bytes that differ from place to place.
func pattern(_ n: Int, from offset: Int = 0) -> [UInt8] {
  (0..<n).map { UInt8(truncatingIfNeeded: ($0 + offset) &* 7 &+ ($0 + offset) >> 8) }
}
