// Owns: the TCP header and its options as bytes. Read first: RFC 9293 §3.1–3.2, RFC 7323 §2–3, RFC 2018 §2–3.

/// Control bits (RFC 9293 §3.1).
package struct TCPFlags: OptionSet, Sendable {
  package let rawValue: UInt8
  @inline(__always)
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  package static var fin: TCPFlags { TCPFlags(rawValue: 0x01) }
  package static var syn: TCPFlags { TCPFlags(rawValue: 0x02) }
  package static var rst: TCPFlags { TCPFlags(rawValue: 0x04) }
  package static var psh: TCPFlags { TCPFlags(rawValue: 0x08) }
  package static var ack: TCPFlags { TCPFlags(rawValue: 0x10) }
  package static var urg: TCPFlags { TCPFlags(rawValue: 0x20) }
  package static var ece: TCPFlags { TCPFlags(rawValue: 0x40) }
  package static var cwr: TCPFlags { TCPFlags(rawValue: 0x80) }
}

package struct TCPHeader {
  package static let minimumLength = 20
  package static let maximumLength = 60
  package static let checksumOffset = 16

  package var sourcePort: UInt16
  package var destinationPort: UInt16
  /// SEG.SEQ
  package var sequence: SequenceNumber
  /// SEG.ACK; meaningful where `flags` has ACK.
  package var acknowledgment: SequenceNumber
  /// Header with options, bytes (20…60).
  package var headerLength: Int
  package var flags: TCPFlags
  /// SEG.WND as it stands in the header: unscaled.
  package var window: UInt16
  package var urgentPointer: UInt16

  @inline(__always)
  package init(
    sourcePort: UInt16, destinationPort: UInt16, sequence: SequenceNumber, acknowledgment: SequenceNumber,
    headerLength: Int, flags: TCPFlags, window: UInt16, urgentPointer: UInt16 = 0
  ) {
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
    self.sequence = sequence
    self.acknowledgment = acknowledgment
    self.headerLength = headerLength
    self.flags = flags
    self.window = window
    self.urgentPointer = urgentPointer
  }

  /// nil where the header does not fit in `bytes` or its data offset is below five words.
  @inline(__always)
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.minimumLength, let base = bytes.baseAddress else { return nil }
    headerLength = Int(base.byte(at: 12) >> 4) &* 4
    guard headerLength >= Self.minimumLength, headerLength <= bytes.count else { return nil }
    sourcePort = base.bigEndian16(at: 0)
    destinationPort = base.bigEndian16(at: 2)
    sequence = SequenceNumber(base.bigEndian32(at: 4))
    acknowledgment = SequenceNumber(base.bigEndian32(at: 8))
    flags = TCPFlags(rawValue: base.byte(at: 13))
    window = base.bigEndian16(at: 14)
    urgentPointer = base.bigEndian16(at: 18)
  }

  /// Writes the 20 fixed bytes, the checksum as zero. Options follow at 20.
  @inline(__always)
  package func write(to base: UnsafeMutableRawPointer) {
    base.storeBigEndian16(sourcePort, at: 0)
    base.storeBigEndian16(destinationPort, at: 2)
    base.storeBigEndian32(sequence.value, at: 4)
    base.storeBigEndian32(acknowledgment.value, at: 8)
    base.storeByte(UInt8(truncatingIfNeeded: headerLength << 2), at: 12)
    base.storeByte(flags.rawValue, at: 13)
    base.storeBigEndian16(window, at: 14)
    base.storeBigEndian16(0, at: 16)
    base.storeBigEndian16(urgentPointer, at: 18)
  }
}
