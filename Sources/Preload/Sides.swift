// Owns: who carries a socket's traffic, decided at the first call that tells: connect, bind, listen, sendto.
//
//   ANP_TAKE matches                   stack
//   else ANP_BYPASS matches            kernel
//   else loopback, or "this host"      kernel; stack where ANP_LOOPBACK=stack
//   else                               stack; if it cannot start: ENETDOWN, or the kernel where ANP_FALLBACK=kernel
//
// A UDP socket that the stack has, or that nobody has yet, may speak with loopback as well (KernelSide.swift).
//
// A wildcard bind goes to the stack, but with port 0 it tells nothing yet: many a client binds so and then connects to a
// resolver on loopback. It is done on the placeholder and repeated, with the same port, once the side is known.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

enum Sides {
  enum Destination: Equatable {
    case stack, kernel
    /// A negative errno.
    case refused(Int)
  }

  /// For traffic to `address`.
  static func destination(_ address: IPAddress) -> Destination {
    // connect() to 0.0.0.0 or :: means this host.
    if address.isUnspecified { return HostRuntime.configuration.loopbackInStack ? .stack : .kernel }
    return place(address, otherwise: -Errno.networkUnreachable)
  }

  /// Where "this host" is, for connect and sendto (Linux: INADDR_LOOPBACK, in6addr_loopback).
  static func thisHost(_ endpoint: Endpoint) -> Endpoint {
    guard endpoint.address.isUnspecified, HostRuntime.configuration.loopbackInStack else { return endpoint }
    let isIPv4 = endpoint.address.isIPv4
    return Endpoint(isIPv4 ? IPAddress(IPv4Address(127, 0, 0, 1)) : IPAddress(high: 0, low: 1), endpoint.port)
  }

  /// For a socket bound to `address`.
  static func binding(_ address: IPAddress) -> Destination {
    place(address, otherwise: -Errno.addressNotAvailable)
  }

  private static func place(_ address: IPAddress, otherwise failure: Int) -> Destination {
    if HostRuntime.configuration.matchesTake(address) { return .stack }
    if HostRuntime.configuration.matchesBypass(address) { return .kernel }
    if address.isLoopback { return HostRuntime.configuration.loopbackInStack ? .stack : .kernel }
    return address.isIPv4 || address.isUnspecified || HostRuntime.configuration.hasIPv6 ? .stack : .refused(failure)
  }

  /// Turns an undecided socket to the stack. 0, `passToKernel` (already the kernel's, or the fallback), or a negative errno.
  /// - Parameter address: what the traffic is to or from, where the call says it: one that needs an address of our own waits for the
  ///   first lease (ANP_ADDR=dhcp).
  static func becomeStack(_ description: DescriptionPointer, _ fd: Int32, for address: IPAddress? = nil) -> Int {
    let letsGo =
      description.pointee.side == .undecided && description.pointee.kind == .datagram
      && hasPlaceholderPort(description)
    if letsGo {
      // Before the stack starts: nobody shall see a kernel's socket on the wildcard that is not meant to be one.
      let port = placeholderPort(fd)
      if port != 0 { description.pointee.ephemeralPort = port }
      KernelSide.moveToLoopback(description, fd, port: description.pointee.ephemeralPort)
    }
    if !Bootstrap.start() {
      guard HostRuntime.configuration.fallbackToKernel else { return -Errno.networkDown }
      if letsGo { KernelSide.moveBack(description, fd) }
      return becomeKernel(description)
    }
    guard HostRuntime.shard != nil else { return -Errno.networkDown }
    if let address {
      let waited = awaitLease(description, for: address)
      if waited == -Errno.networkDown, HostRuntime.configuration.fallbackToKernel {
        if letsGo { KernelSide.moveBack(description, fd) }
        return becomeKernel(description)
      }
      if waited != 0 { return waited }
    }
    let shard = HostRuntime.shard(at: description.pointee.kind == .stream ? Spread.ownShard : 0)
    shard.pointee.lock()
    var result = open(description, fd, shard)
    if result == 0 {
      Wakes.everything(description)
      result = DeferredConnect.settle(description, shard)
    }
    shard.pointee.unlock()
    if result == 0, description.pointee.boundToEphemeral, Spread.isNeeded(description) {
      result = Spread.bindAsPlaceholder(description, placeholderPort(fd))
    }
    return result
  }

