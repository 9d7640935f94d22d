// IPv6's header, extension headers, and the messages of neighbour discovery as bytes. Every read is also tried on every shorter
// piece of its input, in memory of exactly that size, so that AddressSanitizer sees a read beyond the end.

import Testing

@testable import Wire

/// Calls `read` on every prefix of `bytes` in memory of its own.
private func onEveryPrefix(_ bytes: [UInt8], _ read: (UnsafeRawBufferPointer, Int) -> Void) {
  for length in 0...bytes.count {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, length), alignment: 1)
    defer { memory.deallocate() }
    memory.copyBytes(from: bytes[..<length])
    read(UnsafeRawBufferPointer(rebasing: memory[..<length]), length)
  }
}

private let source = IPAddress(high: 0x2001_0db8_0000_0000, low: 5)
private let destination = IPAddress(high: 0x2001_0db8_0000_0000, low: 4)

/// A packet with `chain` behind the IPv6 header.
private func packet(_ next: UInt8, _ chain: [UInt8]) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 40)
  bytes.withUnsafeMutableBytes {
    IPv6Header(nextHeader: next, source: source, destination: destination, payloadLength: chain.count)
      .write(to: $0.baseAddress!)
  }
  return bytes + chain
}

/// Hop-by-hop or destination options, padded to a multiple of eight.
private func options(_ next: UInt8, _ options: [UInt8]) -> [UInt8] {
  var bytes = [next, 0] + options
  let missing = (8 - bytes.count % 8) % 8
  if missing == 1 { bytes.append(0) }
  if missing > 1 { bytes += [1, UInt8(missing - 2)] + [UInt8](repeating: 0, count: missing - 2) }
  bytes[1] = UInt8(bytes.count / 8 - 1)
  return bytes
}

private func walk(_ bytes: [UInt8], isMulticast: Bool = false, pastFragment: Bool = false) -> IPv6Extension.Walk {
  bytes.withUnsafeBytes { IPv6Extension.walk($0, isMulticast: isMulticast, pastFragment: pastFragment) }
}

@Suite("IPv6 header")
struct IPv6HeaderTests {
  @Test("RFC 8200 §3: every field in its place")
  func write() {
    var bytes = [UInt8](repeating: 0xa5, count: 48)
    bytes.withUnsafeMutableBytes {
      IPv6Header(
        nextHeader: 58, source: source, destination: .allNodes, payloadLength: 0x1234, trafficClass: 0xb9,
        flowLabel: 0xf_edcb, hopLimit: 255
      ).write(to: $0.baseAddress!)
    }
    #expect(bytes[..<8] == [0x6b, 0x9f, 0xed, 0xcb, 0x12, 0x34, 58, 255])
    #expect(bytes[8..<24] == [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5])
    #expect(bytes[24..<40] == [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    #expect(bytes[40...].allSatisfy { $0 == 0xa5 }, "nothing behind it is touched")
    let read = bytes.withUnsafeBytes { IPv6Header(quoted: $0) }
    #expect(read?.trafficClass == 0xb9 && read?.flowLabel == 0xf_edcb && read?.payloadLength == 0x1234)
    #expect(read?.nextHeader == 58 && read?.hopLimit == 255)
    #expect(read?.source == source && read?.destination == .allNodes)
  }

  @Test("A flow label too large does not spill into the traffic class; a super-frame's length is written as 0")
  func limits() {
    var bytes = [UInt8](repeating: 0, count: 40)
    bytes.withUnsafeMutableBytes {
      IPv6Header(
        nextHeader: 6, source: source, destination: destination, payloadLength: 65536, flowLabel: 0xfff0_0001
      ).write(to: $0.baseAddress!)
    }
    #expect(bytes[..<6] == [0x60, 0, 0, 1, 0, 0])
  }

