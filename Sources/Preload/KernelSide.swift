// Owns: the kernel's side of a datagram socket. A UDP socket may speak with the stack's network and with the kernel's loopback, each
// datagram as its address says (a resolver at 127.0.0.53 and one elsewhere, a server bound to the wildcard). The placeholder is a real
// UDP socket, so it is that side: bound to 127.0.0.1 and the same port, where that is free. What is sent to loopback the kernel sends;
// what comes from there is made part of the socket's readiness:
//
//   the placeholder becomes readable ──▶ anp-side, a thread that sleeps in one epoll set ──▶ `kernelReadable`, and everybody who
//   waits is woken as for a change in the stack ──▶ receiveDatagram asks the kernel without waiting
//
// So poll, epoll and blocking calls need not know of it. It begins when a socket first sends to loopback, or binds the wildcard with a
// port; programs that do neither get no thread. A socket whose first peer is on loopback stays undecided: no stack is started for it.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

enum KernelSide {
  /// Home of the epoll set's descriptor, -1 until needed.
  nonisolated(unsafe) private static let home: UnsafeMutablePointer<Int32> = {
    let made = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    made.initialize(to: -1)
    return made
  }()

  private static var stackBytes: Int { 256 << 10 }

  /// Whether a socket can have such a side.
  private static func isPossible(_ description: DescriptionPointer) -> Bool {
    description.pointee.kind == .datagram && description.pointee.datagramKind == .udp
      && !description.pointee.isStoodInFor
  }

  /// Before a datagram goes to `destination` by the kernel. False where that side cannot be had.
  static func open(_ description: DescriptionPointer, _ fd: Int32, for destination: IPAddress) -> Bool {
    if description.pointee.hasKernelSide.load(ordering: .acquiring) { return true }
    guard isPossible(description) else { return false }
    if description.pointee.side == .stack {
      var port: UInt16 = 0
      var isConnected = false
      _ = withShard(description) { shard, now throws(SocketError) in
        isConnected = shard.pointee.stack.hasPeer(description.pointee.handle)
        try shard.pointee.stack.holdAnyPort(description.pointee.handle, now: now)
        port = shard.pointee.stack.localEndpoint(description.pointee.handle).port
        return 0
      }
      // Taken: another will do, only that the two sides then have different ones.
      if !bind(description, fd, destination, port) { _ = bind(description, fd, destination, 0) }
      if isConnected { hearNobody(fd) }
    }
    return watch(description, fd)
  }

  /// A socket was bound to the wildcard and `port`: who asks at 127.0.0.1 is answered as well, if the kernel lets us.
  static func openForServer(_ description: DescriptionPointer, _ fd: Int32, port: UInt16) {
    guard isPossible(description), description.pointee.family == Family.inet else { return }
    if bind(description, fd, IPAddress(IPv4Address(127, 0, 0, 1)), port) { _ = watch(description, fd) }
  }

  /// The socket becomes the stack's: the placeholder, where it had a port of the kernel's choice, lets go of the wildcard.
  static func moveToLoopback(_ description: DescriptionPointer, _ fd: Int32, port: UInt16) {
    guard isPossible(description) else { return }
    disconnect(fd)
    if description.pointee.hasKernelSide.load(ordering: .acquiring) {
      _ = bind(description, fd, IPAddress(IPv4Address(127, 0, 0, 1)), port)
    }
  }

  /// There is no stack after all, and the kernel goes on in its place.
  static func moveBack(_ description: DescriptionPointer, _ fd: Int32) {
    guard isPossible(description) else { return }
    disconnect(fd)
    _ = bind(description, fd, description.pointee.wildcard, description.pointee.ephemeralPort)
  }

  /// connect to a peer on loopback. The stack's side keeps its port and hears nobody from then on.
  static func connect(
    _ description: DescriptionPointer, _ fd: Int32, _ address: UnsafeRawPointer?, _ length: UInt32
  ) -> Int {
    let result = Int(anp_kernel_connect(fd, address, length))
    guard result == 0 else { return result }
    _ = withShard(description) { shard, _ throws(SocketError) in
      try shard.pointee.stack.hearNobody(description.pointee.handle)
      return 0
    }
    description.pointee.isConnectedToKernel.store(true, ordering: .relaxed)
    return 0
  }

  /// The socket is connected to a peer in the network: its kernel's side is connected to itself, so that the kernel refuses strangers.
  static func hearNobody(_ fd: Int32) {
    var name = InlineArray<28, UInt8>(repeating: 0)
    var length: UInt32 = 28
    withUnsafeMutableBytes(of: &name) { bytes in
      guard let base = bytes.baseAddress, anp_kernel_getsockname(fd, base, &length) == 0 else { return }
      _ = anp_kernel_connect(fd, base, length)
    }
  }

  /// connect with AF_UNSPEC: undoes, beside a connection, a port that the kernel has chosen itself (__udp_disconnect).
  static func disconnect(_ fd: Int32) {
    var nobody = (UInt64(0), UInt64(0))
    withUnsafeBytes(of: &nobody) { _ = anp_kernel_connect(fd, $0.baseAddress, 16) }
  }