  /// A program that has just begun may be faster than the first router's advertisement, without which there is no way to most
  /// IPv6 addresses: it waits for that, but no longer than a second after the stack began.
  /// 0, -EINTR or `referenceLost`.
  static func awaitRouter(_ description: DescriptionPointer, toward address: IPAddress) -> Int {
    guard !address.isIPv4, HostRuntime.hasJustBegun, let shard = HostRuntime.shard else { return 0 }
    while true {
      anp_wait_prepare()
      shard.pointee.lock()
      let isWorthIt = shard.pointee.stack.awaitsRouter(toward: address, now: shard.pointee.now())
      shard.pointee.unlock()
      if !isWorthIt { return 0 }
      // A router's answer comes unannounced: it is looked for.
      let result = waitOutside(description, HostRuntime.leaseWord, anp_load_word(HostRuntime.leaseWord), 10_000_000)
      if result != 0 { return result }
    }
  }

  /// Waits with nothing held, so that signal handlers run and may jump away. 0, -EINTR, or `referenceLost`.
  private static func waitOutside(
    _ description: DescriptionPointer, _ word: UnsafeMutablePointer<UInt32>, _ expected: UInt32, _ patience: Int64
  ) -> Int {
    let reference = HeldReference(
      kind: .description, index: description.pointee.index, generation: description.pointee.life.generation,
      depth: anp_stack_depth())
    let thread = Threads.current
    let noted = thread?.pointee.note(reference) ?? false
    anp_leave()
    let result = anp_wait(OpaquePointer(word), expected, patience, UInt32(ANP_WAIT_RESTARTABLE))
    anp_enter()
    if noted, let thread, !thread.pointee.takeBack(reference) { return referenceLost }
    return -Int(result) == Errno.interrupted ? -Errno.interrupted : 0
  }

  /// Waits until the interface has its first lease, where traffic to or from `address` needs one. 0, -EINTR, `referenceLost`, or
  /// -ENETDOWN where none comes. It is waited for in vain once; later calls fail at once until one comes.
  static func awaitLease(_ description: DescriptionPointer, for address: IPAddress) -> Int {
    guard HostRuntime.lacksLease, address.isIPv4, !address.isLoopback, !address.isUnspecified else { return 0 }
    while true {
      anp_wait_prepare()
      guard HostRuntime.lacksLease else { return 0 }
      let patience = HostRuntime.patienceForLease()
      guard patience > 0 else { return -Errno.networkDown }
      let result = waitOutside(description, HostRuntime.leaseWord, HostRuntime.leaseAwaited, patience)
      if result != 0 { return result }
    }
  }

  /// By bind, or by having sent to loopback.
  private static func hasPlaceholderPort(_ description: DescriptionPointer) -> Bool {
    description.pointee.boundToEphemeral || description.pointee.hasKernelSide.load(ordering: .relaxed)
  }

