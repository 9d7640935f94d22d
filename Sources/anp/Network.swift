// Owns: IPv4 addresses with a prefix length as they are written in options and variables.

import Glibc

struct Network: Equatable {
  /// Host byte order; may have host bits set ("198.18.0.4/24").
  var address: UInt32
  var length: Int

  static let stackDefault = Network("198.18.0.4/24")!

  init(address: UInt32, length: Int) {
    self.address = address
    self.length = length
  }

  init(address: UInt32, mask: UInt32) { self.init(address: address, length: mask.nonzeroBitCount) }

  init?(_ text: String) {
    let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
    guard parts.count == 2, let address = Network.address(String(parts[0])), let length = Int(parts[1]),
      (8...30).contains(length)
    else { return nil }
    self.init(address: address, length: length)
  }

  var mask: UInt32 { UInt32.max << UInt32(32 - length) }
  var network: UInt32 { address & mask }
  var broadcast: UInt32 { network | ~mask }
  /// An address that a machine may have.
  var isHost: Bool { address != network && address != broadcast }
  func contains(_ other: UInt32) -> Bool { other & mask == network }
  /// The next address in the network, or the one before at its end.
  var neighbor: UInt32 { address + 1 == broadcast ? address - 1 : address + 1 }
  var text: String { "\(Network.text(address))/\(length)" }

  static func address(_ text: String) -> UInt32? {
    var parsed = in_addr()
    guard inet_pton(AF_INET, text, &parsed) == 1 else { return nil }
    return UInt32(bigEndian: parsed.s_addr)
  }

  static func isIPv6(_ text: String) -> Bool {
    var parsed = in6_addr()
    return inet_pton(AF_INET6, text, &parsed) == 1
  }

  static func text(_ address: UInt32) -> String {
    "\(address >> 24).\(address >> 16 & 255).\(address >> 8 & 255).\(address & 255)"
  }
}
