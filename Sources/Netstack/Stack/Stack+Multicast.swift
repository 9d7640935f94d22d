// Owns: joining and leaving multicast groups, and speaking of it to routers. Read first: ip(7) on IP_ADD_MEMBERSHIP and its kin;
// Linux's ip_mc_source for what each call refuses; RFC 3376 §5, §7.2.1 (an old querier); RFC 3810 §5.

import Wire

extension Stack {
  /// A change of one socket's memberships.
  package enum MembershipChange: Sendable {
    case join, leave
    /// MCAST_JOIN_SOURCE_GROUP, MCAST_LEAVE_SOURCE_GROUP
    case joinSource(IPAddress), leaveSource(IPAddress)
    /// MCAST_BLOCK_SOURCE, MCAST_UNBLOCK_SOURCE
    case block(IPAddress), unblock(IPAddress)
  }

  package mutating func changeMembership(
    _ socket: SocketHandle, _ group: IPAddress, _ change: MembershipChange, now: Instant
  ) throws(SocketError) {
    environment.pointee.now = now
    let state = try datagram(socket)
    guard group.isMulticast else { throw .invalidArgument }
    switch change {
    case .join:
      if Self.membership(state, group) != nil { throw .addressInUse }
      try add(state, group, .all)
    case .leave:
      guard let at = Self.membership(state, group) else { throw .addressNotAvailable }
      Self.remove(state, at)
    case .joinSource(let source):
      if Self.membership(state, group) == nil { try add(state, group, SourceFilter(isInclude: true)) }
      try addSource(state, group, source, include: true)
    case .block(let source):
      try addSource(state, group, source, include: false)
    case .leaveSource(let source):
      try removeSource(state, group, source, include: true)
    case .unblock(let source):
      try removeSource(state, group, source, include: false)
    }
    refresh(group)
    flush()
  }

  static func membership(_ state: DatagramPointer, _ group: IPAddress) -> Int? {
    for i in 0..<state.pointee.membershipCount {
      if state.pointee.memberships.unsafelyUnwrapped[i].group == group { return i }
    }
    return nil
  }

  private func add(_ state: DatagramPointer, _ group: IPAddress, _ filter: SourceFilter) throws(SocketError) {
    guard state.pointee.membershipCount < MulticastMembership.mostPerSocket else { throw .noBufferSpace }
    if state.pointee.memberships == nil {
      state.pointee.memberships = .allocate(capacity: MulticastMembership.mostPerSocket)
    }
    (state.pointee.memberships.unsafelyUnwrapped + state.pointee.membershipCount)
      .initialize(to: MulticastMembership(group: group, filter: filter))
    state.pointee.membershipCount += 1
  }

  private static func remove(_ state: DatagramPointer, _ at: Int) {
    state.pointee.membershipCount -= 1
    let memberships = state.pointee.memberships.unsafelyUnwrapped
    memberships[at] = memberships[state.pointee.membershipCount]
  }

  /// A filter that names sources keeps its mode; an empty one may turn.
  private func filter(
    _ state: DatagramPointer, _ group: IPAddress, include: Bool
  ) throws(SocketError) -> UnsafeMutablePointer<MulticastMembership> {
    guard let at = Self.membership(state, group) else { throw .invalidArgument }
    let membership = state.pointee.memberships.unsafelyUnwrapped + at
    if membership.pointee.filter.isInclude != include {
      guard membership.pointee.filter.count == 0 else { throw .invalidArgument }
      membership.pointee.filter.isInclude = include
    }
    return membership
  }

  private func addSource(
    _ state: DatagramPointer, _ group: IPAddress, _ source: IPAddress, include: Bool
  ) throws(SocketError) {
    let membership = try filter(state, group, include: include)
    if membership.pointee.filter.count >= SourceFilter.mostPerSocket { throw .noBufferSpace }
    if membership.pointee.filter.contains(source) { throw .addressNotAvailable }
    membership.pointee.filter.insert(source)
  }

  private func removeSource(
    _ state: DatagramPointer, _ group: IPAddress, _ source: IPAddress, include: Bool
  ) throws(SocketError) {
    let membership = try filter(state, group, include: include)
    guard membership.pointee.filter.contains(source) else { throw .addressNotAvailable }
    membership.pointee.filter.remove(source)
    // INCLUDE of nothing is as good as to leave.
    if include, membership.pointee.filter.count == 0, let at = Self.membership(state, group) { Self.remove(state, at) }
  }

