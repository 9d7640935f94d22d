// Owns: putting datagrams together from their fragments, IPv4's and IPv6's. Read first: RFC 791 §3.2 ("Reassembly"), RFC 815,
// RFC 1122 §3.3.2 (time-out), RFC 8200 §4.5, RFC 1858 and RFC 5722 §3 (why overlaps are refused), RFC 3168 §5.3 (ECN); limits are
// Linux's ipfrag_*, for both families together.
//
// The fragments of a datagram wait in a queue sorted by offset; while a packet is in it, its storage's `sequence` and
// `endSequence` hold the first and the last-plus-one byte of its payload in the datagram. A datagram is whole when the bytes
// received equal its length, for no two fragments overlap:
//
//   │ 0 … 1480 │           │ 2960 … 4440 │ 4440 … 4500, no MF │      received 3020 of 4500
//
// A fragment that only repeats bytes we have is a duplicate and is ignored; one that overlaps in part is no work of an honest
// sender, and the whole datagram is dropped (as Linux does for IPv4 too).

import Wire

/// What a fragment's headers say of it and of its place in the datagram.
package struct FragmentPlace {
  var source: IPAddress
  var destination: IPAddress
  var identification: UInt32
  /// IPv4 has datagrams of different protocols apart (RFC 791); IPv6 has not: 0.
  var proto: UInt8
  /// Of the fragment's payload in the datagram, bytes.
  var start: Int
  var moreFollow: Bool
  /// In front of the payload: for IPv6 up to the fragment header's end.
  var headerLength: Int
  /// Headers and payload, bytes.
  var totalLength: Int
  var ecn: UInt8
  /// IPv6: where the number of the fragment header stands, and the number that takes its place.
  var before = 0
  var nextHeader: UInt8 = 0

  /// A fragment whose header has been parsed.
  package init(_ header: IPv4Header) {
    source = IPAddress(header.source)
    destination = IPAddress(header.destination)
    identification = UInt32(header.identification)
    proto = header.proto
    start = header.fragmentOffset
    moreFollow = header.flags & IPv4Header.flagMoreFragments != 0
    headerLength = header.headerLength
    totalLength = header.totalLength
    ecn = header.typeOfService & 3
  }

  /// `offset` is the fragment header's in the packet.
  package init(_ header: IPv6Header, _ fragment: IPv6Fragment, at offset: Int, before: Int) {
    source = header.source
    destination = header.destination
    identification = fragment.identification
    proto = 0
    start = fragment.offset
    moreFollow = fragment.moreFollow
    headerLength = offset + IPv6Fragment.length
    totalLength = IPv6Header.length + header.payloadLength
    ecn = header.trafficClass & 3
    self.before = before
    nextHeader = fragment.nextHeader
  }

  var isIPv6: Bool { !destination.isIPv4 }
  /// Most bytes of a datagram's payload: 65,535 less the smallest header, or IPv6's limit, which does not count its header.
  var maximumPayload: Int { isIPv6 ? 65535 : 65535 - IPv4Header.minimumLength }
}

package enum ReassemblyVerdict {
  /// Kept; more is missing.
  case waiting
  /// The datagram is whole: the first fragment's headers without a trace of the cut, then all of the payload. The caller's to
  /// release.
  case complete(PacketBuffer)
  /// The fragment is gone, and with it what had come of its datagram if the reason is an overlap or a length.
  case dropped(DropReason)
}

