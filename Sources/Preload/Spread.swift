// Owns: stream sockets that are in all shards (ANP_QUEUES > 1). Whoever binds a port must bind it everywhere, as no shard knows
// the others' ports; a listener must be wherever its SYNs come in; and the shard of a connection follows from its socket pair,
// which a bound socket knows only when it connects. So:
//
//   connect without bind     one shard: the calling thread's; its stack chooses a port that makes the pair its own
//   bind, listen             a record in each shard (`replicas`) from then on, until the socket is closed
//   connect after bind       the record in the owner's shard becomes the socket's (`handle`, `shard`); the others keep the port
//   listen                   all listen; what waits for accept is counted together (Netstack's ListenQueue)
//   accept                   takes from the calling thread's shard first, then from the others
//
// All of it is done with all shards locked, but for accept, which takes one after the other. Datagram sockets are in the first
// shard.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

enum Spread {
  /// The shard of the connections that the calling thread opens, and of those that it accepts first.
  static var ownShard: Int {
    let count = HostRuntime.shardCount
    guard count > 1, let thread = Threads.current else { return 0 }
    return Int(thread.pointee.index) % count
  }

  /// Whether a socket that is bound must be in several shards.
  static func isNeeded(_ description: DescriptionPointer) -> Bool {
    HostRuntime.shardCount > 1 && description.pointee.kind == .stream
  }

  /// A stack operation with all shards locked.
  private static func withAll(_ operation: (Instant) throws(SocketError) -> Void) -> Int {
    HostRuntime.lock(.all)
    let now = HostRuntime.shard(at: 0).pointee.now()
    let result = kernelStyle { () throws(SocketError) -> Int in
      try operation(now)
      return 0
    }
    HostRuntime.unlock(.all)
    return result
  }

  /// As withShard, for what counts for all records of a socket.
  static func withEach(
    _ description: DescriptionPointer,
    _ operation: (UnsafeMutablePointer<Shard>, SocketHandle, Instant) throws(SocketError) -> Void
  ) -> Int {
    withOneOr(description, operation) { now throws(SocketError) in try forEach(description, now, operation) }
  }

  /// Runs `one` with the socket's shard locked where it is in one only, else `all` with all of them. Which of the two stands firm only
  /// under a lock.
  private static func withOneOr(
    _ description: DescriptionPointer,
    _ one: (UnsafeMutablePointer<Shard>, SocketHandle, Instant) throws(SocketError) -> Void,
    _ all: (Instant) throws(SocketError) -> Void
  ) -> Int {
    var isEverywhere = description.pointee.isEverywhere.load(ordering: .relaxed)
    if !isEverywhere {
      let result = withShard(description) { shard, now throws(SocketError) in
        isEverywhere = description.pointee.isEverywhere.load(ordering: .relaxed)
        if !isEverywhere { try one(shard, description.pointee.handle, now) }
        return 0
      }
      if !isEverywhere { return result }
    }
    return withAll(all)
  }

  private static func forEach(
    _ description: DescriptionPointer, _ now: Instant,
    _ operation: (UnsafeMutablePointer<Shard>, SocketHandle, Instant) throws(SocketError) -> Void
  ) throws(SocketError) {
    let replicas = description.pointee.replicas.unsafelyUnwrapped
    for i in 0..<HostRuntime.shardCount { try operation(HostRuntime.shard(at: i), replicas[i], now) }
  }

  // MARK: Under all locks

  /// Gives it a record in each shard.
  private static func spread(_ description: DescriptionPointer, _ now: Instant) throws(SocketError) {
    if description.pointee.isEverywhere.load(ordering: .relaxed) { return }
    let own = description.pointee.shard.unsafelyUnwrapped
    let likeness = try own.pointee.stack.likeness(of: description.pointee.handle)
    let replicas = description.pointee.replicas ?? .allocate(capacity: ShardMask.maximumCount)
    description.pointee.replicas = replicas
    for i in 0..<HostRuntime.shardCount {
      let shard = HostRuntime.shard(at: i)
      if shard == own {
        replicas[i] = description.pointee.handle
        continue
      }
      do throws(SocketError) {
        replicas[i] = try shard.pointee.stack.open(like: likeness, cookie: description.pointee.cookie, now: now)
      } catch {
        for j in 0..<i where HostRuntime.shard(at: j) != own {
          HostRuntime.shard(at: j).pointee.stack.close(replicas[j], now: now)
        }
        throw error
      }
    }
    description.pointee.isEverywhere.store(true, ordering: .relaxed)
  }

