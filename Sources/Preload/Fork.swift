// Owns: what fork does to the shim. The stack stays with the parent; the child's copies of its sockets become orphans, which
// answer EBADF; new sockets in the child start a stack of their own. Sockets whose side is still open are plain kernel
// sockets so far and stay usable.
//
//   prepare (parent's thread, inside)  all shards' locks, state lock: held only for a moment, never by a sleeper
//   parent                             releases them
//   child                              resets them, turns stack sockets to orphans, closes our internal descriptors

import CSupport
import Host
import Netstack
import Synchronization

/// Nonzero once a descriptor of the process has been ours.
@c(anp_entry_in_use)
public func entryInUse() -> Int32 { anp_fd_in_use() }

@c(anp_entry_fork_prepare)
public func entryForkPrepare() {
  anp_enter()
  let shards = ShardMask.all
  HostRuntime.lock(shards)
  anp_state_lock()
  preload.pointee.lockedForFork = shards
}

@c(anp_entry_fork_parent)
public func entryForkParent() {
  // Another thread may have started the stack meanwhile.
  let shards = preload.pointee.lockedForFork
  anp_state_unlock()
  HostRuntime.unlock(shards)
  Wakes.afterUnlock()
  anp_leave()
}

@c(anp_entry_fork_child)
public func entryForkChild() {
  anp_state_lock_reset()
  // Only the forking thread is here. What others slept on, polled or owed is gone with them.
  anp_internal_close_all()
  Pollers.forget()
  preload.pointee.forks.add(1, ordering: .relaxed)
  // The parent sends what is held back.
  anp_thread_record()?.assumingMemoryBound(to: ThreadRecord.self).pointee.lastWrite = LastWrite()
  for i in 0..<ShardMask.maximumCount {
    Resident.forget(ShardMask(i))
    preload.pointee.waiting[i].sleepers.store(0, ordering: .relaxed)
  }
  preload.pointee.wordSleepers.store(0, ordering: .relaxed)
  for index in 0..<preload.pointee.epollSets.made {
    let set = preload.pointee.epollSets.record(UInt32(index))
    set.pointee.forgetPlaces()
    set.pointee.eventRegistered = false
    set.pointee.eventSignalled = false
    set.pointee.wordWaiters.store(0, ordering: .relaxed)
    set.pointee.kernelWaiters.store(0, ordering: .relaxed)
    set.pointee.wakeOwed = false
  }
  var entry: UInt64 = 0
  var fd = anp_fd_next(0, -1, &entry)
  while fd >= 0 {
    if anp_fd_kind_of(entry) == ANP_FD_SOCKET {
      let description = preload.pointee.descriptions.record(anp_fd_index_of(entry))
      if description.pointee.side == .stack {
        while let interest = description.pointee.interests { Epoll.removeLocked(interest) }
        _ = anp_fd_exchange(fd, anp_fd_entry(UInt32(ANP_FD_ORPHAN.rawValue), 0, 0), nil)
      } else if description.pointee.hasKernelSide.load(ordering: .relaxed) {
        // Nobody watches its kernel's side here, and it has no other yet.
        while let interest = description.pointee.interests { Epoll.removeLocked(interest) }
        description.pointee.setSide(.kernel)
        if anp_fd_remove(fd, entry) != 0 { _ = description.pointee.life.release() }
      }
    } else if anp_fd_kind_of(entry) == ANP_FD_INTERNAL {
      // The host runtime closes its own below.
      _ = anp_fd_remove(fd, entry)
    }
    fd = anp_fd_next(fd + 1, -1, &entry)
  }
  HostRuntime.forkChild()
  anp_leave()
}

// MARK: The end of the process

/// Takes the shards' locks for the keeper and leaves them taken. False where that takes longer than 200 ms.
@c(anp_entry_end)
public func entryEnd(_ how: Int32) -> Int32 {
  guard HostRuntime.shard != nil else { return 0 }
  if how == Int32(ANP_END_EXIT.rawValue) { HostRuntime.atExit() }
  let patience = Deadline.after(200_000_000)
  var taken = ShardMask.none
  for i in 0..<HostRuntime.shardCount {
    let word = HostRuntime.shard(at: i).pointee.lockWord
    while anp_try_lock(word) == 0 {
      // A thread that is inside while it ends the program holds it itself.
      if anp_lock_owner(word) == anp_thread_id() || patience.remaining == 0 {
        HostRuntime.unlockUnchanged(taken)
        return 0
      }
      anp_sleep(50_000)
    }
    taken.formUnion(ShardMask(i))
  }
  return 1
}

@c(anp_entry_end_undone)
public func entryEndUndone() {
  HostRuntime.unlock(.all)
}
