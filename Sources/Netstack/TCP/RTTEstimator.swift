// Owns: the round-trip time estimate and the retransmission time-out. Read first: RFC 6298; Linux's variance floor (the
// RTO is SRTT plus at least tcp_rto_min) as in tcp_rtt_estimator().

struct RTTEstimator {
  /// SRTT and RTTVAR (RFC 6298 §2), nanoseconds; 0 = no sample yet.
  private(set) var srtt: Int64 = 0
  private(set) var rttvar: Int64 = 0
  /// Mean deviation within the current round trip, and its maximum: RTTVAR decays once per round trip, not per sample.
  private var deviation: Int64 = 0
  private var maximumDeviation: Int64 = 0
  private var roundEnd: Instant = .zero
  /// The least RTT of the last 5 minutes, nanoseconds (tcp_min_rtt_wlen = 300 s); 0 = none.
  private(set) var minimum: Int64 = 0
  private var minimumSince: Instant = .zero
  /// RTO without back-off, nanoseconds.
  private(set) var base: Int64 = 1_000_000_000
  /// How often the RTO was doubled since the last sample (RFC 6298 §5.5).
  var backoff: Int = 0
  /// The latest sample, nanoseconds.
  private(set) var latest: Int64 = 0

  var hasSample: Bool { srtt != 0 }
  var smoothed: Interval { Interval(nanoseconds: srtt) }

  /// Takes a sample R (RFC 6298 §2.2, §2.3).
  mutating func sample(_ rtt: Interval, now: Instant, settings: UnsafePointer<Settings>) {
    let r = max(rtt.nanoseconds, 1000)
    latest = r
    if minimum == 0 || r <= minimum || now - minimumSince > .seconds(300) {
      minimum = r
      minimumSince = now
    }
    let floor = Int64(settings.pointee.tcpRtoMin) * 1_000_000
    if srtt == 0 {
      srtt = r
      deviation = r / 2
      rttvar = max(r / 2, floor / 4)
      maximumDeviation = rttvar
      roundEnd = now + rtt
    } else {
      let error = r - srtt
      srtt += error / 8
      let magnitude = error < 0 ? -error : error
      if error < 0, magnitude > deviation {
        // The RTT fell: do not let one good sample push the RTO up (Linux, tcp_rtt_estimator).
        deviation += (magnitude - deviation) / 32
      } else {
        deviation += (magnitude - deviation) / 4
      }
      if deviation > maximumDeviation {
        maximumDeviation = deviation
        if maximumDeviation > rttvar { rttvar = maximumDeviation }
      }
      if now > roundEnd {
        if maximumDeviation < rttvar { rttvar -= (rttvar - maximumDeviation) / 4 }
        roundEnd = now + Interval(nanoseconds: srtt)
        maximumDeviation = floor / 4
      }
    }
    base = srtt + max(4 * rttvar, floor)
    base = min(base, Int64(settings.pointee.tcpRtoMax) * 1_000_000)
    backoff = 0
  }

  /// The RTO now: doubled per back-off, at most tcp_rto_max_ms.
  func rto(settings: borrowing Settings) -> Interval {
    let limit = Int64(settings.tcpRtoMax) * 1_000_000
    var value = base
    var n = backoff
    while n > 0, value < limit {
      value *= 2
      n -= 1
    }
    return Interval(nanoseconds: min(value, limit))
  }
}
