// Owns: DHCP messages for IPv4 as bytes: the fixed part, the options, and what a client writes. Read first: RFC 2131 §2 (figure 1),
// §4.1 (options in `file` and `sname`); RFC 2132; RFC 3396 (an option in several pieces); RFC 3442 (routes); RFC 3397 (search list).
//
//     0   op htype hlen hops      28  chaddr (16)
//     4   xid                     44  sname (64)       may hold options, too
//     8   secs flags             108  file (128)       likewise
//    12   ciaddr                 236  63 82 53 63
//    16   yiaddr                 240  options: code length value …, 255 at the end
//    20   siaddr
//    24   giaddr
//
// What comes in is anybody's: every length is checked, an option that claims more than is there makes the message worthless, and
// an option of an impossible length counts as absent.

package enum DHCPMessageType: UInt8, Sendable {
  case discover = 1
  case offer, request, decline, acknowledge, refuse, release, inform
}

package enum DHCPOption {
  package static let subnetMask: UInt8 = 1
  package static let router: UInt8 = 3
  package static let nameServers: UInt8 = 6
  package static let hostName: UInt8 = 12
  package static let domainName: UInt8 = 15
  package static let interfaceMTU: UInt8 = 26
  package static let requestedAddress: UInt8 = 50
  package static let leaseTime: UInt8 = 51
  package static let overload: UInt8 = 52
  package static let messageType: UInt8 = 53
  package static let serverIdentifier: UInt8 = 54
  package static let parameterRequestList: UInt8 = 55
  package static let message: UInt8 = 56
  package static let maximumMessageSize: UInt8 = 57
  package static let renewalTime: UInt8 = 58
  package static let rebindingTime: UInt8 = 59
  package static let clientIdentifier: UInt8 = 61
  package static let domainSearch: UInt8 = 119
  package static let classlessRoutes: UInt8 = 121
  package static let end: UInt8 = 255
}

