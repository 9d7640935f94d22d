// Owns: the receiving calls: read, readv, recv, recvfrom, recvmsg all end here. Read first: recv(2), and tcp_recvmsg_locked
// in Linux for the order of copying, errors and waiting.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

/// `message` is NULL for the calls without a name or control data; then only the buffers count.
@c(anp_entry_receive)
public func entryReceive(
  _ fd: Int32, _ entry: UInt64, _ vectors: UnsafePointer<iovec>?, _ count: Int, _ flags: Int32,
  _ message: UnsafeMutablePointer<msghdr>?
) -> Int {
  withSocket(fd, entry) { description in
    if description.pointee.side == .undecided {
      if description.pointee.kind == .stream { return passToKernel }
      if description.pointee.servesWhenWaitedFor {
        let decided = Sides.becomeStack(description, fd)
        if decided != 0 { return decided }
      }
    }
    var error = 0
    // Bytes that are dropped need no memory (MSG_TRUNC on a stream).
    let isCopied = description.pointee.kind == .datagram || flags & MessageFlag.truncate == 0
    guard let buffers = Buffers(vectors, count: count, isCopied: isCopied, error: &error) else { return error }
    if buffers.total == 0, flags & MessageFlag.plainIO != 0 { return 0 }
    // There is no urgent data; datagrams know no such thing.
    if flags & MessageFlag.outOfBand != 0, description.pointee.kind == .stream { return -Errno.invalid }
    if flags & MessageFlag.errorQueue != 0 { return receiveError(description, buffers, flags, message) }
    return description.pointee.kind == .stream
      ? receiveStream(description, buffers, flags, message)
      : receiveDatagram(description, fd, vectors, count, buffers, flags, message)
  }
}

// MARK: Stream

private func receiveStream(
  _ description: DescriptionPointer, _ buffers: Buffers, _ flags: Int32, _ message: UnsafeMutablePointer<msghdr>?
) -> Int {
  let nonBlocking =
    flags & MessageFlag.dontWait != 0 || description.pointee.nonBlocking.load(ordering: .relaxed)
  var deadline: Deadline?
  var copied = 0
  var hasLooked = false
  while true {
    if !nonBlocking { anp_wait_prepare() }
    let expected = description.pointee.readWord.pointee.load(ordering: .sequentiallyConsistent)
    var isOver = false
    let result = withShard(description) { shard, now throws(SocketError) in
      if !nonBlocking { description.pointee.readWaiting.store(true, ordering: .sequentiallyConsistent) }
      return try takeStream(shard, description.pointee.handle, buffers, flags, &copied, &isOver, now)
    }
    if isOver || result < 0 && result != -Errno.again {
      if copied == 0, result < 0 { return result }
      message?.pointee.noteStreamEnd()
      return copied
    }
    if nonBlocking {
      if copied == 0 {
        guard !hasLooked, Resident.pollOnce(description.place.sources) else { return -Errno.again }
        hasLooked = true
        continue
      }
      message?.pointee.noteStreamEnd()
      return copied
    }
    let until = deadline ?? Deadline.after(description.pointee.receiveTimeout)
    deadline = until
    let outcome = sleep(description, on: description.pointee.readWord, while: expected, until: until)
    switch outcome {
    case .tryAgain: continue
    case .timedOut, .interrupted:
      if copied > 0 {
        message?.pointee.noteStreamEnd()
        return copied
      }
      return outcome == .timedOut ? -Errno.again : -Errno.interrupted
    case .lost: return referenceLost
    }
  }
}

