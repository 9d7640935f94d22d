// Owns: a waiting thread that runs the stack itself instead of sleeping until another does (Host/CallerPolling.swift says what
// that is good for). Here is who may, how it sleeps, and how others wake it.
//
// One thread at a time for each shard, and only while no other sleeps for it: it would read frames for others as well, but who
// would, once it has left? With several waiting threads anp-rx serves them all. A thread that waits for sockets of several shards
// is the resident of all of them, or of none.
//
// A resident sleeps in ppoll on the device's queues, its own wake eventfd, and what the call wants besides. What it waits for is a
// word, as for every other sleeper (Wait.swift): the description's, the epoll set's, the thread's own. Whoever changes a word
// wakes futex sleepers and, where it is the resident's, writes its eventfd; the resident itself changes it without either.
//
//   resident   store word's address; look at the word; ppoll
//   waker      change the word; look whether it is the resident's; write the eventfd
//
// both sequentially consistent, so one sees the other. A handler may wait on the same thread: it is resident on top, and the
// outer word is back when it ends. A thread that jumped out of its wait is found like other abandoned calls
// (ThreadRecord.swift); until then anp-rx notices that frames are left lying.

import CSupport
import Host
import Netstack
import Synchronization

enum Resident {
  /// What `end` restores.
  struct Outer {
    let shards: ShardMask
    /// Those of which the thread was the resident already (a handler waits within a wait), and for which words.
    var nested = ShardMask.none
    var words = InlineArray<8, UInt>(repeating: 0)
    /// Nanoseconds to look at the device before sleeping; 0: not at all, -1: once.
    var spin: Int64 = 0
    /// When the wait began, and how long it took until what was waited for had come.
    var begin: Int64 = 0
    var waited: Int64?
    let forks = preload.pointee.forks.load(ordering: .relaxed)
    /// Still in the process in which it began: a handler may fork in the middle of a wait.
    var isOurs: Bool { forks == preload.pointee.forks.load(ordering: .relaxed) }

    init(_ shards: ShardMask) { self.shards = shards }
  }

  /// Whether `begin` could succeed; cheap.
  @inline(__always)
  static func isPossible(_ shards: ShardMask) -> Bool {
    if shards.isEmpty { return false }
    var left = shards
    while let i = left.removeFirst() {
      guard HostRuntime.shard(at: i).pointee.callersMayPoll,
        preload.pointee.waiting[i].sleepers.load(ordering: .sequentiallyConsistent) <= 0
      else { return false }
    }
    return true
  }

  /// Makes the calling thread the resident of `shards`. nil: it must sleep the ordinary way. Inside, without locks.
  static func begin(_ thread: ThreadPointer, _ word: WordPointer, _ shards: ShardMask) -> Outer? {
    guard isPossible(shards) else { return nil }
    if anp_internal_number(thread.pointee.eventDescriptor) < 0 {
      let made = anp_kernel_eventfd()
      guard made >= 0, anp_internal_adopt(thread.pointee.eventDescriptor, made) >= 0 else { return nil }
    }
    var outer = Outer(shards)
    let me = UInt(bitPattern: thread)
    var left = shards
    var taken = ShardMask.none
    while let i = left.removeFirst() {
      let waiting = preload.pointee.waiting + i
      let (isFree, other) = waiting.pointee.residentThread.compareExchange(
        expected: 0, desired: me, ordering: .sequentiallyConsistent)
      guard isFree || other == me else {
        while let j = taken.removeFirst() {
          preload.pointee.waiting[j].residentThread.store(0, ordering: .sequentiallyConsistent)
        }
        return nil
      }
      if isFree { taken.formUnion(ShardMask(i)) } else { outer.nested.formUnion(ShardMask(i)) }
    }
    left = shards
    while let i = left.removeFirst() {
      let waiting = preload.pointee.waiting + i
      outer.words[i] = waiting.pointee.residentWord.load(ordering: .relaxed)
      waiting.pointee.residentWord.store(UInt(bitPattern: word), ordering: .sequentiallyConsistent)
      let spin = HostRuntime.shard(at: i).pointee.enterResidence()
      outer.spin = outer.spin > 0 || spin > 0 ? max(outer.spin, spin) : min(outer.spin, spin)
    }
    outer.begin = anp_monotonic_nanoseconds()
    return outer
  }

