// Routes, path MTUs, fragments both ways.

import Testing
import Wire

@testable import Netstack

private let here = IPv4Address(198, 18, 0, 4)
private let peer = IPv4Address(198, 18, 0, 5)

/// A packet with an IPv4 header and `payload`, larger ones with a large buffer as a TAP read leaves them.
func makePacket(
  _ header: IPv4Header, payload: [UInt8], options: [UInt8] = [], pool: inout BufferPool
) -> PacketBuffer {
  var header = header
  header.headerLength += options.count
  header.totalLength = header.headerLength + payload.count
  let packet = pool.allocateForTransmit()!
  let base = packet.put(header.headerLength)
  header.write(to: base)
  if !options.isEmpty {
    base.storeByte(0x40 | UInt8(header.headerLength / 4), at: 0)
    for (i, byte) in options.enumerated() { base.storeByte(byte, at: 20 + i) }
    base.storeBigEndian16(0, at: 10)
    let sum = Checksum.sum(UnsafeRawBufferPointer(start: base, count: header.headerLength))
    base.storeBigEndian16(~Checksum.fold(sum), at: 10)
  }
  let linear = min(payload.count, packet.tailroom)
  payload.withUnsafeBytes { bytes in
    guard let from = bytes.baseAddress else { return }
    packet.put(linear).copyMemory(from: from, byteCount: linear)
    if linear < bytes.count {
      _ = pool.attachLarge(packet)
      packet.storage.pointee.large!.copyMemory(from: from + linear, byteCount: bytes.count - linear)
      packet.addFragment(packet.storage.pointee.large!, bytes.count - linear)
    }
  }
  return packet
}

/// All bytes of a packet from `offset` on.
func contents(_ packet: PacketBuffer, from offset: Int = 0) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: packet.count - offset)
  let n = bytes.withUnsafeMutableBytes { packet.copy(from: offset, to: $0) }
  precondition(n == bytes.count)
  return bytes
}

private func header(_ packet: PacketBuffer) -> IPv4Header? {
  IPv4Header.parse(packet.readable, length: packet.count).header
}

