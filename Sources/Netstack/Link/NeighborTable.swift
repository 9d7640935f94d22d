// Owns: which hardware address a neighbour on the link has, how far that is to be trusted, and the packets that wait until
// it is known, of both families. Read first: RFC 4861 §7.3 (neighbour unreachability detection; ARP uses the same states, as in Linux),
// RFC 1122 §2.3.2 (ARP cache and packet queue). Knows neither ARP's nor NDP's packets: verdicts and actions say what to send.
//
//              packet             learned
//   (none) ───────────▶ incomplete ───────▶ reachable ──reachable time──▶ stale
//      ▲                    │                  ▲  ▲                         │ packet
//      │ evicted            │ no answer        │  └─ confirmed, answered ─┐ ▼
//   failed ◀────────────────┴──────────────────┼──────── probe ◀───────── delay
//      └── packet ──▶ incomplete               └──────────┘     5 s, then unicast requests

import Wire

/// What to do with a packet for a neighbour.
package enum NeighborVerdict {
  /// Send it there now.
  case resolved(MACAddress)
  /// The table keeps the packet until the neighbour answers. `dropped` had to make room for it and is the caller's to
  /// release. With `sendRequest` the caller asks for the address, by broadcast.
  case queued(sendRequest: Bool, dropped: PacketBuffer?)
  /// No room for one more neighbour: the caller keeps the packet and drops it.
  case tableFull
}

/// How an address was learned; what it is good for differs (RFC 826 "Packet Reception", RFC 5227 §2.4, Linux's arp_process).
package enum NeighborEvidence: Equatable, Sendable {
  /// The sender asked for our address: it will talk to us. Makes an entry, but does not prove that it hears us.
  case request
  /// A reply; `solicited` when it was sent to us alone, which proves that it hears us.
  case reply(solicited: Bool)
  /// An announcement by the neighbour: its address has changed, at once.
  case gratuitous
  /// It asked for somebody else: only keeps an existing entry up to date.
  case overheard
  /// IPv6: the neighbour sent something with its own hardware address in it. Makes an entry (RFC 4861 §7.2.3).
  case sourceAddress
  /// IPv6: a neighbour advertisement (RFC 4861 §7.2.5).
  case advertisement(solicited: Bool, overrides: Bool)

  /// The neighbour answered us.
  var provesReachability: Bool {
    switch self {
    case .reply(solicited: true), .advertisement(solicited: true, _): true
    default: false
    }
  }

  /// ARP has nothing to tell an older answer from a newer one by.
  var isARP: Bool {
    switch self {
    case .sourceAddress, .advertisement: false
    default: true
    }
  }
}

/// What time has made due.
package enum NeighborAction {
  /// Ask for `address`: by broadcast, or with `unicastTo` whether it is still there.
  case sendRequest(IPAddress, unicastTo: MACAddress?)
  /// Nobody answered. The packets that waited are the caller's: report host unreachable, release them.
  case failed(IPAddress, PacketQueue)
}

