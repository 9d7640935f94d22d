import Netstack
import Testing
import Wire

@Suite("TCP data")
struct DataTests {
  @Test(
    "RFC 9293 §3.10.7.4: data in order is read as sent; RFC 5681 §4.2: the second full segment is acknowledged at once")
  func inOrder() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject(.ack, seq: 1, ack: 1, pattern(1460))
    c.inject(.ack, seq: 1461, ack: 1, pattern(1460, from: 1460))
    #expect(try c.receive(socket) == pattern(2920))
    let acks = c.sent()
    #expect(acks.last?.acknowledgment == 2921)
  }

  @Test("tcp_cleanup_rbuf: small segments are acknowledged when the program has read them, unless it answers")
  func readSmall() throws {
    let c = Conversation()
    let socket = try c.connected()
    var at = 1
    func comes() {
      c.inject([.ack, .psh], seq: at, ack: c.acknowledged, pattern(10))
      at += 10
    }
    // The quick acknowledgments of the beginning.
    for _ in 0..<40 {
      comes()
      _ = try c.receive(socket)
      _ = c.sent()
    }
    comes()
    #expect(c.sent().isEmpty, "nobody has read it")
    #expect(try c.receive(socket, 4).count == 4)
    #expect(c.sent().isEmpty, "there is more to read")
    #expect(try c.receive(socket).count == 6)
    #expect(c.sent().map(\.acknowledgment) == [at])
    // A program that answers carries the acknowledgment itself.
    for _ in 0..<3 {
      comes()
      _ = try c.receive(socket)
      _ = try c.send(socket, [1])
      c.acknowledged += 1
      _ = c.sent()
    }
    comes()
    _ = try c.receive(socket)
    #expect(c.sent().isEmpty)
    _ = try c.send(socket, [2])
    #expect(c.sent().map(\.acknowledgment) == [at])
  }

  @Test(
    "RFC 2018 §4: out-of-order data is kept and reported, the newest block first; the gap's closing acknowledges all")
  func outOfOrder() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject(.ack, seq: 1001, ack: 1, pattern(1000, from: 1000))
    var ack = c.sent()
    #expect(ack.map(\.description) == [". 1:1(0) ack 1"])
    #expect(ack[0].options.sack.count == 1)
    c.inject(.ack, seq: 3001, ack: 1, pattern(1000, from: 3000))
    ack = c.sent()
    #expect(ack[0].options.sack.count == 2)
    #expect(ack[0].options.sack[0].start == SequenceNumber(c.peerISS) + 3001)
    #expect(ack[0].options.sack[1].start == SequenceNumber(c.peerISS) + 1001)
    c.inject(.ack, seq: 1, ack: 1, pattern(1000))
    ack = c.sent()
    #expect(ack.map(\.description) == [". 1:1(0) ack 2001"])
    #expect(ack[0].options.sack.count == 1)
    c.inject(.ack, seq: 2001, ack: 1, pattern(1000, from: 2000))
    #expect(c.sent().map(\.description) == [". 1:1(0) ack 4001"])
    #expect(try c.receive(socket) == pattern(4000))
  }

  @Test("RFC 2883 §4: a duplicate segment is reported by D-SACK")
  func duplicateSACK() throws {
    let c = Conversation()
    _ = try c.connected()
    c.inject(.ack, seq: 1, ack: 1, pattern(500))
    _ = c.sent()
    c.inject(.ack, seq: 1, ack: 1, pattern(500))
    let ack = c.sent()
    #expect(ack.map(\.description) == [". 1:1(0) ack 501"])
    #expect(ack[0].options.sack.count == 1)
    #expect(ack[0].options.sack[0].end == SequenceNumber(c.peerISS) + 501)
  }

  @Test("RFC 9293 §3.10.7.4: overlapping segments are trimmed on both sides")
  func overlaps() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject(.ack, seq: 1, ack: 1, pattern(300))
    c.inject(.ack, seq: 501, ack: 1, pattern(300, from: 500))
    c.inject(.ack, seq: 101, ack: 1, pattern(600, from: 100))
    #expect(try c.receive(socket) == pattern(800))
  }

  @Test("RFC 9293 §3.8.6.1: a closed window is probed, and the transfer goes on when it opens")
  func zeroWindow() throws {
    let c = Conversation()
    let socket = try c.connected(scale: nil, window: 1000)
    #expect(try c.send(socket, pattern(1500)) == 1500)
    #expect(c.sent().map(\.description) == [". 1:1001(1000) ack 1"])
    c.inject(.ack, seq: 1, ack: 1001, window: 0)
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(250))
    #expect(c.sent().map(\.description) == [". 1000:1000(0) ack 1"], "the probe's sequence number is old")
    c.inject(.ack, seq: 1, ack: 1001, window: 5000)
    #expect(c.sent().map(\.description) == ["P. 1001:1501(500) ack 1"])
    c.inject(.ack, seq: 1, ack: 1501)
    #expect(c.stack.unacknowledgedBytes(socket) == 0)
  }

  @Test("RFC 9293 §3.7.4: Nagle holds a small segment while another is unacknowledged; TCP_NODELAY lets it go")
  func nagle() throws {
    let c = Conversation()
    let socket = try c.connected()
    #expect(try c.send(socket, [1]) == 1)
    #expect(c.sent().map(\.description) == ["P. 1:2(1) ack 1"])
    #expect(try c.send(socket, [2]) == 1)
    #expect(try c.send(socket, [3]) == 1)
    #expect(c.sent().isEmpty)
    c.inject(.ack, seq: 1, ack: 2)
    #expect(c.sent().map(\.description) == ["P. 2:4(2) ack 1"])
    try c.stack.setOption(socket, .noDelay, 1, now: c.now)
    #expect(try c.send(socket, [4]) == 1)
    #expect(c.sent().map(\.description) == ["P. 4:5(1) ack 1"])
  }

  @Test("tcp(7): TCP_CORK holds a partial segment for at most 200 ms")
  func cork() throws {
    let c = Conversation()
    let socket = try c.connected()
    try c.stack.setOption(socket, .cork, 1, now: c.now)
    #expect(try c.send(socket, pattern(100)) == 100)
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(150))
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(60))
    #expect(c.sent().map(\.description) == ["P. 1:101(100) ack 1"])
  }

  @Test("RFC 7323 §5.3: PAWS drops a segment with an old timestamp and answers with an ACK")
  func paws() throws {
    let c = Conversation()
    c.timestamps = true
    let socket = try c.connected()
    c.inject(.ack, seq: 1, ack: 1, pattern(100))
    _ = c.sent()
    c.timestampValue -= 500
    c.inject(.ack, seq: 101, ack: 1, pattern(100))
    #expect(c.sent().map(\.description) == [". 1:1(0) ack 101"])
    #expect(try c.receive(socket).count == 100)
  }

  @Test("RFC 5681 §3.1, RFC 6928: the initial window is ten segments, slow start doubles it")
  func slowStart() throws {
    let c = Conversation()
    let socket = try c.connected(mss: 1000, window: 60000)
    #expect(try c.send(socket, pattern(60000)) > 40000)
    let first = c.sent()
    #expect(first.count == 10)
    c.inject(.ack, seq: 1, ack: 10001, window: 60000)
    #expect(c.sent().count == 20)
  }
}