  private static func bind(
    _ description: DescriptionPointer, _ fd: Int32, _ destination: IPAddress, _ port: UInt16
  ) -> Bool {
    let isMapped = description.pointee.family == Family.inet6
    var local = IPAddress(destination.isLoopback ? IPv4Address(127, 0, 0, 1) : .any)
    if !destination.isIPv4 { local = destination.isLoopback ? destination : .anyIPv6 }
    if isMapped, local.isUnspecified { local = .anyIPv6 }
    var name = InlineArray<28, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &name) { bytes in
      let length = SockAddr.write(
        Endpoint(local, port), family: description.pointee.family, to: bytes.baseAddress, room: bytes.count)
      return anp_kernel_bind(fd, bytes.baseAddress, length) == 0
    }
  }

  // MARK: Watching

  private static func watch(_ description: DescriptionPointer, _ fd: Int32) -> Bool {
    anp_state_lock()
    var isFirst = false
    if anp_internal_number(home) < 0 {
      let made = anp_kernel_epoll_create()
      isFirst = made >= 0 && anp_internal_adopt(home, made) >= 0
    }
    anp_state_unlock()
    // Not under the lock: a new thread's memory is from the program's malloc, which may have locks of its own.
    let body: @convention(c) (UnsafeMutableRawPointer?) -> Void = { _ in KernelSide.run() }
    let hasFailed = isFirst && anp_thread_start(body, nil, "anp-side", stackBytes) != 0
    anp_state_lock()
    defer { anp_state_unlock() }
    if hasFailed { anp_internal_close(home) }
    guard anp_internal_number(home) >= 0 else { return false }
    let mark = UInt64(description.pointee.life.generation) << 32 | UInt64(description.pointee.index)
    let edgeTriggered = PollEvent.readable | EpollFlag.edge
    // First: whoever is woken by what is there already must look.
    description.pointee.hasKernelSide.store(true, ordering: .releasing)
    let result = anp_kernel_epoll_control(anp_internal_number(home), EpollOperation.add, fd, edgeTriggered, mark)
    if result == 0 || Int(result) == -Errno.exists { return true }
    description.pointee.hasKernelSide.store(false, ordering: .releasing)
    return false
  }

  /// The thread anp-side.
  private static func run() {
    var events = InlineArray<16, UInt64>(repeating: 0)
    while true {
      // The number may be another after a dup2 that aimed at it.
      let set = anp_internal_number(home)
      guard set >= 0 else { return }
      let count = withUnsafeMutableBytes(of: &events) { raw in
        Int(anp_kernel_epoll_marks(set, raw.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: UInt64.self), 16))
      }
      if count < 0, count != -Errno.interrupted { anp_sleep(1_000_000) }
      for i in 0..<max(0, count) {
        let description = preload.pointee.descriptions.record(UInt32(truncatingIfNeeded: events[i]))
        guard description.pointee.life.acquire(UInt32(truncatingIfNeeded: events[i] >> 32)) else { continue }
        description.pointee.kernelReadable.store(true, ordering: .sequentiallyConsistent)
        Wakes.changed(description, Readiness.readable.rawValue)
        Wakes.afterUnlock()
        description.release()
      }
    }
  }

  // MARK: Receiving

  /// A datagram from the kernel's side; -EAGAIN where there is none. `message` as receiveDatagram's.
  static func receive(
    _ description: DescriptionPointer, _ fd: Int32, _ vectors: UnsafePointer<iovec>?, _ count: Int, _ flags: Int32,
    _ message: UnsafeMutablePointer<msghdr>?
  ) -> Int {
    guard description.pointee.kernelReadable.load(ordering: .sequentiallyConsistent) else { return -Errno.again }
    var header = msghdr()
    if let message {
      header.msg_name = message.pointee.msg_name
      header.msg_namelen = message.pointee.msg_namelen
      header.msg_control = message.pointee.msg_control
      header.msg_controllen = message.pointee.msg_controllen
    }
    header.msg_iov = UnsafeMutablePointer(mutating: vectors)
    header.msg_iovlen = numericCast(count)
    let kernelFlags = flags & ~(MessageFlag.plainIO | MessageFlag.keepError) | MessageFlag.dontWait
    let result = Int(anp_kernel_recvmsg(fd, &header, kernelFlags))
    noteWhatIsLeft(description, fd)
    if result >= 0, let message {
      message.pointee.msg_namelen = header.msg_namelen
      message.pointee.msg_controllen = header.msg_controllen
      message.pointee.msg_flags = header.msg_flags
    }
    return result
  }

  /// A side with something in it is never called empty: another thread would go to sleep, and no new edge would wake it.
  private static func noteWhatIsLeft(_ description: DescriptionPointer, _ fd: Int32) {
    if isReadable(fd) { return }
    description.pointee.kernelReadable.store(false, ordering: .sequentiallyConsistent)
    // What came in between, and was called empty after all.
    guard isReadable(fd) else { return }
    description.pointee.kernelReadable.store(true, ordering: .sequentiallyConsistent)
    Wakes.changed(description, Readiness.readable.rawValue)
    Wakes.afterUnlock()
  }

  private static func isReadable(_ fd: Int32) -> Bool {
    var asked = pollfd(fd: fd, events: Int16(PollEvent.readable), revents: 0)
    return anp_kernel_poll_now(&asked, 1) != 0
  }
}