/// Takes what is there, up to what the call wants. `isOver`: the call can return.
@inline(__always)
private func takeStream(
  _ shard: UnsafeMutablePointer<Shard>, _ handle: SocketHandle, _ buffers: Buffers, _ flags: Int32, _ copied: inout Int,
  _ isOver: inout Bool, _ now: Instant
) throws(SocketError) -> Int {
  // How much makes the call return: everything, or the low-water mark; at least one byte (sock_rcvlowat).
  let waitsForAll = flags & MessageFlag.waitAll != 0
  var target = max(1, buffers.total)
  if !waitsForAll, target > 1 {
    target = min(target, max(1, try shard.pointee.stack.option(handle, .receiveLowWater)))
  }
  if buffers.total == 0 {
    // Nothing to copy, but the call waits for something to be there.
    let level = shard.pointee.stack.readiness(handle).rawValue
    isOver = level & (PollEvent.readable | PollEvent.hangUp) != 0
    if let error = level & PollEvent.error != 0 ? shard.pointee.stack.takeError(handle) : nil { throw error }
    return 0
  }
  if flags & MessageFlag.peek != 0 {
    return try peekStream(shard, handle, buffers, target, &copied, &isOver, now)
  }
  let receiveFlags: ReceiveFlags = flags & MessageFlag.truncate != 0 ? .discard : []
  while copied < buffers.total {
    if copied > 0, shard.pointee.stack.readiness(handle).rawValue & PollEvent.error != 0 {
      // What is copied comes first; the error is the next call's.
      isOver = true
      return 0
    }
    // tcp(7): MSG_TRUNC drops the bytes; nothing is written, whatever the pointer.
    let piece =
      receiveFlags == .discard
      ? UnsafeMutableRawBufferPointer(start: shard.pointee.scratch, count: buffers.total - copied)
      : buffers.piece(at: copied).0
    let n: Int
    do throws(SocketError) {
      n = try shard.pointee.stack.receive(handle, into: piece, flags: receiveFlags, now: now)
    } catch {
      if error == .wouldBlock { break }
      throw error
    }
    copied += n
    if n == 0 {
      isOver = true
      return 0
    }
    // Once more where the call would wait, for the end of the stream may be next.
    if n < piece.count, copied >= target { break }
  }
  if copied >= target { isOver = true }
  return 0
}

private func peekStream(
  _ shard: UnsafeMutablePointer<Shard>, _ handle: SocketHandle, _ buffers: Buffers, _ target: Int, _ copied: inout Int,
  _ isOver: inout Bool, _ now: Instant
) throws(SocketError) -> Int {
  let unread = shard.pointee.stack.unreadBytes(handle)
  let level = shard.pointee.stack.readiness(handle).rawValue
  let isEnding = level & (PollEvent.readHangUp | PollEvent.hangUp | PollEvent.error) != 0
  copied = 0
  let (first, isWhole) = buffers.piece(at: 0)
  if isWhole {
    copied = try shard.pointee.stack.receive(handle, into: first, flags: .peek, now: now)
  } else {
    let scratch = UnsafeMutableRawBufferPointer(
      start: shard.pointee.scratch, count: min(buffers.total, Shard.scratchSize))
    copied = try shard.pointee.stack.receive(handle, into: scratch, flags: .peek, now: now)
    buffers.scatter(from: shard.pointee.scratch, copied)
  }
  isOver = copied == 0 || unread >= target || isEnding
  return 0
}

extension msghdr {
  /// A stream says nothing but the bytes: no name, no control data, no flags.
  mutating func noteStreamEnd() {
    msg_namelen = 0
    msg_controllen = 0
    msg_flags = 0
  }
}

/// MSG_ERRQUEUE: MSG_ZEROCOPY's notifications, and a datagram socket's errors. Never waits.
private func receiveError(
  _ description: DescriptionPointer, _ buffers: Buffers, _ flags: Int32, _ message: UnsafeMutablePointer<msghdr>?
) -> Int {
  guard description.pointee.kind == .datagram, description.pointee.side == .stack else {
    return ZeroCopy.receive(description, message)
  }
  let notified = ZeroCopy.receive(description, message)
  if notified != -Errno.again { return notified }
  var hasLooked = false
  while true {
    let result = withShard(description) { shard, _ throws(SocketError) in
      let scratch = UnsafeMutableRawBufferPointer(
        start: shard.pointee.scratch, count: min(buffers.total, Shard.scratchSize))
      guard let error = shard.pointee.stack.receiveError(description.pointee.handle, into: scratch) else {
        throw .wouldBlock
      }
      buffers.scatter(from: shard.pointee.scratch, error.datagram.copied)
      if let message {
        if let name = message.pointee.msg_name {
          message.pointee.msg_namelen = SockAddr.write(
            error.datagram.source, family: description.pointee.family, to: name,
            room: Int(message.pointee.msg_namelen))
        }
        message.pointee.msg_flags = MessageFlag.errorQueue
        if error.datagram.copied < error.datagram.length { message.pointee.msg_flags |= MessageFlag.truncate }
        ControlMessages.write(error, description, shard, to: message)
      }
      return error.datagram.copied
    }
    guard result == -Errno.again, !hasLooked, Resident.pollOnce(description.place.sources) else { return result }
    hasLooked = true
  }
}

