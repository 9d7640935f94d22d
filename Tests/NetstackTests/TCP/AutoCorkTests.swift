import Netstack
import Testing
import Wire

@Suite("TCP: a write held back for the next (SendFlags.hold)")
struct AutoCorkTests {
  private func connected() throws -> (Conversation, SocketHandle) {
    let c = Conversation()
    let socket = try c.connected()
    return (c, socket)
  }

  @Test("Two small writes leave in one segment")
  func joined() throws {
    let (c, socket) = try connected()
    _ = try c.send(socket, pattern(20), .hold)
    #expect(c.sent().isEmpty)
    #expect(c.stack.isHeld(socket) == true)
    _ = try c.send(socket, pattern(30, from: 20))
    let seen = c.sent()
    #expect(seen.map(\.description) == ["P. 1:51(50) ack 1"])
    #expect(seen.first?.payload == pattern(50))
    #expect(c.stack.isHeld(socket) == false)
    #expect(c.stack.statistics[.tcpAutoCorking] == 1)
  }

  @Test("What is held back goes out when it is pushed, and after a millisecond by itself")
  func ends() throws {
    let (c, socket) = try connected()
    _ = try c.send(socket, pattern(20), .hold)
    c.stack.push(socket, now: c.now)
    #expect(c.sent().map(\.description) == ["P. 1:21(20) ack 1"])
    c.inject(.ack, seq: 1, ack: 21)
    _ = try c.send(socket, pattern(20), .hold)
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(2))
    #expect(c.sent().map(\.description) == ["P. 21:41(20) ack 1"])
    #expect(c.stack.isHeld(socket) == false)
    c.stack.push(socket, now: c.now)
    #expect(c.sent().isEmpty)
  }

  @Test("Nothing is held back behind data in flight, nor where it fills a segment")
  func notHeld() throws {
    let (c, socket) = try connected()
    try c.stack.setOption(socket, .noDelay, 1, now: c.now)
    _ = try c.send(socket, pattern(10))
    #expect(c.sent().count == 1)
    _ = try c.send(socket, pattern(10), .hold)
    #expect(c.sent().map(\.description) == ["P. 11:21(10) ack 1"])
    c.inject(.ack, seq: 1, ack: 21)
    _ = try c.send(socket, pattern(2000), .hold)
    #expect(c.sent().map(\.payload.count).reduce(0, +) == 2000)
  }

  @Test("Several pieces of one call are held back together, and leave with the FIN")
  func pieces() throws {
    let (c, socket) = try connected()
    _ = try c.send(socket, pattern(10), .more)
    _ = try c.send(socket, pattern(10, from: 10), .hold)
    #expect(c.sent().isEmpty)
    #expect(c.stack.isHeld(socket) == true)
    try c.stack.shutdown(socket, .write, now: c.now)
    #expect(c.sent().map(\.description) == ["FP. 1:21(20) ack 1"])
  }
}

extension AutoCorkTests {
  @Test("tcp(7): a corked socket waits its own 200 ms, and so does MSG_MORE after a write that was held back")
  func programsOwnCork() throws {
    let (c, socket) = try connected()
    try c.stack.setOption(socket, .cork, 1, now: c.now)
    _ = try c.send(socket, pattern(10), .hold)
    #expect(c.stack.isHeld(socket) == false)
    c.pass(.milliseconds(100))
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(150))
    #expect(c.sent().map(\.description) == ["P. 1:11(10) ack 1"])
    c.inject(.ack, seq: 1, ack: 11)
    try c.stack.setOption(socket, .cork, 0, now: c.now)
    _ = try c.send(socket, pattern(10), .hold)
    _ = try c.send(socket, pattern(10), .more)
    c.pass(.milliseconds(100))
    #expect(c.sent().isEmpty)
    c.pass(.milliseconds(150))
    #expect(c.sent().map(\.description) == ["P. 11:31(20) ack 1"])
  }

  @Test("Pieces of one call that are held back leave after a millisecond, not after MSG_MORE's 200")
  func piecesInTime() throws {
    let (c, socket) = try connected()
    _ = try c.send(socket, pattern(10), .more)
    _ = try c.send(socket, pattern(10), .hold)
    c.pass(.milliseconds(3))
    #expect(c.sent().map(\.description) == ["P. 1:21(20) ack 1"])
  }
}
