// Owns: poll, ppoll, select and pselect where at least one descriptor is in the table (C turns select into poll).
//
// Stack sockets are looked at here; kernel descriptors by one real ppoll, which also waits on this thread's wake eventfd. With
// stack sockets alone the thread sleeps on its futex word. Nothing of the call is linked anywhere: a socket knows only the
// bit of this thread's slot (Pollers).

import CSupport
import Host
import Netstack
import Synchronization

/// `scratch` has room for `count` + 1 + 8 entries; that at `count` tells in its `revents` afterwards whether the call slept. `timeout`
/// in nanoseconds, negative = for ever.
@c(anp_entry_poll)
public func entryPoll(
  _ fds: UnsafeMutablePointer<pollfd>?, _ count: Int, _ timeout: Int64, _ mask: UnsafePointer<sigset_t>?,
  _ scratch: UnsafeMutablePointer<pollfd>
) -> Int {
  guard let fds else { return -Errno.fault }
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall()
  guard let thread = Threads.current else { return -Errno.noMemory }
  var call = Poll(fds: fds, count: count, scratch: scratch)
  let result = poll(&call, thread, timeout, mask)
  Pollers.leave(thread)
  if let held = call.held, thread.pointee.takeBack(held) { thread.pointee.releasePolled(from: Int(held.index)) }
  scratch[count].revents = call.hasSlept ? 1 : 0
  return result
}

private struct Poll {
  let fds: UnsafeMutablePointer<pollfd>
  let count: Int
  let scratch: UnsafeMutablePointer<pollfd>
  var hasSlept = false
  /// The note of the references that a sleeping call holds.
  var held: HeldReference?
}

/// What one look at the descriptors found.
private struct Look {
  var ready = 0
  var hasKernel = false
  /// Shards that can bring about a change.
  var sources = ShardMask.none
}

private func poll(
  _ call: inout Poll, _ thread: ThreadPointer, _ timeout: Int64, _ mask: UnsafePointer<sigset_t>?
) -> Int {
  let deadline = timeout == 0 ? Deadline(nanoseconds: 0) : Deadline.after(timeout)
  var hasKernel = prepare(call)
  let bit = timeout == 0 ? 0 : Pollers.bit(thread)
  while true {
    let sleepsInKernel = hasKernel || mask != nil
    if timeout != 0 {
      anp_wait_prepare()
      // Before the look: a change after it must find somebody to wake.
      guard arm(call, thread, sleepsInKernel) else { return -Errno.noMemory }
    }
    var look = lookAtStack(call, bit)
    if look.ready == 0, timeout == 0, Resident.pollOnce(look.sources) { look = lookAtStack(call, 0) }
    if look.ready > 0 || timeout == 0 {
      thread.pointee.sleeping.store(0, ordering: .sequentiallyConsistent)
      // The kernel's are reported in the same breath.
      guard look.hasKernel else { return look.ready }
      let found = Int(anp_kernel_poll_now(call.scratch, UInt32(call.count)))
      return found < 0 ? found : look.ready + collect(call)
    }
    if look.hasKernel, !sleepsInKernel {
      // A socket turned to the kernel's side meanwhile.
      hasKernel = true
      continue
    }
    if !call.hasSlept {
      call.hasSlept = true
      hold(&call, thread)
    }
    let result = sleep(call, thread, look.sources, sleepsInKernel, deadline, mask)
    thread.pointee.sleeping.store(0, ordering: .sequentiallyConsistent)
    switch result {
    case 0 where !sleepsInKernel: continue
    case 0, -Errno.timedOut: return lookAtStack(call, 0).ready
    case -Errno.again: continue
    case ..<0: return result
    default:
      if call.scratch[call.count].revents != 0 {
        anp_eventfd_drain(anp_internal_number(thread.pointee.eventDescriptor))
      }
      let found = collect(call)
      if found > 0 { return found + lookAtStack(call, 0).ready }
    }
  }
}

/// The kernel's count, 0 for a time-out or (on the word) a change, or a negative errno; -EAGAIN: look again.
private func sleep(
  _ call: Poll, _ thread: ThreadPointer, _ sources: ShardMask, _ sleepsInKernel: Bool, _ deadline: Deadline,
  _ mask: UnsafePointer<sigset_t>?
) -> Int {
  if call.held != nil, var outer = Resident.begin(thread, thread.pointee.word, sources) {
    thread.pointee.noteSleep(.resident, sources)
    // Stack sockets alone: nothing of `fds` is the kernel's.
    let first = sleepsInKernel ? 0 : call.count
    let result = Resident.wait(
      thread, &outer, Awaited(thread.pointee.word, 0), call.scratch + first, call.count - first, deadline, mask, 0)
    thread.pointee.noteSleep(.none)
    Resident.end(outer)
    return result == 0 ? -Errno.timedOut : result
  }
  let forks = Resident.noteSleeper(sources, onWord: !sleepsInKernel)
  if call.held != nil { thread.pointee.noteSleep(sleepsInKernel ? .inKernel : .onWord, sources) }
  anp_leave()
  let result =
    sleepsInKernel
    ? Int(anp_wait_poll(call.scratch, UInt(call.count) + 1, deadline.remaining, mask, 0))
    : Int(anp_wait(cWord(thread.pointee.word), 0, deadline.remaining, 0))
  anp_enter()
  if call.held != nil { thread.pointee.noteSleep(.none) }
  Resident.endSleeper(sources, onWord: !sleepsInKernel, forks)
  return result
}