  private static func bind(_ description: DescriptionPointer, _ local: Endpoint, _ now: Instant) throws(SocketError) {
    // A port that is free here may be taken elsewhere.
    for _ in 0..<1000 {
      let own = description.pointee.shard.unsafelyUnwrapped
      try own.pointee.stack.bind(description.pointee.handle, to: local, now: now)
      let bound = own.pointee.stack.localEndpoint(description.pointee.handle)
      do throws(SocketError) {
        try spread(description, now)
        try forEach(description, now) { shard, handle, now throws(SocketError) in
          if shard != own { try shard.pointee.stack.bind(handle, to: bound, now: now) }
        }
        return
      } catch {
        own.pointee.stack.unbind(description.pointee.handle)
        if description.pointee.isEverywhere.load(ordering: .relaxed) {
          for i in 0..<HostRuntime.shardCount {
            HostRuntime.shard(at: i).pointee.stack.unbind(description.pointee.replicas.unsafelyUnwrapped[i])
          }
        }
        guard error == .addressInUse, local.port == 0 else { throw error }
      }
    }
    throw .addressInUse
  }

  /// It listens no more, or from now on.
  private static func setListening(_ description: DescriptionPointer, _ queue: ListenQueuePointer?) {
    anp_state_lock()
    description.pointee.listenQueue.store(UInt(bitPattern: queue), ordering: .sequentiallyConsistent)
    Epoll.placeLocked(description)
    anp_state_unlock()
  }

  // MARK: The calls

  static func bind(_ description: DescriptionPointer, _ local: Endpoint) -> Int {
    withAll { now throws(SocketError) in try bind(description, local, now) }
  }

  /// The port that the placeholder has, or any other; nothing where another call has given it one, or connected it, by now.
  static func bindAsPlaceholder(_ description: DescriptionPointer, _ port: UInt16) -> Int {
    withAll { now throws(SocketError) in
      let stack = description.pointee.shard.unsafelyUnwrapped
      if stack.pointee.stack.hasPort(description.pointee.handle)
        || !stack.pointee.stack.isIdle(description.pointee.handle)
      {
        return
      }
      do throws(SocketError) {
        try bind(description, Endpoint(description.pointee.wildcard, port), now)
      } catch {
        guard error == .addressInUse else { throw error }
        try bind(description, Endpoint(description.pointee.wildcard, 0), now)
      }
    }
  }

  static func listen(_ description: DescriptionPointer, backlog: Int) -> Int {
    withAll { now throws(SocketError) in
      let own = description.pointee.shard.unsafelyUnwrapped
      let isListening = description.pointee.listenQueue.load(ordering: .relaxed) != 0
      if !isListening {
        guard own.pointee.stack.isUnconnected(description.pointee.handle) else { throw .invalidArgument }
        if !own.pointee.stack.hasPort(description.pointee.handle) {
          try bind(description, Endpoint(own.pointee.stack.localEndpoint(description.pointee.handle).address, 0), now)
        }
      }
      do throws(SocketError) {
        try forEach(description, now) { shard, handle, now throws(SocketError) in
          try shard.pointee.stack.listen(handle, backlog: backlog, now: now)
        }
      } catch {
        if !isListening {
          try forEach(description, now) { shard, handle, now throws(SocketError) in
            if shard.pointee.stack.isListening(handle) { try shard.pointee.stack.disconnect(handle, now: now) }
          }
        }
        throw error
      }
      if isListening { return }
      let queue = description.pointee.listenQueueMemory ?? .allocate(capacity: 1)
      if description.pointee.listenQueueMemory == nil { queue.initialize(to: ListenQueue()) }
      description.pointee.listenQueueMemory = queue
      try forEach(description, now) { shard, handle, _ throws(SocketError) in shard.pointee.stack.join(handle, queue) }
      setListening(description, queue)
    }
  }

