// Owns: what every layer of one stack shares: settings, counters, the trace, the timer wheel, the packet memory, randomness, and
// the time of the entry that is running. It lives at a fixed address for the life of its stack; layers get a pointer to it
// for the length of a call. It knows no layer above Buffer.

import Wire

package struct Environment: ~Copyable {
  private let inMemory = InMemory()
  package var now: Instant
  package var settings: Settings
  package var statistics = Statistics()
  package var trace = TraceLog()
  package var wheel: TimerWheel
  package var pool = BufferPool()
  package var random: SecretRandom
  package let secret: HashKey

  package init(settings: Settings, secret: HashKey, seed: UInt64, now: Instant) {
    self.now = now
    self.settings = settings
    self.secret = secret
    wheel = TimerWheel(now: now)
    random = SecretRandom(key: HashKey(secret.k0 ^ 6 &* 0x9e37_79b9_7f4a_7c15, secret.k1 ^ seed))
  }

  /// Counts a dropped packet, tells the trace, and takes its memory back.
  package mutating func drop(_ packet: PacketBuffer, _ reason: DropReason, _ category: TraceCategory) {
    noteDrop(reason, category)
    pool.release(packet)
  }

  package mutating func noteDrop(_ reason: DropReason, _ category: TraceCategory) {
    statistics[drop: reason] &+= 1
    if trace.allows(category, .info) {
      var event = TraceEvent(now, category, .info, .drop)
      event.a = Int64(reason.rawValue)
      trace.append(event)
    }
  }
}

package typealias EnvironmentPointer = UnsafeMutablePointer<Environment>

/// What the owner word of a timer means. The wheel itself does not care.
package enum TimerKind {
  package static let tcpSend: UInt8 = 1
  package static let tcpDelayedAck: UInt8 = 2
  package static let tcpLife: UInt8 = 3
  package static let timeWait: UInt8 = 4
  package static let neighbor: UInt8 = 5
  package static let reassembly: UInt8 = 6
  /// Addresses, routers and prefixes: questions and lifetimes.
  package static let interface: UInt8 = 7
  /// The DHCP client's.
  package static let dhcp: UInt8 = 8
  package static let multicast: UInt8 = 9
}
