// Owns: all timers of a stack, in a hierarchical timing wheel: O(1) to schedule, cancel and find the next deadline.
// Read first: Varghese & Lauck, "Hashed and Hierarchical Timing Wheels", 1987, scheme 7. Knows nothing of what a timer is
// for: an expired timer comes back as the `kind` and `owner` it was allocated with.
//
// Time is counted in ticks of 1 ms since the clock's start. A timer due at tick `w` sits at the level of the highest
// 6-bit digit in which `w` differs from the wheel's present tick, in the slot that this digit names:
//
//   present   0…0 │ 000010 │ 000101        level 0: the next 64 ms, one tick per slot
//   due       0…0 │ 000100 │ 110000   →    level 1, slot 4: redistributed when the present reaches digit 4
//                   level 1   level 0
//
// So within a level only slots at or after the present one are occupied, nothing wraps around, every timer of a level is
// due before every timer of the next, and one trailing-zero count per question finds the earliest slot. Eight levels hold
// any `Instant`.

/// Names a timer of a `TimerWheel`; its owner keeps it from `allocate` to `release`.
package struct TimerID: Equatable, Sendable {
  package var index: UInt32
  @inline(__always)
  package init(index: UInt32) { self.index = index }
  /// No timer: scheduling and cancelling it does nothing.
  @inline(__always)
  package static var none: TimerID { TimerID(index: .max) }
}

