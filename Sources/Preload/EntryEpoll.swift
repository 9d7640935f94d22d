// Owns: epoll_create, epoll_ctl and epoll_wait as the program sees them; EpollSet.swift has the data.

import CSupport
import Host
import Netstack
import Synchronization

/// A new epoll descriptor: enters it in the table. 0 or a negative errno (the caller then closes `epfd`).
@c(anp_entry_epoll_created)
public func entryEpollCreated(_ epfd: Int32) -> Int {
  anp_enter()
  defer { anp_leave() }
  guard let set = EpollSetPointer.make() else { return -Errno.noMemory }
  let result = anp_fd_exchange(epfd, set.tableEntry, nil)
  // Beyond the table's reach the descriptor is the kernel's alone.
  if result != 0 { set.release() }
  return 0
}

/// epoll_ctl on a kernel descriptor has succeeded: keeps count.
@c(anp_entry_epoll_kernel_changed)
public func entryEpollKernelChanged(_ epfd: Int32, _ entry: UInt64, _ operation: Int32) {
  anp_enter()
  defer { anp_leave() }
  guard let set = acquireSet(entry) else { return }
  defer { set.release() }
  if operation == EpollOperation.delete {
    set.pointee.kernelInterests.subtract(1, ordering: .relaxed)
    return
  }
  guard operation == EpollOperation.add else { return }
  set.pointee.kernelInterests.add(1, ordering: .sequentiallyConsistent)
  if set.pointee.wordWaiters.load(ordering: .sequentiallyConsistent) > 0 {
    // They sleep on the word and would not see the kernel's set.
    set.pointee.word.pointee.add(1, ordering: .sequentiallyConsistent)
    Resident.wakeSleepers(on: set.pointee.word, .max, stateLockHeld: false)
  }
}

/// epoll_ctl where `fd` is in the table.
@c(anp_entry_epoll_control)
public func entryEpollControl(
  _ epfd: Int32, _ operation: Int32, _ fd: Int32, _ entry: UInt64, _ event: UnsafeMutablePointer<epoll_event>?
) -> Int {
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall()
  switch anp_fd_kind_of(entry) {
  case ANP_FD_SOCKET: break
  case ANP_FD_EPOLL:
    // Nested: the inner set must show itself as readable through its own descriptor from now on.
    if let inner = acquireSet(entry) {
      watch(inner, fd)
      inner.release()
    }
    return passToKernel
  case ANP_FD_ORPHAN: return complainOfOrphan(fd)
  default: return -Errno.badDescriptor
  }
  if operation != EpollOperation.delete, anp_is_nowhere(event) != 0 { return -Errno.fault }
  guard let set = acquireOrAdoptSet(epfd) else { return passToKernel }
  defer { set.release() }
  guard let description = acquireDescription(entry) else { return -Errno.badDescriptor }
  defer { description.release() }
  if description.pointee.side == .kernel { return passToKernel }
  if description.pointee.side == .undecided, description.pointee.servesWhenWaitedFor {
    // Bound and about to be waited for: it serves, and serving is the stack's.
    let decided = Sides.becomeStack(description, fd)
    if decided != 0 { return decided }
  }
  return control(set, epfd, operation, description, fd, event)
}

