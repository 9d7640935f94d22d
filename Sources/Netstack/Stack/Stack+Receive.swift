// Owns: the way in: Ethernet → ARP or IPv4 → reassembly → ICMP, TCP, or a datagram socket (Stack+DatagramReceive.swift; IPv6's way to
// there: Stack+ReceiveIPv6.swift). Each
// function takes the packet over and hands it on, or drops it with a reason. Read first: RFC 1122 §3.2, §4.1.3, §4.2.

import Wire

extension Stack {
  /// An empty buffer for the device to read a frame into, with a large one attached for what does not fit, and with headroom
  /// for what the device has to say about it (virtio_net_hdr).
  package mutating func allocateReceiveBuffer() -> PacketBuffer? {
    guard let packet = environment.pointee.pool.allocate() else { return nil }
    guard environment.pointee.pool.attachLarge(packet) else {
      environment.pointee.pool.release(packet)
      return nil
    }
    packet.reserve(16)
    return packet
  }

  package mutating func releaseReceiveBuffer(_ packet: PacketBuffer) { environment.pointee.pool.release(packet) }

  /// One frame from the device.
  package mutating func receive(_ packet: PacketBuffer, now: Instant) {
    let env = environment
    env.pointee.now = now
    if packet.storage.pointee.fragmentCount == 0 { env.pointee.pool.detachLarge(packet) }
    packet.storage.pointee.time = now
    env.pointee.statistics.count(.rxFrames)
    env.pointee.statistics.count(.rxBytes, packet.count)
    if device.linkType == .ip {
      if packet.linearCount > 0, packet.readable[0] >> 4 == 6 {
        return receiveIPv6(packet, wasLinkBroadcast: false, overheard: false)
      }
      return receiveIPv4(packet, wasLinkBroadcast: false)
    }
    guard let header = EthernetHeader(packet.readable) else {
      return env.pointee.drop(packet, .ethernetTooShort, .device)
    }
    guard header.destination == device.hardwareAddress || header.destination.isGroup else {
      return env.pointee.drop(packet, .ethernetOtherHost, .device)
    }
    packet.pull(EthernetHeader.length)
    switch header.etherType {
    case EtherType.ipv4: receiveIPv4(packet, wasLinkBroadcast: header.destination.isGroup)
    case EtherType.ipv6:
      receiveIPv6(packet, wasLinkBroadcast: header.destination.isGroup, overheard: false)
    case EtherType.arp: receiveARP(packet, frameDestination: header.destination)
    default: env.pointee.drop(packet, .ethernetUnknownType, .device)
    }
  }

  /// After a batch of `receive`: acknowledgments, and data that acknowledgments let out.
  package mutating func finishBatch(now: Instant) {
    environment.pointee.now = now
    flush()
  }

  // MARK: ARP

  private mutating func receiveARP(_ packet: PacketBuffer, frameDestination: MACAddress) {
    let env = environment
    guard let arp = ARPPacket(packet.readable) else { return env.pointee.drop(packet, .arpMalformed, .arp) }
    if steering.isShared {
      handOverToAll(packet, wasLinkBroadcast: frameDestination.isGroup)
    } else {
      env.pointee.pool.release(packet)
    }
    let isRequest = arp.operation == ARPPacket.request
    env.pointee.statistics.count(isRequest ? .arpInRequests : .arpInReplies)
    traceARP(isRequest ? .arpRequestIn : .arpReplyIn, arp)
    watchForConflict(arp)
    let verdict = ARP.judge(
      arp, frameDestination: frameDestination, ourAddress: spokenFor(by: arp), ourHardware: device.hardwareAddress)
    switch verdict {
    case .ignore:
      break
    case .malformed:
      env.pointee.noteDrop(.arpMalformed, .arp)
    case .answer(let reply, let learn):
      env.pointee.statistics.count(.arpOutReplies)
      sendARP(reply, to: reply.targetHardware, .arpReplyOut)
      if learn { self.learn(IPAddress(arp.senderProtocol), arp.senderHardware, .request) }
    case .learn(let who, let hardware, let evidence):
      learn(IPAddress(who), hardware, evidence)
    case .conflict(let hardware):
      env.pointee.statistics.count(.arpConflicts)
      if env.pointee.trace.allows(.arp, .error) {
        var event = TraceEvent(env.pointee.now, .arp, .error, .arpConflict)
        event.a = Int64(arp.senderProtocol.bits)
        event.b = Int64(hardware.bits)
        env.pointee.trace.append(event)
      }
      if defense.shouldDefend(now: env.pointee.now) { announce(arp.senderProtocol) }
    }
  }