package struct TimerWheel: ~Copyable {
  private struct Node {
    var deadline: Instant
    /// Neighbours in the slot's circular list; `next` also links free nodes.
    var next: UInt32
    var previous: UInt32
    var owner: UInt32
    /// level << 6 | slot, `notArmed` or `notAllocated`.
    var place: UInt16
    var kind: UInt8
  }

  private static var bitsPerLevel: Int { 6 }
  private static var slotsPerLevel: Int { 64 }
  private static var levelCount: Int { 8 }
  private static var none: UInt32 { .max }
  private static var notArmed: UInt16 { .max }
  private static var notAllocated: UInt16 { .max - 1 }
  private static var nanosecondsPerTick: Int64 { 1_000_000 }

  private var nodes: UnsafeMutablePointer<Node>
  private var capacity: Int
  private var firstFree: UInt32
  /// First node of each slot's list, by place.
  private let heads: UnsafeMutablePointer<UInt32>
  /// For each level, bit `s` set where slot `s` has timers.
  private var occupied = InlineArray<8, UInt64>(repeating: 0)
  /// Bit `l` set where level `l` has timers.
  private var occupiedLevels: UInt32 = 0
  /// The present, as far as the wheel has been advanced, in ticks.
  private var present: Int64
  /// Timers that are running.
  package private(set) var armedCount = 0

  package init(now: Instant) {
    present = max(0, now.nanoseconds / Self.nanosecondsPerTick)
    heads = .allocate(capacity: Self.levelCount * Self.slotsPerLevel)
    heads.initialize(repeating: Self.none, count: Self.levelCount * Self.slotsPerLevel)
    capacity = 0
    firstFree = Self.none
    nodes = .allocate(capacity: 1)
  }

  deinit {
    nodes.deallocate()
    heads.deallocate()
  }

  // MARK: Timers come and go

  /// A timer that is not running yet. Amortised O(1); the only operation that may allocate memory.
  package mutating func allocate(kind: UInt8, owner: UInt32) -> TimerID {
    if firstFree == Self.none { grow() }
    let index = firstFree
    let node = nodes + Int(index)
    firstFree = node.pointee.next
    node.initialize(
      to: Node(
        deadline: .zero, next: Self.none, previous: Self.none, owner: owner, place: Self.notArmed, kind: kind))
    return TimerID(index: index)
  }

  /// Stops the timer and gives its name back.
  package mutating func release(_ id: TimerID) {
    guard id != .none else { return }
    // Twice would give one timer to two owners.
    assert(nodes[Int(id.index)].place != Self.notAllocated, "a timer was released twice")
    guard nodes[Int(id.index)].place != Self.notAllocated else { return }
    cancel(id)
    nodes[Int(id.index)].place = Self.notAllocated
    nodes[Int(id.index)].next = firstFree
    firstFree = id.index
  }

  private mutating func grow() {
    let newCapacity = max(64, capacity * 2)
    let new = UnsafeMutablePointer<Node>.allocate(capacity: newCapacity)
    new.moveInitialize(from: nodes, count: capacity)
    nodes.deallocate()
    nodes = new
    var index = newCapacity - 1
    while index >= capacity {
      (new + index).initialize(
        to: Node(
          deadline: .zero, next: firstFree, previous: Self.none, owner: 0, place: Self.notAllocated, kind: 0))
      firstFree = UInt32(truncatingIfNeeded: index)
      index -= 1
    }
    capacity = newCapacity
  }

  // MARK: Running

  /// Starts the timer, or moves it if it runs already. It fires at the first whole millisecond at or after `deadline`:
  /// never early. A deadline in the past fires at the next call of `nextExpired`. O(1).
  @inline(__always)
  package mutating func schedule(_ id: TimerID, at deadline: Instant) {
    guard id != .none else { return }
    cancel(id)
    nodes[Int(id.index)].deadline = deadline
    link(id.index)
    armedCount &+= 1
  }

  /// Stops the timer if it runs. O(1).
  @inline(__always)
  package mutating func cancel(_ id: TimerID) {
    guard isArmed(id) else { return }
    unlink(id.index)
    armedCount &-= 1
  }

  @inline(__always)
  package func isArmed(_ id: TimerID) -> Bool { id != .none && nodes[Int(id.index)].place < Self.notAllocated }

  /// What the timer was scheduled for, to the nanosecond; nil while it does not run.
  package func deadline(_ id: TimerID) -> Instant? { isArmed(id) ? nodes[Int(id.index)].deadline : nil }

  /// When to call `nextExpired` next; nil while no timer runs. Never later than the earliest timer fires. Within the next
  /// 64 ms exact; for timers further away it may be early by the span of their slot (64 ms, 4 s, 262 s …), in which case
  /// `nextExpired` returns nothing and this then gives a closer time. O(1).
  @inline(__always)
  package func nextDeadline() -> Instant? {
    guard occupiedLevels != 0 else { return nil }
    let (tick, _) = earliestSlot()
    return Instant(nanoseconds: tick &* Self.nanosecondsPerTick)
  }

  /// Disarms and returns one timer that is due at `now`, earliest millisecond first, in order of scheduling within a
  /// millisecond; nil when no more are due. A timer that is scheduled meanwhile for `now` or before is returned too.
  package mutating func nextExpired(now: Instant) -> (id: TimerID, kind: UInt8, owner: UInt32)? {
    let target = now.nanoseconds / Self.nanosecondsPerTick
    while occupiedLevels != 0 {
      let (tick, place) = earliestSlot()
      guard tick <= target else { break }
      present = max(present, tick)
      if place < Self.slotsPerLevel {
        let index = heads[place]
        unlink(index)
        armedCount &-= 1
        let node = nodes + Int(index)
        return (TimerID(index: index), node.pointee.kind, node.pointee.owner)
      }
      redistribute(place)
    }
    // Nothing is due up to `target`, and no occupied slot begins before it: every timer keeps its place.
    present = max(present, target)
    return nil
  }

  // MARK: Slots

  /// Where the earliest slot begins (in ticks), and its place. There is one.
  @inline(__always)
  private func earliestSlot() -> (tick: Int64, place: Int) {
    let level = occupiedLevels.trailingZeroBitCount
    let slot = occupied[level].trailingZeroBitCount
    let shift = level &* Self.bitsPerLevel
    let higherDigits = present & (-1 &<< Int64(shift &+ Self.bitsPerLevel))
    return (higherDigits | Int64(slot) &<< Int64(shift), level &<< Self.bitsPerLevel | slot)
  }

  /// Moves the timers of a far slot, which the present has just reached, to where they belong now.
  private mutating func redistribute(_ place: Int) {
    while heads[place] != Self.none {
      let index = heads[place]
      unlink(index)
      link(index)
    }
  }

  @inline(__always)
  private mutating func link(_ index: UInt32) {
    let node = nodes + Int(index)
    // Rounded up: a timer fires late by less than a tick, never early. Saturates for `.distantFuture`.
    let deadline = node.pointee.deadline.nanoseconds
    let roundedUp = deadline / Self.nanosecondsPerTick &+ (deadline % Self.nanosecondsPerTick > 0 ? 1 : 0)
    let due = max(roundedUp, present)
    let differing = due ^ present
    let level = differing == 0 ? 0 : (63 &- differing.leadingZeroBitCount) / Self.bitsPerLevel
    let slot = Int(truncatingIfNeeded: due &>> Int64(level &* Self.bitsPerLevel)) & (Self.slotsPerLevel &- 1)
    let place = level &<< Self.bitsPerLevel | slot
    node.pointee.place = UInt16(truncatingIfNeeded: place)

    let head = heads[place]
    if head == Self.none {
      node.pointee.next = index
      node.pointee.previous = index
      heads[place] = index
      occupied[level] |= 1 &<< UInt64(slot)
      occupiedLevels |= 1 &<< UInt32(level)
    } else {
      // To the end of the circle, just before the head.
      let last = nodes[Int(head)].previous
      node.pointee.next = head
      node.pointee.previous = last
      nodes[Int(last)].next = index
      nodes[Int(head)].previous = index
    }
  }

  @inline(__always)
  private mutating func unlink(_ index: UInt32) {
    let node = nodes + Int(index)
    let place = Int(node.pointee.place)
    node.pointee.place = Self.notArmed
    let next = node.pointee.next
    if next == index {
      heads[place] = Self.none
      let level = place &>> Self.bitsPerLevel
      occupied[level] &= ~(1 &<< UInt64(place & (Self.slotsPerLevel &- 1)))
      if occupied[level] == 0 { occupiedLevels &= ~(1 &<< UInt32(level)) }
      return
    }
    let previous = node.pointee.previous
    nodes[Int(previous)].next = next
    nodes[Int(next)].previous = previous
    if heads[place] == index { heads[place] = next }
  }
}