/// A message that came in; a view of bytes that stay where they are meanwhile.
package struct DHCPv4Message {
  package static let fixedLength = 240
  package static let serverPort: UInt16 = 67
  package static let clientPort: UInt16 = 68
  /// Servers may take shorter ones for broken (BOOTP, RFC 951 §3).
  package static let leastLength = 300
  static let magicCookie: UInt32 = 0x6382_5363

  let bytes: UnsafeRawBufferPointer
  /// Bit 0: `file` holds options, bit 1: `sname` does.
  private let overload: UInt8

  package let isReply: Bool
  package let transactionID: UInt32
  package let clientAddress: IPv4Address
  package let yourAddress: IPv4Address
  package let hardware: MACAddress
  package let type: DHCPMessageType

  /// nil for what is no DHCP message on Ethernet, or a malformed one.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.fixedLength, let base = bytes.baseAddress else { return nil }
    // BOOTREQUEST or BOOTREPLY, Ethernet, six octets.
    let operation = base.byte(at: 0)
    guard operation == 1 || operation == 2, base.bigEndian16(at: 1) == 0x0106,
      base.bigEndian32(at: 236) == Self.magicCookie
    else { return nil }
    self.bytes = bytes
    isReply = operation == 2
    transactionID = base.bigEndian32(at: 4)
    clientAddress = IPv4Address(bits: base.bigEndian32(at: 12))
    yourAddress = IPv4Address(bits: base.bigEndian32(at: 16))
    hardware = MACAddress(reading: base, at: 28)

    var overload: UInt8 = 0
    var typeValue: UInt8 = 0
    var walker = OptionWalker(bytes, overload: 0)
    while let option = walker.next() {
      guard option.count == 1 else { continue }
      if option.code == DHCPOption.overload { overload = base.byte(at: option.start) & 3 }
      if option.code == DHCPOption.messageType { typeValue = base.byte(at: option.start) }
    }
    guard !walker.isMalformed else { return nil }
    if overload != 0 {
      var again = OptionWalker(bytes, overload: overload)
      while let option = again.next() {
        if option.code == DHCPOption.messageType, option.count == 1 { typeValue = base.byte(at: option.start) }
      }
      guard !again.isMalformed else { return nil }
    }
    guard let type = DHCPMessageType(rawValue: typeValue) else { return nil }
    self.type = type
    self.overload = overload
  }

  // MARK: Options

  /// Copies an option's value, all its pieces one behind the other, as much as fits; its whole length, nil where it is absent.
  package func value(of code: UInt8, to room: UnsafeMutableRawBufferPointer) -> Int? {
    var length = 0
    var isThere = false
    var walker = OptionWalker(bytes, overload: overload)
    while let option = walker.next() {
      guard option.code == code else { continue }
      isThere = true
      let count = min(option.count, max(0, room.count - length))
      if count > 0, let from = bytes.baseAddress, let to = room.baseAddress {
        (to + length).copyMemory(from: from + option.start, byteCount: count)
      }
      length += option.count
    }
    return isThere ? length : nil
  }

  private func integer(_ code: UInt8, bytes count: Int) -> UInt32? {
    var memory = InlineArray<4, UInt8>(repeating: 0)
    var isRight = false
    withUnsafeMutableBytes(of: &memory) { isRight = self.value(of: code, to: $0) == count }
    guard isRight else { return nil }
    var value: UInt32 = 0
    for i in 0..<count { value = value << 8 | UInt32(memory[i]) }
    return value
  }

  private func address(_ code: UInt8) -> IPv4Address? { integer(code, bytes: 4).map { IPv4Address(bits: $0) } }

  package var serverIdentifier: IPv4Address? { address(DHCPOption.serverIdentifier) }
  package var requestedAddress: IPv4Address? { address(DHCPOption.requestedAddress) }
  /// Seconds; all ones is for ever.
  package var leaseTime: UInt32? { integer(DHCPOption.leaseTime, bytes: 4) }
  package var renewalTime: UInt32? { integer(DHCPOption.renewalTime, bytes: 4) }
  package var rebindingTime: UInt32? { integer(DHCPOption.rebindingTime, bytes: 4) }
  package var interfaceMTU: Int? {
    guard let mtu = integer(DHCPOption.interfaceMTU, bytes: 2), mtu >= 68 else { return nil }
    return Int(mtu)
  }

  /// The mask's length; nil where the mask is none.
  package var prefixLength: Int? {
    guard let mask = integer(DHCPOption.subnetMask, bytes: 4) else { return nil }
    let length = mask.nonzeroBitCount
    return mask == (length == 0 ? 0 : ~0 << UInt32(32 - length)) && length > 0 ? length : nil
  }

  /// Addresses of a list option, in order; those that can be no host's are left out.
  package func addresses(_ code: UInt8) -> IPv4List {
    var list = IPv4List()
    var memory = InlineArray<64, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { room in
      guard let length = value(of: code, to: room), length % 4 == 0 else { return }
      let base = UnsafeRawPointer(room.baseAddress.unsafelyUnwrapped)
      for i in 0..<min(length, room.count) / 4 { list.append(IPv4Address(bits: base.bigEndian32(at: 4 * i))) }
    }
    return list
  }

  /// Option 121, where its last octet is in place.
  package var classlessRoutes: ClasslessRoutes? {
    var routes: ClasslessRoutes?
    var memory = InlineArray<512, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { room in
      guard let length = value(of: DHCPOption.classlessRoutes, to: room), length <= room.count else { return }
      routes = ClasslessRoutes(UnsafeRawBufferPointer(rebasing: room[..<length]))
    }
    return routes
  }

  /// The domain name (15) and the search list (119) as names with spaces between them, as resolv.conf has them.
  package var searchDomains: DomainText {
    var text = DomainText()
    var memory = InlineArray<512, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { room in
      if let length = value(of: DHCPOption.domainSearch, to: room), length <= room.count {
        text.append(encoded: UnsafeRawBufferPointer(rebasing: room[..<length]))
      }
      if text.count == 0, let length = value(of: DHCPOption.domainName, to: room), length <= 255 {
        text.append(plain: UnsafeRawBufferPointer(rebasing: room[..<length]))
      }
    }
    return text
  }
}

/// One option after the other: those of the options field, then of `file`, then of `sname`, as RFC 3396 §5 orders them.
private struct OptionWalker {
  private let bytes: UnsafeRawBufferPointer
  private let overload: UInt8
  private var at = DHCPv4Message.fixedLength
  private var end: Int
  private var area = 0
  private(set) var isMalformed = false

  init(_ bytes: UnsafeRawBufferPointer, overload: UInt8) {
    self.bytes = bytes
    self.overload = overload
    end = bytes.count
  }

  mutating func next() -> (code: UInt8, start: Int, count: Int)? {
    while !isMalformed {
      guard at < end, bytes[at] != DHCPOption.end else {
        guard beginNextArea() else { return nil }
        continue
      }
      let code = bytes[at]
      at += 1
      // A pad.
      if code == 0 { continue }
      guard at < end, at + 1 + Int(bytes[at]) <= end else {
        isMalformed = true
        return nil
      }
      let count = Int(bytes[at])
      let start = at + 1
      at = start + count
      return (code, start, count)
    }
    return nil
  }

  private mutating func beginNextArea() -> Bool {
    while area < 2 {
      area += 1
      if area == 1, overload & 1 != 0 {
        (at, end) = (108, 236)
        return true
      }
      if area == 2, overload & 2 != 0 {
        (at, end) = (44, 108)
        return true
      }
    }
    return false
  }
}

