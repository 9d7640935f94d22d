// Owns: what the shim knows of a thread: the word or eventfd that wakes it out of poll and select, the wake-ups it owes
// others when it leaves a shard, and the references that its sleeping calls hold.
//
// A call may end without returning: siglongjmp out of a handler, pthread_cancel. So a sleeping call keeps its reference here
// and not only in its frame. `reapAbandoned` gives back what belongs to frames that are gone (at the thread's next entry or
// its end). Should it ever be wrong about a frame, that call finds its reference lost and returns EBADF: no memory is at stake.

import CSupport
import Host
import Netstack
import Synchronization

typealias ThreadPointer = UnsafeMutablePointer<ThreadRecord>

/// A reference that a sleeping call holds.
struct HeldReference {
  enum Kind: UInt8 {
    case description, setInKernel, setOnWord
    /// poll's: `generation` of them from `index` on in the thread's list.
    case polled
  }
  var kind: Kind
  var index: UInt32
  var generation: UInt32
  /// Where the stack stood; a frame is gone when the stack is back above it.
  var depth: UInt
  /// How the call sleeps, and for which shards.
  var sleep = Sleep.none
  var sources = ShardMask.none
  let forks = preload.pointee.forks.load(ordering: .relaxed)

  enum Sleep: UInt8 { case none, onWord, inKernel, resident }
}

struct PendingWake {
  enum Kind: UInt8 { case word, thread, set }
  var kind: Kind
  var target: UnsafeMutableRawPointer
}

struct ThreadRecord: ~Copyable, Pooled {
  let index: UInt32
  var nextFree: UInt32 = 0
  /// Changes when a stack socket that this thread polls may have become ready.
  let word: WordPointer
  /// How this thread sleeps in poll: 0 not at all, or woken already; 1 on `word`; 2 in ppoll with `eventDescriptor`.
  let sleeping = Atomic<UInt32>(0)
  /// Home of the wake eventfd (anp_internal_adopt), -1 until needed.
  let eventDescriptor: UnsafeMutablePointer<Int32>
  /// What its last call wrote to, where that was little (AutoCork).
  var lastWrite = LastWrite()
  /// This thread's bit in the sockets' poller masks, -1 = none.
  var pollerSlot: Int32 = -1
  let usesSharedSlot = Atomic<Bool>(false)

  private var held = InlineArray<8, HeldReference>(
    repeating: HeldReference(kind: .description, index: 0, generation: 0, depth: 0))
  private(set) var heldCount = 0

  /// Descriptions (indices) that sleeping polls of this thread hold a reference to: a stack, as handlers nest.
  private var polled: UnsafeMutablePointer<UInt32>?
  private var polledCapacity = 0
  private(set) var polledCount = 0

  private var pending = InlineArray<32, PendingWake?>(repeating: nil)
  private(set) var pendingCount = 0

  init(index: UInt32) {
    self.index = index
    word = .allocate(capacity: 1)
    word.initialize(to: Atomic<UInt32>(0))
    eventDescriptor = .allocate(capacity: 1)
    eventDescriptor.initialize(to: -1)
  }

  /// Full: the wait goes on without a note, and its reference stays for ever should the call be abandoned.
  mutating func note(_ reference: HeldReference) -> Bool {
    guard heldCount < 8 else { return false }
    held[heldCount] = reference
    heldCount += 1
    return true
  }

  /// The newest note's call is about to sleep like this, or is done sleeping.
  mutating func noteSleep(_ sleep: HeldReference.Sleep, _ sources: ShardMask = .none) {
    guard heldCount > 0 else { return }
    held[heldCount - 1].sleep = sleep
    held[heldCount - 1].sources = sources
  }

  /// Takes the note of a call that has returned from its sleep. False: it was reaped.
  mutating func takeBack(_ reference: HeldReference) -> Bool {
    while heldCount > 0 {
      let top = held[heldCount - 1]
      if top.kind == reference.kind, top.index == reference.index, top.generation == reference.generation,
        top.depth == reference.depth
      {
        heldCount -= 1
        return true
      }
      // Deeper notes belong to handlers that jumped away.
      guard top.depth < reference.depth else { return false }
      heldCount -= 1
      giveBack(top)
    }
    return false
  }

