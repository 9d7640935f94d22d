// Owns: finding the connection or listener a segment is for, and who holds which local port. Three tables over the slab of
// TCBs, linked through the records themselves; hashes are keyed, so that nobody outside can choose collisions.
// Read first: RFC 9293 §3.3.1 (socket pairs); bind(2) and socket(7) on SO_REUSEADDR and SO_REUSEPORT.

import Wire

package typealias TCBSlab = Slab<TransmissionControlBlock>

extension FourTuple {
  /// A keyed hash of both ends.
  @inline(__always)
  func hash(_ key: HashKey) -> UInt64 {
    var sip = SipHash(key)
    if local.address.isIPv4, remote.address.isIPv4 {
      sip.add(local.address.low << 32 | remote.address.low & 0xffff_ffff)
    } else {
      sip.add(local.address.high)
      sip.add(local.address.low)
      sip.add(remote.address.high)
      sip.add(remote.address.low)
    }
    sip.add(UInt64(local.port) << 16 | UInt64(remote.port))
    return sip.finish()
  }

  /// The same hash for both ends of a connection.
  func symmetricHash(_ key: HashKey) -> UInt64 {
    let (here, there) = (local.address, remote.address)
    let isOrdered =
      here.high != there.high
      ? here.high < there.high : here.low != there.low ? here.low < there.low : local.port <= remote.port
    return isOrdered ? hash(key) : FourTuple(local: remote, remote: local).hash(key)
  }
}

