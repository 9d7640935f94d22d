// Owns: what every congestion control shares: the window, slow start, the reduction on loss and its undo. The algorithms
// are in CongestionControl+NewReno.swift and +CUBIC.swift. Read first: RFC 5681 §3, RFC 6928 (initial window).
//
// Windows are in bytes; the algorithms are told the segment size. Which one runs is an enum, so a call is a jump, not an
// existential.

struct CongestionControl {
  private(set) var algorithm: CongestionAlgorithm
  /// cwnd, bytes.
  var window: Int
  /// ssthresh, bytes; Int.max = not set yet.
  var slowStartThreshold = Int.max
  /// What a spurious reduction goes back to (Linux's prior_cwnd, prior_ssthresh).
  private(set) var priorWindow = 0
  private var priorThreshold = 0
  /// Bytes acknowledged that do not make a whole window yet (RFC 5681 §3.1, appropriate byte counting).
  var acknowledgedBytes = 0
  var cubic = CUBIC()

  /// - Parameter segment: SMSS, bytes. The initial window is ten segments (RFC 6928 §2).
  init(algorithm: CongestionAlgorithm, segment: Int) {
    self.algorithm = algorithm
    window = Self.initialWindow(segment: segment)
  }

  static func initialWindow(segment: Int) -> Int { min(10 * segment, max(2 * segment, 14600)) }

  var inSlowStart: Bool { window < slowStartThreshold }

  mutating func use(_ algorithm: CongestionAlgorithm) {
    self.algorithm = algorithm
    cubic = CUBIC()
  }

  /// `bytes` were newly acknowledged while the sender used its window fully. Not called in recovery.
  mutating func acknowledged(_ bytes: Int, segment: Int, rtt: Interval, now: Instant) {
    var left = bytes
    if inSlowStart {
      // RFC 5681 §3.1 with RFC 3465's counting; what goes past ssthresh counts for congestion avoidance.
      let grown = min(window + left, max(slowStartThreshold, window))
      left -= grown - window
      window = grown
      if left <= 0 { return }
    }
    switch algorithm {
    case .reno: avoidCongestionReno(left, segment: segment)
    case .cubic: avoidCongestionCUBIC(left, segment: segment, rtt: rtt, now: now)
    }
  }

  /// The sender learnt of a loss: a new ssthresh (RFC 5681 equation 4, or the algorithm's own factor).
  /// - Parameter flight: bytes in flight. The window itself is left to recovery.
  mutating func reduce(flight: Int, segment: Int, now: Instant) {
    priorWindow = window
    priorThreshold = slowStartThreshold
    let threshold: Int
    switch algorithm {
    case .reno: threshold = window / 2
    case .cubic: threshold = cubic.reduced(window: window, segment: segment, now: now)
    }
    slowStartThreshold = max(threshold, 2 * segment)
    acknowledgedBytes = 0
  }

  /// The reduction turned out to be needless.
  mutating func undo() {
    window = max(window, priorWindow)
    if priorThreshold > slowStartThreshold { slowStartThreshold = priorThreshold }
    cubic.restart()
  }

  /// The connection was idle for longer than an RTO (RFC 5681 §4.1): the window decays by half per RTO, not below the
  /// restart window.
  mutating func idled(_ idle: Interval, rto: Interval, segment: Int) {
    let restart = min(Self.initialWindow(segment: segment), window)
    slowStartThreshold = max(slowStartThreshold == .max ? window * 3 / 4 : slowStartThreshold, window * 3 / 4)
    var left = idle
    while left > rto, window > restart {
      left = left - rto
      window >>= 1
    }
    window = max(window, restart)
    cubic.restart()
  }
}
