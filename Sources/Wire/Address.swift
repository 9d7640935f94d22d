// Owns: the addresses that appear in packets: link-layer (48-bit MAC), IPv4, and the address type that the rest of
// the stack uses for both IP families. Read first: RFC 4291 §2.5.5.2 (IPv4-mapped IPv6 addresses), RFC 1122 §3.2.1.3.

/// An Ethernet address, kept in the low 48 bits, first octet on the wire most significant.
package struct MACAddress: Equatable, Sendable {
  package var bits: UInt64

  @inline(__always)
  package init(bits: UInt64) { self.bits = bits & 0xffff_ffff_ffff }

  @inline(__always)
  package init(reading bytes: UnsafeRawPointer, at offset: Int) {
    bits = UInt64(bytes.bigEndian32(at: offset)) << 16 | UInt64(bytes.bigEndian16(at: offset + 4))
  }

  @inline(__always)
  package func write(to bytes: UnsafeMutableRawPointer, at offset: Int) {
    bytes.storeBigEndian32(UInt32(truncatingIfNeeded: bits >> 16), at: offset)
    bytes.storeBigEndian16(UInt16(truncatingIfNeeded: bits), at: offset + 4)
  }

  /// The hardware address of an IP multicast group (RFC 1112 §6.4, RFC 2464 §7).
  package init(group: IPAddress) {
    bits =
      group.isIPv4
      ? 0x0100_5e00_0000 | UInt64(group.v4.bits & 0x7f_ffff) : 0x3333_0000_0000 | group.low & 0xffff_ffff
  }

  package static var broadcast: MACAddress { MACAddress(bits: 0xffff_ffff_ffff) }
  package static var zero: MACAddress { MACAddress(bits: 0) }
  /// Group bit (IEEE 802.3 §3.2.3): set for multicast and broadcast.
  package var isGroup: Bool { bits >> 40 & 1 == 1 }
}

/// An IPv4 address in host byte order: 198.18.0.4 is 0xC612_0004.
package struct IPv4Address: Equatable, Sendable {
  package var bits: UInt32

  @inline(__always)
  package init(bits: UInt32) { self.bits = bits }

  @inline(__always)
  package init(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) {
    bits = UInt32(a) << 24 | UInt32(b) << 16 | UInt32(c) << 8 | UInt32(d)
  }

  package static var any: IPv4Address { IPv4Address(bits: 0) }
  package static var limitedBroadcast: IPv4Address { IPv4Address(bits: 0xffff_ffff) }
  package var isLoopback: Bool { bits >> 24 == 127 }
  package var isMulticast: Bool { bits >> 28 == 0xe }
}

/// An address of either IP family. IPv4 is held in its IPv4-mapped form ::ffff:a.b.c.d (RFC 4291 §2.5.5.2), so that
/// one 16-byte value is compared and hashed for both. Host byte order: `high` holds the first eight octets.
package struct IPAddress: Equatable, Sendable {
  package var high: UInt64
  package var low: UInt64

  @inline(__always)
  package init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  @inline(__always)
  package init(_ v4: IPv4Address) {
    high = 0
    low = 0xffff_0000_0000 | UInt64(v4.bits)
  }

  @inline(__always)
  package init(reading16 bytes: UnsafeRawPointer, at offset: Int) {
    high = bytes.bigEndian64(at: offset)
    low = bytes.bigEndian64(at: offset + 8)
  }

  package static var anyIPv4: IPAddress { IPAddress(IPv4Address.any) }
  package static var anyIPv6: IPAddress { IPAddress(high: 0, low: 0) }

  @inline(__always)
  package var isIPv4: Bool { high == 0 && low >> 32 == 0xffff }
  /// The IPv4 address; meaningful only where `isIPv4`.
  @inline(__always)
  package var v4: IPv4Address { IPv4Address(bits: UInt32(truncatingIfNeeded: low)) }
  /// 0.0.0.0 or ::.
  @inline(__always)
  package var isUnspecified: Bool { high == 0 && (low == 0 || low == 0xffff_0000_0000) }
  package var isLoopback: Bool { isIPv4 ? v4.isLoopback : high == 0 && low == 1 }
  package var isMulticast: Bool { isIPv4 ? v4.isMulticast : high >> 56 == 0xff }
  /// fe80::/10 (RFC 4291 §2.5.6), 169.254.0.0/16 (RFC 3927).
  package var isLinkLocal: Bool { isIPv4 ? v4.bits >> 16 == 0xa9fe : high >> 54 == 0xfe80 >> 6 }
  /// ff02::/16 and the other scopes that do not leave the link (RFC 4291 §2.7); 224.0.0.0/24.
  package var isLinkMulticast: Bool { isIPv4 ? v4.bits >> 8 == 0xe00000 : high >> 56 == 0xff && high >> 48 & 0xf <= 2 }

  /// An IPv6 address that one node on a link may have: no IPv4 one in its clothes, no group, neither loopback nor none at all.
  package var isLinkUnicast: Bool { !isIPv4 && !isMulticast && !isLoopback && !isUnspecified }

  /// The group in which a node listens for questions after this address (RFC 4291 §2.7.1).
  package var solicitedNode: IPAddress { IPAddress(high: 0xff02 << 48, low: 0x1_ff00_0000 | low & 0xff_ffff) }
  /// ff02::1, ff02::2: all nodes and all routers of the link.
  package static var allNodes: IPAddress { IPAddress(high: 0xff02 << 48, low: 1) }
  package static var allRouters: IPAddress { IPAddress(high: 0xff02 << 48, low: 2) }

  @inline(__always)
  package func write16(to bytes: UnsafeMutableRawPointer, at offset: Int) {
    bytes.storeBigEndian64(high, at: offset)
    bytes.storeBigEndian64(low, at: offset + 8)
  }

  /// The address of `prefix` (of at most 64 bits) whose interface identifier is the modified EUI-64 of `hardware`
  /// (RFC 4291 appendix A).
  package init(prefix: UInt64, hardware: MACAddress) {
    high = prefix
    low = (hardware.bits >> 24 ^ 0x02_0000) << 40 | 0xfffe << 24 | hardware.bits & 0xff_ffff
  }

  /// The first `length` bits (of 128), and zeros behind them.
  package func prefix(_ length: Int) -> IPAddress {
    IPAddress(
      high: high & ~(length >= 64 ? 0 : UInt64.max >> UInt64(length)),
      low: length >= 128 ? low : low & ~(length <= 64 ? UInt64.max : UInt64.max >> UInt64(length - 64)))
  }

  /// How many leading bits are equal, of 128.
  package func commonPrefix(_ other: IPAddress) -> Int {
    let different = high ^ other.high
    return different != 0 ? different.leadingZeroBitCount : 64 + (low ^ other.low).leadingZeroBitCount
  }
}

/// An address and a port (host byte order): one end of a conversation.
package struct Endpoint: Equatable, Sendable {
  package var address: IPAddress
  package var port: UInt16

  @inline(__always)
  package init(_ address: IPAddress, _ port: UInt16) {
    self.address = address
    self.port = port
  }

  package static var none: Endpoint { Endpoint(.anyIPv6, 0) }
}

/// The local and remote ends that identify a connection (RFC 9293 §3.3.1, "socket pair").
package struct FourTuple: Equatable, Sendable {
  package var local: Endpoint
  package var remote: Endpoint

  @inline(__always)
  package init(local: Endpoint, remote: Endpoint) {
    self.local = local
    self.remote = remote
  }
}
