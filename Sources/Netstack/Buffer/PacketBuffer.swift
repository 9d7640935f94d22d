// Owns: the packet buffer, our sk_buff: a linear area in which headers are pushed and pulled, plus up to three fragments
// of payload elsewhere, plus what the layers note about the packet on its way. Never allocates: BufferPool does.
//
//   head        data                     tail          end
//    │ headroom  │ headers and payload    │  tailroom   │  + fragments[0] … [2]
//    └───────────┴────────────────────────┴─────────────┘
//
//   reserve(n): data and tail move right in an empty buffer     push(n): data moves left, room for a header
//   put(n):     tail moves right, room for payload              pull(n): data moves right, a header was read
//
// A `PacketBuffer` is a plain pointer: whoever has it owns it, and gives it to exactly one queue or back to the pool.

import Wire

/// A run of payload outside the linear area.
package struct PacketFragment {
  package var base: UnsafeMutableRawPointer?
  package var length: Int
  @inline(__always)
  package init(base: UnsafeMutableRawPointer?, length: Int) {
    self.base = base
    self.length = length
  }
}

/// How far the transport checksum is (Linux's ip_summed).
package enum ChecksumState: UInt8 {
  /// Not known (received) / complete in the packet (to send).
  case none
  /// Received: known to be right, or left undone by a sender on this machine.
  case verified
  /// To send: the device fills it in at `checksumStart` + `checksumOffset`; the field holds the pseudo-header's sum.
  case partial
}

/// What a super-frame is to be cut into (virtio_net_hdr.gso_type).
package enum SegmentationType: UInt8 {
  case none = 0
  case tcpv4 = 1
  case udp = 3
  case tcpv6 = 4
  case udpL4 = 5
}