extension IPv4Address {
  /// Of a host on some network. "This host" (0/8), loopback, groups and what is reserved (RFC 1122 §3.2.1.3) is not: a server that
  /// gives such an address would lead what we send to it back to this machine, or nowhere.
  fileprivate var mayBeHost: Bool { bits >> 24 != 0 && bits >> 24 != 127 && bits < 0xe000_0000 }
}

/// A few IPv4 addresses of hosts.
package struct IPv4List: Equatable, Sendable {
  package static var capacity: Int { 4 }
  private var list = InlineArray<4, IPv4Address>(repeating: .any)
  package private(set) var count = 0

  package init() {}

  package mutating func append(_ address: IPv4Address) {
    guard count < Self.capacity, address.mayBeHost else { return }
    list[count] = address
    count += 1
  }

  package subscript(_ i: Int) -> IPv4Address { list[i] }
  package var first: IPv4Address? { count > 0 ? list[0] : nil }

  package static func == (a: IPv4List, b: IPv4List) -> Bool {
    guard a.count == b.count else { return false }
    for i in 0..<a.count where a.list[i] != b.list[i] { return false }
    return true
  }
}

/// RFC 3442: destinations with the routers that lead there; a router of 0.0.0.0 means on the link.
package struct ClasslessRoutes: Equatable, Sendable {
  package struct Entry: Equatable, Sendable {
    package var destination = IPv4Address.any
    package var prefixLength = 0
    package var router = IPv4Address.any
  }

  package static var capacity: Int { 16 }
  private var list = InlineArray<16, Entry>(repeating: Entry())
  package private(set) var count = 0

  /// nil where there is none, the last entry is cut, or one makes no sense. What is more than there is room for is left out, and so is
  /// what leads to no other host: routes to loopback or to groups, and through a router of such an address.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count > 0 else { return nil }
    var at = 0
    while at < bytes.count {
      let length = Int(bytes[at])
      let significant = (length + 7) / 8
      guard length <= 32, at + 1 + significant + 4 <= bytes.count else { return nil }
      var entry = Entry()
      entry.prefixLength = length
      var bits: UInt32 = 0
      for i in 0..<significant { bits |= UInt32(bytes[at + 1 + i]) << UInt32(24 - 8 * i) }
      // RFC 3442: bits beyond the mask are to be ignored.
      entry.destination = IPv4Address(bits: length == 0 ? 0 : bits & ~0 << UInt32(32 - length))
      at += 1 + significant
      var router: UInt32 = 0
      for i in 0..<4 { router = router << 8 | UInt32(bytes[at + i]) }
      entry.router = IPv4Address(bits: router)
      at += 4
      let isMisleading = length >= 8 && entry.destination.bits >> 24 == 127 || entry.destination.bits >= 0xe000_0000
      guard count < Self.capacity, !isMisleading, router == 0 || entry.router.mayBeHost else { continue }
      list[count] = entry
      count += 1
    }
  }

  package subscript(_ i: Int) -> Entry { list[i] }

  package static func == (a: ClasslessRoutes, b: ClasslessRoutes) -> Bool {
    guard a.count == b.count else { return false }
    for i in 0..<a.count where a.list[i] != b.list[i] { return false }
    return true
  }
}