private func control(
  _ set: EpollSetPointer, _ epfd: Int32, _ operation: Int32, _ description: DescriptionPointer, _ fd: Int32,
  _ event: UnsafeMutablePointer<epoll_event>?
) -> Int {
  var events: UInt32 = 0
  var data: UInt64 = 0
  if operation != EpollOperation.delete, let event {
    events = anp_epoll_events(event, 0)
    data = anp_epoll_data(event, 0)
  }
  let allowedWithExclusive =
    PollEvent.readable | PollEvent.writable | PollEvent.error | PollEvent.hangUp | PollEvent.readNormal
    | PollEvent.writeNormal | EpollFlag.wakeUp | EpollFlag.edge | EpollFlag.exclusive
  if operation != EpollOperation.delete, events & EpollFlag.exclusive != 0 {
    if operation == EpollOperation.modify || events & ~allowedWithExclusive != 0 { return -Errno.invalid }
  }
  return withReadinessLocked({ description.place.locks }) {
    let existing = Epoll.findLocked(set, description, fd)
    let interest: InterestPointer
    switch operation {
    case EpollOperation.add:
      guard existing == nil else { return -Errno.exists }
      guard let added = Epoll.addLocked(set, description) else { return -Errno.noMemory }
      interest = added
      interest.pointee.fd = fd
      interest.pointee.epollDescriptor = epfd
    case EpollOperation.modify:
      guard let existing else { return -Errno.noEntry }
      if existing.pointee.events & EpollFlag.exclusive != 0 { return -Errno.invalid }
      interest = existing
    case EpollOperation.delete:
      guard let existing else { return -Errno.noEntry }
      Epoll.removeLocked(existing)
      return 0
    default: return -Errno.invalid
    }
    interest.pointee.events = events | PollEvent.error | PollEvent.hangUp
    interest.pointee.data = data
    if set.pointee.isWatched || set.pointee.kernelWaiters.load(ordering: .sequentiallyConsistent) > 0 {
      guard set.registerEventLocked(epfd) else {
        Epoll.removeLocked(interest)
        return -Errno.noMemory
      }
    }
    if description.readinessLocked() & interest.pointee.events & ~EpollFlag.privateBits != 0 {
      set.linkReadyLocked(interest)
      Wakes.owe(set)
    }
    return 0
  }
}

/// The set of an epoll descriptor; one that came from elsewhere (exec, a raw system call) gets its record now.
private func acquireOrAdoptSet(_ epfd: Int32) -> EpollSetPointer? {
  let entry = anp_fd_look_up(epfd)
  if anp_fd_kind_of(entry) == ANP_FD_EPOLL { return acquireSet(entry) }
  guard entry == 0 else { return nil }
  // Only an epoll descriptor answers this without EINVAL or EBADF.
  var probe = epoll_event()
  guard anp_kernel_epoll_now(epfd, &probe, 1) >= 0, let set = EpollSetPointer.make() else { return nil }
  // The probe may have taken an edge or a one-shot from the program: only a raw epoll_create gets here.
  set.pointee.kernelInterests.store(1, ordering: .relaxed)
  guard set.pointee.life.acquire(set.pointee.life.generation) else { return nil }
  if anp_fd_exchange(epfd, set.tableEntry, nil) != 0 { set.release() }
  return set
}

/// The epoll descriptor is itself polled from now on.
func watch(_ set: EpollSetPointer, _ epfd: Int32) {
  _ = withReadinessLocked({ set.pointee.locks }) {
    if !set.pointee.isWatched { preload.pointee.watchedSets += 1 }
    set.pointee.isWatched = true
    if set.pointee.interestCount.load(ordering: .relaxed) > 0, set.registerEventLocked(epfd) {
      set.refreshLocked(isHarvested: false)
    }
    return 0
  }
}

/// Runs with the locks of the shards that `mask` tells and the state lock, which together make the readiness of sockets there
/// stand still. Nothing in them may be changed. `mask` is asked again under the locks: what it tells may have grown.
@inline(__always)
func withReadinessLocked(_ mask: () -> ShardMask, _ body: () -> Int) -> Int {
  withReadinessLocked(mask) { (_: ShardMask) in body() }
}

/// `body` is told which shards are locked.
@inline(__always)
func withReadinessLocked(_ mask: () -> ShardMask, _ body: (ShardMask) -> Int) -> Int {
  var held = mask()
  HostRuntime.lock(held)
  anp_state_lock()
  while true {
    let wanted = mask()
    if held.contains(wanted) { break }
    anp_state_unlock()
    HostRuntime.unlockUnchanged(held)
    held.formUnion(wanted)
    HostRuntime.lock(held)
    anp_state_lock()
  }
  let result = body(held)
  anp_state_unlock()
  HostRuntime.unlockUnchanged(held)
  Wakes.afterUnlock()
  return result
}

// MARK: Waiting

