// Owns: text in a buffer of fixed size, for lines that go out with one write(2). No String, no heap, no stdio: these lines
// are made inside somebody else's program, at any moment, on any thread. What does not fit is cut.

import CSupport
import Wire

package struct TextBuffer {
  private let base: UnsafeMutableRawPointer
  private let capacity: Int
  package private(set) var count = 0

  package init(_ memory: UnsafeMutableRawBufferPointer) {
    base = memory.baseAddress!
    capacity = memory.count
  }

  package var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: base, count: count) }
  package var room: Int { capacity - count }
  package mutating func removeAll() { count = 0 }

  package mutating func append(byte: UInt8) {
    guard count < capacity else { return }
    base.storeBytes(of: byte, toByteOffset: count, as: UInt8.self)
    count += 1
  }

  package mutating func append(_ text: StaticString) {
    let n = min(text.utf8CodeUnitCount, room)
    (base + count).copyMemory(from: text.utf8Start, byteCount: n)
    count += n
  }

  package mutating func append(_ text: UnsafeRawBufferPointer) {
    let n = min(text.count, room)
    guard n > 0, let from = text.baseAddress else { return }
    (base + count).copyMemory(from: from, byteCount: n)
    count += n
  }

  package mutating func append(cString: UnsafePointer<CChar>) {
    var at = cString
    while at.pointee != 0 {
      append(byte: UInt8(bitPattern: at.pointee))
      at += 1
    }
  }

  /// Decimal; `width` pads on the left with `padding`.
  package mutating func append(_ number: UInt64, width: Int = 0, padding: UInt8 = UInt8(ascii: " ")) {
    var digits = InlineArray<20, UInt8>(repeating: 0)
    var n = number
    var used = 0
    repeat {
      digits[used] = UInt8(ascii: "0") + UInt8(n % 10)
      n /= 10
      used += 1
    } while n > 0
    var pad = width - used
    while pad > 0 {
      append(byte: padding)
      pad -= 1
    }
    while used > 0 {
      used -= 1
      append(byte: digits[used])
    }
  }

  package mutating func append(_ number: Int) {
    if number < 0 { append(byte: UInt8(ascii: "-")) }
    append(UInt64(number.magnitude))
  }

  package mutating func append(hex number: UInt64, digits: Int) {
    var shift = digits * 4
    while shift > 0 {
      shift -= 4
      let nibble = UInt8(number >> UInt64(shift) & 15)
      append(byte: nibble < 10 ? UInt8(ascii: "0") + nibble : UInt8(ascii: "a") + nibble - 10)
    }
  }

  /// Pads with spaces until `column` bytes after `start`.
  package mutating func pad(to column: Int, from start: Int) {
    while count < start + column, room > 0 { append(byte: UInt8(ascii: " ")) }
  }

  package mutating func append(_ address: IPv4Address) {
    append(UInt64(address.bits >> 24))
    append(byte: UInt8(ascii: "."))
    append(UInt64(address.bits >> 16 & 255))
    append(byte: UInt8(ascii: "."))
    append(UInt64(address.bits >> 8 & 255))
    append(byte: UInt8(ascii: "."))
    append(UInt64(address.bits & 255))
  }

  /// IPv6 as RFC 5952 §4 wants it: lower case, no leading zeros, the longest run of zero groups as "::".
  package mutating func append(_ address: IPAddress) {
    if address.isIPv4 { return append(address.v4) }
    func group(_ i: Int) -> UInt64 {
      let half = i < 4 ? address.high : address.low
      return half >> UInt64((3 - i & 3) * 16) & 0xffff
    }
    var bestStart = -1
    var bestLength = 1
    var i = 0
    while i < 8 {
      var end = i
      while end < 8, group(end) == 0 { end += 1 }
      if end - i > bestLength {
        bestStart = i
        bestLength = end - i
      }
      i = max(end, i + 1)
    }
    i = 0
    while i < 8 {
      if i == bestStart {
        append("::")
        i += bestLength
        continue
      }
      if i > 0, i != bestStart + bestLength || bestStart < 0 { append(byte: UInt8(ascii: ":")) }
      let value = group(i)
      append(hex: value, digits: value > 0xfff ? 4 : value > 0xff ? 3 : value > 0xf ? 2 : 1)
      i += 1
    }
  }

  package mutating func append(_ endpoint: Endpoint) {
    if endpoint.address.isIPv4 {
      append(endpoint.address.v4)
    } else {
      append(byte: UInt8(ascii: "["))
      append(endpoint.address)
      append(byte: UInt8(ascii: "]"))
    }
    append(byte: UInt8(ascii: ":"))
    append(UInt64(endpoint.port))
  }

  package mutating func append(_ address: MACAddress) {
    var shift = 40
    while shift >= 0 {
      append(hex: address.bits >> UInt64(shift) & 255, digits: 2)
      if shift > 0 { append(byte: UInt8(ascii: ":")) }
      shift -= 8
    }
  }
}

/// One line of the library to the person who runs the program: "anp: …" on standard error.
package func report(_ body: (inout TextBuffer) -> Void) {
  guard anp_standard_error_usable() != 0 else { return }
  var memory = InlineArray<512, UInt8>(repeating: 0)
  withUnsafeMutableBytes(of: &memory) { raw in
    var text = TextBuffer(UnsafeMutableRawBufferPointer(rebasing: raw[..<511]))
    text.append("anp: ")
    body(&text)
    raw[text.count] = UInt8(ascii: "\n")
    _ = anp_write_all(2, raw.baseAddress, text.count + 1)
  }
}

extension StaticString {
  /// As a C string: the compiler puts a NUL behind every static string.
  package var pointer: UnsafePointer<CChar> {
    UnsafeRawPointer(utf8Start).assumingMemoryBound(to: CChar.self)
  }
}
