// Owns: what a neighbour solicitation or advertisement that came in means for us. Read first: RFC 4861 §7.2 (address resolution),
// RFC 4862 §5.4.3–§5.4.5 (duplicates), RFC 4429 §3.3 (optimistic addresses), RFC 7527 (our own probe, come back). The twin of
// ARP.swift; keeps no state.

import Wire

/// What a message means.
package enum NeighborDiscoveryVerdict: Equatable {
  /// Nothing for us.
  case ignore
  /// It breaks a rule of RFC 4861 §7.1: drop and count.
  case malformed
  /// Somebody asks for one of our addresses. Answer to the asker alone, or to all nodes where it does not say who it is; and learn
  /// from it where the asker is, if it told.
  case answer(toAll: Bool, learn: MACAddress?)
  /// News about the address that is the message's target.
  case learn(MACAddress, NeighborEvidence)
  /// The target has answered us; where it is has not changed.
  case confirm
  /// Somebody else has, or is about to take, an address that we have (RFC 4862 §5.4).
  case conflict
}

package enum NeighborDiscovery {
  /// Judges a message that came from `source` to `destination`.
  /// - Parameter isOurs: its target is an address of ours; `isOptimistic`: of which it is not sure yet that it is ours alone.
  package static func judge(
    _ message: NeighborMessage, source: IPAddress, destination: IPAddress, isOurs: Bool, isOptimistic: Bool,
    ourNonce: UInt64
  ) -> NeighborDiscoveryVerdict {
    if let hardware = message.hardware, hardware.isGroup || hardware == .zero { return .malformed }
    if message.isSolicitation {
      // A probe for duplicates is sent to the group, and does not tell where it comes from.
      if source.isUnspecified, destination != message.target.solicitedNode || message.hardware != nil {
        return .malformed
      }
      guard isOurs else { return .ignore }
      if source.isUnspecified {
        if message.nonce == ourNonce { return .ignore }
        // Both of us are about to take it: neither may (RFC 4862 §5.4.3). What is ours already is defended.
        return isOptimistic ? .conflict : .answer(toAll: true, learn: nil)
      }
      return .answer(toAll: false, learn: message.hardware)
    }
    if message.isSolicited, destination.isMulticast { return .malformed }
    if isOurs { return .conflict }
    // An answer to a question that was sent to the neighbour alone may leave the address out (RFC 4861 §7.2.4); Linux does.
    guard let hardware = message.hardware else { return message.isSolicited ? .confirm : .ignore }
    return .learn(hardware, .advertisement(solicited: message.isSolicited, overrides: message.overrides))
  }
}