package struct Reassembly: ~Copyable {
  private let inMemory = InMemory()
  private struct Datagram {
    var source: IPAddress
    var destination: IPAddress
    var identification: UInt32
    var proto: UInt8
    /// Of the first fragment (FragmentPlace's).
    var headerLength = 0
    var before = 0
    var nextHeader: UInt8 = 0
    /// Which ECN codepoints have been seen: bit n for codepoint n.
    var ecn: UInt8 = 0
    var fragments = PacketQueue()
    /// Payload bytes received.
    var received = 0
    /// Payload bytes of the whole, once the last fragment has come; until then the end of the farthest fragment.
    var length = 0
    var lastSeen = false
    /// Memory of the fragments, bytes.
    var memory = 0
    /// The source's count of fragments when this datagram's latest came.
    var sourceCount: UInt32
    var deadline: Instant
    /// Bucket chain, and the list in order of deadline.
    var next: UInt32
    var older = Reassembly.none
    var newer = Reassembly.none
  }

  private static var none: UInt32 { .max }
  private static var bucketCount: Int { 64 }
  private static var sourceCounters: Int { 256 }
  /// What of a large datagram lies in the linear area, behind the IP header: every transport's header.
  private static var linearPayload: Int { 256 }

  private var datagrams: Slab<Datagram>
  private let buckets: UnsafeMutablePointer<UInt32>
  /// Fragments seen, by hash of the source: tells how far apart two fragments of a datagram came.
  private let sourceCounts: UnsafeMutablePointer<UInt32>
  private var oldest = Reassembly.none
  private var newest = Reassembly.none
  private let key: HashKey
  /// Memory of all fragments that wait, bytes.
  package private(set) var memory = 0
  /// Datagrams that wait.
  package var count: Int { datagrams.count }

  package init(key: HashKey) {
    self.key = key
    datagrams = Slab(maximum: 65536)
    buckets = .allocate(capacity: Self.bucketCount)
    buckets.initialize(repeating: Self.none, count: Self.bucketCount)
    sourceCounts = .allocate(capacity: Self.sourceCounters)
    sourceCounts.initialize(repeating: 0, count: Self.sourceCounters)
  }

  deinit {
    buckets.deallocate()
    sourceCounts.deallocate()
  }

  // MARK: Fragments come in

  /// Takes a fragment whose data starts at its IP header and ends at the datagram's end.
  package mutating func add(
    _ packet: PacketBuffer, _ place: FragmentPlace, now: Instant, settings: borrowing Settings, pool: inout BufferPool
  ) -> ReassemblyVerdict {
    let start = place.start
    let end = start + place.totalLength - place.headerLength
    guard end <= place.maximumPayload, packet.count >= place.totalLength else {
      pool.release(packet)
      return .dropped(.fragmentTooLong)
    }
    let sourceCount = countSource(place.source)
    let bucket = bucket(place.source, place.destination, place.identification, place.proto)
    var index = find(place, bucket)
    if index != Self.none, !place.isIPv6, tooFar(index, sourceCount, settings.ipfragMaxDistance) {
      // So many others came in between that the identification may be in use again (RFC 4963).
      discard(index, &pool)
      index = Self.none
    }
    // As in Linux, what waits is not thrown out for what comes: an attacker would decide what is.
    guard memory + packet.truesize <= settings.ipfragHighThreshold else {
      pool.release(packet)
      return .dropped(.fragmentMemory)
    }
    if index == Self.none {
      let time = place.isIPv6 ? settings.ip6fragTime : settings.ipfragTime
      index = create(place, bucket, sourceCount, deadline: now + .seconds(time))
      guard index != Self.none else {
        pool.release(packet)
        return .dropped(.fragmentMemory)
      }
    }
    let datagram = datagrams.pointer(at: index)
    datagram.pointee.sourceCount = sourceCount

    let isLast = !place.moreFollow
    if let reason = Self.checkLength(datagram, start: start, end: end, isLast: isLast) {
      pool.release(packet)
      discard(index, &pool)
      return .dropped(reason)
    }
    packet.trim(to: place.totalLength)
    packet.storage.pointee.sequence = SequenceNumber(UInt32(start))
    packet.storage.pointee.endSequence = SequenceNumber(UInt32(end))
    switch Self.place(packet, in: datagram) {
    case .inserted: break
    case .duplicate:
      pool.release(packet)
      return .waiting
    case .overlap:
      pool.release(packet)
      discard(index, &pool)
      return .dropped(.fragmentOverlap)
    }
    if isLast { datagram.pointee.lastSeen = true }
    datagram.pointee.length = max(datagram.pointee.length, end)
    datagram.pointee.received += end - start
    datagram.pointee.ecn |= 1 << place.ecn
    if start == 0 {
      datagram.pointee.headerLength = place.headerLength
      datagram.pointee.before = place.before
      datagram.pointee.nextHeader = place.nextHeader
    }
    datagram.pointee.memory += packet.truesize
    memory += packet.truesize
    guard datagram.pointee.lastSeen, datagram.pointee.received == datagram.pointee.length else { return .waiting }

    let whole = assemble(datagram, &pool)
    let mixedECN = datagram.pointee.ecn & 0b1001 == 0b1001
    discard(index, &pool)
    guard let whole else { return .dropped(.noBuffer) }
    if mixedECN {
      // Congestion experienced by a sender that does not take part (RFC 3168 §5.3): Linux drops it too.
      pool.release(whole)
      return .dropped(.fragmentECN)
    }
    return .complete(whole)
  }

  /// Whether the fragment can belong to what has come so far.
  private static func checkLength(
    _ datagram: UnsafeMutablePointer<Datagram>, start: Int, end: Int, isLast: Bool
  ) -> DropReason? {
    guard end > start else { return .fragmentTooLong }
    if isLast {
      // The end is where a former last fragment said, and nothing lies behind it.
      return end < datagram.pointee.length || datagram.pointee.lastSeen && end != datagram.pointee.length
        ? .fragmentOverlap : nil
    }
    // Only the last may have an odd length (RFC 791 §3.2, RFC 8200 §4.5).
    guard (end - start) & 7 == 0 else { return .fragmentTooLong }
    return datagram.pointee.lastSeen && end > datagram.pointee.length ? .fragmentOverlap : nil
  }

  private enum Placement { case inserted, duplicate, overlap }

  /// Inserts a fragment at its place. From the end, where it belongs if the order was kept.
  private static func place(_ packet: PacketBuffer, in datagram: UnsafeMutablePointer<Datagram>) -> Placement {
    let start = packet.storage.pointee.sequence
    let end = packet.storage.pointee.endSequence
    var before = datagram.pointee.fragments.last
    while let candidate = before, candidate.storage.pointee.sequence > start { before = candidate.previous }

    if let before, before.storage.pointee.endSequence > start {
      // It begins inside `before`. All of it known already, if the run that starts there goes far enough?
      var known = before.storage.pointee.endSequence
      var next = before.next
      while known < end, let following = next, following.storage.pointee.sequence == known {
        known = following.storage.pointee.endSequence
        next = following.next
      }
      return known >= end ? .duplicate : .overlap
    }
    let after = before == nil ? datagram.pointee.fragments.first : before?.next
    if let after, after.storage.pointee.sequence < end { return .overlap }
    if let before {
      datagram.pointee.fragments.insert(packet, after: before)
    } else {
      datagram.pointee.fragments.prepend(packet)
    }
    return .inserted
  }

  /// Copies the fragments into one packet: all in the linear area if it fits, else header and `linearPayload` bytes there and
  /// the rest in a large buffer. nil without buffers.
  private func assemble(_ datagram: UnsafeMutablePointer<Datagram>, _ pool: inout BufferPool) -> PacketBuffer? {
    guard let first = datagram.pointee.fragments.first,
      let base = first.readable.baseAddress, let whole = pool.allocateForTransmit()
    else { return nil }
    // The first fragment's headers, with their options, are the datagram's; but for IPv6's fragment header, the last of them.
    let isIPv6 = !datagram.pointee.destination.isIPv4
    let headerLength = datagram.pointee.headerLength - (isIPv6 ? IPv6Fragment.length : 0)
    let length = datagram.pointee.length
    // IPv6's extension headers may be longer than anybody needs: transport headers must fit behind them.
    guard headerLength + length <= 65535 + (isIPv6 ? IPv6Header.length : 0),
      headerLength + min(length, Self.linearPayload) <= whole.tailroom
    else {
      pool.release(whole)
      return nil
    }
    let linear = headerLength + length <= whole.tailroom ? length : min(length, Self.linearPayload)
    var rest: UnsafeMutableRawPointer?
    if linear < length {
      guard pool.attachLarge(whole), let large = whole.storage.pointee.large else {
        pool.release(whole)
        return nil
      }
      whole.addFragment(large, length - linear)
      rest = large
    }
    let header = whole.put(headerLength)
    header.copyMemory(from: base, byteCount: headerLength)
    if isIPv6 {
      header.storeBigEndian16(UInt16(truncatingIfNeeded: headerLength + length - IPv6Header.length), at: 4)
      header.storeByte(datagram.pointee.nextHeader, at: datagram.pointee.before)
      // Congestion experienced by one fragment was experienced by all (RFC 3168 §5.3).
      if datagram.pointee.ecn & 0b1000 != 0 { header.storeByte(UnsafeRawPointer(header).byte(at: 1) | 0x30, at: 1) }
    } else {
      Self.finish(header, headerLength, length: length, ecn: datagram.pointee.ecn)
    }

    let linearBase = whole.put(linear)
    var packet: PacketBuffer? = first
    while let piece = packet {
      let start = Int(piece.storage.pointee.sequence.value)
      let end = Int(piece.storage.pointee.endSequence.value)
      let skip = piece.count - (end - start)
      let inLinear = max(0, min(end, linear) - start)
      if inLinear > 0 {
        _ = piece.copy(from: skip, to: UnsafeMutableRawBufferPointer(start: linearBase + start, count: inLinear))
      }
      if let rest, end - start > inLinear {
        let to = rest + (start + inLinear - linear)
        _ = piece.copy(
          from: skip + inLinear, to: UnsafeMutableRawBufferPointer(start: to, count: end - start - inLinear))
      }
      whole.storage.pointee.time = piece.storage.pointee.time
      packet = piece.next
    }
    return whole
  }

  /// Makes the first fragment's header that of the whole.
  private static func finish(_ header: UnsafeMutableRawPointer, _ headerLength: Int, length: Int, ecn: UInt8) {
    header.storeBigEndian16(UInt16(truncatingIfNeeded: headerLength + length), at: 2)
    header.storeBigEndian16(0, at: 6)
    // Congestion experienced by one fragment was experienced by all (RFC 3168 §5.3).
    if ecn & 0b1000 != 0 { header.storeByte(UnsafeRawPointer(header).byte(at: 1) | 3, at: 1) }
    header.storeBigEndian16(0, at: 10)
    let sum = Checksum.sum(UnsafeRawBufferPointer(start: header, count: headerLength))
    header.storeBigEndian16(~Checksum.fold(sum), at: 10)
  }

  // MARK: Time

  /// When the oldest datagram's time runs out.
  package func nextDeadline() -> Instant? {
    oldest == Self.none ? nil : datagrams.pointer(at: oldest).pointee.deadline
  }

  /// One datagram whose time ran out; call until nil. `first` is its first fragment if that came, the caller's to release: only
  /// then an ICMP time exceeded is sent (RFC 1122 §3.3.2). The others are released.
  package mutating func nextExpired(now: Instant, pool: inout BufferPool) -> (first: PacketBuffer?, fragments: Int)? {
    guard oldest != Self.none else { return nil }
    let index = oldest
    let datagram = datagrams.pointer(at: index)
    guard datagram.pointee.deadline <= now else { return nil }
    let fragments = datagram.pointee.fragments.count
    var first: PacketBuffer?
    if let packet = datagram.pointee.fragments.first, packet.storage.pointee.sequence == SequenceNumber(0) {
      datagram.pointee.fragments.remove(packet)
      first = packet
    }
    discard(index, &pool)
    return (first, fragments)
  }

  /// Releases everything that waits.
  package mutating func removeAll(pool: inout BufferPool) {
    while oldest != Self.none { discard(oldest, &pool) }
  }

  // MARK: Datagrams

  private func bucket(_ source: IPAddress, _ destination: IPAddress, _ identification: UInt32, _ proto: UInt8) -> Int {
    var hash = SipHash(key)
    hash.add(source.high)
    hash.add(source.low)
    hash.add(destination.high)
    hash.add(destination.low)
    hash.add(UInt64(identification) << 8 | UInt64(proto))
    return Int(truncatingIfNeeded: hash.finish() % UInt64(Self.bucketCount))
  }

  private mutating func countSource(_ source: IPAddress) -> UInt32 {
    var hash = SipHash(key)
    hash.add(source.high)
    hash.add(source.low)
    let at = Int(truncatingIfNeeded: hash.finish() % UInt64(Self.sourceCounters))
    sourceCounts[at] &+= 1
    return sourceCounts[at]
  }

  private func tooFar(_ index: UInt32, _ sourceCount: UInt32, _ maximum: Int) -> Bool {
    maximum > 0 && Int(sourceCount &- datagrams.pointer(at: index).pointee.sourceCount) > maximum
  }

  private func find(_ place: FragmentPlace, _ bucket: Int) -> UInt32 {
    var index = buckets[bucket]
    while index != Self.none {
      let datagram = datagrams.pointer(at: index)
      if datagram.pointee.identification == place.identification, datagram.pointee.source == place.source,
        datagram.pointee.destination == place.destination, datagram.pointee.proto == place.proto
      {
        return index
      }
      index = datagram.pointee.next
    }
    return Self.none
  }

  private mutating func create(
    _ place: FragmentPlace, _ bucket: Int, _ sourceCount: UInt32, deadline: Instant
  ) -> UInt32 {
    guard
      let handle = datagrams.insert(
        Datagram(
          source: place.source, destination: place.destination, identification: place.identification,
          proto: place.proto, sourceCount: sourceCount, deadline: deadline, next: buckets[bucket]))
    else { return Self.none }
    let index = handle.index
    buckets[bucket] = index
    // By deadline: at the new end, unless it is IPv4's time after IPv6's.
    var before = newest
    while before != Self.none, datagrams.pointer(at: before).pointee.deadline > deadline {
      before = datagrams.pointer(at: before).pointee.older
    }
    let after = before == Self.none ? oldest : datagrams.pointer(at: before).pointee.newer
    datagrams.pointer(at: index).pointee.older = before
    datagrams.pointer(at: index).pointee.newer = after
    if before == Self.none { oldest = index } else { datagrams.pointer(at: before).pointee.newer = index }
    if after == Self.none { newest = index } else { datagrams.pointer(at: after).pointee.older = index }
    return index
  }

  /// Forgets a datagram and releases its fragments.
  private mutating func discard(_ index: UInt32, _ pool: inout BufferPool) {
    let datagram = datagrams.pointer(at: index)
    pool.releaseAll(&datagram.pointee.fragments)
    memory -= datagram.pointee.memory

    let older = datagram.pointee.older
    let newer = datagram.pointee.newer
    if older == Self.none { oldest = newer } else { datagrams.pointer(at: older).pointee.newer = newer }
    if newer == Self.none { newest = older } else { datagrams.pointer(at: newer).pointee.older = older }

    let bucket = bucket(
      datagram.pointee.source, datagram.pointee.destination, datagram.pointee.identification, datagram.pointee.proto)
    if buckets[bucket] == index {
      buckets[bucket] = datagram.pointee.next
    } else {
      var before = buckets[bucket]
      while datagrams.pointer(at: before).pointee.next != index { before = datagrams.pointer(at: before).pointee.next }
      datagrams.pointer(at: before).pointee.next = datagram.pointee.next
    }
    datagrams.remove(at: index)
  }
}