package struct PacketBuffer: Equatable {
  /// `.open`: not yet; `.had`: they have; `.only`: a copy that is for them alone.
  package enum RawTurn: UInt8, Sendable { case open, had, only }

  package struct Storage {
    /// Intrusive link of the queue the packet is in.
    package var next: UnsafeMutablePointer<Storage>?
    package var previous: UnsafeMutablePointer<Storage>?
    package var head: UnsafeMutableRawPointer
    package var end: Int
    package var data: Int
    package var tail: Int
    package var fragments: InlineArray<3, PacketFragment>
    package var fragmentCount: Int
    /// A large buffer of the pool that belongs to this packet (received super-frames), or nil.
    package var large: UnsafeMutableRawPointer?
    package var checksumState: ChecksumState
    package var segmentationType: SegmentationType
    /// Payload bytes of each segment of a super-frame.
    package var segmentSize: UInt16
    /// Where the transport header starts, from `data` at the time the packet is handed to the device.
    package var checksumStart: UInt16
    package var checksumOffset: UInt16
    /// SEG.SEQ of the payload's first byte, and the sequence number after the last (counting SYN and FIN).
    package var sequence: SequenceNumber
    package var endSequence: SequenceNumber
    package var flags: TCPFlags
    /// The connection whose send buffer a frame to send points into, plus one; 0 = none.
    package var pinnedBy: UInt32
    /// The datagram socket whose program's memory a frame to send points into, plus one; 0 = none.
    package var lentBy: UInt32
    /// Where a datagram came from, or goes to.
    package var source: Endpoint
    package var destination: Endpoint
    /// The next hop of an IP packet that waits for its neighbour.
    package var nextHop: IPAddress
    package var timeToLive: UInt8
    package var typeOfService: UInt8
    /// A packet for another of several stacks: which, and whether it came in a frame to many.
    package var steeredTo: UInt8
    package var wasLinkBroadcast: Bool
    /// It comes from ourselves and has not been on a link.
    package var isLooped: Bool
    /// Where several stacks share an address: whether raw sockets have had it.
    package var rawTurn: RawTurn
    /// When the frame came in.
    package var time: Instant
    /// Of a datagram in a socket's queue: the memory it counts for, bytes, and how many the socket had dropped by then.
    package var charge: UInt32
    package var drops: UInt32
  }

  package let storage: UnsafeMutablePointer<Storage>

  @inline(__always)
  package init(storage: UnsafeMutablePointer<Storage>) { self.storage = storage }

  /// The linear bytes.
  @inline(__always)
  package var bytes: UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(
      start: storage.pointee.head + storage.pointee.data, count: storage.pointee.tail &- storage.pointee.data)
  }
  @inline(__always)
  package var readable: UnsafeRawBufferPointer { UnsafeRawBufferPointer(bytes) }
  @inline(__always)
  package var base: UnsafeMutableRawPointer { storage.pointee.head + storage.pointee.data }
  @inline(__always)
  package var linearCount: Int { storage.pointee.tail &- storage.pointee.data }
  @inline(__always)
  package var headroom: Int { storage.pointee.data }
  @inline(__always)
  package var tailroom: Int { storage.pointee.end &- storage.pointee.tail }

  /// All bytes, fragments included.
  @inline(__always)
  package var count: Int {
    var total = linearCount
    var i = 0
    while i < storage.pointee.fragmentCount {
      total &+= storage.pointee.fragments[i].length
      i &+= 1
    }
    return total
  }

  /// Makes headroom in an empty buffer.
  @inline(__always)
  package func reserve(_ n: Int) {
    storage.pointee.data &+= n
    storage.pointee.tail &+= n
  }

  /// Room for `n` bytes of header in front of the data. The caller has seen to the headroom.
  @inline(__always)
  @discardableResult
  package func push(_ n: Int) -> UnsafeMutableRawPointer {
    storage.pointee.data &-= n
    return base
  }

  /// Room for `n` bytes after the data. The caller has seen to the tailroom.
  @inline(__always)
  @discardableResult
  package func put(_ n: Int) -> UnsafeMutableRawPointer {
    let at = storage.pointee.head + storage.pointee.tail
    storage.pointee.tail &+= n
    return at
  }

  /// Drops `n` bytes from the front; reaches into the fragments when the linear area is used up.
  @inline(__always)
  package func pull(_ n: Int) {
    let linear = min(n, linearCount)
    storage.pointee.data &+= linear
    if n > linear { pullFragments(n &- linear) }
  }

  @inline(never)
  private func pullFragments(_ n: Int) {
    var left = n
    var i = 0
    while i < storage.pointee.fragmentCount, left > 0 {
      let take = min(left, storage.pointee.fragments[i].length)
      if let at = storage.pointee.fragments[i].base { storage.pointee.fragments[i].base = at + take }
      storage.pointee.fragments[i].length -= take
      left -= take
      i += 1
    }
  }

  /// Cuts the packet to its first `n` bytes.
  package func trim(to n: Int) {
    var left = n
    let linear = min(left, linearCount)
    storage.pointee.tail = storage.pointee.data + linear
    left -= linear
    for i in 0..<storage.pointee.fragmentCount {
      let keep = min(left, storage.pointee.fragments[i].length)
      storage.pointee.fragments[i].length = keep
      left -= keep
    }
  }

  @inline(__always)
  package func addFragment(_ base: UnsafeMutableRawPointer, _ length: Int) {
    let i = storage.pointee.fragmentCount
    guard i < 3, length > 0 else { return }
    storage.pointee.fragments[i] = PacketFragment(base: base, length: length)
    storage.pointee.fragmentCount = i &+ 1
  }

  /// Copies the bytes from `offset` on into `destination`; returns how many there were.
  package func copy(from offset: Int, to destination: UnsafeMutableRawBufferPointer) -> Int {
    guard var out = destination.baseAddress else { return 0 }
    var skip = offset
    var left = destination.count
    if skip < linearCount {
      let n = min(left, linearCount - skip)
      out.copyMemory(from: base + skip, byteCount: n)
      out += n
      left -= n
      skip = 0
    } else {
      skip -= linearCount
    }
    var i = 0
    while i < storage.pointee.fragmentCount, left > 0 {
      let fragment = storage.pointee.fragments[i]
      i += 1
      if skip >= fragment.length {
        skip -= fragment.length
        continue
      }
      guard let from = fragment.base else { continue }
      let n = min(left, fragment.length - skip)
      out.copyMemory(from: from + skip, byteCount: n)
      out += n
      left -= n
      skip = 0
    }
    return destination.count - left
  }

  /// The unfolded checksum of all bytes from `offset` (which must lie in the linear area) on.
  package func checksum(from offset: Int, _ initial: UInt64 = 0) -> UInt64 {
    let linear = UnsafeRawBufferPointer(start: base + offset, count: linearCount - offset)
    var sum = Checksum.sum(linear, initial)
    var odd = linear.count & 1 == 1
    for i in 0..<storage.pointee.fragmentCount {
      let fragment = storage.pointee.fragments[i]
      let part = Checksum.sum(UnsafeRawBufferPointer(start: fragment.base, count: fragment.length))
      // At an odd offset the bytes of each word change places (RFC 1071 §2(B)).
      sum &+= odd ? UInt64(Checksum.fold(part).byteSwapped) : part
      odd = odd != (fragment.length & 1 == 1)
    }
    return sum
  }

  /// Memory that the packet holds, bytes (Linux's truesize).
  package var truesize: Int { BufferPool.smallSize + (storage.pointee.large == nil ? 0 : BufferPool.largeSize) }
}

