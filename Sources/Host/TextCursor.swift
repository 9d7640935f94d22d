// Owns: reading the small texts that settings are made of: numbers, addresses, networks, words, lists. Each reader takes
// what it recognises and leaves the cursor behind it, or returns nil.

import Wire

package struct TextCursor {
  private let bytes: UnsafeRawBufferPointer
  private var position = 0

  package init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

  package init(cString: UnsafePointer<CChar>) {
    var n = 0
    while cString[n] != 0 { n += 1 }
    bytes = UnsafeRawBufferPointer(start: cString, count: n)
  }

  package var atEnd: Bool { position == bytes.count }
  package var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

  package mutating func take(_ byte: UInt8) -> Bool {
    guard peek == byte else { return false }
    position += 1
    return true
  }

  package mutating func take(cString: UnsafePointer<CChar>) -> Bool {
    let start = position
    var at = cString
    while at.pointee != 0 {
      guard take(UInt8(bitPattern: at.pointee)) else {
        position = start
        return false
      }
      at += 1
    }
    return true
  }

  /// As `take(cString:)`, where a space, a comma or the end follows.
  package mutating func take(name: UnsafePointer<CChar>) -> Bool {
    let start = position
    if take(cString: name), atEnd || peek == UInt8(ascii: " ") || peek == UInt8(ascii: ",") { return true }
    position = start
    return false
  }

  package mutating func skipSpaces() {
    while take(UInt8(ascii: " ")) {}
  }

  /// Takes `word` where it stands here whole: followed by the end or by something that is no letter, digit, '-' or '_'.
  package mutating func take(word: StaticString) -> Bool {
    let n = word.utf8CodeUnitCount
    guard bytes.count - position >= n else { return false }
    for i in 0..<n where bytes[position + i] != word.utf8Start[i] { return false }
    if position + n < bytes.count, Self.isWordByte(bytes[position + n]) { return false }
    position += n
    return true
  }

  private static func isWordByte(_ b: UInt8) -> Bool {
    switch b {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"),
      UInt8(ascii: "-"), UInt8(ascii: "_"):
      true
    default: false
    }
  }

  /// Bytes up to (not with) `separator` or the end; nil where there are none.
  package mutating func field(until separator: UInt8) -> UnsafeRawBufferPointer? {
    let start = position
    while position < bytes.count, bytes[position] != separator { position += 1 }
    return position > start ? UnsafeRawBufferPointer(rebasing: bytes[start..<position]) : nil
  }

  package mutating func decimal(most: Int) -> Int? {
    var value = 0
    var digits = 0
    while let b = peek, b >= UInt8(ascii: "0"), b <= UInt8(ascii: "9"), digits < 10 {
      value = value * 10 + Int(b - UInt8(ascii: "0"))
      digits += 1
      position += 1
    }
    return digits > 0 && value <= most ? value : nil
  }

  package mutating func ipv4Address() -> IPv4Address? {
    let start = position
    var bits: UInt32 = 0
    for i in 0..<4 {
      guard i == 0 || take(UInt8(ascii: ".")), let octet = decimal(most: 255) else {
        position = start
        return nil
      }
      bits = bits << 8 | UInt32(octet)
    }
    return IPv4Address(bits: bits)
  }

  private mutating func hexGroup() -> UInt64? {
    var value: UInt64 = 0
    var digits = 0
    while let b = peek, digits < 4 {
      switch b {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt64(b - UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt64(b - UInt8(ascii: "a") + 10)
      case UInt8(ascii: "A")...UInt8(ascii: "F"): value = value << 4 | UInt64(b - UInt8(ascii: "A") + 10)
      default: return digits > 0 ? value : nil
      }
      digits += 1
      position += 1
    }
    return digits > 0 ? value : nil
  }

  /// RFC 4291 §2.2, forms 1 to 3.
  package mutating func ipv6Address() -> IPAddress? {
    let start = position
    var groups = InlineArray<8, UInt64>(repeating: 0)
    var count = 0
    var gap = -1
    func fail(_ cursor: inout TextCursor) -> IPAddress? {
      cursor.position = start
      return nil
    }
    if take(UInt8(ascii: ":")) {
      guard take(UInt8(ascii: ":")) else { return fail(&self) }
      gap = 0
    }
    while count < 8 {
      // Form 3: the last 32 bits in dotted decimal.
      if count <= 6, let v4 = ipv4Address() {
        groups[count] = UInt64(v4.bits >> 16)
        groups[count + 1] = UInt64(v4.bits & 0xffff)
        count += 2
        break
      }
      guard let group = hexGroup() else {
        if gap == count { break }
        return fail(&self)
      }
      groups[count] = group
      count += 1
      guard count < 8, take(UInt8(ascii: ":")) else { break }
      if take(UInt8(ascii: ":")) {
        guard gap < 0 else { return fail(&self) }
        gap = count
      }
    }
    guard gap >= 0 ? count < 8 : count == 8 else { return fail(&self) }
    if gap >= 0 {
      let moved = count - gap
      for i in 0..<moved {
        groups[7 - i] = groups[count - 1 - i]
        if count - 1 - i < 8 - moved { groups[count - 1 - i] = 0 }
      }
    }
    return IPAddress(
      high: groups[0] << 48 | groups[1] << 32 | groups[2] << 16 | groups[3],
      low: groups[4] << 48 | groups[5] << 32 | groups[6] << 16 | groups[7])
  }

  /// Of either family.
  package mutating func address() -> IPAddress? {
    if let v4 = ipv4Address() { return IPAddress(v4) }
    return ipv6Address()
  }

  /// "10.0.0.0/8", "10.1.2.3" (that host), "2001:db8::/32", "all".
  package mutating func network() -> Network? {
    if take(word: "all") { return Network(IPAddress.anyIPv6, prefix: 0) }
    if let v4 = ipv4Address() {
      guard take(UInt8(ascii: "/")) else { return Network(IPAddress(v4), prefix: 128) }
      guard let length = decimal(most: 32) else { return nil }
      return Network(IPAddress(v4), prefix: 96 + length)
    }
    guard let v6 = ipv6Address() else { return nil }
    guard take(UInt8(ascii: "/")) else { return Network(v6, prefix: 128) }
    guard let length = decimal(most: 128) else { return nil }
    return Network(v6, prefix: length)
  }
}

/// A network of either family; IPv4 in the mapped form, 96 bits longer.
package struct Network: Equatable, Sendable {
  private let high: UInt64
  private let low: UInt64
  private let highMask: UInt64
  private let lowMask: UInt64

  package init(_ address: IPAddress, prefix: Int) {
    highMask = prefix >= 64 ? ~0 : prefix == 0 ? 0 : ~0 << UInt64(64 - prefix)
    lowMask = prefix >= 128 ? ~0 : prefix <= 64 ? 0 : ~0 << UInt64(128 - prefix)
    high = address.high & highMask
    low = address.low & lowMask
  }

  package func contains(_ address: IPAddress) -> Bool {
    address.high & highMask == high && address.low & lowMask == low
  }

  /// Whether `address` has no bits beyond the prefix.
  package func begins(at address: IPAddress) -> Bool { address.high == high && address.low == low }
}
