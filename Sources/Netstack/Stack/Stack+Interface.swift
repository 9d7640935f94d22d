// Owns: the interface's addresses and what they bring with them: routes, announcements, neighbour discovery, router discovery, and
// their timers. Read first: RFC 4861 §6.3 (routers), §7 (neighbours), §8 (redirects); RFC 4862 §5 (addresses); RFC 4429 (optimistic
// addresses).
//
// Of several stacks that share the addresses the first asks and answers; what comes in is handed to all, so that each comes to the
// same addresses, routes and neighbours (Stack+Steering.swift).

import Wire

extension Stack {
  // MARK: Addresses

  /// Gives the interface an address. An IPv6 address is used at once while it is found out whether it is ours alone.
  /// False where it has too many already.
  @discardableResult
  package mutating func addAddress(_ new: InterfaceAddress) -> Bool {
    var address = new
    let env = environment
    let isKnown = hasAddress(address.address)
    let isSecond = isOnLink(address.address, address.prefixLength)
    if !address.address.isIPv4, !isKnown {
      address.state = .optimistic
      address.detectedAt = env.pointee.now + Self.detectionTime
    }
    guard addresses.add(address) else { return false }
    let bits = address.address.isIPv4 ? 32 : 128
    routes.add(
      Route(
        .local, prefix: address.address, prefixLength: bits, gateway: nil, source: address.address,
        mtu: Self.loopbackMTU
      ))
    // A router tells for itself which prefixes are on the link. Of several addresses in a network the first is what is sent from
    // (Linux's primary address).
    if address.origin != .autoconfigured, address.prefixLength < bits, !isSecond { addLinkRoute(address) }
    rearmInterfaceTimer()
    guard !isKnown, steering.index == 0 else { return true }
    if address.address.isIPv4 {
      announce(address.address.v4)
    } else {
      // Before the probe, which others answer to the group (RFC 4862 §5.4.2).
      refresh(address.address.solicitedNode)
      probe(address.address)
    }
    return true
  }

  /// What Linux's `lo` brings: all of 127.0.0.0/8 is here, and ::1.
  mutating func addLoopback() {
    let four = IPAddress(IPv4Address(127, 0, 0, 1))
    let six = IPAddress(high: 0, low: 1)
    routes.add(Route(.local, prefix: four, prefixLength: 8, gateway: nil, source: four, mtu: Self.loopbackMTU))
    routes.add(Route(.local, prefix: six, prefixLength: 128, gateway: nil, source: six, mtu: Self.loopbackMTU))
  }

  /// What goes to ourselves goes round in as large packets as IPv4's length field allows.
  static var loopbackMTU: Int { 65535 }

  /// One of the interface's. Looks at them where they lie: a method of theirs would have them copied for each packet.
  @inline(__always)
  func hasAddress(_ address: IPAddress) -> Bool {
    if address.isIPv4, address.v4 == addresses.ipv4 { return true }
    for i in 0..<addresses.count where addresses.keys[i] == address { return true }
    return false
  }

  /// Whether packets to `address` are for us and need no device.
  @inline(__always)
  func owns(_ address: IPAddress) -> Bool { hasAddress(address) || isLoopbackOn && address.isLoopback }

  package mutating func removeAddress(_ address: IPAddress) {
    guard let at = addresses.index(of: address) else { return }
    let old = addresses[at]
    addresses.remove(address)
    routes.remove(prefix: address, prefixLength: address.isIPv4 ? 32 : 128)
    if old.origin != .autoconfigured {
      // The next address of the network takes over (Linux: promote_secondaries).
      if let next = firstOnLink(address, old.prefixLength) {
        addLinkRoute(next)
      } else {
        routes.remove(prefix: address, prefixLength: old.prefixLength)
        installLearnedRoutes()
      }
    }
    if address.isIPv4 {
      routes.remove(source: address)
    } else if steering.index == 0 {
      refresh(address.solicitedNode)
    }
    rearmInterfaceTimer()
  }

