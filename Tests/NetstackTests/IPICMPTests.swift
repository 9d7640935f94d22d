// ICMPv4 messages: what is sent, when not, and what received ones mean.

import Testing
import Wire

@testable import Netstack

private let here = IPv4Address(198, 18, 0, 4)
private let peer = IPv4Address(198, 18, 0, 5)

@Suite("ICMPv4")
struct ICMPv4Tests {
  private func routes() -> RouteTable {
    var table = RouteTable()
    table.add(
      Route(
        prefix: IPAddress(IPv4Address(198, 18, 0, 0)), prefixLength: 24, gateway: nil, source: IPAddress(here),
        mtu: 1500))
    return table
  }

  private func isChecksumRight(_ message: PacketBuffer) -> Bool {
    Checksum.fold(message.checksum(from: 0)) == 0xffff
  }

  @Test("RFC 1122 §3.2.2.6: an echo reply is the request with its type changed and a right checksum", arguments: 0..<60)
  func echoReply(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    let message = pool.allocateForTransmit()!
    let length = 8 + random.below(1400)
    let base = message.put(length)
    for i in 0..<length { base.storeByte(UInt8(truncatingIfNeeded: random.next()), at: i) }
    ICMPHeader(
      type: ICMPHeader.echoRequest, code: UInt8(random.below(3)), rest: UInt32(truncatingIfNeeded: random.next())
    )
    .write(to: base)
    base.storeBigEndian16(~Checksum.fold(message.checksum(from: 0)), at: 2)
    let before = contents(message)
    ICMPv4Messages.makeEchoReply(message)
    let after = contents(message)
    #expect(after[0] == 0 && after[1] == 0)
    #expect(Array(after[4...]) == Array(before[4...]))
    #expect(isChecksumRight(message), "seed \(seed)")
    pool.release(message)
  }

  @Test(
    "RFC 1812 §4.3.2.3: an error quotes the packet, up to 576 bytes in all, with a right checksum",
    arguments: [0, 7, 8, 100, 528, 529, 1400, 9000])
  func error(payloadLength: Int) {
    var pool = BufferPool()
    let payload = (0..<payloadLength).map { UInt8(truncatingIfNeeded: $0) }
    let packet = makePacket(
      IPv4Header(proto: 17, source: peer, destination: here, payloadLength: 0), payload: payload, pool: &pool)
    let message = ICMPv4Messages.makeError(
      type: 3, code: 3, rest: 0x1234, about: packet, pool: &pool)!
    #expect(message.count == 8 + min(20 + payloadLength, 548))
    #expect(isChecksumRight(message))
    #expect(Array(contents(message)[8...]) == Array(contents(packet).prefix(548)))
    #expect(message.headroom >= 14 + 20)
    if payloadLength >= 8 {
      let read = ICMPError(v4: message.readable)
      #expect(read?.type == 3 && read?.code == 3 && read?.rest == 0x1234 && read?.nextHopMTU == nil)
      #expect(read?.quoted.local == Endpoint(IPAddress(peer), 0x0001) && read?.quoted.remote.port == 0x0203)
      #expect(read?.sequence == SequenceNumber(0x0405_0607))
    } else {
      #expect(ICMPError(v4: message.readable) == nil, "too little to find a socket by")
    }
    pool.release(message)
    pool.release(packet)
    #expect(pool.outstanding == 0)
  }

  @Test("A received error that is cut short at any byte is refused")
  func truncated() {
    var pool = BufferPool()
    let packet = makePacket(
      IPv4Header(proto: 6, source: here, destination: peer, payloadLength: 0), payload: [UInt8](0..<8),
      options: [1, 1, 1, 0], pool: &pool)
    let message = ICMPv4Messages.makeError(type: 3, code: 1, about: packet, pool: &pool)!
    let bytes = contents(message)
    for length in 0...bytes.count {
      // A copy of its own size, so that reading beyond the end shows under AddressSanitizer.
      let cut = Array(bytes[0..<length])
      let read = cut.withUnsafeBytes { ICMPError(v4: $0) }
      #expect((read != nil) == (length == bytes.count))
    }
    pool.release(message)
    pool.release(packet)
  }

