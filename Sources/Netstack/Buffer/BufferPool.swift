// Owns: the memory of packet buffers. Small buffers (2 KB with their storage header) are cut from 64 KB chunks and kept for
// ever; large ones (one super-frame) are made singly, and as many are kept (at most 512, 34 MB) as were in use at once during the
// last some thousand. Steady state allocates nothing.

import Wire

package struct BufferPool: ~Copyable {
  /// One small buffer: the storage header and the linear area, bytes.
  package static var smallSize: Int { 2048 }
  /// One large buffer: a super-frame's payload, bytes.
  package static var largeSize: Int { 65536 + 1024 }
  /// Where a packet to send begins: room for Ethernet, IPv6 and TCP with options.
  package static var transmitHeadroom: Int { 160 }

  private static var headerSize: Int { (MemoryLayout<PacketBuffer.Storage>.stride + 63) & ~63 }
  package static var linearCapacity: Int { smallSize - headerSize }
  private static var perChunk: Int { 32 }
  private static var leastLargeKept: Int { 64 }
  private static var mostLargeKept: Int { 512 }
  /// How many are given back between two looks at how many are needed; a power of two.
  private static var largeReview: Int { 4096 }

  private var free: UnsafeMutablePointer<PacketBuffer.Storage>?
  private var freeLarge: UnsafeMutablePointer<UnsafeMutableRawPointer>
  private var freeLargeCount = 0
  private var largeKept = leastLargeKept
  /// The most that were out at once since the last look.
  private var largePeak = 0
  private var largeReturns = 0
  private var chunks: UnsafeMutablePointer<UnsafeMutableRawPointer>
  private var chunkCount = 0
  private let maximumChunks: Int
  private let maximumLarge: Int
  /// Small and large buffers that are out.
  package private(set) var outstanding = 0
  package private(set) var outstandingLarge = 0
  /// Large buffers at hand.
  package var idleLarge: Int { freeLargeCount }

  /// - Parameter maximum: the most small buffers at once.
  package init(maximum: Int = 262_144, maximumLarge: Int = 8192) {
    maximumChunks = (maximum + Self.perChunk - 1) / Self.perChunk
    self.maximumLarge = maximumLarge
    chunks = .allocate(capacity: maximumChunks)
    freeLarge = .allocate(capacity: Self.mostLargeKept)
  }

  deinit {
    for i in 0..<chunkCount { chunks[i].deallocate() }
    for i in 0..<freeLargeCount { freeLarge[i].deallocate() }
    chunks.deallocate()
    freeLarge.deallocate()
  }

  private mutating func grow() -> Bool {
    guard chunkCount < maximumChunks else { return false }
    let chunk = UnsafeMutableRawPointer.allocate(byteCount: Self.smallSize * Self.perChunk, alignment: 4096)
    chunks[chunkCount] = chunk
    chunkCount += 1
    for i in (0..<Self.perChunk).reversed() {
      let at = chunk + i * Self.smallSize
      let storage = at.bindMemory(to: PacketBuffer.Storage.self, capacity: 1)
      storage.initialize(to: Self.emptyStorage(head: at + Self.headerSize))
      storage.pointee.next = free
      free = storage
    }
    return true
  }

  @inline(__always)
  private static func emptyStorage(head: UnsafeMutableRawPointer) -> PacketBuffer.Storage {
    PacketBuffer.Storage(
      next: nil, previous: nil, head: head, end: linearCapacity, data: 0, tail: 0,
      fragments: InlineArray(repeating: PacketFragment(base: nil, length: 0)), fragmentCount: 0, large: nil,
      checksumState: .none, segmentationType: .none, segmentSize: 0, checksumStart: 0, checksumOffset: 0,
      sequence: .init(0), endSequence: .init(0), flags: [], pinnedBy: 0, lentBy: 0, source: .none, destination: .none,
      nextHop: .anyIPv6, timeToLive: 0, typeOfService: 0, steeredTo: 0, wasLinkBroadcast: false, isLooped: false,
      rawTurn: .open, time: .zero, charge: 0, drops: 0)
  }

  /// An empty small buffer without headroom; nil at the limit.
  @inline(__always)
  package mutating func allocate() -> PacketBuffer? {
    if free == nil, !grow() { return nil }
    guard let storage = free else { return nil }
    free = storage.pointee.next
    storage.pointee.next = nil
    outstanding &+= 1
    return PacketBuffer(storage: storage)
  }

  /// An empty buffer with headroom for every header the stack pushes.
  @inline(__always)
  package mutating func allocateForTransmit() -> PacketBuffer? {
    guard let packet = allocate() else { return nil }
    packet.reserve(Self.transmitHeadroom)
    return packet
  }

  /// Gives `packet` a large buffer to receive into (nothing is in it yet); false at the limit.
  package mutating func attachLarge(_ packet: PacketBuffer) -> Bool {
    guard packet.storage.pointee.large == nil else { return true }
    if freeLargeCount > 0 {
      freeLargeCount -= 1
      packet.storage.pointee.large = freeLarge[freeLargeCount]
    } else {
      guard outstandingLarge < maximumLarge else { return false }
      packet.storage.pointee.large = .allocate(byteCount: Self.largeSize, alignment: 4096)
    }
    outstandingLarge += 1
    if outstandingLarge > largePeak {
      largePeak = outstandingLarge
      largeKept = max(largeKept, min(largePeak, Self.mostLargeKept))
    }
    return true
  }

  /// Puts all bytes of `packet` behind those of `copy`, which has no fragments yet; false where there is no room for them.
  package mutating func fill(_ copy: PacketBuffer, from packet: PacketBuffer) -> Bool {
    let length = packet.count
    let linear = min(length, copy.tailroom)
    guard length - linear <= Self.largeSize else { return false }
    _ = packet.copy(from: 0, to: UnsafeMutableRawBufferPointer(start: copy.put(linear), count: linear))
    if linear == length { return true }
    guard attachLarge(copy), let large = copy.storage.pointee.large else { return false }
    _ = packet.copy(from: linear, to: UnsafeMutableRawBufferPointer(start: large, count: length - linear))
    copy.addFragment(large, length - linear)
    return true
  }

  /// Takes the large buffer away again when a frame did not need it.
  @inline(__always)
  package mutating func detachLarge(_ packet: PacketBuffer) {
    guard let large = packet.storage.pointee.large else { return }
    packet.storage.pointee.large = nil
    outstandingLarge &-= 1
    largeReturns &+= 1
    if largeReturns & (Self.largeReview &- 1) == 0 { reviewLarge() }
    if freeLargeCount < largeKept {
      freeLarge[freeLargeCount] = large
      freeLargeCount &+= 1
    } else {
      large.deallocate()
    }
  }

  private mutating func reviewLarge() {
    largeKept = min(max(largePeak, Self.leastLargeKept), Self.mostLargeKept)
    largePeak = outstandingLarge
    while freeLargeCount > largeKept {
      freeLargeCount -= 1
      freeLarge[freeLargeCount].deallocate()
    }
  }

  @inline(__always)
  package mutating func release(_ packet: PacketBuffer) {
    detachLarge(packet)
    let storage = packet.storage
    storage.pointee.previous = nil
    storage.pointee.data = 0
    storage.pointee.tail = 0
    storage.pointee.fragmentCount = 0
    storage.pointee.checksumState = .none
    storage.pointee.segmentationType = .none
    storage.pointee.segmentSize = 0
    storage.pointee.flags = []
    storage.pointee.pinnedBy = 0
    storage.pointee.lentBy = 0
    storage.pointee.isLooped = false
    storage.pointee.rawTurn = .open
    storage.pointee.next = free
    free = storage
    outstanding &-= 1
  }

  package mutating func releaseAll(_ queue: inout PacketQueue) {
    while let packet = queue.removeFirst() { release(packet) }
  }
}
