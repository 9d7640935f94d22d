// Owns: the way out: segment plans become packets, packets get IPv4 and Ethernet headers, frames wait for the device. IPv6's
// header: Stack+TransmitIPv6.swift.
// Read first: RFC 1122 §3.3.1, §2.3.2; RFC 9293 §3.1 for the checksum.

import Wire

extension Stack {
  // MARK: The device's side

  package func hasTransmit() -> Bool { !transmitQueue.isEmpty }

  /// The next frame: linear bytes and fragments, with what virtio_net_hdr needs in the storage.
  package mutating func nextTransmit() -> PacketBuffer? { transmitQueue.removeFirst() }

  /// The device has the frame's bytes (or it was thrown away).
  package mutating func transmitted(_ packet: PacketBuffer) {
    environment.pointee.statistics.count(.txFrames)
    environment.pointee.statistics.count(.txBytes, packet.count)
    recycle(packet)
  }

  /// The device could not take in a super-frame of more than 64 KB: none for a while, or no more at all.
  package mutating func limitSuperPackets(forGood: Bool, now: Instant) {
    bigPacketsFrom = forGood ? .distantFuture : now + .seconds(10)
  }

  /// Takes back a packet that was to be sent: what it points into may change again.
  mutating func recycle(_ packet: PacketBuffer) {
    let owner = packet.storage.pointee.pinnedBy
    let lender = packet.storage.pointee.lentBy
    if lender != 0 { datagrams.pointer(at: lender - 1).pointee.lentFrames -= 1 }
    environment.pointee.pool.release(packet)
    guard owner != 0 else { return }
    let tcb = tcbs.pointer(at: owner - 1)
    tcb.pointee.sendBuffer.unpin()
    guard !tcb.pointee.sendBuffer.isPinned else { return }
    // Acknowledged bytes that were still pinned are room only now: no acknowledgment will come that tells the program.
    tcb.pointee.spaceFreed(environment)
    noteChanged(tcb)
    if tcb.pointee.isZombie { releaseIfOver(tcb) }
  }

  mutating func discard(_ packet: PacketBuffer, _ reason: DropReason, _ category: TraceCategory) {
    environment.pointee.noteDrop(reason, category)
    recycle(packet)
  }

  // MARK: TCP

  /// Most payload in one super-segment, bytes: beyond 64 KB only to the host at the device's other end. A kernel that forwards
  /// such frames cuts them itself, at a fraction of the speed.
  private func superSegment(_ tcb: TCBPointer) -> Int {
    let address = tcb.pointee.tuple.remote.address
    guard address.isIPv4 ? device.tcpSegmentation4 : device.tcpSegmentation6 else { return 0 }
    let isHost = device.isHost(address) && environment.pointee.now >= bigPacketsFrom && !owns(address)
    return (isHost ? device.largestSuperPacket : min(device.largestSuperPacket, 65535)) - Self.mostHeaders
  }

  /// IPv4 and TCP with all their options; IPv6's header with a jumbo payload option is shorter.
  private static var mostHeaders: Int { 120 }

  mutating func transmit(_ tcb: TCBPointer) {
    // Before anything is cut to size: the path may have become narrower.
    if tcb.pointee.state != .closed { _ = refreshRoute(tcb) }
    let limit = superSegment(tcb)
    while let plan = tcb.pointee.nextSegment(limit: limit, environment) { send(plan, of: tcb) }
  }

  /// Payload up to this many bytes is copied behind the headers: cheaper than a fragment and its pin.
  private static var copyThreshold: Int { 512 }

