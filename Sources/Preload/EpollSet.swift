// Owns: what the shim keeps beside an epoll descriptor: the interests in stack (and undecided) sockets, and which of them may
// be ready. Read first: epoll(7), and fs/eventpoll.c for the order of things. Kernel descriptors stay in the kernel's set.
//
// A wait that involves the kernel's set sleeps in it; then a wake eventfd, registered there edge-triggered, tells of stack
// sockets. A waiter need not read it: each write triggers anew. It is read where something may watch the epoll descriptor itself
// (an outer epoll, poll, select) and the ready list has become empty, so that the set does not look readable for ever. A
// wait on stack sockets alone sleeps on a futex word. A waiter that is the resident (Resident.swift) sleeps on the device, with the
// epoll descriptor beside it where the kernel's set has anything in it; it counts as a waiter on the word.
//
// All under the state lock, except the atomics.

import CSupport
import Host
import Synchronization

typealias EpollSetPointer = UnsafeMutablePointer<EpollSet>
typealias InterestPointer = UnsafeMutablePointer<Interest>

/// One (set, descriptor) pair of epoll_ctl.
struct Interest: ~Copyable, Pooled {
  let index: UInt32
  var nextFree: UInt32 = 0
  var set: EpollSetPointer?
  var description: DescriptionPointer?
  /// The descriptor it was added with, and the epoll descriptor: part of its name, as in Linux.
  var fd: Int32 = -1
  var epollDescriptor: Int32 = -1
  /// Wanted events with EPOLLET, EPOLLONESHOT …; only the private bits when a one-shot has fired.
  var events: UInt32 = 0
  var data: UInt64 = 0
  var isReady = false
  /// Where its socket was when the set was told last (`EpollSet.places`).
  var place = Place.nowhere
  var nextReady: InterestPointer?
  var previousReady: InterestPointer?
  var nextOfSet: InterestPointer?
  var previousOfSet: InterestPointer?
  var nextOfDescription: InterestPointer?
  var previousOfDescription: InterestPointer?

  init(index: UInt32) { self.index = index }
}

struct EpollSet: ~Copyable, Pooled {
  let index: UInt32
  var nextFree: UInt32 = 0
  let life = Lifetime()
  /// Futex word of the threads that wait for stack sockets alone.
  let word: WordPointer
  let wordWaiters = Atomic<Int32>(0)
  /// Threads that sleep in the kernel's set. May be too high after a wait was abandoned: a write too many.
  let kernelWaiters = Atomic<Int32>(0)
  /// Interests in `all`; read without the lock as a hint.
  let interestCount = Atomic<Int32>(0)
  /// Additions minus removals that the kernel's set has seen: too high after a registered descriptor was closed.
  let kernelInterests = Atomic<Int32>(0)
  /// Interests by the shard of their socket, and those in sockets that listen in all; as a mask of shards, its highest bit for
  /// the latter, also to be read without the lock.
  private var perShard = InlineArray<8, Int32>(repeating: 0)
  private var listening: Int32 = 0
  private let places = Atomic<UInt32>(0)
  /// Home of the wake eventfd. Stays with the record from life to life.
  let eventDescriptor: UnsafeMutablePointer<Int32>
  var eventRegistered = false
  /// The eventfd's counter is not 0.
  var eventSignalled = false
  /// Something may wait on the epoll descriptor itself: an outer epoll, poll, select.
  var isWatched = false
  var wakeOwed = false
  /// The last harvest was full of stack sockets: the kernel's are first in turn.
  var kernelFirst = false
  /// Harvests in a row that left the kernel's set out.
  var kernelSkips = 0
  var all: InterestPointer?
  var firstReady: InterestPointer?
  var lastReady: InterestPointer?
  var readyCount = 0

  init(index: UInt32) {
    self.index = index
    word = .allocate(capacity: 1)
    word.initialize(to: Atomic<UInt32>(0))
    eventDescriptor = .allocate(capacity: 1)
    eventDescriptor.initialize(to: -1)
  }