  private mutating func addLinkRoute(_ address: InterfaceAddress) {
    routes.add(
      Route(
        prefix: address.address, prefixLength: address.prefixLength, gateway: nil,
        source: address.address.isIPv4 ? address.address : .anyIPv6, mtu: linkMTU(address.address)))
  }

  /// Whether an address is there that brings the network with it.
  private func isOnLink(_ prefix: IPAddress, _ length: Int) -> Bool { firstOnLink(prefix, length) != nil }

  private func firstOnLink(_ prefix: IPAddress, _ length: Int) -> InterfaceAddress? {
    for i in 0..<addresses.count
    where addresses[i].prefixLength == length && addresses[i].address.isIPv4 == prefix.isIPv4
      && addresses[i].origin != .autoconfigured
      && addresses[i].address.commonPrefix(prefix) >= length + (prefix.isIPv4 ? 96 : 0)
    {
      return addresses[i]
    }
    return nil
  }

  package mutating func setGateway(_ gateway: IPAddress, source: IPAddress) {
    routes.add(
      Route(
        prefix: gateway.isIPv4 ? .anyIPv4 : .anyIPv6, prefixLength: 0, gateway: gateway, source: source,
        mtu: linkMTU(gateway)))
  }

  func linkMTU(_ address: IPAddress) -> Int {
    address.isIPv4 ? min(device.mtu, lease?.mtu ?? device.mtu) : min(device.mtu, routers.mtu)
  }

  // MARK: IPv6 begins

  /// A link-local address, and routers are asked for (RFC 4861 §6.3.7, RFC 4862 §5.3).
  mutating func beginIPv6(_ gateway: IPAddress?) {
    // RFC 8200 §5: IPv6 needs a link of 1280 bytes.
    guard device.mtu >= 1280 else { return }
    isIPv6On = true
    routes.add(
      Route(
        prefix: IPAddress(high: 0xff << 56, low: 0), prefixLength: 8, gateway: nil, source: .anyIPv6, mtu: device.mtu))
    if device.linkType == .ethernet {
      addAddress(
        InterfaceAddress(
          IPAddress(prefix: 0xfe80 << 48, hardware: device.hardwareAddress), prefixLength: 64, state: .optimistic,
          origin: .linkLocal))
    }
    configuredGateway6 = gateway
    if let gateway { setGateway(gateway, source: .anyIPv6) }
    guard steering.index == 0, device.linkType == .ethernet, autoconfiguresIPv6 || gateway == nil else { return }
    routers.solicitationsLeft = RouterDiscovery.mostSolicitations
    routers.askedFirst = environment.pointee.now
    solicitRouters()
  }

  /// No way leads to `address` yet, but a router that has been asked may know one; not for longer than a second.
  package func awaitsRouter(toward address: IPAddress, now: Instant) -> Bool {
    isIPv6On && routers.isAsking && now < routers.askedFirst + .seconds(1) && routes.lookup(address, now: now) == nil
  }

  private mutating func solicitRouters() {
    routers.solicitationsLeft -= 1
    routers.solicitAt = environment.pointee.now + RouterDiscovery.solicitationInterval
    defer { rearmInterfaceTimer() }
    guard let packet = environment.pointee.pool.allocateForTransmit() else { return }
    let mine = addresses.firstLinkLocal()
    // An address that may turn out to be another's must not be spread (RFC 4429 §3.2).
    let tells = mine?.state == .preferred
    let base = packet.put(8 + (tells ? NDPOptions.linkLayerLength : 0))
    base.storeBigEndian32(UInt32(ICMPv6.routerSolicitation) << 24, at: 0)
    base.storeBigEndian32(0, at: 4)
    if tells {
      base.storeByte(NDPOptions.sourceLinkLayerAddress, at: 8)
      base.storeByte(1, at: 9)
      device.hardwareAddress.write(to: base, at: 10)
    }
    sendICMPv6(packet, from: mine?.address ?? .anyIPv6, to: .allRouters, hopLimit: 255)
  }

