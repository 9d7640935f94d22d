// Owns: the sending calls: write, writev, send, sendto, sendmsg (sendfile: EntrySendfile.swift). Read first: send(2), and
// tcp_sendmsg_locked in Linux for partial counts and SIGPIPE.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

@c(anp_entry_send)
public func entrySend(
  _ fd: Int32, _ entry: UInt64, _ vectors: UnsafePointer<iovec>?, _ count: Int, _ flags: Int32,
  _ name: UnsafeRawPointer?, _ nameLength: UInt32, _ message: UnsafePointer<msghdr>?
) -> Int {
  withSocket(fd, entry, sends: true) { description in
    var error = 0
    guard let buffers = Buffers(vectors, count: count, error: &error) else { return error }
    if description.pointee.kind == .datagram {
      let sent = sendDatagram(description, fd, buffers, flags, name, nameLength, message)
      if flags & MessageFlag.zeroCopy != 0 { ZeroCopy.complete(description, sent: sent, isCopied: true) }
      return sent
    }
    // ENOTCONN or EPIPE, and the placeholder knows which.
    if description.pointee.side == .undecided {
      return flags & MessageFlag.fastOpen != 0 ? -Errno.notSupported : passToKernel
    }
    if flags & MessageFlag.outOfBand != 0 { return -Errno.notSupported }
    return sendStream(description, buffers, flags)
  }
}

// MARK: Stream

/// A sender with so much under way looks at the device after each call. Earlier, and acknowledgments would be read one by one.
private var streamingBytes: Int { 262144 }

func sendStream(_ description: DescriptionPointer, _ buffers: Buffers, _ flags: Int32) -> Int {
  var isCopied = false
  let sent = push(description, buffers, flags, &isCopied)
  if flags & MessageFlag.zeroCopy != 0 { ZeroCopy.complete(description, sent: sent, isCopied: isCopied) }
  return sent
}

/// - Parameter isCopied: becomes true where bytes were copied into the send buffer.
private func push(
  _ description: DescriptionPointer, _ buffers: Buffers, _ flags: Int32, _ isCopied: inout Bool
) -> Int {
  // Who says MSG_MORE knows better than experience does.
  let isPlain = flags & (MessageFlag.more | MessageFlag.zeroCopy) == 0
  guard let thread = Threads.current else { return -Errno.noMemory }
  let holds = isPlain && AutoCork.mayHold(description, thread, buffers.total)
  var isHeld = false
  var sentAt = Instant.zero
  let sent = pushAll(description, buffers, flags, holds: holds, &isCopied, &isHeld, &sentAt)
  if sent > 0 {
    AutoCork.wrote(
      description, thread, isSmall: isPlain && sent == buffers.total && sent <= AutoCork.most, at: sentAt,
      isHeld: isHeld)
  }
  return sent
}

/// - Parameters:
///   - holds: the last partial segment may wait; `isHeld` tells whether it does.
///   - sentAt: when the stack took the last of it.
private func pushAll(
  _ description: DescriptionPointer, _ buffers: Buffers, _ flags: Int32, holds: Bool, _ isCopied: inout Bool,
  _ isHeld: inout Bool, _ sentAt: inout Instant
) -> Int {
  let nonBlocking =
    flags & MessageFlag.dontWait != 0 || description.pointee.nonBlocking.load(ordering: .relaxed)
  var deadline: Deadline?
  var sent = 0
  var hasLooked = false
  var isStreaming = false
  while true {
    if !nonBlocking { anp_wait_prepare() }
    let expected = description.pointee.writeWord.pointee.load(ordering: .sequentiallyConsistent)
    if buffers.piece(at: sent).0.count >= lendingBytes {
      // What it cannot take is left to the ordinary way below.
      let (piece, isLast) = buffers.piece(at: sent)
      sent += sendLent(description, UnsafeRawBufferPointer(piece), isLast ? flags : flags | MessageFlag.more, &isCopied)
      if sent == buffers.total {
        sentAt = MonotonicClock.now
        return sent
      }
    }
    let result = withShard(description) { shard, now throws(SocketError) in
      if !nonBlocking { description.pointee.writeWaiting.store(true, ordering: .sequentiallyConsistent) }
      let before = sent
      defer { if sent > before { isCopied = true } }
      sentAt = now
      let result = try putStream(shard, description.pointee.handle, buffers, flags, holds: holds, &sent, now)
      isHeld = holds && shard.pointee.stack.isHeld(description.pointee.handle)
      isStreaming = shard.pointee.stack.unacknowledgedBytes(description.pointee.handle) >= streamingBytes
      return result
    }
    // Takes in the acknowledgments that came meanwhile: the window opens, and memory that is still in the cache is free again.
    if isStreaming { _ = Resident.pollForAcknowledgments(description.pointee.shard) }
    if result < 0, result != -Errno.again {
      // What was taken counts; the error is the next call's.
      if sent > 0 { return sent }
      if result == -Errno.brokenPipe, flags & MessageFlag.noSignal == 0 { anp_raise_sigpipe() }
      return result
    }
    if sent == buffers.total { return sent }
    if nonBlocking {
      if sent > 0 { return sent }
      guard !hasLooked, Resident.pollOnce(description.place.sources) else { return -Errno.again }
      hasLooked = true
      continue
    }
    let until = deadline ?? Deadline.after(description.pointee.sendTimeout)
    deadline = until
    switch sleep(description, on: description.pointee.writeWord, while: expected, until: until) {
    case .tryAgain: continue
    case .timedOut: return sent > 0 ? sent : -Errno.again
    case .interrupted: return sent > 0 ? sent : -Errno.interrupted
    case .lost: return referenceLost
    }
  }
}