private func randomBytes(_ count: Int, _ random: inout SeededRandom) -> [UInt8] {
  (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
}

// MARK: - Routes

@Suite("Route table")
struct RouteTableTests {
  private func address(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) -> IPAddress {
    IPAddress(IPv4Address(a, b, c, d))
  }

  private func table() -> RouteTable {
    var table = RouteTable()
    table.add(
      Route(
        prefix: address(198, 18, 0, 0), prefixLength: 24, gateway: nil, source: IPAddress(here), mtu: 1500))
    table.add(
      Route(
        prefix: .anyIPv4, prefixLength: 0, gateway: address(198, 18, 0, 1), source: IPAddress(here), mtu: 1500))
    table.add(
      Route(
        prefix: address(10, 0, 0, 0), prefixLength: 8, gateway: address(198, 18, 0, 2), source: IPAddress(here),
        mtu: 1400))
    return table
  }

  @Test(
    "ip-route(8): a route may say that there is no way; a longer prefix is stronger",
    arguments: [
      (Route.Kind.blackhole, RouteDecision.Kind.blackhole), (.unreachable, .unreachable), (.prohibit, .prohibit),
    ])
  func refusals(kind: Route.Kind, decision: RouteDecision.Kind) {
    var table = table()
    table.add(
      Route(kind, prefix: address(10, 1, 0, 0), prefixLength: 16, gateway: nil, source: .anyIPv4, mtu: 1500))
    #expect(table.lookup(address(10, 1, 2, 3), now: .zero)?.kind == decision)
    #expect(table.lookup(address(10, 2, 2, 3), now: .zero)?.kind == .unicast)
    let isBroadcast = table.isBroadcast(address(10, 1, 255, 255))
    #expect(!isBroadcast)
    // A way to one host of the network that has none.
    table.add(
      Route(
        prefix: address(10, 1, 2, 3), prefixLength: 32, gateway: address(198, 18, 0, 7), source: IPAddress(here),
        mtu: 1500))
    #expect(table.lookup(address(10, 1, 2, 3), now: .zero)?.nextHop == address(198, 18, 0, 7))
    table.remove(prefix: address(10, 1, 0, 0), prefixLength: 16)
    #expect(table.lookup(address(10, 1, 2, 4), now: .zero)?.nextHop == address(198, 18, 0, 2))
  }

  @Test("RFC 1122 §3.3.6: the limited broadcast leaves from the link's IPv4 address, whatever other routes there are")
  func limitedBroadcastSource() {
    var table = RouteTable()
    table.add(Route(.unreachable, prefix: .anyIPv4, prefixLength: 0, gateway: nil, source: .anyIPv4, mtu: 1500))
    table.add(Route(prefix: .anyIPv6, prefixLength: 0, gateway: nil, source: .anyIPv6, mtu: 1500))
    table.remove(prefix: .anyIPv4, prefixLength: 0)
    #expect(table.lookup(IPAddress(.limitedBroadcast), now: .zero) == nil)
    table.add(
      Route(
        prefix: address(198, 18, 0, 0), prefixLength: 24, gateway: nil, source: IPAddress(here), mtu: 1500))
    #expect(table.lookup(IPAddress(.limitedBroadcast), now: .zero)?.source == IPAddress(here))
  }

  @Test("no route leads away from an address of our own")
  func localStays() {
    var table = RouteTable()
    let own = IPAddress(here)
    table.add(Route(.local, prefix: own, prefixLength: 32, gateway: nil, source: own, mtu: 65535))
    let away = Route(prefix: own, prefixLength: 32, gateway: address(198, 18, 0, 1), source: own, mtu: 1500)
    #expect(!table.add(away) && table.lookup(own, now: .zero)?.kind == .local)
    table.remove(prefix: own, prefixLength: 32)
    #expect(table.add(away) && table.lookup(own, now: .zero)?.kind == .unicast)
  }

  @Test("the link's MTU, as a router tells it, is every IPv6 route's, but for one that a person gave a smaller one")
  func linkMTU() {
    var table = RouteTable()
    let (own, other) = (IPAddress(high: 0x2001_0db8 << 32, low: 0), IPAddress(high: 0x2001_0db8 << 32 | 1, low: 0))
    var route = Route(prefix: own, prefixLength: 64, gateway: nil, source: .anyIPv6, mtu: 1400)
    route.ownMTU = 1400
    table.add(route)
    table.add(Route(prefix: other, prefixLength: 64, gateway: nil, source: .anyIPv6, mtu: 1500))
    table.add(Route(prefix: address(10, 0, 0, 0), prefixLength: 8, gateway: nil, source: .anyIPv4, mtu: 1500))
    for (mtu, expected) in [(1300, 1300), (1450, 1400), (1500, 1400)] {
      table.limitIPv6(mtu: mtu)
      #expect(table.lookup(own, now: .zero)?.mtu == expected)
      #expect(table.lookup(other, now: .zero)?.mtu == mtu)
      #expect(table.lookup(address(10, 1, 1, 1), now: .zero)?.mtu == 1500)
    }
  }

  @Test("an address that goes takes the routes from it along, others and refusals stay")
  func removeSource() {
    var table = table()
    let other = address(192, 0, 2, 1)
    table.add(Route(prefix: address(192, 0, 2, 0), prefixLength: 24, gateway: nil, source: other, mtu: 1500))
    table.add(
      Route(.prohibit, prefix: address(172, 16, 0, 0), prefixLength: 12, gateway: nil, source: .anyIPv4, mtu: 1500))
    let generation = table.generation
    table.remove(source: IPAddress(here))
    #expect(table.generation != generation && table.count == 2)
    #expect(table.lookup(address(10, 0, 0, 1), now: .zero) == nil)
    #expect(table.lookup(address(192, 0, 2, 9), now: .zero)?.source == other)
    #expect(table.lookup(address(172, 16, 0, 1), now: .zero)?.kind == .prohibit)
    let isBroadcast = table.isBroadcast(address(198, 18, 0, 255))
    #expect(!isBroadcast)
  }

  @Test("RFC 1122 §3.3.1.1: on the link the destination is the next hop, elsewhere the gateway")
  func nextHop() {
    let table = table()
    #expect(table.lookup(IPAddress(peer), now: .zero)?.nextHop == IPAddress(peer))
    #expect(table.lookup(address(8, 8, 8, 8), now: .zero)?.nextHop == address(198, 18, 0, 1))
    #expect(table.lookup(address(10, 1, 2, 3), now: .zero)?.nextHop == address(198, 18, 0, 2))
    #expect(table.lookup(address(10, 1, 2, 3), now: .zero)?.mtu == 1400)
    #expect(table.lookup(IPAddress(high: 1 << 61, low: 1), now: .zero) == nil, "no IPv6 by an IPv4 default route")
  }

  @Test("The longest prefix wins whatever the order of adding", arguments: 0..<30)
  func longestPrefix(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var table = RouteTable()
    var model: [(prefix: UInt32, length: Int, gateway: UInt32)] = []
    for i in 0..<40 {
      let length = random.below(33)
      let mask: UInt32 = length == 0 ? 0 : ~0 << UInt32(32 - length)
      // Few distinct bits, so that prefixes nest.
      let prefix = UInt32(truncatingIfNeeded: random.next()) & 0xC000_0F03 & mask
      let gateway = UInt32(0x0a00_0000 + i)
      model.removeAll { $0.prefix == prefix && $0.length == length }
      model.append((prefix, length, gateway))
      let added = table.add(
        Route(
          prefix: IPAddress(IPv4Address(bits: prefix)), prefixLength: length,
          gateway: IPAddress(IPv4Address(bits: gateway)), source: IPAddress(here), mtu: 1500))
      #expect(added)
      if random.below(4) == 0 {
        let gone = model.remove(at: random.below(model.count))
        table.remove(prefix: IPAddress(IPv4Address(bits: gone.prefix)), prefixLength: gone.length)
      }
      #expect(table.count == model.count)
    }
    for _ in 0..<300 {
      let bits = UInt32(truncatingIfNeeded: random.next()) & 0xC000_0F03
      let best = model.filter { $0.length == 0 || (bits ^ $0.prefix) >> UInt32(32 - $0.length) == 0 }
        .max { $0.length < $1.length }
      let found = table.lookup(IPAddress(IPv4Address(bits: bits)), now: .zero)
      #expect(found?.nextHop.v4.bits == best?.gateway)
    }
  }

  @Test("RFC 1122 §3.2.1.3, RFC 3021: broadcasts are told from hosts; a /31 has none")
  func broadcasts() {
    var table = table()
    #expect(table.lookup(address(198, 18, 0, 255), now: .zero)?.kind == .broadcast)
    #expect(table.lookup(address(198, 18, 0, 0), now: .zero)?.kind == .broadcast)
    #expect(table.lookup(address(10, 255, 255, 255), now: .zero)?.kind == .unicast, "not on our link")
    #expect(table.lookup(IPAddress(.limitedBroadcast), now: .zero)?.kind == .broadcast)
    #expect(table.lookup(IPAddress(.limitedBroadcast), now: .zero)?.nextHop == IPAddress(.limitedBroadcast))
    #expect(table.lookup(address(224, 0, 0, 1), now: .zero)?.kind == .multicast)
    table.add(
      Route(.local, prefix: IPAddress(here), prefixLength: 32, gateway: nil, source: IPAddress(here), mtu: 1500))
    #expect(table.lookup(IPAddress(here), now: .zero)?.kind == .local)
    table.add(
      Route(
        prefix: address(192, 0, 2, 0), prefixLength: 31, gateway: nil, source: address(192, 0, 2, 0), mtu: 1500))
    #expect(table.lookup(address(192, 0, 2, 1), now: .zero)?.kind == .unicast)
  }

  @Test("RFC 1122 §3.3.6: the limited broadcast needs a link but no route")
  func limitedBroadcast() {
    var table = RouteTable()
    #expect(table.lookup(IPAddress(.limitedBroadcast), now: .zero) == nil)
    table.add(
      Route(
        prefix: address(198, 18, 0, 0), prefixLength: 24, gateway: nil, source: IPAddress(here), mtu: 1500))
    #expect(table.lookup(IPAddress(.limitedBroadcast), now: .zero)?.nextHop == IPAddress(.limitedBroadcast))
    #expect(table.lookup(address(8, 8, 8, 8), now: .zero) == nil)
  }

  @Test("RFC 1191 §3: a path MTU is lowered by a report, never raised, and forgotten after ten minutes")
  func pathMTU() {
    var table = table()
    let settings = Settings()
    let far = address(8, 8, 8, 8)
    let generation = table.generation
    let lowered = table.fragmentationNeeded(far, reported: 1300, packetLength: 1500, now: .zero, settings: settings)
    #expect(lowered == 1300)
    #expect(table.generation != generation, "cached answers are void")
    let raised = table.fragmentationNeeded(far, reported: 1400, packetLength: 1500, now: .zero, settings: settings)
    #expect(raised == nil)
    let end = Instant.zero + .seconds(600)
    #expect(table.lookup(far, now: end - .milliseconds(1))?.mtu == 1300)
    #expect(table.lookup(far, now: .zero)?.expires == end)
    #expect(table.lookup(far, now: end)?.mtu == 1500)
    #expect(table.lookup(address(8, 8, 8, 9), now: .zero)?.mtu == 1500, "one destination only")
  }

  @Test("RFC 1191 §5, §7.1: a router that reports no MTU is answered with the next smaller plateau")
  func plateau() {
    var table = table()
    let settings = Settings()
    let far = address(8, 8, 8, 8)
    for expected in [1492, 1006] {
      let length = table.lookup(far, now: .zero)!.mtu
      let mtu = table.fragmentationNeeded(far, reported: 0, packetLength: length, now: .zero, settings: settings)
      #expect(mtu == expected)
    }
  }

  @Test("A tiny reported MTU locks the path at min_pmtu, without DF, as in Linux")
  func minimum() {
    var table = table()
    let settings = Settings()
    let far = address(8, 8, 8, 8)
    let mtu = table.fragmentationNeeded(far, reported: 100, packetLength: 1500, now: .zero, settings: settings)
    #expect(mtu == settings.routeMinPMTU)
    #expect(table.lookup(far, now: .zero)?.mtuLocked == true)
    let again = table.fragmentationNeeded(far, reported: 100, packetLength: 552, now: .zero, settings: settings)
    #expect(again == nil)
  }

  @Test("Many destinations with path MTUs: memory stays bounded, the newest are known")
  func manyExceptions() {
    var table = table()
    let settings = Settings()
    for i in 0..<20_000 {
      let far = IPAddress(IPv4Address(bits: 0x0800_0000 + UInt32(i)))
      let now = Instant.zero + .milliseconds(i)
      let mtu = table.fragmentationNeeded(far, reported: 1200, packetLength: 1500, now: now, settings: settings)
      #expect(mtu == 1200)
      #expect(table.lookup(far, now: now)?.mtu == 1200)
    }
  }

  @Test("Nonsense prefixes and a full table are refused")
  func limits() {
    var table = RouteTable()
    func route(_ n: UInt8, _ length: Int) -> Route {
      Route(prefix: address(10, n, 0, 0), prefixLength: length, gateway: nil, source: IPAddress(here), mtu: 1500)
    }
    let tooLong = table.add(route(0, 33))
    let negative = table.add(route(0, -1))
    #expect(!tooLong && !negative)
    for n in 0..<RouteTable.maximumRoutes { table.add(route(UInt8(n), 16)) }
    let full = table.add(route(200, 16))
    #expect(!full)
    let replaced = table.add(route(0, 16))
    #expect(replaced)
    #expect(table.count == RouteTable.maximumRoutes)
  }
}

// MARK: - Fragmentation

@Suite("IPv4 fragmentation")
struct FragmentationTests {
  @Test(
    "RFC 791 §3.2: pieces fit the MTU, carry multiples of eight, keep the identification and cover all",
    arguments: 0..<60)
  func pieces(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    let payload = randomBytes(1 + random.below(seed % 4 == 0 ? 65000 : 9000), &random)
    let mtu = seed % 5 == 0 ? 9000 : 28 + random.below(1600)
    let whole = IPv4Header(
      proto: 17, source: here, destination: peer, payloadLength: 0, typeOfService: 0x10, identification: 0xbeef,
      timeToLive: 17)
    let packet = makePacket(whole, payload: payload, pool: &pool)
    var queue = Fragmentation.cut(packet, mtu: mtu, pool: &pool)!
    #expect(queue.count == Fragmentation.pieces(length: packet.count, headerLength: 20, mtu: mtu))
    var offset = 0
    while let piece = queue.removeFirst() {
      guard let h = header(piece) else {
        Issue.record("seed \(seed): a piece has no valid header")
        return
      }
      let last = queue.isEmpty
      #expect(piece.count <= mtu && h.totalLength == piece.count)
      #expect(h.fragmentOffset == offset)
      #expect(last || (piece.count - 20) % 8 == 0)
      #expect((h.flags & IPv4Header.flagMoreFragments == 0) == last)
      #expect(h.identification == 0xbeef && h.timeToLive == 17 && h.typeOfService == 0x10 && h.proto == 17)
      #expect(h.source == here && h.destination == peer)
      #expect(contents(piece, from: 20) == Array(payload[offset..<offset + piece.count - 20]))
      #expect(piece.headroom >= 14, "room for the Ethernet header")
      offset += piece.count - 20
      pool.release(piece)
    }
    #expect(offset == payload.count)
    pool.release(packet)
    #expect(pool.outstanding == 0 && pool.outstandingLarge == 0)
  }

  @Test("RFC 791 §3.2: a fragment can be cut again")
  func fragmentOfFragment() {
    var random = SeededRandom(seed: 1)
    var pool = BufferPool()
    let middle = IPv4Header(
      proto: 17, source: here, destination: peer, payloadLength: 0, identification: 1,
      flags: IPv4Header.flagMoreFragments, fragmentOffset: 800)
    let packet = makePacket(middle, payload: randomBytes(1000, &random), pool: &pool)
    var queue = Fragmentation.cut(packet, mtu: 576, pool: &pool)!
    let first = queue.removeFirst()!
    let second = queue.removeFirst()!
    #expect(header(first)?.fragmentOffset == 800)
    #expect(header(second)?.fragmentOffset == 800 + 552)
    #expect(header(second)!.flags & IPv4Header.flagMoreFragments != 0, "the whole goes on behind it")
    for p in [first, second, packet] { pool.release(p) }
  }

  @Test("Without buffers nothing is cut and nothing leaks")
  func noBuffers() {
    var random = SeededRandom(seed: 1)
    var pool = BufferPool(maximum: 32)
    let whole = IPv4Header(proto: 17, source: here, destination: peer, payloadLength: 0)
    let packet = makePacket(whole, payload: randomBytes(40_000, &random), pool: &pool)
    #expect(Fragmentation.cut(packet, mtu: 576, pool: &pool) == nil)
    #expect(pool.outstanding == 1)
    pool.release(packet)
  }
}

// MARK: - Reassembly

@Suite("IPv4 reassembly")
struct ReassemblyTests {
  private let settings = Settings()

  /// One fragment: payload bytes `range` of `payload`.
  private func fragment(
    _ payload: [UInt8], _ range: Range<Int>, id: UInt16 = 7, last: Bool? = nil, from source: IPv4Address = peer,
    tos: UInt8 = 0, options: [UInt8] = [], pool: inout BufferPool
  ) -> PacketBuffer {
    let isLast = last ?? (range.upperBound == payload.count)
    let h = IPv4Header(
      proto: 17, source: source, destination: here, payloadLength: 0, typeOfService: tos, identification: id,
      flags: isLast ? 0 : IPv4Header.flagMoreFragments, fragmentOffset: range.lowerBound)
    return makePacket(h, payload: Array(payload[range]), options: options, pool: &pool)
  }

  private func add(
    _ packet: PacketBuffer, to reassembly: inout Reassembly, now: Instant = .zero, settings: Settings? = nil,
    pool: inout BufferPool
  ) -> ReassemblyVerdict {
    reassembly.add(packet, FragmentPlace(header(packet)!), now: now, settings: settings ?? self.settings, pool: &pool)
  }

  private func describe(_ verdict: ReassemblyVerdict) -> String {
    switch verdict {
    case .waiting: "waiting"
    case .complete: "complete"
    case .dropped(let reason): "dropped \(reason)"
    }
  }

  /// Boundaries of fragments: multiples of eight, and the end.
  private func cuts(_ length: Int, _ random: inout SeededRandom) -> [Range<Int>] {
    var ranges: [Range<Int>] = []
    var at = 0
    while at < length {
      let end = min(length, at + 8 * (1 + random.below(length > 4000 ? 400 : 40)))
      ranges.append(at..<end)
      at = end
    }
    if ranges.count == 1, length > 8 { ranges = [0..<8, 8..<length] }
    return ranges
  }

  @Test("RFC 791 §3.2: any order, with duplicates, gives the datagram back", arguments: 0..<80)
  func anyOrder(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, seed))
    let length = [9, 100, 1600, 3000, 20_000, 65_515 - 8 * Int(seed % 2)][Int(seed) % 6]
    let payload = randomBytes(length, &random)
    let ranges = cuts(length, &random)
    var order = ranges
    order.shuffle(using: &random)
    // Duplicates, of single fragments and of runs of two, before the datagram is whole.
    for _ in 0..<random.below(4) where order.count > 1 {
      let i = random.below(ranges.count)
      let known =
        i + 1 < ranges.count && random.below(2) == 0 ? ranges[i].lowerBound..<ranges[i + 1].upperBound : ranges[i]
      let first = order.firstIndex { known.contains($0.lowerBound) }!
      let whole = order.lastIndex { known.contains($0.lowerBound) }!
      if known == ranges[i] {
        order.insert(known, at: first)
      } else if whole < order.count - 1 {
        order.insert(known, at: whole + 1)
      }
    }
    var result: PacketBuffer?
    for (i, range) in order.enumerated() {
      let verdict = add(fragment(payload, range, pool: &pool), to: &reassembly, pool: &pool)
      if case .complete(let packet) = verdict {
        result = packet
        #expect(
          i == order.count - 1
            || Set(order[0...i].flatMap { Array($0.lowerBound / 8..<($0.upperBound + 7) / 8) }).count == (length + 7)
              / 8
        )
        break
      }
      #expect(describe(verdict) == "waiting", "seed \(seed), fragment \(i)")
    }
    guard let result else {
      Issue.record("seed \(seed): never whole")
      return
    }
    #expect(header(result)?.totalLength == 20 + length && header(result)?.isFragment == false)
    #expect(contents(result, from: 20) == payload, "seed \(seed)")
    #expect(result.linearCount >= 20 + min(length, 60), "transport headers are in the linear area")
    pool.release(result)
    #expect(reassembly.count == 0 && reassembly.memory == 0)
    #expect(pool.outstanding == 0 && pool.outstandingLarge == 0)
    #expect(reassembly.nextDeadline() == nil)
  }

  @Test("RFC 815: datagrams differ by source, destination, protocol and identification")
  func keys() {
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, 2))
    let a = [UInt8](repeating: 0xaa, count: 24)
    let b = [UInt8](repeating: 0xbb, count: 24)
    let other = IPv4Address(198, 18, 0, 6)
    for packet in [
      fragment(a, 0..<16, id: 1, pool: &pool), fragment(b, 0..<16, id: 2, pool: &pool),
      fragment(b, 0..<16, id: 1, from: other, pool: &pool),
    ] { #expect(describe(add(packet, to: &reassembly, pool: &pool)) == "waiting") }
    #expect(reassembly.count == 3)
    guard case .complete(let whole) = add(fragment(a, 16..<24, id: 1, pool: &pool), to: &reassembly, pool: &pool) else {
      Issue.record("not whole")
      return
    }
    #expect(contents(whole, from: 20) == a)
    pool.release(whole)
    #expect(reassembly.count == 2)
    reassembly.removeAll(pool: &pool)
    #expect(pool.outstanding == 0 && reassembly.memory == 0)
  }

  @Test("RFC 5722 §3: a partial overlap drops the datagram, from whichever side")
  func overlap() {
    let payload = [UInt8](repeating: 1, count: 64)
    let cases: [[Range<Int>]] = [
      [0..<16, 8..<24], [16..<32, 8..<24], [0..<16, 24..<40, 8..<32], [16..<24, 0..<32], [0..<24, 40..<56, 16..<48],
    ]
    for ranges in cases {
      var pool = BufferPool()
      var reassembly = Reassembly(key: HashKey(1, 2))
      for range in ranges.dropLast() {
        #expect(describe(add(fragment(payload, range, pool: &pool), to: &reassembly, pool: &pool)) == "waiting")
      }
      let verdict = add(fragment(payload, ranges.last!, pool: &pool), to: &reassembly, pool: &pool)
      #expect(describe(verdict) == "dropped fragmentOverlap", "\(ranges)")
      #expect(reassembly.count == 0 && reassembly.memory == 0 && pool.outstanding == 0)
    }
  }

  @Test("A fragment that only repeats what is known is ignored")
  func duplicate() {
    let payload = [UInt8](repeating: 1, count: 64)
    for ranges: [Range<Int>] in [
      [0..<16, 0..<16], [0..<32, 8..<16], [0..<16, 16..<32, 8..<24], [0..<8, 8..<16, 16..<24, 0..<24],
    ] {
      var pool = BufferPool()
      var reassembly = Reassembly(key: HashKey(1, 2))
      for range in ranges {
        #expect(describe(add(fragment(payload, range, pool: &pool), to: &reassembly, pool: &pool)) == "waiting")
      }
      #expect(pool.outstanding == ranges.count - 1)
      reassembly.removeAll(pool: &pool)
    }
  }

  @Test("Two ends, data behind the end, an end before data, odd middles, empty pieces: the datagram is dropped")
  func contradictions() {
    let payload = [UInt8](repeating: 1, count: 64)
    let cases: [([(Range<Int>, Bool)], String)] = [
      ([(16..<24, true), (24..<32, true)], "dropped fragmentOverlap"),
      ([(16..<24, true), (24..<32, false)], "dropped fragmentOverlap"),
      ([(24..<32, false), (8..<16, true)], "dropped fragmentOverlap"),
      ([(0..<8, false), (8..<13, false)], "dropped fragmentTooLong"),
      ([(0..<8, false), (8..<8, false)], "dropped fragmentTooLong"),
      ([(8..<8, true)], "dropped fragmentTooLong"),
    ]
    for (fragments, expected) in cases {
      var pool = BufferPool()
      var reassembly = Reassembly(key: HashKey(1, 2))
      var last = ""
      for (range, isLast) in fragments {
        last = describe(add(fragment(payload, range, last: isLast, pool: &pool), to: &reassembly, pool: &pool))
      }
      #expect(last == expected, "\(fragments)")
      #expect(reassembly.count == 0 && pool.outstanding == 0)
    }
  }

  @Test("A datagram cannot grow beyond 65535 bytes (the ping of death)")
  func tooLong() {
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, 2))
    let h = IPv4Header(
      proto: 17, source: peer, destination: here, payloadLength: 0, identification: 7, fragmentOffset: 65528)
    let verdict = add(
      makePacket(h, payload: [UInt8](repeating: 0, count: 100), pool: &pool), to: &reassembly, pool: &pool)
    #expect(describe(verdict) == "dropped fragmentTooLong")
    #expect(pool.outstanding == 0)
  }

  @Test("Options of the first fragment stay in the header of the whole")
  func options() {
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, 2))
    let payload = [UInt8](0..<32)
    _ = add(fragment(payload, 16..<32, pool: &pool), to: &reassembly, pool: &pool)
    let first = fragment(payload, 0..<16, options: [1, 1, 1, 0], pool: &pool)
    guard case .complete(let whole) = add(first, to: &reassembly, pool: &pool) else {
      Issue.record("not whole")
      return
    }
    #expect(header(whole)?.headerLength == 24 && header(whole)?.totalLength == 56)
    #expect(contents(whole, from: 24) == payload)
    pool.release(whole)
  }

  @Test("RFC 1122 §3.3.2: time runs from the first to come; only a first fragment is given back to be reported")
  func timeout() {
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, 2))
    let payload = [UInt8](repeating: 1, count: 64)
    _ = add(fragment(payload, 0..<8, id: 1, pool: &pool), to: &reassembly, now: .zero, pool: &pool)
    _ = add(fragment(payload, 16..<24, id: 1, pool: &pool), to: &reassembly, now: .zero + .seconds(20), pool: &pool)
    _ = add(fragment(payload, 8..<16, id: 2, pool: &pool), to: &reassembly, now: .zero + .seconds(1), pool: &pool)
    #expect(reassembly.nextDeadline() == .zero + .seconds(30))
    var expired = reassembly.nextExpired(now: .zero + .milliseconds(29_999), pool: &pool)
    #expect(expired == nil)
    expired = reassembly.nextExpired(now: .zero + .seconds(31), pool: &pool)
    #expect(expired?.fragments == 2)
    guard let first = expired?.first else {
      Issue.record("the first fragment is not given back")
      return
    }
    #expect(header(first)?.fragmentOffset == 0)
    pool.release(first)
    expired = reassembly.nextExpired(now: .zero + .seconds(31), pool: &pool)
    #expect(expired != nil && expired?.first == nil)
    expired = reassembly.nextExpired(now: .zero + .seconds(31), pool: &pool)
    #expect(expired == nil)
    #expect(pool.outstanding == 0 && reassembly.memory == 0)
  }

  @Test("ipfrag_high_thresh bounds the memory; what waits is not thrown out")
  func memoryLimit() {
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, 2))
    var settings = Settings()
    settings.ipfragHighThreshold = 10 * BufferPool.smallSize
    settings.ipfragMaxDistance = 0
    let payload = [UInt8](repeating: 1, count: 64)
    for id in 0..<30 {
      let verdict = add(
        fragment(payload, 0..<8, id: UInt16(id), pool: &pool), to: &reassembly, settings: settings, pool: &pool)
      #expect(describe(verdict) == (id < 10 ? "waiting" : "dropped fragmentMemory"))
    }
    #expect(pool.outstanding == 10 && reassembly.memory == 10 * BufferPool.smallSize)
    reassembly.removeAll(pool: &pool)
    #expect(pool.outstanding == 0)
  }

  @Test("ipfrag_max_dist: fragments too far apart in their source's stream are not of one datagram (RFC 4963)")
  func distance() {
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(1, 2))
    let payload = [UInt8](repeating: 1, count: 16)
    _ = add(fragment(payload, 0..<8, id: 999, pool: &pool), to: &reassembly, pool: &pool)
    for id in 0..<65 { _ = add(fragment(payload, 0..<8, id: UInt16(id), pool: &pool), to: &reassembly, pool: &pool) }
    let verdict = add(fragment(payload, 8..<16, id: 999, pool: &pool), to: &reassembly, pool: &pool)
    #expect(describe(verdict) == "waiting", "it began anew")
    reassembly.removeAll(pool: &pool)
  }

  @Test("RFC 3168 §5.3: congestion experienced by a fragment was experienced by the datagram")
  func ecn() {
    let payload = [UInt8](repeating: 1, count: 16)
    for (first, second, expected) in [(2, 3, 3), (3, 2, 3), (2, 2, 2), (0, 0, 0), (1, 2, 1), (0, 3, -1), (3, 0, -1)] {
      var pool = BufferPool()
      var reassembly = Reassembly(key: HashKey(1, 2))
      _ = add(fragment(payload, 0..<8, tos: UInt8(0x10 | first), pool: &pool), to: &reassembly, pool: &pool)
      let verdict = add(
        fragment(payload, 8..<16, tos: UInt8(0x10 | second), pool: &pool), to: &reassembly, pool: &pool)
      if case .complete(let whole) = verdict {
        #expect(header(whole).map { Int($0.typeOfService) } == 0x10 | expected)
        pool.release(whole)
      } else {
        #expect(expected == -1 && describe(verdict) == "dropped fragmentECN")
      }
      #expect(pool.outstanding == 0)
    }
  }

  @Test("Random fragments from many sources: memory is accounted for to the last byte", arguments: 0..<30)
  func random(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    var reassembly = Reassembly(key: HashKey(seed, 2))
    var settings = Settings()
    settings.ipfragHighThreshold = 300_000
    let payload = [UInt8](repeating: 9, count: 8192)
    var now = Instant.zero
    for _ in 0..<2000 {
      now = now + .milliseconds(random.below(300))
      while let expired = reassembly.nextExpired(now: now, pool: &pool) {
        if let first = expired.first { pool.release(first) }
      }
      let start = random.below(8) * 8 * (1 + random.below(100))
      let end = min(payload.count, start + random.below(1600))
      let packet = fragment(
        payload, start..<max(start, end), id: UInt16(random.below(40)), last: random.below(4) == 0,
        from: IPv4Address(bits: 0xc612_0000 + UInt32(random.below(3))), pool: &pool)
      if case .complete(let whole) = add(packet, to: &reassembly, now: now, settings: settings, pool: &pool) {
        #expect(header(whole)?.totalLength == whole.count)
        #expect(contents(whole, from: 20).allSatisfy { $0 == 9 })
        pool.release(whole)
      }
      #expect(reassembly.memory <= settings.ipfragHighThreshold)
      #expect(
        reassembly.memory == pool.outstanding * BufferPool.smallSize + pool.outstandingLarge * BufferPool.largeSize)
    }
    reassembly.removeAll(pool: &pool)
    #expect(pool.outstanding == 0 && reassembly.count == 0 && reassembly.memory == 0)
  }
}
