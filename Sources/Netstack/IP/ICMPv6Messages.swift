// Owns: the ICMPv6 messages the stack sends, but for neighbour discovery's. Read first: RFC 4443 §2.4 (when not to send, what to
// quote), §4.2 (echo reply).

import Wire

package enum ICMPv6Messages {
  /// No error message makes a packet larger than the least MTU (RFC 4443 §2.4 (c)).
  private static var maximumErrorLength: Int { 1280 }

  /// Whether an error may be sent about a packet with this header. `isAboutSize` and unknown options are also told to senders of
  /// multicasts (RFC 4443 §2.4 (e.3)).
  package static func mayReport(
    _ header: IPv6Header, _ bytes: UnsafeRawBufferPointer, wasLinkBroadcast: Bool, evenMulticast: Bool
  ) -> Bool {
    if header.destination.isMulticast || wasLinkBroadcast, !evenMulticast { return false }
    // To a source that is no single node.
    if header.source.isUnspecified || header.source.isMulticast { return false }
    switch IPv6Extension.walk(bytes, isMulticast: header.destination.isMulticast, pastFragment: true) {
    case .transport(let proto, let offset, _) where proto == IPProtocol.icmpv6:
      // About an error or a redirect; nor where it cannot be told.
      guard bytes.count > offset else { return false }
      let type = bytes[offset]
      return !ICMPv6.isError(type) && type != ICMPv6.redirect
    case .fragment(let offset, _):
      // A later fragment of what may be an error.
      return bytes[offset] != IPProtocol.icmpv6
    default: return true
    }
  }

  /// An error about `packet`, whose data starts at its IP header: the ICMP message alone, its checksum still to be made, with
  /// headroom for the headers in front of it. `packet` stays the caller's; nil without a buffer.
  package static func makeError(
    type: UInt8, code: UInt8, rest: UInt32, about packet: PacketBuffer, pool: inout BufferPool
  ) -> PacketBuffer? {
    guard let message = pool.allocateForTransmit() else { return nil }
    let room = maximumErrorLength - IPv6Header.length - ICMPHeader.length
    let quote = min(packet.count, room, message.tailroom - ICMPHeader.length)
    let base = message.put(ICMPHeader.length + quote)
    ICMPHeader(type: type, code: code, rest: rest).write(to: base)
    _ = packet.copy(
      from: 0, to: UnsafeMutableRawBufferPointer(start: base + ICMPHeader.length, count: quote))
    return message
  }
}