  @Test("Version, cut packets and lengths that promise too much are refused")
  func invalid() {
    let whole = packet(17, [1, 2, 3, 4])
    onEveryPrefix(whole) { bytes, length in
      let (header, invalid) = IPv6Header.parse(bytes, length: length)
      #expect((header != nil) == (length == whole.count))
      if header == nil { #expect(invalid == (length < 40 ? .truncated : .payloadLength)) }
    }
    var other = whole
    other[0] = 0x45
    #expect(other.withUnsafeBytes { IPv6Header.parse($0, length: $0.count).invalid } == .version)
    #expect(other.withUnsafeBytes { IPv6Header(quoted: $0) } == nil)
    // What lies in fragments of the buffer counts.
    #expect(whole[..<40].withUnsafeBytes { IPv6Header.parse($0, length: 44).header } != nil)
  }
}

@Suite("IPv6 extension headers")
struct IPv6ExtensionTests {
  @Test("RFC 8200 §4: a chain is followed to its transport, and it is told where that one's number stands")
  func chain() {
    #expect(walk(packet(17, [0, 0])) == .transport(proto: 17, offset: 40, pointer: 6))
    let hop = options(60, [5, 2, 0, 0])
    let routing: [UInt8] = [60, 0, 4, 0, 0, 0, 0, 0]
    let last = options(6, [0x1e, 12] + [UInt8](repeating: 9, count: 12))
    let bytes = packet(0, hop + options(43, []) + routing + last + [1, 2, 3])
    #expect(walk(bytes) == .transport(proto: 6, offset: 40 + 8 + 8 + 8 + 16, pointer: 64))
  }

  @Test("RFC 8200 §4.1: hop-by-hop options anywhere but first are an unrecognised next header")
  func hopByHopFirst() {
    #expect(walk(packet(60, options(0, []) + options(17, []))) == .problem(code: 1, pointer: 40))
    #expect(walk(packet(0, options(0, []) + options(17, []))) == .problem(code: 1, pointer: 40))
  }

  @Test("RFC 8200 §4.4: an unknown routing type with nothing left is passed over, else reported; RFC 5095: type 0 too")
  func routing() {
    for type: UInt8 in [0, 2, 3, 4, 200] {
      #expect(walk(packet(43, [17, 0, type, 0, 0, 0, 0, 0])) == .transport(proto: 17, offset: 48, pointer: 40))
      #expect(walk(packet(43, [17, 0, type, 1, 0, 0, 0, 0])) == .problem(code: 0, pointer: 42))
    }
  }

  @Test("RFC 8200 §4.7: after no-next-header nothing is looked at")
  func nothing() {
    #expect(walk(packet(59, [1, 2, 3])) == .nothing)
    #expect(walk(packet(60, options(59, []))) == .nothing)
  }

  @Test("RFC 8200 §4.2: the two highest bits of an unknown option say what happens", arguments: [UInt8(0), 60])
  func unknownOptions(kind: UInt8) {
    for isMulticast in [false, true] {
      func of(_ type: UInt8) -> IPv6Extension.Walk {
        walk(packet(kind, options(17, [1, 1, 0, type, 1, 7])), isMulticast: isMulticast)
      }
      #expect(of(0x1e) == .transport(proto: 17, offset: 48, pointer: 40), "skip over it")
      #expect(of(0x5e) == .discard)
      #expect(of(0x9e) == .problem(code: 2, pointer: 45), "reported even to who sends to a group")
      #expect(of(0xde) == (isMulticast ? .discard : .problem(code: 2, pointer: 45)))
      #expect(of(5) == .transport(proto: 17, offset: 48, pointer: 40), "router alert")
    }
  }

  @Test("Options that do not fit their header are no options")
  func optionLengths() {
    // Type at the very end, length beyond the end.
    #expect(walk(packet(60, [17, 0, 1, 2, 0, 0, 0, 1])) == .discard)
    #expect(walk(packet(60, [17, 0, 1, 5, 0, 0, 0, 0])) == .discard)
    #expect(walk(packet(60, [17, 0, 0, 0, 0, 0, 0, 0])) == .transport(proto: 17, offset: 48, pointer: 40), "Pad1")
    #expect(walk(packet(60, [17, 0, 1, 4, 0, 0, 0, 0])) == .transport(proto: 17, offset: 48, pointer: 40), "PadN")
  }

  @Test("Every cut of a chain is told, and none is read beyond")
  func truncated() {
    let chain =
      options(43, []) + [60, 0, 4, 0, 0, 0, 0, 0] + options(44, [0x1e, 20] + [UInt8](repeating: 0, count: 20))
      + [17, 0, 0, 1, 0, 0, 0, 9]
    let bytes = packet(0, chain)
    onEveryPrefix(bytes) { bytes, length in
      let found = IPv6Extension.walk(bytes, isMulticast: false)
      #expect(found == (length == 40 + chain.count ? .fragment(offset: length - 8, before: 56) : .truncated))
      let past = IPv6Extension.walk(bytes, isMulticast: false, pastFragment: true)
      #expect(
        past == (length == 40 + chain.count ? .transport(proto: 17, offset: length, pointer: length - 8) : .truncated))
    }
    // A length field that leads beyond the end.
    #expect(walk(packet(60, [17, 255, 0, 0, 0, 0, 0, 0])) == .truncated)
  }