/// epoll_wait and its kin. `timeout` in nanoseconds, negative = for ever.
@c(anp_entry_epoll_wait)
public func entryEpollWait(
  _ epfd: Int32, _ entry: UInt64, _ events: UnsafeMutablePointer<epoll_event>?, _ maximum: Int32, _ timeout: Int64,
  _ mask: UnsafePointer<sigset_t>?
) -> Int {
  guard maximum > 0, maximum <= Int32.max / 12 else { return -Errno.invalid }
  guard let events, anp_is_nowhere(events) == 0 else { return -Errno.fault }
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall()
  guard let set = acquireSet(entry) else { return -Errno.badDescriptor }
  let result = wait(set, epfd, events, Int(maximum), timeout, mask)
  if result == referenceLost { return -Errno.badDescriptor }
  if set.pointee.isWatched {
    // An outer wait must go on seeing the set as ready while its list is not empty; the harvest took the trigger away.
    _ = withReadinessLocked({ set.pointee.locks }) {
      set.refreshLocked(isHarvested: true)
      return 0
    }
  }
  set.release()
  return result
}

private func wait(
  _ set: EpollSetPointer, _ epfd: Int32, _ events: UnsafeMutablePointer<epoll_event>, _ maximum: Int, _ timeout: Int64,
  _ mask: UnsafePointer<sigset_t>?
) -> Int {
  let deadline = timeout == 0 ? Deadline(nanoseconds: 0) : Deadline.after(timeout)
  var isRefused = false
  var hasLooked = false
  var hasResided = false
  while true {
    if timeout != 0 { anp_wait_prepare() }
    if preload.pointee.watchedSets > 0, set.pointee.kernelInterests.load(ordering: .relaxed) > 0 {
      _ = withReadinessLocked({ .all }) {
        Epoll.refreshWatchedLocked()
        return 0
      }
    }
    var sleeper = Sleeper.none
    var expected: UInt32 = 0
    let sources = set.pointee.sources
    let mayReside = timeout != 0 && !isRefused && Resident.isPossible(sources)
    if set.pointee.interestCount.load(ordering: .sequentiallyConsistent) > 0 {
      if set.pointee.kernelFirst {
        set.pointee.kernelFirst = false
        let found = kernelNow(set, epfd, events, maximum)
        if found != 0 { return found < 0 ? found : found + harvestNow(set, epfd, events + found, maximum - found) }
      }
      var found = 0
      _ = withReadinessLocked({ set.pointee.locks }) {
        found = harvestLocked(set, events, maximum)
        if found == 0, timeout != 0 {
          sleeper = startSleepingLocked(set, epfd, mask != nil, mayReside)
          expected = set.pointee.word.pointee.load(ordering: .sequentiallyConsistent)
        }
        return 0
      }
      if found > 0 {
        if found == maximum {
          set.pointee.kernelFirst = set.pointee.kernelInterests.load(ordering: .relaxed) > 0
          return found
        }
        // The kernel's descriptors must not starve; a watched set's trigger must be taken.
        guard set.pointee.kernelInterests.load(ordering: .relaxed) > 0 || set.pointee.isWatched else { return found }
        if hasResided, !set.pointee.isWatched, set.pointee.kernelSkips < 8 {
          // The wait that has just ended looked at the kernel's set, or will before long.
          set.pointee.kernelSkips += 1
          return found
        }
        set.pointee.kernelSkips = 0
        return found + max(0, kernelNow(set, epfd, events + found, maximum - found))
      }
    } else if timeout != 0 {
      sleeper = .kernel
      set.pointee.kernelWaiters.add(1, ordering: .sequentiallyConsistent)
      if set.pointee.interestCount.load(ordering: .sequentiallyConsistent) > 0 {
        // The first interest came in between: its addition may not have seen this waiter.
        set.pointee.kernelWaiters.subtract(1, ordering: .relaxed)
        continue
      }
    }
    if timeout == 0 {
      if !hasLooked, set.pointee.interestCount.load(ordering: .relaxed) > 0, Resident.pollOnce(sources) {
        hasLooked = true
        continue
      }
      return kernelNow(set, epfd, events, maximum)
    }
    let result = sleep(set, epfd, sleeper, sources, expected, events, maximum, deadline, mask)
    switch result {
    case Outcome.refused: isRefused = true
    case Outcome.again where sleeper == .resident: hasResided = true
    case Outcome.again: continue
    case Outcome.timedOut: return 0
    case referenceLost: return referenceLost
    case -Errno.interrupted:
      // A wake-up that this thread was given is another's now.
      anp_state_lock()
      if set.pointee.firstReady != nil { set.wakeLocked() }
      anp_state_unlock()
      return result
    case ..<0: return result
    default:
      let kept = withoutMark(set, events, result)
      let found = kept + harvestNow(set, epfd, events + kept, maximum - kept)
      if found > 0 { return found }
    }
  }
}

