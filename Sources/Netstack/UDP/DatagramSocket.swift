// Owns: UDP sockets: who holds which port, queues of received datagrams, the connected peer. Read first: RFC 768,
// RFC 1122 §4.1. Building and sending packets is `Stack/`'s.

import Wire

package struct DatagramSocketState: ~Copyable {
  let index: UInt32
  /// AF_INET6, which speaks to IPv4 too unless `onlyIPv6`.
  let isIPv6: Bool
  var onlyIPv6 = false
  var cookie: UInt32
  var local: Endpoint
  var remote: Endpoint?
  var isBound = false
  /// What bind was asked for; connect puts our address in its place until it is undone.
  var boundAddress: IPAddress
  var queue = PacketQueue()
  /// Memory of queued datagrams, bytes (truesize), and its limit (SO_RCVBUF).
  var queuedMemory = 0
  var receiveBuffer: Int
  var sendBuffer: Int
  var error: SocketError?
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
  var mtuDiscover = 1
  var receiveErrors = false
  var packetInfo = false
  var receiveTTL = false
  var receiveTOS = false
  var freeBind = false
  var linger = -1
  var receiveLowWater = 1
  var portNext: UInt32 = 0
  var isInPortTable = false
  var changedNext: UInt32 = 0
  var isInChangedList = false
  var events = Readiness(rawValue: 0)

  init(index: UInt32, isIPv6: Bool, cookie: UInt32, settings: borrowing Settings) {
    self.index = index
    self.isIPv6 = isIPv6
    boundAddress = isIPv6 ? .anyIPv6 : .anyIPv4
    local = Endpoint(boundAddress, 0)
    self.cookie = cookie
    receiveBuffer = settings.rmemDefault
    sendBuffer = settings.wmemDefault
  }

  /// Its family's wildcard.
  var anyAddress: IPAddress { isIPv6 ? .anyIPv6 : .anyIPv4 }

  var readiness: Readiness {
    var ready: Readiness = []
    if !queue.isEmpty || readShutdown { ready.formUnion(.readable) }
    if readShutdown { ready.formUnion(.readHangUp) }
    if readShutdown, writeShutdown { ready.formUnion(.hangUp) }
    if error != nil { ready.formUnion(.error) }
    // Sending never waits here: a datagram goes to the device at once.
    ready.formUnion([.writable, .writableBand])
    return ready
  }
}

typealias DatagramPointer = UnsafeMutablePointer<DatagramSocketState>

/// Local UDP ports: chains of sockets by port.
struct DatagramPorts: ~Copyable {
  private static var bucketCount: Int { 1024 }
  private var buckets: UnsafeMutablePointer<UInt32>

  init() {
    buckets = .allocate(capacity: Self.bucketCount)
    buckets.initialize(repeating: 0, count: Self.bucketCount)
  }

  deinit { buckets.deallocate() }

  mutating func hold(_ socket: DatagramPointer) {
    guard !socket.pointee.isInPortTable else { return }
    let bucket = Int(socket.pointee.local.port) & (Self.bucketCount - 1)
    socket.pointee.portNext = buckets[bucket]
    buckets[bucket] = socket.pointee.index + 1
    socket.pointee.isInPortTable = true
  }

  mutating func release(_ socket: DatagramPointer, in slab: borrowing Slab<DatagramSocketState>) {
    guard socket.pointee.isInPortTable else { return }
    socket.pointee.isInPortTable = false
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

  /// The socket a datagram from `source` to `destination` is for: the more of its ends match, the better (Linux's
  /// compute_score); connected sockets take only their peer's.
  func find(source: Endpoint, destination: Endpoint, in slab: borrowing Slab<DatagramSocketState>) -> DatagramPointer? {
    var best: DatagramPointer?
    var bestScore = -1
    var next = buckets[Int(destination.port) & (Self.bucketCount - 1)]
    while next != 0 {
      let socket = slab.pointer(at: next - 1)
      next = socket.pointee.portNext
      guard socket.pointee.local.port == destination.port else { continue }
      var score = 0
      let bound = socket.pointee.local.address
      guard bound.takes(destination.address, onlyIPv6: socket.pointee.onlyIPv6) else { continue }
      // A socket of the datagram's own family before one of AF_INET6 that takes both.
      if socket.pointee.isIPv6 != destination.address.isIPv4 { score += 1 }
      if !bound.isUnspecified { score += 2 }
      if let remote = socket.pointee.remote {
        guard remote == source else { continue }
        score += 4
      }
      if score > bestScore {
        best = socket
        bestScore = score
      }
    }
    return best
  }

  func conflicts(_ socket: DatagramPointer, _ local: Endpoint, in slab: borrowing Slab<DatagramSocketState>) -> Bool {
    var next = buckets[Int(local.port) & (Self.bucketCount - 1)]
    while next != 0 {
      let other = slab.pointer(at: next - 1)
      next = other.pointee.portNext
      guard other != socket, other.pointee.local.port == local.port else { continue }
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
