// Owns: where packets go: next hop, source address and MTU for a destination, and what is known of path MTUs.
// Read first: RFC 1122 §3.3.1 (routing outbound datagrams), RFC 1191 §3–§6 and §7.1 (path MTU discovery); Linux's route
// exceptions (net/ipv4/route.c) for how discovered MTUs are kept. Knows no device and no neighbour.

import Wire

/// A way to a network. IPv4 prefixes are given in IPv4's own lengths (0…32).
package struct Route: Sendable {
  /// Linux's route types.
  package enum Kind: Sendable { case unicast, local, blackhole, unreachable, prohibit }

  package var kind: Kind
  package var prefix: IPAddress
  package var prefixLength: Int
  /// nil where the network is on the link.
  package var gateway: IPAddress?
  /// What to send from, if the program has not bound an address; unspecified where RFC 6724 is to choose.
  package var source: IPAddress
  /// Largest IP packet, bytes.
  package var mtu: Int
  /// What a person said it is: the link's MTU, as routers advertise it, only lowers it.
  package var ownMTU: Int?
  /// A router said so: gives way to what is configured.
  package var isAdvertised = false

  package init(
    _ kind: Kind = .unicast, prefix: IPAddress, prefixLength: Int, gateway: IPAddress?, source: IPAddress, mtu: Int
  ) {
    self.kind = kind
    self.prefix = prefix
    self.prefixLength = prefixLength
    self.gateway = gateway
    self.source = source
    self.mtu = mtu
  }
}

/// The answer for one destination. A connection may keep it as long as `RouteTable.generation` stays the same and `expires`
/// has not come.
package struct RouteDecision: Sendable {
  package enum Kind: Sendable { case unicast, local, broadcast, multicast, blackhole, unreachable, prohibit }
  package var kind: Kind
  /// The neighbour to send to: the gateway, or the destination itself.
  package var nextHop: IPAddress
  package var source: IPAddress
  /// Largest IP packet on this path, bytes.
  package var mtu: Int
  /// The path's real MTU is below `Settings.routeMinPMTU`: packets of `mtu` are sent without DF and may be cut on the way.
  package var mtuLocked: Bool
  /// When the MTU may have become larger again.
  package var expires: Instant

  /// The route says that there is no way.
  package var isRefusal: Bool { kind == .blackhole || kind == .unreachable || kind == .prohibit }
}