// MARK: Datagram

private func receiveDatagram(
  _ description: DescriptionPointer, _ fd: Int32, _ vectors: UnsafePointer<iovec>?, _ count: Int, _ buffers: Buffers,
  _ flags: Int32, _ message: UnsafeMutablePointer<msghdr>?
) -> Int {
  let nonBlocking =
    flags & MessageFlag.dontWait != 0 || description.pointee.nonBlocking.load(ordering: .relaxed)
  var deadline: Deadline?
  var hasLooked = false
  while true {
    if !nonBlocking { anp_wait_prepare() }
    let expected = description.pointee.readWord.pointee.load(ordering: .sequentiallyConsistent)
    description.pointee.readWaiting.store(true, ordering: .sequentiallyConsistent)
    switch description.pointee.side {
    case .kernel: return passToKernel
    case .undecided:
      // Nobody can have sent to it yet, but from loopback.
      if description.pointee.hasKernelSide.load(ordering: .relaxed) {
        let result = KernelSide.receive(description, fd, vectors, count, flags, message)
        if result != -Errno.again { return result }
      }
    case .stack:
      let hasKernelSide = description.pointee.hasKernelSide.load(ordering: .relaxed)
      if hasKernelSide, description.pointee.kernelsTurn.exchange(false, ordering: .relaxed) {
        let result = KernelSide.receive(description, fd, vectors, count, flags, message)
        if result != -Errno.again { return result }
      }
      var isEnding = false
      let result = withShard(description) { shard, now throws(SocketError) in
        do throws(SocketError) {
          return try takeDatagram(shard, description, buffers, flags, message, now)
        } catch {
          let level = shard.pointee.stack.readiness(description.pointee.handle)
          isEnding = error == .wouldBlock && level.contains(.readHangUp)
          throw error
        }
      }
      if result != -Errno.again {
        if hasKernelSide { description.pointee.kernelsTurn.store(true, ordering: .relaxed) }
        return result
      }
      if hasKernelSide {
        let result = KernelSide.receive(description, fd, vectors, count, flags, message)
        if result != -Errno.again { return result }
      }
      // SHUT_RD ends only a call that would wait (__skb_wait_for_more_packets).
      if isEnding, !nonBlocking { return 0 }
    }
    if nonBlocking {
      guard !hasLooked, Resident.pollOnce(description.place.sources) else { return -Errno.again }
      hasLooked = true
      continue
    }
    let until = deadline ?? Deadline.after(description.pointee.receiveTimeout)
    deadline = until
    switch sleep(description, on: description.pointee.readWord, while: expected, until: until) {
    case .tryAgain: continue
    case .timedOut: return -Errno.again
    case .interrupted: return -Errno.interrupted
    case .lost: return referenceLost
    }
  }
}

private func takeDatagram(
  _ shard: UnsafeMutablePointer<Shard>, _ description: DescriptionPointer, _ buffers: Buffers, _ flags: Int32,
  _ message: UnsafeMutablePointer<msghdr>?, _ now: Instant
) throws(SocketError) -> Int {
  let handle = description.pointee.handle
  var receiveFlags: ReceiveFlags = flags & MessageFlag.peek != 0 ? .peek : []
  if flags & MessageFlag.keepError != 0 { receiveFlags.insert(.keepError) }
  let (first, isWhole) = buffers.piece(at: 0)
  let datagram: ReceivedDatagram
  if isWhole {
    datagram = try shard.pointee.stack.receiveDatagram(handle, into: first, flags: receiveFlags, now: now)
  } else {
    let scratch = UnsafeMutableRawBufferPointer(
      start: shard.pointee.scratch, count: min(buffers.total, Shard.scratchSize))
    datagram = try shard.pointee.stack.receiveDatagram(handle, into: scratch, flags: receiveFlags, now: now)
    buffers.scatter(from: shard.pointee.scratch, datagram.copied)
  }
  let isCut = datagram.copied < datagram.length
  if let message {
    if let name = message.pointee.msg_name {
      message.pointee.msg_namelen = SockAddr.write(
        datagram.source, family: description.pointee.family, to: name, room: Int(message.pointee.msg_namelen))
    }
    message.pointee.msg_flags = isCut ? MessageFlag.truncate : 0
    ControlMessages.write(datagram, description, shard, to: message)
  }
  return flags & MessageFlag.truncate != 0 ? datagram.length : datagram.copied
}