  mutating func begin() {
    wordWaiters.store(0, ordering: .relaxed)
    kernelWaiters.store(0, ordering: .relaxed)
    interestCount.store(0, ordering: .relaxed)
    kernelInterests.store(0, ordering: .relaxed)
    perShard = InlineArray(repeating: 0)
    listening = 0
    places.store(0, ordering: .relaxed)
    eventRegistered = false
    eventSignalled = eventDescriptor.pointee >= 0
    isWatched = false
    wakeOwed = false
    kernelFirst = false
    kernelSkips = 0
    all = nil
    firstReady = nil
    lastReady = nil
    readyCount = 0
    life.begin()
  }

  /// The shards whose locks make the readiness of its sockets stand still.
  @inline(__always)
  var locks: ShardMask { ShardMask(bits: places.load(ordering: .acquiring) & 0xff) }

  /// The shards that a waiter would run: those of its connections. New ones for its listeners may come in at all, and where there
  /// is nothing else that is what is waited for.
  @inline(__always)
  var sources: ShardMask {
    let seen = places.load(ordering: .acquiring)
    return seen == 1 << 31 ? .all : ShardMask(bits: seen & 0xff)
  }

  /// In a forked child: its sockets were the parent's.
  mutating func forgetPlaces() {
    perShard = InlineArray(repeating: 0)
    listening = 0
    places.store(0, ordering: .relaxed)
    var next = all
    while let interest = next {
      next = interest.pointee.nextOfSet
      interest.pointee.place = .nowhere
    }
  }

  mutating func count(_ place: Place, _ n: Int32) {
    switch place {
    case .nowhere: return
    case .shard(let index): perShard[Int(index)] += n
    case .listening: listening += n
    }
    var mask: UInt32 = listening > 0 ? 1 << 31 : 0
    for i in perShard.indices where perShard[i] > 0 { mask |= 1 << UInt32(i) }
    places.store(mask, ordering: .releasing)
  }
}

extension UnsafeMutablePointer where Pointee == EpollSet {
  /// Marks the wake eventfd's event in what the kernel's set returns: an address that no program has.
  var mark: UInt64 { UInt64(UInt(bitPattern: self)) }

  var tableEntry: UInt64 {
    anp_fd_entry(UInt32(ANP_FD_EPOLL.rawValue), pointee.index, pointee.life.generation)
  }

  static func make() -> EpollSetPointer? {
    anp_state_lock()
    let taken = preload.pointee.epollSets.take()
    anp_state_unlock()
    taken?.pointee.begin()
    return taken
  }

  func release() {
    guard pointee.life.release() else { return }
    anp_state_lock()
    while let interest = pointee.all { Epoll.removeLocked(interest) }
    if pointee.isWatched { preload.pointee.watchedSets -= 1 }
    pointee.life.end()
    preload.pointee.epollSets.give(self)
    anp_state_unlock()
  }

  var hasSleepers: Bool {
    pointee.wordWaiters.load(ordering: .relaxed) > 0 || pointee.kernelWaiters.load(ordering: .relaxed) > 0
  }

  /// Wakes one waiter, or lets an outer wait see the set as ready.
  func wakeLocked() {
    pointee.wakeOwed = false
    if pointee.wordWaiters.load(ordering: .relaxed) > 0 {
      pointee.word.pointee.add(1, ordering: .sequentiallyConsistent)
      Resident.wakeSleepers(on: pointee.word, 1, stateLockHeld: true)
    }
    if pointee.eventRegistered, pointee.isWatched || pointee.kernelWaiters.load(ordering: .relaxed) > 0 {
      signalEventLocked()
    }
  }

  func signalEventLocked() {
    pointee.eventSignalled = true
    anp_eventfd_signal(anp_internal_number(pointee.eventDescriptor))
  }

