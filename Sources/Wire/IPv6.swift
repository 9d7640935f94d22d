// Owns: the IPv6 header and its extension headers as bytes. Read first: RFC 8200 §3 and §4, RFC 6437 (flow label).

package struct IPv6Header {
  package static let length = 40

  /// DSCP and ECN, as IPv4's type of service.
  package var trafficClass: UInt8
  /// 20 bits; 0 where flows are not labelled.
  package var flowLabel: UInt32
  /// Everything behind these 40 bytes.
  package var payloadLength: Int
  package var nextHeader: UInt8
  package var hopLimit: UInt8
  package var source: IPAddress
  package var destination: IPAddress

  package init(
    nextHeader: UInt8, source: IPAddress, destination: IPAddress, payloadLength: Int, trafficClass: UInt8 = 0,
    flowLabel: UInt32 = 0, hopLimit: UInt8 = 64
  ) {
    self.trafficClass = trafficClass
    self.flowLabel = flowLabel
    self.payloadLength = payloadLength
    self.nextHeader = nextHeader
    self.hopLimit = hopLimit
    self.source = source
    self.destination = destination
  }

  package enum Invalid { case truncated, version, payloadLength }

  /// `length` is the whole packet's, fragments included.
  @inline(__always)
  package static func parse(_ bytes: UnsafeRawBufferPointer, length: Int) -> (header: IPv6Header?, invalid: Invalid) {
    guard let header = IPv6Header(quoted: bytes) else {
      return (nil, bytes.count < Self.length ? .truncated : .version)
    }
    guard header.payloadLength <= length - Self.length else { return (nil, .payloadLength) }
    return (header, .truncated)
  }

  /// Reads the fields of a header that may be quoted in an ICMP error: the payload need not be there.
  @inline(__always)
  package init?(quoted bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress, base.byte(at: 0) >> 4 == 6 else { return nil }
    let first = base.bigEndian32(at: 0)
    trafficClass = UInt8(truncatingIfNeeded: first >> 20)
    flowLabel = first & 0xf_ffff
    payloadLength = Int(base.bigEndian16(at: 4))
    nextHeader = base.byte(at: 6)
    hopLimit = base.byte(at: 7)
    source = IPAddress(reading16: base, at: 8)
    destination = IPAddress(reading16: base, at: 24)
  }

  /// A length that the field cannot hold, a super-frame's, becomes 0.
  @inline(__always)
  package func write(to base: UnsafeMutableRawPointer) {
    base.storeBigEndian32(6 << 28 | UInt32(trafficClass) << 20 | flowLabel & 0xf_ffff, at: 0)
    base.storeBigEndian16(payloadLength > 65535 ? 0 : UInt16(truncatingIfNeeded: payloadLength), at: 4)
    base.storeByte(nextHeader, at: 6)
    base.storeByte(hopLimit, at: 7)
    source.write16(to: base, at: 8)
    destination.write16(to: base, at: 24)
  }
}

