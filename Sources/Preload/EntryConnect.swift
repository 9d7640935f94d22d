// Owns: bind, connect, listen, accept, shutdown and the two names: the calls that make and end conversations.
// Read first: connect(2), accept(2), inet_stream_connect and inet_csk_accept in Linux for the errno of each state.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

@c(anp_entry_bind)
public func entryBind(_ fd: Int32, _ entry: UInt64, _ address: UnsafeRawPointer?, _ length: UInt32) -> Int {
  withSocket(fd, entry) { description in bind(description, fd, address, length) }
}

private func bind(
  _ description: DescriptionPointer, _ fd: Int32, _ address: UnsafeRawPointer?, _ length: UInt32
) -> Int {
  let endpoint: Endpoint
  switch SockAddr.parse(address, length: length, family: description.pointee.family) {
  case .failure(let error): return error
  case .endpoint(let given): endpoint = given
  case .unspecified:
    // BSD heritage: AF_UNSPEC with the wildcard is as good as AF_INET (__inet_bind).
    guard let address, description.pointee.family == Family.inet, Int(length) >= SockAddr.inetSize,
      address.bigEndian32(at: 4) == 0
    else { return -Errno.familyNotSupported }
    endpoint = Endpoint(.anyIPv4, address.bigEndian16(at: 2))
  }
  if description.pointee.side == .undecided {
    if description.pointee.onlyIPv6 {
      if endpoint.address.isIPv4 { return -Errno.invalid }
      // Without IPv6 nothing can ever arrive at an IPv6-only wildcard. The placeholder stands for that as well as anything.
      if endpoint.address.isUnspecified, !HostRuntime.configuration.hasIPv6 { return Sides.becomeKernel(description) }
    }
    switch Sides.binding(endpoint.address) {
    case .kernel: return Sides.becomeKernel(description)
    case .refused(let error): return error
    case .stack: break
    }
    if endpoint.address.isUnspecified, endpoint.port == 0 {
      let result = Int(anp_kernel_bind(fd, address, length))
      if result == 0 { description.pointee.boundToEphemeral = true }
      return result
    }
    let decided = Sides.becomeStack(description, fd, for: endpoint.address)
    if decided != 0 { return decided }
  }
  let scope = SockAddr.checkScope(fd, address, length, endpoint.address)
  if scope != 0 { return scope }
  if Spread.isNeeded(description) {
    let result = Spread.bind(description, endpoint)
    if result == 0, endpoint.address.isIPv6Specific { description.pointee.onlyIPv6 = true }
    return result
  }
  let result = withShard(description) { shard, now throws(SocketError) in
    try shard.pointee.stack.bind(description.pointee.handle, to: endpoint, now: now)
    return 0
  }
  if result == 0, endpoint.address.isIPv6Specific { description.pointee.onlyIPv6 = true }
  if result == 0, description.pointee.kind == .datagram, endpoint.address.isUnspecified {
    KernelSide.openForServer(description, fd, port: endpoint.port)
  }
  return result
}

@c(anp_entry_connect)
public func entryConnect(_ fd: Int32, _ entry: UInt64, _ address: UnsafeRawPointer?, _ length: UInt32) -> Int {
  withSocket(fd, entry) { description in connect(description, fd, address, length) }
}

private func connect(
  _ description: DescriptionPointer, _ fd: Int32, _ address: UnsafeRawPointer?, _ length: UInt32
) -> Int {
  var endpoint = Endpoint(.anyIPv4, 0)
  switch SockAddr.parse(address, length: length, family: description.pointee.family) {
  case .failure(let error): return error
  case .unspecified:
    if description.pointee.side == .undecided {
      description.pointee.deferredPeer = nil
      return passToKernel
    }
    if description.pointee.kind == .stream { return Spread.disconnect(description) }
  case .endpoint(let given):
    endpoint = Sides.thisHost(given)
    if description.pointee.onlyIPv6, endpoint.address.isIPv4 { return -Errno.networkUnreachable }
    if description.pointee.side == .undecided {
      switch Sides.destination(endpoint.address) {
      case .kernel: return Sides.becomeKernel(description)
      case .refused(let error): return error
      case .stack: break
      }
      if description.pointee.kind == .datagram, DeferredConnect.note(description, endpoint) { return 0 }
      let decided = Sides.becomeStack(description, fd, for: endpoint.address)
      if decided != 0 { return decided }
    }
    if description.pointee.kind == .datagram, Sides.destination(endpoint.address) == .kernel,
      KernelSide.open(description, fd, for: endpoint.address)
    {
      return KernelSide.connect(description, fd, address, length)
    }
    let waited = Sides.awaitLease(description, for: endpoint.address)
    if waited != 0 { return waited }
    let scope = SockAddr.checkScope(fd, address, length, endpoint.address)
    if scope != 0 { return scope }
    let asked = Sides.awaitRouter(description, toward: endpoint.address)
    if asked != 0 { return asked }
  }
  if description.pointee.isConnectedToKernel.exchange(false, ordering: .relaxed) {
    KernelSide.disconnect(fd)
  }
  if description.pointee.kind == .datagram {
    let result = withShard(description) { shard, now throws(SocketError) in
      try shard.pointee.stack.connect(description.pointee.handle, to: endpoint, now: now)
      description.pointee.deferredPeer = nil
      return 0
    }
    if result == 0, description.pointee.hasKernelSide.load(ordering: .acquiring) {
      endpoint.address.isUnspecified ? KernelSide.disconnect(fd) : KernelSide.hearNobody(fd)
    }
    return result
  }
  return connectStream(description, endpoint)
}

