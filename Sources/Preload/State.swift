// Owns: everything the shim keeps outside the stack, as one value at a fixed address, made at the first use.
//
// Order of locks: the shards' locks, then the state lock (anp_state_lock). Both only between anp_enter() and anp_leave(), neither
// while sleeping.

import CSupport
import Host
import Synchronization

struct PreloadState: ~Copyable {
  var descriptions = Pool<Description>(maximum: 1 << 20)
  var epollSets = Pool<EpollSet>(maximum: 1 << 16)
  var interests = Pool<Interest>(maximum: 1 << 20)
  /// Epoll sets whose own descriptor is polled or in another set.
  var watchedSets = 0
  var threads = Pool<ThreadRecord>(maximum: 1 << 16)
  /// Poller slot → thread (see Pollers).
  let pollerSlots: UnsafeMutablePointer<UnsafeMutablePointer<ThreadRecord>?>
  /// How often this process is a child of a child …: what a thread noted before a fork in its midst is not to be undone after it.
  let forks = Atomic<UInt32>(0)
  /// The locks that fork holds.
  var lockedForFork = ShardMask.none
  /// For each shard, who waits for it.
  let waiting: UnsafeMutablePointer<ShardWaiting>
  /// Threads that sleep on futex words. Too high after abandoned waits that left no note.
  let wordSleepers = Atomic<Int32>(0)

  init() {
    pollerSlots = .allocate(capacity: 64)
    pollerSlots.initialize(repeating: nil, count: 64)
    waiting = .allocate(capacity: ShardMask.maximumCount)
    for i in 0..<ShardMask.maximumCount { (waiting + i).initialize(to: ShardWaiting()) }
  }
}

/// Who waits for a shard's sockets.
struct ShardWaiting: ~Copyable {
  /// The thread that runs the stack while it waits, and the word it waits for (Resident); addresses, 0 = none.
  let residentThread = Atomic<UInt>(0)
  let residentWord = Atomic<UInt>(0)
  /// Threads that sleep otherwise. Too high after abandoned waits that left no note.
  let sleepers = Atomic<Int32>(0)
  /// A cache line for each: two shards' threads write all the time.
  private let padding = InlineArray<5, UInt64>(repeating: 0)
}

nonisolated(unsafe) let preload: UnsafeMutablePointer<PreloadState> = {
  let made = UnsafeMutablePointer<PreloadState>.allocate(capacity: 1)
  made.initialize(to: PreloadState())
  return made
}()