  mutating func holdPolled(_ index: UInt32) {
    if polledCount == polledCapacity {
      let larger = max(64, polledCapacity * 2)
      let new = UnsafeMutablePointer<UInt32>.allocate(capacity: larger)
      if let polled {
        new.update(from: polled, count: polledCount)
        polled.deallocate()
      }
      polled = new
      polledCapacity = larger
    }
    polled.unsafelyUnwrapped[polledCount] = index
    polledCount += 1
  }

  /// Gives back the polled descriptions from `first` on.
  mutating func releasePolled(from first: Int) {
    while polledCount > first, let polled {
      polledCount -= 1
      preload.pointee.descriptions.record(polled[polledCount]).release()
    }
  }

  private mutating func giveBack(_ reference: HeldReference) {
    reference.giveBackSleep()
    if reference.kind == .polled { releasePolled(from: Int(reference.index)) } else { reference.giveBack() }
  }

  mutating func reapAbandoned(below depth: UInt) {
    while heldCount > 0 {
      let top = held[heldCount - 1]
      guard top.depth <= depth else { return }
      heldCount -= 1
      giveBack(top)
    }
  }

  /// The thread ends: everything goes back.
  mutating func reapAll() { reapAbandoned(below: .max) }

  /// Notes a wake-up for `afterUnlock`. False when there is no room.
  mutating func owe(_ wake: PendingWake) -> Bool {
    guard pendingCount < 32 else { return false }
    pending[pendingCount] = wake
    pendingCount += 1
    return true
  }

  mutating func takeOwed() -> PendingWake? {
    guard pendingCount > 0 else { return nil }
    pendingCount -= 1
    return pending[pendingCount]
  }
}

extension HeldReference {
  /// Of a call that will not return.
  func giveBackSleep() {
    // A forked child forgets who slept.
    guard forks == preload.pointee.forks.load(ordering: .relaxed) else { return }
    switch sleep {
    case .none: break
    case .onWord: Resident.endSleeper(sources, onWord: true, forks)
    case .inKernel: Resident.endSleeper(sources, onWord: false, forks)
    case .resident:
      Resident.forget(sources)
      var left = sources
      while let i = left.removeFirst() { HostRuntime.shard(at: i).pointee.forgetResident() }
    }
  }

  func giveBack() {
    switch kind {
    case .description:
      preload.pointee.descriptions.record(index).release()
    case .setInKernel:
      let set = preload.pointee.epollSets.record(index)
      set.pointee.kernelWaiters.subtract(1, ordering: .relaxed)
      set.release()
    case .polled: break
    case .setOnWord:
      let set = preload.pointee.epollSets.record(index)
      set.pointee.wordWaiters.subtract(1, ordering: .relaxed)
      set.release()
    }
  }
}

enum Threads {
  /// The calling thread's record, made at the first call. Nil only when 65,536 threads have one.
  @inline(__always)
  static var current: ThreadPointer? {
    if let record = anp_thread_record() { return record.assumingMemoryBound(to: ThreadRecord.self) }
    return make()
  }

  @inline(never)
  private static func make() -> ThreadPointer? {
    anp_state_lock()
    let taken = preload.pointee.threads.take()
    anp_state_unlock()
    guard let taken else { return nil }
    anp_set_thread_record(UnsafeMutableRawPointer(taken)) { record in
      guard let record else { return }
      Threads.end(record.assumingMemoryBound(to: ThreadRecord.self))
    }
    return taken
  }

  private static func end(_ thread: ThreadPointer) {
    anp_enter()
    AutoCork.end(thread)
    thread.pointee.reapAll()
    Pollers.leave(thread)
    anp_state_lock()
    preload.pointee.threads.give(thread)
    anp_state_unlock()
    anp_leave()
  }

  /// At every entry that may take or wait for something.
  /// - Parameter entry: of the socket that the call sends to; 0 = it does something else.
  @inline(__always)
  static func noteCall(sendingTo entry: UInt64 = 0) {
    guard let record = anp_thread_record() else { return }
    let thread = record.assumingMemoryBound(to: ThreadRecord.self)
    if thread.pointee.lastWrite.entry != 0, thread.pointee.lastWrite.entry != entry { AutoCork.end(thread) }
    if thread.pointee.heldCount > 0 { reap(thread, anp_stack_depth()) }
  }

  @inline(never)
  private static func reap(_ thread: ThreadPointer, _ depth: UInt) {
    // On the alternate signal stack, depths say nothing about the frames of the normal one.
    if anp_on_signal_stack() != 0 { return }
    thread.pointee.reapAbandoned(below: depth)
  }
}
