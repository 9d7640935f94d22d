// Owns: how a changed socket finds the threads that poll it. Each thread in poll or select borrows one of 64 slots; a socket
// has a 64-bit mask of the slots to wake. No list node lives on a thread's stack, so a thread that jumps out of poll
// leaves nothing behind but bits, and those cause at most a wake-up too many. The last slot is shared by all threads beyond 63.

import CSupport
import Synchronization

enum Pollers {
  private static var shared: Int32 { 63 }
  /// Slots in use.
  nonisolated(unsafe) private static let taken: UnsafeMutablePointer<Atomic<UInt64>> = {
    let made = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: 1)
    made.initialize(to: Atomic<UInt64>(1 << 63))
    return made
  }()

  /// The thread's bit, borrowed if it has none.
  static func bit(_ thread: ThreadPointer) -> UInt64 {
    if thread.pointee.pollerSlot >= 0 { return 1 << UInt64(thread.pointee.pollerSlot) }
    var seen = taken.pointee.load(ordering: .relaxed)
    while seen != .max {
      let slot = (~seen).trailingZeroBitCount
      let (exchanged, original) = taken.pointee.weakCompareExchange(
        expected: seen, desired: seen | 1 << UInt64(slot), ordering: .acquiringAndReleasing)
      if exchanged {
        thread.pointee.pollerSlot = Int32(slot)
        anp_state_lock()
        preload.pointee.pollerSlots[slot] = thread
        anp_state_unlock()
        return 1 << UInt64(slot)
      }
      seen = original
    }
    thread.pointee.pollerSlot = shared
    thread.pointee.usesSharedSlot.store(true, ordering: .sequentiallyConsistent)
    return 1 << 63
  }

  /// Gives the slot back. Bits that still stand for it wake its next owner in vain.
  static func leave(_ thread: ThreadPointer) {
    let slot = thread.pointee.pollerSlot
    guard slot >= 0 else { return }
    thread.pointee.pollerSlot = -1
    if slot == shared {
      thread.pointee.usesSharedSlot.store(false, ordering: .sequentiallyConsistent)
      return
    }
    anp_state_lock()
    preload.pointee.pollerSlots[Int(slot)] = nil
    anp_state_unlock()
    taken.pointee.bitwiseAnd(~(1 << UInt64(slot)), ordering: .acquiringAndReleasing)
  }

  /// In a forked child: the threads that had slots are gone.
  static func forget() {
    for slot in 0..<64 { preload.pointee.pollerSlots[slot] = nil }
    taken.pointee.store(1 << 63, ordering: .relaxed)
    for index in 0..<preload.pointee.threads.made {
      let thread = preload.pointee.threads.record(UInt32(index))
      thread.pointee.pollerSlot = -1
      thread.pointee.usesSharedSlot.store(false, ordering: .relaxed)
    }
  }

  /// Owes a wake-up to every thread of `mask`.
  static func wake(_ mask: UInt64) {
    var left = mask
    anp_state_lock()
    while left != 0 {
      let slot = left.trailingZeroBitCount
      left &= left &- 1
      if Int32(slot) == shared {
        for index in 0..<preload.pointee.threads.made {
          let thread = preload.pointee.threads.record(UInt32(index))
          if thread.pointee.usesSharedSlot.load(ordering: .sequentiallyConsistent) { Wakes.owe(thread) }
        }
      } else if let thread = preload.pointee.pollerSlots[slot] {
        Wakes.owe(thread)
      }
    }
    anp_state_unlock()
  }
}