  @Test("RFC 8200 §4.5: behind a later fragment's header there is no header to read")
  func laterFragment() {
    let later = packet(44, [17, 0, 0, 8, 0, 0, 0, 9] + [UInt8](repeating: 6, count: 16))
    #expect(walk(later) == .fragment(offset: 40, before: 6))
    #expect(walk(later, pastFragment: true) == .fragment(offset: 40, before: 6))
    let first = packet(44, [17, 0, 0, 1, 0, 0, 0, 9] + [UInt8](repeating: 6, count: 16))
    #expect(walk(first, pastFragment: true) == .transport(proto: 17, offset: 48, pointer: 40))
  }

  @Test("RFC 8200 §4.1: a fragment header occurs once")
  func twoFragmentHeaders() {
    let twice = packet(44, [44, 0, 0, 0, 0, 0, 0, 9] + [17, 0, 0, 0, 0, 0, 0, 9] + [UInt8](repeating: 0, count: 8))
    #expect(walk(twice, pastFragment: true) == .problem(code: 0, pointer: 48))
    let whole = twice.withUnsafeBytes { IPv6Extension.walk($0, isMulticast: false, isWhole: true) }
    #expect(whole == .problem(code: 0, pointer: 40), "none is left in a packet that has been put together")
  }

  @Test("RFC 8200 §4.5: the fragment header's fields")
  func fragmentHeader() {
    var bytes = [UInt8](repeating: 0xa5, count: 10)
    bytes.withUnsafeMutableBytes {
      IPv6Fragment(nextHeader: 17, offset: 0xfff8, moreFollow: true, identification: 0x0102_0304)
        .write(to: $0.baseAddress!)
    }
    #expect(bytes == [17, 0, 0xff, 0xf9, 1, 2, 3, 4, 0xa5, 0xa5])
    // Reserved bits are ignored.
    bytes[1] = 0xff
    bytes[3] |= 6
    let read = bytes.withUnsafeBytes { IPv6Fragment($0.baseAddress!, at: 0) }
    #expect(read.nextHeader == 17 && read.offset == 0xfff8 && read.moreFollow && read.identification == 0x0102_0304)
  }
}

@Suite("Neighbour discovery messages")
struct NeighborMessageTests {
  private let hardware = MACAddress(bits: 0x0201_0203_0405)

  private func bytes(_ message: NeighborMessage) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xa5, count: message.encodedLength)
    bytes.withUnsafeMutableBytes { message.write(to: $0.baseAddress!) }
    return bytes
  }

  @Test("RFC 4861 §4.3: a solicitation; RFC 7527: with a nonce")
  func solicitation() {
    let written = bytes(NeighborMessage(solicitationFor: destination, from: hardware))
    #expect(written[..<8] == [135, 0, 0, 0, 0, 0, 0, 0])
    #expect(written[24...] == [1, 1, 2, 1, 2, 3, 4, 5])
    let probe = bytes(NeighborMessage(solicitationFor: destination, from: nil, nonce: 0x0a0b_0c0d_0e0f))
    #expect(probe[24...] == [14, 1, 10, 11, 12, 13, 14, 15])
    let read = probe.withUnsafeBytes { NeighborMessage($0) }
    #expect(read?.isSolicitation == true && read?.target == destination && read?.hardware == nil)
    #expect(read?.nonce == 0x0a0b_0c0d_0e0f)
  }

  @Test("RFC 4861 §4.4: an advertisement and its flags")
  func advertisement() {
    for (solicited, overrides) in [(false, false), (false, true), (true, false), (true, true)] {
      let written = bytes(
        NeighborMessage(advertising: destination, at: hardware, solicited: solicited, overrides: overrides))
      #expect(written[0] == 136 && written[4] == (solicited ? 0x40 : 0) | (overrides ? 0x20 : 0))
      #expect(written[24...] == [2, 1, 2, 1, 2, 3, 4, 5])
      let read = written.withUnsafeBytes { NeighborMessage($0) }
      #expect(read?.isSolicited == solicited && read?.overrides == overrides && read?.isRouter == false)
      #expect(read?.hardware == hardware)
    }
    var router = bytes(NeighborMessage(advertising: destination, at: nil, solicited: true, overrides: false))
    router[4] |= 0x80
    #expect(router.withUnsafeBytes { NeighborMessage($0) }?.isRouter == true)
  }

  @Test("RFC 4861 §7.1: code, multicast targets, options without length or beyond the end make a message invalid")
  func invalid() {
    let good = bytes(NeighborMessage(solicitationFor: destination, from: hardware))
    func isRead(_ bytes: [UInt8]) -> Bool { bytes.withUnsafeBytes { NeighborMessage($0) } != nil }
    #expect(isRead(good))
    for (at, value) in [(1, UInt8(1)), (8, 0xff), (25, 0), (25, 2)] {
      var bad = good
      bad[at] = value
      #expect(!isRead(bad), "\(value) at \(at)")
    }
    onEveryPrefix(good) { bytes, length in
      #expect((NeighborMessage(bytes) != nil) == (length == 24 || length == 32), "\(length)")
    }
    // Options that are not known are skipped, the other kind's address is none.
    #expect(isRead(good + [200, 1, 0, 0, 0, 0, 0, 0]))
    let wrongKind = Array(good[..<24]) + [2, 1, 2, 1, 2, 3, 4, 5]
    #expect(wrongKind.withUnsafeBytes { NeighborMessage($0) }?.hardware == nil)
  }
}