  private static func open(_ description: DescriptionPointer, _ fd: Int32, _ shard: UnsafeMutablePointer<Shard>) -> Int
  {
    switch description.pointee.side {
    case .stack: return 0
    case .kernel: return passToKernel
    case .undecided: break
    }
    let now = shard.pointee.now()
    var handle = description.pointee.handle
    let result = kernelStyle { () throws(SocketError) -> Int in
      handle =
        description.pointee.kind == .stream
        ? try shard.pointee.stack.open(
          .stream, isIPv6: description.pointee.family == Family.inet6, cookie: description.pointee.cookie, now: now)
        : try shard.pointee.stack.openDatagram(
          description.pointee.datagramKind, proto: UInt8(truncatingIfNeeded: description.pointee.ipProtocol),
          isIPv6: description.pointee.family == Family.inet6, cookie: description.pointee.cookie, now: now)
      return 0
    }
    if result != 0 { return result }
    if description.pointee.datagramKind == .raw {
      Self.silence(fd)
      let filter = description.pointee.icmp6Filter
      _ = kernelStyle { () throws(SocketError) -> Int in
        try shard.pointee.stack.setFilter(handle, filter)
        return 0
      }
    }
    for option in DatagramOption.allCases {
      guard let value = description.pointee.recordedDatagram.value(option) else { continue }
      _ = kernelStyle { () throws(SocketError) -> Int in
        try shard.pointee.stack.setOption(handle, option, Int(value), now: now)
        return 0
      }
    }
    for option in SocketOption.allCases {
      guard let value = description.pointee.recorded.value(option) else { continue }
      // The placeholder has accepted the value; where the stack knows better, its default stays.
      _ = kernelStyle { () throws(SocketError) -> Int in
        try shard.pointee.stack.setOption(handle, option, Int(value), now: now)
        return 0
      }
    }
    var bound = 0
    if hasPlaceholderPort(description), !Spread.isNeeded(description) {
      bound = bindAsPlaceholder(
        handle, description.pointee.wildcard,
        description.pointee.ephemeralPort != 0 ? description.pointee.ephemeralPort : placeholderPort(fd), shard, now)
    }
    // Another thread may have decided meanwhile, with another shard's lock or none.
    anp_state_lock()
    let side = description.pointee.side
    let isMine = bound == 0 && side == .undecided
    if isMine {
      description.pointee.handle = handle
      description.pointee.setShard(shard)
      description.pointee.setSide(.stack)
      Epoll.placeLocked(description)
    }
    anp_state_unlock()
    if isMine { return 0 }
    shard.pointee.stack.setCookie(handle, 0)
    shard.pointee.stack.close(handle, now: now)
    return side == .kernel ? passToKernel : side == .stack ? 0 : bound
  }

  /// A raw placeholder would go on receiving the kernel's packets: a filter that takes none (SO_ATTACH_FILTER, `ret #0`).
  private static func silence(_ fd: Int32) {
    var instruction: (UInt16, UInt8, UInt8, UInt32) = (0x06, 0, 0, 0)
    withUnsafeMutableBytes(of: &instruction) { code in
      // struct sock_fprog
      var program = (UInt(1), UInt(bitPattern: code.baseAddress))
      _ = anp_kernel_setsockopt(fd, Level.socket, 26, &program, 16)
    }
  }

  /// The port that the placeholder got, because getsockname may have told it to the program; any other if that is taken.
  private static func bindAsPlaceholder(
    _ handle: SocketHandle, _ any: IPAddress, _ port: UInt16, _ shard: UnsafeMutablePointer<Shard>, _ now: Instant
  ) -> Int {
    let wanted = kernelStyle { () throws(SocketError) -> Int in
      try shard.pointee.stack.bind(handle, to: Endpoint(any, port), now: now)
      return 0
    }
    if wanted == 0 { return 0 }
    return kernelStyle { () throws(SocketError) -> Int in
      try shard.pointee.stack.bind(handle, to: Endpoint(any, 0), now: now)
      return 0
    }
  }

  static func placeholderPort(_ fd: Int32) -> UInt16 {
    var name = InlineArray<28, UInt8>(repeating: 0)
    var length: UInt32 = 28
    return withUnsafeMutableBytes(of: &name) { bytes -> UInt16 in
      guard let base = bytes.baseAddress, anp_kernel_getsockname(fd, base, &length) == 0 else { return 0 }
      return UnsafeRawPointer(base).bigEndian16(at: 2)
    }
  }

  /// Turns an undecided socket to the kernel for good. `passToKernel`.
  static func becomeKernel(_ description: DescriptionPointer) -> Int {
    if description.pointee.isStoodInFor { return -Errno.notPermitted }
    anp_state_lock()
    if description.pointee.side == .undecided {
      description.pointee.setSide(.kernel)
      Epoll.handToKernelLocked(description)
    }
    let side = description.pointee.side
    anp_state_unlock()
    // Another thread was faster, and the other way.
    if side == .stack { return -Errno.already }
    Wakes.everything(description)
    Wakes.afterUnlock()
    return passToKernel
  }
}
