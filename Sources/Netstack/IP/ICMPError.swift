// Owns: what an ICMP error that comes in says about a packet of ours, for both families, and what a socket is told of it. Read
// first: RFC 792, RFC 1122 §3.2.2; RFC 4443 §3; RFC 5927 (what to believe). The map to socket errors is Linux's: icmp_err_convert in
// net/ipv4/icmp.c, icmpv6_err_convert in net/ipv6/icmp.c.

import Wire

/// An ICMP error, with the packet of ours that it quotes.
package struct ICMPError {
  package var isIPv6: Bool
  package var type: UInt8
  package var code: UInt8
  /// The second word of the message: what it means depends on type and code.
  package var rest: UInt32
  /// The packet that caused the error; its source is ours.
  package var quoted: FourTuple
  package var proto: UInt8
  /// The whole length that its header told, bytes.
  package var quotedLength: Int
  /// Where in the message the quoted transport header begins, bytes.
  package var transportOffset: Int
  /// TCP's sequence number; UDP's length and checksum.
  package var sequence: SequenceNumber

  /// Reads an ICMP message whose checksum has been verified; nil where it is no error, or quotes too little to find a
  /// socket (RFC 792: the header and 64 bits).
  package init?(v4 message: UnsafeRawBufferPointer) {
    guard let header = ICMPHeader(message), ICMPv4Messages.isError(header.type) else { return nil }
    let inner = UnsafeRawBufferPointer(rebasing: message[ICMPHeader.length...])
    guard let quoted = IPv4Header(quoted: inner), inner.count >= quoted.headerLength + 8, let base = inner.baseAddress
    else { return nil }
    // Ports are in the first fragment only.
    guard quoted.fragmentOffset == 0 else { return nil }
    isIPv6 = false
    type = header.type
    code = header.code
    rest = header.rest
    proto = quoted.proto
    quotedLength = quoted.totalLength
    transportOffset = ICMPHeader.length + quoted.headerLength
    self.quoted = FourTuple(
      local: Endpoint(IPAddress(quoted.source), base.bigEndian16(at: quoted.headerLength)),
      remote: Endpoint(IPAddress(quoted.destination), base.bigEndian16(at: quoted.headerLength + 2)))
    sequence = SequenceNumber(base.bigEndian32(at: quoted.headerLength + 4))
  }

  /// The same for ICMPv6. What does not fit the first packet buffer's linear part is not needed.
  package init?(v6 message: UnsafeRawBufferPointer) {
    guard let header = ICMPHeader(message), ICMPv6.isError(header.type) else { return nil }
    let inner = UnsafeRawBufferPointer(rebasing: message[ICMPHeader.length...])
    // IPv4's conversations are none of ICMPv6's business, whatever an address looks like.
    guard let quoted = IPv6Header(quoted: inner), let base = inner.baseAddress, !quoted.source.isIPv4,
      !quoted.destination.isIPv4,
      case .transport(let proto, let offset, _) = IPv6Extension.walk(
        inner, isMulticast: quoted.destination.isMulticast, pastFragment: true),
      inner.count >= offset + 8
    else { return nil }
    isIPv6 = true
    type = header.type
    code = header.code
    rest = header.rest
    self.proto = proto
    quotedLength = IPv6Header.length + quoted.payloadLength
    transportOffset = ICMPHeader.length + offset
    self.quoted = FourTuple(
      local: Endpoint(quoted.source, base.bigEndian16(at: offset)),
      remote: Endpoint(quoted.destination, base.bigEndian16(at: offset + 2)))
    sequence = SequenceNumber(base.bigEndian32(at: offset + 4))
  }

  /// "Fragmentation needed" (RFC 1191 §4; 0 from an old router), "packet too big" (RFC 4443 §3.2): the next hop's MTU, bytes.
  package var nextHopMTU: Int? {
    if isIPv6 { return type == ICMPv6.packetTooBig ? Int(rest) : nil }
    guard type == ICMPHeader.destinationUnreachable, code == ICMPHeader.Unreachable.fragmentationNeeded else {
      return nil
    }
    return Int(rest & 0xffff)
  }

  /// What a socket is told. `fatal` ends a connection attempt or is reported at once; what is not fatal is remembered and
  /// told only if the connection times out (RFC 1122 §4.2.3.9; tcp(7)). nil for messages that sockets do not see.
  package var meaning: (error: SocketError, fatal: Bool)? { isIPv6 ? meaning6 : meaning4 }

  private var meaning4: (error: SocketError, fatal: Bool)? {
    switch (type, code) {
    case (ICMPHeader.destinationUnreachable, 0): (.networkUnreachable, false)
    case (ICMPHeader.destinationUnreachable, 1): (.hostUnreachable, false)
    case (ICMPHeader.destinationUnreachable, 2): (.protocolUnreachable, true)
    case (ICMPHeader.destinationUnreachable, 3): (.connectionRefused, true)
    case (ICMPHeader.destinationUnreachable, 4): (.messageTooLong, false)
    // Source route failed: EOPNOTSUPP.
    case (ICMPHeader.destinationUnreachable, 5): (.notSupported, false)
    // Destination network unknown, host unknown.
    case (ICMPHeader.destinationUnreachable, 6): (.networkUnreachable, true)
    case (ICMPHeader.destinationUnreachable, 7): (.hostDown, true)
    case (ICMPHeader.destinationUnreachable, 8): (.hostIsolated, true)
    // Administratively prohibited: network, host.
    case (ICMPHeader.destinationUnreachable, 9): (.networkUnreachable, true)
    case (ICMPHeader.destinationUnreachable, 10): (.hostUnreachable, true)
    // Unreachable for this type of service: network, host.
    case (ICMPHeader.destinationUnreachable, 11): (.networkUnreachable, false)
    case (ICMPHeader.destinationUnreachable, 12): (.hostUnreachable, false)
    // Filtered, precedence violation, precedence cut-off (RFC 1812 §5.2.7.1).
    case (ICMPHeader.destinationUnreachable, 13...15): (.hostUnreachable, true)
    case (ICMPHeader.timeExceeded, _): (.hostUnreachable, false)
    case (ICMPHeader.parameterProblem, _): (.protocolError, true)
    // Source quench is ignored (RFC 6633); redirects concern routing alone.
    default: nil
    }
  }

  private var meaning6: (error: SocketError, fatal: Bool)? {
    switch (type, code) {
    case (ICMPv6.destinationUnreachable, 0): (.networkUnreachable, false)
    // Administratively prohibited; the source failed a policy; the route rejects.
    case (ICMPv6.destinationUnreachable, 1), (ICMPv6.destinationUnreachable, 5...6): (.accessDenied, true)
    // Beyond the scope of the source; address unreachable.
    case (ICMPv6.destinationUnreachable, 2...3): (.hostUnreachable, false)
    case (ICMPv6.destinationUnreachable, 4): (.connectionRefused, true)
    case (ICMPv6.packetTooBig, _): (.messageTooLong, false)
    case (ICMPv6.timeExceeded, _): (.hostUnreachable, false)
    case (ICMPv6.parameterProblem, _): (.protocolError, true)
    default: nil
    }
  }
}

