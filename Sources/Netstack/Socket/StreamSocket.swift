// Owns: what a program's calls do to a connection's record: queueing and reading bytes, half-close, readiness. Which table a
// socket is in, and sending what these calls made sendable, is `Stack/`'s. Read first: RFC 9293 §3.9.1 (user commands),
// §3.10.1–§3.10.5; tcp(7), and Linux's tcp_poll() for readiness.

import Wire

extension TransmissionControlBlock {
  // MARK: Readiness

  /// Linux's tcp_poll().
  var readiness: Readiness {
    var ready: Readiness = []
    if state == .listen { return acceptFirst != 0 ? .readable : [] }
    let sendOver = !state.canSend && state != .synSent && state != .synReceived && state != .closed || sendShutdown
    let receiveOver = readShutdown || finReceived
    if state == .closed || sendOver && receiveOver { ready.formUnion(.hangUp) }
    if receiveOver { ready.formUnion([.readable, .readHangUp]) }
    if state != .synSent, state != .synReceived {
      if receiveQueue.readyBytes >= min(options.receiveLowWater, max(receiveSpace, 1)), receiveQueue.readyBytes > 0 {
        ready.formUnion(.readable)
      }
      if sendOver || isWritable { ready.formUnion(.writable) }
    }
    if error != nil { ready.formUnion(.error) }
    return ready
  }

  /// The program asked for FIN, or the connection is gone.
  var sendShutdown: Bool { finQueued }

  // MARK: SEND (RFC 9293 §3.10.2)

  /// Queues as much as there is room for.
  mutating func queue(_ bytes: UnsafeRawBufferPointer, _ flags: SendFlags, _ env: EnvironmentPointer)
    throws(SocketError) -> Int
  {
    try checkCanSend()
    if bytes.count == 0 { return 0 }
    // Once full, a third must be free before more is taken (sk_stream_write_space): no dribble of small copies.
    if wantsSpace, !isWritable { throw .wouldBlock }
    if sendBuffer.isLent {
      // Another thread's call is not over yet.
      wantsSpace = true
      throw .wouldBlock
    }
    // A program that corks has its own idea of what belongs together.
    let mayHold =
      flags.contains(.hold) && !options.cork && snd.una == snd.nxt && dataEnd - snd.nxt + bytes.count < segmentPayload
    let wasHeld = isHeld
    let n =
      flags.contains(.lend) ? sendBuffer.lend(bytes, limit: sendLimit) : sendBuffer.append(bytes, limit: sendLimit)
    // What was held back goes out with what has come now.
    if isHeld, n > 0 { env.pointee.statistics.count(.tcpAutoCorking) }
    isHeld = mayHold && n == bytes.count
    moreComing = flags.contains(.more) || isHeld
    // The timer was set for the other kind of waiting.
    if isHeld != wasHeld, sendTimer == .cork { disarmSendTimer(env) }
    if n > 0 {
      env.pointee.statistics.count(.bytesIn, n)
      if !flags.contains(.lend) {
        env.pointee.statistics.count(.copiesIn)
        env.pointee.statistics.count(.copyBytesIn, n)
      }
      work.insert(.output)
    }
    if n < bytes.count {
      wantsSpace = true
      // No more can come before something has left: what MSG_MORE or TCP_CORK holds back must go (tcp_sendmsg_locked pushes
      // before it waits for memory).
      work.formUnion([.output, .push])
    }
    if n == 0 { throw .wouldBlock }
    return n
  }

  private mutating func checkCanSend() throws(SocketError) {
    if let pending = error {
      error = nil
      throw pending
    }
    switch state {
    case .established, .closeWait:
      if finQueued { throw .brokenPipe }
    case .synSent, .synReceived:
      if finQueued { throw .brokenPipe }
      wantsSpace = true
      throw .wouldBlock
    case .closed, .listen:
      throw .brokenPipe
    case .finWait1, .finWait2, .closing, .lastAck, .timeWait:
      throw .brokenPipe
    }
  }

  // MARK: RECEIVE (RFC 9293 §3.10.3)

  mutating func read(
    _ destination: UnsafeMutableRawBufferPointer, _ flags: ReceiveFlags, _ env: EnvironmentPointer
  ) throws(SocketError) -> Int {
    if receiveQueue.readyBytes > 0 {
      if destination.count == 0 { return 0 }
      return readOut(destination, flags, env)
    }
    // After the peer's FIN the end of the stream is told before any error (Linux's SOCK_DONE).
    if streamEnded { return 0 }
    if let pending = error {
      error = nil
      throw pending
    }
    if readShutdown || finReceived { return 0 }
    switch state {
    case .listen, .closed: throw .notConnected
    case .synSent, .synReceived: throw .wouldBlock
    default: break
    }
    throw .wouldBlock
  }

  private mutating func readOut(
    _ target: UnsafeMutableRawBufferPointer, _ flags: ReceiveFlags, _ env: EnvironmentPointer
  ) -> Int {
    let peek = flags.contains(.peek)
    let n = receiveQueue.read(target, peek: peek, drop: flags.contains(.discard), &env.pointee.pool)
    env.pointee.statistics.count(.copiesOut)
    env.pointee.statistics.count(.copyBytesOut, n)
    if !peek {
      noteCopied(n, env)
      considerWindowUpdate(env)
    }
    return n
  }

  // MARK: CLOSE (RFC 9293 §3.10.4), in halves

  /// Nothing more will be queued: a FIN follows what is.
  mutating func closeSending(_ env: EnvironmentPointer) {
    guard !finQueued else { return }
    switch state {
    case .synReceived, .established:
      finQueued = true
      enter(.finWait1, env)
    case .closeWait:
      finQueued = true
      enter(.lastAck, env)
    default:
      return
    }
    moreComing = false
    isHeld = false
    work.insert(.output)
    raise(.writable)
    if finReceived || readShutdown { raise(.hangUp) }
  }
}
