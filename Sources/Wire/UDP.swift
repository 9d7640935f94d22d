// Owns: the UDP header. Read first: RFC 768, RFC 1122 §4.1.3.4 (checksum).

package struct UDPHeader {
  package static let length = 8
  package static let checksumOffset = 6

  package var sourcePort: UInt16
  package var destinationPort: UInt16
  /// Header and data, bytes.
  package var totalLength: Int
  /// As on the wire; 0 = the sender computed none (IPv4 only).
  package var checksum: UInt16

  package init(sourcePort: UInt16, destinationPort: UInt16, totalLength: Int) {
    self.sourcePort = sourcePort
    self.destinationPort = destinationPort
    self.totalLength = totalLength
    checksum = 0
  }

  /// nil where fewer than eight bytes are there or the length field is below eight.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress else { return nil }
    sourcePort = base.bigEndian16(at: 0)
    destinationPort = base.bigEndian16(at: 2)
    totalLength = Int(base.bigEndian16(at: 4))
    checksum = base.bigEndian16(at: 6)
    guard totalLength >= Self.length else { return nil }
  }

  /// Writes the header, the checksum as zero.
  package func write(to base: UnsafeMutableRawPointer) {
    base.storeBigEndian16(sourcePort, at: 0)
    base.storeBigEndian16(destinationPort, at: 2)
    base.storeBigEndian16(UInt16(truncatingIfNeeded: totalLength), at: 4)
    base.storeBigEndian16(0, at: 6)
  }
}