package struct RouteTable: ~Copyable {
  private let inMemory = InMemory()
  private struct Entry {
    var route: Route
    /// Prefix length of the 128-bit form, and the masks that follow from it.
    var length: Int
    var maskHigh: UInt64
    var maskLow: UInt64
  }

  /// A path MTU that ICMP told.
  private struct Exception {
    var destination: IPAddress
    var mtu: Int
    var locked: Bool
    /// `.zero` = unused
    var expires: Instant
  }

  package static var maximumRoutes: Int { 128 }
  private static var sets: Int { 256 }
  private static var ways: Int { 4 }

  /// Longest prefix first; among equals the newest.
  private let entries: UnsafeMutablePointer<Entry>
  package private(set) var count = 0
  /// `sets` × `ways`, made with the first exception.
  private var exceptions: UnsafeMutablePointer<Exception>?
  /// Changes whenever an answer may have changed.
  package private(set) var generation: UInt32 = 1
  /// The broadcast addresses of the networks on the link: all host bits one, or all zero (the old form, RFC 1122 §3.3.6).
  private var broadcasts = InlineArray<32, UInt32>(repeating: 0)
  private var broadcastCount = 0

  package init() { entries = .allocate(capacity: Self.maximumRoutes) }

  deinit {
    entries.deallocate()
    exceptions?.deallocate()
  }

  // MARK: Routes

  /// Adds a route, or replaces the one for the same prefix; false where the table is full, the prefix makes no sense, or an advertised
  /// route would replace another.
  @discardableResult
  package mutating func add(_ route: Route) -> Bool {
    guard let entry = Self.entry(route) else { return false }
    // What is here stays here, whoever tells of another way to it (Linux looks into its table "local" first).
    if route.kind != .local, let at = find(route.prefix, entry.length), entries[at].route.kind == .local {
      return false
    }
    remove(prefix: route.prefix, prefixLength: route.prefixLength, onlyAdvertised: route.isAdvertised)
    if route.isAdvertised, find(route.prefix, entry.length) != nil { return false }
    guard count < Self.maximumRoutes else { return false }
    var at = 0
    while at < count, entries[at].length > entry.length { at += 1 }
    (entries + at + 1).moveInitialize(from: entries + at, count: count - at)
    (entries + at).initialize(to: entry)
    count += 1
    changed()
    return true
  }

  private mutating func changed() {
    generation &+= 1
    broadcastCount = 0
    // /31 and /32 have no broadcast (RFC 3021).
    for i in 0..<count
    where entries[i].route.gateway == nil && entries[i].route.kind == .unicast && entries[i].route.prefix.isIPv4
      && entries[i].length < 127 && entries[i].length > 96 && broadcastCount + 2 <= broadcasts.count
    {
      let network = UInt32(truncatingIfNeeded: entries[i].route.prefix.low & entries[i].maskLow)
      broadcasts[broadcastCount] = network
      broadcasts[broadcastCount + 1] = network | UInt32(truncatingIfNeeded: ~entries[i].maskLow)
      broadcastCount += 2
    }
  }

  /// Removes the route for exactly this prefix, if there is one.
  package mutating func remove(prefix: IPAddress, prefixLength: Int, onlyAdvertised: Bool = false) {
    guard let length = Self.length(prefix, prefixLength), let at = find(prefix, length),
      entries[at].route.isAdvertised || !onlyAdvertised
    else { return }
    (entries + at).moveInitialize(from: entries + at + 1, count: count - at - 1)
    count -= 1
    changed()
  }

  private func find(_ prefix: IPAddress, _ length: Int) -> Int? {
    for i in 0..<count where entries[i].length == length && Self.matches(entries[i], prefix) { return i }
    return nil
  }

  /// Takes away the routes that send from `source`, which is an address no more.
  package mutating func remove(source: IPAddress) {
    var kept = 0
    for i in 0..<count where entries[i].route.source != source {
      entries[kept] = entries[i]
      kept += 1
    }
    guard kept < count else { return }
    count = kept
    changed()
  }

  /// The link takes IPv6 packets of `mtu` bytes at most, as a router says.
  package mutating func limitIPv6(mtu: Int) {
    for i in 0..<count where !entries[i].route.prefix.isIPv4 && entries[i].route.kind != .local {
      entries[i].route.mtu = min(entries[i].route.ownMTU ?? mtu, mtu)
    }
    generation &+= 1
  }

  /// The way to `destination`; nil where there is none (network unreachable). O(routes).
  package func lookup(_ destination: IPAddress, now: Instant) -> RouteDecision? {
    var at = 0
    while at < count {
      let entry = entries + at
      if Self.matches(entry.pointee, destination) {
        var decision = RouteDecision(
          kind: kind(destination, entry.pointee), nextHop: entry.pointee.route.gateway ?? destination,
          source: entry.pointee.route.source, mtu: entry.pointee.route.mtu, mtuLocked: false, expires: .distantFuture)
        if decision.kind == .broadcast || decision.kind == .multicast { decision.nextHop = destination }
        if let exception = exception(destination, now), exception.mtu < decision.mtu {
          decision.mtu = exception.mtu
          decision.mtuLocked = exception.locked
          decision.expires = exception.expires
        }
        return decision
      }
      at += 1
    }
    // The limited broadcast needs no route, only a link (RFC 1122 §3.3.6).
    if destination == IPAddress(.limitedBroadcast) || destination.isMulticast,
      let any = leastSpecific(isIPv4: destination.isIPv4)
    {
      return RouteDecision(
        kind: destination.isMulticast ? .multicast : .broadcast, nextHop: destination, source: any.source,
        mtu: any.mtu, mtuLocked: false, expires: .distantFuture)
    }
    return nil
  }

  private func leastSpecific(isIPv4: Bool) -> Route? {
    for i in (0..<count).reversed()
    where entries[i].route.kind == .unicast && entries[i].route.prefix.isIPv4 == isIPv4 { return entries[i].route }
    return nil
  }

  /// Whether `address` is the limited broadcast or the one of a network on the link (RFC 1122 §3.2.1.3 (c), (d)).
  @inline(__always)
  package func isBroadcast(_ address: IPAddress) -> Bool {
    guard address.isIPv4 else { return false }
    if address.v4 == .limitedBroadcast { return true }
    for i in 0..<broadcastCount where broadcasts[i] == address.v4.bits { return true }
    return false
  }

  private func kind(_ destination: IPAddress, _ entry: Entry) -> RouteDecision.Kind {
    if destination.isMulticast { return .multicast }
    switch entry.route.kind {
    case .local: return .local
    case .blackhole: return .blackhole
    case .unreachable: return .unreachable
    case .prohibit: return .prohibit
    case .unicast: return isBroadcast(destination) ? .broadcast : .unicast
    }
  }

  /// ::/0 holds the mapped IPv4 addresses by its bits, but is no way to them.
  @inline(__always)
  private static func matches(_ entry: Entry, _ address: IPAddress) -> Bool {
    (address.high ^ entry.route.prefix.high) & entry.maskHigh | (address.low ^ entry.route.prefix.low) & entry.maskLow
      == 0 && (entry.length >= 96 || !address.isIPv4)
  }

  private static func length(_ prefix: IPAddress, _ length: Int) -> Int? {
    let most = prefix.isIPv4 ? 32 : 128
    guard length >= 0, length <= most else { return nil }
    return length + 128 - most
  }

  private static func entry(_ route: Route) -> Entry? {
    guard let length = length(route.prefix, route.prefixLength) else { return nil }
    // Swift's plain shifts give 0 for a distance of 64.
    let high: UInt64 = length >= 64 ? .max : ~(UInt64.max >> UInt64(length))
    let low: UInt64 = length <= 64 ? 0 : ~(UInt64.max >> UInt64(length - 64))
    return Entry(route: route, length: length, maskHigh: high, maskLow: low)
  }

  // MARK: Path MTU

  /// A router reports that a packet of `packetLength` bytes to `destination` did not fit; `reported` is the next-hop MTU in
  /// its message (0 from a router older than RFC 1191). Returns the new path MTU if it is smaller than the one in use.
  package mutating func fragmentationNeeded(
    _ destination: IPAddress, reported: Int, packetLength: Int, now: Instant, settings: borrowing Settings
  ) -> Int? {
    guard !(settings.ipNoPmtuDiscovery && destination.isIPv4), let current = lookup(destination, now: now) else {
      return nil
    }
    var mtu = reported
    // RFC 8201 §4: a smaller one is answered with packets of 1280 bytes; there are no others.
    if !destination.isIPv4 {
      mtu = max(mtu, 1280)
      guard mtu < current.mtu else { return nil }
      store(
        Exception(
          destination: destination, mtu: mtu, locked: false, expires: now + .seconds(settings.routeMTUExpires)), now)
      generation &+= 1
      return mtu
    }
    if mtu == 0 { mtu = Self.plateau(below: min(packetLength, current.mtu)) }
    // A forged tiny MTU would make us send only headers: below the minimum the path may fragment instead.
    let locked = mtu < settings.routeMinPMTU
    if locked { mtu = min(current.mtu, settings.routeMinPMTU) }
    // RFC 1191 §3: never increased by such a message.
    guard mtu < current.mtu || locked && mtu == current.mtu && !current.mtuLocked else { return nil }
    store(
      Exception(
        destination: destination, mtu: mtu, locked: locked, expires: now + .seconds(settings.routeMTUExpires)), now)
    generation &+= 1
    return mtu
  }

  /// The next smaller MTU of a common link type (RFC 1191 §7.1, table 7-1).
  private static func plateau(below length: Int) -> Int {
    if length > 32000 { return 32000 }
    if length > 17914 { return 17914 }
    if length > 8166 { return 8166 }
    if length > 4352 { return 4352 }
    if length > 2002 { return 2002 }
    if length > 1492 { return 1492 }
    if length > 1006 { return 1006 }
    if length > 508 { return 508 }
    if length > 296 { return 296 }
    return 68
  }

  private static func set(_ destination: IPAddress) -> Int {
    Int(truncatingIfNeeded: ((destination.high ^ destination.low) &* 0x9e37_79b9_7f4a_7c15) &>> 32) % sets
  }

  private func exception(_ destination: IPAddress, _ now: Instant) -> Exception? {
    guard let exceptions else { return nil }
    let set = exceptions + Self.set(destination) * Self.ways
    for way in 0..<Self.ways where set[way].destination == destination && set[way].expires > now { return set[way] }
    return nil
  }

  private mutating func store(_ exception: Exception, _ now: Instant) {
    let table: UnsafeMutablePointer<Exception>
    if let exceptions {
      table = exceptions
    } else {
      table = .allocate(capacity: Self.sets * Self.ways)
      table.initialize(
        repeating: Exception(destination: .anyIPv6, mtu: 0, locked: false, expires: .zero),
        count: Self.sets * Self.ways)
      exceptions = table
    }
    let set = table + Self.set(exception.destination) * Self.ways
    // The same destination's place, else the one that expires first.
    var victim = 0
    for way in 0..<Self.ways {
      if set[way].destination == exception.destination {
        victim = way
        break
      }
      if set[way].expires < set[victim].expires { victim = way }
    }
    set[victim] = exception
  }
}
