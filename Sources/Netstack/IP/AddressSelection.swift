// Owns: which of our addresses a packet is sent from, and the table that addresses are judged by. Read first: RFC 6724 §2.1 (policy
// table), §3.1 (scopes), §5 (source address selection).

import Wire

package enum AddressSelection {
  /// A row of the policy table.
  package struct Policy: Sendable {
    package var precedence: Int
    package var label: Int
  }

  /// RFC 6724 §2.1: the default policy table, longest prefix first.
  package static func policy(_ address: IPAddress) -> Policy {
    if address.isIPv4 { return Policy(precedence: 35, label: 4) }
    if address.high == 0 {
      if address.low == 1 { return Policy(precedence: 50, label: 0) }
      // ::/96, IPv4-compatible
      if address.low >> 32 == 0, address.low != 0 { return Policy(precedence: 1, label: 3) }
    }
    let top = address.high >> 48
    // Teredo, 6to4, 6bone, unique local, site-local
    if address.high >> 32 == 0x2001_0000 { return Policy(precedence: 5, label: 5) }
    if top == 0x2002 { return Policy(precedence: 30, label: 2) }
    if top == 0x3ffe { return Policy(precedence: 1, label: 12) }
    if top >> 9 == 0xfc >> 1 { return Policy(precedence: 3, label: 13) }
    if top >> 6 == 0xfec0 >> 6 { return Policy(precedence: 1, label: 11) }
    return Policy(precedence: 40, label: 1)
  }

  /// RFC 6724 §3.1: 2 link-local, 5 site-local, 14 global; a multicast address says it itself. §3.2 for IPv4's.
  package static func scope(_ address: IPAddress) -> Int {
    if address.isIPv4 { return address.isLoopback || address.isLinkLocal ? 2 : 14 }
    if address.isMulticast { return Int(address.high >> 48 & 0xf) }
    if address.isLoopback || address.isLinkLocal { return 2 }
    return address.high >> 54 == 0xfec0 >> 6 ? 5 : 14
  }

  /// The source for packets to `destination`; nil where no address of its family is there.
  package static func source(for destination: IPAddress, among addresses: InterfaceAddresses) -> IPAddress? {
    if destination.isIPv4 { return addresses.ipv4 == .any ? nil : IPAddress(addresses.ipv4) }
    var best: Int?
    for i in 0..<addresses.count where !addresses[i].address.isIPv4 {
      if let known = best {
        if isBetter(addresses[i], than: addresses[known], for: destination) { best = i }
      } else {
        best = i
      }
    }
    guard let best else { return nil }
    return addresses[best].address
  }

  /// RFC 6724 §5, rules 1 to 8; rules 4 (home addresses), 5 and 5.5 (interfaces, next hops) and 7 (temporary addresses) have
  /// nothing to decide here.
  private static func isBetter(_ a: InterfaceAddress, than b: InterfaceAddress, for destination: IPAddress) -> Bool {
    if a.address == destination || b.address == destination { return a.address == destination }
    let (scopeA, scopeB, wanted) = (scope(a.address), scope(b.address), scope(destination))
    if scopeA != scopeB { return scopeA < scopeB ? scopeA >= wanted : scopeB < wanted }
    if (a.state == .deprecated) != (b.state == .deprecated) { return b.state == .deprecated }
    // RFC 4429 §3.1: like a deprecated one.
    if (a.state == .optimistic) != (b.state == .optimistic) { return b.state == .optimistic }
    let label = policy(destination).label
    let (fitsA, fitsB) = (policy(a.address).label == label, policy(b.address).label == label)
    if fitsA != fitsB { return fitsA }
    return min(a.address.commonPrefix(destination), a.prefixLength)
      > min(b.address.commonPrefix(destination), b.prefixLength)
  }
}
