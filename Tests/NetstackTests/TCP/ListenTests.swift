import Netstack
import Testing
import Wire

@Suite("TCP listening")
struct ListenTests {
  private func listening(backlog: Int, port: UInt16 = 80, _ change: (inout StackConfiguration) -> Void = { _ in })
    throws -> (Conversation, SocketHandle)
  {
    let c = Conversation(localPort: port, change)
    let listener = try c.open()
    try c.stack.bind(listener, to: Endpoint(.anyIPv4, port), now: c.now)
    try c.stack.listen(listener, backlog: backlog, now: c.now)
    return (c, listener)
  }

  /// A handshake from a port of the peer's own.
  private func handshake(_ c: Conversation, port: UInt16) -> Conversation.Peer {
    c.with(Conversation.Peer(port: port)) {
      c.inject(.syn, seq: 0)
      _ = c.sent()
      c.inject(.ack, seq: 1, ack: 1)
    }
  }

  @Test("listen(2): one more connection than the backlog is queued; then handshakes wait and none is refused")
  func acceptQueueFull() throws {
    let (c, listener) = try listening(backlog: 1)
    _ = handshake(c, port: 1001)
    _ = handshake(c, port: 1002)
    #expect(c.stack.information(listener, now: c.now).unacked == 2)
    _ = c.sent()
    c.with(Conversation.Peer(port: 1003)) {
      c.inject(.syn, seq: 0)
      #expect(c.sent().isEmpty, "a SYN is dropped while the accept queue is full")
    }
    #expect(c.stack.statistics[.tcpListenOverflows] == 1)
    _ = try c.stack.accept(listener, cookie: 1, now: c.now)
    _ = handshake(c, port: 1003)
    #expect(c.stack.information(listener, now: c.now).unacked == 2)
  }

  @Test("RFC 9293 §3.10.7.2: an ACK to a listener draws a RST, a RST nothing")
  func strays() throws {
    let (c, _) = try listening(backlog: 5)
    c.inject(.ack, seq: 10, ack: 20)
    #expect(c.sent().map(\.description) == ["R 20:20(0)"])
    c.inject(.rst, seq: 10)
    #expect(c.sent().isEmpty)
  }

  @Test("RFC 6298 §5.5, tcp_synack_retries: the SYN-ACK is repeated, then the half-open connection is forgotten")
  func synAckRetries() throws {
    let (c, listener) = try listening(backlog: 5) { $0.settings.tcpSynackRetries = 2 }
    c.inject(.syn, seq: 0)
    #expect(c.sent().count == 1)
    c.pass(.milliseconds(1100))
    #expect(c.sent().map(\.description) == ["S. 0:0(0) ack 1"])
    c.pass(.seconds(10))
    #expect(c.sent().count == 1)
    c.stack.close(listener, now: c.now)
    #expect(c.leaks() == (0, 0))
  }

  @Test("RFC 9293 §3.10.7.4: a RST in SYN-RECEIVED returns to LISTEN")
  func resetWhileOpening() throws {
    let (c, listener) = try listening(backlog: 5)
    c.inject(.syn, seq: 0)
    _ = c.sent()
    c.inject(.rst, seq: 1)
    #expect(c.leaks().sockets == 1, "only the listener is left")
    c.inject(.syn, seq: 0)
    #expect(c.sent().count == 1, "and it listens")
    c.stack.close(listener, now: c.now)
    #expect(c.leaks() == (0, 0))
  }

  @Test("close(2) of a listener resets what waits to be accepted")
  func closeListener() throws {
    let (c, listener) = try listening(backlog: 5)
    _ = handshake(c, port: 1001)
    c.stack.close(listener, now: c.now)
    #expect(c.sent().map { $0.flags } == [[.rst, .ack]])
    #expect(c.leaks() == (0, 0))
  }

  @Test("tcp(7) TCP_DEFER_ACCEPT: a bare ACK does not complete the handshake, data does")
  func deferAccept() throws {
    let (c, listener) = try listening(backlog: 5)
    try c.stack.setOption(listener, .deferAccept, 5, now: c.now)
    c.inject(.syn, seq: 0)
    _ = c.sent()
    c.inject(.ack, seq: 1, ack: 1)
    #expect(!c.stack.readiness(listener).contains(.readable))
    c.inject([.ack, .psh], seq: 1, ack: 1, [1, 2, 3])
    #expect(c.stack.readiness(listener).contains(.readable))
    let child = try c.stack.accept(listener, cookie: 1, now: c.now)
    #expect(try c.receive(child) == [1, 2, 3])
  }

  @Test("A connection reset before it was accepted is still accepted, and tells so")
  func resetBeforeAccept() throws {
    let (c, listener) = try listening(backlog: 5)
    c.with(handshake(c, port: 1001)) { c.inject(.rst, seq: 1) }
    let child = try c.stack.accept(listener, cookie: 1, now: c.now)
    #expect(throws: SocketError.connectionReset) { try c.receive(child) }
    c.stack.close(child, now: c.now)
    c.stack.close(listener, now: c.now)
    #expect(c.leaks() == (0, 0))
  }