/// Fills `scratch` with the kernel's share. True when there is any.
private func prepare(_ call: Poll) -> Bool {
  var hasKernel = false
  for i in 0..<call.count {
    call.scratch[i] = call.fds[i]
    call.scratch[i].revents = 0
    call.fds[i].revents = 0
    let fd = call.fds[i].fd
    if fd < 0 { continue }
    let entry = anp_fd_look_up(fd)
    switch anp_fd_kind_of(entry) {
    case ANP_FD_SOCKET:
      guard let description = acquireDescription(entry) else { continue }
      if description.pointee.side == .undecided, description.pointee.servesWhenWaitedFor {
        // Bound and waited for, or raw: it serves, and serving is the stack's.
        _ = Sides.becomeStack(description, fd)
      }
      if description.pointee.side == .kernel { hasKernel = true }
      description.release()
    case ANP_FD_EPOLL:
      hasKernel = true
      if let set = acquireSet(entry) {
        watch(set, fd)
        set.release()
      }
    case ANP_FD_INTERNAL, ANP_FD_ORPHAN: break
    default: hasKernel = true
    }
  }
  return hasKernel
}

/// Takes references to the stack's sockets for the sleep: one that another thread closes meanwhile stays what it is until the
/// call ends, as in Linux.
private func hold(_ call: inout Poll, _ thread: ThreadPointer) {
  let first = thread.pointee.polledCount
  for i in 0..<call.count {
    let fd = call.fds[i].fd
    let entry = fd < 0 ? 0 : anp_fd_look_up(fd)
    guard anp_fd_kind_of(entry) == ANP_FD_SOCKET, let description = acquireDescription(entry) else { continue }
    thread.pointee.holdPolled(description.pointee.index)
  }
  let count = thread.pointee.polledCount - first
  let reference = HeldReference(
    kind: .polled, index: UInt32(first), generation: UInt32(count), depth: anp_stack_depth())
  if thread.pointee.note(reference) {
    call.held = reference
  } else {
    // No room for the note: without references rather than with references that nobody gives back.
    thread.pointee.releasePolled(from: first)
  }
}

/// Lets wakers know how this thread is about to sleep. With kernel descriptors its eventfd goes behind them.
private func arm(_ call: Poll, _ thread: ThreadPointer, _ sleepsInKernel: Bool) -> Bool {
  thread.pointee.word.pointee.store(0, ordering: .sequentiallyConsistent)
  guard sleepsInKernel else {
    thread.pointee.sleeping.store(1, ordering: .sequentiallyConsistent)
    return true
  }
  if anp_internal_number(thread.pointee.eventDescriptor) < 0 {
    let made = anp_kernel_eventfd()
    guard made >= 0, anp_internal_adopt(thread.pointee.eventDescriptor, made) >= 0 else { return false }
  }
  let wake = call.scratch + call.count
  wake.pointee.fd = anp_internal_number(thread.pointee.eventDescriptor)
  wake.pointee.events = Int16(PollEvent.readable)
  wake.pointee.revents = 0
  thread.pointee.sleeping.store(2, ordering: .sequentiallyConsistent)
  return true
}

/// Computes the stack sockets' events, and with a `bit` asks to hear of changes to those.
private func lookAtStack(_ call: Poll, _ bit: UInt64) -> Look {
  while true {
    // A number that becomes another socket meanwhile may be in a shard that is not locked.
    if let look = tryToLook(call, bit) { return look }
  }
}

private func tryToLook(_ call: Poll, _ bit: UInt64) -> Look? {
  var look = Look()
  var isWhole = true
  _ = withReadinessLocked({ locks(call) }) { held in
    for i in 0..<call.count {
      let fd = call.fds[i].fd
      guard fd >= 0 else { continue }
      let entry = anp_fd_look_up(fd)
      switch anp_fd_kind_of(entry) {
      case ANP_FD_SOCKET:
        let description = preload.pointee.descriptions.record(anp_fd_index_of(entry))
        guard description.pointee.life.isAlive(anp_fd_generation_of(entry)), description.pointee.side != .kernel
        else {
          call.scratch[i].fd = fd
          look.hasKernel = true
          continue
        }
        call.scratch[i].fd = -1
        if bit != 0 { description.pointee.pollers.bitwiseOr(bit, ordering: .sequentiallyConsistent) }
        let wanted = UInt32(UInt16(bitPattern: call.fds[i].events)) | PollEvent.error | PollEvent.hangUp
        let place = description.place
        if !held.contains(place.locks) { isWhole = false }
        look.sources.formUnion(place.sources)
        guard isWhole else { return 0 }
        let events = description.readinessLocked() & wanted
        call.fds[i].revents = Int16(truncatingIfNeeded: events)
        if events != 0 { look.ready += 1 }
      case ANP_FD_ORPHAN, ANP_FD_INTERNAL:
        call.scratch[i].fd = -1
        call.fds[i].revents = Int16(PollEvent.invalid)
        look.ready += 1
      default:
        call.scratch[i].fd = fd
        look.hasKernel = true
      }
    }
    return 0
  }
  return isWhole ? look : nil
}

/// The shards of the sockets polled.
private func locks(_ call: Poll) -> ShardMask {
  if HostRuntime.shardCount <= 1 { return .all }
  var mask = ShardMask.none
  for i in 0..<call.count {
    let fd = call.fds[i].fd
    let entry = fd < 0 ? 0 : anp_fd_look_up(fd)
    guard anp_fd_kind_of(entry) == ANP_FD_SOCKET else { continue }
    mask.formUnion(preload.pointee.descriptions.record(anp_fd_index_of(entry)).place.locks)
  }
  return mask
}

/// Takes over the kernel's answers; returns how many descriptors have events.
private func collect(_ call: Poll) -> Int {
  var found = 0
  for i in 0..<call.count where call.scratch[i].fd >= 0 {
    call.fds[i].revents = call.scratch[i].revents
    if call.scratch[i].revents != 0 { found += 1 }
  }
  return found
}
