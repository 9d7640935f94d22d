// Owns: what happens when the stack reports a changed socket: who is told, and when. `readinessChanged` runs under the
// shard's lock, on whichever thread holds it (a caller, the poller, a timer); it changes words and ready lists and notes the
// system calls that are due. `afterUnlock` makes them, so that nobody is woken only to queue up at the lock.

import CSupport
import Host
import Synchronization

enum Wakes {
  /// Hook of the shard: `events` is what is new on the socket with that cookie.
  static func readinessChanged(_ cookie: UInt32, _ events: UInt32) {
    guard cookie != 0, Int(cookie) <= preload.pointee.descriptions.made else { return }
    changed(preload.pointee.descriptions.record(cookie - 1), events)
  }

  /// Tells everybody who waits on `description`.
  static func changed(_ description: DescriptionPointer, _ events: UInt32) {
    let readish =
      PollEvent.readable | PollEvent.priority | PollEvent.readHangUp | PollEvent.hangUp | PollEvent.error
    let writish = PollEvent.writable | PollEvent.hangUp | PollEvent.error
    // Who is about to sleep says so before it looks, so a word that nobody waits on need not change.
    if events & readish != 0, description.pointee.readWaiting.load(ordering: .sequentiallyConsistent) {
      description.pointee.readWaiting.store(false, ordering: .sequentiallyConsistent)
      description.pointee.readWord.pointee.add(1, ordering: .sequentiallyConsistent)
      owe(description.pointee.readWord)
    }
    if events & writish != 0, description.pointee.writeWaiting.load(ordering: .sequentiallyConsistent) {
      description.pointee.writeWaiting.store(false, ordering: .sequentiallyConsistent)
      description.pointee.writeWord.pointee.add(1, ordering: .sequentiallyConsistent)
      owe(description.pointee.writeWord)
    }
    if description.pointee.pollers.load(ordering: .sequentiallyConsistent) != 0 {
      // Whoever polls sets its bit again when it looks again.
      Pollers.wake(description.pointee.pollers.exchange(0, ordering: .sequentiallyConsistent))
    }
    if description.pointee.hasInterests.load(ordering: .sequentiallyConsistent) {
      anp_state_lock()
      Epoll.changedLocked(description, events)
      anp_state_unlock()
    }
  }

  /// Tells everybody that everything about `description` may have changed (its side was decided).
  static func everything(_ description: DescriptionPointer) {
    changed(description, ~0)
  }

  static func owe(_ word: WordPointer) {
    owe(PendingWake(kind: .word, target: UnsafeMutableRawPointer(word)), stateLockHeld: false)
  }

  /// Under the state lock.
  static func owe(_ thread: ThreadPointer) {
    guard thread.pointee.sleeping.load(ordering: .sequentiallyConsistent) != 0 else { return }
    owe(PendingWake(kind: .thread, target: UnsafeMutableRawPointer(thread)), stateLockHeld: true)
  }

  /// Under the state lock.
  static func owe(_ set: EpollSetPointer) {
    guard !set.pointee.wakeOwed else { return }
    set.pointee.wakeOwed = true
    owe(PendingWake(kind: .set, target: UnsafeMutableRawPointer(set)), stateLockHeld: true)
  }

  private static func owe(_ wake: PendingWake, stateLockHeld: Bool) {
    if let thread = Threads.currentIfAny(stateLockHeld: stateLockHeld), thread.pointee.owe(wake) { return }
    perform(wake, stateLockHeld: stateLockHeld)
  }

  /// Hook of the shard, after its lock is released, on the same thread. Also called where no shard was involved.
  static func afterUnlock() {
    guard let record = anp_thread_record() else { return }
    let thread = record.assumingMemoryBound(to: ThreadRecord.self)
    while let wake = thread.pointee.takeOwed() { perform(wake, stateLockHeld: false) }
  }

  private static func perform(_ wake: PendingWake, stateLockHeld: Bool) {
    switch wake.kind {
    case .word:
      // Everybody: the word says "look again", not "one may go".
      Resident.wakeSleepers(
        on: wake.target.assumingMemoryBound(to: Atomic<UInt32>.self), .max, stateLockHeld: stateLockHeld)
    case .thread:
      let thread = wake.target.assumingMemoryBound(to: ThreadRecord.self)
      switch thread.pointee.sleeping.exchange(0, ordering: .sequentiallyConsistent) {
      case 1:
        thread.pointee.word.pointee.store(1, ordering: .sequentiallyConsistent)
        Resident.wakeSleepers(on: thread.pointee.word, 1, stateLockHeld: stateLockHeld)
      case 2:
        thread.pointee.word.pointee.store(1, ordering: .sequentiallyConsistent)
        // Its own doing, as resident: it looks at the word.
        if anp_thread_record() == UnsafeMutableRawPointer(thread) { break }
        // Under the state lock the number cannot be moved away by a dup2 that aims at it.
        if !stateLockHeld { anp_state_lock() }
        anp_eventfd_signal(anp_internal_number(thread.pointee.eventDescriptor))
        if !stateLockHeld { anp_state_unlock() }
      default: break
      }
    case .set:
      if !stateLockHeld { anp_state_lock() }
      wake.target.assumingMemoryBound(to: EpollSet.self).wakeLocked()
      if !stateLockHeld { anp_state_unlock() }
    }
  }
}

extension Threads {
  /// Making a record takes the state lock: not while it is held.
  @inline(__always)
  static func currentIfAny(stateLockHeld: Bool) -> ThreadPointer? {
    if let record = anp_thread_record() { return record.assumingMemoryBound(to: ThreadRecord.self) }
    return stateLockHeld ? nil : current
  }
}
