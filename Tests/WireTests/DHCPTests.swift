// DHCP messages: what is read from bytes of anybody's making, and what a client of ours writes.

import Testing

@testable import Wire

/// A server's message, made by hand: fixed part and options.
func dhcpMessage(
  _ type: UInt8?, xid: UInt32 = 7, yiaddr: IPv4Address = IPv4Address(198, 18, 0, 50),
  hardware: UInt64 = 0x02_00_00_00_00_01,
  operation: UInt8 = 2, options: [(UInt8, [UInt8])] = [], end: Bool = true
) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: 240)
  bytes.withUnsafeMutableBytes {
    let base = $0.baseAddress!
    base.storeBigEndian32(UInt32(operation) << 24 | 0x01_0600, at: 0)
    base.storeBigEndian32(xid, at: 4)
    base.storeBigEndian32(yiaddr.bits, at: 16)
    MACAddress(bits: hardware).write(to: base, at: 28)
    base.storeBigEndian32(0x6382_5363, at: 236)
  }
  if let type { bytes += [53, 1, type] }
  for (code, value) in options { bytes += [code, UInt8(value.count)] + value }
  if end { bytes.append(255) }
  return bytes
}

/// Reads the message and hands it over.
private func read<T>(_ bytes: [UInt8], _ body: (DHCPv4Message?) -> T) -> T {
  bytes.withUnsafeBytes { body(DHCPv4Message($0)) }
}

private func text(_ domains: DomainText) -> String {
  String(decoding: (0..<domains.count).map { domains[$0] }, as: UTF8.self)
}

@Suite("DHCP messages")
struct DHCPMessageTests {
  @Test("RFC 2131 §2, RFC 2132: the fields and the options a client uses")
  func fields() {
    let bytes = dhcpMessage(
      5,
      options: [
        (1, [255, 255, 255, 0]), (3, [198, 18, 0, 5, 198, 18, 0, 6]), (6, [198, 18, 0, 5]), (26, [5, 120]),
        (51, [0, 0, 14, 16]), (58, [0, 0, 7, 8]), (59, [0, 0, 12, 78]), (54, [198, 18, 0, 5]),
        (15, Array("example.test".utf8)),
      ])
    read(bytes) { message in
      #expect(message?.type == .acknowledge && message?.isReply == true && message?.transactionID == 7)
      #expect(message?.yourAddress == IPv4Address(198, 18, 0, 50))
      #expect(message?.hardware == MACAddress(bits: 0x02_00_00_00_00_01))
      #expect(message?.prefixLength == 24 && message?.interfaceMTU == 1400)
      #expect(message?.leaseTime == 3600 && message?.renewalTime == 1800 && message?.rebindingTime == 3150)
      #expect(message?.serverIdentifier == IPv4Address(198, 18, 0, 5))
      #expect(message?.addresses(3).count == 2 && message?.addresses(3)[1] == IPv4Address(198, 18, 0, 6))
      #expect(message?.addresses(6).first == IPv4Address(198, 18, 0, 5))
      #expect(message.map { text($0.searchDomains) } == "example.test")
      #expect(message?.classlessRoutes == nil)
    }
  }