  @Test("RFC 1122 §3.2.2: no error about an error, a broadcast, a later fragment, or to a source that is no host")
  func mustNotReport() {
    let routes = routes()
    func mayReport(
      from source: IPv4Address = peer, to destination: IPv4Address = here, proto: UInt8 = 17, offset: Int = 0,
      payload: [UInt8] = [0, 0, 0, 0], linkBroadcast: Bool = false
    ) -> Bool {
      let header = IPv4Header(
        proto: proto, source: source, destination: destination, payloadLength: payload.count, fragmentOffset: offset)
      return payload.withUnsafeBytes {
        ICMPv4Messages.mayReport(header, payload: $0, wasLinkBroadcast: linkBroadcast, routes: routes)
      }
    }
    #expect(mayReport())
    #expect(mayReport(proto: IPProtocol.icmp, payload: [8, 0, 0, 0]), "about an echo request")
    for type: UInt8 in [3, 4, 5, 11, 12] { #expect(!mayReport(proto: IPProtocol.icmp, payload: [type, 0, 0, 0])) }
    #expect(!mayReport(proto: IPProtocol.icmp, payload: []), "an unknown ICMP type may be an error")
    #expect(!mayReport(proto: IPProtocol.icmp, payload: [200]))
    #expect(!mayReport(linkBroadcast: true))
    for destination in [IPv4Address(224, 0, 0, 251), .limitedBroadcast, IPv4Address(198, 18, 0, 255)] {
      #expect(!mayReport(to: destination))
    }
    #expect(!mayReport(offset: 8))
    for source in [
      IPv4Address.any, IPv4Address(0, 1, 2, 3), IPv4Address(127, 0, 0, 1), IPv4Address(224, 0, 0, 1),
      IPv4Address(240, 0, 0, 1), .limitedBroadcast, IPv4Address(198, 18, 0, 255),
    ] { #expect(!mayReport(from: source)) }
  }

  @Test("Linux's icmp_err_convert: what each unreachable code means to a socket")
  func meanings() {
    let expected: [(UInt8, SocketError, Bool)] = [
      (0, .networkUnreachable, false), (1, .hostUnreachable, false), (2, .protocolUnreachable, true),
      (3, .connectionRefused, true), (4, .messageTooLong, false), (5, .notSupported, false),
      (6, .networkUnreachable, true), (7, .hostDown, true), (8, .hostIsolated, true),
      (9, .networkUnreachable, true), (10, .hostUnreachable, true), (11, .networkUnreachable, false),
      (12, .hostUnreachable, false), (13, .hostUnreachable, true), (14, .hostUnreachable, true),
      (15, .hostUnreachable, true),
    ]
    var pool = BufferPool()
    let packet = makePacket(
      IPv4Header(proto: 6, source: here, destination: peer, payloadLength: 0), payload: [UInt8](0..<8), pool: &pool)
    func meaning(_ type: UInt8, _ code: UInt8) -> (error: SocketError, fatal: Bool)? {
      let message = ICMPv4Messages.makeError(type: type, code: code, about: packet, pool: &pool)!
      defer { pool.release(message) }
      return ICMPError(v4: message.readable)?.meaning
    }
    for (code, error, fatal) in expected {
      let found = meaning(3, code)
      #expect(found?.error == error && found?.fatal == fatal, "code \(code)")
    }
    #expect(meaning(3, 16) == nil)
    #expect(meaning(11, 0)?.error == .hostUnreachable && meaning(11, 0)?.fatal == false)
    #expect(meaning(12, 0)?.fatal == true)
    #expect(meaning(4, 0) == nil, "RFC 6633: source quench is ignored")
    #expect(meaning(5, 1) == nil)
    #expect(meaning(0, 0) == nil)
    pool.release(packet)
  }
}

@Suite("ICMP rate limit")
struct ICMPRateLimitTests {
  private func after(_ milliseconds: Int) -> Instant { .zero + .seconds(100) + .milliseconds(milliseconds) }

  @Test("icmp_ratelimit: a target gets six at once, then one a second")
  func target() {
    var limiter = ICMPRateLimiter(key: HashKey(1, 2), seed: 1, now: after(0))
    let settings = Settings()
    let target = IPAddress(peer)
    func count(at milliseconds: Int, tries: Int) -> Int {
      var n = 0
      for _ in 0..<tries where limiter.allows(target, now: after(milliseconds), settings: settings) { n += 1 }
      return n
    }
    #expect(count(at: 0, tries: 10) == 6)
    #expect(count(at: 999, tries: 3) == 0)
    #expect(count(at: 1000, tries: 3) == 1)
    #expect(count(at: 60_000, tries: 20) == 6)
    let other = limiter.allows(IPAddress(here), now: after(60_000), settings: settings)
    #expect(other, "another target has its own share")
  }

  @Test("icmp_msgs_per_sec: over all targets the burst is at most 50 and the rate holds", arguments: 0..<10)
  func total(seed: UInt64) {
    var limiter = ICMPRateLimiter(key: HashKey(1, 2), seed: seed, now: after(0))
    let settings = Settings()
    var allowed = 0
    for i in 0..<1000
    where limiter.allows(IPAddress(IPv4Address(bits: UInt32(i + 1))), now: after(0), settings: settings) {
      allowed += 1
    }
    #expect((16...50).contains(allowed))
    for millisecond in 1...1000 {
      for i in 0..<10 {
        let target = IPAddress(IPv4Address(bits: UInt32(millisecond * 100 + i)))
        if limiter.allows(target, now: after(millisecond), settings: settings) { allowed += 1 }
      }
    }
    #expect(allowed <= 1050)
    #expect(allowed >= 300)
  }

  @Test("icmp_ratelimit 0: no limit per target")
  func off() {
    var limiter = ICMPRateLimiter(key: HashKey(1, 2), seed: 1, now: after(0))
    var settings = Settings()
    settings.icmpRatelimit = 0
    var allowed = 0
    for i in 0..<100 where limiter.allows(IPAddress(peer), now: after(i * 100), settings: settings) { allowed += 1 }
    #expect(allowed == 100)
  }
}
