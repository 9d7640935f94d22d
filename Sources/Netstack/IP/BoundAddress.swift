// Owns: what a local address that a socket is bound to stands for. Read first: RFC 3493 §3.7 (IPv4-mapped addresses), §5.3
// (IPV6_V6ONLY); Linux's inet_rcv_saddr_equal.
//
//   bound to              takes
//   0.0.0.0               IPv4
//   ::                    IPv6, and IPv4 unless IPV6_V6ONLY
//   an address            itself

import Wire

extension IPAddress {
  /// An address of IPv6 that is not the wildcard: a bind to it sets IPV6_V6ONLY (Linux's inet6_bind).
  package var isIPv6Specific: Bool { !isIPv4 && !isUnspecified }

  /// Whether a socket bound to this address gets what comes for `address`.
  @inline(__always)
  func takes(_ address: IPAddress, onlyIPv6: Bool) -> Bool {
    if self == address { return true }
    guard isUnspecified else { return false }
    return isIPv4 ? address.isIPv4 : !address.isIPv4 || !onlyIPv6
  }

  /// Whether two sockets on one port, bound to these addresses, could be meant by one packet.
  func overlaps(_ other: IPAddress, onlyIPv6: Bool, otherOnlyIPv6: Bool) -> Bool {
    if self == other { return true }
    if isUnspecified, other.isUnspecified { return !onlyIPv6 && !otherOnlyIPv6 }
    return takes(other, onlyIPv6: onlyIPv6) || other.takes(self, onlyIPv6: otherOnlyIPv6)
  }
}
