// Owns: arithmetic of TCP sequence numbers, modulo 2^32. Read first: RFC 9293 §3.4.

/// A TCP sequence number. Comparison is the signed distance modulo 2^32, so it is meaningful only between numbers less
/// than 2^31 apart; it is not a total order and the type is deliberately not `Comparable`.
package struct SequenceNumber: Equatable, Sendable {
  package var value: UInt32

  @inline(__always)
  package init(_ value: UInt32) { self.value = value }

  @inline(__always)
  package static func < (a: SequenceNumber, b: SequenceNumber) -> Bool { Int32(bitPattern: a.value &- b.value) < 0 }
  @inline(__always)
  package static func <= (a: SequenceNumber, b: SequenceNumber) -> Bool { Int32(bitPattern: a.value &- b.value) <= 0 }
  @inline(__always)
  package static func > (a: SequenceNumber, b: SequenceNumber) -> Bool { Int32(bitPattern: a.value &- b.value) > 0 }
  @inline(__always)
  package static func >= (a: SequenceNumber, b: SequenceNumber) -> Bool { Int32(bitPattern: a.value &- b.value) >= 0 }

  @inline(__always)
  package static func + (a: SequenceNumber, n: Int) -> SequenceNumber {
    SequenceNumber(a.value &+ UInt32(truncatingIfNeeded: n))
  }
  @inline(__always)
  package static func += (a: inout SequenceNumber, n: Int) { a = a + n }

  /// The signed distance from `b` to `a`, in bytes.
  @inline(__always)
  package static func - (a: SequenceNumber, b: SequenceNumber) -> Int { Int(Int32(bitPattern: a.value &- b.value)) }

  @inline(__always)
  package static func max(_ a: SequenceNumber, _ b: SequenceNumber) -> SequenceNumber { a < b ? b : a }
  @inline(__always)
  package static func min(_ a: SequenceNumber, _ b: SequenceNumber) -> SequenceNumber { a < b ? a : b }
}
