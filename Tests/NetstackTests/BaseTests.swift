// Slab, byte ring, hash, random numbers, time.

import Testing

@testable import Netstack

// MARK: - Slab

@Suite("Slab")
struct SlabTests {
  @Test("A handle names its element until it is removed, and never another")
  func handles() {
    var slab = Slab<Int>(maximum: 100)
    let first = slab.insert(11)!
    let second = slab.insert(22)!
    #expect(slab.pointer(first)?.pointee == 11 && slab.pointer(second)?.pointee == 22)
    #expect(slab.count == 2)
    slab.remove(at: first.index)
    #expect(slab.pointer(first) == nil)
    let third = slab.insert(33)!
    #expect(third.index == first.index && third.generation != first.generation)
    #expect(slab.pointer(first) == nil && slab.pointer(third)?.pointee == 33)
    #expect(slab.handle(at: third.index) == third)
    slab.remove(at: third.index)
    slab.remove(at: third.index)
    #expect(slab.count == 1, "removing twice removes once")
    #expect(slab.pointer(SlabHandle(index: 9999, generation: 1)) == nil)
    #expect(slab.pointer(SlabHandle(index: .max, generation: 1)) == nil)
  }

  @Test("Full at its maximum, usable again after a removal")
  func limit() {
    var slab = Slab<Int>(maximum: 128)
    var handles: [SlabHandle] = []
    while let handle = slab.insert(handles.count) { handles.append(handle) }
    #expect(handles.count == 128)
    slab.remove(at: 77)
    #expect(slab.insert(5)?.index == 77)
    let full = slab.insert(6)
    #expect(full == nil)
  }

  @Test("Addresses stay the same while the slab grows")
  func stableAddresses() {
    var slab = Slab<Int>(maximum: 10_000)
    let first = slab.insert(1)!
    let address = slab.pointer(first)
    for i in 0..<5000 { _ = slab.insert(i) }
    #expect(slab.pointer(first) == address)
  }

  private final class Counter { var live = 0 }
  private struct Element: ~Copyable {
    let counter: Counter
    init(_ counter: Counter) {
      self.counter = counter
      counter.live += 1
    }
    deinit { counter.live -= 1 }
  }

  @Test("Elements are destroyed once: when removed, or with the slab")
  func destruction() {
    let counter = Counter()
    do {
      var slab = Slab<Element>(maximum: 200)
      for _ in 0..<150 { _ = slab.insert(Element(counter)) }
      #expect(counter.live == 150)
      for i in stride(from: 0, to: 150, by: 3) { slab.remove(at: UInt32(i)) }
      #expect(counter.live == 100)
    }
    #expect(counter.live == 0)
  }

  @Test("Walking visits exactly the slots in use", arguments: 0..<10)
  func walking(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var slab = Slab<Int>(maximum: 400)
    var model: [UInt32: Int] = [:]
    for i in 0..<3000 {
      if random.below(2) == 0, let handle = slab.insert(i) {
        model[handle.index] = i
      } else if let victim = model.keys.sorted().randomElement(using: &random) {
        slab.remove(at: victim)
        model[victim] = nil
      }
      #expect(slab.count == model.count)
    }
    var seen: [UInt32: Int] = [:]
    var at = slab.nextInUse(from: 0)
    while let index = at {
      seen[index] = slab.pointer(at: index).pointee
      at = slab.nextInUse(from: index + 1)
    }
    #expect(seen == model)
  }
}

// MARK: - ByteRing

@Suite("Byte ring")
struct ByteRingTests {
  private func read(_ ring: borrowing ByteRing, _ offset: Int, _ length: Int) -> [UInt8] {
    let (a, b, c) = ring.slices(at: offset, length: length)
    return Array(a) + Array(b) + Array(c)
  }

  private func append(_ bytes: [UInt8], to ring: inout ByteRing, limit: Int = .max) -> Int {
    bytes.withUnsafeBytes { ring.append($0, limit: limit) }
  }

