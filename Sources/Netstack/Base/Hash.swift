// Owns: the keyed hash (SipHash-2-4) behind the demultiplexing tables, initial sequence numbers and port selection, and
// the seeded generator. Read first: RFC 6528 §3 (ISN), RFC 6056 §3.3 (ports); Aumasson & Bernstein, "SipHash", 2012.

/// A 128-bit secret. Comes from outside (getrandom in the preload, the seed in the simulator).
package struct HashKey: Sendable {
  package var k0: UInt64
  package var k1: UInt64
  package init(_ k0: UInt64, _ k1: UInt64) {
    self.k0 = k0
    self.k1 = k1
  }
}

/// SipHash over 64-bit words. Every message here is a whole number of words, so the tail only encodes the length.
package struct SipHash {
  private var v0: UInt64
  private var v1: UInt64
  private var v2: UInt64
  private var v3: UInt64
  private var words: UInt64 = 0

  @inline(__always)
  package init(_ key: HashKey) {
    v0 = key.k0 ^ 0x736f_6d65_7073_6575
    v1 = key.k1 ^ 0x646f_7261_6e64_6f6d
    v2 = key.k0 ^ 0x6c79_6765_6e65_7261
    v3 = key.k1 ^ 0x7465_6462_7974_6573
  }

  @inline(__always)
  private static func rotate(_ x: UInt64, _ n: UInt64) -> UInt64 { x &<< n | x &>> (64 &- n) }

  @inline(__always)
  private mutating func round() {
    v0 &+= v1
    v1 = Self.rotate(v1, 13) ^ v0
    v0 = Self.rotate(v0, 32)
    v2 &+= v3
    v3 = Self.rotate(v3, 16) ^ v2
    v0 &+= v3
    v3 = Self.rotate(v3, 21) ^ v0
    v2 &+= v1
    v1 = Self.rotate(v1, 17) ^ v2
    v2 = Self.rotate(v2, 32)
  }

  @inline(__always)
  package mutating func add(_ word: UInt64) {
    v3 ^= word
    round()
    round()
    v0 ^= word
    words &+= 1
  }

  @inline(__always)
  package consuming func finish() -> UInt64 {
    let last = (words &* 8) << 56
    v3 ^= last
    round()
    round()
    v0 ^= last
    v2 ^= 0xff
    round()
    round()
    round()
    round()
    return v0 ^ v1 ^ v2 ^ v3
  }
}

/// xoshiro256**, seeded through SplitMix64: fast, reproducible, not for secrets.
package struct SeededRandom: RandomNumberGenerator, Sendable {
  private var s0: UInt64
  private var s1: UInt64
  private var s2: UInt64
  private var s3: UInt64

  package init(seed: UInt64) {
    var x = seed
    func next() -> UInt64 {
      x &+= 0x9e37_79b9_7f4a_7c15
      var z = x
      z = (z ^ z &>> 30) &* 0xbf58_476d_1ce4_e5b9
      z = (z ^ z &>> 27) &* 0x94d0_49bb_1331_11eb
      return z ^ z &>> 31
    }
    s0 = next()
    s1 = next()
    s2 = next()
    s3 = next()
  }

  package mutating func next() -> UInt64 {
    func rotate(_ v: UInt64, _ n: UInt64) -> UInt64 { v &<< n | v &>> (64 &- n) }
    let result = rotate(s1 &* 5, 7) &* 9
    let t = s1 &<< 17
    s2 ^= s0
    s3 ^= s1
    s1 ^= s2
    s0 ^= s3
    s2 ^= t
    s3 = rotate(s3, 45)
    return result
  }

  /// Uniform in 0..<bound (bound > 0), by multiplication (Lemire); the bias below 2^-32 does not matter here.
  package mutating func below(_ bound: Int) -> Int {
    Int(truncatingIfNeeded: (next() >> 32).multipliedFullWidth(by: UInt64(bound)).low >> 32)
  }
}

/// Numbers that nobody outside can foretell, however many of them have been seen: a keyed hash of a counter. For what goes into
/// packets (ports, identifications, transaction numbers), where SeededRandom's state could be worked out.
package struct SecretRandom: Sendable {
  private let key: HashKey
  private var counter: UInt64 = 0

  package init(key: HashKey) { self.key = key }

  package mutating func next() -> UInt64 {
    counter &+= 1
    var hash = SipHash(key)
    hash.add(counter)
    return hash.finish()
  }

  /// Evenly from 0 to below `n`.
  package mutating func below(_ n: Int) -> Int {
    n <= 1 ? 0 : Int(next().multipliedFullWidth(by: UInt64(n)).high)
  }
}
