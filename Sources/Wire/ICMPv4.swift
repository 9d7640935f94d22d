// Owns: ICMP for IPv4 as bytes. Read first: RFC 792, RFC 1122 §3.2.2, RFC 1191 §4 (next-hop MTU).

/// Type, code, checksum and a word that each type uses as it likes: the same in ICMPv6 (RFC 4443 §2.1).
package struct ICMPHeader {
  package static let length = 8

  package static let echoReply: UInt8 = 0
  package static let destinationUnreachable: UInt8 = 3
  package static let sourceQuench: UInt8 = 4
  package static let redirect: UInt8 = 5
  package static let echoRequest: UInt8 = 8
  package static let timeExceeded: UInt8 = 11
  package static let parameterProblem: UInt8 = 12

  /// Codes of destinationUnreachable (RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1).
  package enum Unreachable {
    package static let network: UInt8 = 0
    package static let host: UInt8 = 1
    package static let proto: UInt8 = 2
    package static let port: UInt8 = 3
    package static let fragmentationNeeded: UInt8 = 4
    package static let sourceRouteFailed: UInt8 = 5
  }

  package var type: UInt8
  package var code: UInt8
  package var checksum: UInt16
  /// The four bytes after the checksum: identifier and sequence of an echo, next-hop MTU of "fragmentation needed".
  package var rest: UInt32

  package init(type: UInt8, code: UInt8, rest: UInt32) {
    self.type = type
    self.code = code
    checksum = 0
    self.rest = rest
  }

  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress else { return nil }
    type = base.byte(at: 0)
    code = base.byte(at: 1)
    checksum = base.bigEndian16(at: 2)
    rest = base.bigEndian32(at: 4)
  }

  /// Writes the header, the checksum as zero.
  package func write(to base: UnsafeMutableRawPointer) {
    base.storeByte(type, at: 0)
    base.storeByte(code, at: 1)
    base.storeBigEndian16(0, at: 2)
    base.storeBigEndian32(rest, at: 4)
  }
}