  @Test("Lent bytes count as all others, are dropped from the front, and what is left of them is copied at the end")
  func lending() {
    var ring = ByteRing()
    #expect(append([1, 2, 3], to: &ring) == 3)
    var memory: [UInt8] = [4, 5, 6, 7, 8]
    memory.withUnsafeMutableBytes { lent in
      let first = ring.lend(UnsafeRawBufferPointer(lent), limit: 7)
      let second = ring.lend(UnsafeRawBufferPointer(lent), limit: 100)
      #expect(first == 4 && second == 0, "one loan at a time")
      #expect(ring.count == 7 && ring.lentCount == 4)
      #expect(
        read(ring, 0, 7) == [1, 2, 3, 4, 5, 6, 7] && read(ring, 2, 2) == [3, 4] && read(ring, 4, 3) == [5, 6, 7])
      ring.drop(5)
      #expect(ring.lentCount == 2 && read(ring, 0, 2) == [6, 7])
      ring.pin()
      var isSettled = ring.settle()
      #expect(!isSettled && ring.lentCount == 2, "a frame still points there")
      ring.unpin()
      isSettled = ring.settle()
      #expect(isSettled)
      for i in lent.indices { lent[i] = 0 }
    }
    #expect(!ring.isLent && read(ring, 0, 2) == [6, 7])
    #expect(append([9], to: &ring) == 1 && read(ring, 0, 3) == [6, 7, 9])
  }

  @Test("A loan's place is taken by a copy that is made meanwhile; what was acknowledged by then is passed over")
  func takingOver() throws {
    for dropped in [0, 1, 2, 4, 7] {
      var ring = ByteRing()
      // Somewhere in the middle, so that the copy goes round the end.
      #expect(append([UInt8](repeating: 0, count: 4094), to: &ring) == 4094)
      #expect(append([1], to: &ring) == 1)
      ring.drop(4094)
      #expect(append([2], to: &ring) == 1)
      let memory: [UInt8] = [3, 4, 5, 6, 7]
      try memory.withUnsafeBytes { lent in
        #expect(ring.lend(lent, limit: 100) == 5)
        let room = ring.reserveForLoan()
        let (first, second) = try #require(room)
        #expect(first.count + second.count == 5)
        let another = ring.reserveForLoan()
        #expect(another == nil, "one copy at a time")
        ring.drop(dropped)
        ring.releaseMemory()
        for (i, byte) in [30, 40, 50, 60, 70].enumerated() {
          if i < first.count { first[i] = UInt8(byte) } else { second[i - first.count] = UInt8(byte) }
        }
        ring.takeOver()
        let isSettled = ring.settle()
        #expect(isSettled)
      }
      #expect(!ring.isLent && !ring.isPinned)
      #expect(read(ring, 0, 7 - dropped) == Array([1, 2, 30, 40, 50, 60, 70][dropped...]))
      #expect(append([8, 9], to: &ring) == 2)
      #expect(read(ring, 0, 9 - dropped) == Array([1, 2, 30, 40, 50, 60, 70, 8, 9][dropped...]))
    }
  }

  @Test(
    "A loan lasts until it is settled, also when all of it is acknowledged: nobody writes where its copy is being made")
  func loanIsOpen() throws {
    var ring = ByteRing()
    let memory: [UInt8] = [1, 2, 3]
    memory.withUnsafeBytes { lent in
      _ = ring.lend(lent, limit: 100)
      let room = ring.reserveForLoan()
      #expect(room != nil)
      ring.drop(3)
      let another = ring.lend(lent, limit: 100)
      #expect(ring.isLent && another == 0 && ring.lentCount == 0)
      ring.takeOver()
      #expect(ring.isLent && ring.count == 0)
      let isSettled = ring.settle()
      #expect(isSettled && !ring.isLent)
    }
    #expect(append([9], to: &ring) == 1 && read(ring, 0, 1) == [9])
  }

  @Test("Bytes come out as they went in; the limit holds")
  func limit() {
    var ring = ByteRing()
    #expect(append([1, 2, 3, 4, 5], to: &ring, limit: 3) == 3)
    #expect(append([6], to: &ring, limit: 3) == 0)
    #expect(read(ring, 0, 3) == [1, 2, 3] && read(ring, 1, 1) == [2] && read(ring, 0, 0) == [])
    ring.drop(2)
    #expect(ring.count == 1)
    #expect(append([7, 8, 9], to: &ring, limit: 3) == 2)
    #expect(read(ring, 0, 3) == [3, 7, 8])
    #expect(append([], to: &ring, limit: 100) == 0)
  }

  @Test("Memory of an empty ring can be given back, and the ring used again")
  func release() {
    var ring = ByteRing()
    _ = append([UInt8](repeating: 1, count: 10_000), to: &ring)
    ring.releaseMemory()
    #expect(ring.count == 10_000 && ring.memory >= 10_000, "not while it holds bytes")
    ring.drop(10_000)
    ring.releaseMemory()
    #expect(ring.memory == 0)
    #expect(append([5], to: &ring) == 1)
    #expect(read(ring, 0, 1) == [5])
  }

  /// A slice that a frame on its way to the device points to, and what it must read until the frame is gone.
  private struct Pin {
    var slices: (UnsafeRawBufferPointer, UnsafeRawBufferPointer, UnsafeRawBufferPointer)
    var expected: [UInt8]
    var isIntact: Bool { Array(slices.0) + Array(slices.1) + Array(slices.2) == expected }
  }

  @Test("Against a model, with pinned slices that must stay intact whatever happens meanwhile", arguments: 0..<50)
  func model(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var ring = ByteRing()
    var model: [UInt8] = []
    var pins: [Pin] = []
    let limit = 1 << (10 + random.below(5))
    for step in 0..<400 {
      switch random.below(5) {
      case 0, 1:
        let bytes = (0..<random.below(limit / 3)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
        let n = append(bytes, to: &ring, limit: limit)
        // While pinned a ring may take less than fits, never more.
        if pins.isEmpty { #expect(n == min(bytes.count, limit - model.count)) }
        #expect(n <= min(bytes.count, max(0, limit - model.count)))
        model += bytes[..<n]
      case 2:
        let n = random.below(model.count + 1)
        ring.drop(n)
        model.removeFirst(n)
      case 3 where !model.isEmpty:
        let offset = random.below(model.count)
        let length = 1 + random.below(min(model.count - offset, 1460))
        ring.pin()
        pins.append(
          Pin(
            slices: ring.slices(at: offset, length: length), expected: Array(model[offset..<offset + length])))
      default:
        if !pins.isEmpty {
          let pin = pins.remove(at: random.below(pins.count))
          #expect(pin.isIntact)
          ring.unpin()
        } else if model.isEmpty {
          ring.releaseMemory()
        }
      }
      #expect(ring.count == model.count && ring.isPinned == !pins.isEmpty)
      guard read(ring, 0, model.count) == model else {
        Issue.record("seed \(seed) step \(step): the ring differs from the model")
        return
      }
      guard pins.allSatisfy(\.isIntact) else {
        Issue.record("seed \(seed) step \(step): a frame in flight was overwritten")
        return
      }
    }
  }
}

// MARK: - Hash and random numbers

@Suite("SipHash-2-4")
struct SipHashTests {
  /// Key 00 01 … 0f as in the paper's appendix A.
  private let key = HashKey(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908)

  @Test("The reference vectors whose messages are whole words: 0, 8, 16, 24, 32, 40, 48 and 56 bytes 00 01 02 …")
  func vectors() {
    // From vectors_sip64 of the reference implementation, read as little-endian words.
    let expected: [UInt64] = [
      0x726f_db47_dd0e_0e31, 0x93f5_f579_9a93_2462, 0x3f2a_cc7f_57c2_9bdb, 0xb8ad_50c6_f649_af94,
      0x7127_512f_72f2_7cce, 0x0e3e_a96b_5304_a7d0, 0xe612_a3cb_9ecb_a951, 0xb78d_bfaf_3a8d_83bd,
    ]
    for (words, hash) in expected.enumerated() {
      var sip = SipHash(key)
      for w in 0..<words {
        var word: UInt64 = 0
        for b in 0..<8 { word |= UInt64(w * 8 + b) << UInt64(8 * b) }
        sip.add(word)
      }
      #expect(sip.finish() == hash, "\(words * 8) bytes")
    }
  }

  @Test("Another key or another message gives another hash")
  func differs() {
    func hash(_ key: HashKey, _ words: [UInt64]) -> UInt64 {
      var sip = SipHash(key)
      for word in words { sip.add(word) }
      return sip.finish()
    }
    let one = hash(key, [1, 2])
    #expect(one == hash(key, [1, 2]))
    #expect(
      Set([one, hash(HashKey(0, 1), [1, 2]), hash(key, [2, 1]), hash(key, [1]), hash(key, [1, 2, 0])]).count == 5)
  }
}

