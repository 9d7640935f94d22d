// Owns: the bytes a stream socket still has to send or have acknowledged: a ring that grows on demand.
//
//        start                start + count
//   ┌──────┬────────────────────┬───────────────┐
//   │ free │  bytes, in order   │     free      │   capacity: a power of two
//   └──────┴────────────────────┴───────────────┘
//
// A frame on its way to the device points straight into the ring. While any does (`pins` > 0) no byte that was dropped from
// the front is given out for writing again and no memory is freed: both happen at the last `unpin`.

package struct ByteRing: ~Copyable {
  private var base: UnsafeMutableRawPointer?
  private var capacity = 0
  private var start = 0
  /// Bytes held.
  package private(set) var count = 0
  /// Bytes dropped from the front that a frame in flight may still point to.
  private var withheld = 0
  private var pins = 0
  private var retired: UnsafeMutableRawPointer?

  package init() {}

  deinit {
    base?.deallocate()
    retired?.deallocate()
  }

  /// Memory held, bytes.
  package var memory: Int { capacity }
  package var isPinned: Bool { pins > 0 }

  /// Appends as much of `bytes` as `limit` (the most bytes to hold) allows; returns how many.
  package mutating func append(_ bytes: UnsafeRawBufferPointer, limit: Int) -> Int {
    let wanted = min(bytes.count, limit - count)
    guard wanted > 0, let source = bytes.baseAddress else { return 0 }
    if count + withheld + wanted > capacity { grow(toHold: count + withheld + wanted) }
    let n = min(wanted, capacity - count - withheld)
    guard n > 0, let base else { return 0 }
    let at = (start + count) & (capacity - 1)
    let first = min(n, capacity - at)
    (base + at).copyMemory(from: source, byteCount: first)
    if n > first { base.copyMemory(from: source + first, byteCount: n - first) }
    count += n
    return n
  }

  private mutating func grow(toHold needed: Int) {
    if pins > 0, retired != nil { return }
    var newCapacity = max(capacity, 4096)
    while newCapacity < needed { newCapacity *= 2 }
    let new = UnsafeMutableRawPointer.allocate(byteCount: newCapacity, alignment: 64)
    if let base {
      let first = min(count, capacity - start)
      new.copyMemory(from: base + start, byteCount: first)
      if count > first { (new + first).copyMemory(from: base, byteCount: count - first) }
      if pins > 0 { retired = base } else { base.deallocate() }
    }
    base = new
    capacity = newCapacity
    start = 0
    // What was withheld lives in the retired memory now.
    withheld = 0
  }

  /// The bytes at `offset ..< offset + length` as one or two runs of memory.
  @inline(__always)
  package func slices(at offset: Int, length: Int) -> (UnsafeRawBufferPointer, UnsafeRawBufferPointer) {
    guard length > 0, let base else {
      return (UnsafeRawBufferPointer(start: nil, count: 0), UnsafeRawBufferPointer(start: nil, count: 0))
    }
    let at = (start &+ offset) & (capacity &- 1)
    let first = min(length, capacity &- at)
    return (
      UnsafeRawBufferPointer(start: base + at, count: first),
      UnsafeRawBufferPointer(start: base, count: length &- first)
    )
  }

  /// Drops `n` bytes (at most `count`) from the front.
  package mutating func drop(_ n: Int) {
    count -= n
    if pins > 0 {
      // `start` moves; the dropped bytes sit just before it and stay reserved.
      start = (start + n) & (capacity - 1)
      // Also after a growth: frames made since then point into the new memory.
      withheld += n
      return
    }
    start = count == 0 ? 0 : (start + n) & (capacity - 1)
  }

  /// Frees the memory of an empty, unpinned ring.
  package mutating func releaseMemory() {
    guard count == 0, pins == 0, let base else { return }
    base.deallocate()
    self.base = nil
    capacity = 0
    start = 0
  }

  @inline(__always)
  package mutating func pin() { pins &+= 1 }

  package mutating func unpin() {
    pins -= 1
    guard pins == 0 else { return }
    withheld = 0
    if let old = retired {
      old.deallocate()
      retired = nil
    }
  }
}