@Suite("TCP send buffer")
struct SendBufferTests {
  @Test("send(2) MSG_MORE: a full buffer goes out all the same, also where the window is smaller than a segment")
  func fullWithMore() throws {
    let c = Conversation()
    // MSS 1460, a window that never holds one.
    let socket = try c.connected(scale: nil, window: 1000)
    try c.stack.setOption(socket, .sendBuffer, 500, now: c.now)
    var queued = 0
    while let n = try? c.send(socket, pattern(300), .more) { queued += n }
    #expect(queued > 0)
    var sent = 0
    for _ in 0..<20 where sent < queued {
      for segment in c.sent() { sent = max(sent, segment.sequence + segment.payload.count - 1) }
      c.inject(.ack, seq: 1, ack: 1 + sent, window: 1000)
      c.pass(.milliseconds(300))
    }
    #expect(sent == queued)
  }

  @Test(
    "What is lent leaves from the lender's memory, also when it is sent again, and is copied only as far as it must be")
  func lending() throws {
    let c = Conversation()
    let socket = try c.connected(window: 65535)
    #expect(try c.send(socket, pattern(1000)) == 1000)
    _ = c.sent()
    c.inject(.ack, seq: 1, ack: 1001)
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 8000, alignment: 1)
    defer { memory.deallocate() }
    memory.copyBytes(from: pattern(8000))
    #expect(c.canLend(socket))
    #expect(try c.lend(socket, memory) == 8000)
    #expect(!c.canLend(socket), "one loan at a time")
    #expect(throws: SocketError.wouldBlock) { try c.send(socket, [1]) }
    var frames: [PacketBuffer] = []
    while let packet = c.stack.nextTransmit() { frames.append(packet) }
    #expect(
      frames.allSatisfy { frame in
        frame.storage.pointee.fragmentCount == 1
          && memory.baseAddress! <= frame.storage.pointee.fragments[0].base!
          && frame.storage.pointee.fragments[0].base! < memory.baseAddress! + memory.count
      }, "nothing is copied")
    #expect(!c.settleLoan(socket), "the device still reads")
    for frame in frames { c.stack.transmitted(frame) }
    c.inject(.ack, seq: 1, ack: 1001 + 4380)
    #expect(c.lentBytes(socket) == 8000 - 4380)
    // Lost: again from the lender's memory.
    c.pass(.seconds(2))
    let again = c.sent().first { $0.sequence == 1001 + 4380 }
    #expect(again?.payload == Array(pattern(8000)[4380..<(4380 + 1460)]))
    #expect(c.settleLoan(socket))
    for i in memory.indices { memory[i] = 0 }
    #expect(c.lentBytes(socket) == 0 && c.unacknowledgedBytes(socket) == 8000 - 4380)
    // And once more, from the copy; behind it the next bytes.
    #expect(try c.send(socket, [7, 7, 7]) == 3)
    c.inject(.ack, seq: 1, ack: 1001 + 4380 + 1460)
    let rest = c.sent().first { $0.sequence == 1001 + 4380 + 1460 }?.payload ?? []
    let isFromTheCopy = !rest.isEmpty && pattern(8000)[(4380 + 1460)...].starts(with: rest)
    #expect(isFromTheCopy)
    c.inject(.ack, seq: 1, ack: 9001)
    #expect(c.sent().map(\.description) == ["P. 9001:9004(3) ack 1"])
    c.inject(.ack, seq: 1, ack: 9004)
    #expect(c.unacknowledgedBytes(socket) == 0)
    #expect(c.settleLoan(socket), "no loan is settled already")
  }

  @Test(
    "A writer that met a full buffer hears of room also when the device lets go of it after the last acknowledgment")
  func roomAfterLastPin() throws {
    let c = Conversation()
    let socket = try c.connected(window: 65535)
    try c.stack.setOption(socket, .sendBuffer, 10000, now: c.now)
    while c.stack.nextChanged() != nil {}
    // A frame is with the device and points into the buffer while everything is acknowledged already.
    #expect(try c.send(socket, pattern(20000)) == 20000)
    var frames: [PacketBuffer] = []
    while let packet = c.stack.nextTransmit() { frames.append(packet) }
    c.inject(.ack, seq: 1, ack: 14601)
    while let packet = c.stack.nextTransmit() { frames.append(packet) }
    c.inject(.ack, seq: 1, ack: 20001)
    #expect(c.stack.unacknowledgedBytes(socket) == 0)
    while c.stack.nextChanged() != nil {}
    var accepted = 0
    while true {
      do { accepted += try c.send(socket, pattern(20000)) } catch { break }
      while let packet = c.stack.nextTransmit() { frames.append(packet) }
      c.inject(.ack, seq: 1, ack: 20001 + accepted)
    }
    while c.stack.nextChanged() != nil {}
    for frame in frames { c.stack.transmitted(frame) }
    var events = Readiness(rawValue: 0)
    while let change = c.stack.nextChanged() { events.formUnion(change.events) }
    #expect(events.contains(.writable))
  }
}