  /// A step of a stream's connect: what the stack says to it.
  static func connect(_ description: DescriptionPointer, _ remote: Endpoint) -> Int {
    withOneOr(description) { shard, handle, now throws(SocketError) in
      description.pointee.writeWaiting.store(true, ordering: .sequentiallyConsistent)
      try shard.pointee.stack.connect(handle, to: remote, now: now)
    } _: { now throws(SocketError) in
      let replicas = description.pointee.replicas.unsafelyUnwrapped
      let own = description.pointee.shard.unsafelyUnwrapped
      if own.pointee.stack.isIdle(description.pointee.handle),
        let owner = own.pointee.stack.owner(of: description.pointee.handle, connectedTo: remote, now: now),
        owner != own.pointee.index
      {
        anp_state_lock()
        description.pointee.handle = replicas[owner]
        description.pointee.setShard(HostRuntime.shard(at: owner))
        Epoll.placeLocked(description)
        anp_state_unlock()
      }
      let shard = description.pointee.shard.unsafelyUnwrapped
      description.pointee.writeWaiting.store(true, ordering: .sequentiallyConsistent)
      try shard.pointee.stack.connect(description.pointee.handle, to: remote, now: now)
    }
  }

  /// connect with AF_UNSPEC.
  static func disconnect(_ description: DescriptionPointer) -> Int {
    mayEndListening(description) { shard, handle, now throws(SocketError) in
      try shard.pointee.stack.disconnect(handle, now: now)
    }
  }

  static func shutdown(_ description: DescriptionPointer, _ how: ShutdownHow) -> Int {
    guard description.pointee.listenQueue.load(ordering: .relaxed) != 0 else {
      return withShard(description) { shard, now throws(SocketError) in
        try shard.pointee.stack.shutdown(description.pointee.handle, how, now: now)
        return 0
      }
    }
    return mayEndListening(description) { shard, handle, now throws(SocketError) in
      try shard.pointee.stack.shutdown(handle, how, now: now)
    }
  }

  /// As withEach. Whoever is woken by the end of a listener must find that it is one.
  private static func mayEndListening(
    _ description: DescriptionPointer,
    _ operation: (UnsafeMutablePointer<Shard>, SocketHandle, Instant) throws(SocketError) -> Void
  ) -> Int {
    withOneOr(description, operation) { now throws(SocketError) in
      try forEach(description, now, operation)
      let own = description.pointee.shard.unsafelyUnwrapped
      if description.pointee.listenQueue.load(ordering: .relaxed) != 0,
        !own.pointee.stack.isListening(description.pointee.handle)
      {
        setListening(description, nil)
      }
    }
  }

  /// A listener's shard with a connection for accept, the calling thread's own before the others; nil where none has one.
  static func findAcceptable(_ listener: DescriptionPointer) -> (UnsafeMutablePointer<Shard>, SocketHandle)? {
    guard
      let queue = ListenQueuePointer(bitPattern: listener.pointee.listenQueue.load(ordering: .sequentiallyConsistent)),
      queue.pointee.accepted.load(ordering: .sequentiallyConsistent) > 0, let replicas = listener.pointee.replicas
    else { return nil }
    let count = HostRuntime.shardCount
    let first = ownShard
    for i in 0..<count {
      let index = (first + i) % count
      let shard = HostRuntime.shard(at: index)
      shard.pointee.lock()
      let isReady = shard.pointee.stack.readiness(replicas[index]).contains(.readable)
      shard.pointee.unlock()
      if isReady { return (shard, replicas[index]) }
    }
    return nil
  }

  static func close(_ description: DescriptionPointer) {
    _ = withAll { now throws(SocketError) in
      setListening(description, nil)
      try forEach(description, now) { shard, handle, now throws(SocketError) in
        shard.pointee.stack.setCookie(handle, 0)
        shard.pointee.stack.close(handle, now: now)
      }
      description.pointee.isEverywhere.store(false, ordering: .relaxed)
    }
  }

  static func close(_ handle: SocketHandle, in shard: UnsafeMutablePointer<Shard>) {
    shard.pointee.lock()
    shard.pointee.stack.setCookie(handle, 0)
    shard.pointee.stack.close(handle, now: shard.pointee.now())
    shard.pointee.unlock()
  }
}
