// Owns: the clock and the chance that are handed to the stack, which has neither.

import CSupport
import Netstack

package enum MonotonicClock {
  /// CLOCK_MONOTONIC; read through the vDSO, some 20 ns.
  @inline(__always)
  package static var now: Instant { Instant(nanoseconds: anp_monotonic()) }
}

package enum Entropy {
  /// 64 bits from getrandom(2), which blocks only where a machine has just been switched on. Where the call is refused
  /// (a seccomp filter) the stack must not start with a guessable secret: nil.
  package static func word() -> UInt64? {
    var word: UInt64 = 0
    guard anp_entropy(&word, 8) == 0 else { return nil }
    return word
  }

  /// The same for all processes of this machine until it boots again, and not known outside it; nil without /proc.
  static func bootSecret() -> HashKey? {
    var memory = InlineArray<40, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &memory) { raw -> HashKey? in
      let path: StaticString = "/proc/sys/kernel/random/boot_id"
      guard anp_read_file(path.pointer, raw.baseAddress, raw.count) >= 36 else { return nil }
      func hash(_ purpose: UInt64) -> UInt64 {
        var hash = SipHash(HashKey(purpose, 0))
        for at in stride(from: 0, to: 40, by: 8) { hash.add(raw.loadUnaligned(fromByteOffset: at, as: UInt64.self)) }
        return hash.finish()
      }
      return HashKey(hash(1), hash(2))
    }
  }
}
