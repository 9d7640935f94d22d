// Owns: a DHCP client's states and timers. Read first: RFC 2131 §4.4 (figure 5), §4.1 (retransmission), §2.2 and §4.4.1 (is the
// address free), §3.2 (the same address again); RFC 3442.
//
//                      ┌──────────── refused, expired ─────────────┐
//                      ▼                                           │
//   start ──▶ initial ──▶ selecting ──offer──▶ requesting ──ack──▶ probing ──nobody has it──▶ bound ──T1──▶ renewing ──T2──▶ rebinding
//     │          ▲                                 │ refused          │ somebody has it        ▲               │ ack            │ ack
//     │          └─────────────────────────────────┴──────────────────┘ (10 s later)           ├───────────────┴────────────────┘
//     └──a lease that is still good──▶ rebooting ──ack, or no answer──────────────────────────┘
//
// Where Linux's clients differ from the RFC or each other:
//   - no random wait before the first message, as in udhcpc and dhclient: a program waits for it
//   - the first offer is taken, as in dhclient
//   - rebooting, the address is in use at once and confirmed meanwhile, as in dhcpcd's lease extension: a program that takes
//     30 ms must not wait each time. No answer means that it stays as long as the lease does (RFC 2131 §3.2)
//   - dhclient and systemd-networkd ask nobody whether the address is free, dhcpcd asks for five seconds (RFC 5227). Here: one
//     ARP probe with the request, one with the answer, a tenth of a second. Neighbours answer within that, or hardly ever
//
// Sans-I/O: messages and time go in, `nextAction` says what follows, `nextDeadline` when to call `advance`. Knows no packet.

import Wire

/// What a server granted.
package struct DHCPLease: Sendable {
  package var address: IPv4Address
  package var prefixLength: Int
  package var server: IPv4Address
  package var routers: IPv4List
  /// Instead of the routers, where they are there (RFC 3442).
  package var routes: ClasslessRoutes?
  package var nameServers: IPv4List
  package var mtu: Int?
  /// T1, T2 and the end; `.distantFuture` for ever.
  package var renewal: Instant
  package var rebinding: Instant
  package var expiry: Instant

  /// - Parameter asked: when the request went out, from which the times count (RFC 2131 §4.4.1).
  /// nil where the message grants nothing that can be used.
  package init?(_ message: DHCPv4Message, asked: Instant) {
    guard message.isReply, message.type == .acknowledge, let server = message.serverIdentifier,
      Self.isHost(message.yourAddress), let seconds = message.leaseTime, seconds > 0
    else { return nil }
    address = message.yourAddress
    self.server = server
    prefixLength = message.prefixLength ?? Self.naturalPrefix(message.yourAddress)
    routers = message.addresses(DHCPOption.router)
    routes = message.classlessRoutes
    nameServers = message.addresses(DHCPOption.nameServers)
    // Less than every host must take (RFC 791) is a mistake of the server's.
    mtu = message.interfaceMTU.flatMap { $0 >= 576 ? $0 : nil }
    guard seconds != .max else {
      renewal = .distantFuture
      rebinding = .distantFuture
      expiry = .distantFuture
      return
    }
    let duration = Interval.seconds(Int(seconds))
    // RFC 2131 §4.4.5's defaults, also instead of what is out of order.
    var t1 = duration / 2
    var t2 = duration / 8 * 7
    if let given = message.rebindingTime, given > 0, Interval.seconds(Int(given)) < duration {
      t2 = .seconds(Int(given))
    }
    if let given = message.renewalTime, given > 0, Interval.seconds(Int(given)) < t2 { t1 = .seconds(Int(given)) }
    if t1 >= t2 { t1 = t2 / 7 * 4 }
    renewal = asked + t1
    rebinding = asked + t2
    expiry = asked + duration
  }

  /// But for its times.
  package func saysTheSame(as other: DHCPLease) -> Bool {
    address == other.address && prefixLength == other.prefixLength && routers == other.routers && routes == other.routes
      && mtu == other.mtu && nameServers == other.nameServers
  }

  static func isHost(_ address: IPv4Address) -> Bool {
    address.bits >> 24 != 0 && !address.isLoopback && address.bits < 0xe000_0000
  }

  /// RFC 2131 §3.3 leaves a client without a mask to RFC 1122's classes.
  private static func naturalPrefix(_ address: IPv4Address) -> Int {
    address.bits >> 31 == 0 ? 8 : address.bits >> 30 == 2 ? 16 : 24
  }
}