  @Test("bind(2): a port is held once, unless SO_REUSEADDR shares it with what does not listen")
  func portConflicts() throws {
    let (c, _) = try listening(backlog: 5)
    let second = try c.open()
    #expect(throws: SocketError.addressInUse) { try c.stack.bind(second, to: Endpoint(.anyIPv4, 80), now: c.now) }
    try c.stack.setOption(second, .reuseAddress, 1, now: c.now)
    #expect(throws: SocketError.addressInUse) { try c.stack.bind(second, to: Endpoint(.anyIPv4, 80), now: c.now) }
    try c.stack.bind(second, to: Endpoint(.anyIPv4, 81), now: c.now)
    #expect(throws: SocketError.addressNotAvailable) {
      try c.stack.bind(try c.open(), to: Endpoint(IPAddress(IPv4Address(1, 2, 3, 4)), 82), now: c.now)
    }
  }
}

@Suite("TCP TIME-WAIT")
struct TimeWaitTests {
  /// A passive connection that we closed first: its socket pair is in TIME-WAIT, the listener still there.
  private func inTimeWait(timestamps: Bool) throws -> (Conversation, SocketHandle) {
    let c = Conversation(localPort: 80)
    c.timestamps = timestamps
    let listener = try c.open()
    try c.stack.bind(listener, to: Endpoint(.anyIPv4, 80), now: c.now)
    try c.stack.listen(listener, backlog: 5, now: c.now)
    c.inject(.syn, seq: 0)
    _ = c.sent()
    c.inject(.ack, seq: 1, ack: 1)
    let child = try c.stack.accept(listener, cookie: 1, now: c.now)
    c.stack.close(child, now: c.now)
    #expect(c.sent().map(\.description) == ["F. 1:1(0) ack 1"])
    c.inject([.fin, .ack], seq: 1, ack: 2)
    #expect(c.sent().map(\.description) == [". 2:2(0) ack 2"])
    return (c, listener)
  }

  @Test("RFC 6191 §2: a SYN with a newer timestamp opens a new connection, with a higher ISS")
  func reuseByTimestamp() throws {
    let (c, listener) = try inTimeWait(timestamps: true)
    let oldISS = c.stackISS
    c.timestampValue += 1
    c.inject(.syn, seq: 1000)
    let synAck = c.sent()
    #expect(synAck.first?.flags == [.syn, .ack])
    #expect(Int32(bitPattern: c.stackISS &- oldISS) > 65536)
    c.inject(.ack, seq: 1001, ack: 1)
    #expect(c.stack.readiness(listener).contains(.readable))
  }

  @Test("RFC 7323 §5.3: a SYN with an old timestamp does not")
  func oldTimestamp() throws {
    let (c, listener) = try inTimeWait(timestamps: true)
    c.timestampValue -= 10
    c.inject(.syn, seq: 1000)
    #expect(c.sent().map(\.description) == [". 2:2(0) ack 2"])
    #expect(!c.stack.readiness(listener).contains(.readable))
  }

  @Test("RFC 1122 §4.2.2.13: without timestamps a SYN above the old sequence numbers opens anew")
  func reuseBySequence() throws {
    let (c, _) = try inTimeWait(timestamps: false)
    c.inject(.syn, seq: 70000)
    #expect(c.sent().first?.flags == [.syn, .ack])
  }

  @Test("RFC 1337 §3: with tcp_rfc1337 a RST does not end TIME-WAIT")
  func assassination() throws {
    let (c, listener) = try inTimeWait(timestamps: false)
    c.stack.settings.tcpRfc1337 = true
    c.inject(.rst, seq: 2)
    c.stack.close(listener, now: c.now)
    #expect(c.leaks().sockets == 1)
    c.stack.settings.tcpRfc1337 = false
    c.inject(.rst, seq: 2)
    #expect(c.leaks().sockets == 0)
  }

  @Test("bind(2): a port with a connection in TIME-WAIT needs SO_REUSEADDR")
  func bindDuringTimeWait() throws {
    let (c, listener) = try inTimeWait(timestamps: false)
    c.stack.close(listener, now: c.now)
    let socket = try c.open()
    #expect(throws: SocketError.addressInUse) { try c.stack.bind(socket, to: Endpoint(.anyIPv4, 80), now: c.now) }
    try c.stack.setOption(socket, .reuseAddress, 1, now: c.now)
    try c.stack.bind(socket, to: Endpoint(.anyIPv4, 80), now: c.now)
  }

  @Test("tcp_tw_reuse: connect takes over a TIME-WAIT socket pair whose timestamp is older than a second")
  func connectReuse() throws {
    let c = Conversation { $0.settings.ipLocalPortRange = (first: 40000, last: 40000) }
    c.timestamps = true
    let socket = try c.connected()
    c.stack.close(socket, now: c.now)
    _ = c.sent()
    c.inject([.fin, .ack], seq: 1, ack: 2)
    _ = c.sent()
    let again = try c.open()
    #expect(throws: SocketError.addressNotAvailable) { try c.stack.connect(again, to: c.peer, now: c.now) }
    c.pass(.milliseconds(1500))
    #expect(throws: SocketError.inProgress) { try c.stack.connect(again, to: c.peer, now: c.now) }
    #expect(c.sent().first?.flags == .syn)
  }
}
