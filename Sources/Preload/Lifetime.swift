// Owns: the counted life of a record that descriptors name: how it is acquired without a lock, and how the last reference
// is recognised. A record's word holds its generation (high half) and its references (low half): one per descriptor that
// names it, one per call in progress. A generation is over when the count reaches 0; nobody can acquire it then.

import Synchronization

struct Lifetime: ~Copyable {
  private let word = Atomic<UInt64>(1 << 32)

  init() {}

  var generation: UInt32 { UInt32(truncatingIfNeeded: word.load(ordering: .acquiring) >> 32) }
  var references: UInt32 { UInt32(truncatingIfNeeded: word.load(ordering: .acquiring)) }

  /// Starts a life with one reference, for whoever took the record from its pool.
  func begin() {
    word.store(UInt64(generation) << 32 | 1, ordering: .releasing)
  }

  /// One more reference, if that generation is still alive.
  @inline(__always)
  func acquire(_ generation: UInt32) -> Bool {
    var seen = word.load(ordering: .acquiring)
    while UInt32(truncatingIfNeeded: seen >> 32) == generation, UInt32(truncatingIfNeeded: seen) != 0 {
      let (exchanged, original) = word.weakCompareExchange(
        expected: seen, desired: seen + 1, ordering: .acquiringAndReleasing)
      if exchanged { return true }
      seen = original
    }
    return false
  }

  /// True while that generation has references: meaningful only where something keeps the record from ending.
  @inline(__always)
  func isAlive(_ generation: UInt32) -> Bool {
    let seen = word.load(ordering: .acquiring)
    return UInt32(truncatingIfNeeded: seen >> 32) == generation && UInt32(truncatingIfNeeded: seen) != 0
  }

  /// One reference less; true for the caller that gave back the last one and now has the record to itself.
  @inline(__always)
  func release() -> Bool {
    let after = word.subtract(1, ordering: .acquiringAndReleasing).newValue
    return UInt32(truncatingIfNeeded: after) == 0
  }

  /// After the last release, when the record has been cleaned: names of the old life stop matching.
  func end() {
    word.store(UInt64(generation &+ 1) << 32, ordering: .releasing)
  }
}