@Suite("Seeded random numbers")
struct SeededRandomTests {
  @Test("The same seed gives the same numbers, another seed others")
  func reproducible() {
    var a = SeededRandom(seed: 42)
    var b = SeededRandom(seed: 42)
    var c = SeededRandom(seed: 43)
    var same = 0
    for _ in 0..<1000 {
      let x = a.next()
      #expect(x == b.next())
      if x == c.next() { same += 1 }
    }
    #expect(same == 0)
  }

  @Test("below(n) stays below n and reaches every value evenly", arguments: [1, 2, 3, 10, 1000])
  func below(bound: Int) {
    var random = SeededRandom(seed: 7)
    var counts = [Int](repeating: 0, count: bound)
    for _ in 0..<bound * 1000 { counts[random.below(bound)] += 1 }
    #expect(counts.allSatisfy { (800...1200).contains($0) })
    let large = random.below(1 << 31)
    #expect(large >= 0 && large < 1 << 31)
  }
}

@Suite("Time")
struct InstantTests {
  @Test("Intervals convert and add up")
  func arithmetic() {
    let start = Instant(nanoseconds: 1_500_000_000)
    let later = start + .milliseconds(250)
    #expect(later - start == .milliseconds(250) && (later - start).milliseconds == 250)
    #expect(later - .milliseconds(250) == start && start < later)
    #expect(start.milliseconds == 1500)
    #expect(Interval.seconds(2) == .milliseconds(2000) && Interval.milliseconds(3) == .microseconds(3000))
    #expect(Interval.seconds(1) * 3 / 2 == .milliseconds(1500))
    #expect(Interval.seconds(1) - .milliseconds(1) + .microseconds(5) == .microseconds(999_005))
    #expect((start - later).microseconds == -250_000)
  }
}
