// Owns: datagram sockets: UDP's, those for ICMP echoes ("ping sockets"), and raw ones: who holds which port, queues of received
// datagrams and of errors, the connected peer. Read first: RFC 768, RFC 1122 §4.1; udp(7), icmp(7), raw(7). Building and sending
// packets is `Stack/`'s.
//
//   kind   `local.port`                            table
//   udp    the port                                datagramPorts
//   ping   the identifier of its echo requests     pingIdentifiers
//   raw    the IP protocol                         rawProtocols

import Wire

package struct DatagramSocketState: ~Copyable {
  private let inMemory = InMemory()
  let index: UInt32
  let kind: DatagramKind
  /// AF_INET6, which speaks to IPv4 too unless `onlyIPv6`, which ping and raw sockets always are.
  let isIPv6: Bool
  var onlyIPv6 = false
  var cookie: UInt32
  var local: Endpoint
  var remote: Endpoint?
  var isBound = false
  /// What bind was asked for; connect puts our address in its place until it is undone.
  var boundAddress: IPAddress
  var queue = PacketQueue()
  /// What MSG_ERRQUEUE reads (ErrorQueue.swift).
  var errors = PacketQueue()
  /// Memory of both queues, bytes, and its limit (SO_RCVBUF).
  var queuedMemory = 0
  var receiveBuffer: Int
  var sendBuffer: Int
  var error: SocketError?
  /// Datagrams that found no room (SO_RXQ_OVFL).
  var drops: UInt32 = 0
  var readShutdown = false
  var writeShutdown = false
  var reuseAddress = false
  var reusePort = false
  var broadcast = false
  var typeOfService: UInt8 = 0
  var timeToLive = 0
  /// IPV6_TCLASS, IPV6_UNICAST_HOPS (0 = the default)
  var trafficClass: UInt8 = 0
  var hopLimit = 0
  /// IP_MTU_DISCOVER, IPV6_MTU_DISCOVER: 0 DONT, 1 WANT, 2 DO, 3 PROBE, 4 INTERFACE, 5 OMIT
  var mtuDiscover = 1
  /// IP_RECVERR
  var receiveErrors = false
  /// What recvmsg's control data are to tell.
  var controls: DatagramControls = []
  var freeBind = false
  /// SO_NO_CHECK
  var withoutChecksum = false
  var linger = -1
  var receiveLowWater = 1

  // Sending in pieces and in many
  /// UDP_CORK
  var isCorked = false
  /// What is being put together, where there is something.
  var pending: UnsafeMutablePointer<PendingDatagram>?
  /// UDP_SEGMENT: payload of each datagram that a call is cut into, bytes; 0 = off.
  var segmentSize = 0

  /// Frames on their way to the device that point into the program's memory.
  var lentFrames = 0

  // Multicast (IP/Multicast.swift)
  var multicastTimeToLive = 1
  /// IPV6_MULTICAST_HOPS
  var multicastHops = 1
  var multicastLoop = true
  /// IP_MULTICAST_ALL: also what other sockets have joined.
  var multicastAll = true
  var memberships: UnsafeMutablePointer<MulticastMembership>?
  var membershipCount = 0

  // Raw sockets
  /// IP_HDRINCL, IPV6_HDRINCL
  var includesHeader = false
  /// ICMP_FILTER: bit n set = type n is not for us.
  var icmpFilter: UInt32 = 0
  /// ICMP6_FILTER
  var icmp6Filter = ICMP6Filter()
  /// IPV6_CHECKSUM: where in a packet we make and check a checksum; below 0 = nowhere.
  var checksumOffset = -1

  var portNext: UInt32 = 0
  var isInPortTable = false
  var changedNext: UInt32 = 0
  var isInChangedList = false
  var events = Readiness(rawValue: 0)

  init(index: UInt32, kind: DatagramKind, isIPv6: Bool, cookie: UInt32, settings: borrowing Settings) {
    self.index = index
    self.kind = kind
    self.isIPv6 = isIPv6
    boundAddress = isIPv6 ? .anyIPv6 : .anyIPv4
    local = Endpoint(boundAddress, 0)
    self.cookie = cookie
    receiveBuffer = settings.rmemDefault
    sendBuffer = settings.wmemDefault
  }

  /// IP_PMTUDISC_DO, _PROBE and _INTERFACE: what is too large is refused (ip_sk_ignore_df).
  var cutsNothing: Bool { (2...4).contains(mtuDiscover) }

  /// Its family's wildcard.
  var anyAddress: IPAddress { isIPv6 ? .anyIPv6 : .anyIPv4 }

  var readiness: Readiness {
    var ready: Readiness = []
    if !queue.isEmpty || readShutdown { ready.formUnion(.readable) }
    if readShutdown { ready.formUnion(.readHangUp) }
    if readShutdown, writeShutdown { ready.formUnion(.hangUp) }
    if error != nil || !errors.isEmpty { ready.formUnion(.error) }
    // Sending never waits here: a datagram goes to the device at once.
    ready.formUnion([.writable, .writableBand])
    return ready
  }

  /// Bytes that the next receive gives: of a super-frame, one segment, unless the socket takes it whole (UDP_GRO).
  var nextLength: Int {
    guard let packet = queue.first else { return 0 }
    return Self.length(of: packet, isWhole: controls.contains(.segmentSize))
  }

  @inline(__always)
  static func length(of packet: PacketBuffer, isWhole: Bool) -> Int {
    let count = packet.count
    let segment = Int(packet.storage.pointee.segmentSize)
    return segment == 0 || isWhole ? count : min(count, segment)
  }
}

