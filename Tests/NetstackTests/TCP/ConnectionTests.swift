import Netstack
import Testing
import Wire

@Suite("TCP opening")
struct OpeningTests {
  @Test("RFC 9293 §3.5: SYN, SYN-ACK, ACK make an active open ESTABLISHED")
  func activeOpen() throws {
    let c = Conversation()
    let socket = try c.connected()
    #expect(c.state(socket) == .established)
    #expect(c.stack.readiness(socket).contains(.writable))
  }

  @Test("RFC 9293 §3.10.7.2: a SYN to a listener is answered, the ACK puts the connection in the accept queue")
  func passiveOpen() throws {
    let c = Conversation(localPort: 80)
    let listener = try c.open()
    try c.stack.bind(listener, to: Endpoint(.anyIPv4, 80), now: c.now)
    try c.stack.listen(listener, backlog: 5, now: c.now)
    var options = TCPOptions()
    options.maximumSegmentSize = 1000
    c.inject(.syn, seq: 0, options: options)
    let synAck = c.sent()
    #expect(synAck.map(\.description) == ["S. 0:0(0) ack 1"])
    #expect(synAck[0].options.windowScale == nil, "only what the SYN offered is agreed to (RFC 7323 §2.2)")
    #expect(throws: SocketError.wouldBlock) { try c.stack.accept(listener, cookie: 9, now: c.now) }
    c.inject(.ack, seq: 1, ack: 1)
    #expect(c.stack.readiness(listener) == .readable)
    let child = try c.stack.accept(listener, cookie: 9, now: c.now)
    #expect(c.state(child) == .established)
    #expect(try c.send(child, pattern(2500)) == 2500)
    // 10 segments of initial window: all goes out, cut at the peer's MSS; Nagle holds no last piece without an earlier small one.
    #expect(
      c.sent().map(\.description) == [". 1:1001(1000) ack 1", ". 1001:2001(1000) ack 1", "P. 2001:2501(500) ack 1"])
  }

  @Test("RFC 9293 §3.5 figure 8: simultaneous open")
  func simultaneousOpen() throws {
    let c = Conversation()
    let socket = try c.open()
    #expect(throws: SocketError.inProgress) { try c.stack.connect(socket, to: c.peer, now: c.now) }
    #expect(c.sent().map(\.description) == ["S 0:0(0)"])
    c.inject(.syn, seq: 0)
    #expect(c.sent().map(\.description) == ["S. 0:0(0) ack 1"])
    #expect(c.state(socket) == .synReceived)
    c.inject([.syn, .ack], seq: 0, ack: 1)
    #expect(c.state(socket) == .established)
  }

  @Test("RFC 9293 §3.10.7.3: an unacceptable ACK in SYN-SENT draws a RST")
  func unacceptableAck() throws {
    let c = Conversation()
    let socket = try c.open()
    #expect(throws: SocketError.inProgress) { try c.stack.connect(socket, to: c.peer, now: c.now) }
    _ = c.sent()
    c.inject([.syn, .ack], seq: 0, ack: 77)
    #expect(c.sent().map(\.description) == ["R 77:77(0)"])
    #expect(c.state(socket) == .synSent)
  }

  @Test("RFC 9293 §3.10.7.3: RST in SYN-SENT refuses the connection")
  func refused() throws {
    let c = Conversation()
    let socket = try c.open()
    #expect(throws: SocketError.inProgress) { try c.stack.connect(socket, to: c.peer, now: c.now) }
    _ = c.sent()
    c.inject([.rst, .ack], seq: 0, ack: 1)
    #expect(c.stack.takeError(socket) == .connectionRefused)
    #expect(c.stack.readiness(socket).contains([.hangUp, .readable, .writable]))
  }

  @Test("RFC 9293 §3.5.1 figure 9: a peer with an old connection of this name is reset, and the SYN repeated at once")
  func oldConnection() throws {
    let c = Conversation()
    let socket = try c.open()
    #expect(throws: SocketError.inProgress) { try c.stack.connect(socket, to: c.peer, now: c.now) }
    _ = c.sent()
    // In TIME-WAIT or half open it answers the SYN with what it last knew.
    c.inject(.ack, seq: 77, ack: 5000)
    #expect(c.sent().map(\.description) == ["R 5000:5000(0)"])
    c.pass(.milliseconds(3))
    #expect(c.sent().map(\.description) == ["S 0:0(0)"])
    // Once: a peer that goes on like this is left to the ordinary time-outs.
    c.inject(.ack, seq: 77, ack: 5000)
    _ = c.sent()
    c.pass(.milliseconds(500))
    #expect(c.sent().isEmpty)
    c.inject([.syn, .ack], seq: 0, ack: 1)
    #expect(c.state(socket) == .established)
  }

  @Test("RFC 9293 §3.10.7.1: a segment to nobody draws a RST that the sender accepts")
  func closedPort() throws {
    let c = Conversation(localPort: 81)
    c.inject(.syn, seq: 5)
    #expect(c.sent().map(\.description) == ["R. 0:0(0) ack 6"])
    c.inject(.ack, seq: 5, ack: 9)
    #expect(c.sent().map(\.description) == ["R 9:9(0)"])
  }

  @Test("RFC 6298 §5.5, tcp_syn_retries: SYNs are repeated at 1, 3, 7 … seconds, then ETIMEDOUT")
  func connectTimeout() throws {
    let c = Conversation { $0.settings.tcpSynRetries = 2 }
    let socket = try c.open()
    #expect(throws: SocketError.inProgress) { try c.stack.connect(socket, to: c.peer, now: c.now) }
    #expect(c.sent().count == 1)
    c.pass(.milliseconds(1001))
    #expect(c.sent().map(\.description) == ["S 0:0(0)"])
    c.pass(.milliseconds(1500))
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(600))
    #expect(c.sent().map(\.description) == ["S 0:0(0)"])
    c.pass(.milliseconds(4100))
    #expect(c.sent().isEmpty)
    #expect(c.stack.takeError(socket) == .timedOut)
  }
}

