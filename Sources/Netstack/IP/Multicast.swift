// Owns: which multicast groups are listened to, from which sources, and what of it neighbours have to be told and when. Both
// families: IGMP.swift has IPv4's messages. Read first: RFC 3376 §3 (socket and interface state), §5 (what a member does); RFC 3810
// for IPv6's words for the same. Knows no socket and sends nothing: Stack+Multicast.swift does.
//
//   a change of a group's filter   ──▶ a state-change record at once, and once more within a second (robustness 2)
//   a query                        ──▶ a current-state record after a random part of the time that the query allows

import Wire

/// (filter mode, source list) of RFC 3376 §3.1.
package struct SourceFilter: Equatable, Sendable {
  /// Linux's igmp_max_msf, with room for what several sockets add up to.
  package static var mostPerSocket: Int { 10 }
  package static var capacity: Int { 32 }

  package var isInclude: Bool
  package private(set) var count = 0
  private var sources = InlineArray<32, IPAddress>(repeating: .anyIPv6)

  package init(isInclude: Bool) { self.isInclude = isInclude }

  /// Everything: EXCLUDE of nothing.
  package static var all: SourceFilter { SourceFilter(isInclude: false) }

  package subscript(_ i: Int) -> IPAddress { sources[i] }

  package func contains(_ source: IPAddress) -> Bool {
    for i in 0..<count where sources[i] == source { return true }
    return false
  }

  package func allows(_ source: IPAddress) -> Bool { contains(source) == isInclude }

  /// False where there is no room. A source that is there already stays one.
  @discardableResult
  package mutating func insert(_ source: IPAddress) -> Bool {
    if contains(source) { return true }
    guard count < Self.capacity else { return false }
    sources[count] = source
    count += 1
    return true
  }

  package mutating func remove(_ source: IPAddress) {
    var i = 0
    while i < count {
      if sources[i] == source {
        count -= 1
        sources[i] = sources[count]
        return
      }
      i += 1
    }
  }

  package static func == (a: SourceFilter, b: SourceFilter) -> Bool {
    guard a.isInclude == b.isInclude, a.count == b.count else { return false }
    for i in 0..<a.count where !b.contains(a[i]) { return false }
    return true
  }

  /// What an interface needs when two sockets want `self` and `other` (RFC 3376 §3.2). Too many sources become all.
  package func merged(with other: SourceFilter) -> SourceFilter {
    if isInclude, other.isInclude {
      var both = self
      for i in 0..<other.count where !both.insert(other[i]) { return .all }
      return both
    }
    // EXCLUDE of what nobody wants.
    let (excluding, second) = isInclude ? (other, self) : (self, other)
    var left = SourceFilter.all
    for i in 0..<excluding.count where !second.allows(excluding[i]) { left.insert(excluding[i]) }
    return left
  }
}

/// One group that one socket has joined.
package struct MulticastMembership {
  /// Linux's igmp_max_memberships.
  package static var mostPerSocket: Int { 20 }
  package var group: IPAddress
  package var filter: SourceFilter
}

/// What a report says of one group (RFC 3376 §4.2.12).
package struct MulticastRecord {
  package enum Kind: UInt8, Sendable {
    case isInclude = 1, isExclude, toInclude, toExclude, allowNew, blockOld
  }
  package var kind: Kind
  package var group: IPAddress
  /// Their list only.
  package var sources: SourceFilter
}

