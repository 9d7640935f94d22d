// Owns: the life of descriptors: socket, close, the dup family, close_range, O_NONBLOCK.
//
// A table entry holds one reference. Whoever takes the entry out (anp_fd_remove, anp_fd_exchange) owns that reference. An
// entry goes before its number is free for others, and comes after its number is ours.

import CSupport
import Host
import Netstack
import Synchronization

/// `fd` is a fresh kernel socket of an internet family: it becomes a placeholder. 0 or a negative errno.
@c(anp_entry_socket_created)
public func entrySocketCreated(
  _ fd: Int32, _ family: Int32, _ type: Int32, _ ipProtocol: Int32, _ standsIn: Int32
) -> Int {
  anp_enter()
  defer { anp_leave() }
  let isStream = type & 0xf == SocketType.stream
  let isRaw = type & 0xf == SocketType.raw
  let isPing = !isStream && !isRaw && ipProtocol == (family == Family.inet6 ? Level.icmpv6 : Level.icmp)
  guard
    let description = DescriptionPointer.make(
      family: family, kind: isStream ? .stream : .datagram,
      ipProtocol: isStream ? Level.tcp : isRaw || isPing ? ipProtocol : Level.udp)
  else { return -Errno.noMemory }
  description.pointee.datagramKind = isRaw ? .raw : isPing ? .ping : .udp
  description.pointee.isStoodInFor = standsIn != 0
  description.pointee.nonBlocking.store(type & SocketType.nonBlocking != 0, ordering: .relaxed)
  let result = Int(anp_fd_exchange(fd, description.tableEntry, nil))
  if result != 0 { description.release() }
  return result
}

/// `duplicate` was made from a descriptor with `entry`.
@c(anp_entry_duplicated)
public func entryDuplicated(_ entry: UInt64, _ duplicate: Int32) -> Int {
  anp_enter()
  defer { anp_leave() }
  return enter(duplicate, sharing: entry)
}

private func enter(_ fd: Int32, sharing entry: UInt64) -> Int {
  switch anp_fd_kind_of(entry) {
  case ANP_FD_SOCKET:
    guard let description = acquireDescription(entry) else { return 0 }
    let result = Int(anp_fd_exchange(fd, entry, nil))
    if result != 0 { description.release() }
    return result
  case ANP_FD_EPOLL:
    guard let set = acquireSet(entry) else { return 0 }
    if anp_fd_exchange(fd, entry, nil) != 0 { set.release() }
    return 0
  case ANP_FD_ORPHAN: return Int(anp_fd_exchange(fd, entry, nil))
  default: return 0
  }
}

/// Gives back the reference of an entry that was taken out of the table.
private func releaseEntry(_ entry: UInt64) {
  switch anp_fd_kind_of(entry) {
  case ANP_FD_SOCKET: preload.pointee.descriptions.record(anp_fd_index_of(entry)).release()
  case ANP_FD_EPOLL: preload.pointee.epollSets.record(anp_fd_index_of(entry)).release()
  default: break
  }
}

/// dup2 and dup3 where at least one of the two has an entry.
@c(anp_entry_dup3)
public func entryDup3(_ old: Int32, _ new: Int32, _ flags: Int32) -> Int {
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall()
  let entry = anp_fd_look_up(old)
  if anp_fd_kind_of(entry) == ANP_FD_INTERNAL { return -Errno.badDescriptor }
  let target = anp_fd_look_up(new)
  if anp_fd_kind_of(target) == ANP_FD_INTERNAL {
    let moved = moveAway(new, target)
    if moved != 0 { return moved }
  }
  var replaced: UInt64 = 0
  _ = anp_fd_exchange(new, 0, &replaced)
  let result = anp_kernel_dup3(old, new, flags)
  guard result >= 0 else {
    _ = anp_fd_exchange(new, replaced, nil)
    return Int(result)
  }
  let entered = enter(new, sharing: entry)
  releaseEntry(replaced)
  guard entered == 0 else {
    _ = anp_kernel_close(new)
    return entered
  }
  return Int(result)
}

/// One of our own descriptors leaves a number that a dup2 aims at.
private func moveAway(_ fd: Int32, _ entry: UInt64) -> Int {
  if anp_fd_index_of(entry) == Bootstrap.hostIndex { return Bootstrap.moveHostDescriptor(fd, entry) }
  anp_state_lock()
  defer { anp_state_unlock() }
  return Int(anp_internal_move_away(fd, entry))
}