/// Domain names as text, with a space between two. A name with anything but letters, digits, '-', '_' and dots is left out: it
/// would go into programs' look-ups as it stands.
package struct DomainText: Sendable {
  package static var capacity: Int { 256 }
  private var text = InlineArray<256, UInt8>(repeating: 0)
  package private(set) var count = 0

  package init() {}

  package subscript(_ i: Int) -> UInt8 { text[i] }

  mutating func append(plain bytes: UnsafeRawBufferPointer) {
    let start = begin()
    // Servers add a NUL, and some several names.
    for byte in bytes where byte != 0 {
      guard byte == UInt8(ascii: " ") || Self.isName(byte), append(byte) else { return undo(start) }
    }
    if count > start, text[count - 1] == UInt8(ascii: " ") { count -= 1 }
    if count == start { undo(start) }
  }

  /// Names as DNS encodes them, pointers within the option included (RFC 3397 §2, RFC 1035 §4.1.4).
  mutating func append(encoded bytes: UnsafeRawBufferPointer) {
    var at = 0
    while at < bytes.count {
      let start = begin()
      guard let next = appendName(bytes, at) else { return undo(start) }
      at = next
      if count == start { undo(start) }
    }
  }

  /// Where the next name begins; nil where this one is none.
  private mutating func appendName(_ bytes: UnsafeRawBufferPointer, _ start: Int) -> Int? {
    var at = start
    var next: Int?
    var isFirst = true
    // A pointer leads back, so there cannot be more of them than octets.
    var limit = start
    while at < bytes.count {
      let length = Int(bytes[at])
      if length >= 0xc0 {
        guard at + 1 < bytes.count else { return nil }
        let target = (length & 0x3f) << 8 | Int(bytes[at + 1])
        guard target < limit else { return nil }
        next = next ?? at + 2
        limit = target
        at = target
        continue
      }
      if length == 0 { return next ?? at + 1 }
      guard length < 64, at + 1 + length <= bytes.count else { return nil }
      if !isFirst, !append(UInt8(ascii: ".")) { return nil }
      isFirst = false
      for i in 0..<length {
        guard bytes[at + 1 + i] != UInt8(ascii: "."), Self.isName(bytes[at + 1 + i]), append(bytes[at + 1 + i]) else {
          return nil
        }
      }
      at += 1 + length
    }
    return nil
  }

  private mutating func begin() -> Int {
    if count > 0 { _ = append(UInt8(ascii: " ")) }
    return count
  }

  /// Without what begin() put before it.
  private mutating func undo(_ start: Int) { count = max(0, start - 1) }

  private mutating func append(_ byte: UInt8) -> Bool {
    guard count < Self.capacity else { return false }
    text[count] = byte
    count += 1
    return true
  }

  private static func isName(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
      true
    default: false
    }
  }
}

/// What a client sends.
package struct DHCPv4Request: Equatable, Sendable {
  package var type: DHCPMessageType
  package var transactionID: UInt32
  package var hardware: MACAddress
  /// Since the client began, seconds.
  package var seconds: UInt16 = 0
  /// The answer shall be a broadcast: the client has no address to be reached at.
  package var broadcast = false
  /// ciaddr
  package var clientAddress = IPv4Address.any
  package var requestedAddress: IPv4Address?
  package var serverIdentifier: IPv4Address?

  package init(_ type: DHCPMessageType, transactionID: UInt32, hardware: MACAddress) {
    self.type = type
    self.transactionID = transactionID
    self.hardware = hardware
  }

  /// Exactly that many bytes.
  package static let length = DHCPv4Message.leastLength

  /// What a client of ours makes use of. RFC 3442: routes before the router.
  private static let wanted: InlineArray<10, UInt8> = [
    DHCPOption.subnetMask, DHCPOption.classlessRoutes, DHCPOption.router, DHCPOption.nameServers, DHCPOption.domainName,
    DHCPOption.interfaceMTU, DHCPOption.leaseTime, DHCPOption.renewalTime, DHCPOption.rebindingTime,
    DHCPOption.domainSearch,
  ]

  package func write(to base: UnsafeMutableRawPointer) {
    for i in 0..<Self.length { base.storeByte(0, at: i) }
    base.storeBigEndian32(0x0101_0600, at: 0)
    base.storeBigEndian32(transactionID, at: 4)
    base.storeBigEndian16(seconds, at: 8)
    base.storeBigEndian16(broadcast ? 0x8000 : 0, at: 10)
    base.storeBigEndian32(clientAddress.bits, at: 12)
    hardware.write(to: base, at: 28)
    base.storeBigEndian32(DHCPv4Message.magicCookie, at: 236)
    var at = DHCPv4Message.fixedLength
    func begin(_ code: UInt8, _ count: Int) {
      base.storeByte(code, at: at)
      base.storeByte(UInt8(count), at: at + 1)
      at += 2
    }
    begin(DHCPOption.messageType, 1)
    base.storeByte(type.rawValue, at: at)
    at += 1
    // RFC 2132 §9.14: the hardware type and address. The same in all messages (RFC 2131 §4.2).
    begin(DHCPOption.clientIdentifier, 7)
    base.storeByte(1, at: at)
    hardware.write(to: base, at: at + 1)
    at += 7
    if let requestedAddress {
      begin(DHCPOption.requestedAddress, 4)
      base.storeBigEndian32(requestedAddress.bits, at: at)
      at += 4
    }
    if let serverIdentifier {
      begin(DHCPOption.serverIdentifier, 4)
      base.storeBigEndian32(serverIdentifier.bits, at: at)
      at += 4
    }
    if type == .discover || type == .request {
      begin(DHCPOption.maximumMessageSize, 2)
      base.storeBigEndian16(1472, at: at)
      at += 2
      begin(DHCPOption.parameterRequestList, Self.wanted.count)
      for i in Self.wanted.indices { base.storeByte(Self.wanted[i], at: at + i) }
      at += Self.wanted.count
    }
    base.storeByte(DHCPOption.end, at: at)
  }
}
