// Owns: the life of the process's stack: nothing until the first socket that needs it, then device, shard and thread, once;
// in a forked child, nothing again.

import CSupport
import Netstack
import Wire

/// What the layer above is told. Plain C functions: they are called on any thread.
package struct HostHooks {
  /// Under the shard's lock: the readiness of the socket with this cookie changed (Linux's EPOLL bits).
  package var readinessChanged: @convention(c) (UInt32, UInt32) -> Void
  /// After the lock was released, on the same thread: the time to wake up threads. Called at least once per unlock.
  package var afterUnlock: @convention(c) () -> Void

  package init(
    readinessChanged: @escaping @convention(c) (UInt32, UInt32) -> Void,
    afterUnlock: @escaping @convention(c) () -> Void
  ) {
    self.readinessChanged = readinessChanged
    self.afterUnlock = afterUnlock
  }
}

package enum HostRuntime {
  package static func setHooks(_ hooks: HostHooks) {
    anp_host().pointee.readiness_changed = hooks.readinessChanged
    anp_host().pointee.after_unlock = hooks.afterUnlock
  }

  /// The first of the running shards (they lie one behind the other); nil before start() succeeded. One load.
  @inline(__always)
  package static var shard: UnsafeMutablePointer<Shard>? {
    anp_load_pointer(&anp_host().pointee.shard)?.assumingMemoryBound(to: Shard.self)
  }

  /// The running stack's interface's, as the kernel counts; 0 while there is none.
  package static var interfaceIndex: UInt32 { shard?.pointee.device.index ?? 0 }

  /// The stack has been running for no more than a second: what it asked for at its start may still be answered.
  package static var hasJustBegun: Bool {
    guard let shard else { return false }
    return MonotonicClock.now < shard.pointee.started + .seconds(1)
  }

  /// What the environment says, read at first use.
  package static var configuration: HostConfiguration {
    unsafeAddress {
      if let known = anp_load_pointer(&anp_host().pointee.configuration) {
        return UnsafePointer(known.assumingMemoryBound(to: HostConfiguration.self))
      }
      anp_lock(&anp_host().pointee.start_lock)
      let made = configurationLocked()
      anp_unlock(&anp_host().pointee.start_lock)
      return made
    }
  }

  private static func configurationLocked() -> UnsafePointer<HostConfiguration> {
    if let known = anp_load_pointer(&anp_host().pointee.configuration) {
      return UnsafePointer(known.assumingMemoryBound(to: HostConfiguration.self))
    }
    let made = UnsafeMutablePointer<HostConfiguration>.allocate(capacity: 1)
    made.initialize(to: HostConfiguration { anp_setting($0.pointer) })
    anp_store_pointer(&anp_host().pointee.configuration, made)
    return UnsafePointer(made)
  }

  /// Starts the stack if it does not run yet. Any thread, any number of times; prints why it cannot, once.
  package static func start() -> HostStartError? {
    if shard != nil { return nil }
    anp_lock(&anp_host().pointee.start_lock)
    defer { anp_unlock(&anp_host().pointee.start_lock) }
    if shard != nil { return nil }
    return startLocked()
  }

  private static func startLocked() -> HostStartError? {
    let configuration = configurationLocked()
    if let error = configuration.pointee.error {
      explain(.badConfiguration) { error.explain(to: &$0) }
      return .badConfiguration
    }
    let forked = anp_host().pointee.forked != 0
    var failure = DeviceError(step: .find, code: ENODEV)
    var failedLink = 0
    // A program that ended a moment ago may still be sending its last data through its keeper.
    var patience = forked ? 0 : 250
    while true {
      var onlyBusy = true
      for i in 0..<configuration.pointee.linkCount {
        let link = configuration.pointee.link(i)
        do {
          let queues = try TAPDevice.attach(
            link.device, queues: configuration.pointee.queues, wantedMTU: configuration.pointee.mtu,
            offloads: configuration.pointee.offloads)
          return run(queues, i, configuration)
        } catch {
          if onlyBusy {
            failure = error
            failedLink = i
          }
          if error.kind != .busy { onlyBusy = false }
        }
      }
      guard onlyBusy, patience > 0 else { break }
      patience -= 1
      anp_sleep(10_000_000)
    }
    explain(failure.kind) {
      failure.explain(configuration.pointee.link(failedLink).device, forked: forked, to: &$0)
    }
    return failure.kind
  }

  private static func explain(_ kind: HostStartError, _ body: (inout TextBuffer) -> Void) {
    guard anp_host().pointee.printed_error != kind.rawValue else { return }
    anp_host().pointee.printed_error = kind.rawValue
    report(body)
  }

  private static func run(
    _ queues: TAPDevice.Queues, _ linkNumber: Int, _ configuration: UnsafePointer<HostConfiguration>
  ) -> HostStartError? {
    let device = queues.first
    let link = configuration.pointee.link(linkNumber)
    if link.usesDHCP, device.capabilities.linkType != .ethernet {
      return Self.giveUp(queues, "ANP_ADDR=dhcp needs a TAP device; a TUN device has no Ethernet for DHCP")
    }
    guard let seed = Entropy.word(), let k0 = Entropy.word(), let k1 = Entropy.word() else {
      return Self.giveUp(queues, "getrandom is refused: no secret to start with")
    }
    // A child adds a section to its parent's capture instead of wiping it out.
    let forked = anp_host().pointee.forked != 0
    let log = OutputFile.open(configuration.pointee.log, "ANP_LOG", fresh: false)
    let capture = OutputFile.open(configuration.pointee.capture, "ANP_PCAP", fresh: !forked)
    let statistics = OutputFile.open(configuration.pointee.statistics, "ANP_STATS", fresh: false)
    guard let log, let capture, let statistics else {
      // Said already. Closing -1 does no harm.
      anp_close(log ?? -1)
      anp_close(capture ?? -1)
      anp_close(statistics ?? -1)
      queues.close()
      return .badConfiguration
    }
    var timers = InlineArray<8, Int32>(repeating: -1)
    func giveUp(_ why: StaticString) -> HostStartError {
      for i in timers.indices { anp_close(timers[i]) }
      anp_close(log)
      anp_close(capture)
      anp_close(statistics)
      return Self.giveUp(queues, why)
    }
    for i in 0..<queues.count {
      timers[i] = anp_timer_make()
      guard timers[i] >= 0 else { return giveUp("no descriptor left for the timer") }
    }

    var wanted = StackConfiguration()
    wanted.device = device.capabilities
    wanted.address = .any
    for i in 0..<link.addresses.count {
      let address = link.addresses[i]
      _ = wanted.moreAddresses.add(
        InterfaceAddress(address.address, prefixLength: address.prefixLength, state: .preferred, origin: .configured))
    }
    if !link.usesDHCP { wanted.gateway = gateway(device.capabilities.hostAddress, link, configuration.pointee.gateway) }
    wanted.setAddresses6(
      link, gateway: configuration.pointee.gateway6, host: DeviceHostAddresses(interface: device.index))
    wanted.loopback = configuration.pointee.loopbackInStack
    wanted.secret = HashKey(k0, k1)
    wanted.timestampSecret = Entropy.bootSecret()
    wanted.stackCount = queues.count
    wanted.settings.tcpAutocorkingTime = .microseconds(configuration.pointee.transmitCoalesce)
    let now = MonotonicClock.now
    var drops: UInt64 = 0
    if statistics >= 0 { drops = ExitStatistics.queueDrops(link.device) ?? 0 }
    let recording = Capture(descriptor: capture, interface: link.device, linkType: device.capabilities.linkType)
    let shards = UnsafeMutablePointer<Shard>.allocate(capacity: queues.count)
    let gate = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
    gate.initialize(to: 0)
    if queues.count > 1 {
      wanted.rawProtocolSet = .allocate(capacity: 1)
      wanted.rawProtocolSet?.initialize(to: RawProtocolSet())
    }
    for i in 0..<queues.count {
      wanted.stackIndex = i
      wanted.seed = seed &+ UInt64(i)
      let stack = UnsafeMutablePointer<Stack>.allocate(capacity: 1)
      stack.initialize(to: Stack(wanted, now: now))
      stack.pointee.trace.filter = configuration.pointee.filter
      ConfiguredRoutes.add(configuration.pointee, linkNumber, to: &stack.pointee)
      Shard.make(
        at: shards + i,
        ShardParts(
          index: i, gate: gate, stack: stack, device: queues[i], deviceName: link.device, timer: timers[i],
          ringSize: configuration.pointee.receiveRing, budget: configuration.pointee.budget,
          busyPoll: configuration.pointee.busyPoll, offloads: configuration.pointee.offloads,
          coalesce: configuration.pointee.coalesce, joinsWrites: configuration.pointee.transmitCoalesce > 0,
          log: Log(descriptor: log, started: now), capture: recording,
          statisticsOutput: statistics, queueDropsAtStart: drops, started: now))
    }
    if shards.pointee.stack.trace.allows(.device, .info) {
      shards.pointee.work.log.begin(device, named: link.device, wanted)
    }

    anp_host().pointee.shard_count = UInt32(queues.count)
    if link.usesDHCP { Leases.begin(shards, link.device, linkNumber, configuration.pointee.gateway, now) }
    for i in 0..<queues.count {
      let shard = shards + i
      shard.pointee.lock()
      shard.pointee.work.receiver.refill(from: &shard.pointee.stack)
      // The announcement of our address goes out here.
      shard.pointee.unlock()
    }
    for i in 0..<queues.count where RxThread.start(shards + i) != 0 {
      anp_store_word(gate, 2)
      return giveUp("no thread can be started")
    }
    anp_store_pointer(&anp_host().pointee.shard, shards)
    // From here on frames come in, and may be another shard's.
    anp_store_word(gate, 1)
    KeeperDrain.start()
    anp_host().pointee.printed_error = 0
    return nil
  }

  private static func giveUp(_ queues: TAPDevice.Queues, _ why: StaticString) -> HostStartError {
    queues.close()
    explain(.system) { $0.append(why) }
    return .system
  }

  /// ANP_GATEWAY where it is on this link; else the host's own address on the device; else the address that tap.sh gives the
  /// host's side; else none: only neighbours can be reached.
  private static func gateway(_ host: IPv4Address?, _ link: LinkConfiguration, _ wanted: IPv4Address?) -> IPv4Address? {
    let candidates: InlineArray<3, IPv4Address?> = [wanted, host, IPv4Address(198, 18, 0, 5)]
    for i in candidates.indices {
      if let candidate = candidates[i], link.addresses.reaches(IPAddress(candidate)) { return candidate }
    }
    return nil
  }

  /// Whether a stack on this device would begin with a gateway for IPv4; it need not run.
  package static func willHaveGateway(_ link: LinkConfiguration) -> Bool {
    let asking = anp_interface_socket()
    defer { if asking >= 0 { anp_close(asking) } }
    let host = asking >= 0 ? anp_interface_address(asking, link.device) : 0
    return gateway(host != 0 ? IPv4Address(bits: host) : nil, link, configuration.gateway) != nil
  }

  /// In a child made by fork: the parent's stack stays the parent's. Its descriptors are closed, its memory is left alone
  /// (another thread may have been in the middle of changing it), and start() begins anew: with the next device of ANP_TAP
  /// that is free, as two stacks on one TAP would be dealt each other's frames.
  package static func forkChild() {
    let host = anp_host()!
    anp_forget_thread_id()
    host.pointee.start_lock = 0
    host.pointee.printed_error = 0
    host.pointee.statistics_printed = 0
    host.pointee.reported_device_error = 0
    host.pointee.lease_lock = 0
    host.pointee.lease_state = UInt32(ANP_LEASE_SETTLED)
    guard let shard else { return }
    host.pointee.forked = 1
    let count = shardCount
    anp_store_pointer(&host.pointee.shard, nil)
    // Closing -1 does no harm, nor does closing the log once for each shard: no other thread is here.
    for i in 0..<count {
      let numbers = shard[i].descriptors
      for number in numbers.indices { anp_close(numbers[number]) }
    }
  }

  // MARK: Descriptors of ours among the program's

  /// The descriptors that the running stack uses.
  package static func eachDescriptor(_ body: (Int32) -> Void) {
    for i in 0..<shardCount {
      let shard = self.shard(at: i)
      anp_lock(shard.pointee.lockWord)
      let numbers = shard.pointee.descriptors
      anp_unlock(shard.pointee.lockWord)
      for number in numbers.indices where numbers[number] >= 0 { body(numbers[number]) }
    }
  }

  /// True for a descriptor number that the stack uses itself. A close of it by the program (a daemon closing everything) is to
  /// be swallowed, a dup2 onto it to be preceded by moveDescriptor.
  package static func ownsDescriptor(_ number: Int32) -> Bool {
    var owns = false
    eachDescriptor { owns = owns || $0 == number }
    return owns
  }

  /// Gives the stack's descriptor another number; false where none is free. The old number stays open for the caller to
  /// replace (dup2) or close.
  package static func moveDescriptor(_ number: Int32) -> Bool {
    guard shard != nil else { return true }
    let copy = anp_duplicate_descriptor(number)
    guard copy >= 0 else { return false }
    for i in 0..<shardCount { shard(at: i).pointee.replaceDescriptor(number, by: copy) }
    return true
  }
}