private enum Sleeper { case none, word, kernel, resident }

/// Results of `sleep` that are neither a count nor an errno of the caller's.
private enum Outcome {
  static var again: Int { Int.min + 2 }
  static var timedOut: Int { Int.min + 3 }
  /// Another thread is the resident.
  static var refused: Int { Int.min + 4 }
}

private func startSleepingLocked(
  _ set: EpollSetPointer, _ epfd: Int32, _ hasMask: Bool, _ mayReside: Bool
) -> Sleeper {
  if mayReside {
    set.pointee.wordWaiters.add(1, ordering: .sequentiallyConsistent)
    return .resident
  }
  if !hasMask, set.pointee.kernelInterests.load(ordering: .sequentiallyConsistent) <= 0 {
    set.pointee.wordWaiters.add(1, ordering: .sequentiallyConsistent)
    return .word
  }
  _ = set.registerEventLocked(epfd)
  set.pointee.kernelWaiters.add(1, ordering: .sequentiallyConsistent)
  return .kernel
}

@inline(never)
private func sleep(
  _ set: EpollSetPointer, _ epfd: Int32, _ sleeper: Sleeper, _ sources: ShardMask, _ expected: UInt32,
  _ events: UnsafeMutablePointer<epoll_event>, _ maximum: Int, _ deadline: Deadline, _ mask: UnsafePointer<sigset_t>?
) -> Int {
  let reference = HeldReference(
    kind: sleeper == .kernel ? .setInKernel : .setOnWord, index: set.pointee.index,
    generation: set.pointee.life.generation, depth: anp_stack_depth())
  let thread = Threads.current
  let noted = thread?.pointee.note(reference) ?? false
  if sleeper == .resident {
    guard noted, let thread, var outer = Resident.begin(thread, set.pointee.word, sources) else {
      if noted, let thread { _ = thread.pointee.takeBack(reference) }
      set.pointee.wordWaiters.subtract(1, ordering: .relaxed)
      return Outcome.refused
    }
    thread.pointee.noteSleep(.resident, sources)
    let result = waitAsResident(set, epfd, thread, &outer, Awaited(set.pointee.word, expected), deadline, mask)
    if !thread.pointee.takeBack(reference) { return referenceLost }
    Resident.end(outer)
    if outer.isOurs { set.pointee.wordWaiters.subtract(1, ordering: .relaxed) }
    switch result {
    case 0: return Outcome.timedOut
    case -Errno.again: return Outcome.again
    case ..<0: return result
    default:
      let count = Int(anp_kernel_epoll_now(epfd, events, Int32(maximum)))
      return count == 0 ? Outcome.again : count
    }
  }
  // A set without sockets of the stack is none of its business.
  let isOurs = set.pointee.interestCount.load(ordering: .relaxed) > 0
  let forks = preload.pointee.forks.load(ordering: .relaxed)
  if isOurs {
    _ = Resident.noteSleeper(sources, onWord: sleeper == .word)
    if noted, let thread { thread.pointee.noteSleep(sleeper == .word ? .onWord : .inKernel, sources) }
  }
  anp_leave()
  let result: Int
  if sleeper == .word {
    let woken = Int(anp_wait(cWord(set.pointee.word), expected, deadline.remaining, 0))
    result = woken == -Errno.interrupted ? woken : woken == -Errno.timedOut ? Outcome.timedOut : Outcome.again
  } else {
    let count = Int(anp_wait_epoll(epfd, events, Int32(maximum), deadline.remaining, mask, 0))
    result = count == 0 ? Outcome.timedOut : count == -Errno.again ? Outcome.again : count
  }
  anp_enter()
  if noted, let thread, !thread.pointee.takeBack(reference) { return referenceLost }
  if isOurs { Resident.endSleeper(sources, onWord: sleeper == .word, forks) }
  // A handler has forked in the middle of the wait: in the child nobody waits.
  if forks != preload.pointee.forks.load(ordering: .relaxed) { return result }
  if sleeper == .word {
    set.pointee.wordWaiters.subtract(1, ordering: .relaxed)
  } else {
    set.pointee.kernelWaiters.subtract(1, ordering: .relaxed)
  }
  return result
}