/// From so many bytes on it pays to send them straight from the program's memory. To copy 16 KB is cheaper than to look for their
/// acknowledgment (16 KB writes: 1.3 times the kernel's rate instead of 0.85).
private var lendingBytes: Int { 65536 }

/// What is left of a loan is copied without waiting for more when it is no more than this.
private var copiedBytes: Int { 4096 }

/// Whether this is the moment for `sendLent` with bytes at which nobody but the device may look, for a checksum or a capture.
func mayLendUntouched(_ description: DescriptionPointer) -> Bool {
  guard let unlocked = description.pointee.shard, unlocked.pointee.callersMayLend, unlocked.pointee.deviceReadsPayload
  else { return false }
  let shard = lockShard(of: description)
  let may = shard.pointee.stack.canLend(description.pointee.handle)
  shard.pointee.unlock()
  return may
}

/// Sends `bytes` from where they lie, for as long as acknowledgments come in at once, and copies only what is not yet
/// acknowledged then. The thread stays inside all the while, so no handler can jump out of the loan. Returns how many bytes the
/// stack has taken, 0 where this is not the moment.
/// - Parameter isCopied: becomes true where it copied any.
/// - Parameter file: whose mapping `bytes` are: they must not be read here.
func sendLent(
  _ description: DescriptionPointer, _ bytes: UnsafeRawBufferPointer, _ flags: Int32, _ isCopied: inout Bool,
  of file: FileStretch? = nil
) -> Int {
  guard let unlocked = description.pointee.shard, unlocked.pointee.callersMayLend else { return 0 }
  let shard = lockShard(of: description)
  let handle = description.pointee.handle
  guard shard.pointee.stack.canLend(handle) else {
    shard.pointee.unlock()
    return 0
  }
  var taken = 0
  do throws(SocketError) {
    taken = try shard.pointee.stack.send(
      handle, bytes, flags: flags & MessageFlag.more == 0 ? .lend : [.lend, .more], now: shard.pointee.now())
  } catch {
    // The ordinary way meets the same error and reports it.
    taken = 0
  }
  shard.pointee.unlock()
  if taken == 0 { return 0 }
  var hasNews = true
  var before = taken
  var idleTurns = 0
  while true {
    // An acknowledgment for each super-segment is what a peer on this machine sends at once.
    hasNews = hasNews && Resident.pollForAcknowledgments(shard, most: max(1, taken >> 16))
    shard.pointee.lock()
    let rest = shard.pointee.stack.lentBytes(handle)
    // Frames of others may come for ever.
    idleTurns = rest < before ? 0 : idleTurns &+ 1
    before = rest
    let isDone = !hasNews || rest <= copiedBytes || idleTurns > 3
    if isDone, rest > 0, let file {
      let room = shard.pointee.stack.reserveForLoan(handle)
      shard.pointee.unlock()
      isCopied = true
      hasNews = false
      if let room {
        file.read(at: taken &- rest, into: room.0)
        file.read(at: taken &- rest &+ room.0.count, into: room.1)
        shard.pointee.lock()
        shard.pointee.stack.takeOverLoan(handle)
        shard.pointee.unlock()
      } else {
        // No room before a frame that is being written is out.
        anp_yield()
      }
      continue
    }
    let isSettled = isDone && shard.pointee.stack.settleLoan(handle)
    shard.pointee.unlock()
    if isSettled {
      if rest > 0 { isCopied = true }
      return taken
    }
    // Another thread is just writing a frame of ours.
    if isDone { anp_sleep(10_000) }
  }
}

/// Hands the stack as much as it takes.
@inline(__always)
private func putStream(
  _ shard: UnsafeMutablePointer<Shard>, _ handle: SocketHandle, _ buffers: Buffers, _ flags: Int32, holds: Bool,
  _ sent: inout Int, _ now: Instant
) throws(SocketError) -> Int {
  if sent > 0 {
    let level = shard.pointee.stack.readiness(handle).rawValue
    if level & (PollEvent.error | PollEvent.hangUp) != 0 { throw .brokenPipe }
  }
  let last: SendFlags = flags & MessageFlag.more != 0 ? .more : holds ? .hold : []
  repeat {
    let (piece, isLast) = buffers.piece(at: sent)
    // No partial segment between the pieces of one call.
    let n = try shard.pointee.stack.send(
      handle, UnsafeRawBufferPointer(piece), flags: isLast ? last : .more, now: now)
    sent += n
    if n < piece.count { throw .wouldBlock }
  } while sent < buffers.total
  return 0
}

