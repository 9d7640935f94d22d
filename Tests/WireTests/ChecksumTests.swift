// The Internet checksum against the definition, word by word.

import Testing

@testable import Wire

/// RFC 1071 §4.1, as slowly and plainly as it can be written.
func naiveChecksum(_ bytes: some Sequence<UInt8>) -> UInt16 {
  var sum = 0
  var high = true
  for byte in bytes {
    sum += high ? Int(byte) << 8 : Int(byte)
    if sum > 0xffff { sum -= 0xffff }
    high.toggle()
  }
  return UInt16(sum)
}

/// SplitMix64: these tests see no other module's generator.
struct TestRandom: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z &>> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z &>> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z &>> 31
  }
  mutating func bytes(_ count: Int) -> [UInt8] { (0..<count).map { _ in UInt8(truncatingIfNeeded: next()) } }
}

/// In one's complement 0x0000 and 0xffff are the same number; which one a sum gives is no matter.
private func same(_ a: UInt16, _ b: UInt16) -> Bool { a == b || a % 0xffff == b % 0xffff }

@Suite("Internet checksum")
struct ChecksumTests {
  @Test("RFC 1071 §3: the example")
  func example() {
    let bytes: [UInt8] = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]
    #expect(bytes.withUnsafeBytes { Checksum.fold(Checksum.sum($0)) } == 0xddf2)
  }

  @Test("RFC 1071 §4.1: every length up to 300 at every alignment equals the definition")
  func lengthsAndAlignments() {
    var random = TestRandom(1)
    let bytes = random.bytes(400)
    for length in 0...300 {
      for offset in 0..<(length < 80 ? 64 : 3) {
        let part = bytes[offset..<offset + length]
        let sum = part.withUnsafeBytes { Checksum.fold(Checksum.sum($0)) }
        if !same(sum, naiveChecksum(part)) { Issue.record("\(length) bytes at \(offset)") }
      }
    }
  }

  @Test("RFC 1071 §4.1: random lengths up to 64 KB equal the definition", arguments: 0..<60)
  func random(seed: UInt64) {
    var random = TestRandom(seed)
    let bytes = random.bytes(Int(random.next() % 66_000) + 70)
    let offset = Int(random.next() % 64)
    let initial = random.next() >> 20
    let part = bytes[offset...]
    let sum = part.withUnsafeBytes { Checksum.fold(Checksum.sum($0, initial)) }
    let expected = (UInt64(naiveChecksum(part)) + initial % 0xffff) % 0xffff
    #expect(same(sum, UInt16(expected)), "seed \(seed)")
  }

  @Test("All ones do not overflow, whatever the length", arguments: [1, 2, 31, 32, 33, 1460, 65_535, 1 << 20])
  func allOnes(length: Int) {
    let bytes = [UInt8](repeating: 0xff, count: length)
    let sum = bytes.withUnsafeBytes { Checksum.fold(Checksum.sum($0)) }
    #expect(same(sum, naiveChecksum(bytes)))
    #expect(sum != 0, "the sum of anything but zeros is not zero: 0 and 0xffff must be told apart by UDP")
  }

  @Test("RFC 1071 §2(A): sums of parts of even length add up")
  func parts() {
    var random = TestRandom(7)
    for _ in 0..<200 {
      let bytes = random.bytes(2 + Int(random.next() % 3000))
      let cut = Int(random.next() % UInt64(bytes.count / 2)) * 2
      let first = bytes[..<cut].withUnsafeBytes { Checksum.sum($0) }
      let both = bytes[cut...].withUnsafeBytes { Checksum.sum($0, first) }
      #expect(same(Checksum.fold(both), naiveChecksum(bytes)))
    }
  }

  @Test("Folding keeps the value modulo 2^16 - 1 over the whole range")
  func fold() {
    var random = TestRandom(3)
    for _ in 0..<2000 {
      let value = random.next() >> (random.next() % 64)
      #expect(same(Checksum.fold(value), UInt16(value % 0xffff)), "\(value)")
      #expect((Checksum.fold(value) == 0) == (value == 0), "\(value)")
    }
    #expect(Checksum.fold(.max) == 0xffff)
  }

  @Test("RFC 9293 §3.1, RFC 8200 §8.1: pseudo-headers as bytes")
  func pseudoHeader() {
    let a = IPv4Address(198, 18, 0, 4)
    let b = IPv4Address(203, 0, 113, 250)
    let v4: [UInt8] = [198, 18, 0, 4, 203, 0, 113, 250, 0, 6, 0x12, 0x34]
    let sum4 = Checksum.pseudoHeader(source: IPAddress(a), destination: IPAddress(b), proto: 6, length: 0x1234)
    #expect(same(Checksum.fold(sum4), naiveChecksum(v4)))

    var random = TestRandom(9)
    let v6 = random.bytes(32)
    let (source, destination) = v6.withUnsafeBytes {
      (IPAddress(reading16: $0.baseAddress!, at: 0), IPAddress(reading16: $0.baseAddress!, at: 16))
    }
    let sum6 = Checksum.pseudoHeader(source: source, destination: destination, proto: 17, length: 0x12345)
    #expect(same(Checksum.fold(sum6), naiveChecksum(v6 + [0, 1, 0x23, 0x45, 0, 0, 0, 17])))
  }
}
