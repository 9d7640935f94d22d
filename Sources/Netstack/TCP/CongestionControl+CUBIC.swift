// Owns: CUBIC. Read first: RFC 9438 §4 (the window function, the Reno-friendly region, fast convergence).
//
// The RFC computes in segments and seconds; so does this file, in Double, once per acknowledgment.

struct CUBIC {
  /// C of RFC 9438 §4.1, segments/s³, and β.
  private static var scale: Double { 0.4 }
  private static var beta: Double { 0.7 }
  /// α of the Reno-friendly estimate: 3(1−β)/(1+β) (§4.3).
  private static var renoAlpha: Double { 3 * (1 - 0.7) / (1 + 0.7) }

  private var epochStart: Instant?
  /// W_max and cwnd at the epoch's start, segments; K, seconds; W_est, segments.
  private var maximum = 0.0
  private var k = 0.0
  private var origin = 0.0
  private var estimate = 0.0
  private var startWindow = 0.0

  init() {}

  mutating func restart() { epochStart = nil }

  mutating func reduced(window: Int, segment: Int, now: Instant) -> Int {
    epochStart = nil
    let current = Double(window) / Double(segment)
    // Fast convergence (§4.7): a flow that was reduced below its last maximum gives some room away.
    maximum = current < maximum ? current * (1 + Self.beta) / 2 : current
    return Int(Double(window) * Self.beta)
  }

  /// The cube root, by Newton's method from a power of two near it: no libm in the shipped library.
  private static func cubeRoot(_ x: Double) -> Double {
    guard x > 0 else { return 0 }
    let exponent = Int(x.exponent) / 3
    var y = Double(sign: .plus, exponent: exponent, significand: 1)
    for _ in 0..<8 { y = (2 * y + x / (y * y)) / 3 }
    return y
  }

  /// The window to grow to by one RTT from now, segments.
  mutating func target(window: Double, acknowledged: Double, rtt: Interval, now: Instant) -> Double {
    let begin: Instant
    if let epochStart {
      begin = epochStart
    } else {
      epochStart = now
      begin = now
      startWindow = window
      estimate = window
      if window < maximum {
        k = Self.cubeRoot((maximum - window) / Self.scale)
        origin = maximum
      } else {
        k = 0
        origin = window
      }
    }
    let t = Double((now - begin).nanoseconds + rtt.nanoseconds) * 1e-9 - k
    let cubic = origin + Self.scale * t * t * t
    // §4.3: never below what Reno would have; once past W_max with α = 1.
    let alpha = estimate >= maximum ? 1 : Self.renoAlpha
    estimate += alpha * acknowledged / window
    let goal = max(cubic, estimate)
    return min(max(goal, window), 1.5 * window)
  }
}

extension CongestionControl {
  mutating func avoidCongestionCUBIC(_ bytes: Int, segment: Int, rtt: Interval, now: Instant) {
    let current = Double(window) / Double(segment)
    let acknowledged = Double(bytes) / Double(segment)
    let goal = cubic.target(window: current, acknowledged: acknowledged, rtt: rtt, now: now)
    // §4.4: (target − cwnd)/cwnd per acknowledged segment.
    let growth = (goal - current) / current * acknowledged * Double(segment)
    acknowledgedBytes += max(Int(growth), 0)
    // Whole bytes now; Linux waits for a whole segment, the average is the same.
    window += acknowledgedBytes
    acknowledgedBytes = 0
  }
}