@Suite("TCP closing")
struct ClosingTests {
  @Test("RFC 9293 §3.6: close, FIN acknowledged, peer's FIN, TIME-WAIT for 60 s, nothing left")
  func activeClose() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.stack.close(socket, now: c.now)
    #expect(c.sent().map(\.description) == ["F. 1:1(0) ack 1"])
    c.inject(.ack, seq: 1, ack: 2)
    c.inject([.fin, .ack], seq: 1, ack: 2)
    #expect(c.sent().map(\.description) == [". 2:2(0) ack 2"])
    #expect(c.leaks().sockets == 1)
    c.inject([.fin, .ack], seq: 1, ack: 2)
    #expect(c.sent().map(\.description) == [". 2:2(0) ack 2"], "TIME-WAIT acknowledges the repeated FIN")
    c.pass(.seconds(61))
    #expect(c.leaks() == (0, 0))
  }

  @Test("RFC 9293 §3.6 figure 13: simultaneous close goes through CLOSING")
  func simultaneousClose() throws {
    let c = Conversation()
    let socket = try c.connected()
    try c.stack.shutdown(socket, .write, now: c.now)
    #expect(c.sent().map(\.description) == ["F. 1:1(0) ack 1"])
    c.inject([.fin, .ack], seq: 1, ack: 1)
    #expect(c.state(socket) == .closing)
    #expect(c.sent().map(\.description) == [". 2:2(0) ack 2"])
    c.inject(.ack, seq: 2, ack: 2)
    #expect(c.state(socket) == .closed, "the socket is done, TIME-WAIT goes on without it")
    c.stack.close(socket, now: c.now)
    c.pass(.seconds(61))
    #expect(c.leaks() == (0, 0))
  }

  @Test("RFC 9293 §3.10.4: half-close: the peer's data is still received after our FIN")
  func halfClose() throws {
    let c = Conversation()
    let socket = try c.connected()
    #expect(try c.send(socket, [1, 2, 3]) == 3)
    try c.stack.shutdown(socket, .write, now: c.now)
    #expect(c.sent().map(\.description) == ["P. 1:4(3) ack 1", "F. 4:4(0) ack 1"])
    c.inject(.ack, seq: 1, ack: 5)
    #expect(c.state(socket) == .finWait2)
    c.inject([.ack, .psh], seq: 1, ack: 5, [9, 8])
    #expect(try c.receive(socket) == [9, 8])
    #expect(throws: SocketError.brokenPipe) { try c.send(socket, [1]) }
    c.inject([.fin, .ack], seq: 3, ack: 5)
    #expect(try c.receive(socket) == [])
  }

  @Test("RFC 9293 §3.6: passive close: end of stream, then LAST-ACK")
  func passiveClose() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject([.fin, .ack], seq: 1, ack: 1)
    #expect(try c.receive(socket) == [])
    #expect(c.state(socket) == .closeWait)
    #expect(c.sent().map(\.description) == [". 1:1(0) ack 2"])
    c.stack.close(socket, now: c.now)
    #expect(c.sent().map(\.description) == ["F. 1:1(0) ack 2"])
    c.inject(.ack, seq: 2, ack: 2)
    #expect(c.leaks() == (0, 0))
  }

  @Test("RFC 2525 §2.17: closing with unread data sends RST")
  func closeWithUnread() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject([.ack, .psh], seq: 1, ack: 1, [1, 2, 3])
    _ = c.sent()
    c.stack.close(socket, now: c.now)
    #expect(c.sent().map(\.description) == ["R. 1:1(0) ack 4"])
    #expect(c.leaks() == (0, 0))
  }

  @Test("socket(7): SO_LINGER with zero seconds resets")
  func lingerZero() throws {
    let c = Conversation()
    let socket = try c.connected()
    try c.stack.setOption(socket, .linger, 0, now: c.now)
    c.stack.close(socket, now: c.now)
    #expect(c.sent().map(\.description) == ["R. 1:1(0) ack 1"])
    #expect(c.leaks() == (0, 0))
  }

  @Test("RFC 5961 §3.2: only a RST at RCV.NXT resets; one elsewhere in the window draws a challenge ACK")
  func blindReset() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject(.rst, seq: 100)
    #expect(c.sent().map(\.description) == [". 1:1(0) ack 1"])
    #expect(c.state(socket) == .established)
    c.inject(.rst, seq: 1)
    #expect(c.sent().isEmpty)
    #expect(throws: SocketError.connectionReset) { try c.receive(socket) }
  }

  @Test("RFC 5961 §4.2: a SYN in the window draws a challenge ACK")
  func blindSyn() throws {
    let c = Conversation()
    let socket = try c.connected()
    c.inject(.syn, seq: 50)
    #expect(c.sent().map(\.description) == [". 1:1(0) ack 1"])
    #expect(c.state(socket) == .established)
  }
}
