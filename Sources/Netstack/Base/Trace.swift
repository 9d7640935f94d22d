// Owns: the events that the stack can tell about, as plain values. The core appends them to a bounded ring when their
// category and level are on; the shell takes them out after each entry and formats them (the preload into ANP_LOG, the
// simulator into its trace). With tracing off an event costs one predictable branch.

import Wire

package enum TraceCategory: UInt8, CaseIterable, Sendable {
  case device, arp, ip, icmp, udp, tcp, socket, timer

  package var name: StaticString {
    switch self {
    case .device: "dev"
    case .arp: "arp"
    case .ip: "ip"
    case .icmp: "icmp"
    case .udp: "udp"
    case .tcp: "tcp"
    case .socket: "sock"
    case .timer: "timer"
    }
  }
}

package enum TraceLevel: UInt8, Comparable, CaseIterable, Sendable {
  case off, error, warn, info, debug, trace

  package static func < (a: TraceLevel, b: TraceLevel) -> Bool { a.rawValue < b.rawValue }

  package var name: StaticString {
    switch self {
    case .off: "off"
    case .error: "error"
    case .warn: "warn"
    case .info: "info"
    case .debug: "debug"
    case .trace: "trace"
    }
  }
}

/// The level that is on for each category.
package struct TraceFilter: Equatable, Sendable {
  private var levels = InlineArray<8, UInt8>(repeating: 0)
  private var highest: UInt8 = 0

  package init() {}

  package static func == (a: TraceFilter, b: TraceFilter) -> Bool {
    for i in 0..<8 where a.levels[i] != b.levels[i] { return false }
    return true
  }

  package mutating func set(_ category: TraceCategory, _ level: TraceLevel) {
    levels[Int(category.rawValue)] = level.rawValue
    highest = 0
    for i in 0..<8 { highest = max(highest, levels[i]) }
  }

  @inline(__always)
  package var isOff: Bool { highest == 0 }

  @inline(__always)
  package func allows(_ category: TraceCategory, _ level: TraceLevel) -> Bool {
    highest != 0 && levels[Int(category.rawValue)] >= level.rawValue
  }
}

/// What happened. Numbers `a` and `b` of the event mean what the case says.
package enum TraceKind: UInt8, Sendable {
  /// A TCP segment came in or went out: `flags`, `sequence`/`acknowledgment` relative to the initial numbers, `length`,
  /// `window` (bytes, scaled); b = 1 for a retransmission.
  case segmentIn, segmentOut
  /// A connection changed state: a = old, b = new (raw values of `TCPState`).
  case stateChange
  /// The retransmission timer ran out: a = RTO in µs, b = back-off count.
  case retransmissionTimeout
  /// Loss recovery begins: a = cwnd, b = ssthresh, bytes. It ends: the same.
  case recoveryEnter, recoveryExit
  /// A tail loss probe (RFC 8985 §7) went out.
  case lossProbe
  /// A zero-window probe went out: a = back-off count.
  case windowProbe
  /// A keep-alive probe went out: a = how many so far.
  case keepaliveProbe
  /// A round-trip time was measured: a = sample, b = SRTT, µs.
  case rttSample
  /// A packet was dropped: a = raw value of `DropReason`.
  case drop
  /// ARP packets. a = sender IPv4, b = target IPv4.
  case arpRequestIn, arpRequestOut, arpReplyIn, arpReplyOut, arpAnnounce
  /// Somebody else uses our address (RFC 5227 §2.4): a = address, b = their hardware address.
  case arpConflict
  /// A neighbour resolved (b = hardware address) or failed: the tuple's remote end.
  case neighborResolved, neighborFailed
  /// Neighbour discovery (RFC 4861). a, b = the two halves of the target.
  case solicitationIn, solicitationOut, advertisementIn, advertisementOut
  /// A router told of itself: a = lifetime in seconds, b = prefixes.
  case routerAdvertised
  /// Somebody else has an address that we were about to use (RFC 4862 §5.4): the tuple's local end.
  case duplicateAddress
  /// An ICMP message came in or went out: a = type << 8 | code.
  case icmpIn, icmpOut, icmp6In, icmp6Out
  /// A UDP datagram in or out: `length`.
  case datagramIn, datagramOut
  /// An IP datagram was put together (a = bytes), was cut (a = bytes, b = pieces).
  case reassembled, fragmented
  /// A socket call on a stack socket: a = which (raw value of `SocketCall`), b = result or bytes.
  case socketCall
  /// The path MTU to the remote changed: a = bytes.
  case pathMTU
  /// The program wanted to change the stack's interface (ioctl): a = request.
  case interfaceRefused
  /// A DHCP message: a = type, b = address that it is about.
  case dhcpIn, dhcpOut
  /// A lease: a = address, b = seconds that are left of it, -1 for ever. It ends: a = address.
  case leaseBound, leaseLost
  /// The interface has no room for a leased address: a = address.
  case leaseHasNoRoom
}

package enum SocketCall: Int64, Sendable {
  case open, bind, connect, listen, accept, shutdown, close
}

package struct TraceEvent: Sendable {
  package var time: Instant
  package var category: TraceCategory
  package var level: TraceLevel
  package var kind: TraceKind
  package var flags = TCPFlags(rawValue: 0)
  package var tuple = FourTuple(local: .none, remote: .none)
  package var sequence: UInt32 = 0
  package var acknowledgment: UInt32 = 0
  package var length: UInt32 = 0
  package var window: UInt32 = 0
  package var a: Int64 = 0
  package var b: Int64 = 0

  package init(_ time: Instant, _ category: TraceCategory, _ level: TraceLevel, _ kind: TraceKind) {
    self.time = time
    self.category = category
    self.level = level
    self.kind = kind
  }
}

/// A bounded ring of events. When it is full the oldest is lost and counted.
package struct TraceLog: ~Copyable {
  private static var capacity: Int { 4096 }
  package var filter = TraceFilter()
  private var events: UnsafeMutablePointer<TraceEvent>?
  private var first = 0
  private var count = 0
  package private(set) var lost = 0

  package init() {}

  deinit { events?.deallocate() }

  @inline(__always)
  package func allows(_ category: TraceCategory, _ level: TraceLevel) -> Bool { filter.allows(category, level) }

  @inline(never)
  package mutating func append(_ event: TraceEvent) {
    if events == nil { events = .allocate(capacity: Self.capacity) }
    guard let events else { return }
    if count == Self.capacity {
      first = (first + 1) % Self.capacity
      count -= 1
      lost += 1
    }
    (events + (first + count) % Self.capacity).initialize(to: event)
    count += 1
  }

  package mutating func next() -> TraceEvent? {
    guard count > 0, let events else { return nil }
    let event = events[first]
    first = (first + 1) % Self.capacity
    count -= 1
    return event
  }
}