private func connectStream(_ description: DescriptionPointer, _ endpoint: Endpoint) -> Int {
  var deadline: Deadline?
  // EINPROGRESS to the call that began it, EALREADY to later ones, also when they give up waiting.
  var unfinished = 0
  var hasLooked = HostRuntime.shardCount <= 1
  while true {
    anp_wait_prepare()
    let expected = description.pointee.writeWord.pointee.load(ordering: .sequentiallyConsistent)
    let result = Spread.connect(description, endpoint)
    switch -result {
    case 0:
      description.pointee.connectUnreported = false
      return 0
    case Errno.isConnected where description.pointee.connectUnreported:
      // The first call after the handshake reports its success, whoever began it (__inet_stream_connect).
      description.pointee.connectUnreported = false
      return 0
    case Errno.inProgress, Errno.already:
      description.pointee.connectUnreported = true
      if unfinished == 0 { unfinished = result }
      if description.pointee.nonBlocking.load(ordering: .relaxed) { return result }
      if !hasLooked {
        // The device learns from the SYN where its answer belongs, but a peer on this machine has answered before that.
        hasLooked = true
        if Resident.pollOnce(.all) { continue }
      }
    default:
      description.pointee.connectUnreported = false
      return result
    }
    let until = deadline ?? Deadline.after(description.pointee.sendTimeout)
    deadline = until
    switch sleep(description, on: description.pointee.writeWord, while: expected, until: until) {
    case .tryAgain: continue
    case .timedOut: return unfinished
    case .interrupted: return -Errno.interrupted
    case .lost: return referenceLost
    }
  }
}

@c(anp_entry_listen)
public func entryListen(_ fd: Int32, _ entry: UInt64, _ backlog: Int32) -> Int {
  withSocket(fd, entry) { description in
    if description.pointee.side == .undecided {
      if description.pointee.kind == .datagram { return passToKernel }
      let decided = Sides.becomeStack(description, fd)
      if decided != 0 { return decided }
    }
    // Unsigned in Linux: a negative backlog is as long as somaxconn allows.
    let backlog = Int(UInt32(bitPattern: backlog))
    if Spread.isNeeded(description) { return Spread.listen(description, backlog: backlog) }
    return withShard(description) { shard, now throws(SocketError) in
      try shard.pointee.stack.listen(description.pointee.handle, backlog: backlog, now: now)
      return 0
    }
  }
}

@c(anp_entry_accept)
public func entryAccept(
  _ fd: Int32, _ entry: UInt64, _ address: UnsafeMutableRawPointer?, _ length: UnsafeMutablePointer<UInt32>?,
  _ flags: Int32
) -> Int {
  if flags & ~(SocketType.nonBlocking | SocketType.closeOnExec) != 0 { return -Errno.invalid }
  return withSocket(fd, entry) { description in
    if description.pointee.side == .undecided { return passToKernel }
    if description.pointee.kind == .datagram { return -Errno.notSupported }
    if address != nil, anp_is_nowhere(length) != 0 || anp_is_nowhere(address) != 0 { return -Errno.fault }
    return accept(description, address, length, flags)
  }
}

private func accept(
  _ listener: DescriptionPointer, _ address: UnsafeMutableRawPointer?, _ length: UnsafeMutablePointer<UInt32>?,
  _ flags: Int32
) -> Int {
  var deadline: Deadline?
  var hasLooked = false
  while true {
    anp_wait_prepare()
    let expected = listener.pointee.readWord.pointee.load(ordering: .sequentiallyConsistent)
    // Looked at first, so that an accept that finds nobody makes no descriptor.
    var source: (UnsafeMutablePointer<Shard>, SocketHandle)?
    if listener.pointee.isEverywhere.load(ordering: .relaxed) {
      listener.pointee.readWaiting.store(true, ordering: .sequentiallyConsistent)
      if listener.pointee.listenQueue.load(ordering: .relaxed) == 0 { return -Errno.invalid }
      source = Spread.findAcceptable(listener)
    } else {
      let result = withShard(listener) { shard, _ throws(SocketError) in
        listener.pointee.readWaiting.store(true, ordering: .sequentiallyConsistent)
        guard shard.pointee.stack.isListening(listener.pointee.handle) else { throw .invalidArgument }
        if shard.pointee.stack.readiness(listener.pointee.handle).rawValue & PollEvent.readable != 0 {
          source = (shard, listener.pointee.handle)
        }
        return 0
      }
      if result < 0 { return result }
    }
    if let (shard, handle) = source {
      let result = acceptReady(listener, shard, handle, address, length, flags)
      if result != -Errno.again { return result }
      // Another thread took that one; in another shard there may be one more.
      if listener.pointee.isEverywhere.load(ordering: .relaxed) { continue }
    }
    if listener.pointee.nonBlocking.load(ordering: .relaxed) {
      guard !hasLooked, Resident.pollOnce(listener.place.sources) else { return -Errno.again }
      hasLooked = true
      continue
    }
    let until = deadline ?? Deadline.after(listener.pointee.receiveTimeout)
    deadline = until
    switch sleep(listener, on: listener.pointee.readWord, while: expected, until: until) {
    case .tryAgain: continue
    case .timedOut: return -Errno.again
    case .interrupted: return -Errno.interrupted
    case .lost: return referenceLost
    }
  }
}