  /// A socket that is closed leaves its groups.
  mutating func leaveAll(_ state: DatagramPointer) {
    guard let memberships = state.pointee.memberships else { return }
    let count = state.pointee.membershipCount
    state.pointee.membershipCount = 0
    for i in 0..<count { refresh(memberships[i].group) }
    state.pointee.memberships = nil
    memberships.deallocate()
    flush()
  }

  /// The program has ended.
  mutating func leaveEveryGroup(now: Instant) {
    environment.pointee.now = now
    var index: UInt32 = 0
    while let used = datagrams.nextInUse(from: index) {
      index = used + 1
      leaveAll(datagrams.pointer(at: used))
    }
  }

  /// Computes the interface's filter of `group` from those of all sockets (RFC 3376 §3.2), and says what has changed. The group of
  /// each of our IPv6 addresses is wanted, too: a switch that snoops would else keep neighbour solicitations from us (RFC 4541 §3).
  mutating func refresh(_ group: IPAddress) {
    var wanted: SourceFilter? = addresses.solicited(by: group) ? .all : nil
    var index: UInt32 = 0
    while let used = datagrams.nextInUse(from: index) {
      index = used + 1
      let state = datagrams.pointer(at: used)
      guard let at = Self.membership(state, group) else { continue }
      let filter = state.pointee.memberships.unsafelyUnwrapped[at].filter
      wanted = wanted?.merged(with: filter) ?? filter
    }
    // Everybody is always a member of these, and nobody says so.
    guard group != IGMP.allSystems else { return }
    multicast.set(group, wanted ?? SourceFilter(isInclude: true), now: environment.pointee.now)
    advanceMulticast()
  }

  /// Whether packets to `group` are taken in at all; what a socket makes of their sources is seen later.
  func listens(to group: IPAddress) -> Bool {
    if multicast.isMember(group) || group == IGMP.allSystems { return true }
    // All nodes, and the group of each of our addresses (RFC 4291 §2.8).
    guard isIPv6On, group.isMulticast, !group.isIPv4 else { return false }
    return group == .allNodes || group == IPAddress(high: 0xff01 << 48, low: 1) || addresses.solicited(by: group)
  }

  /// Whether a socket hears what `source` says to `group` (Linux's ip_mc_sf_allow).
  func hears(_ state: DatagramPointer, _ group: IPAddress, from source: IPAddress) -> Bool {
    guard let at = Self.membership(state, group) else { return state.pointee.multicastAll }
    return state.pointee.memberships.unsafelyUnwrapped[at].filter.allows(source)
  }

  /// Whether a program may name the interface by `address`: ours, or the host's at the device's other end, which is the one that the
  /// machine's list of interfaces shows.
  package func isInterface(_ address: IPAddress) -> Bool {
    if owns(address) { return true }
    return device.hostAddress.map { IPAddress($0) == address } ?? false
  }

  /// Our address, of the family of what a datagram was for: that itself, unless it was for many.
  package func localAddress(for destination: IPAddress) -> IPAddress {
    owns(destination) ? destination : IPAddress(addresses.ipv4)
  }

  // MARK: IGMP

  mutating func receiveIGMP(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    packet.pull(ip.headerLength)
    guard packet.linearCount >= 8, Checksum.fold(packet.checksum(from: 0)) == 0xffff else {
      return env.pointee.drop(packet, .igmpMalformed, .ip)
    }
    if let query = IGMP.Query(packet.readable) {
      if query.isVersion2 { igmpVersion2Until = env.pointee.now + Self.olderQuerierPresent }
      multicast.queried(
        query.group, sources: query.sources, within: query.within, now: env.pointee.now, random: &env.pointee.random)
      rearmMulticastTimer()
    } else if packet.readable[0] == IGMP.reportVersion2, env.pointee.now < igmpVersion2Until {
      multicast.answeredByOther(IPAddress(IPv4Address(bits: UnsafeRawPointer(packet.base).bigEndian32(at: 4))))
      rearmMulticastTimer()
    }
    env.pointee.pool.release(packet)
  }

  /// RFC 3376 §8.12: robustness times the query interval, and a response interval.
  private static var olderQuerierPresent: Interval { .seconds(2 * 125 + 10) }

  mutating func advanceMulticast() {
    let env = environment
    while let record = multicast.nextRecord(now: env.pointee.now, random: &env.pointee.random) { report(record) }
    rearmMulticastTimer()
  }

