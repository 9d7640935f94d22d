// Owns: what routers have advertised: who routes, for how long, the link's MTU and hop limit, prefixes that are on the link, name
// servers; and when to ask for it again. Read first: RFC 4861 §6.3 (host behaviour), RFC 4191 §3 (preferences), RFC 8106 §6
// (name servers). Addresses made of prefixes are InterfaceAddresses'; Stack/ puts the routes into the table.

import Wire

package struct RouterDiscovery: Sendable {
  struct Router: Sendable {
    var address: IPAddress
    var preference: Int
    var until: Instant
  }

  /// A prefix on the link, or one behind a router (RFC 4191).
  struct LearnedRoute: Sendable {
    var prefix: IPAddress
    var length: Int
    var gateway: IPAddress?
    var until: Instant
  }

  struct Server: Sendable {
    var address: IPAddress
    var until: Instant
  }

  /// RFC 4861 §10: at most three questions, four seconds apart.
  static var mostSolicitations: Int { 3 }
  static var solicitationInterval: Interval { .seconds(4) }

  private(set) var routers = InlineArray<4, Router?>(repeating: nil)
  private(set) var learned = InlineArray<16, LearnedRoute?>(repeating: nil)
  private(set) var servers = InlineArray<8, Server?>(repeating: nil)
  /// Largest IPv6 packet on the link as a router told, bytes.
  package internal(set) var mtu = 65575
  /// What routers ask hosts to send with; 0 where none did.
  var hopLimit: UInt8 = 0
  var solicitationsLeft = 0
  var solicitAt = Instant.distantFuture
  var askedFirst = Instant.zero
  /// Changes with the name servers.
  package private(set) var serverGeneration = 0

  package init() {}

  /// A router has not answered yet and is still being asked.
  package var isAsking: Bool { solicitationsLeft > 0 }

  /// The lifetime of a router or prefix, where all ones mean for ever.
  static func deadline(_ seconds: UInt32, _ now: Instant) -> Instant {
    seconds == .max ? .distantFuture : now + .seconds(Int(seconds))
  }

  // MARK: Routers

  /// Lifetime 0 takes a router away (RFC 4861 §6.3.4). A fifth router is not remembered: one will do.
  mutating func note(_ address: IPAddress, preference: Int, lifetime: Int, now: Instant) {
    for i in routers.indices where routers[i]?.address == address { routers[i] = nil }
    guard lifetime > 0 else { return }
    for i in routers.indices where routers[i] == nil {
      routers[i] = Router(address: address, preference: preference, until: now + .seconds(lifetime))
      return
    }
  }

  /// The router to send through: highest preference, then the one that was learned first.
  var best: Router? {
    var best: Router?
    for i in routers.indices {
      if let router = routers[i], best == nil || router.preference > best.unsafelyUnwrapped.preference { best = router }
    }
    return best
  }

  func knows(_ router: IPAddress) -> Bool {
    for i in routers.indices where routers[i]?.address == router { return true }
    return false
  }

  // MARK: Prefixes and routes

  /// True where it is now to be in the route table.
  mutating func note(_ route: LearnedRoute, now: Instant) -> Bool {
    for i in learned.indices {
      if let known = learned[i], known.prefix == route.prefix, known.length == route.length { learned[i] = nil }
    }
    guard route.until > now else { return false }
    for i in learned.indices where learned[i] == nil {
      learned[i] = route
      return true
    }
    return false
  }

  // MARK: Name servers

  mutating func note(server address: IPAddress, lifetime: UInt32, now: Instant) {
    for i in servers.indices where servers[i]?.address == address {
      if lifetime > 0 {
        servers[i]?.until = Self.deadline(lifetime, now)
        return
      }
      servers[i] = nil
      serverGeneration += 1
    }
    guard lifetime > 0 else { return }
    for i in servers.indices where servers[i] == nil {
      servers[i] = Server(address: address, until: Self.deadline(lifetime, now))
      serverGeneration += 1
      return
    }
  }

  package func nameServer(_ i: Int) -> IPAddress? { i < servers.count ? servers[i]?.address : nil }

  // MARK: Time

  func nextDeadline() -> Instant {
    var next = solicitationsLeft > 0 ? solicitAt : .distantFuture
    for i in routers.indices { if let router = routers[i] { next = min(next, router.until) } }
    for i in learned.indices { if let route = learned[i] { next = min(next, route.until) } }
    for i in servers.indices { if let server = servers[i] { next = min(next, server.until) } }
    return next
  }

  enum Expired { case router, route(LearnedRoute), server }

  /// One thing whose time is over; call until nil.
  mutating func nextExpired(now: Instant) -> Expired? {
    for i in routers.indices {
      if let router = routers[i], router.until <= now {
        routers[i] = nil
        return .router
      }
    }
    for i in learned.indices {
      if let route = learned[i], route.until <= now {
        learned[i] = nil
        return .route(route)
      }
    }
    for i in servers.indices {
      if let server = servers[i], server.until <= now {
        servers[i] = nil
        serverGeneration += 1
        return .server
      }
    }
    return nil
  }
}
