// Owns: ICMP for IPv6 as bytes, and the messages of neighbour discovery that it carries. Read first: RFC 4443 §2 and §3 (messages),
// RFC 4861 §4 (neighbour discovery), RFC 8106 §5 (DNS servers in router advertisements). The checksum covers a pseudo-header
// (RFC 8200 §8.1) and is the sender's work.

package enum ICMPv6 {
  package static let destinationUnreachable: UInt8 = 1
  package static let packetTooBig: UInt8 = 2
  package static let timeExceeded: UInt8 = 3
  package static let parameterProblem: UInt8 = 4
  package static let echoRequest: UInt8 = 128
  package static let echoReply: UInt8 = 129
  package static let routerSolicitation: UInt8 = 133
  package static let routerAdvertisement: UInt8 = 134
  package static let neighborSolicitation: UInt8 = 135
  package static let neighborAdvertisement: UInt8 = 136
  package static let redirect: UInt8 = 137

  /// Codes of destinationUnreachable (RFC 4443 §3.1).
  package enum Unreachable {
    package static let noRoute: UInt8 = 0
    package static let prohibited: UInt8 = 1
    package static let address: UInt8 = 3
    package static let port: UInt8 = 4
  }

  /// Types below 128 report errors (RFC 4443 §2.1).
  @inline(__always)
  package static func isError(_ type: UInt8) -> Bool { type < 128 }
}

/// The options at the end of a neighbour discovery message (RFC 4861 §4.6), as far as a host needs them.
package struct NDPOptions {
  package struct Prefix {
    package var prefix: IPAddress
    package var length: Int
    /// On-link, autonomous address configuration.
    package var isOnLink: Bool
    package var isAutonomous: Bool
    /// Seconds; 0xffffffff for ever.
    package var validLifetime: UInt32
    package var preferredLifetime: UInt32
  }

  package struct NameServer {
    package var address: IPAddress
    /// Seconds; 0xffffffff for ever, 0: no longer.
    package var lifetime: UInt32
  }

  /// A route beside the default one (RFC 4191 §2.3).
  package struct RouteInformation {
    package var prefix: IPAddress
    package var length: Int
    package var preference: Int
    package var lifetime: UInt32
  }

  package static let sourceLinkLayerAddress: UInt8 = 1
  package static let targetLinkLayerAddress: UInt8 = 2
  package static let nonce: UInt8 = 14
  /// Length of a link-layer address option, bytes.
  package static let linkLayerLength = 8

  package private(set) var sourceHardware: MACAddress?
  package private(set) var targetHardware: MACAddress?
  package private(set) var mtu: Int?
  package private(set) var nonce: UInt64?
  package private(set) var prefixCount = 0
  private var prefixes = InlineArray<8, Prefix?>(repeating: nil)
  package private(set) var nameServerCount = 0
  private var nameServers = InlineArray<8, NameServer?>(repeating: nil)
  package private(set) var routeCount = 0
  private var routes = InlineArray<8, RouteInformation?>(repeating: nil)

  /// What exceeds eight of a kind is left out.
  package func prefix(_ i: Int) -> Prefix? { prefixes[i] }
  package func nameServer(_ i: Int) -> NameServer? { nameServers[i] }
  package func route(_ i: Int) -> RouteInformation? { routes[i] }

  /// nil where an option has no length or does not fit: the whole message is then invalid (RFC 4861 §4.6).
  package init?(_ bytes: UnsafeRawBufferPointer, from start: Int) {
    guard let base = bytes.baseAddress else { return nil }
    var at = start
    while at < bytes.count {
      guard at + 2 <= bytes.count else { return nil }
      let length = 8 * Int(base.byte(at: at + 1))
      guard length > 0, at + length <= bytes.count else { return nil }
      read(base, at, length)
      at += length
    }
  }

  private mutating func read(_ base: UnsafeRawPointer, _ at: Int, _ length: Int) {
    switch base.byte(at: at) {
    case Self.sourceLinkLayerAddress where length == Self.linkLayerLength:
      sourceHardware = MACAddress(reading: base, at: at + 2)
    case Self.targetLinkLayerAddress where length == Self.linkLayerLength:
      targetHardware = MACAddress(reading: base, at: at + 2)
    case 3 where length == 32 && prefixCount < prefixes.count && base.byte(at: at + 2) <= 128:
      let flags = base.byte(at: at + 3)
      prefixes[prefixCount] = Prefix(
        prefix: IPAddress(reading16: base, at: at + 16).prefix(Int(base.byte(at: at + 2))),
        length: Int(base.byte(at: at + 2)),
        isOnLink: flags & 0x80 != 0, isAutonomous: flags & 0x40 != 0, validLifetime: base.bigEndian32(at: at + 4),
        preferredLifetime: base.bigEndian32(at: at + 8))
      prefixCount += 1
    case 5 where length == 8:
      mtu = Int(base.bigEndian32(at: at + 4))
    case Self.nonce where length == 8:
      nonce = UInt64(base.bigEndian16(at: at + 2)) << 32 | UInt64(base.bigEndian32(at: at + 4))
    case 24 where routeCount < routes.count:
      readRoute(base, at, length)
    case 25 where length >= 24 && length % 16 == 8:
      let lifetime = base.bigEndian32(at: at + 4)
      for i in 0..<(length - 8) / 16 where nameServerCount < nameServers.count {
        nameServers[nameServerCount] = NameServer(
          address: IPAddress(reading16: base, at: at + 8 + 16 * i), lifetime: lifetime)
        nameServerCount += 1
      }
    default:
      // Options that are not known are skipped (RFC 4861 §4.6).
      break
    }
  }

  private mutating func readRoute(_ base: UnsafeRawPointer, _ at: Int, _ length: Int) {
    let bits = Int(base.byte(at: at + 2))
    guard bits <= 128, length >= 8 + (bits + 63) / 64 * 8 else { return }
    let prefix = IPAddress(
      high: length >= 16 ? base.bigEndian64(at: at + 8) : 0, low: length >= 24 ? base.bigEndian64(at: at + 16) : 0
    ).prefix(bits)
    // Two bits: 01 high, 00 medium, 11 low; 10 must not be used (RFC 4191 §2.1).
    let preference = base.byte(at: at + 3) >> 3 & 3
    guard preference != 2 else { return }
    routes[routeCount] = RouteInformation(
      prefix: prefix, length: bits, preference: preference == 3 ? -1 : Int(preference),
      lifetime: base.bigEndian32(at: at + 4))
    routeCount += 1
  }
}