  private mutating func send(_ plan: SegmentPlan, of tcb: TCBPointer) {
    let env = environment
    env.pointee.statistics.count(
      .tcpOutSegs, max(1, (plan.payloadLength + plan.segmentSize - 1) / max(plan.segmentSize, 1)))
    guard let packet = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .tcp) }
    if plan.payloadLength > 0 {
      let (first, second, third) = tcb.pointee.sendBuffer.slices(at: plan.payloadOffset, length: plan.payloadLength)
      // What is lent is the device's to read: a mapped file may have become shorter.
      if plan.payloadLength <= Self.copyThreshold, third.count == 0 {
        append(first, to: packet)
        append(second, to: packet)
      } else {
        add(first, to: packet)
        add(second, to: packet)
        add(third, to: packet)
        tcb.pointee.sendBuffer.pin()
        packet.storage.pointee.pinnedBy = tcb.pointee.index + 1
      }
    }
    let optionLength = plan.options.encodedLength
    let headerLength = TCPHeader.minimumLength + optionLength
    let base = packet.push(headerLength)
    TCPHeader(
      sourcePort: tcb.pointee.tuple.local.port, destinationPort: tcb.pointee.tuple.remote.port,
      sequence: plan.sequence, acknowledgment: plan.flags.contains(.ack) ? tcb.pointee.rcv.nxt : SequenceNumber(0),
      headerLength: headerLength, flags: plan.flags, window: plan.window
    ).write(to: base)
    plan.options.write(to: base + TCPHeader.minimumLength)
    if plan.payloadLength > plan.segmentSize, plan.segmentSize > 0 {
      packet.storage.pointee.segmentationType = tcb.pointee.tuple.remote.address.isIPv4 ? .tcpv4 : .tcpv6
      packet.storage.pointee.segmentSize = UInt16(plan.segmentSize)
    }
    completeChecksum(
      packet, offset: TCPHeader.checksumOffset, proto: IPProtocol.tcp, source: tcb.pointee.tuple.local.address,
      destination: tcb.pointee.tuple.remote.address)
    guard refreshRoute(tcb) else { return discard(packet, .ipNoRoute, .ip) }
    let segments = plan.segmentSize > 0 ? max(1, (plan.payloadLength + plan.segmentSize - 1) / plan.segmentSize) : 1
    let identification = tcb.pointee.ipIdentification
    tcb.pointee.ipIdentification &+= UInt16(truncatingIfNeeded: segments)
    guard tcb.pointee.tuple.remote.address.isIPv4 else {
      return sendIPv6(
        packet, proto: IPProtocol.tcp, source: tcb.pointee.tuple.local.address,
        destination: tcb.pointee.tuple.remote.address, nextHop: tcb.pointee.nextHop,
        trafficClass: tcb.pointee.options.trafficClass, hopLimit: tcb.pointee.options.hopLimit,
        flowLabel: tcb.pointee.flowLabel, mtu: tcb.pointee.pathMTU)
    }
    let options = (tos: tcb.pointee.options.typeOfService, ttl: tcb.pointee.options.timeToLive)
    sendIPv4(
      packet, proto: IPProtocol.tcp, source: tcb.pointee.tuple.local.address.v4,
      destination: tcb.pointee.tuple.remote.address.v4, nextHop: tcb.pointee.nextHop, typeOfService: options.tos,
      timeToLive: options.ttl, identification: identification,
      flags: tcb.pointee.options.mtuDiscover == 0 ? 0 : IPv4Header.flagDontFragment)
  }

  private func append(_ bytes: UnsafeRawBufferPointer, to packet: PacketBuffer) {
    guard let from = bytes.baseAddress, bytes.count > 0 else { return }
    packet.put(bytes.count).copyMemory(from: from, byteCount: bytes.count)
  }

  private func add(_ bytes: UnsafeRawBufferPointer, to packet: PacketBuffer) {
    guard let from = bytes.baseAddress, bytes.count > 0 else { return }
    packet.addFragment(UnsafeMutableRawPointer(mutating: from), bytes.count)
  }

  /// Fills the transport checksum in, or leaves it to the device with the pseudo-header's sum in its place.
  /// `packet` starts at the transport header.
  func completeChecksum(_ packet: PacketBuffer, offset: Int, proto: UInt8, source: IPAddress, destination: IPAddress) {
    let length = packet.count
    // The length in a super-frame's pseudo-header is the whole one; the device puts each segment's own in.
    let pseudo = Checksum.pseudoHeader(source: source, destination: destination, proto: proto, length: length)
    if device.checksumOffload {
      packet.base.storeBigEndian16(Checksum.fold(pseudo), at: offset)
      packet.storage.pointee.checksumState = .partial
      packet.storage.pointee.checksumOffset = UInt16(offset)
      return
    }
    var sum = ~Checksum.fold(packet.checksum(from: 0, pseudo))
    // UDP says "none" with zero (RFC 768).
    if sum == 0, proto == IPProtocol.udp { sum = 0xffff }
    packet.base.storeBigEndian16(sum, at: offset)
  }

  /// The connection's next hop and path MTU, looked up again when a route changed. False where there is no way any more, or its own
  /// address is not ours any more: what it sends is lost until it gives up, as in Linux, or until both are there again.
  private mutating func refreshRoute(_ tcb: TCBPointer) -> Bool {
    guard tcb.pointee.neighborGeneration != routes.generation else { return true }
    let now = environment.pointee.now
    guard let route = routes.lookup(tcb.pointee.tuple.remote.address, now: now), !route.isRefusal,
      owns(tcb.pointee.tuple.local.address)
    else {
      environment.pointee.statistics.count(tcb.pointee.tuple.remote.address.isIPv4 ? .ipOutNoRoutes : .ip6OutNoRoutes)
      return false
    }
    tcb.pointee.neighborGeneration = routes.generation
    tcb.pointee.nextHop = route.nextHop
    if tcb.pointee.pathMTU != route.mtu {
      tcb.pointee.pathMTU = route.mtu
      tcb.pointee.updateSegmentSize(environment)
    }
    return true
  }

  /// RFC 9293 §3.5.2: the RST that answers a segment for which there is no connection.
  mutating func sendReset(for segment: Segment, _ ip: IPPacketInfo) {
    guard !segment.flags.contains(.rst) else { return }
    let hasAck = segment.flags.contains(.ack)
    let header = TCPHeader(
      sourcePort: segment.header.destinationPort, destinationPort: segment.header.sourcePort,
      sequence: hasAck ? segment.header.acknowledgment : SequenceNumber(0),
      acknowledgment: hasAck ? SequenceNumber(0) : segment.end, headerLength: TCPHeader.minimumLength,
      flags: hasAck ? .rst : [.rst, .ack], window: 0)
    environment.pointee.statistics.count(.tcpOutRsts)
    sendBare(
      header, TCPOptions(), local: ip.destination, remote: ip.source, timeToLive: 0, typeOfService: 0)
  }

  /// A RST from a connection that ends with nobody to tell it more politely.
  mutating func sendReset(of tcb: TCBPointer) {
    let header = TCPHeader(
      sourcePort: tcb.pointee.tuple.local.port, destinationPort: tcb.pointee.tuple.remote.port,
      sequence: tcb.pointee.snd.nxt, acknowledgment: tcb.pointee.rcv.nxt, headerLength: TCPHeader.minimumLength,
      flags: [.rst, .ack], window: 0)
    environment.pointee.statistics.count(.tcpOutRsts)
    sendBare(
      header, TCPOptions(), local: tcb.pointee.tuple.local.address, remote: tcb.pointee.tuple.remote.address,
      timeToLive: tcb.pointee.sentTimeToLive, typeOfService: tcb.pointee.sentTypeOfService)
  }

  /// A segment without connection: RST, or TIME-WAIT's acknowledgment. `header.headerLength` leaves room for `options`.
  mutating func sendBare(
    _ header: TCPHeader, _ options: TCPOptions, local: IPAddress, remote: IPAddress, timeToLive: Int,
    typeOfService: UInt8
  ) {
    let env = environment
    guard let packet = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .tcp) }
    let base = packet.push(header.headerLength)
    header.write(to: base)
    options.write(to: base + TCPHeader.minimumLength)
    env.pointee.statistics.count(.tcpOutSegs)
    if env.pointee.trace.allows(.tcp, .debug) {
      var event = TraceEvent(env.pointee.now, .tcp, .debug, .segmentOut)
      event.tuple = FourTuple(
        local: Endpoint(local, header.sourcePort), remote: Endpoint(remote, header.destinationPort))
      event.flags = header.flags
      env.pointee.trace.append(event)
    }
    completeChecksum(
      packet, offset: TCPHeader.checksumOffset, proto: IPProtocol.tcp, source: local, destination: remote)
    route(
      packet, proto: IPProtocol.tcp, source: local, destination: remote, typeOfService: typeOfService,
      timeToLive: timeToLive, dontFragment: true)
  }

  // MARK: IP

  /// The way to `destination`, with the source that a socket without an address of its own sends from; nil where there is none.
  func decide(_ destination: IPAddress, now: Instant) -> RouteDecision? {
    guard var decision = routes.lookup(destination, now: now) else { return nil }
    if decision.source.isUnspecified {
      guard let source = AddressSelection.source(for: destination, among: addresses) else { return nil }
      decision.source = source
    }
    return decision
  }

  /// Looks the way up and sends.
  mutating func route(
    _ packet: PacketBuffer, proto: UInt8, source: IPAddress, destination: IPAddress, typeOfService: UInt8,
    timeToLive: Int, dontFragment: Bool
  ) {
    guard let route = routes.lookup(destination, now: environment.pointee.now), !route.isRefusal else {
      environment.pointee.statistics.count(destination.isIPv4 ? .ipOutNoRoutes : .ip6OutNoRoutes)
      return discard(packet, .ipNoRoute, .ip)
    }
    guard destination.isIPv4 else {
      return sendIPv6(
        packet, proto: proto, source: source, destination: destination, nextHop: route.nextHop,
        trafficClass: typeOfService, hopLimit: timeToLive, flowLabel: 0, mtu: route.mtu)
    }
    nextIdentification &+= 1
    sendIPv4(
      packet, proto: proto, source: source.v4, destination: destination.v4, nextHop: route.nextHop,
      typeOfService: typeOfService, timeToLive: timeToLive, identification: nextIdentification,
      flags: dontFragment ? IPv4Header.flagDontFragment : 0, mtu: route.mtu)
  }

  // MARK: IPv4

  /// `packet` starts at the transport header. Larger than `mtu` (and no super-frame): cut, unless DF is set.
  mutating func sendIPv4(
    _ packet: PacketBuffer, proto: UInt8, source: IPv4Address, destination: IPv4Address, nextHop: IPAddress,
    typeOfService: UInt8, timeToLive: Int, identification: UInt16, flags: UInt16, mtu: Int = 65535
  ) {
    let env = environment
    env.pointee.statistics.count(.ipOutRequests)
    let header = IPv4Header(
      proto: proto, source: source, destination: destination, payloadLength: packet.count, typeOfService: typeOfService,
      identification: identification, flags: flags,
      timeToLive: timeToLive > 0 ? UInt8(timeToLive) : env.pointee.settings.ipDefaultTTL)
    header.write(to: packet.push(IPv4Header.minimumLength))
    if owns(IPAddress(destination)) { return loopBack(packet) }
    packet.storage.pointee.checksumStart = UInt16(IPv4Header.minimumLength)
    if header.totalLength > mtu, packet.storage.pointee.segmentationType == .none {
      return fragment(packet, nextHop: nextHop, mtu: mtu)
    }
    transmitIP(packet, nextHop: nextHop)
  }

  private mutating func fragment(_ packet: PacketBuffer, nextHop: IPAddress, mtu: Int) {
    let env = environment
    guard var pieces = Fragmentation.cut(packet, mtu: mtu, pool: &env.pointee.pool) else {
      env.pointee.statistics.count(.ipFragFails)
      return discard(packet, .noBuffer, .ip)
    }
    env.pointee.statistics.count(.ipFragOKs)
    env.pointee.statistics.count(.ipFragCreates, pieces.count)
    sendPieces(&pieces, of: packet, nextHop: nextHop)
  }

  mutating func sendPieces(_ pieces: inout PacketQueue, of packet: PacketBuffer, nextHop: IPAddress) {
    let env = environment
    if env.pointee.trace.allows(.ip, .debug) {
      var event = TraceEvent(env.pointee.now, .ip, .debug, .fragmented)
      event.a = Int64(packet.count)
      event.b = Int64(pieces.count)
      env.pointee.trace.append(event)
    }
    recycle(packet)
    while let piece = pieces.removeFirst() { transmitIP(piece, nextHop: nextHop) }
  }

  /// `packet` starts at its IP header, whose length is its `checksumStart`.
  mutating func transmitIP(_ packet: PacketBuffer, nextHop wanted: IPAddress) {
    let env = environment
    let nextHop = isDetecting ? detour(wanted) : wanted
    guard device.linkType == .ethernet else { return transmitQueue.append(packet) }
    let etherType = nextHop.isIPv4 ? EtherType.ipv4 : EtherType.ipv6
    if nextHop.isMulticast { return transmitFrame(packet, to: MACAddress(group: nextHop), etherType) }
    if routes.isBroadcast(nextHop) { return transmitFrame(packet, to: .broadcast, etherType) }
    // A frame that points into a sender's memory cannot wait for an answer: the sender waits for the frame.
    if packet.storage.pointee.pinnedBy != 0,
      tcbs.pointer(at: packet.storage.pointee.pinnedBy - 1).pointee.sendBuffer.isLent,
      neighbors.lookup(nextHop) == nil
    {
      return discard(packet, .neighborQueueFull, .arp)
    }
    let verdict = neighbors.resolve(
      nextHop, packet: packet, now: env.pointee.now, settings: &env.pointee.settings)
    switch verdict {
    case .resolved(let hardware):
      // An old entry is put to the test by being used.
      if neighbors.hasNewDeadline { rearmNeighborTimer() }
      transmitFrame(packet, to: hardware, etherType)
    case .queued(let sendRequest, let dropped):
      if let dropped { discard(dropped, .neighborQueueFull, .arp) }
      if sendRequest { requestNeighbor(nextHop, unicastTo: nil) }
      rearmNeighborTimer()
    case .tableFull:
      discard(packet, .neighborQueueFull, .arp)
    }
  }

  mutating func transmitFrame(_ packet: PacketBuffer, to hardware: MACAddress, _ etherType: UInt16) {
    EthernetHeader(destination: hardware, source: device.hardwareAddress, etherType: etherType)
      .write(to: packet.push(EthernetHeader.length))
    packet.storage.pointee.checksumStart &+= UInt16(EthernetHeader.length)
    transmitQueue.append(packet)
  }

  /// A packet to ourselves comes back as if received: flattened, its checksum known to be right.
  mutating func loopBack(_ packet: PacketBuffer) {
    let env = environment
    guard let copy = env.pointee.pool.allocate() else { return discard(packet, .noBuffer, .ip) }
    let length = packet.count
    let linear = min(length, copy.tailroom)
    _ = packet.copy(from: 0, to: UnsafeMutableRawBufferPointer(start: copy.put(linear), count: linear))
    if length > linear {
      guard length &- linear <= BufferPool.largeSize, env.pointee.pool.attachLarge(copy),
        let large = copy.storage.pointee.large
      else {
        env.pointee.pool.release(copy)
        return discard(packet, .noBuffer, .ip)
      }
      _ = packet.copy(from: linear, to: UnsafeMutableRawBufferPointer(start: large, count: length - linear))
      copy.addFragment(large, length - linear)
    }
    copy.storage.pointee.checksumState = .verified
    copy.storage.pointee.isLooped = true
    copy.storage.pointee.segmentationType = packet.storage.pointee.segmentationType
    copy.storage.pointee.segmentSize = packet.storage.pointee.segmentSize
    copy.storage.pointee.time = env.pointee.now
    recycle(packet)
    loopbackQueue.append(copy)
  }

  // MARK: ICMP

  /// Sends an ICMP message in the packet that asked for it (`packet` starts at the ICMP header, headroom is there).
  /// From the address that it was sent to, or the one that a route to there sends from.
  mutating func sendICMP(
    reusing packet: PacketBuffer, from source: IPAddress?, to destination: IPAddress, typeOfService: UInt8
  ) {
    let env = environment
    env.pointee.statistics.count(.icmpOutMsgs)
    packet.storage.pointee.checksumState = .none
    let base = UnsafeRawPointer(packet.base)
    guard let source = source ?? decide(destination, now: env.pointee.now)?.source else {
      env.pointee.statistics.count(.ipOutNoRoutes)
      return discard(packet, .ipNoRoute, .icmp)
    }
    traceICMP(.icmpOut, base.byte(at: 0), base.byte(at: 1), local: source, remote: destination)
    route(
      packet, proto: IPProtocol.icmp, source: source, destination: destination, typeOfService: typeOfService,
      timeToLive: 0, dontFragment: false)
  }

  /// Sends an ICMP error about a packet that starts at its IPv4 header, if one may be sent.
  mutating func reportError(_ type: UInt8, _ code: UInt8, about packet: PacketBuffer, wasLinkBroadcast: Bool) {
    let env = environment
    guard let header = IPv4Header(quoted: packet.readable) else { return }
    let payload = UnsafeRawBufferPointer(rebasing: packet.readable[min(header.headerLength, packet.linearCount)...])
    guard
      ICMPv4Messages.mayReport(
        header, payload: payload, wasLinkBroadcast: wasLinkBroadcast, isLooped: packet.storage.pointee.isLooped,
        routes: routes)
    else { return }
    guard mayReport(packet, to: IPAddress(header.source)) else { return }
    guard
      let message = ICMPv4Messages.makeError(type: type, code: code, about: packet, pool: &env.pointee.pool)
    else { return env.pointee.noteDrop(.noBuffer, .icmp) }
    if type == ICMPHeader.destinationUnreachable { env.pointee.statistics.count(.icmpOutDestUnreachs) }
    let source = IPAddress(header.destination)
    sendICMP(
      reusing: message, from: owns(source) ? source : nil, to: IPAddress(header.source), typeOfService: 0)
  }

  /// Limits the rate of errors, but for those to ourselves.
  mutating func mayReport(_ packet: PacketBuffer, to source: IPAddress) -> Bool {
    let env = environment
    if packet.storage.pointee.isLooped { return true }
    if icmpLimiter.allows(source, now: env.pointee.now, settings: env.pointee.settings) { return true }
    env.pointee.statistics.count(.icmpOutRateLimited)
    return false
  }

  // MARK: ARP

  mutating func sendARP(_ arp: ARPPacket, to hardware: MACAddress, _ kind: TraceKind) {
    guard device.linkType == .ethernet else { return }
    guard let packet = environment.pointee.pool.allocateForTransmit() else {
      return environment.pointee.noteDrop(.noBuffer, .arp)
    }
    arp.write(to: packet.put(ARPPacket.length))
    traceARP(kind, arp)
    transmitFrame(packet, to: hardware, EtherType.arp)
  }

  /// RFC 5227 §2.3: tells who we are, without waiting for anybody.
  mutating func announce(_ address: IPv4Address) {
    guard device.linkType == .ethernet else { return }
    let arp = ARP.announcement(ourAddress: address, ourHardware: device.hardwareAddress)
    environment.pointee.statistics.count(.arpOutRequests)
    sendARP(arp, to: .broadcast, .arpAnnounce)
  }

  mutating func requestNeighbor(_ who: IPAddress, unicastTo hardware: MACAddress?) {
    guard who.isIPv4 else { return solicitNeighbor(who, unicastTo: hardware) }
    let source = decide(who, now: environment.pointee.now)?.source.v4 ?? addresses.ipv4
    let arp = ARP.request(for: who.v4, ourAddress: source, ourHardware: device.hardwareAddress)
    environment.pointee.statistics.count(.arpOutRequests)
    sendARP(arp, to: hardware ?? .broadcast, .arpRequestOut)
  }
}
