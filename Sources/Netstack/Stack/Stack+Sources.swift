// Owns: what the layers above ask about the way to a destination before they have a socket.

import Wire

extension Stack {
  /// The address that packets to `destination` would come from; nil where there is no way to it.
  package func source(toward destination: IPAddress, now: Instant) -> IPAddress? {
    guard let decision = decide(destination, now: now) else { return nil }
    switch decision.kind {
    case .unicast, .local, .broadcast, .multicast: return decision.source
    case .blackhole, .unreachable, .prohibit: return nil
    }
  }
}