  /// What another stack has answered already tells only where a neighbour is.
  mutating func overhearARP(_ packet: PacketBuffer, wasLinkBroadcast: Bool) {
    let arp = ARPPacket(packet.readable)
    environment.pointee.pool.release(packet)
    guard let arp else { return }
    watchForConflict(arp)
    let verdict = ARP.judge(
      arp, frameDestination: wasLinkBroadcast ? .broadcast : device.hardwareAddress, ourAddress: spokenFor(by: arp),
      ourHardware: device.hardwareAddress)
    switch verdict {
    case .ignore, .malformed, .conflict: break
    case .answer(_, let learn):
      if learn { self.learn(IPAddress(arp.senderProtocol), arp.senderHardware, .request) }
    case .learn(let who, let hardware, let evidence):
      self.learn(IPAddress(who), hardware, evidence)
    }
  }

  /// Which of our addresses an ARP packet speaks of; the first where it speaks of none.
  private func spokenFor(by arp: ARPPacket) -> IPv4Address {
    if hasAddress(IPAddress(arp.senderProtocol)) { return arp.senderProtocol }
    if hasAddress(IPAddress(arp.targetProtocol)) { return arp.targetProtocol }
    return addresses.ipv4
  }

  mutating func learn(_ who: IPAddress, _ hardware: MACAddress, _ evidence: NeighborEvidence) {
    let env = environment
    var waiting = neighbors.learned(
      who, hardware, how: evidence, now: env.pointee.now, settings: &env.pointee.settings)
    if !waiting.isEmpty, env.pointee.trace.allows(.arp, .info) {
      var event = TraceEvent(env.pointee.now, .arp, .info, .neighborResolved)
      event.tuple.remote = Endpoint(who, 0)
      event.b = Int64(hardware.bits)
      env.pointee.trace.append(event)
    }
    let etherType = who.isIPv4 ? EtherType.ipv4 : EtherType.ipv6
    while let packet = waiting.removeFirst() { transmitFrame(packet, to: hardware, etherType) }
    rearmNeighborTimer()
  }

  // MARK: IPv4

  mutating func receiveIPv4(_ packet: PacketBuffer, wasLinkBroadcast: Bool) {
    let env = environment
    env.pointee.statistics.count(.ipInReceives)
    let length = packet.count
    let (parsed, invalid) = IPv4Header.parse(packet.readable, length: length)
    guard let header = parsed else { return env.pointee.drop(packet, Self.reason(invalid), .ip) }
    if header.totalLength < length { packet.trim(to: header.totalLength) }
    // Loopback's addresses have no business on a link (RFC 1122 §3.2.1.3 (g)).
    let isLooped = packet.storage.pointee.isLooped
    let destination = IPAddress(header.destination)
    let isOurs = hasAddress(destination) || isLooped && header.destination.isLoopback
    guard
      isOurs || routes.isBroadcast(destination)
        || header.destination.isMulticast && (steering.index != 0 || listens(to: destination))
        || mayOfferAddress(packet, header)
    else { return env.pointee.drop(packet, .ipNotForUs, .ip) }
    // RFC 1122 §3.2.1.3: a source must be one host.
    guard !header.source.isMulticast, !header.source.isLoopback || isLooped,
      !routes.isBroadcast(IPAddress(header.source))
    else {
      return env.pointee.drop(packet, .ipMartianSource, .ip)
    }
    if header.isFragment {
      if steering.index != 0 {
        return handOver(packet, to: 0, wasLinkBroadcast: wasLinkBroadcast, isDelivered: false)
      }
      env.pointee.statistics.count(.ipReasmReqds)
      return receiveFragment(packet, header)
    }
    deliver(packet, IPPacketInfo(header, isOurs: isOurs, wasLinkBroadcast: wasLinkBroadcast))
  }

