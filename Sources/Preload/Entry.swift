// Owns: how a call comes in. C has looked the descriptor up and found an entry; here the reference is taken, the thread goes
// inside, and a socket that turned out to be the kernel's drops out of the table.
//
// Entry points return >= 0, a negative errno, or `passToKernel`: C then makes the real call, outside.

import CSupport
import Host
import Netstack
import Synchronization

/// Runs `body` inside, with a reference to the description of `fd`.
@inline(__always)
func withSocket(_ fd: Int32, _ entry: UInt64, sends: Bool = false, _ body: (DescriptionPointer) -> Int) -> Int {
  anp_enter()
  defer { anp_leave() }
  Threads.noteCall(sendingTo: sends ? entry : 0)
  guard anp_fd_kind_of(entry) == ANP_FD_SOCKET else { return notASocket(fd, entry) }
  guard let description = acquireDescription(entry) else { return -Errno.badDescriptor }
  let result = description.pointee.side == .kernel ? passToKernel : body(description)
  if result == referenceLost { return -Errno.badDescriptor }
  if result == passToKernel, description.pointee.side == .kernel, anp_fd_remove(fd, entry) != 0 {
    description.release()
  }
  description.release()
  return result
}

/// The answer for an entry that is no socket of ours.
@inline(never)
func notASocket(_ fd: Int32, _ entry: UInt64) -> Int {
  switch anp_fd_kind_of(entry) {
  case ANP_FD_EPOLL: passToKernel
  case ANP_FD_ORPHAN: complainOfOrphan(fd)
  default: -Errno.badDescriptor
  }
}

/// A connection of the parent's stack is used in the child: says so, once a process, and answers EBADF.
func complainOfOrphan(_ fd: Int32) -> Int {
  if !orphanReported.exchange(true, ordering: .relaxed) {
    report { text in
      text.append(
        "a socket opened before fork() stays with the parent's stack; using it in the child fails with EBADF, descriptor "
      )
      text.append(Int(fd))
    }
  }
  return -Errno.badDescriptor
}

private let orphanReported = Atomic<Bool>(false)

/// Locks the shard of a socket that is the stack's. As long as the lock is held it stays the socket's.
@inline(__always)
func lockShard(of description: DescriptionPointer) -> UnsafeMutablePointer<Shard> {
  while true {
    let shard = description.pointee.shard.unsafelyUnwrapped
    shard.pointee.lock()
    if description.pointee.shard == shard { return shard }
    // A connect that chose another came in between (Spread.swift).
    shard.pointee.unlock()
  }
}

/// A stack operation under the shard's lock.
@inline(__always)
func withShard(
  _ description: DescriptionPointer, _ operation: (UnsafeMutablePointer<Shard>, Instant) throws(SocketError) -> Int
) -> Int {
  let shard = lockShard(of: description)
  let now = shard.pointee.now()
  let result: Int
  do throws(SocketError) { result = try operation(shard, now) } catch { result = -error.errno }
  shard.pointee.unlock()
  return result
}