/// A first-in, first-out queue of packets, linked through the packets themselves.
package struct PacketQueue {
  package private(set) var first: PacketBuffer?
  package private(set) var last: PacketBuffer?
  package private(set) var count = 0

  package init() {}

  @inline(__always)
  package var isEmpty: Bool { first == nil }

  @inline(__always)
  package mutating func append(_ packet: PacketBuffer) {
    packet.storage.pointee.next = nil
    packet.storage.pointee.previous = last?.storage
    if let last { last.storage.pointee.next = packet.storage } else { first = packet }
    last = packet
    count &+= 1
  }

  @inline(__always)
  package mutating func prepend(_ packet: PacketBuffer) {
    packet.storage.pointee.previous = nil
    packet.storage.pointee.next = first?.storage
    if let first { first.storage.pointee.previous = packet.storage } else { last = packet }
    first = packet
    count &+= 1
  }

  /// Inserts behind `position`, which is in this queue.
  package mutating func insert(_ packet: PacketBuffer, after position: PacketBuffer) {
    guard let next = position.next else { return append(packet) }
    packet.storage.pointee.previous = position.storage
    packet.storage.pointee.next = next.storage
    position.storage.pointee.next = packet.storage
    next.storage.pointee.previous = packet.storage
    count &+= 1
  }

  @inline(__always)
  package mutating func removeFirst() -> PacketBuffer? {
    guard let packet = first else { return nil }
    remove(packet)
    return packet
  }

  /// Takes out a packet that is in this queue.
  @inline(__always)
  package mutating func remove(_ packet: PacketBuffer) {
    let next = packet.storage.pointee.next
    let previous = packet.storage.pointee.previous
    if let previous { previous.pointee.next = next } else { first = next.map { PacketBuffer(storage: $0) } }
    if let next { next.pointee.previous = previous } else { last = previous.map { PacketBuffer(storage: $0) } }
    packet.storage.pointee.next = nil
    packet.storage.pointee.previous = nil
    count &-= 1
  }
}

extension PacketBuffer {
  /// The packet behind this one in its queue.
  @inline(__always)
  package var next: PacketBuffer? { storage.pointee.next.map { PacketBuffer(storage: $0) } }
  @inline(__always)
  package var previous: PacketBuffer? { storage.pointee.previous.map { PacketBuffer(storage: $0) } }
}