@Suite("TCP loss")
struct LossTests {
  /// Sends ten segments of 1000 bytes.
  private func tenSegments(_ c: Conversation, sack: Bool) throws -> SocketHandle {
    let socket = try c.connected(mss: 1000, sack: sack, rtt: .milliseconds(50))
    // The window is scaled from here on; what follows changes it no more.
    c.inject(.ack, seq: 1, ack: 1)
    #expect(try c.send(socket, pattern(10000)) == 10000)
    #expect(c.sent().count == 10)
    c.pass(.milliseconds(50))
    return socket
  }

  private func blocks(_ c: Conversation, _ ranges: (Int, Int)...) -> TCPOptions {
    var options = TCPOptions()
    for (start, end) in ranges {
      options.sack.append(SACKBlock(start: SequenceNumber(c.stackISS) + start, end: SequenceNumber(c.stackISS) + end))
    }
    return options
  }

  @Test("RFC 8985 §6.2: three segments SACKed beyond a hole: the hole is sent again at once")
  func fastRetransmit() throws {
    let c = Conversation()
    _ = try tenSegments(c, sack: true)
    c.inject(.ack, seq: 1, ack: 1, options: blocks(c, (1001, 2001)))
    #expect(c.sent().isEmpty)
    c.inject(.ack, seq: 1, ack: 1, options: blocks(c, (1001, 4001)))
    #expect(c.sent().first?.description == ". 1:1001(1000) ack 1")
    c.inject(.ack, seq: 1, ack: 10001)
    #expect(c.stack.statistics[.tcpSackRecovery] == 1)
    #expect(c.stack.statistics[.tcpTimeouts] == 0)
  }