  private mutating func rearmMulticastTimer() {
    if let deadline = multicast.nextDeadline() {
      environment.pointee.wheel.schedule(multicastTimer, at: deadline)
    } else {
      environment.pointee.wheel.cancel(multicastTimer)
    }
  }

  private mutating func report(_ record: MulticastRecord) {
    guard record.group.isIPv4 else { return reportIPv6(record) }
    let env = environment
    guard let packet = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .ip) }
    guard env.pointee.now < igmpVersion2Until else {
      IGMP.writeReport(record, to: packet)
      return sendIGMP(packet, to: IGMP.allVersion3Routers)
    }
    switch record.kind {
    case .isInclude, .isExclude, .toExclude, .allowNew:
      IGMP.writeVersion2(IGMP.reportVersion2, record.group, to: packet)
      sendIGMP(packet, to: record.group)
    case .toInclude, .blockOld:
      guard !multicast.isMember(record.group) else { return env.pointee.pool.release(packet) }
      IGMP.writeVersion2(IGMP.leaveVersion2, record.group, to: packet)
      sendIGMP(packet, to: IGMP.allRouters)
    }
  }

  private mutating func sendIGMP(_ packet: PacketBuffer, to destination: IPAddress) {
    let env = environment
    env.pointee.statistics.count(.igmpOutMsgs)
    nextIdentification &+= 1
    let length = IPv4Header.minimumLength + 4
    // The option stands between the header proper and the message.
    packet.push(4).storeBigEndian32(IGMP.routerAlert, at: 0)
    let header = IPv4Header(
      proto: IPProtocol.igmp, source: addresses.ipv4, destination: destination.v4, payloadLength: packet.count,
      typeOfService: 0xc0, identification: nextIdentification, flags: IPv4Header.flagDontFragment, timeToLive: 1)
    let base = packet.push(IPv4Header.minimumLength)
    header.write(to: base)
    base.storeByte(0x40 | UInt8(length / 4), at: 0)
    base.storeBigEndian16(0, at: 10)
    base.storeBigEndian16(~Checksum.fold(Checksum.sum(UnsafeRawBufferPointer(start: base, count: length))), at: 10)
    env.pointee.statistics.count(.ipOutRequests)
    packet.storage.pointee.checksumStart = UInt16(length)
    transmitIP(packet, nextHop: destination)
  }

  // MARK: MLD

  /// `packet` starts at the ICMPv6 header.
  mutating func receiveMLD(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    // From a router on this link (RFC 3810 §5.1.14).
    guard ip.source.isLinkLocal, ip.timeToLive == 1 else { return env.pointee.pool.release(packet) }
    // Routers that speak version 1 understand nothing of our answers; there are hardly any left.
    if let query = MLD.Query(packet.readable) {
      multicast.queried(
        query.group, sources: query.sources, within: query.within, now: env.pointee.now, random: &env.pointee.random)
      rearmMulticastTimer()
    }
    env.pointee.pool.release(packet)
  }

  /// From a link-local address, with a hop limit of 1 and a router alert (RFC 3810 §5).
  private mutating func reportIPv6(_ record: MulticastRecord) {
    let env = environment
    // Nobody speaks of all nodes, nor of what stays on this machine (RFC 3810 §6).
    guard record.group != .allNodes, record.group.high >> 48 & 0xf > 1 else { return }
    var source = IPAddress.anyIPv6
    for i in 0..<addresses.count where !addresses[i].address.isIPv4 && addresses[i].address.isLinkLocal {
      source = addresses[i].address
    }
    guard let packet = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .ip) }
    MLD.writeReport(record, to: packet)
    let pseudo = Checksum.pseudoHeader(
      source: source, destination: MLD.allRouters, proto: IPProtocol.icmpv6, length: packet.count)
    packet.base.storeBigEndian16(~Checksum.fold(packet.checksum(from: 0, pseudo)), at: 2)
    MLD.writeHeader(to: packet.push(MLD.headerLength))
    env.pointee.statistics.count(.icmp6OutMsgs)
    sendIPv6(
      packet, proto: IPv6Extension.hopByHop, source: source, destination: MLD.allRouters, nextHop: MLD.allRouters,
      trafficClass: 0, hopLimit: 1, flowLabel: 0, mtu: device.mtu)
  }
}
