// Owns: storage for the shim's records (descriptions, epoll sets, interests, threads): at addresses that never move and
// memory that is never returned, so that a stale pointer or index reads a record of the same type, and look-ups need no
// lock. Taking and giving back is done under the state lock (anp_state_lock).

/// A record that a `Pool` holds.
protocol Pooled: ~Copyable {
  init(index: UInt32)
  var index: UInt32 { get }
  /// Next free record, plus one; 0 ends the list.
  var nextFree: UInt32 { get set }
}

struct Pool<Record: ~Copyable & Pooled>: ~Copyable {
  /// Large chunks keep the array of chunks short: it is made whole at the first use.
  private static var chunkShift: Int { 8 }
  private let chunks: UnsafeMutablePointer<UnsafeMutablePointer<Record>?>
  private let maximum: Int
  /// Records ever made; those below have been initialised.
  private(set) var made = 0
  private var firstFree: UInt32 = 0

  init(maximum: Int) {
    self.maximum = maximum
    let count = (maximum >> Self.chunkShift) + 1
    chunks = .allocate(capacity: count)
    chunks.initialize(repeating: nil, count: count)
  }

  @inline(__always)
  func record(_ index: UInt32) -> UnsafeMutablePointer<Record> {
    chunks[Int(index) >> Self.chunkShift].unsafelyUnwrapped + Int(index) & ((1 << Self.chunkShift) - 1)
  }

  /// Under the state lock. Nil where `maximum` are in use.
  mutating func take() -> UnsafeMutablePointer<Record>? {
    if firstFree != 0 {
      let taken = record(firstFree - 1)
      firstFree = taken.pointee.nextFree
      return taken
    }
    guard made < maximum else { return nil }
    let chunk = made >> Self.chunkShift
    if chunks[chunk] == nil { chunks[chunk] = .allocate(capacity: 1 << Self.chunkShift) }
    let fresh = record(UInt32(made))
    fresh.initialize(to: Record(index: UInt32(made)))
    made += 1
    return fresh
  }

  /// Under the state lock.
  mutating func give(_ record: UnsafeMutablePointer<Record>) {
    record.pointee.nextFree = firstFree
    firstFree = record.pointee.index + 1
  }
}