@Suite("Router advertisements and redirects")
struct RouterMessageTests {
  private func advertisement(_ options: [UInt8], flags: UInt8 = 0, lifetime: UInt16 = 1800) -> [UInt8] {
    [134, 0, 0, 0, 61, flags, UInt8(lifetime >> 8), UInt8(lifetime & 255), 0, 0, 0x75, 0x30, 0, 0, 3, 0xe8] + options
  }

  private func read(_ bytes: [UInt8]) -> RouterAdvertisement? { bytes.withUnsafeBytes { RouterAdvertisement($0) } }

  @Test("RFC 4861 §4.2: fields; RFC 4191 §2.2: preference, of which 10 is medium")
  func fields() throws {
    let router = try #require(read(advertisement([])))
    #expect(router.hopLimit == 61 && router.lifetime == 1800 && router.preference == 0)
    #expect(router.reachableTime == 30000 && router.retransTime == 1000)
    #expect(read(advertisement([], flags: 0x08))?.preference == 1)
    #expect(read(advertisement([], flags: 0x18))?.preference == -1)
    #expect(read(advertisement([], flags: 0x10))?.preference == 0)
    #expect(read(advertisement([], flags: 0xc7))?.preference == 0)
    var code = advertisement([])
    code[1] = 1
    #expect(read(code) == nil)
  }

  @Test("RFC 4861 §4.6.2: prefixes; bits beyond the length are ignored")
  func prefixes() throws {
    let option: [UInt8] =
      [3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 7, 8, 0, 0, 0, 0]
      + [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9]
    let options = try #require(read(advertisement(option))).options
    #expect(options.prefixCount == 1)
    let prefix = try #require(options.prefix(0))
    #expect(prefix.prefix == IPAddress(high: 0x2001_0db8_0000_0001, low: 0) && prefix.length == 64)
    #expect(prefix.isOnLink && prefix.isAutonomous && prefix.validLifetime == 3600 && prefix.preferredLifetime == 1800)
    var tooLong = option
    tooLong[2] = 129
    #expect(read(advertisement(tooLong))?.options.prefixCount == 0)
    let many = Array([[UInt8]](repeating: option, count: 11).joined())
    #expect(read(advertisement(many))?.options.prefixCount == 8)
  }