  /// For a set that is watched: what is no longer ready leaves the list, and the eventfd says whether any is left. With
  /// `isHarvested` the kernel's set may have given the trigger away.
  func refreshLocked(isHarvested: Bool) {
    guard pointee.eventRegistered else { return }
    var next = pointee.firstReady
    while let interest = next {
      next = interest.pointee.nextReady
      guard let description = interest.pointee.description,
        description.readinessLocked() & interest.pointee.events & ~EpollFlag.privateBits == 0
      else { continue }
      unlinkReadyLocked(interest)
    }
    if pointee.firstReady == nil {
      if pointee.eventSignalled { anp_eventfd_drain(anp_internal_number(pointee.eventDescriptor)) }
      pointee.eventSignalled = false
    } else if isHarvested || !pointee.eventSignalled {
      signalEventLocked()
    }
  }

  /// Makes sure that the wake eventfd is in the kernel's set. False when the process has no descriptor left for it.
  func registerEventLocked(_ epfd: Int32) -> Bool {
    if pointee.eventRegistered { return true }
    if anp_internal_number(pointee.eventDescriptor) < 0 {
      let made = anp_kernel_eventfd()
      guard made >= 0, anp_internal_adopt(pointee.eventDescriptor, made) >= 0 else { return false }
    }
    let edgeTriggered = PollEvent.readable | EpollFlag.edge
    let result = anp_kernel_epoll_control(
      epfd, EpollOperation.add, anp_internal_number(pointee.eventDescriptor), edgeTriggered, mark)
    pointee.eventRegistered = result == 0 || Int(result) == -Errno.exists
    return pointee.eventRegistered
  }

  func linkReadyLocked(_ interest: InterestPointer) {
    guard !interest.pointee.isReady else { return }
    interest.pointee.isReady = true
    interest.pointee.nextReady = nil
    interest.pointee.previousReady = pointee.lastReady
    if let last = pointee.lastReady { last.pointee.nextReady = interest } else { pointee.firstReady = interest }
    pointee.lastReady = interest
    pointee.readyCount += 1
  }

  func unlinkReadyLocked(_ interest: InterestPointer) {
    guard interest.pointee.isReady else { return }
    interest.pointee.isReady = false
    if let previous = interest.pointee.previousReady {
      previous.pointee.nextReady = interest.pointee.nextReady
    } else {
      pointee.firstReady = interest.pointee.nextReady
    }
    if let next = interest.pointee.nextReady {
      next.pointee.previousReady = interest.pointee.previousReady
    } else {
      pointee.lastReady = interest.pointee.previousReady
    }
    pointee.readyCount -= 1
  }
}

@inline(__always)
func acquireSet(_ entry: UInt64) -> EpollSetPointer? {
  let set = preload.pointee.epollSets.record(anp_fd_index_of(entry))
  return set.pointee.life.acquire(anp_fd_generation_of(entry)) ? set : nil
}

enum Epoll {
  /// The interest of `set` in `description` through `fd`.
  static func findLocked(_ set: EpollSetPointer, _ description: DescriptionPointer, _ fd: Int32) -> InterestPointer? {
    var next = description.pointee.interests
    while let interest = next {
      if interest.pointee.set == set, interest.pointee.fd == fd { return interest }
      next = interest.pointee.nextOfDescription
    }
    return nil
  }

  static func addLocked(_ set: EpollSetPointer, _ description: DescriptionPointer) -> InterestPointer? {
    guard let interest = preload.pointee.interests.take() else { return nil }
    interest.pointee.set = set
    interest.pointee.description = description
    interest.pointee.isReady = false
    interest.pointee.previousOfSet = nil
    interest.pointee.nextOfSet = set.pointee.all
    set.pointee.all?.pointee.previousOfSet = interest
    set.pointee.all = interest
    interest.pointee.previousOfDescription = nil
    interest.pointee.nextOfDescription = description.pointee.interests
    description.pointee.interests?.pointee.previousOfDescription = interest
    description.pointee.interests = interest
    interest.pointee.place = description.place
    set.pointee.count(interest.pointee.place, 1)
    description.pointee.hasInterests.store(true, ordering: .sequentiallyConsistent)
    set.pointee.interestCount.add(1, ordering: .sequentiallyConsistent)
    return interest
  }