extension FourTuple {
  /// The ends of a packet of ours, of either family, that starts at its IP header; nil where its transport header is not there.
  /// `offset`: where that header begins.
  static func quoted(_ bytes: UnsafeRawBufferPointer) -> (tuple: FourTuple, proto: UInt8, offset: Int)? {
    guard let base = bytes.baseAddress else { return nil }
    if let ip = IPv4Header(quoted: bytes) {
      guard ip.fragmentOffset == 0, bytes.count >= ip.headerLength + 8 else { return nil }
      let local = Endpoint(IPAddress(ip.source), base.bigEndian16(at: ip.headerLength))
      let remote = Endpoint(IPAddress(ip.destination), base.bigEndian16(at: ip.headerLength + 2))
      return (FourTuple(local: local, remote: remote), ip.proto, ip.headerLength)
    }
    guard let ip = IPv6Header(quoted: bytes),
      case .transport(let proto, let offset, _) = IPv6Extension.walk(bytes, isMulticast: false, pastFragment: true),
      bytes.count >= offset + 8
    else { return nil }
    let local = Endpoint(ip.source, base.bigEndian16(at: offset))
    let remote = Endpoint(ip.destination, base.bigEndian16(at: offset + 2))
    return (FourTuple(local: local, remote: remote), proto, offset)
  }
}