  private static func reason(_ invalid: IPv4Header.Invalid) -> DropReason {
    switch invalid {
    case .truncated: .ipTruncated
    case .version: .ipVersion
    case .headerLength: .ipHeaderLength
    case .totalLength: .ipTotalLength
    case .checksum: .ipChecksum
    }
  }

  private mutating func receiveFragment(_ packet: PacketBuffer, _ header: IPv4Header) {
    let env = environment
    let verdict = reassembly.add(
      packet, FragmentPlace(header), now: env.pointee.now, settings: env.pointee.settings, pool: &env.pointee.pool)
    switch verdict {
    case .waiting:
      break
    case .dropped(let reason):
      env.pointee.statistics.count(.ipReasmFails)
      env.pointee.noteDrop(reason, .ip)
    case .complete(let whole):
      env.pointee.statistics.count(.ipReasmOKs)
      let (parsed, _) = IPv4Header.parse(whole.readable, length: whole.count)
      guard let header = parsed else {
        env.pointee.drop(whole, .ipTotalLength, .ip)
        break
      }
      traceReassembled(whole)
      let isOurs = owns(IPAddress(header.destination))
      deliver(whole, IPPacketInfo(header, isOurs: isOurs, wasLinkBroadcast: !isOurs))
    }
    rearmReassemblyTimer()
  }

  /// `packet` starts at the IP header.
  private mutating func deliver(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    env.pointee.statistics.count(.ipInDelivers)
    let turn = packet.storage.pointee.rawTurn
    if turn == .only { return deliverToRawAlone(packet, ip) }
    let isTaken = rawProtocols.count > 0 && turn == .open && deliverToRaw(packet, ip)
    switch ip.proto {
    case IPProtocol.tcp:
      guard ip.isOurs, !ip.wasLinkBroadcast else { return env.pointee.drop(packet, .ipNotForUs, .tcp) }
      packet.pull(ip.headerLength)
      receiveTCP(packet, ip)
    case IPProtocol.udp:
      receiveUDP(packet, ip)
    case IPProtocol.icmp:
      receiveICMP(packet, ip)
    case IPProtocol.igmp:
      if steering.index != 0 {
        return handOver(packet, to: 0, wasLinkBroadcast: ip.wasLinkBroadcast, isDelivered: true)
      }
      env.pointee.statistics.count(.igmpInMsgs)
      receiveIGMP(packet, ip)
    default:
      if isTaken || offerToRaw(packet, ip, start: packet.storage.pointee.data) {
        return env.pointee.pool.release(packet)
      }
      if ip.isOurs {
        reportError(
          ICMPHeader.destinationUnreachable, ICMPHeader.Unreachable.proto, about: packet,
          wasLinkBroadcast: ip.wasLinkBroadcast)
      }
      env.pointee.drop(packet, .ipUnknownProtocol, .ip)
    }
  }

  // MARK: ICMPv4

