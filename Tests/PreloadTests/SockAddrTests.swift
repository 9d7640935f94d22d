// Owns: tests of sockaddr images. The kernel's own checks are the reference: inet_bind, tcp_v4_connect, tcp_v6_connect.

import CSupport
import Netstack
import Testing
import Wire

@testable import Preload

@Suite("Socket addresses")
struct SockAddrTests {
  /// struct sockaddr_in as the program would lay it out.
  private func inet(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8, port: UInt16, family: UInt16 = 2) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 16)
    bytes[0] = UInt8(family & 0xff)
    bytes[1] = UInt8(family >> 8)
    bytes[2] = UInt8(port >> 8)
    bytes[3] = UInt8(port & 0xff)
    bytes[4...7] = [a, b, c, d]
    return bytes
  }

  private func inet6(_ tail: [UInt8], port: UInt16) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: 28)
    bytes[0] = 10
    bytes[2] = UInt8(port >> 8)
    bytes[3] = UInt8(port & 0xff)
    bytes.replaceSubrange((24 - tail.count)..<24, with: tail)
    return bytes
  }

  private enum Outcome: Equatable {
    case endpoint(Endpoint)
    case unspecified
    case failure(Int)
  }

  private func parse(_ bytes: [UInt8], length: Int? = nil, family: Int32) -> Outcome {
    switch bytes.withUnsafeBytes({
      SockAddr.parse($0.baseAddress, length: UInt32(truncatingIfNeeded: length ?? bytes.count), family: family)
    }) {
    case .endpoint(let endpoint): .endpoint(endpoint)
    case .unspecified: .unspecified
    case .failure(let error): .failure(error)
    }
  }

  @Test("sockaddr_in carries the address and port in network byte order")
  func parsesInet() {
    #expect(
      parse(inet(198, 18, 0, 5, port: 8000), family: Family.inet)
        == .endpoint(Endpoint(IPAddress(IPv4Address(198, 18, 0, 5)), 8000)))
  }

  @Test("an IPv6 socket names IPv4 peers in mapped form (RFC 4291 §2.5.5.2)")
  func parsesMapped() {
    #expect(
      parse(inet6([0xff, 0xff, 198, 18, 0, 5], port: 80), family: Family.inet6)
        == .endpoint(Endpoint(IPAddress(IPv4Address(198, 18, 0, 5)), 80)))
    #expect(parse(inet6([1], port: 80), family: Family.inet6) == .endpoint(Endpoint(IPAddress(high: 0, low: 1), 80)))
  }

  @Test(
    "lengths below the family's least and above sockaddr_storage are EINVAL",
    arguments: [(Family.inet, 15), (Family.inet, 1), (Family.inet, 129), (Family.inet6, 23), (Family.inet, -1)])
  func refusesLengths(family: Int32, length: Int) {
    let bytes = family == Family.inet ? inet(1, 2, 3, 4, port: 5) : inet6([1], port: 5)
    #expect(parse(bytes + [UInt8](repeating: 0, count: 128), length: length, family: family) == .failure(-22))
  }

  @Test("sockaddr_in6 without the scope of RFC 2553 is long enough")
  func takesShortInet6() {
    #expect(
      parse(inet6([1], port: 7), length: 24, family: Family.inet6) == .endpoint(Endpoint(IPAddress(high: 0, low: 1), 7))
    )
  }

  @Test("another family is EAFNOSUPPORT, AF_UNSPEC is told apart, NULL is EFAULT")
  func tellsFamilies() {
    #expect(parse(inet(1, 2, 3, 4, port: 5, family: 1), family: Family.inet) == .failure(-97))
    #expect(parse(inet(1, 2, 3, 4, port: 5) + [UInt8](repeating: 0, count: 12), family: Family.inet6) == .failure(-97))
    #expect(parse(inet(0, 0, 0, 0, port: 0, family: 0), family: Family.inet) == .unspecified)
    guard case .failure(-14) = SockAddr.parse(nil, length: 16, family: Family.inet) else {
      Issue.record("NULL is not EFAULT")
      return
    }
  }

  @Test("a name is cut to the caller's room, and its whole length is told")
  func cutsNames() {
    let endpoint = Endpoint(IPAddress(IPv4Address(198, 18, 0, 4)), 0x1234)
    var room = [UInt8](repeating: 0xaa, count: 20)
    var length: UInt32 = 6
    let result = room.withUnsafeMutableBytes {
      SockAddr.report(endpoint, family: Family.inet, to: $0.baseAddress, &length)
    }
    #expect(result == 0)
    #expect(length == 16)
    #expect(room[0..<8] == [2, 0, 0x12, 0x34, 198, 18, 0xaa, 0xaa])
    length = UInt32(bitPattern: -1)
    #expect(SockAddr.report(endpoint, family: Family.inet, to: nil, &length) == -22)
    #expect(SockAddr.report(endpoint, family: Family.inet, to: nil, nil) == -14)
  }

  @Test("an IPv6 socket reports the wildcard as ::, and IPv4 peers as mapped")
  func reportsInet6() {
    func image(_ endpoint: Endpoint) -> [UInt8] {
      var bytes = [UInt8](repeating: 0, count: 28)
      _ = bytes.withUnsafeMutableBytes {
        SockAddr.write(endpoint, family: Family.inet6, to: $0.baseAddress, room: 28)
      }
      return bytes
    }
    #expect(image(Endpoint(.anyIPv6, 80)) == inet6([0], port: 80))
    #expect(
      image(Endpoint(IPAddress(IPv4Address(198, 18, 0, 5)), 80)) == inet6([0xff, 0xff, 198, 18, 0, 5], port: 80))
  }
}