  @Test("no end option, pads between options: accepted")
  func lenient() {
    var bytes = dhcpMessage(nil, end: false)
    bytes += [0, 0, 53, 1, 2, 0]
    read(bytes) { #expect($0?.type == .offer) }
  }

  @Test("RFC 2131 §4.1: options in `file` and `sname` where option 52 says so, and only then")
  func overload() {
    var bytes = dhcpMessage(2, options: [(52, [3])])
    bytes.replaceSubrange(108..<114, with: [51, 4, 0, 0, 0, 60])
    bytes[114] = 255
    bytes.replaceSubrange(44..<50, with: [54, 4, 198, 18, 0, 9])
    bytes[50] = 255
    read(bytes) {
      #expect($0?.leaseTime == 60)
      #expect($0?.serverIdentifier == IPv4Address(198, 18, 0, 9))
    }
    let at = bytes.firstIndex(of: 52)!
    bytes[at + 2] = 1
    read(bytes) {
      #expect($0?.leaseTime == 60 && $0?.serverIdentifier == nil)
    }
    // The fields as what they are: a server's name.
    bytes[at] = 12
    read(bytes) { #expect($0?.leaseTime == nil) }
  }

  @Test("RFC 3396: an option in two pieces is one, in the order of the fields")
  func pieces() {
    var bytes = dhcpMessage(2, options: [(6, [198, 18, 0, 5, 198, 18]), (6, [0, 6]), (52, [1])])
    bytes.replaceSubrange(108..<114, with: [6, 4, 198, 18, 0, 7])
    bytes[114] = 255
    read(bytes) {
      let servers = $0!.addresses(6)
      #expect(
        servers.count == 3 && servers[1] == IPv4Address(198, 18, 0, 6) && servers[2] == IPv4Address(198, 18, 0, 7))
    }
  }

  @Test(
    "what is no DHCP message, or one that says more than it has",
    arguments: [
      Array(dhcpMessage(2).prefix(239)), dhcpMessage(nil), dhcpMessage(9), dhcpMessage(0),
      dhcpMessage(2, operation: 3), dhcpMessage(2, end: false) + [54], dhcpMessage(2, end: false) + [54, 4, 1, 2, 3],
      dhcpMessage(2, end: false) + [54, 255, 1], dhcpMessage(2).map { $0 == 0x63 ? 0x64 : $0 },
      {
        var b = dhcpMessage(2); b[1] = 6; return b
      }(),
      {
        var b = dhcpMessage(2); b[2] = 8; return b
      }(),
      // The overloaded field ends in the midst of an option.
      {
        var b = dhcpMessage(2, options: [(52, [1])]); b[108] = 12; b[109] = 127; return b
      }(),
    ])
  func malformed(bytes: [UInt8]) {
    read(bytes) { #expect($0 == nil) }
  }

  @Test("an option of an impossible length counts as absent")
  func lengths() {
    let bytes = dhcpMessage(
      5,
      options: [
        (1, [255, 255, 255]), (51, [0, 0, 14, 16, 0]), (26, [0, 67]), (54, []), (6, [198, 18, 0]),
        (3, [224, 0, 0, 1, 0, 0, 0, 0]),
      ])
    read(bytes) {
      #expect($0?.prefixLength == nil && $0?.leaseTime == nil && $0?.interfaceMTU == nil)
      #expect($0?.serverIdentifier == nil && $0?.addresses(6).count == 0)
      // Neither a group nor 0.0.0.0 is a router.
      #expect($0?.addresses(3).count == 0)
    }
    for mask: [UInt8] in [[255, 0, 255, 0], [0, 0, 0, 0], [127, 255, 255, 255]] {
      read(dhcpMessage(5, options: [(1, mask)])) { #expect($0?.prefixLength == nil) }
    }
    read(dhcpMessage(5, options: [(1, [255, 255, 255, 255])])) { #expect($0?.prefixLength == 32) }
  }

  @Test("RFC 3442: classless routes, significant octets only, bits beyond the mask ignored")
  func classlessRoutes() {
    let value: [UInt8] = [
      0, 198, 18, 0, 5, 8, 10, 198, 18, 0, 7, 20, 172, 16, 0xff, 198, 18, 0, 8, 32, 192, 0, 2, 9, 0, 0, 0, 0,
    ]
    read(dhcpMessage(5, options: [(121, value)])) { message in
      let routes = message?.classlessRoutes
      #expect(routes?.count == 4)
      #expect(routes?[0] == .init(destination: .any, prefixLength: 0, router: IPv4Address(198, 18, 0, 5)))
      #expect(
        routes?[1]
          == .init(destination: IPv4Address(10, 0, 0, 0), prefixLength: 8, router: IPv4Address(198, 18, 0, 7)))
      #expect(routes?[2].destination == IPv4Address(172, 16, 0xf0, 0) && routes?[2].prefixLength == 20)
      #expect(routes?[3].router == .any && routes?[3].destination == IPv4Address(192, 0, 2, 9))
    }
    for bad: [UInt8] in [[], [33, 1, 2, 3, 4, 5, 1, 1, 1, 1], [8, 10, 198, 18, 0], Array(value.dropLast())] {
      read(dhcpMessage(5, options: [(121, bad)])) { #expect($0?.classlessRoutes == nil) }
    }
    // More than there is room for: the first ones.
    let many = (0..<30).flatMap { i -> [UInt8] in [16, 10, UInt8(i), 198, 18, 0, 5] }
    read(dhcpMessage(5, options: [(121, many)])) { #expect($0?.classlessRoutes?.count == 16) }
  }

  @Test("addresses that are no host's on a network, and routes to loopback or to groups, are left out")
  func misleading() {
    let servers: [UInt8] = [127, 0, 0, 53, 0, 0, 0, 0, 224, 0, 0, 1, 255, 255, 255, 255, 198, 18, 0, 5]
    let routes: [UInt8] = [
      8, 127, 198, 18, 0, 5, 32, 127, 0, 0, 53, 198, 18, 0, 5, 4, 224, 198, 18, 0, 5, 32, 255, 255, 255, 255, 198, 18,
      0,
      5, 24, 203, 0, 113, 127, 0, 0, 1, 24, 192, 0, 2, 198, 18, 0, 5,
    ]
    read(dhcpMessage(5, options: [(6, servers), (121, routes)])) { message in
      #expect(message?.addresses(6).count == 1 && message?.addresses(6).first == IPv4Address(198, 18, 0, 5))
      #expect(message?.classlessRoutes?.count == 1)
      #expect(message?.classlessRoutes?[0].destination == IPv4Address(192, 0, 2, 0))
    }
    // RFC 3442: where the option is there, the router of option 3 is not used, whatever is left of it.
    read(dhcpMessage(5, options: [(121, Array(routes.prefix(6)))])) { #expect($0?.classlessRoutes?.count == 0) }
  }

  @Test("RFC 3397: search domains with compression; loops and strange names are refused")
  func searchDomains() {
    let example: [UInt8] = [3] + Array("eng".utf8) + [7] + Array("example".utf8) + [0]
    func domains(_ value: [UInt8]) -> String? {
      read(dhcpMessage(5, options: [(119, value), (15, Array("other.test".utf8))])) {
        $0.map { text($0.searchDomains) }
      }
    }
    #expect(domains(example + [4] + Array("mktg".utf8) + [0xc0, 4]) == "eng.example mktg.example")
    #expect(domains(example) == "eng.example")
    // A pointer to itself, one forward, one beyond, a label that is cut, control characters in a name.
    #expect(domains([0xc0, 0]) == "other.test")
    #expect(domains([0xc0, 2, 3] + Array("eng".utf8) + [0]) == "other.test")
    #expect(domains(example + [0xc0, 200]) == "eng.example")
    #expect(domains(example + [0xc0]) == "eng.example")
    #expect(domains([5] + Array("eng".utf8)) == "other.test")
    #expect(domains([3, 0x65, 0x0a, 0x67, 0]) == "other.test")
    #expect(domains([0]) == "other.test")
    read(dhcpMessage(5, options: [(15, Array("a b\0".utf8))])) { #expect($0.map { text($0.searchDomains) } == "a b") }
    read(dhcpMessage(5, options: [(15, Array("a\nb".utf8))])) { #expect($0.map { text($0.searchDomains) } == "") }
  }

  @Test("what we write is read again; 300 bytes at least (RFC 951), the client's identifier in all of it")
  func request() {
    var request = DHCPv4Request(.request, transactionID: 0x1234_5678, hardware: MACAddress(bits: 0x02_0a_0b_0c_0d_0e))
    request.broadcast = true
    request.seconds = 9
    request.requestedAddress = IPv4Address(198, 18, 0, 50)
    request.serverIdentifier = IPv4Address(198, 18, 0, 5)
    var bytes = [UInt8](repeating: 0xee, count: DHCPv4Request.length)
    bytes.withUnsafeMutableBytes { request.write(to: $0.baseAddress!) }
    #expect(bytes.count == 300 && bytes[10] == 0x80 && bytes[8...9] == [0, 9])
    read(bytes) { message in
      #expect(message?.isReply == false && message?.type == .request && message?.transactionID == 0x1234_5678)
      #expect(message?.requestedAddress == request.requestedAddress)
      #expect(message?.serverIdentifier == request.serverIdentifier)
      var room = [UInt8](repeating: 0, count: 16)
      let length = room.withUnsafeMutableBytes { message?.value(of: 61, to: $0) }
      #expect(length == 7 && Array(room.prefix(7)) == [1, 0x02, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e])
      let wanted = room.withUnsafeMutableBytes { message?.value(of: 55, to: $0) }
      #expect(wanted == 10)
    }
  }

  @Test("random and cut messages: whatever comes, nothing is read beyond its end")
  func fuzz() {
    var random = SystemRandomNumberGenerator()
    let good = dhcpMessage(
      5,
      options: [
        (1, [255, 255, 255, 0]), (51, [0, 0, 14, 16]), (54, [198, 18, 0, 5]), (121, [8, 10, 198, 18, 0, 7]),
        (119, [3, 0x65, 0x6e, 0x67, 0, 0xc0, 0]), (52, [3]),
      ])
    for _ in 0..<20000 {
      var bytes =
        good + (0..<Int.random(in: 0..<60, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
      for _ in 0..<Int.random(in: 0..<12, using: &random) {
        bytes[Int.random(in: 0..<bytes.count, using: &random)] = UInt8.random(in: 0...255, using: &random)
      }
      bytes = Array(bytes.prefix(Int.random(in: 200...bytes.count, using: &random)))
      // At the end of an allocation of its own, so that a sanitizer sees a step beyond.
      let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
      memory.copyBytes(from: bytes)
      if let message = DHCPv4Message(UnsafeRawBufferPointer(memory)) {
        #expect(message.prefixLength ?? 1 <= 32)
        #expect(message.addresses(3).count <= 4)
        #expect(message.classlessRoutes?.count ?? 1 <= 16)
        #expect(message.searchDomains.count <= 256)
        var room = [UInt8](repeating: 0, count: 3)
        for code in 0...255 { _ = room.withUnsafeMutableBytes { message.value(of: UInt8(code), to: $0) } }
      }
      memory.deallocate()
    }
  }
}
