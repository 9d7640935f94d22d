// Owns: IPv6's way in: header, extension headers, reassembly, ICMPv6. TCP and UDP take over from there, as for IPv4. Read first:
// RFC 8200 §3, §4, RFC 4443 §2.4, §3, §4; RFC 5722, RFC 6946 (fragments), RFC 7112 (headers in the first fragment only).

import Wire

extension Stack {
  /// `overheard`: another stack with our addresses has dealt with it; we only learn from it.
  mutating func receiveIPv6(_ packet: PacketBuffer, wasLinkBroadcast: Bool, overheard: Bool) {
    let env = environment
    if !overheard { env.pointee.statistics.count(.ip6InReceives) }
    let length = packet.count
    let (parsed, invalid) = IPv6Header.parse(packet.readable, length: length)
    guard let header = parsed else {
      return env.pointee.drop(
        packet, invalid == .truncated ? .ipTruncated : invalid == .version ? .ipVersion : .ipTotalLength, .ip)
    }
    // 0 with nothing to say so is a super-frame's that the field cannot hold.
    let whole = header.payloadLength == 0 && length > 65535 ? length : IPv6Header.length + header.payloadLength
    if whole < length { packet.trim(to: whole) }
    // IPv4 in IPv6's clothes has no business on a link (RFC 4942 §2.2), nor has loopback; a source must be one node.
    let isLooped = packet.storage.pointee.isLooped
    guard !header.source.isMulticast, !header.source.isIPv4, !header.destination.isIPv4,
      isLooped || !header.source.isLoopback && !header.destination.isLoopback
    else { return env.pointee.drop(packet, .ipMartianSource, .ip) }
    let isOurs = owns(header.destination)
    guard isOurs || listens(to: header.destination) else {
      // What groups the program has joined the first stack knows; what it has handed to all it has seen.
      if steering.index != 0, !overheard, header.destination.isMulticast {
        return handOver(packet, to: 0, wasLinkBroadcast: wasLinkBroadcast, isDelivered: false)
      }
      return env.pointee.drop(packet, .ipNotForUs, .ip)
    }
    follow(packet, header, isOurs: isOurs, wasLinkBroadcast: wasLinkBroadcast, .none, overheard: overheard)
  }

  /// What has been seen of a packet's fragment header.
  private enum Fragmented { case none, atomic, whole }

  private mutating func follow(
    _ packet: PacketBuffer, _ header: IPv6Header, isOurs: Bool, wasLinkBroadcast: Bool, _ fragmented: Fragmented,
    overheard: Bool
  ) {
    let env = environment
    let found = IPv6Extension.walk(
      packet.readable, isMulticast: !isOurs, pastFragment: fragmented == .atomic, isWhole: fragmented == .whole)
    switch found {
    case .transport(let proto, let offset, let pointer):
      var ip = IPPacketInfo(
        header, proto: proto, headerLength: offset, isOurs: isOurs, wasLinkBroadcast: wasLinkBroadcast)
      ip.wasFragmented = fragmented != .none
      deliverIPv6(packet, ip, pointer: pointer, overheard: overheard)
    case .fragment(let offset, let before):
      let fragment = IPv6Fragment(packet.readable.baseAddress.unsafelyUnwrapped, at: offset)
      if fragment.offset == 0, !fragment.moreFollow {
        // No fragment at all (RFC 6946 §4): nothing waits, nothing can overlap.
        return follow(
          packet, header, isOurs: isOurs, wasLinkBroadcast: wasLinkBroadcast, .atomic, overheard: overheard)
      }
      receiveFragmentIPv6(packet, header, fragment, offset, before, isOurs, wasLinkBroadcast)
    case .nothing:
      env.pointee.statistics.count(.ip6InDelivers)
      env.pointee.pool.release(packet)
    case .discard:
      env.pointee.drop(packet, .ipExtensionHeader, .ip)
    case .truncated:
      env.pointee.drop(packet, .ipTruncated, .ip)
    case .problem(let code, let pointer):
      // Unknown options are reported even to who sent to a group (RFC 4443 §2.4 (e.3)).
      reportErrorIPv6(
        ICMPv6.parameterProblem, code, rest: UInt32(pointer), about: packet, wasLinkBroadcast: wasLinkBroadcast,
        evenMulticast: code == 2)
      env.pointee.drop(packet, .ipExtensionHeader, .ip)
    }
  }