  /// How a message of either family begins: counted, found sound, and brought to the stack that it is about. nil where the packet
  /// is gone.
  mutating func takeICMP(
    _ packet: PacketBuffer, _ ip: IPPacketInfo, overheard: Bool = false
  ) -> (header: ICMPHeader, error: ICMPError?)? {
    let env = environment
    let isIPv4 = ip.source.isIPv4
    let (messages, errors) = isIPv4 ? (Counter.icmpInMsgs, Counter.icmpInErrors) : (.icmp6InMsgs, .icmp6InErrors)
    if !overheard { env.pointee.statistics.count(messages) }
    packet.pull(ip.headerLength)
    guard let icmp = ICMPHeader(packet.readable) else {
      env.pointee.statistics.count(errors)
      env.pointee.drop(packet, .icmpMalformed, .icmp)
      return nil
    }
    let pseudo =
      isIPv4
      ? 0
      : Checksum.pseudoHeader(
        source: ip.source, destination: ip.destination, proto: IPProtocol.icmpv6, length: packet.count)
    guard
      packet.storage.pointee.checksumState == .verified || Checksum.fold(packet.checksum(from: 0, pseudo)) == 0xffff
    else {
      env.pointee.statistics.count(errors)
      env.pointee.drop(packet, .icmpChecksum, .icmp)
      return nil
    }
    let error = isIPv4 ? ICMPError(v4: packet.readable) : ICMPError(v6: packet.readable)
    // Echo replies are for datagram sockets, which are in the first stack.
    var owner = steering.index
    let echoReply = isIPv4 ? ICMPHeader.echoReply : ICMPv6.echoReply
    if let error { owner = self.owner(of: error) } else if icmp.type == echoReply { owner = 0 }
    if steering.isShared, owner != steering.index {
      // It may be about what a raw socket sent, too.
      if steering.index == 0, rawProtocols.count > 0, let error, owns(error.quoted.local.address) {
        errorArrives(error, in: packet, ip)
      }
      env.pointee.statistics.count(messages, -1)
      packet.push(ip.headerLength)
      handOver(packet, to: owner, isDelivered: true)
      return nil
    }
    if !overheard {
      offerToRaw(packet, ip, start: packet.storage.pointee.data &- ip.headerLength)
      traceICMP(isIPv4 ? .icmpIn : .icmp6In, icmp.type, icmp.code, local: ip.destination, remote: ip.source)
    }
    return (icmp, error)
  }

  private mutating func receiveICMP(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    guard let (icmp, error) = takeICMP(packet, ip) else { return }
    if icmp.type == ICMPHeader.echoRequest {
      env.pointee.statistics.count(.icmpInEchos)
      let ignored =
        env.pointee.settings.icmpEchoIgnoreAll || !ip.isOurs && env.pointee.settings.icmpEchoIgnoreBroadcasts
      if ignored { return env.pointee.drop(packet, .icmpBroadcastEcho, .icmp) }
      ICMPv4Messages.makeEchoReply(packet)
      env.pointee.statistics.count(.icmpOutEchoReps)
      return sendICMP(
        reusing: packet, from: ip.isOurs ? ip.destination : nil, to: ip.source, typeOfService: ip.typeOfService)
    }
    if icmp.type == ICMPHeader.destinationUnreachable { env.pointee.statistics.count(.icmpInDestUnreachs) }
    if icmp.type == ICMPHeader.timeExceeded { env.pointee.statistics.count(.icmpInTimeExcds) }
    if icmp.type == ICMPHeader.echoReply, receiveEchoReply(packet, ip) { return }
    if let error, owns(error.quoted.local.address) { errorArrives(error, in: packet, ip) }
    env.pointee.pool.release(packet)
  }