package struct MulticastGroups: ~Copyable {
  private let inMemory = InMemory()
  /// What still has to be said of a change: as often as `left`, next at `due`.
  fileprivate struct Change {
    var modeChanges = false
    var allowed = SourceFilter(isInclude: true)
    var blocked = SourceFilter(isInclude: true)
    var left = 0
    var due = Instant.distantFuture
  }

  private struct Group {
    var address: IPAddress
    /// INCLUDE of nothing: left, and only remembered until that has been said.
    var filter: SourceFilter
    var change = Change()
    var answerDue = Instant.distantFuture
    /// The sources a query asked about; nil = the group as a whole.
    var queried: SourceFilter?
  }

  /// RFC 3376 §8.1: how often a change is said. Linux takes the querier's; this is everybody's default.
  private static var robustness: Int { 2 }

  private var groups: UnsafeMutablePointer<Group>
  private var capacity = 8
  private var count = 0
  /// Set while `nextRecord` has more to say of a change: BLOCK behind ALLOW.
  private var owesBlock: IPAddress?

  package init() { groups = .allocate(capacity: 8) }

  deinit { groups.deallocate() }

  private func index(_ group: IPAddress) -> Int? {
    for i in 0..<count where groups[i].address == group { return i }
    return nil
  }

  package func isMember(_ group: IPAddress) -> Bool {
    guard let at = index(group) else { return false }
    return !groups[at].filter.isInclude || groups[at].filter.count > 0
  }

  /// The sockets want `filter` of `group` from now on.
  package mutating func set(_ group: IPAddress, _ filter: SourceFilter, now: Instant) {
    let at: Int
    if let known = index(group) {
      at = known
    } else {
      if filter.isInclude, filter.count == 0 { return }
      if count == capacity { grow() }
      at = count
      (groups + at).initialize(to: Group(address: group, filter: SourceFilter(isInclude: true)))
      count += 1
    }
    let before = groups[at].filter
    if before == filter { return }
    groups[at].filter = filter
    var change = groups[at].change
    if before.isInclude != filter.isInclude {
      change.modeChanges = true
    } else {
      // What is heard that was not, and the other way (RFC 3376 §5.1).
      for i in 0..<filter.count where !before.contains(filter[i]) {
        filter.isInclude ? change.note(allowed: filter[i]) : change.note(blocked: filter[i])
      }
      for i in 0..<before.count where !filter.contains(before[i]) {
        filter.isInclude ? change.note(blocked: before[i]) : change.note(allowed: before[i])
      }
    }
    change.left = Self.robustness
    change.due = now
    groups[at].change = change
  }

  private mutating func grow() {
    let larger = UnsafeMutablePointer<Group>.allocate(capacity: capacity * 2)
    larger.moveInitialize(from: groups, count: count)
    groups.deallocate()
    groups = larger
    capacity *= 2
  }

  /// A query: about all groups where `group` is nil, about some sources only where `sources` is not empty. `within` is the time that
  /// it allows for an answer (RFC 3376 §5.2).
  package mutating func queried(
    _ group: IPAddress?, sources: SourceFilter, within: Interval, now: Instant, random: inout SecretRandom
  ) {
    for i in 0..<count where group == nil || groups[i].address == group {
      let delay = Interval.milliseconds(random.below(max(1, Int(within.milliseconds))))
      let due = now + delay
      let isSpecific = sources.count > 0
      if groups[i].answerDue == .distantFuture {
        groups[i].queried = isSpecific ? sources : nil
      } else if !isSpecific {
        groups[i].queried = nil
      } else if var asked = groups[i].queried {
        for j in 0..<sources.count { asked.insert(sources[j]) }
        groups[i].queried = asked
      }
      groups[i].answerDue = min(groups[i].answerDue, due)
    }
  }

  /// Somebody else has answered for the group: with IGMPv2 that is enough (RFC 2236 §3).
  package mutating func answeredByOther(_ group: IPAddress) {
    if let at = index(group) { groups[at].answerDue = .distantFuture }
  }

  package func nextDeadline() -> Instant? {
    var next = owesBlock == nil ? Instant.distantFuture : Instant.zero
    for i in 0..<count { next = min(next, min(groups[i].change.due, groups[i].answerDue)) }
    return next == .distantFuture ? nil : next
  }

  /// The next thing to say now.
  package mutating func nextRecord(now: Instant, random: inout SecretRandom) -> MulticastRecord? {
    if let owed = owesBlock {
      owesBlock = nil
      if let at = index(owed), groups[at].change.blocked.count > 0 {
        let sources = groups[at].change.blocked
        settle(at)
        return MulticastRecord(kind: .blockOld, group: owed, sources: sources)
      }
    }
    for i in 0..<count {
      if groups[i].change.due <= now { return changeRecord(i, now, &random) }
      if groups[i].answerDue <= now, let record = answer(i) { return record }
    }
    return nil
  }

  private mutating func changeRecord(_ i: Int, _ now: Instant, _ random: inout SecretRandom) -> MulticastRecord {
    let group = groups[i].address
    let change = groups[i].change
    groups[i].change.left -= 1
    groups[i].change.due =
      groups[i].change.left > 0 ? now + .milliseconds(1 + random.below(1000)) : .distantFuture
    if change.modeChanges {
      let record = MulticastRecord(
        kind: groups[i].filter.isInclude ? .toInclude : .toExclude, group: group, sources: groups[i].filter)
      settle(i)
      return record
    }
    if change.allowed.count > 0 {
      let record = MulticastRecord(kind: .allowNew, group: group, sources: change.allowed)
      if change.blocked.count > 0 { owesBlock = group } else { settle(i) }
      return record
    }
    settle(i)
    return MulticastRecord(kind: .blockOld, group: group, sources: change.blocked)
  }

  /// When all has been said: forgets the change, and a group that was left.
  private mutating func settle(_ i: Int) {
    guard groups[i].change.left <= 0 else { return }
    groups[i].change = Change()
    if groups[i].filter.isInclude, groups[i].filter.count == 0 {
      count -= 1
      if i < count { (groups + i).update(from: groups + count, count: 1) }
    }
  }

  private mutating func answer(_ i: Int) -> MulticastRecord? {
    groups[i].answerDue = .distantFuture
    let filter = groups[i].filter
    let group = groups[i].address
    guard let asked = groups[i].queried else {
      if filter.isInclude, filter.count == 0 { return nil }
      return MulticastRecord(kind: filter.isInclude ? .isInclude : .isExclude, group: group, sources: filter)
    }
    groups[i].queried = nil
    // IS_IN(A∩B), or IS_IN(B−A) where A is excluded.
    var wanted = SourceFilter(isInclude: true)
    for j in 0..<asked.count where filter.allows(asked[j]) { wanted.insert(asked[j]) }
    return wanted.count > 0 ? MulticastRecord(kind: .isInclude, group: group, sources: wanted) : nil
  }
}

extension MulticastGroups.Change {
  fileprivate mutating func note(allowed source: IPAddress) {
    blocked.remove(source)
    allowed.insert(source)
  }
  fileprivate mutating func note(blocked source: IPAddress) {
    allowed.remove(source)
    blocked.insert(source)
  }
}
