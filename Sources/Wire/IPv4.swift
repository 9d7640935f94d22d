// Owns: the IPv4 header as bytes. Read first: RFC 791 §3.1, RFC 1122 §3.2.1.

package enum IPProtocol {
  package static let icmp: UInt8 = 1
  package static let igmp: UInt8 = 2
  package static let tcp: UInt8 = 6
  package static let udp: UInt8 = 17
  package static let icmpv6: UInt8 = 58
  /// IPPROTO_RAW: a raw socket that only sends, with headers of its own.
  package static let raw: UInt8 = 255
}

package struct IPv4Header {
  package static let minimumLength = 20
  package static let flagDontFragment: UInt16 = 0x4000
  package static let flagMoreFragments: UInt16 = 0x2000

  /// Header length with options, bytes (20…60).
  package var headerLength: Int
  package var typeOfService: UInt8
  /// Header and payload, bytes.
  package var totalLength: Int
  package var identification: UInt16
  /// DF and MF, as they stand in the 16-bit field.
  package var flags: UInt16
  /// Offset of this fragment's payload in the datagram, bytes (a multiple of eight).
  package var fragmentOffset: Int
  package var timeToLive: UInt8
  package var proto: UInt8
  package var source: IPv4Address
  package var destination: IPv4Address

  package init(
    proto: UInt8, source: IPv4Address, destination: IPv4Address, payloadLength: Int, typeOfService: UInt8 = 0,
    identification: UInt16 = 0, flags: UInt16 = 0, fragmentOffset: Int = 0, timeToLive: UInt8 = 64
  ) {
    headerLength = Self.minimumLength
    self.typeOfService = typeOfService
    totalLength = Self.minimumLength + payloadLength
    self.identification = identification
    self.flags = flags
    self.fragmentOffset = fragmentOffset
    self.timeToLive = timeToLive
    self.proto = proto
    self.source = source
    self.destination = destination
  }

  package enum Invalid { case truncated, version, headerLength, totalLength, checksum }

  /// Checks what RFC 1122 §3.2.1 asks: length, version, IHL, total length, header checksum.
  @inline(__always)
  package static func parse(_ bytes: UnsafeRawBufferPointer, length: Int) -> (header: IPv4Header?, invalid: Invalid) {
    guard bytes.count >= minimumLength, let base = bytes.baseAddress else { return (nil, .truncated) }
    let first = base.byte(at: 0)
    guard first >> 4 == 4 else { return (nil, .version) }
    let headerLength = Int(first & 0xf) &* 4
    guard headerLength >= minimumLength, headerLength <= bytes.count else { return (nil, .headerLength) }
    let totalLength = Int(base.bigEndian16(at: 2))
    guard totalLength >= headerLength, totalLength <= length else { return (nil, .totalLength) }
    guard Checksum.fold(Checksum.sum(UnsafeRawBufferPointer(start: base, count: headerLength))) == 0xffff else {
      return (nil, .checksum)
    }
    return (IPv4Header(decoding: base, headerLength: headerLength, totalLength: totalLength), .truncated)
  }

  /// Reads the fields with no check: for headers quoted in ICMP errors. nil where fewer than 20 bytes are there.
  package init?(quoted bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.minimumLength, let base = bytes.baseAddress, base.byte(at: 0) >> 4 == 4 else {
      return nil
    }
    let headerLength = Int(base.byte(at: 0) & 0xf) &* 4
    guard headerLength >= Self.minimumLength, headerLength <= bytes.count else { return nil }
    self.init(decoding: base, headerLength: headerLength, totalLength: Int(base.bigEndian16(at: 2)))
  }

  @inline(__always)
  private init(decoding base: UnsafeRawPointer, headerLength: Int, totalLength: Int) {
    self.headerLength = headerLength
    self.totalLength = totalLength
    typeOfService = base.byte(at: 1)
    identification = base.bigEndian16(at: 4)
    let fragment = base.bigEndian16(at: 6)
    flags = fragment & 0xe000
    fragmentOffset = Int(fragment & 0x1fff) &* 8
    timeToLive = base.byte(at: 8)
    proto = base.byte(at: 9)
    source = IPv4Address(bits: base.bigEndian32(at: 12))
    destination = IPv4Address(bits: base.bigEndian32(at: 16))
  }

  /// True for any piece of a fragmented datagram.
  @inline(__always)
  package var isFragment: Bool { fragmentOffset != 0 || flags & Self.flagMoreFragments != 0 }

  /// Writes a 20-byte header with its checksum. A length that the field cannot hold, a super-frame's, becomes 0, as in Linux.
  @inline(__always)
  package func write(to base: UnsafeMutableRawPointer) {
    base.storeByte(0x45, at: 0)
    base.storeByte(typeOfService, at: 1)
    base.storeBigEndian16(totalLength > 65535 ? 0 : UInt16(truncatingIfNeeded: totalLength), at: 2)
    base.storeBigEndian16(identification, at: 4)
    base.storeBigEndian16(flags | UInt16(truncatingIfNeeded: fragmentOffset >> 3), at: 6)
    base.storeByte(timeToLive, at: 8)
    base.storeByte(proto, at: 9)
    base.storeBigEndian16(0, at: 10)
    base.storeBigEndian32(source.bits, at: 12)
    base.storeBigEndian32(destination.bits, at: 16)
    let sum = Checksum.sum(UnsafeRawBufferPointer(start: base, count: Self.minimumLength))
    base.storeBigEndian16(~Checksum.fold(sum), at: 10)
  }
}