package struct NeighborTable: ~Copyable {
  private let inMemory = InMemory()
  package enum State: UInt8, Sendable { case incomplete, reachable, stale, delay, probe, failed }

  private struct Entry {
    var address: IPAddress
    var hardware = MACAddress.zero
    var state: State
    var inUse = true
    /// Requests sent in this state.
    var probes = 0
    /// While incomplete, delay or probe: when to act.
    var deadline = Instant.distantFuture
    /// Last proof of reachability, last change of the hardware address, last packet sent there.
    var confirmed = Instant.zero
    var updated = Instant.zero
    var used: Instant
    var waiting = PacketQueue()
    /// Next entry of the bucket; next free entry.
    var next: UInt32
    /// Neighbours in the list of entries with a deadline.
    var nextTimed = NeighborTable.none
    var previousTimed = NeighborTable.none

    var hasDeadline: Bool { state == .incomplete || state == .delay || state == .probe }
    var isValid: Bool { state != .incomplete && state != .failed }
  }

  private static var none: UInt32 { .max }
  private static var bucketBits: Int { 8 }
  /// Linux's neigh.default.locktime: for this long a second, different answer does not replace the first.
  private static var lockTime: Interval { .seconds(1) }
  /// How often the reachable time is drawn anew (RFC 4861 §6.3.4 wants it every few hours; Linux: 300 s).
  private static var redrawTime: Interval { .seconds(300) }

  private var entries: UnsafeMutablePointer<Entry>
  private var capacity = 0
  private var firstFree = NeighborTable.none
  private let buckets: UnsafeMutablePointer<UInt32>
  private var firstTimed = NeighborTable.none
  /// No deadline is earlier than this one.
  private var earliest = Instant.distantFuture
  private var random: SeededRandom
  /// 500…1500: the reachable time is this share of the base (RFC 4861 §6.3.2), so that hosts do not probe in step.
  private var reachablePermille: Int
  private var redrawAt: Instant
  /// `nextDeadline` may have become earlier: whoever arms a timer for it clears this.
  package var hasNewDeadline = false
  /// Entries there are, in whatever state.
  package private(set) var count = 0

  package init(seed: UInt64, now: Instant) {
    entries = .allocate(capacity: 1)
    buckets = .allocate(capacity: 1 << Self.bucketBits)
    buckets.initialize(repeating: Self.none, count: 1 << Self.bucketBits)
    random = SeededRandom(seed: seed)
    reachablePermille = 500 + random.below(1001)
    redrawAt = now + Self.redrawTime
  }

  deinit {
    entries.deallocate()
    buckets.deallocate()
  }

  // MARK: Sending

  /// Where to send a packet whose next hop is `nextHop`. On `.queued` the table has taken the packet.
  @inline(__always)
  package mutating func resolve(
    _ nextHop: IPAddress, packet: PacketBuffer, now: Instant, settings: UnsafePointer<Settings>
  ) -> NeighborVerdict {
    let index = find(nextHop)
    if index != Self.none {
      let entry = entries + Int(index)
      if entry.pointee.state == .reachable,
        now - entry.pointee.confirmed < reachableTime(nextHop, settings)
      {
        entry.pointee.used = now
        return .resolved(entry.pointee.hardware)
      }
    }
    return resolveSlowly(index, nextHop, packet, now, settings)
  }

  @inline(never)
  private mutating func resolveSlowly(
    _ found: UInt32, _ nextHop: IPAddress, _ packet: PacketBuffer, _ now: Instant, _ settings: UnsafePointer<Settings>
  ) -> NeighborVerdict {
    var index = found
    if index == Self.none {
      index = insert(nextHop, state: .failed, now: now, maximum: settings.pointee.neighborMaximum)
      if index == Self.none { return .tableFull }
    }
    let entry = entries + Int(index)
    entry.pointee.used = now
    switch entry.pointee.state {
    case .reachable, .stale:
      // Used after its time: give the upper layer a while to confirm it, then ask (RFC 4861 §7.3.3).
      setState(index, .delay, deadline: now + .seconds(settings.pointee.neighborDelayFirstProbe))
      return .resolved(entry.pointee.hardware)
    case .delay, .probe:
      return .resolved(entry.pointee.hardware)
    case .failed:
      entry.pointee.probes = 1
      setState(index, .incomplete, deadline: now + retransTime(nextHop, settings))
      entry.pointee.waiting.append(packet)
      return .queued(sendRequest: true, dropped: nil)
    case .incomplete:
      // The newest packets are the ones still wanted (RFC 1122 §2.3.2.2).
      var dropped: PacketBuffer?
      if entry.pointee.waiting.count >= max(1, settings.pointee.neighborQueueLength) {
        dropped = entry.pointee.waiting.removeFirst()
      }
      entry.pointee.waiting.append(packet)
      return .queued(sendRequest: false, dropped: dropped)
    }
  }

  /// The hardware address if it is known, however old. Neither asks nor ages.
  package func lookup(_ address: IPAddress) -> MACAddress? {
    let index = find(address)
    guard index != Self.none, entries[Int(index)].isValid else { return nil }
    return entries[Int(index)].hardware
  }

  /// The state of an entry at `now`; nil where there is none.
  package func state(_ address: IPAddress, now: Instant, settings: UnsafePointer<Settings>) -> State? {
    let index = find(address)
    guard index != Self.none else { return nil }
    let entry = entries[Int(index)]
    if entry.state == .reachable, now - entry.confirmed >= reachableTime(address, settings) {
      return .stale
    }
    return entry.state
  }

  // MARK: Learning

  /// Somebody says that `address` is at `hardware`. Returns the packets that waited for that: send them.
  package mutating func learned(
    _ address: IPAddress, _ hardware: MACAddress, how: NeighborEvidence, now: Instant, settings: UnsafePointer<Settings>
  ) -> PacketQueue {
    var index = find(address)
    if index == Self.none {
      // Only who asks for us is sure to be talked to; other news about strangers is not kept (Linux's arp_accept = 0).
      guard how == .request || how == .sourceAddress else { return PacketQueue() }
      index = insert(address, state: .failed, now: now, maximum: settings.pointee.neighborMaximum)
      if index == Self.none { return PacketQueue() }
    }
    let entry = entries + Int(index)
    let changed = !entry.pointee.isValid || entry.pointee.hardware != hardware
    if changed, entry.pointee.isValid, how != .gratuitous, how.isARP, now - entry.pointee.updated < Self.lockTime {
      return PacketQueue()
    }
    if case .advertisement(_, overrides: false) = how, changed, entry.pointee.isValid {
      // Two hosts answer for it, perhaps: what is known stays, but is put to the test.
      if entry.pointee.state == .reachable { setState(index, .stale, deadline: .distantFuture) }
      return PacketQueue()
    }
    if changed {
      entry.pointee.hardware = hardware
      entry.pointee.updated = now
    }
    let released = entry.pointee.waiting
    entry.pointee.waiting = PacketQueue()
    if how.provesReachability {
      entry.pointee.confirmed = now
      setState(index, .reachable, deadline: .distantFuture)
    } else if !released.isEmpty {
      // Used at once, by the packets that go out now.
      setState(index, .delay, deadline: now + .seconds(settings.pointee.neighborDelayFirstProbe))
    } else if changed {
      setState(index, .stale, deadline: .distantFuture)
    }
    return released
  }

  /// An upper layer got new acknowledgements from there: the neighbour hears us (RFC 4861 §7.3.1).
  @inline(__always)
  package mutating func confirm(_ address: IPAddress, now: Instant) {
    let index = find(address)
    guard index != Self.none else { return }
    let entry = entries + Int(index)
    guard entry.pointee.isValid else { return }
    entry.pointee.confirmed = now
    if entry.pointee.state != .reachable { setState(index, .reachable, deadline: .distantFuture) }
  }

  // MARK: Time

  /// When `nextAction` may have something to do; never later than it has.
  @inline(__always)
  package func nextDeadline() -> Instant? { firstTimed == Self.none ? nil : earliest }

  /// One thing that is due at `now`; call until nil.
  package mutating func nextAction(now: Instant, settings: UnsafePointer<Settings>) -> NeighborAction? {
    if now >= redrawAt {
      reachablePermille = 500 + random.below(1001)
      redrawAt = now + Self.redrawTime
    }
    guard firstTimed != Self.none, now >= earliest else { return nil }
    var nextEarliest = Instant.distantFuture
    var index = firstTimed
    while index != Self.none {
      let entry = entries + Int(index)
      if entry.pointee.deadline <= now { return act(index, now, settings) }
      nextEarliest = min(nextEarliest, entry.pointee.deadline)
      index = entry.pointee.nextTimed
    }
    earliest = nextEarliest
    return nil
  }

  private mutating func act(_ index: UInt32, _ now: Instant, _ settings: UnsafePointer<Settings>) -> NeighborAction {
    let entry = entries + Int(index)
    let again = now + retransTime(entry.pointee.address, settings)
    switch entry.pointee.state {
    case .delay:
      entry.pointee.probes = 1
      setState(index, .probe, deadline: again)
      return .sendRequest(entry.pointee.address, unicastTo: entry.pointee.hardware)
    case .probe where entry.pointee.probes < settings.pointee.neighborUnicastSolicit:
      entry.pointee.probes += 1
      entry.pointee.deadline = again
      return .sendRequest(entry.pointee.address, unicastTo: entry.pointee.hardware)
    case .incomplete where entry.pointee.probes < settings.pointee.neighborMulticastSolicit:
      entry.pointee.probes += 1
      entry.pointee.deadline = again
      return .sendRequest(entry.pointee.address, unicastTo: nil)
    case .probe, .incomplete, .reachable, .stale, .failed:
      let waiting = entry.pointee.waiting
      entry.pointee.waiting = PacketQueue()
      setState(index, .failed, deadline: .distantFuture)
      return .failed(entry.pointee.address, waiting)
    }
  }

  // MARK: Going down

  /// Takes out the packets of one entry that still waits; call until nil, then the table holds no packet.
  package mutating func removeWaiting() -> PacketQueue? {
    var index = firstTimed
    while index != Self.none {
      let entry = entries + Int(index)
      if !entry.pointee.waiting.isEmpty {
        let waiting = entry.pointee.waiting
        entry.pointee.waiting = PacketQueue()
        return waiting
      }
      index = entry.pointee.nextTimed
    }
    return nil
  }

  // MARK: Entries

  @inline(__always)
  private func reachableTime(_ address: IPAddress, _ settings: UnsafePointer<Settings>) -> Interval {
    let baseMilliseconds =
      address.isIPv4 ? settings.pointee.neighborReachableTime : settings.pointee.neighborReachableTime6
    return Interval(nanoseconds: Int64(baseMilliseconds &* reachablePermille) &* 1000)
  }

  private func retransTime(_ address: IPAddress, _ settings: UnsafePointer<Settings>) -> Interval {
    .milliseconds(max(1, address.isIPv4 ? settings.pointee.neighborRetransTime : settings.pointee.neighborRetransTime6))
  }

  @inline(__always)
  private static func bucket(_ address: IPAddress) -> Int {
    Int(truncatingIfNeeded: ((address.high ^ address.low) &* 0x9e37_79b9_7f4a_7c15) &>> UInt64(64 &- bucketBits))
  }

  @inline(__always)
  private func find(_ address: IPAddress) -> UInt32 {
    var index = buckets[Self.bucket(address)]
    while index != Self.none {
      if entries[Int(index)].address == address { return index }
      index = entries[Int(index)].next
    }
    return Self.none
  }

  private mutating func insert(_ address: IPAddress, state: State, now: Instant, maximum: Int) -> UInt32 {
    if count >= max(1, maximum), !evict() { return Self.none }
    if firstFree == Self.none { grow() }
    let index = firstFree
    let bucket = Self.bucket(address)
    firstFree = entries[Int(index)].next
    (entries + Int(index)).initialize(to: Entry(address: address, state: state, used: now, next: buckets[bucket]))
    buckets[bucket] = index
    count += 1
    return index
  }

  /// Removes the entry that nobody needs most: one that failed, else the one least recently used. Entries that are being
  /// asked for stay: packets wait for them. O(entries), but only where the table is full.
  private mutating func evict() -> Bool {
    var victim = Self.none
    for i in 0..<capacity where entries[i].inUse && !entries[i].hasDeadline {
      let better =
        victim == Self.none
        || (entries[i].state == .failed) != (entries[Int(victim)].state == .failed)
          && entries[i].state == .failed
        || (entries[i].state == .failed) == (entries[Int(victim)].state == .failed)
          && entries[i].used < entries[Int(victim)].used
      if better { victim = UInt32(truncatingIfNeeded: i) }
    }
    guard victim != Self.none else { return false }
    remove(victim)
    return true
  }

  private mutating func remove(_ index: UInt32) {
    let entry = entries + Int(index)
    let bucket = Self.bucket(entry.pointee.address)
    if buckets[bucket] == index {
      buckets[bucket] = entry.pointee.next
    } else {
      var before = buckets[bucket]
      while entries[Int(before)].next != index { before = entries[Int(before)].next }
      entries[Int(before)].next = entry.pointee.next
    }
    entry.pointee.inUse = false
    entry.pointee.next = firstFree
    firstFree = index
    count -= 1
  }

  private mutating func grow() {
    let newCapacity = max(16, capacity * 2)
    let new = UnsafeMutablePointer<Entry>.allocate(capacity: newCapacity)
    new.moveInitialize(from: entries, count: capacity)
    entries.deallocate()
    entries = new
    var index = newCapacity - 1
    while index >= capacity {
      (new + index).initialize(to: Entry(address: .anyIPv6, state: .failed, inUse: false, used: .zero, next: firstFree))
      firstFree = UInt32(truncatingIfNeeded: index)
      index -= 1
    }
    capacity = newCapacity
  }

  /// Changes the state, and with it the membership in the list of entries with a deadline.
  private mutating func setState(_ index: UInt32, _ state: State, deadline: Instant) {
    let entry = entries + Int(index)
    let had = entry.pointee.hasDeadline
    entry.pointee.state = state
    entry.pointee.deadline = deadline
    let has = entry.pointee.hasDeadline
    if has {
      earliest = firstTimed == Self.none ? deadline : min(earliest, deadline)
      hasNewDeadline = true
    }
    guard had != has else { return }
    if has {
      entry.pointee.nextTimed = firstTimed
      entry.pointee.previousTimed = Self.none
      if firstTimed != Self.none { entries[Int(firstTimed)].previousTimed = index }
      firstTimed = index
    } else {
      let next = entry.pointee.nextTimed
      let previous = entry.pointee.previousTimed
      if next != Self.none { entries[Int(next)].previousTimed = previous }
      if previous != Self.none { entries[Int(previous)].nextTimed = next } else { firstTimed = next }
    }
  }
}