// MARK: Datagram

private func sendDatagram(
  _ description: DescriptionPointer, _ fd: Int32, _ buffers: Buffers, _ flags: Int32, _ name: UnsafeRawPointer?,
  _ nameLength: UInt32, _ control: UnsafePointer<msghdr>?
) -> Int {
  if flags & MessageFlag.outOfBand != 0 { return -Errno.notSupported }
  var message = DatagramMessage()
  if let name, nameLength > 0 {
    switch parseDestination(name, nameLength, description) {
    case .endpoint(let endpoint): message.destination = Sides.thisHost(endpoint)
    case .failure(let error): return error
    case .unspecified: break  // an IPv6 socket: as if no name were given (udpv6_sendmsg)
    }
  }
  if description.pointee.side == .undecided {
    guard let destination = message.destination ?? description.pointee.deferredPeer else { return passToKernel }
    switch Sides.destination(destination.address) {
    case .kernel:
      if KernelSide.open(description, fd, for: destination.address) { return passToKernel }
      return Sides.becomeKernel(description)
    case .refused(let error): return error
    case .stack: break
    }
    let decided = Sides.becomeStack(description, fd, for: destination.address)
    if decided != 0 { return decided }
  } else if message.destination == nil, description.pointee.deferredPeer != nil {
    // Connecting it failed then, and may not now.
    let decided = Sides.becomeStack(description, fd)
    if decided != 0 { return decided }
  }
  if let destination = message.destination {
    if Sides.destination(destination.address) == .kernel,
      KernelSide.open(description, fd, for: destination.address)
    {
      return passToKernel
    }
    let waited = Sides.awaitLease(description, for: destination.address)
    if waited != 0 { return waited }
    let scope = SockAddr.checkScope(fd, name, nameLength, destination.address)
    if scope != 0 { return scope }
    let asked = Sides.awaitRouter(description, toward: destination.address)
    if asked != 0 { return asked }
  } else if description.pointee.isConnectedToKernel.load(ordering: .relaxed) {
    return passToKernel
  }
  if let control {
    let error = ControlMessages.read(control, description, &message)
    if error != 0 { return error }
  }
  message.more = flags & MessageFlag.more != 0
  if buffers.total > 65535 { return -Errno.messageTooLong }
  // Never waits: a datagram goes to the device at once, and where no port is free Linux too says EAGAIN.
  let result = withShard(description) { shard, now throws(SocketError) in
    let (piece, isWhole) = buffers.piece(at: 0)
    var bytes = UnsafeRawBufferPointer(piece)
    if !isWhole {
      buffers.gather(into: shard.pointee.scratch)
      bytes = UnsafeRawBufferPointer(start: shard.pointee.scratch, count: buffers.total)
    }
    message.mayLend = isWhole && bytes.count >= lentDatagramBytes && shard.pointee.callersMayLendFrames
    return try shard.pointee.stack.sendDatagram(description.pointee.handle, bytes, message, now: now)
  }
  if message.mayLend { awaitLoan(description) }
  return result
}

/// From so many bytes on a super-frame is written to the device from the program's memory, which spares one of two copies.
private var lentDatagramBytes: Int { 16384 }

/// The frame has most often been written when the lock was released. The thread stays inside, so no handler can jump out of the loan.
private func awaitLoan(_ description: DescriptionPointer) {
  while true {
    let shard = lockShard(of: description)
    let frames = shard.pointee.stack.lentFrames(description.pointee.handle)
    shard.pointee.unlock()
    if frames == 0 { return }
    anp_sleep(10_000)
  }
}

/// Unlike connect, sendto takes AF_UNSPEC for AF_INET on an IPv4 socket, and AF_INET on an IPv6 one that is UDP's.
private func parseDestination(
  _ name: UnsafeRawPointer, _ length: UInt32, _ description: DescriptionPointer
) -> SockAddr.Parsed {
  guard length >= 2, length <= SockAddr.storageSize else { return .failure(-Errno.invalid) }
  let given = SockAddr.family(name)
  let asIPv4 =
    description.pointee.family == Family.inet
    ? given == Family.unspecified : given == Family.inet && description.pointee.datagramKind == .udp
  if asIPv4 {
    if description.pointee.onlyIPv6 { return .failure(-Errno.networkUnreachable) }
    guard Int(length) >= SockAddr.inetSize else { return .failure(-Errno.invalid) }
    return .endpoint(Endpoint(IPAddress(IPv4Address(bits: name.bigEndian32(at: 4))), name.bigEndian16(at: 2)))
  }
  return SockAddr.parse(name, length: length, family: description.pointee.family)
}
