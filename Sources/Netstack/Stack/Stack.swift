// Owns: the stack as a whole: one value that composes link, IP, UDP and TCP. This is the surface that the shells use
// (preload, simulator, conformance adapter). No clock, no device, no thread, no libc: time comes in as `now`, frames come in
// through `receive` and go out through `nextTransmit`, randomness is configuration.
//
// A shell holds the stack exclusively for each call (the preload: a shard's lock). Its loop is
//
//   receive(frame)*  finishBatch()  |  a socket command  |  advance(to:)
//     then  nextTransmit() … transmitted()   until nil     frames to the device
//           nextChanged()                    until nil     sockets whose readiness changed
//           nextTraceEvent()                 until nil     what to log
//           nextDeadline()                                 when to call advance(to:) next
//           takeStrays() … receiveStray()                  where several stacks share an address (Stack+Steering.swift)
//           hasLeaseNews, takeLeaseNews()                  where the address is leased (Stack+DHCP.swift)

import Wire

/// What the device under the stack can do.
package struct DeviceCapabilities: Sendable {
  package enum LinkType: Sendable { case ethernet, ip }
  package var linkType = LinkType.ethernet
  package var hardwareAddress = MACAddress(bits: 0x02_00_00_00_00_01)
  /// Largest IP packet, bytes.
  package var mtu = 1500
  /// The device completes partial transport checksums.
  package var checksumOffload = false
  /// The device takes TCP super-frames for IPv4 / IPv6.
  package var tcpSegmentation4 = false
  package var tcpSegmentation6 = false
  /// The device takes UDP super-frames (USO).
  package var udpSegmentation = false
  /// Its number, as if_nametoindex tells it.
  package var interfaceIndex = 1
  /// The address at the device's other end: what is sent there is at its destination, uncut.
  package var hostAddress: IPv4Address?
  package var hostAddresses6 = InlineArray<4, IPAddress?>(repeating: nil)
  /// Largest packet of a super-frame to a host address, bytes (Linux's gso_max_size). Over 65,535 bytes its header says 0 for a
  /// length, and IPv6's tells it in a jumbo payload option ("BIG TCP").
  package var largestSuperPacket = 65535
  package init() {}

  /// Whether packets to `address` are at their destination behind the device.
  @inline(__always)
  func isHost(_ address: IPAddress) -> Bool {
    if address.isIPv4 { return hostAddress == address.v4 }
    for i in hostAddresses6.indices where hostAddresses6[i] == address { return true }
    return false
  }
}

package struct StackConfiguration: Sendable {
  package var device = DeviceCapabilities()
  /// The first IPv4 address; .any for none.
  package var address = IPv4Address(198, 18, 0, 4)
  package var prefixLength = 24
  /// Further addresses, of either family.
  package var moreAddresses = InterfaceAddresses()
  package var gateway: IPv4Address?
  package var gateway6: IPAddress?
  /// IPv6 is spoken: the interface gets a link-local address, asks for routers, and configures itself as they advertise.
  package var ipv6 = false
  /// Addresses are made of the prefixes that routers advertise.
  package var autoconfiguresIPv6 = true
  /// 127.0.0.0/8 and ::1 are this stack's own, too (Linux's `lo`).
  package var loopback = false
  package var settings = Settings()
  package var secret = HashKey(0, 0)
  /// Shifts the timestamps clock (RFC 7323 §7.1). The same in all stacks that share an address and a clock, so that a connection
  /// is newer than one in TIME-WAIT that an earlier process left at the peer; nil takes `secret`.
  package var timestampSecret: HashKey?
  package var seed: UInt64 = 0
  /// Which of `stackCount` stacks with the same address, hardware address and `secret` this one is (Steering).
  package var stackIndex = 0
  package var stackCount = 1
  /// Shared by all of them, for as long as one of them lives; nil where there is one only.
  nonisolated(unsafe) package var rawProtocolSet: RawProtocolSetPointer?
  package init() {}
}