  // MARK: Duplicates

  /// RFC 4862 §5.1: one probe, one second (DupAddrDetectTransmits, RetransTimer).
  private static var detectionTime: Interval { .seconds(1) }

  /// Asks from nowhere whether somebody has `address` (RFC 4862 §5.4.2), with a number to know our own question by (RFC 7527).
  private mutating func probe(_ address: IPAddress) {
    guard device.linkType == .ethernet else { return }
    sendNeighborMessage(
      NeighborMessage(solicitationFor: address, from: nil, nonce: probeNonce), from: .anyIPv6,
      to: address.solicitedNode)
  }

  private var probeNonce: UInt64 {
    UInt64(Self.key(5, of: environment.pointee.secret).k0) & 0xffff_ffff_ffff
  }

  private mutating func isDuplicate(_ address: IPAddress) {
    let env = environment
    env.pointee.statistics.count(.ndpConflicts)
    if env.pointee.trace.allows(.arp, .error) {
      var event = TraceEvent(env.pointee.now, .arp, .error, .duplicateAddress)
      event.tuple.local = Endpoint(address, 0)
      env.pointee.trace.append(event)
    }
    removeAddress(address)
    addresses.noteDuplicate(address)
  }

  // MARK: Questions and answers

  mutating func sendNeighborMessage(_ message: NeighborMessage, from source: IPAddress, to destination: IPAddress) {
    let env = environment
    guard let packet = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .arp) }
    message.write(to: packet.put(message.encodedLength))
    env.pointee.statistics.count(message.isSolicitation ? .ndpOutSolicitations : .ndpOutAdvertisements)
    if env.pointee.trace.allows(.arp, .debug) {
      traceNeighbor(message.isSolicitation ? .solicitationOut : .advertisementOut, message.target, source, destination)
    }
    sendICMPv6(packet, from: source, to: destination, hopLimit: 255)
  }

  func traceNeighbor(_ kind: TraceKind, _ target: IPAddress, _ local: IPAddress, _ remote: IPAddress) {
    var event = TraceEvent(environment.pointee.now, .arp, .debug, kind)
    event.tuple = FourTuple(local: Endpoint(local, 0), remote: Endpoint(remote, 0))
    event.a = Int64(bitPattern: target.high)
    event.b = Int64(bitPattern: target.low)
    environment.pointee.trace.append(event)
  }

  /// RFC 4861 §7.2.2; the twin of an ARP request.
  mutating func solicitNeighbor(_ who: IPAddress, unicastTo hardware: MACAddress?) {
    guard let source = AddressSelection.source(for: who, among: addresses),
      let at = addresses.index(of: source)
    else { return }
    // Before it is known to be ours alone no hardware address may be told with it (RFC 4429 §3.2); such packets take the way over
    // the router meanwhile (`detour`). What a person has configured is used at once, as with IPv4 (and Linux's `nodad`).
    let isDoubtful = addresses[at].state == .optimistic && addresses[at].origin != .configured
    let message = NeighborMessage(solicitationFor: who, from: isDoubtful ? nil : device.hardwareAddress)
    sendNeighborMessage(message, from: source, to: hardware == nil ? who.solicitedNode : who)
  }

  /// RFC 4429 §3.3: while its address is optimistic a node leaves it to the router to find neighbours that it does not know.
  func detour(_ nextHop: IPAddress) -> IPAddress {
    guard !nextHop.isIPv4, !nextHop.isMulticast, isDetecting, neighbors.lookup(nextHop) == nil,
      let router = routers.best,
      neighbors.lookup(router.address) != nil
    else { return nextHop }
    return router.address
  }

  /// `packet` starts at the ICMP header.
  mutating func receiveNeighborDiscovery(
    _ packet: PacketBuffer, _ ip: IPPacketInfo, _ icmp: ICMPHeader, overheard: Bool
  ) {
    let env = environment
    defer { env.pointee.pool.release(packet) }
    // A router would have lowered it: the sender is on this link (RFC 4861 §7.1).
    // Fragments would let it past filters on the link (RFC 6980 §5).
    guard ip.timeToLive == 255, icmp.code == 0, !ip.wasFragmented else {
      return env.pointee.noteDrop(.ndpMalformed, .arp)
    }
    if steering.isShared, !overheard { handOverCopyToAll(packet, ip) }
    switch icmp.type {
    case ICMPv6.neighborSolicitation, ICMPv6.neighborAdvertisement:
      receiveNeighborMessage(packet, ip, overheard: overheard)
    case ICMPv6.routerAdvertisement:
      receiveRouterAdvertisement(packet, ip, overheard: overheard)
    default:
      receiveRedirect(packet, ip)
    }
  }

  private mutating func receiveNeighborMessage(_ packet: PacketBuffer, _ ip: IPPacketInfo, overheard: Bool) {
    let env = environment
    guard let message = NeighborMessage(packet.readable) else { return env.pointee.noteDrop(.ndpMalformed, .arp) }
    if !overheard {
      env.pointee.statistics.count(message.isSolicitation ? .ndpInSolicitations : .ndpInAdvertisements)
      if env.pointee.trace.allows(.arp, .debug) {
        traceNeighbor(
          message.isSolicitation ? .solicitationIn : .advertisementIn, message.target, ip.destination, ip.source)
      }
    }
    let at = addresses.index(of: message.target)
    let isOptimistic = at != nil && addresses[at ?? 0].state == .optimistic
    let verdict = NeighborDiscovery.judge(
      message, source: ip.source, destination: ip.destination, isOurs: at != nil, isOptimistic: isOptimistic,
      ourNonce: probeNonce)
    switch verdict {
    case .ignore: break
    case .malformed: env.pointee.noteDrop(.ndpMalformed, .arp)
    case .learn(let hardware, let evidence):
      learn(message.target, hardware, evidence)
      forgetUnlessRouter(message)
    case .confirm:
      neighbors.confirm(message.target, now: env.pointee.now)
      forgetUnlessRouter(message)
    case .conflict:
      // An advertisement by somebody for what is ours for good is an attack or a mistake: as Linux, keep it.
      if isOptimistic { isDuplicate(message.target) }
    case .answer(let toAll, let hardware):
      if let hardware { learn(ip.source, hardware, .sourceAddress) }
      guard !overheard else { break }
      // Without knowing where the asker is the answer must wait for our own question (RFC 4861 §7.2.4).
      sendNeighborMessage(
        NeighborMessage(
          advertising: message.target, at: device.hardwareAddress, solicited: !toAll, overrides: !isOptimistic),
        from: message.target, to: toAll ? .allNodes : ip.source)
    }
  }

  /// A router that says that it is none any more (RFC 4861 §7.2.5).
  private mutating func forgetUnlessRouter(_ advertisement: NeighborMessage) {
    guard !advertisement.isRouter, routers.knows(advertisement.target) else { return }
    routers.note(advertisement.target, preference: 0, lifetime: 0, now: environment.pointee.now)
    installDefaultRoute()
  }

  // MARK: Router advertisements

  private mutating func receiveRouterAdvertisement(_ packet: PacketBuffer, _ ip: IPPacketInfo, overheard: Bool) {
    let env = environment
    guard ip.source.isLinkLocal, let router = RouterAdvertisement(packet.readable) else {
      return env.pointee.noteDrop(.ndpMalformed, .arp)
    }
    guard isIPv6On else { return }
    if !overheard { env.pointee.statistics.count(.ndpInRouterAdvertisements) }
    if !overheard, env.pointee.trace.allows(.arp, .info) {
      var event = TraceEvent(env.pointee.now, .arp, .info, .routerAdvertised)
      event.tuple.remote = Endpoint(ip.source, 0)
      event.a = Int64(router.lifetime)
      event.b = Int64(router.options.prefixCount)
      env.pointee.trace.append(event)
    }
    let now = env.pointee.now
    routers.solicitationsLeft = 0
    if router.hopLimit != 0 { routers.hopLimit = router.hopLimit }
    if router.reachableTime > 0, router.reachableTime <= 3_600_000 {
      env.pointee.settings.neighborReachableTime6 = router.reachableTime
    }
    if router.retransTime >= 10, router.retransTime <= 60_000 {
      env.pointee.settings.neighborRetransTime6 = router.retransTime
    }
    if let hardware = router.options.sourceHardware, !hardware.isGroup { learn(ip.source, hardware, .sourceAddress) }
    if let mtu = router.options.mtu, mtu >= 1280, mtu <= device.mtu, mtu != routers.mtu { setLinkMTU(mtu) }
    routers.note(ip.source, preference: router.preference, lifetime: router.lifetime, now: now)
    installDefaultRoute()
    for i in 0..<router.options.prefixCount {
      if let prefix = router.options.prefix(i) { advertised(prefix) }
    }
    for i in 0..<router.options.routeCount {
      // Not for all there is, and not for IPv4's addresses in IPv6's clothes.
      guard let route = router.options.route(i), route.length > 0, !route.prefix.isIPv4 else { continue }
      learnRoute(
        RouterDiscovery.LearnedRoute(
          prefix: route.prefix, length: route.length, gateway: ip.source,
          until: RouterDiscovery.deadline(route.lifetime, now)))
    }
    for i in 0..<router.options.nameServerCount {
      if let server = router.options.nameServer(i), server.address.isLinkUnicast {
        routers.note(server: server.address, lifetime: server.lifetime, now: now)
      }
    }
    rearmInterfaceTimer()
  }

  private mutating func setLinkMTU(_ mtu: Int) {
    routers.mtu = mtu
    routes.limitIPv6(mtu: mtu)
  }

  private mutating func installDefaultRoute() {
    // Whoever named a gateway wants that one.
    guard configuredGateway6 == nil else { return }
    if let best = routers.best {
      var route = Route(
        prefix: .anyIPv6, prefixLength: 0, gateway: best.address, source: .anyIPv6, mtu: linkMTU(.anyIPv6))
      route.isAdvertised = true
      routes.add(route)
    } else {
      routes.remove(prefix: .anyIPv6, prefixLength: 0, onlyAdvertised: true)
    }
  }

  private mutating func learnRoute(_ route: RouterDiscovery.LearnedRoute) {
    if routers.note(route, now: environment.pointee.now) {
      install(route)
    } else if route.until <= environment.pointee.now {
      routes.remove(prefix: route.prefix, prefixLength: route.length, onlyAdvertised: true)
    }
  }

  private mutating func install(_ route: RouterDiscovery.LearnedRoute) {
    var entry = Route(
      prefix: route.prefix, prefixLength: route.length, gateway: route.gateway, source: .anyIPv6,
      mtu: linkMTU(route.prefix))
    entry.isAdvertised = true
    routes.add(entry)
  }

  /// What a configured address had in its place.
  private mutating func installLearnedRoutes() {
    for i in routers.learned.indices { if let route = routers.learned[i] { install(route) } }
  }

  /// RFC 4861 §6.3.4 (on the link or not) and RFC 4862 §5.5.3 (an address of it for us).
  private mutating func advertised(_ prefix: NDPOptions.Prefix) {
    guard prefix.length > 0, !prefix.prefix.isLinkLocal, !prefix.prefix.isMulticast, !prefix.prefix.isIPv4 else {
      return
    }
    let now = environment.pointee.now
    if prefix.isOnLink {
      learnRoute(
        RouterDiscovery.LearnedRoute(
          prefix: prefix.prefix, length: prefix.length, gateway: nil,
          until: RouterDiscovery.deadline(prefix.validLifetime, now)))
    }
    guard autoconfiguresIPv6, prefix.isAutonomous, prefix.length == 64, prefix.preferredLifetime <= prefix.validLifetime
    else { return }
    let mine = IPAddress(prefix: prefix.prefix.high, hardware: device.hardwareAddress)
    guard let at = addresses.index(of: mine) else {
      guard prefix.validLifetime > 0, !addresses.isDuplicate(mine) else { return }
      var new = InterfaceAddress(mine, prefixLength: 64, state: .optimistic, origin: .autoconfigured)
      new.preferredUntil = RouterDiscovery.deadline(prefix.preferredLifetime, now)
      new.validUntil = RouterDiscovery.deadline(prefix.validLifetime, now)
      addAddress(new)
      return
    }
    guard addresses[at].origin == .autoconfigured else { return }
    addresses[at].preferredUntil = RouterDiscovery.deadline(prefix.preferredLifetime, now)
    // RFC 4862 §5.5.3 (e): a forged advertisement cannot take an address away within two hours.
    let wanted = RouterDiscovery.deadline(prefix.validLifetime, now)
    let twoHours = now + .seconds(7200)
    if wanted > twoHours || wanted > addresses[at].validUntil {
      addresses[at].validUntil = wanted
    } else if addresses[at].validUntil > twoHours {
      addresses[at].validUntil = twoHours
    }
    if addresses[at].preferredUntil > now, addresses[at].state == .deprecated { addresses[at].state = .preferred }
  }

  // MARK: Redirects

  /// RFC 4861 §8.3: only from the router that we send through.
  private mutating func receiveRedirect(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    let now = env.pointee.now
    guard ip.source.isLinkLocal, let redirect = RedirectMessage(packet.readable) else {
      return env.pointee.noteDrop(.ndpMalformed, .arp)
    }
    guard let route = routes.lookup(redirect.destination, now: now), route.kind == .unicast,
      route.nextHop == ip.source, !hasAddress(redirect.target)
    else { return }
    if let hardware = redirect.targetHardware, !hardware.isGroup { learn(redirect.target, hardware, .sourceAddress) }
    learnRoute(
      RouterDiscovery.LearnedRoute(
        prefix: redirect.destination, length: 128,
        gateway: redirect.target == redirect.destination ? nil : redirect.target, until: now + .seconds(600)))
    rearmInterfaceTimer()
  }

  // MARK: Time

  mutating func rearmInterfaceTimer() {
    var next = routers.nextDeadline()
    isDetecting = false
    for i in 0..<addresses.count {
      if addresses[i].state == .optimistic, addresses[i].origin != .configured { isDetecting = true }
      next = min(next, addresses[i].validUntil)
      switch addresses[i].state {
      case .optimistic: next = min(next, addresses[i].detectedAt)
      case .preferred: next = min(next, addresses[i].preferredUntil)
      case .deprecated: break
      }
    }
    if next == .distantFuture {
      environment.pointee.wheel.cancel(interfaceTimer)
    } else {
      environment.pointee.wheel.schedule(interfaceTimer, at: next)
    }
  }

  mutating func advanceInterface() {
    let now = environment.pointee.now
    var i = 0
    while i < addresses.count {
      let address = addresses[i]
      if address.validUntil <= now {
        removeAddress(address.address)
        continue
      }
      if address.state == .optimistic, address.detectedAt <= now { addresses[i].state = .preferred }
      if addresses[i].state == .preferred, address.preferredUntil <= now { addresses[i].state = .deprecated }
      i += 1
    }
    while let expired = routers.nextExpired(now: now) {
      switch expired {
      case .router: installDefaultRoute()
      case .route(let route):
        routes.remove(prefix: route.prefix, prefixLength: route.length, onlyAdvertised: true)
      case .server: break
      }
    }
    if routers.solicitationsLeft > 0, routers.solicitAt <= now { solicitRouters() }
    rearmInterfaceTimer()
  }
}