/// Takes a connection that is there, unless another thread is faster (EAGAIN).
private func acceptReady(
  _ listener: DescriptionPointer, _ shard: UnsafeMutablePointer<Shard>, _ handle: SocketHandle,
  _ address: UnsafeMutableRawPointer?, _ length: UnsafeMutablePointer<UInt32>?,
  _ flags: Int32
) -> Int {
  let fd = anp_kernel_socket(listener.pointee.family, SocketType.stream | flags, 0)
  guard fd >= 0 else { return Int(fd) }
  guard
    let accepted = DescriptionPointer.make(
      family: listener.pointee.family, kind: .stream, ipProtocol: listener.pointee.ipProtocol)
  else {
    _ = anp_kernel_close(fd)
    return -Errno.noMemory
  }
  accepted.pointee.nonBlocking.store(flags & SocketType.nonBlocking != 0, ordering: .relaxed)
  accepted.pointee.receiveTimeout = listener.pointee.receiveTimeout
  accepted.pointee.sendTimeout = listener.pointee.sendTimeout
  accepted.pointee.zeroCopy.isOn = listener.pointee.zeroCopy.isOn
  accepted.pointee.setShard(shard)
  var peer = Endpoint(.anyIPv4, 0)
  shard.pointee.lock()
  var result = kernelStyle { () throws(SocketError) -> Int in
    accepted.pointee.handle = try shard.pointee.stack.accept(
      handle, cookie: accepted.pointee.cookie, now: shard.pointee.now())
    accepted.pointee.setSide(.stack)
    do throws(SocketError) {
      peer = try shard.pointee.stack.remoteEndpoint(accepted.pointee.handle)
    } catch {
      // Reset meanwhile: accept still succeeds, the name is empty.
    }
    return 0
  }
  shard.pointee.unlock()
  if result == 0, let address, length != nil {
    result = SockAddr.report(peer, family: accepted.pointee.family, to: address, length)
  }
  if result == 0 { result = Int(anp_fd_exchange(fd, accepted.tableEntry, nil)) }
  guard result == 0 else {
    _ = anp_kernel_close(fd)
    accepted.release()
    return result
  }
  return Int(fd)
}

@c(anp_entry_shutdown)
public func entryShutdown(_ fd: Int32, _ entry: UInt64, _ how: Int32) -> Int {
  withSocket(fd, entry) { description in
    if description.pointee.deferredPeer != nil {
      let decided = Sides.becomeStack(description, fd)
      if decided != 0 { return decided }
    }
    if description.pointee.side == .undecided { return passToKernel }
    let direction: ShutdownHow
    switch how {
    case 0: direction = .read
    case 1: direction = .write
    case 2: direction = .both
    default: return -Errno.invalid
    }
    return Spread.shutdown(description, direction)
  }
}

@c(anp_entry_name)
public func entryName(
  _ fd: Int32, _ entry: UInt64, _ isPeer: Int32, _ address: UnsafeMutableRawPointer?,
  _ length: UnsafeMutablePointer<UInt32>?
) -> Int {
  withSocket(fd, entry) { description in
    if let noted = DeferredConnect.name(description, fd, isPeer: isPeer != 0) {
      return SockAddr.report(noted, family: description.pointee.family, to: address, length)
    }
    if description.pointee.side == .undecided { return passToKernel }
    if description.pointee.isConnectedToKernel.load(ordering: .relaxed) { return passToKernel }
    var endpoint = Endpoint(.anyIPv4, 0)
    let result = withShard(description) { shard, _ throws(SocketError) in
      endpoint =
        isPeer != 0
        ? try shard.pointee.stack.remoteEndpoint(description.pointee.handle)
        : shard.pointee.stack.localEndpoint(description.pointee.handle)
      return 0
    }
    if result != 0 { return result }
    return SockAddr.report(endpoint, family: description.pointee.family, to: address, length)
  }
}