  static func end(_ outer: Outer) {
    guard outer.isOurs else { return }
    var left = outer.shards
    while let i = left.removeFirst() {
      let waiting = preload.pointee.waiting + i
      waiting.pointee.residentWord.store(outer.words[i], ordering: .sequentiallyConsistent)
      if !outer.nested.contains(ShardMask(i)) {
        waiting.pointee.residentThread.store(0, ordering: .sequentiallyConsistent)
      }
      let others = waiting.pointee.sleepers.load(ordering: .sequentiallyConsistent) > 0
      HostRuntime.shard(at: i).pointee.leaveResidence(handingOver: others, waited: outer.waited)
    }
  }

  /// The resident has jumped out of its wait, or its process is a forked child.
  static func forget(_ shards: ShardMask) {
    var left = shards
    while let i = left.removeFirst() {
      preload.pointee.waiting[i].residentWord.store(0, ordering: .sequentiallyConsistent)
      preload.pointee.waiting[i].residentThread.store(0, ordering: .sequentiallyConsistent)
    }
  }

  /// Waits until the word changes (-EAGAIN), one of the first `count` entries has an event (how many), a handler has run
  /// (-EINTR, or -EAGAIN where the call is to be restarted) or the time is up (0). Between `begin` and `end`, inside; `entries`
  /// has room for one more, and one for each shard.
  /// - Parameter untilEmpty: take in all the device has, not only what makes the wait end: the caller serves many sockets.
  static func wait(
    _ thread: ThreadPointer, _ outer: inout Outer, _ awaited: Awaited, _ entries: UnsafeMutablePointer<pollfd>,
    _ count: Int,
    _ deadline: Deadline, _ mask: UnsafePointer<sigset_t>?, _ flags: UInt32, untilEmpty: Bool = false
  ) -> Int {
    if outer.spin != 0, spin(&outer, awaited, untilEmpty) { return -Errno.again }
    let readable = Int16(PollEvent.readable)
    let wake = entries + count
    let devices = entries + (count + 1)
    while true {
      if awaited.hasChanged { return -Errno.again }
      wake.pointee = pollfd(fd: anp_internal_number(thread.pointee.eventDescriptor), events: readable, revents: 0)
      var left = outer.shards
      var queues = 0
      while let i = left.removeFirst() {
        devices[queues] = pollfd(fd: HostRuntime.shard(at: i).pointee.deviceDescriptor, events: readable, revents: 0)
        queues += 1
      }
      anp_leave()
      let ready = Int(anp_wait_poll(entries, UInt(count + 1 + queues), deadline.remaining, mask, flags))
      anp_enter()
      guard outer.isOurs else { return -Errno.again }
      left = outer.shards
      queues = 0
      while let i = left.removeFirst() {
        let device = devices + queues
        queues += 1
        // At the end of the time, too: what has arrived by then counts.
        if ready == 0 || ready > 0 && device.pointee.revents & readable != 0 {
          let shard = HostRuntime.shard(at: i)
          if ready > 0 { shard.pointee.coalesce() }
          // Where anp-rx is at it, let it finish.
          if !shard.pointee.pollFromCaller(awaited, untilEmpty: untilEmpty) { _ = shard.pointee.awaitPoller() }
        } else if ready > 0, device.pointee.revents != 0 {
          HostRuntime.shard(at: i).pointee.noteDeviceLost()
          return -Errno.again
        }
      }
      if ready > 0, wake.pointee.revents != 0 { anp_eventfd_drain(anp_internal_number(thread.pointee.eventDescriptor)) }
      if awaited.hasChanged {
        outer.waited = anp_monotonic_nanoseconds() - outer.begin
        return -Errno.again
      }
      if ready <= 0 { return ready }
      var found = 0
      for i in 0..<count where entries[i].revents != 0 { found += 1 }
      if found > 0 { return found }
    }
  }

  /// Looks at the device until what is awaited has come (true) or it is time to sleep. Signals wait for the end of it.
  private static func spin(_ outer: inout Outer, _ awaited: Awaited, _ untilEmpty: Bool) -> Bool {
    let (begin, limit) = (outer.begin, outer.spin)
    var last = begin
    while true {
      var left = outer.shards
      while let i = left.removeFirst() {
        _ = HostRuntime.shard(at: i).pointee.pollFromCaller(awaited, untilEmpty: untilEmpty)
      }
      let now = anp_monotonic_nanoseconds()
      if awaited.hasChanged {
        if limit > 0 { noteSpin(outer, now - begin, .found) }
        outer.waited = now - begin
        return true
      }
      if limit < 0 { return false }
      if now - last > preemptedAfter {
        noteSpin(outer, last - begin, .preempted)
        return false
      }
      if now - begin >= limit {
        noteSpin(outer, now - begin, .inVain)
        return false
      }
      last = now
    }
  }