package struct Stack: ~Copyable {
  /// Shared by all layers; at a fixed address.
  let environment: EnvironmentPointer
  package let device: DeviceCapabilities
  /// Super-segments of more than 64 KB go out from then on.
  var bigPacketsFrom = Instant.zero
  /// The interface's addresses, of both families.
  package internal(set) var addresses = InterfaceAddresses()
  let timestampSecret: HashKey
  package let steering: Steering
  /// Packets for other stacks that share the address.
  var strays = PacketQueue()

  // Link and IP
  var neighbors: NeighborTable
  var neighborTimer: TimerID
  var defense = AddressDefense()
  var routes = RouteTable()
  var reassembly: Reassembly
  var reassemblyTimer: TimerID
  var icmpLimiter: ICMPRateLimiter
  var nextIdentification: UInt16
  /// IPv6: what routers have advertised, and what is due to be asked or to expire.
  package internal(set) var routers = RouterDiscovery()
  var isIPv6On = false
  let isLoopbackOn: Bool
  let autoconfiguresIPv6: Bool
  /// An address that was not configured by a person is still optimistic.
  var isDetecting = false
  var configuredGateway6: IPAddress?
  /// The DHCP client, where there is one (Stack+DHCP.swift).
  var dhcp: UnsafeMutablePointer<DHCPService>?
  /// The lease whose address the interface has.
  package internal(set) var lease: DHCPLease?
  /// `lease` has changed since the shell took it.
  package internal(set) var hasLeaseNews = false
  var interfaceTimer: TimerID

  // TCP
  var tcbs: TCBSlab
  var demux: Demux
  var timeWaits: TimeWaitTable
  /// Connections with something to send, first come first served (index + 1).
  var workFirst: UInt32 = 0
  var workLast: UInt32 = 0
  var changedStreams: UInt32 = 0

  // Datagrams
  var datagrams: Slab<DatagramSocketState>
  var datagramPorts = DatagramPorts()
  var pingIdentifiers = DatagramPorts()
  var rawProtocols = DatagramPorts()
  let rawProtocolSet: RawProtocolSetPointer?
  var changedDatagrams: UInt32 = 0

  // Multicast
  var multicast = MulticastGroups()
  var multicastTimer: TimerID
  /// A router speaks IGMPv2: so do we (RFC 3376 §7.2.1).
  var igmpVersion2Until = Instant.zero

  /// Frames for the device.
  var transmitQueue = PacketQueue()
  /// Packets to our own address, on their way back in.
  var loopbackQueue = PacketQueue()
  private let inMemory = InMemory()

  package init(_ configuration: StackConfiguration, now: Instant) {
    let env = EnvironmentPointer.allocate(capacity: 1)
    env.initialize(
      to: Environment(
        settings: configuration.settings, secret: configuration.secret, seed: configuration.seed, now: now))
    environment = env
    device = configuration.device
    rawProtocolSet = configuration.rawProtocolSet
    timestampSecret = configuration.timestampSecret ?? configuration.secret
    isLoopbackOn = configuration.loopback
    autoconfiguresIPv6 = configuration.autoconfiguresIPv6
    steering = Steering(
      index: configuration.stackIndex, count: configuration.stackCount, key: Self.key(3, of: configuration.secret))
    neighbors = NeighborTable(seed: configuration.seed, now: now)
    neighborTimer = env.pointee.wheel.allocate(kind: TimerKind.neighbor, owner: 0)
    reassembly = Reassembly(key: configuration.secret)
    reassemblyTimer = env.pointee.wheel.allocate(kind: TimerKind.reassembly, owner: 0)
    interfaceTimer = env.pointee.wheel.allocate(kind: TimerKind.interface, owner: 0)
    multicastTimer = env.pointee.wheel.allocate(kind: TimerKind.multicast, owner: 0)
    icmpLimiter = ICMPRateLimiter(key: configuration.secret, seed: configuration.seed, now: now)
    nextIdentification = UInt16(truncatingIfNeeded: env.pointee.random.next())
    let maximum = configuration.settings.maximumConnections
    tcbs = Slab(maximum: maximum)
    demux = Demux(key: configuration.stackCount > 1 ? Self.key(3, of: configuration.secret) : configuration.secret)
    timeWaits = TimeWaitTable(key: configuration.secret, maximum: configuration.settings.tcpMaxTimeWaitBuckets)
    datagrams = Slab(maximum: maximum)
    if isLoopbackOn { addLoopback() }
    if configuration.address != .any {
      addAddress(
        InterfaceAddress(
          IPAddress(configuration.address), prefixLength: configuration.prefixLength, state: .preferred,
          origin: .configured))
    }
    for i in 0..<configuration.moreAddresses.count { addAddress(configuration.moreAddresses[i]) }
    if let gateway = configuration.gateway {
      setGateway(IPAddress(gateway), source: IPAddress(addresses.ipv4))
    }
    if configuration.ipv6 { beginIPv6(configuration.gateway6) }
  }

  deinit {
    dhcp?.pointee.free()
    dhcp?.deallocate()
    environment.deinitialize(count: 1)
    environment.deallocate()
  }

  package var settings: Settings {
    _read { yield environment.pointee.settings }
    nonmutating _modify { yield &environment.pointee.settings }
  }

  package var statistics: Statistics {
    _read { yield environment.pointee.statistics }
    nonmutating _modify { yield &environment.pointee.statistics }
  }

  package var trace: TraceLog {
    _read { yield environment.pointee.trace }
    nonmutating _modify { yield &environment.pointee.trace }
  }

  package func count(_ counter: Counter, _ n: Int = 1) { environment.pointee.statistics.count(counter, n) }

  package mutating func nextTraceEvent() -> TraceEvent? { environment.pointee.trace.next() }

  // MARK: What a batch leaves to do

  /// Sends what the connections touched since the last call want to send, and takes in what that sent to ourselves.
  mutating func flush() {
    while true {
      flushWork()
      guard let packet = loopbackQueue.removeFirst() else { return }
      if packet.readable[0] >> 4 == 6 {
        receiveIPv6(packet, wasLinkBroadcast: false, overheard: false)
      } else {
        receiveIPv4(packet, wasLinkBroadcast: false)
      }
    }
  }

  /// The next socket whose readiness changed, with what is new about it.
  package mutating func nextChanged() -> (handle: SocketHandle, cookie: UInt32, events: Readiness)? {
    while changedStreams != 0 {
      let tcb = tcbs.pointer(at: changedStreams - 1)
      changedStreams = tcb.pointee.changedNext
      tcb.pointee.isInChangedList = false
      let events = tcb.pointee.events
      tcb.pointee.events = []
      if tcb.pointee.isOpen {
        return (SocketHandle(.stream, tcbs.handle(at: tcb.pointee.index)), tcb.pointee.cookie, events)
      }
      releaseIfOver(tcb)
    }
    while changedDatagrams != 0 {
      let socket = datagrams.pointer(at: changedDatagrams - 1)
      changedDatagrams = socket.pointee.changedNext
      socket.pointee.isInChangedList = false
      let events = socket.pointee.events
      socket.pointee.events = []
      return (SocketHandle(.datagram, datagrams.handle(at: socket.pointee.index)), socket.pointee.cookie, events)
    }
    return nil
  }

  mutating func noteChanged(_ tcb: TCBPointer) {
    guard tcb.pointee.events.rawValue != 0, !tcb.pointee.isInChangedList else { return }
    tcb.pointee.isInChangedList = true
    tcb.pointee.changedNext = changedStreams
    changedStreams = tcb.pointee.index + 1
  }

  mutating func noteChanged(_ socket: DatagramPointer, _ events: Readiness) {
    socket.pointee.events.formUnion(events)
    guard !socket.pointee.isInChangedList else { return }
    socket.pointee.isInChangedList = true
    socket.pointee.changedNext = changedDatagrams
    changedDatagrams = socket.pointee.index + 1
  }

  mutating func noteWork(_ tcb: TCBPointer) {
    guard tcb.pointee.work.rawValue != 0 || tcb.pointee.duplicateAcksOwed > 0, !tcb.pointee.isInWorkList else { return }
    tcb.pointee.isInWorkList = true
    tcb.pointee.workNext = 0
    if workLast != 0 { tcbs.pointer(at: workLast - 1).pointee.workNext = tcb.pointee.index + 1 }
    workLast = tcb.pointee.index + 1
    if workFirst == 0 { workFirst = workLast }
  }

  private mutating func flushWork() {
    while workFirst != 0 {
      let tcb = tcbs.pointer(at: workFirst - 1)
      workFirst = tcb.pointee.workNext
      if workFirst == 0 { workLast = 0 }
      tcb.pointee.isInWorkList = false
      transmit(tcb)
      noteChanged(tcb)
      releaseIfOver(tcb)
    }
  }

  /// For tests: packet buffers and sockets (TIME-WAIT included) that are still out.
  package func leakReport() -> (packets: Int, sockets: Int) {
    (environment.pointee.pool.outstanding, tcbs.count + datagrams.count + timeWaits.count)
  }
}