  @Test("RFC 6582 §3.2: without SACK the third duplicate acknowledgment retransmits, a partial one the next hole")
  func newReno() throws {
    let c = Conversation()
    _ = try tenSegments(c, sack: false)
    for _ in 0..<2 { c.inject(.ack, seq: 1, ack: 1) }
    #expect(c.sent().isEmpty)
    c.inject(.ack, seq: 1, ack: 1)
    #expect(c.sent().map(\.description) == [". 1:1001(1000) ack 1"])
    c.inject(.ack, seq: 1, ack: 3001)
    #expect(c.sent().first?.description == ". 3001:4001(1000) ack 1")
    c.inject(.ack, seq: 1, ack: 10001)
    #expect(c.stack.statistics[.tcpRenoRecovery] == 1)
  }

  @Test("RFC 6298 §5.4–5.5: without any answer the first segment is repeated, the time-out doubles")
  func timeout() throws {
    let c = Conversation { $0.settings.tcpEarlyRetrans = 0 }
    let socket = try c.connected(mss: 1000)
    #expect(try c.send(socket, pattern(3000)) == 3000)
    #expect(c.sent().count == 3)
    c.pass(.milliseconds(250))
    #expect(c.sent().map(\.description) == [". 1:1001(1000) ack 1"])
    c.pass(.milliseconds(350))
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(100))
    #expect(c.sent().map(\.description) == [". 1:1001(1000) ack 1"])
    c.inject(.ack, seq: 1, ack: 1001)
    #expect(c.sent().map(\.description) == [". 1001:2001(1000) ack 1", "P. 2001:3001(1000) ack 1"])
  }

  @Test("RFC 8985 §7.3: the lost tail is probed after two round trips, long before the retransmission time-out")
  func tailLossProbe() throws {
    let c = Conversation()
    _ = try tenSegments(c, sack: true)
    c.inject(.ack, seq: 1, ack: 8001)
    c.pass(.milliseconds(80))
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(50))
    #expect(c.sent().map(\.description) == ["P. 9001:10001(1000) ack 1"])
    #expect(c.stack.statistics[.tcpLossProbes] == 1)
  }

  @Test("tcp(7) TCP_USER_TIMEOUT: unacknowledged data ends the connection with ETIMEDOUT")
  func userTimeout() throws {
    let c = Conversation()
    let socket = try c.connected()
    try c.stack.setOption(socket, .userTimeout, 3000, now: c.now)
    #expect(try c.send(socket, [1, 2, 3]) == 3)
    c.pass(.seconds(10))
    #expect(c.stack.takeError(socket) == .timedOut)
  }

  @Test(
    "RFC 5482 §3, tcp(7) TCP_USER_TIMEOUT: a window that stays closed ends the connection too, though probes are answered"
  )
  func userTimeoutOfClosedWindow() throws {
    let c = Conversation()
    let socket = try c.connected(scale: nil, window: 1000)
    try c.stack.setOption(socket, .userTimeout, 3000, now: c.now)
    #expect(try c.send(socket, pattern(5000)) == 5000)
    _ = c.sent()
    c.inject(.ack, seq: 1, ack: 1001, window: 0)
    for _ in 0..<50 {
      c.pass(.milliseconds(100))
      for segment in c.sent() where !segment.flags.contains(.rst) { c.inject(.ack, seq: 1, ack: 1001, window: 0) }
    }
    #expect(c.stack.takeError(socket) == .timedOut)
  }

  @Test("RFC 1122 §4.2.3.6: keep-alive probes an idle connection and gives up unanswered")
  func keepAlive() throws {
    let c = Conversation()
    let socket = try c.connected()
    try c.stack.setOption(socket, .keepIdle, 10, now: c.now)
    try c.stack.setOption(socket, .keepInterval, 2, now: c.now)
    try c.stack.setOption(socket, .keepCount, 2, now: c.now)
    try c.stack.setOption(socket, .keepAlive, 1, now: c.now)
    c.pass(.milliseconds(10_100))
    #expect(c.sent().map(\.description) == [". 0:0(0) ack 1"])
    c.inject(.ack, seq: 1, ack: 1)
    c.pass(.milliseconds(9000))
    #expect(c.sent().isEmpty)
    c.pass(.seconds(20))
    #expect(c.stack.takeError(socket) == .timedOut)
    #expect(c.sent().last?.flags.contains(.rst) == true)
  }

  @Test("RFC 9293 §3.4.3: sequence numbers wrap within a transfer")
  func wrap() throws {
    let c = Conversation()
    c.peerISS = 0xffff_ff00
    let socket = try c.connected()
    for i in 0..<10 { c.inject(.ack, seq: 1 + i * 100, ack: 1, pattern(100, from: i * 100)) }
    #expect(try c.receive(socket) == pattern(1000))
  }
}

