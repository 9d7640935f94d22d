// Owns: the Internet checksum. Read first: RFC 1071, RFC 1624.

/// Sums are kept in 64 bits, unfolded, and in host order of big-endian words, so that partial sums add up.
package enum Checksum {
  /// The unfolded sum of the big-endian 16-bit words of `bytes`; an odd last byte is the high half of a word.
  package static func sum(_ bytes: UnsafeRawBufferPointer, _ initial: UInt64 = 0) -> UInt64 {
    guard let base = bytes.baseAddress else { return initial }
    var total: UInt64 = 0
    var offset = 0
    let count = bytes.count
    // Native-order 32-bit words: the one's complement sum commutes with a byte swap (RFC 1071 §2(B)).
    while offset &+ 32 <= count {
      let words = base.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt32>.self)
      let wide = SIMD8<UInt64>(truncatingIfNeeded: words)
      total &+= wide.wrappedSum()
      offset &+= 32
    }
    while offset &+ 4 <= count {
      total &+= UInt64(base.loadUnaligned(fromByteOffset: offset, as: UInt32.self))
      offset &+= 4
    }
    if offset &+ 2 <= count {
      total &+= UInt64(base.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
      offset &+= 2
    }
    if offset < count {
      total &+= UInt64(UInt16(base.byte(at: offset)).littleEndian)
    }
    return initial &+ UInt64(UInt16(bigEndian: fold(total)))
  }

  /// The 16-bit one's complement sum.
  @inline(__always)
  package static func fold(_ sum: UInt64) -> UInt16 {
    var s = (sum & 0xffff_ffff) &+ (sum >> 32)
    s = (s & 0xffff) &+ (s >> 16)
    s = (s & 0xffff) &+ (s >> 16)
    s = (s & 0xffff) &+ (s >> 16)
    return UInt16(truncatingIfNeeded: s)
  }

  /// The pseudo-header's unfolded sum (RFC 9293 §3.1; RFC 8200 §8.1 for IPv6). `length` is the upper layer's, bytes.
  @inline(__always)
  package static func pseudoHeader(source: IPAddress, destination: IPAddress, proto: UInt8, length: Int) -> UInt64 {
    var sum = UInt64(proto) &+ UInt64(truncatingIfNeeded: length)
    if source.isIPv4 {
      sum &+= UInt64(source.v4.bits) &+ UInt64(destination.v4.bits)
    } else {
      sum &+= words(source.high) &+ words(source.low) &+ words(destination.high) &+ words(destination.low)
    }
    return sum
  }

  @inline(__always)
  private static func words(_ value: UInt64) -> UInt64 { (value >> 32) &+ (value & 0xffff_ffff) }
}