/// The headers between IPv6's and the transport's (RFC 8200 §4).
package enum IPv6Extension {
  package static let hopByHop: UInt8 = 0
  package static let routing: UInt8 = 43
  package static let fragment: UInt8 = 44
  package static let noNext: UInt8 = 59
  package static let destination: UInt8 = 60

  /// A hop-by-hop header with nothing but the jumbo payload option (RFC 2675 §2), bytes.
  package static let jumboLength = 8

  /// `payloadLength` counts this header, too.
  package static func writeJumbo(to base: UnsafeMutableRawPointer, nextHeader: UInt8, payloadLength: Int) {
    base.storeByte(nextHeader, at: 0)
    base.storeByte(0, at: 1)
    base.storeByte(0xc2, at: 2)
    base.storeByte(4, at: 3)
    base.storeBigEndian32(UInt32(truncatingIfNeeded: payloadLength), at: 4)
  }

  /// What a walk along a packet's headers came to.
  package enum Walk: Equatable, Sendable {
    /// A transport header: its protocol, where it begins, and where that protocol's number stands.
    case transport(proto: UInt8, offset: Int, pointer: Int)
    /// A fragment header at `offset`. `before` is where the number of its kind stands.
    case fragment(offset: Int, before: Int)
    /// Nothing follows (RFC 8200 §4.7).
    case nothing
    /// The packet is to be dropped without a word.
    case discard
    /// Cut off, or longer than what was looked at.
    case truncated
    /// Parameter problem (RFC 4443 §3.4): its code, and the offset of the octet that is to blame.
    case problem(code: UInt8, pointer: Int)
  }

  /// Follows the chain in `bytes`, which starts at the IPv6 header. `pastFragment` goes over the header of a first fragment, as in a
  /// packet that is quoted; behind a later one's there is nothing to read. A second one is one too many (RFC 8200 §4.1), as is any in
  /// a packet that has been put together (`isWhole`).
  package static func walk(
    _ bytes: UnsafeRawBufferPointer, isMulticast: Bool, pastFragment: Bool = false, isWhole: Bool = false
  ) -> Walk {
    guard let base = bytes.baseAddress, bytes.count >= IPv6Header.length else { return .truncated }
    var next = base.byte(at: 6)
    var pointer = 6
    var offset = IPv6Header.length
    var mayPass = pastFragment
    while true {
      switch next {
      case hopByHop where offset != IPv6Header.length:
        // Only directly behind IPv6's own header (RFC 8200 §4.1).
        return .problem(code: 1, pointer: pointer)
      case hopByHop, destination:
        guard let length = length(base, at: offset, count: bytes.count) else { return .truncated }
        if let verdict = options(base, offset + 2, offset + length, isMulticast) { return verdict }
        (pointer, next) = (offset, base.byte(at: offset))
        offset += length
      case routing:
        guard let length = length(base, at: offset, count: bytes.count) else { return .truncated }
        // With nothing left to visit it is as if it were not there; no type is known to us (RFC 8200 §4.4, RFC 5095).
        if base.byte(at: offset + 3) != 0 { return .problem(code: 0, pointer: offset + 2) }
        (pointer, next) = (offset, base.byte(at: offset))
        offset += length
      case fragment:
        guard bytes.count >= offset + 8 else { return .truncated }
        if isWhole || pastFragment && !mayPass { return .problem(code: 0, pointer: offset) }
        if !mayPass || base.bigEndian16(at: offset + 2) & 0xfff8 != 0 {
          return .fragment(offset: offset, before: pointer)
        }
        mayPass = false
        (pointer, next) = (offset, base.byte(at: offset))
        offset += 8
      case noNext:
        return .nothing
      default:
        return .transport(proto: next, offset: offset, pointer: pointer)
      }
    }
  }

  /// The length of the extension header at `offset`, bytes; nil where it is not all there.
  private static func length(_ base: UnsafeRawPointer, at offset: Int, count: Int) -> Int? {
    guard count >= offset + 8 else { return nil }
    let length = 8 + 8 * Int(base.byte(at: offset + 1))
    return count >= offset + length ? length : nil
  }

  /// RFC 8200 §4.2: what the two highest bits of an unknown option's type ask for.
  private static func options(_ base: UnsafeRawPointer, _ start: Int, _ end: Int, _ isMulticast: Bool) -> Walk? {
    var at = start
    while at < end {
      let type = base.byte(at: at)
      // Pad1
      if type == 0 {
        at += 1
        continue
      }
      guard at + 2 <= end, at + 2 + Int(base.byte(at: at + 1)) <= end else { return .discard }
      // PadN, router alert (RFC 2711)
      if type != 1, type != 5 {
        switch type >> 6 {
        case 0: break
        case 1: return .discard
        case 2: return .problem(code: 2, pointer: at)
        default: return isMulticast ? .discard : .problem(code: 2, pointer: at)
        }
      }
      at += 2 + Int(base.byte(at: at + 1))
    }
    return nil
  }
}

/// The fragment header (RFC 8200 §4.5).
package struct IPv6Fragment {
  package static let length = 8
  package var nextHeader: UInt8
  /// Of this piece in the fragmentable part, bytes (a multiple of eight).
  package var offset: Int
  package var moreFollow: Bool
  package var identification: UInt32

  package init(nextHeader: UInt8, offset: Int, moreFollow: Bool, identification: UInt32) {
    self.nextHeader = nextHeader
    self.offset = offset
    self.moreFollow = moreFollow
    self.identification = identification
  }

  package init(_ base: UnsafeRawPointer, at: Int) {
    nextHeader = base.byte(at: at)
    let field = base.bigEndian16(at: at + 2)
    offset = Int(field & 0xfff8)
    moreFollow = field & 1 != 0
    identification = base.bigEndian32(at: at + 4)
  }

  package func write(to base: UnsafeMutableRawPointer) {
    base.storeByte(nextHeader, at: 0)
    base.storeByte(0, at: 1)
    base.storeBigEndian16(UInt16(truncatingIfNeeded: offset) | (moreFollow ? 1 : 0), at: 2)
    base.storeBigEndian32(identification, at: 4)
  }
}
