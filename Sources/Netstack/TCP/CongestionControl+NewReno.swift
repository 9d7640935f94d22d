// Owns: NewReno's congestion avoidance: one segment per window of acknowledged data. Read first: RFC 5681 §3.1,
// RFC 6582 (its recovery is in Retransmission.swift, shared by all algorithms).

extension CongestionControl {
  mutating func avoidCongestionReno(_ bytes: Int, segment: Int) {
    acknowledgedBytes += bytes
    while acknowledgedBytes >= window {
      acknowledgedBytes -= window
      window += segment
    }
  }
}