typealias DatagramPointer = UnsafeMutablePointer<DatagramSocketState>

/// A datagram that is put together from several calls (MSG_MORE, UDP_CORK): the first one says where it goes and how.
struct PendingDatagram {
  let memory: UnsafeMutableRawPointer
  var length: Int
  var message: DatagramMessage
}

/// Local ports: chains of sockets by port.
struct DatagramPorts: ~Copyable {
  private static var bucketCount: Int { 1024 }
  private var buckets: UnsafeMutablePointer<UInt32>
  private(set) var count = 0

  init() {
    buckets = .allocate(capacity: Self.bucketCount)
    buckets.initialize(repeating: 0, count: Self.bucketCount)
  }

  deinit { buckets.deallocate() }

  /// Which of the sockets that share a port a datagram is for (SO_REUSEPORT).
  struct Choice {
    var key: HashKey
    var source: Endpoint
    var destination: Endpoint

    func among(_ n: Int) -> Int {
      var hash = SipHash(key)
      hash.add(source.address.high)
      hash.add(source.address.low)
      hash.add(destination.address.high)
      hash.add(destination.address.low)
      hash.add(UInt64(source.port) << 16 | UInt64(destination.port))
      // The high half times n: no division (reciprocal_scale).
      return Int(((hash.finish() >> 32) &* UInt64(n)) >> 32)
    }
  }

  mutating func hold(_ socket: DatagramPointer) {
    guard !socket.pointee.isInPortTable else { return }
    let bucket = Int(socket.pointee.local.port) & (Self.bucketCount - 1)
    socket.pointee.portNext = buckets[bucket]
    buckets[bucket] = socket.pointee.index + 1
    socket.pointee.isInPortTable = true
    count += 1
  }

  mutating func release(_ socket: DatagramPointer, in slab: borrowing Slab<DatagramSocketState>) {
    guard socket.pointee.isInPortTable else { return }
    socket.pointee.isInPortTable = false
    count -= 1
    let bucket = Int(socket.pointee.local.port) & (Self.bucketCount - 1)
    let me = socket.pointee.index + 1
    if buckets[bucket] == me {
      buckets[bucket] = socket.pointee.portNext
    } else {
      var next = buckets[bucket]
      while next != 0 {
        let other = slab.pointer(at: next - 1)
        if other.pointee.portNext == me {
          other.pointee.portNext = socket.pointee.portNext
          break
        }
        next = other.pointee.portNext
      }
    }
    socket.pointee.portNext = 0
  }

