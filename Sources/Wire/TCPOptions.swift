// Owns: TCP options, parsed into a value and written from one.
// Read first: RFC 9293 §3.2 (format, MSS), RFC 7323 §2.2 (window scale), §3.2 (timestamps), RFC 2018 §2–3 (SACK).

/// A SACK block: left edge, and the byte after the right edge (RFC 2018 §3).
package struct SACKBlock: Equatable, Sendable {
  package var start: SequenceNumber
  package var end: SequenceNumber
  @inline(__always)
  package init(start: SequenceNumber, end: SequenceNumber) {
    self.start = start
    self.end = end
  }
  package static var empty: SACKBlock { SACKBlock(start: SequenceNumber(0), end: SequenceNumber(0)) }
}

/// Up to four SACK blocks, as many as fit in a header.
package struct SACKBlocks: Sendable {
  package static let capacity = 4
  package var count: Int
  private var blocks: InlineArray<4, SACKBlock>

  @inline(__always)
  package init() {
    count = 0
    blocks = InlineArray(repeating: .empty)
  }

  @inline(__always)
  package subscript(_ index: Int) -> SACKBlock {
    get { blocks[index] }
    set { blocks[index] = newValue }
  }

  /// Ignored when full.
  @inline(__always)
  package mutating func append(_ block: SACKBlock) {
    guard count < Self.capacity else { return }
    blocks[count] = block
    count &+= 1
  }
}

package struct TCPOptions: Sendable {
  /// MSS option, bytes; nil where absent.
  package var maximumSegmentSize: UInt16?
  /// Shift count, 0…14 (larger ones are read as 14: RFC 7323 §2.3); nil where absent.
  package var windowScale: UInt8?
  package var sackPermitted = false
  package var hasTimestamp = false
  /// TSval
  package var timestampValue: UInt32 = 0
  /// TSecr
  package var timestampEcho: UInt32 = 0
  package var sack = SACKBlocks()

  @inline(__always)
  package init() {}

  private enum Kind {
    static let end: UInt8 = 0
    static let noOperation: UInt8 = 1
    static let maximumSegmentSize: UInt8 = 2
    static let windowScale: UInt8 = 3
    static let sackPermitted: UInt8 = 4
    static let sack: UInt8 = 5
    static let timestamps: UInt8 = 8
  }

  /// NOP NOP Timestamps(10): the layout of RFC 7323 appendix A that every segment of a connection with timestamps has.
  private static let alignedTimestamp: UInt32 = 0x0101_080a

  /// Parses the option bytes after the fixed header. A malformed option ends the parse; what came before it counts, as
  /// in Linux.
  @inline(__always)
  package init(parsing bytes: UnsafeRawBufferPointer) {
    self.init()
    guard let base = bytes.baseAddress, bytes.count > 0 else { return }
    if bytes.count == 12, base.bigEndian32(at: 0) == Self.alignedTimestamp {
      hasTimestamp = true
      timestampValue = base.bigEndian32(at: 4)
      timestampEcho = base.bigEndian32(at: 8)
      return
    }
    parseSlowly(base, bytes.count)
  }

  @inline(never)
  private mutating func parseSlowly(_ base: UnsafeRawPointer, _ count: Int) {
    var offset = 0
    while offset < count {
      let kind = base.byte(at: offset)
      if kind == Kind.end { return }
      if kind == Kind.noOperation {
        offset += 1
        continue
      }
      guard offset + 1 < count else { return }
      let length = Int(base.byte(at: offset + 1))
      guard length >= 2, offset + length <= count else { return }
      switch (kind, length) {
      case (Kind.maximumSegmentSize, 4): maximumSegmentSize = base.bigEndian16(at: offset + 2)
      case (Kind.windowScale, 3): windowScale = min(base.byte(at: offset + 2), 14)
      case (Kind.sackPermitted, 2): sackPermitted = true
      case (Kind.timestamps, 10):
        hasTimestamp = true
        timestampValue = base.bigEndian32(at: offset + 2)
        timestampEcho = base.bigEndian32(at: offset + 6)
      case (Kind.sack, 10), (Kind.sack, 18), (Kind.sack, 26), (Kind.sack, 34):
        var at = offset + 2
        while at < offset + length {
          sack.append(
            SACKBlock(
              start: SequenceNumber(base.bigEndian32(at: at)), end: SequenceNumber(base.bigEndian32(at: at + 4))))
          at += 8
        }
      default: break
      }
      offset += length
    }
  }

  /// Bytes that `write(to:)` needs: a multiple of four, at most 40.
  @inline(__always)
  package var encodedLength: Int {
    var length = 0
    if maximumSegmentSize != nil { length &+= 4 }
    if hasTimestamp { length &+= 12 } else if sackPermitted { length &+= 4 }
    if windowScale != nil { length &+= 4 }
    if sack.count > 0 { length &+= 4 &+ 8 &* sack.count }
    return length
  }

  /// Writes the options in Linux's order: MSS, SACK-permitted with timestamps, window scale, SACK; padded with NOPs.
  @inline(__always)
  package func write(to base: UnsafeMutableRawPointer) {
    var at = 0
    if let mss = maximumSegmentSize {
      base.storeBigEndian32(0x0204_0000 | UInt32(mss), at: at)
      at &+= 4
    }
    if hasTimestamp {
      base.storeBigEndian32(sackPermitted ? 0x0402_080a : Self.alignedTimestamp, at: at)
      base.storeBigEndian32(timestampValue, at: at &+ 4)
      base.storeBigEndian32(timestampEcho, at: at &+ 8)
      at &+= 12
    } else if sackPermitted {
      base.storeBigEndian32(0x0101_0402, at: at)
      at &+= 4
    }
    if let shift = windowScale {
      base.storeBigEndian32(0x0103_0300 | UInt32(shift), at: at)
      at &+= 4
    }
    if sack.count > 0 {
      base.storeBigEndian32(0x0101_0500 | UInt32(truncatingIfNeeded: 2 &+ 8 &* sack.count), at: at)
      at &+= 4
      var index = 0
      while index < sack.count {
        base.storeBigEndian32(sack[index].start.value, at: at)
        base.storeBigEndian32(sack[index].end.value, at: at &+ 4)
        at &+= 8
        index &+= 1
      }
    }
  }
}