  private mutating func receiveFragmentIPv6(
    _ packet: PacketBuffer, _ header: IPv6Header, _ fragment: IPv6Fragment, _ offset: Int, _ before: Int,
    _ isOurs: Bool, _ wasLinkBroadcast: Bool
  ) {
    let env = environment
    if steering.index != 0 {
      return handOver(
        packet, to: 0, wasLinkBroadcast: wasLinkBroadcast, isDelivered: false)
    }
    env.pointee.statistics.count(.ipReasmReqds)
    let place = FragmentPlace(header, fragment, at: offset, before: before)
    let length = place.totalLength - place.headerLength
    if fragment.moreFollow, length & 7 != 0 {
      reportErrorIPv6(ICMPv6.parameterProblem, 0, rest: 4, about: packet)
      return env.pointee.drop(packet, .fragmentTooLong, .ip)
    }
    if fragment.offset + length > 65535 {
      reportErrorIPv6(ICMPv6.parameterProblem, 0, rest: UInt32(offset + 2), about: packet)
      return env.pointee.drop(packet, .fragmentTooLong, .ip)
    }
    if fragment.offset == 0, isHeaderChainCut(packet.readable, isMulticast: !isOurs) {
      // RFC 7112 §5
      reportErrorIPv6(ICMPv6.parameterProblem, 3, rest: 0, about: packet)
      return env.pointee.drop(packet, .ipTruncated, .ip)
    }
    switch reassembly.add(
      packet, place, now: env.pointee.now, settings: env.pointee.settings, pool: &env.pointee.pool)
    {
    case .waiting:
      break
    case .dropped(let reason):
      env.pointee.statistics.count(.ipReasmFails)
      env.pointee.noteDrop(reason, .ip)
    case .complete(let whole):
      env.pointee.statistics.count(.ipReasmOKs)
      traceReassembled(whole)
      let (parsed, _) = IPv6Header.parse(whole.readable, length: whole.count)
      if let header = parsed {
        follow(whole, header, isOurs: isOurs, wasLinkBroadcast: wasLinkBroadcast, .whole, overheard: false)
      } else {
        env.pointee.drop(whole, .ipTotalLength, .ip)
      }
    }
    rearmReassemblyTimer()
  }

  /// Whether a first fragment ends before the transport header does (Linux's ipv6frag_thdr_truncated).
  private func isHeaderChainCut(_ bytes: UnsafeRawBufferPointer, isMulticast: Bool) -> Bool {
    switch IPv6Extension.walk(bytes, isMulticast: isMulticast, pastFragment: true) {
    case .truncated: return true
    case .transport(let proto, let offset, _):
      let needed =
        switch proto {
        case IPProtocol.tcp: TCPHeader.minimumLength
        case IPProtocol.udp: UDPHeader.length
        case IPProtocol.icmpv6: ICMPHeader.length
        default: 1
        }
      return bytes.count < offset + needed
    default: return false
    }
  }

  /// `packet` starts at the IP header. `pointer`: where the number of the transport's protocol stands.
  private mutating func deliverIPv6(_ packet: PacketBuffer, _ ip: IPPacketInfo, pointer: Int, overheard: Bool) {
    let env = environment
    if !overheard { env.pointee.statistics.count(.ip6InDelivers) }
    // Overheard or not: raw sockets are in the first stack alone.
    let turn = packet.storage.pointee.rawTurn
    if turn == .only { return deliverToRawAlone(packet, ip) }
    let isTaken = rawProtocols.count > 0 && turn == .open && deliverToRaw(packet, ip)
    switch ip.proto {
    case IPProtocol.icmpv6:
      receiveICMPv6(packet, ip, overheard: overheard)
    case _ where ip.source.isUnspecified:
      env.pointee.drop(packet, .ipMartianSource, .ip)
    case IPProtocol.tcp:
      guard ip.isOurs, !ip.wasLinkBroadcast else { return env.pointee.drop(packet, .ipNotForUs, .tcp) }
      packet.pull(ip.headerLength)
      receiveTCP(packet, ip)
    case IPProtocol.udp:
      receiveUDP(packet, ip)
    default:
      if isTaken || !overheard && offerToRaw(packet, ip, start: packet.storage.pointee.data) {
        return env.pointee.pool.release(packet)
      }
      reportErrorIPv6(
        ICMPv6.parameterProblem, 1, rest: UInt32(pointer), about: packet, wasLinkBroadcast: ip.wasLinkBroadcast)
      env.pointee.drop(packet, .ipUnknownProtocol, .ip)
    }
  }

  // MARK: ICMPv6

  private mutating func receiveICMPv6(_ packet: PacketBuffer, _ ip: IPPacketInfo, overheard: Bool) {
    let env = environment
    guard let (icmp, error) = takeICMP(packet, ip, overheard: overheard) else { return }
    switch icmp.type {
    case ICMPv6.echoRequest:
      guard !ip.source.isUnspecified else { return env.pointee.drop(packet, .icmpMalformed, .icmp) }
      env.pointee.statistics.count(.icmp6InEchos)
      env.pointee.statistics.count(.icmp6OutEchoReplies)
      packet.base.storeByte(ICMPv6.echoReply, at: 0)
      packet.base.storeBigEndian16(0, at: 2)
      return sendICMPv6(
        packet, from: ip.isOurs ? ip.destination : nil, to: ip.source, trafficClass: ip.typeOfService)
    case ICMPv6.routerAdvertisement, ICMPv6.neighborSolicitation, ICMPv6.neighborAdvertisement, ICMPv6.redirect:
      return receiveNeighborDiscovery(packet, ip, icmp, overheard: overheard)
    case MLD.query:
      if steering.index != 0 {
        packet.push(ip.headerLength)
        return handOver(packet, to: 0, wasLinkBroadcast: ip.wasLinkBroadcast, isDelivered: true)
      }
      return receiveMLD(packet, ip)
    case ICMPv6.echoReply:
      if receiveEchoReply(packet, ip) { return }
    default:
      break
    }
    if let error, owns(error.quoted.local.address) { errorArrives(error, in: packet, ip) }
    env.pointee.pool.release(packet)
  }
}