  /// The next socket with that port, the newest first; `previous` is nil at first.
  @inline(__always)
  func next(
    after previous: DatagramPointer?, port: UInt16, in slab: borrowing Slab<DatagramSocketState>
  ) -> DatagramPointer? {
    var next = previous?.pointee.portNext ?? buckets[Int(port) & (Self.bucketCount - 1)]
    while next != 0 {
      let socket = slab.pointer(at: next - 1)
      if socket.pointee.local.port == port { return socket }
      next = socket.pointee.portNext
    }
    return nil
  }

  /// How well a socket fits; -1 = it does not (Linux's compute_score).
  @inline(__always)
  private static func score(_ socket: DatagramPointer, _ source: Endpoint, _ destination: Endpoint) -> Int {
    let bound = socket.pointee.local.address
    guard bound.takes(destination.address, onlyIPv6: socket.pointee.onlyIPv6) else { return -1 }
    // A socket of the datagram's own family before one of AF_INET6 that takes both.
    var score = socket.pointee.isIPv6 != destination.address.isIPv4 ? 1 : 0
    if !bound.isUnspecified { score += 2 }
    if let remote = socket.pointee.remote {
      guard remote == source else { return -1 }
      score += 4
    }
    return score
  }

  /// The socket a datagram from `source` to `destination` is for: the more of its ends match, the better; connected sockets take
  /// only their peer's. Of several in a SO_REUSEPORT group `choice` tells which one.
  func find(
    source: Endpoint, destination: Endpoint, key: HashKey, in slab: borrowing Slab<DatagramSocketState>
  ) -> DatagramPointer? {
    var best: DatagramPointer?
    var bestScore = -1
    var equals = 0
    var socket = next(after: nil, port: destination.port, in: slab)
    while let candidate = socket {
      let score = Self.score(candidate, source, destination)
      if score > bestScore {
        best = candidate
        bestScore = score
        equals = 1
      } else if score == bestScore, score >= 0 {
        equals += 1
      }
      socket = next(after: candidate, port: destination.port, in: slab)
    }
    guard equals > 1, let best, best.pointee.reusePort, best.pointee.remote == nil else { return best }
    return chosen(best, bestScore, Choice(key: key, source: source, destination: destination), in: slab)
  }

  @inline(never)
  private func chosen(
    _ best: DatagramPointer, _ score: Int, _ choice: Choice, in slab: borrowing Slab<DatagramSocketState>
  ) -> DatagramPointer {
    let port = choice.destination.port
    var members = 0
    var socket: DatagramPointer? = best
    while let candidate = socket {
      if candidate.pointee.reusePort, Self.score(candidate, choice.source, choice.destination) == score { members += 1 }
      socket = next(after: candidate, port: port, in: slab)
    }
    var left = choice.among(members)
    socket = best
    while let candidate = socket {
      if candidate.pointee.reusePort, Self.score(candidate, choice.source, choice.destination) == score {
        if left == 0 { return candidate }
        left -= 1
      }
      socket = next(after: candidate, port: port, in: slab)
    }
    return best
  }

  func conflicts(_ socket: DatagramPointer, _ local: Endpoint, in slab: borrowing Slab<DatagramSocketState>) -> Bool {
    var next = next(after: nil, port: local.port, in: slab)
    while let other = next {
      next = self.next(after: other, port: local.port, in: slab)
      guard other != socket else { continue }
      guard
        local.address.overlaps(
          other.pointee.local.address, onlyIPv6: socket.pointee.onlyIPv6, otherOnlyIPv6: other.pointee.onlyIPv6)
      else { continue }
      if socket.pointee.reuseAddress, other.pointee.reuseAddress { continue }
      if socket.pointee.reusePort, other.pointee.reusePort { continue }
      return true
    }
    return false
  }
}
