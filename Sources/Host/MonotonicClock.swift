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
}