  private static func noteSpin(_ outer: Outer, _ nanoseconds: Int64, _ end: Shard.SpinEnd) {
    var left = outer.shards
    while let i = left.removeFirst() { HostRuntime.shard(at: i).pointee.noteSpin(nanoseconds, end) }
  }

  /// A look takes far less than this: the core was taken away meanwhile.
  private static var preemptedAfter: Int64 { 40_000 }

  /// Looks at the device once, for a call that does not wait: what has arrived by now counts, as with a kernel that takes
  /// packets in at once. True where something may have come in.
  @inline(__always)
  static func pollOnce(_ shards: ShardMask) -> Bool {
    var left = shards
    var hasNews = false
    while let i = left.removeFirst() {
      let shard = HostRuntime.shard(at: i)
      guard shard.pointee.callersMayPoll else { return false }
      if shard.pointee.pollFromCaller(nil) || shard.pointee.awaitPoller() { hasNews = true }
    }
    return hasNews
  }

  /// As pollOnce, for what is of use but not needed: acknowledgments of what was just sent, `most` of them.
  @inline(__always)
  static func pollForAcknowledgments(
    _ shard: UnsafeMutablePointer<Shard>?, most: Int = Receiver.callerBudget
  ) -> Bool {
    guard let shard, shard.pointee.callersMayPoll else { return false }
    return shard.pointee.pollFromCaller(nil, most: most)
  }

  /// After a change of `word`: wakes the futex sleepers on it, up to `count`, and the resident if it waits for it.
  static func wakeSleepers(on word: WordPointer, _ count: Int32, stateLockHeld: Bool) {
    var last: UInt = 0
    for i in 0..<HostRuntime.shardCount {
      let waiting = preload.pointee.waiting + i
      guard waiting.pointee.residentWord.load(ordering: .sequentiallyConsistent) == UInt(bitPattern: word) else {
        continue
      }
      let resident = waiting.pointee.residentThread.load(ordering: .sequentiallyConsistent)
      if resident == last { continue }
      last = resident
      wakeResident(resident, stateLockHeld: stateLockHeld)
    }
    if preload.pointee.wordSleepers.load(ordering: .sequentiallyConsistent) > 0 { anp_wake(cWord(word), count) }
  }

  private static func wakeResident(_ resident: UInt, stateLockHeld: Bool) {
    // It looks at its word before it sleeps again.
    if resident == 0 || resident == UInt(bitPattern: anp_thread_record()) { return }
    guard let thread = ThreadPointer(bitPattern: resident) else { return }
    // Under the state lock the number cannot be moved away by a dup2 that aims at it.
    if !stateLockHeld { anp_state_lock() }
    anp_eventfd_signal(anp_internal_number(thread.pointee.eventDescriptor))
    if !stateLockHeld { anp_state_unlock() }
  }

  // MARK: Ordinary sleepers

  /// Around a sleep, for `shards`. Returns what `endSleeper` takes.
  @inline(__always)
  static func noteSleeper(_ shards: ShardMask, onWord: Bool) -> UInt32 {
    if onWord { preload.pointee.wordSleepers.add(1, ordering: .sequentiallyConsistent) }
    var left = shards
    while let i = left.removeFirst() { preload.pointee.waiting[i].sleepers.add(1, ordering: .sequentiallyConsistent) }
    return preload.pointee.forks.load(ordering: .relaxed)
  }

  @inline(__always)
  static func endSleeper(_ shards: ShardMask, onWord: Bool, _ forks: UInt32) {
    // In a forked child nobody sleeps.
    guard forks == preload.pointee.forks.load(ordering: .relaxed) else { return }
    if onWord { preload.pointee.wordSleepers.subtract(1, ordering: .sequentiallyConsistent) }
    var left = shards
    while let i = left.removeFirst() {
      preload.pointee.waiting[i].sleepers.subtract(1, ordering: .sequentiallyConsistent)
    }
  }
}