  @Test("RFC 4861 §4.6.4: MTU; RFC 8106 §5.1: name servers; RFC 4191 §2.3: routes")
  func others() throws {
    let mtu: [UInt8] = [5, 1, 0, 0, 0, 0, 5, 0x78]
    let servers: [UInt8] =
      [25, 5, 0, 0, 0, 0, 0, 60] + [0x20, 1, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [0x53]
      + [0x20, 1, 0x0d, 0xb8] + [UInt8](repeating: 0, count: 11) + [0x54]
    let route: [UInt8] = [24, 2, 48, 0x08, 0, 0, 0, 99, 0x20, 1, 0x0d, 0xb8, 0, 9, 0xff, 0xff]
    let options = try #require(read(advertisement(mtu + servers + route))).options
    #expect(options.mtu == 1400)
    #expect(options.nameServerCount == 2 && options.nameServer(1)?.address.low == 0x54)
    #expect(options.nameServer(0)?.lifetime == 60)
    #expect(options.routeCount == 1)
    let found = try #require(options.route(0))
    #expect(found.prefix == IPAddress(high: 0x2001_0db8_0009_0000, low: 0) && found.length == 48)
    #expect(found.preference == 1 && found.lifetime == 99)
    // 10 must not be used; a prefix longer than the option has room for.
    var reserved = route
    reserved[3] = 0x10
    #expect(read(advertisement(reserved))?.options.routeCount == 0)
    var short = route
    short[2] = 65
    #expect(read(advertisement(short))?.options.routeCount == 0)
    // No address in it, or half of one.
    #expect(read(advertisement([25, 1, 0, 0, 0, 0, 0, 60]))?.options.nameServerCount == 0)
    #expect(read(advertisement([25, 2] + [UInt8](repeating: 1, count: 14)))?.options.nameServerCount == 0)
  }

  @Test("Every cut of an advertisement is safe, and valid only where an option ends")
  func truncated() {
    let bytes = advertisement(
      [1, 1, 2, 1, 2, 3, 4, 5] + [24, 3] + [UInt8](repeating: 64, count: 22) + [3, 4] + [UInt8](repeating: 0, count: 30)
    )
    onEveryPrefix(bytes) { bytes, length in
      #expect((RouterAdvertisement(bytes) != nil) == [16, 24, 48, 80].contains(length), "\(length)")
    }
  }

  @Test("RFC 4861 §8.1: a redirect's target is a router's link-local address, or the destination itself")
  func redirect() {
    func bytes(_ target: IPAddress, _ destination: IPAddress) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: 48)
      bytes[0] = 137
      bytes.withUnsafeMutableBytes {
        target.write16(to: $0.baseAddress!, at: 8)
        destination.write16(to: $0.baseAddress!, at: 24)
      }
      bytes.replaceSubrange(40..<48, with: [2, 1, 2, 9, 9, 9, 9, 9])
      return bytes
    }
    func read(_ bytes: [UInt8]) -> RedirectMessage? { bytes.withUnsafeBytes { RedirectMessage($0) } }
    let router = IPAddress(high: 0xfe80 << 48, low: 2)
    let good = read(bytes(router, destination))
    #expect(good?.target == router && good?.destination == destination)
    #expect(good?.targetHardware == MACAddress(bits: 0x0209_0909_0909))
    #expect(read(bytes(destination, destination)) != nil, "it is on the link")
    #expect(read(bytes(source, destination)) == nil)
    #expect(read(bytes(router, .allNodes)) == nil)
    onEveryPrefix(bytes(router, destination)) { bytes, length in
      #expect((RedirectMessage(bytes) != nil) == (length == 40 || length == 48))
    }
  }
}

@Suite("IPv6 addresses")
struct IPv6AddressTests {
  @Test("RFC 4291 §2.7.1: the solicited-node group; RFC 2464 §7: its hardware address")
  func groups() {
    let address = IPAddress(high: 0x2001_0db8 << 32, low: 0x1234_5678_9abc_def0)
    #expect(address.solicitedNode == IPAddress(high: 0xff02 << 48, low: 0x1_ffbc_def0))
    #expect(MACAddress(group: address.solicitedNode).bits == 0x3333_ffbc_def0)
    #expect(MACAddress(group: .allNodes).bits == 0x3333_0000_0001)
  }

  @Test("RFC 4291 appendix A: modified EUI-64")
  func eui64() {
    let address = IPAddress(prefix: 0xfe80 << 48, hardware: MACAddress(bits: 0x3456_789a_bcde))
    #expect(address == IPAddress(high: 0xfe80 << 48, low: 0x3656_78ff_fe9a_bcde))
  }

  @Test("Scopes and kinds")
  func kinds() {
    #expect(IPAddress(high: 0xfebf << 48, low: 1).isLinkLocal && !IPAddress(high: 0xfec0 << 48, low: 1).isLinkLocal)
    #expect(IPAddress(high: 0, low: 1).isLoopback && !IPAddress(high: 0, low: 2).isLoopback)
    #expect(IPAddress.allNodes.isMulticast && IPAddress.allNodes.isLinkMulticast)
    #expect(!IPAddress(high: 0xff05 << 48, low: 1).isLinkMulticast)
    #expect(source.commonPrefix(destination) == 127 && source.commonPrefix(source) == 128)
    #expect(source.commonPrefix(IPAddress(high: 0xa001 << 48, low: 0)) == 0)
  }
}
