// Owns: the bytes that simulated programs send, known by their offset, so that every byte that arrives can be checked.

import Glibc
import Netstack

/// A stream of bytes that repeats only after a prime number of them: data that arrives at a wrong offset does not fit.
package struct Pattern: Sendable {
  private static let period = 65521
  /// One period and the longest run handed out at once.
  private static let longest = 70_000
  private let bytes: [UInt8]

  package init(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var bytes = [UInt8](repeating: 0, count: Self.period + Self.longest)
    for i in 0..<Self.period { bytes[i] = UInt8(truncatingIfNeeded: random.next() >> 32) }
    for i in Self.period..<bytes.count { bytes[i] = bytes[i - Self.period] }
    self.bytes = bytes
  }

  /// Calls `body` with the bytes from `offset` on, at most `count` of them.
  package func withBytes<R>(at offset: Int, count: Int, _ body: (UnsafeRawBufferPointer) -> R) -> R {
    bytes.withUnsafeBytes {
      let start = offset % Self.period
      return body(UnsafeRawBufferPointer(rebasing: $0[start..<start + min(count, Self.longest)]))
    }
  }

  /// Whether `received` is what stands at `offset`.
  package func matches(_ received: UnsafeRawBufferPointer, at offset: Int) -> Bool {
    var done = 0
    while done < received.count {
      let n = min(received.count - done, Self.longest)
      let same = withBytes(at: offset + done, count: n) {
        memcmp($0.baseAddress!, received.baseAddress! + done, n) == 0
      }
      if !same { return false }
      done += n
    }
    return true
  }
}
