// The TCP header, its options, and sequence numbers.

import Testing

@testable import Wire

@Suite("TCP header")
struct TCPHeaderTests {
  private let header = TCPHeader(
    sourcePort: 40000, destinationPort: 80, sequence: SequenceNumber(0xdead_beef),
    acknowledgment: SequenceNumber(0x0102_0304), headerLength: 32, flags: [.ack, .psh], window: 502,
    urgentPointer: 7)

  @Test("RFC 9293 §3.1: the bytes of a header, and back")
  func roundTrip() {
    var bytes = [UInt8](repeating: 0xa5, count: 32)
    bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
    #expect(
      Array(bytes[..<20]) == [
        0x9c, 0x40, 0, 80, 0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 0x80, 0x18, 0x01, 0xf6, 0, 0, 0, 7,
      ])
    #expect(bytes[20...].allSatisfy { $0 == 0xa5 }, "options are not its own")
    let read = bytes.withUnsafeBytes { TCPHeader($0) }
    #expect(read?.sourcePort == 40000 && read?.destinationPort == 80)
    #expect(read?.sequence == header.sequence && read?.acknowledgment == header.acknowledgment)
    #expect(read?.headerLength == 32 && read?.flags == [.ack, .psh] && read?.window == 502)
    #expect(read?.urgentPointer == 7)
  }

  @Test("RFC 9293 §3.1: refused where the bytes do not hold the header that the data offset promises")
  func truncation() {
    for words in 0...15 {
      var bytes = [UInt8](repeating: 0, count: 60)
      bytes.withUnsafeMutableBytes { header.write(to: $0.baseAddress!) }
      bytes[12] = UInt8(words << 4)
      for length in 0...60 {
        // Memory of exactly this size, for AddressSanitizer.
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, length), alignment: 1)
        defer { memory.deallocate() }
        memory.copyBytes(from: bytes[..<length])
        let read = TCPHeader(UnsafeRawBufferPointer(rebasing: memory[..<length]))
        #expect((read != nil) == (words >= 5 && length >= words * 4 && length >= 20))
      }
    }
  }

  @Test("RFC 9293 §3.1: each control bit is where it belongs")
  func flags() {
    let bits: [(TCPFlags, UInt8)] = [
      (.fin, 1), (.syn, 2), (.rst, 4), (.psh, 8), (.ack, 16), (.urg, 32), (.ece, 64), (.cwr, 128),
    ]
    for (flag, bit) in bits { #expect(flag.rawValue == bit) }
  }
}

