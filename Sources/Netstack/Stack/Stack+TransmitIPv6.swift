// Owns: IPv6's way out: header, fragments, ICMPv6. Read first: RFC 8200 §3, §4.5, §5; RFC 6437 (flow label).

import Wire

extension Stack {
  /// `packet` starts at the transport header. Larger than `mtu` (and no super-frame): cut, its checksum being complete.
  mutating func sendIPv6(
    _ packet: PacketBuffer, proto: UInt8, source: IPAddress, destination: IPAddress, nextHop: IPAddress,
    trafficClass: UInt8, hopLimit: Int, flowLabel: UInt32, mtu: Int
  ) {
    let env = environment
    env.pointee.statistics.count(.ip6OutRequests)
    var nextHeader = proto
    if packet.count > 65535 {
      // A super-frame longer than the length field can tell (RFC 2675 §2); only to the host, which never cuts it up.
      let base = packet.push(IPv6Extension.jumboLength)
      IPv6Extension.writeJumbo(to: base, nextHeader: proto, payloadLength: packet.count)
      nextHeader = IPv6Extension.hopByHop
    }
    let headers = IPv6Header.length + (nextHeader == proto ? 0 : IPv6Extension.jumboLength)
    IPv6Header(
      nextHeader: nextHeader, source: source, destination: destination, payloadLength: packet.count,
      trafficClass: trafficClass, flowLabel: flowLabel,
      hopLimit: hopLimit > 0
        ? UInt8(hopLimit) : routers.hopLimit > 0 ? routers.hopLimit : env.pointee.settings.ipDefaultTTL
    ).write(to: packet.push(IPv6Header.length))
    if owns(destination) { return loopBack(packet) }
    if packet.count > mtu, packet.storage.pointee.segmentationType == .none {
      return fragmentIPv6(packet, nextHop: nextHop, mtu: mtu)
    }
    packet.storage.pointee.checksumStart = UInt16(headers)
    transmitIP(packet, nextHop: nextHop)
  }

  private mutating func fragmentIPv6(_ packet: PacketBuffer, nextHop: IPAddress, mtu: Int) {
    let env = environment
    // Nobody outside may guess it (RFC 7739).
    let identification = UInt32(truncatingIfNeeded: env.pointee.random.next())
    guard
      var pieces = Fragmentation.cutIPv6(
        packet, mtu: mtu, identification: identification, pool: &env.pointee.pool)
    else {
      env.pointee.statistics.count(.ipFragFails)
      return discard(packet, .noBuffer, .ip)
    }
    env.pointee.statistics.count(.ipFragOKs)
    env.pointee.statistics.count(.ipFragCreates, pieces.count)
    sendPieces(&pieces, of: packet, nextHop: nextHop)
  }

  // MARK: ICMPv6

  /// Sends a message that starts at `packet`'s data, after making its checksum; from the address that is given, or the one
  /// that RFC 6724 chooses.
  mutating func sendICMPv6(
    _ packet: PacketBuffer, from given: IPAddress?, to destination: IPAddress, trafficClass: UInt8 = 0,
    hopLimit: Int = 0
  ) {
    let env = environment
    packet.storage.pointee.checksumState = .none
    guard let route = decide(destination, now: env.pointee.now) else {
      env.pointee.statistics.count(.ip6OutNoRoutes)
      return discard(packet, .ipNoRoute, .icmp)
    }
    let source = given ?? route.source
    let base = packet.base
    base.storeBigEndian16(0, at: 2)
    let pseudo = Checksum.pseudoHeader(
      source: source, destination: destination, proto: IPProtocol.icmpv6, length: packet.count)
    base.storeBigEndian16(~Checksum.fold(packet.checksum(from: 0, pseudo)), at: 2)
    env.pointee.statistics.count(.icmp6OutMsgs)
    let type = UnsafeRawPointer(base).byte(at: 0)
    traceICMP(.icmp6Out, type, UnsafeRawPointer(base).byte(at: 1), local: source, remote: destination)
    sendIPv6(
      packet, proto: IPProtocol.icmpv6, source: source, destination: destination, nextHop: route.nextHop,
      trafficClass: trafficClass, hopLimit: hopLimit, flowLabel: 0, mtu: route.mtu)
  }

  mutating func reportErrorIPv6(_ type: UInt8, _ code: UInt8, about packet: PacketBuffer, _ ip: IPPacketInfo) {
    reportErrorIPv6(type, code, about: packet, wasLinkBroadcast: ip.wasLinkBroadcast)
  }

  /// Sends an ICMP error about a packet that starts at its IPv6 header, if one may be sent.
  mutating func reportErrorIPv6(
    _ type: UInt8, _ code: UInt8, rest: UInt32 = 0, about packet: PacketBuffer, wasLinkBroadcast: Bool = false,
    evenMulticast: Bool = false
  ) {
    let env = environment
    guard let header = IPv6Header(quoted: packet.readable),
      ICMPv6Messages.mayReport(
        header, packet.readable, wasLinkBroadcast: wasLinkBroadcast, evenMulticast: evenMulticast)
    else { return }
    guard mayReport(packet, to: header.source) else { return }
    guard
      let message = ICMPv6Messages.makeError(
        type: type, code: code, rest: rest, about: packet, pool: &env.pointee.pool)
    else { return env.pointee.noteDrop(.noBuffer, .icmp) }
    let source = owns(header.destination) ? header.destination : nil
    sendICMPv6(message, from: source, to: header.source)
  }
}
