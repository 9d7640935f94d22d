// Owns: the bytes that simulated programs send, known by their offset, so that every byte that arrives can be checked.

import Glibc
import Netstack

/// A stream of bytes that repeats only after a prime number of them: data that arrives at a wrong offset does not fit.
package struct Pattern: Sendable {
  private static let period = 8191
  /// The longest run handed out at once.
  private static let longest = 70_000
  private let bytes: [UInt8]

  package init(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var words: [UInt64] = []
    for _ in 0...Self.period / 8 { words.append(random.next()) }
    let once = words.withUnsafeBytes { [UInt8]($0[..<Self.period]) }
    var bytes: [UInt8] = []
    while bytes.count < Self.period + Self.longest { bytes += once }
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
