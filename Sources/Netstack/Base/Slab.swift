// Owns: storage for connections, sockets and other long-lived records, at addresses that never move.
// A slot is reused after `remove`; its generation tells an old handle from a new one. Slots live in chunks that are never
// returned, so a stale pointer reads a live slot of the same type, never unmapped memory.

/// Names a slot of a `Slab` and the use it was given out for.
package struct SlabHandle: Equatable, Sendable {
  package var index: UInt32
  package var generation: UInt32
  @inline(__always)
  package init(index: UInt32, generation: UInt32) {
    self.index = index
    self.generation = generation
  }
}

package struct Slab<Element: ~Copyable>: ~Copyable {
  private struct Slot: ~Copyable {
    var generation: UInt32
    var inUse: Bool
    /// Next free slot, plus one; 0 ends the list.
    var nextFree: UInt32
  }

  private static var chunkShift: Int { 6 }
  private static var chunkSize: Int { 1 << chunkShift }

  private var chunks: UnsafeMutablePointer<UnsafeMutablePointer<Element>>
  private var slots: UnsafeMutablePointer<UnsafeMutablePointer<Slot>>
  private let maximumChunks: Int
  private var chunkCount = 0
  private var firstFree: UInt32 = 0
  /// Slots in use.
  package private(set) var count = 0

  /// - Parameter maximum: the most elements ever in use at once; rounded up to a multiple of 64.
  package init(maximum: Int) {
    maximumChunks = (maximum + Self.chunkSize - 1) >> Self.chunkShift
    chunks = .allocate(capacity: maximumChunks)
    slots = .allocate(capacity: maximumChunks)
  }

  deinit {
    var index = 0
    while index < chunkCount << Self.chunkShift {
      if slots[index >> Self.chunkShift][index & (Self.chunkSize - 1)].inUse {
        (chunks[index >> Self.chunkShift] + index & (Self.chunkSize - 1)).deinitialize(count: 1)
      }
      index += 1
    }
    for chunk in 0..<chunkCount {
      chunks[chunk].deallocate()
      slots[chunk].deallocate()
    }
    chunks.deallocate()
    slots.deallocate()
  }

  private mutating func grow() -> Bool {
    guard chunkCount < maximumChunks else { return false }
    chunks[chunkCount] = .allocate(capacity: Self.chunkSize)
    let newSlots = UnsafeMutablePointer<Slot>.allocate(capacity: Self.chunkSize)
    let base = chunkCount << Self.chunkShift
    for i in 0..<Self.chunkSize {
      let next: UInt32 = i + 1 < Self.chunkSize ? UInt32(base + i + 2) : firstFree
      (newSlots + i).initialize(to: Slot(generation: 1, inUse: false, nextFree: next))
    }
    slots[chunkCount] = newSlots
    firstFree = UInt32(base + 1)
    chunkCount += 1
    return true
  }

  /// The index that the next `insert` will use.
  package var nextFreeIndex: UInt32 { firstFree == 0 ? UInt32(chunkCount << Self.chunkShift) : firstFree - 1 }

  /// Takes a free slot; nil where `maximum` are in use.
  package mutating func insert(_ element: consuming Element) -> SlabHandle? {
    if firstFree == 0, !grow() { return nil }
    let index = Int(firstFree - 1)
    let slot = slots[index >> Self.chunkShift] + index & (Self.chunkSize - 1)
    firstFree = slot.pointee.nextFree
    slot.pointee.inUse = true
    (chunks[index >> Self.chunkShift] + index & (Self.chunkSize - 1)).initialize(to: element)
    count += 1
    return SlabHandle(index: UInt32(index), generation: slot.pointee.generation)
  }

  /// The element, or nil where the handle is stale.
  @inline(__always)
  package func pointer(_ handle: SlabHandle) -> UnsafeMutablePointer<Element>? {
    let index = Int(handle.index)
    guard index < chunkCount << Self.chunkShift else { return nil }
    let slot = slots[index >> Self.chunkShift] + index & (Self.chunkSize - 1)
    guard slot.pointee.inUse, slot.pointee.generation == handle.generation else { return nil }
    return chunks[index >> Self.chunkShift] + index & (Self.chunkSize - 1)
  }

  /// The element of a slot known to be in use.
  @inline(__always)
  package func pointer(at index: UInt32) -> UnsafeMutablePointer<Element> {
    chunks[Int(index) >> Self.chunkShift] + Int(index) & (Self.chunkSize - 1)
  }

  package func handle(at index: UInt32) -> SlabHandle {
    let i = Int(index)
    return SlabHandle(
      index: index, generation: slots[i >> Self.chunkShift][i & (Self.chunkSize - 1)].generation)
  }

  /// The first slot in use at or after `index`: for walking all of them.
  package func nextInUse(from index: UInt32) -> UInt32? {
    var i = Int(index)
    while i < chunkCount << Self.chunkShift {
      if slots[i >> Self.chunkShift][i & (Self.chunkSize - 1)].inUse { return UInt32(i) }
      i += 1
    }
    return nil
  }

  package mutating func remove(at index: UInt32) {
    let i = Int(index)
    let slot = slots[i >> Self.chunkShift] + i & (Self.chunkSize - 1)
    guard slot.pointee.inUse else { return }
    (chunks[i >> Self.chunkShift] + i & (Self.chunkSize - 1)).deinitialize(count: 1)
    slot.pointee.inUse = false
    slot.pointee.generation &+= 1
    slot.pointee.nextFree = firstFree
    firstFree = index + 1
    count -= 1
  }
}