package struct Demux: ~Copyable {
  private let key: HashKey
  /// Connections by socket pair: index + 1 of a chain's first record.
  private var buckets: UnsafeMutablePointer<UInt32>
  private var bucketCount = 256
  private(set) var connectionCount = 0
  /// Listeners, and everything that holds a port, by local port.
  private static var portBuckets: Int { 1024 }
  private var listeners: UnsafeMutablePointer<UInt32>
  private var ports: UnsafeMutablePointer<UInt32>

  init(key: HashKey) {
    self.key = key
    buckets = .allocate(capacity: bucketCount)
    buckets.initialize(repeating: 0, count: bucketCount)
    listeners = .allocate(capacity: Self.portBuckets)
    listeners.initialize(repeating: 0, count: Self.portBuckets)
    ports = .allocate(capacity: Self.portBuckets)
    ports.initialize(repeating: 0, count: Self.portBuckets)
  }

  deinit {
    buckets.deallocate()
    listeners.deallocate()
    ports.deallocate()
  }

  // MARK: Connections

  @inline(__always)
  func find(_ tuple: FourTuple, in slab: borrowing TCBSlab) -> TCBPointer? {
    var next = buckets[Int(truncatingIfNeeded: tuple.hash(key)) & (bucketCount &- 1)]
    while next != 0 {
      let tcb = slab.pointer(at: next &- 1)
      if tcb.pointee.tuple == tuple { return tcb }
      next = tcb.pointee.hashNext
    }
    return nil
  }

  mutating func insert(_ tcb: TCBPointer, in slab: borrowing TCBSlab) {
    if connectionCount >= bucketCount { grow(slab) }
    let bucket = Int(truncatingIfNeeded: tcb.pointee.tuple.hash(key)) & (bucketCount - 1)
    tcb.pointee.hashNext = buckets[bucket]
    buckets[bucket] = tcb.pointee.index + 1
    tcb.pointee.isHashed = true
    connectionCount += 1
  }

  private mutating func grow(_ slab: borrowing TCBSlab) {
    let oldCount = bucketCount
    let old = buckets
    bucketCount *= 4
    buckets = .allocate(capacity: bucketCount)
    buckets.initialize(repeating: 0, count: bucketCount)
    for i in 0..<oldCount {
      var next = old[i]
      while next != 0 {
        let tcb = slab.pointer(at: next - 1)
        next = tcb.pointee.hashNext
        let bucket = Int(truncatingIfNeeded: tcb.pointee.tuple.hash(key)) & (bucketCount - 1)
        tcb.pointee.hashNext = buckets[bucket]
        buckets[bucket] = tcb.pointee.index + 1
      }
    }
    old.deallocate()
  }

  mutating func remove(_ tcb: TCBPointer, in slab: borrowing TCBSlab) {
    guard tcb.pointee.isHashed else { return }
    tcb.pointee.isHashed = false
    let bucket = Int(truncatingIfNeeded: tcb.pointee.tuple.hash(key)) & (bucketCount - 1)
    unlink(tcb, &buckets[bucket], slab)
    connectionCount -= 1
  }

  private func unlink(_ tcb: TCBPointer, _ head: inout UInt32, _ slab: borrowing TCBSlab) {
    let me = tcb.pointee.index + 1
    if head == me {
      head = tcb.pointee.hashNext
    } else {
      var next = head
      while next != 0 {
        let other = slab.pointer(at: next - 1)
        if other.pointee.hashNext == me {
          other.pointee.hashNext = tcb.pointee.hashNext
          break
        }
        next = other.pointee.hashNext
      }
    }
    tcb.pointee.hashNext = 0
  }

  // MARK: Listeners

  mutating func insertListener(_ tcb: TCBPointer) {
    let bucket = Int(tcb.pointee.tuple.local.port) & (Self.portBuckets - 1)
    tcb.pointee.hashNext = listeners[bucket]
    listeners[bucket] = tcb.pointee.index + 1
  }

  mutating func removeListener(_ tcb: TCBPointer, in slab: borrowing TCBSlab) {
    let bucket = Int(tcb.pointee.tuple.local.port) & (Self.portBuckets - 1)
    unlink(tcb, &listeners[bucket], slab)
  }

  /// The listener for a SYN of `tuple`: one bound to the address before one bound to any; among several with SO_REUSEPORT
  /// the one that the socket pair's hash chooses. It is the hash that chose the stack as well, where there are several: with as
  /// many listeners, each has its connections in one of them.
  func findListener(_ tuple: FourTuple, in slab: borrowing TCBSlab) -> TCBPointer? {
    let bucket = Int(tuple.local.port) & (Self.portBuckets - 1)
    var best: TCBPointer?
    var bestScore = -1
    var equals = 0
    var next = listeners[bucket]
    while next != 0 {
      let tcb = slab.pointer(at: next - 1)
      next = tcb.pointee.hashNext
      let score = Self.score(tcb, tuple.local)
      if score > bestScore {
        best = tcb
        bestScore = score
        equals = 1
      } else if score == bestScore, score >= 0 {
        equals += 1
      }
    }
    guard equals > 1 else { return best }
    var chosen = Int(truncatingIfNeeded: ((tuple.symmetricHash(key) >> 32) &* UInt64(equals)) >> 32)
    next = listeners[bucket]
    while next != 0 {
      let tcb = slab.pointer(at: next - 1)
      next = tcb.pointee.hashNext
      guard Self.score(tcb, tuple.local) == bestScore else { continue }
      if chosen == 0 { return tcb }
      chosen -= 1
    }
    return best
  }

  /// How well a listener fits a local end: 2 by address, 1 by its family's any, 0 by :: that takes IPv4 too, -1 not at all.
  private static func score(_ tcb: TCBPointer, _ local: Endpoint) -> Int {
    guard tcb.pointee.tuple.local.port == local.port else { return -1 }
    let address = tcb.pointee.tuple.local.address
    if address == local.address { return 2 }
    guard address.takes(local.address, onlyIPv6: tcb.pointee.options.onlyIPv6) else { return -1 }
    return address.isIPv4 == local.address.isIPv4 ? 1 : 0
  }

  // MARK: Local ports

  mutating func holdPort(_ tcb: TCBPointer, in slab: borrowing TCBSlab) {
    guard !tcb.pointee.isInPortTable else { return }
    let bucket = Int(tcb.pointee.tuple.local.port) & (Self.portBuckets - 1)
    let first = ports[bucket]
    tcb.pointee.portNext = first
    tcb.pointee.portPrevious = 0
    if first != 0 { slab.pointer(at: first - 1).pointee.portPrevious = tcb.pointee.index + 1 }
    ports[bucket] = tcb.pointee.index + 1
    tcb.pointee.isInPortTable = true
  }

  mutating func releasePort(_ tcb: TCBPointer, in slab: borrowing TCBSlab) {
    guard tcb.pointee.isInPortTable else { return }
    tcb.pointee.isInPortTable = false
    let bucket = Int(tcb.pointee.tuple.local.port) & (Self.portBuckets - 1)
    let next = tcb.pointee.portNext
    let previous = tcb.pointee.portPrevious
    if previous != 0 { slab.pointer(at: previous - 1).pointee.portNext = next } else { ports[bucket] = next }
    if next != 0 { slab.pointer(at: next - 1).pointee.portPrevious = previous }
    tcb.pointee.portNext = 0
    tcb.pointee.portPrevious = 0
  }

  /// Whether `tcb` may bind `local` (Linux's inet_csk_bind_conflict): sockets share a port if their addresses differ, if
  /// both set SO_REUSEADDR and neither listens, or if both set SO_REUSEPORT.
  func conflicts(_ tcb: TCBPointer, _ local: Endpoint, in slab: borrowing TCBSlab) -> Bool {
    var next = ports[Int(local.port) & (Self.portBuckets - 1)]
    while next != 0 {
      let other = slab.pointer(at: next - 1)
      next = other.pointee.portNext
      guard other != tcb, other.pointee.tuple.local.port == local.port else { continue }
      guard
        local.address.overlaps(
          other.pointee.tuple.local.address, onlyIPv6: tcb.pointee.options.onlyIPv6,
          otherOnlyIPv6: other.pointee.options.onlyIPv6)
      else { continue }
      let mine = tcb.pointee.options
      let theirs = other.pointee.options
      if mine.reuseAddress, theirs.reuseAddress, other.pointee.state != .listen { continue }
      if mine.reusePort, theirs.reusePort { continue }
      return true
    }
    return false
  }

  /// Whether anything holds `port` by bind or listen, so that an ephemeral choice must avoid it.
  func isTakenByBind(_ port: UInt16, in slab: borrowing TCBSlab) -> Bool {
    var next = ports[Int(port) & (Self.portBuckets - 1)]
    while next != 0 {
      let other = slab.pointer(at: next - 1)
      next = other.pointee.portNext
      if other.pointee.tuple.local.port == port, other.pointee.isBound || other.pointee.state == .listen { return true }
    }
    return false
  }
}
