// Owns: time as the stack sees it. The core never reads a clock: every entry point is handed `now`.

/// A point on the monotonic clock of the shell that drives the stack, in nanoseconds since an arbitrary start.
package struct Instant: Comparable, Sendable {
  package var nanoseconds: Int64

  @inline(__always)
  package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static var zero: Instant { Instant(nanoseconds: 0) }
  package static var distantFuture: Instant { Instant(nanoseconds: .max) }

  @inline(__always)
  package static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }
  @inline(__always)
  package static func == (a: Instant, b: Instant) -> Bool { a.nanoseconds == b.nanoseconds }
  @inline(__always)
  package static func + (a: Instant, d: Interval) -> Instant { Instant(nanoseconds: a.nanoseconds &+ d.nanoseconds) }
  @inline(__always)
  package static func - (a: Instant, d: Interval) -> Instant { Instant(nanoseconds: a.nanoseconds &- d.nanoseconds) }
  @inline(__always)
  package static func - (a: Instant, b: Instant) -> Interval { Interval(nanoseconds: a.nanoseconds &- b.nanoseconds) }

  /// Whole milliseconds since the start: the tick of TCP timestamps (RFC 7323 §5.4).
  @inline(__always)
  package var milliseconds: Int64 { nanoseconds / 1_000_000 }
}

/// A signed length of time in nanoseconds. Swift's `Duration` is 128 bits wide and slower; this one is a register.
package struct Interval: Comparable, Sendable {
  package var nanoseconds: Int64

  @inline(__always)
  package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static var zero: Interval { Interval(nanoseconds: 0) }
  @inline(__always)
  package static func microseconds(_ n: Int) -> Interval { Interval(nanoseconds: Int64(n) &* 1000) }
  @inline(__always)
  package static func milliseconds(_ n: Int) -> Interval { Interval(nanoseconds: Int64(n) &* 1_000_000) }
  @inline(__always)
  package static func seconds(_ n: Int) -> Interval { Interval(nanoseconds: Int64(n) &* 1_000_000_000) }

  @inline(__always)
  package static func < (a: Interval, b: Interval) -> Bool { a.nanoseconds < b.nanoseconds }
  @inline(__always)
  package static func == (a: Interval, b: Interval) -> Bool { a.nanoseconds == b.nanoseconds }
  @inline(__always)
  package static func + (a: Interval, b: Interval) -> Interval { Interval(nanoseconds: a.nanoseconds &+ b.nanoseconds) }
  @inline(__always)
  package static func - (a: Interval, b: Interval) -> Interval { Interval(nanoseconds: a.nanoseconds &- b.nanoseconds) }
  @inline(__always)
  package static func * (a: Interval, n: Int) -> Interval { Interval(nanoseconds: a.nanoseconds &* Int64(n)) }
  @inline(__always)
  package static func / (a: Interval, n: Int) -> Interval { Interval(nanoseconds: a.nanoseconds / Int64(n)) }

  package var microseconds: Int64 { nanoseconds / 1000 }
  package var milliseconds: Int64 { nanoseconds / 1_000_000 }
}
