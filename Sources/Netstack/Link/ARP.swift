// Owns: what an ARP packet that came in means for us, and the ARP packets we send. Read first: RFC 826 "Packet Reception",
// RFC 5227 §1.1, §2.1.1 and §2.4 (probes, announcements, conflicts). Keeps no state but the time of the last defence.

import Wire

/// What an ARP packet means.
package enum ARPVerdict {
  /// Nothing for us.
  case ignore
  /// Impossible addresses: drop and count.
  case malformed
  /// Somebody asks for our address: answer, and learn from it where the asker is, if `learn` (a probe tells nothing).
  case answer(ARPPacket, learn: Bool)
  /// News about a neighbour, for the neighbour table.
  case learn(IPv4Address, MACAddress, NeighborEvidence)
  /// The sender claims our address as its own.
  case conflict(MACAddress)
}

package enum ARP {
  /// Judges a packet received in a frame that was addressed to `frameDestination`. `ourAddress` is .any while we have none.
  package static func judge(
    _ packet: ARPPacket, frameDestination: MACAddress, ourAddress: IPv4Address, ourHardware: MACAddress
  ) -> ARPVerdict {
    let sender = packet.senderProtocol
    let hardware = packet.senderHardware
    guard packet.operation == ARPPacket.request || packet.operation == ARPPacket.reply else { return .ignore }
    // A group address answers for nobody; an IPv4 address that cannot be a host's is not worth an entry.
    guard !hardware.isGroup, hardware != .zero, !sender.isMulticast, !sender.isLoopback, sender != .limitedBroadcast
    else { return .malformed }
    // Our own packet, come back to us.
    if hardware == ourHardware { return .ignore }
    // RFC 5227 §2.4: whatever the operation.
    if sender == ourAddress, sender != .any { return .conflict(hardware) }

    if packet.operation == ARPPacket.request {
      if packet.targetProtocol == ourAddress, ourAddress != .any {
        let reply = ARPPacket(
          operation: ARPPacket.reply, senderHardware: ourHardware, senderProtocol: ourAddress,
          targetHardware: hardware, targetProtocol: sender)
        // Sender 0.0.0.0 is a probe: its address is not in use yet (RFC 5227 §2.1.1).
        return .answer(reply, learn: sender != .any)
      }
      guard sender != .any else { return .ignore }
      return .learn(sender, hardware, packet.targetProtocol == sender ? .gratuitous : .overheard)
    }
    guard sender != .any else { return .malformed }
    if packet.targetProtocol == sender { return .learn(sender, hardware, .gratuitous) }
    return .learn(sender, hardware, .reply(solicited: frameDestination == ourHardware))
  }

  /// Asks who has `target` (RFC 826 "Packet Generation").
  package static func request(
    for target: IPv4Address, ourAddress: IPv4Address, ourHardware: MACAddress
  ) -> ARPPacket {
    ARPPacket(
      operation: ARPPacket.request, senderHardware: ourHardware, senderProtocol: ourAddress, targetHardware: .zero,
      targetProtocol: target)
  }

  /// Tells all who we are (RFC 5227 §2.3: a request with both protocol addresses ours).
  package static func announcement(ourAddress: IPv4Address, ourHardware: MACAddress) -> ARPPacket {
    request(for: ourAddress, ourAddress: ourAddress, ourHardware: ourHardware)
  }
}

/// Decides whether to defend our address with an announcement when somebody else claims it: RFC 5227 §2.4 (c), an address
/// that is kept whatever happens, but no two announcements within ten seconds, or two defenders would never fall silent.
package struct AddressDefense: Sendable {
  private static var defendInterval: Interval { .seconds(10) }
  private var last: Instant?
  /// Conflicts seen.
  package private(set) var conflicts = 0

  package init() {}

  package mutating func shouldDefend(now: Instant) -> Bool {
    conflicts &+= 1
    if let last, now - last < Self.defendInterval { return false }
    last = now
    return true
  }
}