package struct DHCPClient: Sendable {
  package enum State: UInt8, Sendable {
    case stopped, initial, selecting, requesting, probing, bound, renewing, rebinding, rebooting
  }

  package enum Action: Sendable {
    /// To the limited broadcast, or from the leased address to its server.
    case send(DHCPv4Request, to: IPv4Address)
    /// Ask by ARP whether somebody has it (RFC 5227 §2.1.1).
    case probe(IPv4Address)
    /// The lease is ours from now on, or was prolonged: what it says may have changed.
    case bound(DHCPLease)
    /// The lease's address is not ours any more.
    case lost(DHCPLease)
  }

  /// How long to wait for whoever has the address already.
  package static var probeTime: Interval { .milliseconds(100) }
  /// RFC 2131 §3.1 (5): before it begins again after a decline.
  package static var declineTime: Interval { .seconds(10) }
  /// Transmissions of one request before it begins again.
  private static var requestAttempts: Int { 3 }

  package private(set) var state = State.stopped
  /// The lease in use; nil in the states before `bound`, except `rebooting`.
  package private(set) var lease: DHCPLease?
  private let hardware: MACAddress
  private var random: SeededRandom
  private var transactionID: UInt32 = 0
  private var began = Instant.zero
  /// When the message was sent first that an answer's times count from.
  package private(set) var asked = Instant.zero
  private var attempts = 0
  private var deadline = Instant.distantFuture
  /// What was offered, or granted and not bound yet.
  private var offered = IPv4Address.any
  private var server = IPv4Address.any
  private var granted: DHCPLease?
  private var isTaken = false
  /// Refusals in a row: the first begins anew at once.
  private var refusals = 0

  // What nextAction() has not told yet.
  private var lostLease: DHCPLease?
  private var boundLease: DHCPLease?
  private var probeAddress: IPv4Address?
  private var message: (DHCPv4Request, to: IPv4Address)?

  package init(hardware: MACAddress, seed: UInt64) {
    self.hardware = hardware
    random = SeededRandom(seed: seed)
  }

  // MARK: In

  /// - Parameter known: a lease of an earlier run (INIT-REBOOT); one that has run out counts as none.
  package mutating func start(known: DHCPLease?, now: Instant) {
    guard let known, known.expiry > now else { return restart(at: now, now) }
    beginTransaction(now)
    state = .rebooting
    lease = known
    boundLease = known
    request(now, requested: known.address)
  }

  /// Moves on where something is due.
  package mutating func advance(to now: Instant) {
    guard now >= deadline else { return }
    switch state {
    case .stopped:
      deadline = .distantFuture
    case .initial:
      beginTransaction(now)
      state = .selecting
      discover(now)
    case .selecting:
      discover(now)
    case .requesting:
      if attempts < Self.requestAttempts {
        request(now, requested: offered, server: server)
      } else {
        restart(at: now, now)
      }
    case .probing:
      if let granted { bind(granted) }
    case .rebooting:
      guard let lease else { return restart(at: now, now) }
      if lease.expiry <= now { return lose(now) }
      if attempts < Self.requestAttempts {
        request(now, requested: lease.address)
      } else {
        state = .bound
        deadline = lease.renewal
      }
    case .bound, .renewing, .rebinding:
      prolong(now)
    }
  }

  /// A message that came to the client's port. True where it grants a lease.
  @discardableResult
  package mutating func receive(_ message: DHCPv4Message, now: Instant) -> Bool {
    guard message.isReply, message.transactionID == transactionID, message.hardware == hardware else { return false }
    switch (state, message.type) {
    case (.selecting, .offer):
      guard let server = message.serverIdentifier, DHCPLease.isHost(message.yourAddress) else { return false }
      offered = message.yourAddress
      self.server = server
      state = .requesting
      attempts = 0
      isTaken = false
      probeAddress = offered
      request(now, requested: offered, server: server)
    case (.requesting, .acknowledge):
      guard let new = DHCPLease(message, asked: asked) else { return false }
      examine(new, now)
      return true
    case (.requesting, .refuse):
      if message.serverIdentifier == server { refused(now) }
    case (.rebooting, .acknowledge), (.renewing, .acknowledge), (.rebinding, .acknowledge):
      guard let old = lease, let new = DHCPLease(message, asked: asked) else { return false }
      if new.address == old.address {
        bind(new)
        return true
      }
      lostLease = old
      lease = nil
      isTaken = false
      offered = new.address
      examine(new, now)
      return true
    case (.rebooting, .refuse), (.renewing, .refuse), (.rebinding, .refuse):
      lostLease = lease
      lease = nil
      boundLease = nil
      refused(now)
    default:
      break
    }
    return false
  }

  /// The address that is being asked for by ARP; nil where none is.
  package var probed: IPv4Address? { state == .requesting || state == .probing ? offered : nil }

  /// Somebody has `probed`, or asks for it for itself (RFC 5227 §2.1.1).
  package mutating func conflict(now: Instant) {
    isTaken = true
    if state == .probing { decline(now) }
  }

  // MARK: Out

  package mutating func nextAction() -> Action? {
    if let lost = lostLease {
      lostLease = nil
      return .lost(lost)
    }
    if let bound = boundLease {
      boundLease = nil
      return .bound(bound)
    }
    if let address = probeAddress {
      probeAddress = nil
      return .probe(address)
    }
    if let (request, to) = message {
      message = nil
      return .send(request, to: to)
    }
    return nil
  }

  /// When to call `advance` next.
  package var nextDeadline: Instant { deadline }

  // MARK: Steps

  private mutating func beginTransaction(_ now: Instant) {
    transactionID = UInt32(truncatingIfNeeded: random.next())
    began = now
    attempts = 0
  }

  private mutating func restart(at time: Instant, _ now: Instant) {
    state = .initial
    granted = nil
    message = nil
    probeAddress = nil
    deadline = time
    if time <= now { advance(to: now) }
  }

  private mutating func refused(_ now: Instant) {
    let wait = refusals == 0 ? Interval.zero : .seconds(1 << min(refusals - 1, 6))
    refusals += 1
    restart(at: now + wait, now)
  }

  private mutating func lose(_ now: Instant) {
    lostLease = lease
    lease = nil
    boundLease = nil
    restart(at: now, now)
  }

  /// RFC 2131 §4.1: 4 s, 8 s … 64 s, each a second more or less.
  private mutating func backOff(_ now: Instant) {
    let milliseconds = 4000 << min(attempts, 4)
    deadline = now + .milliseconds(milliseconds - 1000 + Int(random.next() % 2001))
    attempts += 1
  }

  private func draft(_ type: DHCPMessageType, _ now: Instant) -> DHCPv4Request {
    var draft = DHCPv4Request(type, transactionID: transactionID, hardware: hardware)
    draft.seconds = UInt16(clamping: (now - began).milliseconds / 1000)
    return draft
  }

  private mutating func discover(_ now: Instant) {
    var new = draft(.discover, now)
    new.broadcast = true
    message = (new, to: .limitedBroadcast)
    backOff(now)
  }

  /// SELECTING and INIT-REBOOT: broadcast, without an address of our own (RFC 2131 §4.3.2, table 4).
  private mutating func request(_ now: Instant, requested: IPv4Address, server: IPv4Address? = nil) {
    var new = draft(.request, now)
    new.broadcast = true
    new.requestedAddress = requested
    new.serverIdentifier = server
    message = (new, to: .limitedBroadcast)
    asked = now
    backOff(now)
  }

  /// Granted: is it free?
  private mutating func examine(_ new: DHCPLease, _ now: Instant) {
    granted = new
    server = new.server
    if new.address != offered {
      offered = new.address
      isTaken = false
    }
    if isTaken { return decline(now) }
    state = .probing
    message = nil
    probeAddress = new.address
    deadline = now + Self.probeTime
  }

  private mutating func decline(_ now: Instant) {
    var new = draft(.decline, now)
    new.requestedAddress = offered
    new.serverIdentifier = server
    restart(at: now + Self.declineTime, now)
    message = (new, to: .limitedBroadcast)
  }

  private mutating func bind(_ new: DHCPLease) {
    state = .bound
    lease = new
    granted = nil
    message = nil
    refusals = 0
    boundLease = new
    deadline = new.renewal
  }

  /// RFC 2131 §4.4.5.
  private mutating func prolong(_ now: Instant) {
    guard let lease else { return restart(at: now, now) }
    if now >= lease.expiry { return lose(now) }
    if state == .bound { beginTransaction(now) }
    let isLate = now >= lease.rebinding
    state = isLate ? .rebinding : .renewing
    var new = draft(.request, now)
    new.clientAddress = lease.address
    message = (new, to: isLate ? .limitedBroadcast : lease.server)
    asked = now
    // Half of what is left, but no more often than once a minute.
    let end = isLate ? lease.expiry : lease.rebinding
    deadline = min(end, now + max(.seconds(60), (end - now) / 2))
  }
}
