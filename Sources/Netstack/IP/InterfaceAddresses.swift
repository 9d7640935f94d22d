// Owns: which addresses the interface has, of both families, and how far each may be used. Read first: RFC 4862 §5.4, §5.5
// (states and lifetimes), RFC 4429 (optimistic addresses); ip-address(8) for the words. Knows nothing of packets: Stack/ asks
// the questions that duplicate address detection and router advertisements make necessary.
//
//   add ──▶ optimistic ──nobody objects for a second──▶ preferred ──preferred lifetime──▶ deprecated ──valid lifetime──▶ (gone)
//               └──────────somebody has it──────────▶ (gone)
//
// IPv4 addresses are preferred at once: what ARP's announcement brings to light is dealt with as RFC 5227 §2.4 says.

import Wire

package struct InterfaceAddress: Sendable {
  package enum State: UInt8, Sendable {
    /// In use, while it is found out whether somebody else has it (RFC 4429 §3).
    case optimistic
    case preferred
    /// Still ours, but no new conversation begins from it (RFC 4862 §5.5.4).
    case deprecated
  }
  package enum Origin: UInt8, Sendable { case configured, linkLocal, autoconfigured, leased }

  package var address: IPAddress
  /// In its own family's lengths: 0…32 or 0…128.
  package var prefixLength: Int
  package var state: State
  package var origin: Origin
  /// RFC 4862 §5.5.4; `.distantFuture` for ever.
  package var preferredUntil = Instant.distantFuture
  package var validUntil = Instant.distantFuture
  /// While optimistic: when it becomes preferred.
  package var detectedAt = Instant.distantFuture

  package init(_ address: IPAddress, prefixLength: Int, state: State, origin: Origin) {
    self.address = address
    self.prefixLength = prefixLength
    self.state = state
    self.origin = origin
  }
}

package struct InterfaceAddresses: Sendable {
  package static var maximumCount: Int { 16 }
  /// Of those at most so many follow from what routers advertise.
  package static var maximumAutoconfigured: Int { 8 }
  /// The addresses by themselves: a packet's is looked for among them.
  private(set) var keys = InlineArray<16, IPAddress>(repeating: .anyIPv6)
  private var list = InlineArray<16, InterfaceAddress>(
    repeating: InterfaceAddress(.anyIPv6, prefixLength: 128, state: .preferred, origin: .configured))
  package private(set) var count = 0
  /// The first IPv4 address: what ARP speaks with, and the one that most packets are for.
  package private(set) var ipv4 = IPv4Address.any
  /// The latest that others turned out to have.
  private var duplicates = InlineArray<4, IPAddress>(repeating: .anyIPv6)
  private var nextDuplicate = 0

  package init() {}

  package subscript(_ i: Int) -> InterfaceAddress {
    get { list[i] }
    set { list[i] = newValue }
  }

  /// Adds an address, or replaces what is known of it; false where there is no room.
  package mutating func add(_ new: InterfaceAddress) -> Bool {
    if let at = index(of: new.address) {
      list[at] = new
      return true
    }
    guard count < Self.maximumCount else { return false }
    if new.origin == .autoconfigured {
      var others = 0
      for i in 0..<count where list[i].origin == .autoconfigured { others += 1 }
      guard others < Self.maximumAutoconfigured else { return false }
    }
    list[count] = new
    keys[count] = new.address
    count += 1
    findIPv4()
    return true
  }

  package mutating func remove(_ address: IPAddress) {
    guard let at = index(of: address) else { return }
    for i in at..<count - 1 {
      list[i] = list[i + 1]
      keys[i] = keys[i + 1]
    }
    count -= 1
    findIPv4()
  }

  /// Somebody else has `address`.
  package mutating func noteDuplicate(_ address: IPAddress) {
    duplicates[nextDuplicate] = address
    nextDuplicate = (nextDuplicate + 1) % duplicates.count
  }

  /// Whether somebody else was found to have it: routers go on advertising its prefix (RFC 4862 §5.4.5).
  package func isDuplicate(_ address: IPAddress) -> Bool {
    for i in duplicates.indices where duplicates[i] == address { return true }
    return false
  }

  private mutating func findIPv4() {
    ipv4 = .any
    for i in (0..<count).reversed() where list[i].address.isIPv4 { ipv4 = list[i].address.v4 }
  }

  package func index(of address: IPAddress) -> Int? {
    for i in 0..<count where keys[i] == address { return i }
    return nil
  }

  @inline(__always)
  package func contains(_ address: IPAddress) -> Bool {
    if address.isIPv4, address.v4 == ipv4 { return true }
    return index(of: address) != nil
  }

  /// Whether an address of this family is there that reaches beyond the link.
  package func hasGlobal(ipv6: Bool) -> Bool {
    for i in 0..<count where list[i].address.isIPv4 != ipv6 && !list[i].address.isLinkLocal { return true }
    return false
  }

  /// The one of our addresses whose solicited-node group (RFC 4291 §2.7.1) is `group`.
  package func solicited(by group: IPAddress) -> Bool {
    for i in 0..<count where !list[i].address.isIPv4 && list[i].address.solicitedNode == group { return true }
    return false
  }

  package func firstLinkLocal() -> InterfaceAddress? {
    for i in 0..<count where !list[i].address.isIPv4 && list[i].address.isLinkLocal { return list[i] }
    return nil
  }
}