@Suite("TCP: more than 2 GB on one connection")
struct LongTransferTests {
  /// A segment of the peer's whose payload nobody looks at, at relative sequence number `seq`.
  private func injectBulk(_ c: Conversation, seq: Int, count: Int) {
    guard let packet = c.stack.allocateReceiveBuffer(), let large = packet.storage.pointee.large else {
      Issue.record("no receive buffer")
      return
    }
    let base = packet.put(40)
    IPv4Header(proto: IPProtocol.tcp, source: peerAddress, destination: stackAddress, payloadLength: 20 + count).write(
      to: base)
    TCPHeader(
      sourcePort: c.peerPort, destinationPort: c.localPort,
      sequence: SequenceNumber(c.peerISS &+ UInt32(truncatingIfNeeded: seq)),
      acknowledgment: SequenceNumber(c.stackISS) + 1, headerLength: 20, flags: [.ack, .psh], window: 65535
    ).write(to: base + 20)
    packet.addFragment(large, count)
    packet.storage.pointee.checksumState = .verified
    packet.storage.pointee.segmentSize = 1460
    c.stack.receive(packet, now: c.now)
    c.stack.finishBatch(now: c.now)
  }

  @Test("RFC 9293 §3.10.7.4: the window is still updated after 2^31 bytes on the fast path (SND.WL1 follows)")
  func windowAfterWrap() throws {
    let c = Conversation()
    let socket = try c.connected(scale: nil)
    try c.stack.setOption(socket, .receiveBuffer, 212_992, now: c.now)
    try c.stack.setOption(socket, .noDelay, 1, now: c.now)
    let piece = 64_000
    var seq = 1
    var memory = [UInt8](repeating: 0, count: piece)
    while seq < 1 << 31 + 1 << 20 {
      injectBulk(c, seq: seq, count: piece)
      seq += piece
      let n = try memory.withUnsafeMutableBytes { raw throws(SocketError) in
        try c.stack.receive(socket, into: raw, flags: .discard, now: c.now)
      }
      guard n == piece else {
        Issue.record("\(n) of \(piece) bytes at \(seq)")
        return
      }
      while let packet = c.stack.nextTransmit() { c.stack.transmitted(packet) }
    }
    #expect(c.stack.statistics[.tcpHPHits] > UInt64((1 << 31) / piece - 100), "the fast path took them")
    // The peer takes its window back; only a segment that is newer than SND.WL1 may say so.
    c.inject(.ack, seq: seq, ack: 1, window: 1000)
    _ = try c.send(socket, pattern(5000))
    #expect(c.sent().map(\.payload.count).reduce(0, +) <= 1000)
  }
}