@c(anp_entry_close)
public func entryClose(_ fd: Int32, _ entry: UInt64) -> Int {
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall()
  return close(fd, entry)
}

private func close(_ fd: Int32, _ entry: UInt64) -> Int {
  if anp_fd_kind_of(entry) == ANP_FD_INTERNAL { return -Errno.badDescriptor }
  // Somebody else was faster: the number may be another's already.
  guard anp_fd_remove(fd, entry) != 0 else { return -Errno.badDescriptor }
  let result = Int(anp_kernel_close(fd))
  if anp_fd_kind_of(entry) == ANP_FD_SOCKET {
    let description = preload.pointee.descriptions.record(anp_fd_index_of(entry))
    if !linger(description) { return result }
  }
  releaseEntry(entry)
  return result
}

/// SO_LINGER with a time: the last close waits until what was sent is acknowledged, also on a non-blocking socket
/// (inet_release). False when the reference was lost in the wait.
private func linger(_ description: DescriptionPointer) -> Bool {
  guard description.pointee.side == .stack, description.pointee.kind == .stream,
    description.pointee.life.references == 1
  else { return true }
  var seconds = 0
  _ = withShard(description) { shard, now throws(SocketError) in
    let handle = description.pointee.handle
    seconds = try shard.pointee.stack.option(handle, .linger)
    // Unread data turns the close into a reset, at once.
    if shard.pointee.stack.unreadBytes(handle) > 0 || shard.pointee.stack.isListening(handle) { seconds = 0 }
    if seconds > 0 { try shard.pointee.stack.shutdown(handle, .write, now: now) }
    return 0
  }
  guard seconds > 0 else { return true }
  let deadline = Deadline.after(Int64(seconds) * 1_000_000_000)
  while deadline.remaining > 0 {
    anp_wait_prepare()
    var drained = true
    let expected = description.pointee.writeWord.pointee.load(ordering: .sequentiallyConsistent)
    _ = withShard(description) { shard, _ throws(SocketError) in
      drained = shard.pointee.stack.isDrained(description.pointee.handle)
      description.pointee.writeWaiting.store(true, ordering: .sequentiallyConsistent)
      return 0
    }
    if drained { return true }
    // An acknowledgment is no change of readiness: look again often enough.
    let step = Deadline.after(min(deadline.remaining, 5_000_000))
    switch sleep(description, on: description.pointee.writeWord, while: expected, until: step) {
    case .lost: return false
    case .interrupted: return true
    case .tryAgain, .timedOut: continue
    }
  }
  return true
}

/// close_range and closefrom without CLOSE_RANGE_CLOEXEC: ours are closed one by one, our internal ones are spared.
@c(anp_entry_close_range)
public func entryCloseRange(_ first: UInt32, _ last: UInt32, _ flags: Int32) -> Int {
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall()
  if first > last { return -Errno.invalid }
  var next = first
  var entry: UInt64 = 0
  while next <= last, next < UInt32(ANP_FD_LIMIT) {
    let end = Int32(bitPattern: min(last, UInt32(ANP_FD_LIMIT) - 1))
    let found = anp_fd_next(Int32(bitPattern: next), end, &entry)
    if found < 0 { break }
    if UInt32(found) > next {
      let result = anp_kernel_close_range(next, UInt32(found) - 1, flags)
      if result < 0 { return Int(result) }
    }
    _ = close(found, entry)
    next = UInt32(found) + 1
  }
  return next <= last ? Int(anp_kernel_close_range(next, last, flags)) : 0
}

/// F_SETFL or FIONBIO has changed O_NONBLOCK of the placeholder.
@c(anp_entry_set_nonblocking)
public func entrySetNonBlocking(_ entry: UInt64, _ on: Int32) {
  anp_enter()
  defer { anp_leave() }
  guard anp_fd_kind_of(entry) == ANP_FD_SOCKET, let description = acquireDescription(entry) else { return }
  description.pointee.nonBlocking.store(on != 0, ordering: .relaxed)
  description.release()
}

/// For descriptors in the table whose call is the kernel's: EBADF for internal ones and orphans, `passToKernel` otherwise.
@c(anp_entry_permit)
public func entryPermit(_ fd: Int32, _ entry: UInt64) -> Int {
  anp_fd_kind_of(entry) == ANP_FD_SOCKET ? passToKernel : notASocket(fd, entry)
}