/// A neighbour solicitation or advertisement (RFC 4861 §4.3, §4.4).
package struct NeighborMessage {
  package static let length = 24

  package var isSolicitation: Bool
  /// Of an advertisement.
  package var isRouter = false
  package var isSolicited = false
  package var overrides = false
  package var target: IPAddress
  /// The link-layer address: the source's of a solicitation, the target's of an advertisement.
  package var hardware: MACAddress?
  /// Tells our own solicitations from another's, should they come back (RFC 7527).
  package var nonce: UInt64?

  package init(solicitationFor target: IPAddress, from hardware: MACAddress?, nonce: UInt64? = nil) {
    isSolicitation = true
    self.target = target
    self.hardware = hardware
    self.nonce = nonce
  }

  package init(advertising target: IPAddress, at hardware: MACAddress?, solicited: Bool, overrides: Bool) {
    isSolicitation = false
    isSolicited = solicited
    self.overrides = overrides
    self.target = target
    self.hardware = hardware
  }

  /// The checks of RFC 4861 §7.1 that the message alone allows.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress, base.byte(at: 1) == 0 else { return nil }
    isSolicitation = base.byte(at: 0) == ICMPv6.neighborSolicitation
    let flags = base.byte(at: 4)
    isRouter = flags & 0x80 != 0
    isSolicited = flags & 0x40 != 0
    overrides = flags & 0x20 != 0
    target = IPAddress(reading16: base, at: 8)
    guard target.isLinkUnicast, let options = NDPOptions(bytes, from: Self.length) else { return nil }
    hardware = isSolicitation ? options.sourceHardware : options.targetHardware
    nonce = options.nonce
  }

  package var encodedLength: Int { Self.length + (hardware == nil ? 0 : 8) + (nonce == nil ? 0 : 8) }

  /// Writes the message, the checksum as zero.
  package func write(to base: UnsafeMutableRawPointer) {
    base.storeByte(isSolicitation ? ICMPv6.neighborSolicitation : ICMPv6.neighborAdvertisement, at: 0)
    base.storeByte(0, at: 1)
    base.storeBigEndian16(0, at: 2)
    let flags: UInt32 = (isRouter ? 0x80 : 0) | (isSolicited ? 0x40 : 0) | (overrides ? 0x20 : 0)
    base.storeBigEndian32(flags << 24, at: 4)
    target.write16(to: base, at: 8)
    var at = Self.length
    if let hardware {
      base.storeByte(isSolicitation ? NDPOptions.sourceLinkLayerAddress : NDPOptions.targetLinkLayerAddress, at: at)
      base.storeByte(1, at: at + 1)
      hardware.write(to: base, at: at + 2)
      at += NDPOptions.linkLayerLength
    }
    if let nonce {
      base.storeByte(NDPOptions.nonce, at: at)
      base.storeByte(1, at: at + 1)
      base.storeBigEndian16(UInt16(truncatingIfNeeded: nonce >> 32), at: at + 2)
      base.storeBigEndian32(UInt32(truncatingIfNeeded: nonce), at: at + 4)
    }
  }
}

/// A router advertisement (RFC 4861 §4.2).
package struct RouterAdvertisement {
  package static let length = 16

  /// 0: the router does not say.
  package var hopLimit: UInt8
  /// Seconds as a default router; 0: none.
  package var lifetime: Int
  /// -1 low, 0 medium, 1 high (RFC 4191 §2.2).
  package var preference: Int
  /// Milliseconds; 0: the router does not say.
  package var reachableTime: Int
  package var retransTime: Int
  package var options: NDPOptions

  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress, base.byte(at: 1) == 0,
      let options = NDPOptions(bytes, from: Self.length)
    else { return nil }
    hopLimit = base.byte(at: 4)
    let bits = base.byte(at: 5) >> 3 & 3
    // 10 is reserved and means medium.
    preference = bits == 3 ? -1 : bits == 1 ? 1 : 0
    lifetime = Int(base.bigEndian16(at: 6))
    reachableTime = Int(base.bigEndian32(at: 8))
    retransTime = Int(base.bigEndian32(at: 12))
    self.options = options
  }
}

/// A redirect (RFC 4861 §4.5): packets for `destination` go to `target` from now on.
package struct RedirectMessage {
  package static let length = 40
  package var target: IPAddress
  package var destination: IPAddress
  package var targetHardware: MACAddress?

  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress, base.byte(at: 1) == 0,
      let options = NDPOptions(bytes, from: Self.length)
    else { return nil }
    target = IPAddress(reading16: base, at: 8)
    destination = IPAddress(reading16: base, at: 24)
    guard destination.isLinkUnicast, target.isLinkUnicast, target == destination || target.isLinkLocal else {
      return nil
    }
    targetHardware = options.targetHardware
  }
}