  /// An ICMP error about something we sent: the route learns the MTU, the socket the error (RFC 1122 §3.2.2.1,
  /// §4.2.3.9; RFC 5927 §4 on what to believe).
  /// `message` starts at the ICMP header.
  mutating func errorArrives(_ error: ICMPError, in message: PacketBuffer, _ ip: IPPacketInfo) {
    message.storage.pointee.timeToLive = ip.timeToLive
    message.storage.pointee.typeOfService = ip.typeOfService
    let env = environment
    switch error.proto {
    case IPProtocol.tcp:
      // What a raw socket sent has no connection.
      guard let tcb = demux.find(error.quoted, in: tcbs) else { break }
      // A blind attacker does not know what is in flight.
      guard error.sequence >= tcb.pointee.snd.una, error.sequence <= tcb.pointee.snd.nxt else { return }
      if let mtu = error.nextHopMTU { return pathShrank(to: mtu, error, tcb) }
      guard let meaning = error.meaning else { return }
      let before = tcb.pointee.state
      if tcb.pointee.state == .synSent || tcb.pointee.state == .synReceived && tcb.pointee.parent == nil {
        // While connecting every error counts (Linux, tcp_v4_err).
        if meaning.fatal || meaning.error == .hostUnreachable || meaning.error == .networkUnreachable {
          tcb.pointee.abort(meaning.error, env)
          env.pointee.statistics.count(.tcpAttemptFails)
        }
      } else {
        tcb.pointee.softError = meaning.error
      }
      settle(tcb, before: before)
    default: break
    }
    if error.proto != IPProtocol.tcp, let mtu = error.nextHopMTU, isDatagramOurs(error) {
      _ = pathShrank(to: mtu, error)
    }
    datagramErrorArrives(error, in: message, from: ip.source)
  }

  /// Whether some socket may have sent what the error is about. All connections to there will follow what is learned from it.
  private func isDatagramOurs(_ error: ICMPError) -> Bool {
    if rawProtocols.count > 0 { return true }
    guard error.proto == IPProtocol.udp else { return pingIdentifiers.count > 0 }
    return datagramPorts.find(
      source: error.quoted.remote, destination: error.quoted.local, key: environment.pointee.secret, in: datagrams)
      != nil
  }

  /// The new path MTU, if it is smaller than the one in use.
  private mutating func pathShrank(to reported: Int, _ error: ICMPError) -> Int? {
    routes.fragmentationNeeded(
      error.quoted.remote.address, reported: reported, packetLength: error.quotedLength, now: environment.pointee.now,
      settings: environment.pointee.settings)
  }

  private mutating func pathShrank(to reported: Int, _ error: ICMPError, _ tcb: TCBPointer) {
    let env = environment
    guard let mtu = pathShrank(to: reported, error) else { return }
    tcb.pointee.pathMTU = mtu
    tcb.pointee.updateSegmentSize(env)
    tcb.pointee.trace(.pathMTU, .info, a: Int64(mtu), env)
    // What is out was too large: all of it goes again, in smaller segments (RFC 1191 §6.4).
    tcb.pointee.scoreboard.markAllLost()
    tcb.pointee.work.insert(.output)
    settle(tcb, before: tcb.pointee.state)
  }

  // MARK: Trace

  func traceARP(_ kind: TraceKind, _ arp: ARPPacket) {
    guard environment.pointee.trace.allows(.arp, .debug) else { return }
    var event = TraceEvent(environment.pointee.now, .arp, .debug, kind)
    event.a = Int64(arp.senderProtocol.bits)
    event.b = Int64(arp.targetProtocol.bits)
    environment.pointee.trace.append(event)
  }

  func traceReassembled(_ whole: PacketBuffer) {
    guard environment.pointee.trace.allows(.ip, .debug) else { return }
    var event = TraceEvent(environment.pointee.now, .ip, .debug, .reassembled)
    event.a = Int64(whole.count)
    environment.pointee.trace.append(event)
  }

  func traceICMP(_ kind: TraceKind, _ type: UInt8, _ code: UInt8, local: IPAddress, remote: IPAddress) {
    guard environment.pointee.trace.allows(.icmp, .debug) else { return }
    var event = TraceEvent(environment.pointee.now, .icmp, .debug, kind)
    event.tuple = FourTuple(local: Endpoint(local, 0), remote: Endpoint(remote, 0))
    event.a = Int64(type) << 8 | Int64(code)
    environment.pointee.trace.append(event)
  }
}