/// As Resident.wait; the kernel's set is one entry, where it has anything in it.
private func waitAsResident(
  _ set: EpollSetPointer, _ epfd: Int32, _ thread: ThreadPointer, _ outer: inout Resident.Outer, _ awaited: Awaited,
  _ deadline: Deadline,
  _ mask: UnsafePointer<sigset_t>?
) -> Int {
  var entries = InlineArray<10, pollfd>(repeating: pollfd())
  let count = set.pointee.kernelInterests.load(ordering: .sequentiallyConsistent) > 0 ? 1 : 0
  entries[0] = pollfd(fd: epfd, events: Int16(PollEvent.readable), revents: 0)
  return withUnsafeMutableBytes(of: &entries) { raw in
    Resident.wait(
      thread, &outer, awaited, raw.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: pollfd.self), count, deadline,
      mask, 0,
      untilEmpty: true)
  }
}

/// What the kernel's set has at once, without the wake eventfd's own event.
private func kernelNow(
  _ set: EpollSetPointer, _ epfd: Int32, _ events: UnsafeMutablePointer<epoll_event>, _ maximum: Int
) -> Int {
  guard maximum > 0 else { return 0 }
  let count = Int(anp_kernel_epoll_now(epfd, events, Int32(maximum)))
  return count <= 0 ? count : withoutMark(set, events, count)
}

/// Removes the wake eventfd's event; returns how many are left.
private func withoutMark(_ set: EpollSetPointer, _ events: UnsafeMutablePointer<epoll_event>, _ count: Int) -> Int {
  var kept = 0
  for index in 0..<count {
    let data = anp_epoll_data(events, Int32(index))
    if data == set.mark { continue }
    if kept != index { anp_epoll_store(events, Int32(kept), anp_epoll_events(events, Int32(index)), data) }
    kept += 1
  }
  return kept
}

private func harvestNow(
  _ set: EpollSetPointer, _ epfd: Int32, _ events: UnsafeMutablePointer<epoll_event>, _ maximum: Int
) -> Int {
  guard maximum > 0, set.pointee.interestCount.load(ordering: .relaxed) > 0 else { return 0 }
  return withReadinessLocked({ set.pointee.locks }) { harvestLocked(set, events, maximum) }
}

/// Takes up to `maximum` ready interests in the order they became ready; level-triggered ones queue up again behind the
/// others (ep_send_events).
private func harvestLocked(
  _ set: EpollSetPointer, _ events: UnsafeMutablePointer<epoll_event>, _ maximum: Int
) -> Int {
  var found = 0
  var left = set.pointee.readyCount
  while found < maximum, left > 0, let interest = set.pointee.firstReady,
    let description = interest.pointee.description
  {
    left -= 1
    set.unlinkReadyLocked(interest)
    let wanted = interest.pointee.events
    let level = description.readinessLocked() & wanted & ~EpollFlag.privateBits
    if level == 0 { continue }
    anp_epoll_store(events, Int32(found), level, interest.pointee.data)
    found += 1
    if wanted & EpollFlag.oneShot != 0 {
      interest.pointee.events = wanted & EpollFlag.privateBits
    } else if wanted & EpollFlag.edge == 0 {
      set.linkReadyLocked(interest)
    }
  }
  // What is left is for another waiter.
  if set.pointee.firstReady != nil, set.hasSleepers { Wakes.owe(set) }
  return found
}