  static func removeLocked(_ interest: InterestPointer) {
    guard let set = interest.pointee.set, let description = interest.pointee.description else { return }
    set.unlinkReadyLocked(interest)
    if let previous = interest.pointee.previousOfSet {
      previous.pointee.nextOfSet = interest.pointee.nextOfSet
    } else {
      set.pointee.all = interest.pointee.nextOfSet
    }
    interest.pointee.nextOfSet?.pointee.previousOfSet = interest.pointee.previousOfSet
    if let previous = interest.pointee.previousOfDescription {
      previous.pointee.nextOfDescription = interest.pointee.nextOfDescription
    } else {
      description.pointee.interests = interest.pointee.nextOfDescription
    }
    interest.pointee.nextOfDescription?.pointee.previousOfDescription = interest.pointee.previousOfDescription
    if description.pointee.interests == nil {
      description.pointee.hasInterests.store(false, ordering: .sequentiallyConsistent)
    }
    set.pointee.interestCount.subtract(1, ordering: .relaxed)
    set.pointee.count(interest.pointee.place, -1)
    interest.pointee.place = .nowhere
    interest.pointee.set = nil
    interest.pointee.description = nil
    preload.pointee.interests.give(interest)
  }

  /// The socket has come to another place, or into the stack.
  static func placeLocked(_ description: DescriptionPointer) {
    let place = description.place
    var next = description.pointee.interests
    while let interest = next {
      next = interest.pointee.nextOfDescription
      guard let set = interest.pointee.set, interest.pointee.place != place else { continue }
      set.pointee.count(interest.pointee.place, -1)
      set.pointee.count(place, 1)
      interest.pointee.place = place
    }
  }

  /// The stack says that `events` are new on `description`. All ordinary interests hear of it, of the exclusive ones no more
  /// than it takes to wake somebody.
  static func changedLocked(_ description: DescriptionPointer, _ events: UInt32) {
    var someoneExclusive = false
    var next = description.pointee.interests
    while let interest = next {
      next = interest.pointee.nextOfDescription
      let wanted = interest.pointee.events
      guard let set = interest.pointee.set, wanted & events & ~EpollFlag.privateBits != 0 else { continue }
      if wanted & EpollFlag.exclusive != 0 {
        if someoneExclusive { continue }
        someoneExclusive = set.hasSleepers
      }
      set.linkReadyLocked(interest)
      Wakes.owe(set)
    }
  }

  /// Before the kernel is asked about a set that may have others in it: those say truly whether they are readable.
  static func refreshWatchedLocked() {
    for index in 0..<preload.pointee.epollSets.made {
      let set = preload.pointee.epollSets.record(UInt32(index))
      if set.pointee.isWatched, set.pointee.life.references > 0 { set.refreshLocked(isHarvested: false) }
    }
  }

  /// The side of `description` turned to the kernel's: its interests move to the kernel's sets.
  static func handToKernelLocked(_ description: DescriptionPointer) {
    while let interest = description.pointee.interests, let set = interest.pointee.set {
      let fd = descriptor(naming: description.tableEntry, hint: interest.pointee.fd)
      let epfd = descriptor(naming: set.tableEntry, hint: interest.pointee.epollDescriptor)
      if fd >= 0, epfd >= 0 {
        _ = anp_kernel_epoll_control(epfd, EpollOperation.add, fd, interest.pointee.events, interest.pointee.data)
        set.pointee.kernelInterests.add(1, ordering: .relaxed)
        Wakes.owe(set)
      }
      removeLocked(interest)
    }
  }

  /// A descriptor that has this entry: `hint` when it still does.
  private static func descriptor(naming entry: UInt64, hint: Int32) -> Int32 {
    if anp_fd_look_up(hint) == entry { return hint }
    var found: UInt64 = 0
    var fd = anp_fd_next(0, -1, &found)
    while fd >= 0, found != entry { fd = anp_fd_next(fd + 1, -1, &found) }
    return fd
  }
}
