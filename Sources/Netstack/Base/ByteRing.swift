// Owns: the bytes a stream socket still has to send or have acknowledged: a ring that grows on demand.
//
//        start                start + count
//   ┌──────┬────────────────────┬───────────────┐
//   │ free │  bytes, in order   │     free      │   capacity: a power of two
//   └──────┴────────────────────┴───────────────┘
//
// Behind the ring's own bytes there may be more that still lie in the memory of the call that sends them (`lend`): what is
// acknowledged before that call returns is never copied. It ends the loan with `settle`.
//
// A frame on its way to the device points straight into the ring. While any does (`pins` > 0) no byte that was dropped from
// the front is given out for writing again and no memory is freed: both happen at the last `unpin`.

package struct ByteRing: ~Copyable {
  private var base: UnsafeMutableRawPointer?
  private var capacity = 0
  private var start = 0
  /// Bytes in the ring itself.
  private var held = 0
  /// Bytes behind them, in somebody else's memory.
  private var lent = UnsafeRawBufferPointer(start: nil, count: 0)
  /// From `lend` until `settle`, also when nothing of it is left: nobody else may append or lend before the lender is done.
  package private(set) var isLent = false
  /// Bytes dropped from the front that a frame in flight may still point to.
  private var withheld = 0
  private var pins = 0
  private var retired: UnsafeMutableRawPointer?
  /// Where a copy of the loan is being made (`reserveForLoan`) and how long the loan was then; 0 = none is.
  private var reserved = 0
  private var reservedCount = 0

  package init() {}

  deinit {
    base?.deallocate()
    retired?.deallocate()
  }

  /// Memory held, bytes.
  package var memory: Int { capacity }
  package var isPinned: Bool { pins > 0 }
  /// All bytes, lent ones included.
  @inline(__always)
  package var count: Int { held &+ lent.count }
  package var lentCount: Int { lent.count }

  /// Appends as much of `bytes` as `limit` (the most bytes to hold) allows; returns how many. Nothing may be lent, but for
  /// these very bytes (`settle`).
  package mutating func append(_ bytes: UnsafeRawBufferPointer, limit: Int) -> Int {
    let wanted = min(bytes.count, limit - held)
    guard wanted > 0, let source = bytes.baseAddress else { return 0 }
    if held + withheld + wanted > capacity { grow(toHold: held + withheld + wanted) }
    let n = min(wanted, capacity - held - withheld)
    guard n > 0, let base else { return 0 }
    let at = (start + held) & (capacity - 1)
    let first = min(n, capacity - at)
    (base + at).copyMemory(from: source, byteCount: first)
    if n > first { base.copyMemory(from: source + first, byteCount: n - first) }
    held += n
    return n
  }

  /// As `append`, without copying: the bytes must stay where they are, unchanged, until `settle` has returned true.
  package mutating func lend(_ bytes: UnsafeRawBufferPointer, limit: Int) -> Int {
    let n = min(bytes.count, limit - held)
    guard n > 0, !isLent else { return 0 }
    isLent = true
    lent = UnsafeRawBufferPointer(rebasing: bytes[..<n])
    return n
  }

  /// Room for a copy of what is still lent, in up to two runs, for somebody who makes it without holding the stack: until
  /// `takeOver` the ring keeps it, whatever is dropped meanwhile. nil while there is none, or nothing is lent.
  package mutating func reserveForLoan() -> (UnsafeMutableRawBufferPointer, UnsafeMutableRawBufferPointer)? {
    guard lent.count > 0, reservedCount == 0 else { return nil }
    let needed = held + withheld + lent.count
    if needed > capacity { grow(toHold: needed) }
    guard held + withheld + lent.count <= capacity, let base else { return nil }
    reserved = (start + held) & (capacity - 1)
    reservedCount = lent.count
    pin()
    let first = min(reservedCount, capacity - reserved)
    return (
      UnsafeMutableRawBufferPointer(start: base + reserved, count: first),
      UnsafeMutableRawBufferPointer(start: base, count: reservedCount - first)
    )
  }

  /// The copy is there: the loan's bytes are from now on the ring's own, and `settle` follows. Those that have been dropped meanwhile are passed over.
  package mutating func takeOver() {
    guard reservedCount > 0 else { return }
    let gone = reservedCount - lent.count
    reservedCount = 0
    if lent.count > 0 {
      if gone > 0 {
        // All that was in front of the loan is gone as well: the ring begins within the copy.
        start = (reserved + gone) & (capacity - 1)
        withheld += gone
      }
      held += lent.count
      lent = UnsafeRawBufferPointer(start: nil, count: 0)
    }
    unpin()
  }

  /// Ends the loan: what is left of it is copied. False while a frame may still point into it; nothing has changed then.
  package mutating func settle() -> Bool {
    guard pins == 0, reservedCount == 0 else { return false }
    let rest = lent
    lent = UnsafeRawBufferPointer(start: nil, count: 0)
    isLent = false
    _ = append(rest, limit: .max)
    return true
  }

  private mutating func grow(toHold needed: Int) {
    if pins > 0, retired != nil { return }
    var newCapacity = max(capacity, 4096)
    while newCapacity < needed { newCapacity *= 2 }
    let new = UnsafeMutableRawPointer.allocate(byteCount: newCapacity, alignment: 64)
    if let base {
      let first = min(held, capacity - start)
      new.copyMemory(from: base + start, byteCount: first)
      if held > first { (new + first).copyMemory(from: base, byteCount: held - first) }
      if pins > 0 { retired = base } else { base.deallocate() }
    }
    base = new
    capacity = newCapacity
    start = 0
    // What was withheld lives in the retired memory now.
    withheld = 0
  }

  /// The bytes at `offset ..< offset + length` as up to three runs of memory, in order.
  @inline(__always)
  package func slices(at offset: Int, length: Int) -> (
    UnsafeRawBufferPointer, UnsafeRawBufferPointer, UnsafeRawBufferPointer
  ) {
    let own = min(length, max(held &- offset, 0))
    var first = UnsafeRawBufferPointer(start: nil, count: 0)
    var second = first
    var third = first
    if own > 0, let base {
      let at = (start &+ offset) & (capacity &- 1)
      let unwrapped = min(own, capacity &- at)
      first = UnsafeRawBufferPointer(start: base + at, count: unwrapped)
      second = UnsafeRawBufferPointer(start: base, count: own &- unwrapped)
    }
    if length > own, let borrowed = lent.baseAddress {
      third = UnsafeRawBufferPointer(start: borrowed + max(offset &- held, 0), count: length &- own)
    }
    return (first, second, third)
  }

  /// Drops `n` bytes (at most `count`) from the front.
  package mutating func drop(_ n: Int) {
    let own = min(n, held)
    if n > own { lent = UnsafeRawBufferPointer(rebasing: lent[(n - own)...]) }
    held -= own
    if pins > 0 {
      // `start` moves; the dropped bytes sit just before it and stay reserved.
      start = (start + own) & max(capacity - 1, 0)
      // Also after a growth: frames made since then point into the new memory.
      withheld += own
      return
    }
    start = held == 0 ? 0 : (start + own) & max(capacity - 1, 0)
  }

  /// Frees the memory of an empty, unpinned ring.
  package mutating func releaseMemory() {
    guard held == 0, pins == 0, let base else { return }
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