@Suite("TCP options")
struct TCPOptionsTests {
  private func parse(_ bytes: [UInt8]) -> TCPOptions {
    // Memory of exactly this size, for AddressSanitizer.
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 1)
    defer { memory.deallocate() }
    memory.copyBytes(from: bytes)
    return TCPOptions(parsing: UnsafeRawBufferPointer(rebasing: memory[..<bytes.count]))
  }

  private func write(_ options: TCPOptions) -> [UInt8] {
    var bytes = [UInt8](repeating: 0xa5, count: options.encodedLength + 4)
    bytes.withUnsafeMutableBytes { options.write(to: $0.baseAddress!) }
    #expect(bytes.suffix(4).allSatisfy { $0 == 0xa5 }, "wrote beyond its length")
    return bytes.dropLast(4)
  }

  private func equal(_ a: TCPOptions, _ b: TCPOptions) -> Bool {
    guard a.maximumSegmentSize == b.maximumSegmentSize, a.windowScale == b.windowScale,
      a.sackPermitted == b.sackPermitted, a.hasTimestamp == b.hasTimestamp, a.timestampValue == b.timestampValue,
      a.timestampEcho == b.timestampEcho, a.sack.count == b.sack.count
    else { return false }
    for i in 0..<a.sack.count where a.sack[i] != b.sack[i] { return false }
    return true
  }

  @Test("A SYN's options as Linux sends them")
  func linuxSYN() {
    let bytes: [UInt8] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]
    let options = parse(bytes)
    #expect(options.maximumSegmentSize == 1460 && options.sackPermitted && options.windowScale == 7)
    #expect(options.hasTimestamp && options.timestampValue == 1 && options.timestampEcho == 0)
    #expect(write(options) == bytes)
  }

  @Test("RFC 7323 appendix A: timestamps alone, in the layout of the fast path and in others")
  func timestamps() {
    let layouts: [[UInt8]] = [
      [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], [8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0],
      [1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1],
    ]
    for bytes in layouts {
      let options = parse(bytes)
      #expect(options.hasTimestamp && options.timestampValue == 0x0102_0304 && options.timestampEcho == 0x0506_0708)
    }
  }

  @Test("What is written is read back, and fits 40 bytes where the protocol makes it", arguments: 0..<16)
  func roundTrip(bits: Int) {
    var random = TestRandom(UInt64(bits))
    for blocks in 0...4 {
      var options = TCPOptions()
      if bits & 1 != 0 { options.maximumSegmentSize = UInt16(truncatingIfNeeded: random.next()) }
      if bits & 2 != 0 { options.windowScale = UInt8(random.next() % 15) }
      options.sackPermitted = bits & 4 != 0
      if bits & 8 != 0 {
        options.hasTimestamp = true
        options.timestampValue = UInt32(truncatingIfNeeded: random.next())
        options.timestampEcho = UInt32(truncatingIfNeeded: random.next())
      }
      for _ in 0..<blocks {
        options.sack.append(
          SACKBlock(
            start: SequenceNumber(UInt32(truncatingIfNeeded: random.next())),
            end: SequenceNumber(UInt32(truncatingIfNeeded: random.next()))))
      }
      let bytes = write(options)
      #expect(bytes.count == options.encodedLength && bytes.count % 4 == 0)
      let isData = options.maximumSegmentSize == nil && options.windowScale == nil && !options.sackPermitted
      if isData, blocks <= (options.hasTimestamp ? 3 : 4) { #expect(bytes.count <= 40) }
      // The wire has no more than 40 bytes; what is longer nobody sends.
      if bytes.count <= 40 { #expect(equal(parse(bytes), options)) }
    }
  }

  @Test("RFC 2018 §3: one to four SACK blocks, no more")
  func sack() {
    for count in 1...4 {
      var bytes: [UInt8] = [1, 1, 5, UInt8(2 + 8 * count)]
      for i in 0..<count { bytes += [0, 0, UInt8(i), 0, 0, 0, UInt8(i), 9] }
      let options = parse(bytes)
      #expect(options.sack.count == count)
      for i in 0..<count {
        #expect(options.sack[i].start.value == UInt32(i) << 8 && options.sack[i].end.value == UInt32(i) << 8 | 9)
      }
    }
    for length in [0, 1, 2, 9, 11, 17, 19, 33, 35] {
      #expect(parse([5, UInt8(length)] + [UInt8](repeating: 0, count: max(0, length - 2))).sack.count == 0)
    }
    var blocks = SACKBlocks()
    for i in 0..<9 { blocks.append(SACKBlock(start: SequenceNumber(UInt32(i)), end: SequenceNumber(0))) }
    #expect(blocks.count == 4 && blocks[3].start.value == 3)
  }

  @Test("RFC 7323 §2.3: a shift above 14 is read as 14")
  func shift() {
    #expect(parse([3, 3, 14]).windowScale == 14)
    #expect(parse([3, 3, 15]).windowScale == 14)
    #expect(parse([3, 3, 255]).windowScale == 14)
  }

  @Test("RFC 9293 §3.2: unknown options are skipped, the end of the list ends it")
  func unknown() {
    #expect(parse([254, 4, 0, 0, 2, 4, 5, 0xb4]).maximumSegmentSize == 1460)
    #expect(parse([1, 0, 2, 4, 5, 0xb4]).maximumSegmentSize == nil)
    #expect(parse([2, 3, 5, 2, 4, 5, 0xb4]).maximumSegmentSize == 1460, "an MSS of the wrong length is none")
  }

  @Test("A malformed option ends the list; what stood before it counts")
  func malformed() {
    let mss: [UInt8] = [2, 4, 5, 0xb4]
    for bad: [UInt8] in [[8], [8, 0], [8, 1], [8, 10, 1], [254, 40], [3], [5, 255]] {
      let options = parse(mss + bad)
      #expect(options.maximumSegmentSize == 1460)
      #expect(!options.hasTimestamp && options.windowScale == nil && options.sack.count == 0)
    }
    for bad: [UInt8] in [[8, 0], [8, 1], [254, 40], [5, 255]] {
      #expect(parse(bad + mss).maximumSegmentSize == nil)
    }
  }

  @Test("Truncation at every length and random bytes never read beyond the end", arguments: 0..<50)
  func fuzz(seed: UInt64) {
    var random = TestRandom(seed)
    let kinds: [UInt8] = [0, 1, 2, 3, 4, 5, 8, 30, 254]
    let lengths: [UInt8] = [0, 1, 2, 3, 4, 10, 18, 26, 34, 255]
    for _ in 0..<300 {
      var bytes: [UInt8] = []
      while bytes.count < 40 {
        bytes.append(kinds[Int(random.next() % 9)])
        bytes.append(
          random.next() % 3 == 0 ? UInt8(truncatingIfNeeded: random.next()) : lengths[Int(random.next() % 10)])
        bytes += random.bytes(Int(random.next() % 9))
      }
      for length in [0, Int(random.next() % 40), 40] {
        let options = parse(Array(bytes[..<length]))
        if options.sack.count > 4 || (options.windowScale ?? 0) > 14 { Issue.record("\(bytes[..<length])") }
      }
    }
  }
}

@Suite("Sequence numbers")
struct SequenceNumberTests {
  private func s(_ value: UInt32) -> SequenceNumber { SequenceNumber(value) }

  @Test("RFC 9293 §3.4: comparison is modulo 2^32")
  func comparison() {
    for base: UInt32 in [0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff] {
      for distance: UInt32 in [1, 2, 1460, 0x7fff_ffff] {
        let a = s(base)
        let b = s(base &+ distance)
        #expect(a < b && b > a && a <= b && b >= a)
        #expect(!(b < a) && !(b <= a) && !(a > b) && !(a >= b))
        #expect(b - a == Int(distance) && a - b == -Int(distance))
        #expect(a + Int(distance) == b && b + -Int(distance) == a)
        #expect(SequenceNumber.max(a, b) == b && SequenceNumber.min(a, b) == a)
        #expect(SequenceNumber.max(b, a) == b && SequenceNumber.min(b, a) == a)
      }
      #expect(s(base) <= s(base) && s(base) >= s(base) && !(s(base) < s(base)) && s(base) - s(base) == 0)
    }
  }

  @Test("RFC 9293 §3.4: adding wraps around")
  func addition() {
    #expect(s(0xffff_ffff) + 1 == s(0))
    #expect(s(0) + -1 == s(0xffff_ffff))
    var a = s(0xffff_fff0)
    a += 0x20
    #expect(a == s(0x10))
  }
}
