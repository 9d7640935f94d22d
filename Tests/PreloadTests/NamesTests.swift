// Owns: tests of nsswitch.conf's line about hosts, of whose servers are asked, and of the order of addresses.

import CSupport
import Host
import Testing
import Wire

@testable import Preload

/// "files dns" with what ends the search there: S, N, U, T for the statuses.
private func services(_ text: String, room: Int = 12) -> String {
  let list = UnsafeMutablePointer<anp_name_service>.allocate(capacity: 16)
  defer { list.deallocate() }
  let bytes = Array(text.utf8)
  let count = bytes.withUnsafeBytes { NameServices.read($0, into: list, room: room) }
  return (0..<count).map { i in
    let name = withUnsafeBytes(of: &list[i].name) { raw in
      String(decoding: raw.prefix { $0 != 0 }, as: UTF8.self)
    }
    var letters = ""
    for (bit, letter) in [(1, "S"), (2, "N"), (4, "U"), (8, "T")] where Int(list[i].ends) & bit != 0 {
      letters += letter
    }
    return name + ":" + letters
  }.joined(separator: " ")
}

@Suite("nsswitch.conf")
struct NameServicesTests {
  @Test("nsswitch.conf(5): a service's success ends the search, anything else goes on")
  func plain() {
    #expect(services("hosts: files dns\n") == "files:S dns:S")
    #expect(services("passwd: files\nhosts:\tfiles   mdns4 dns\nnetworks: files") == "files:S mdns4:S dns:S")
    #expect(services("  hosts : files") == "files:S")
  }

  @Test(
    "without a line about hosts: files dns, as in glibc",
    arguments: ["", "passwd: files\n", "# hosts: nis\n", "hosts:\n"])
  func absent(text: String) {
    #expect(services(text) == "files:S dns:S")
  }

  @Test("nsswitch.conf(5): actions change what ends the search")
  func actions() {
    #expect(services("hosts: files mdns4_minimal [NOTFOUND=return] dns") == "files:S mdns4_minimal:SN dns:S")
    #expect(services("hosts: resolve [!UNAVAIL=return] files") == "resolve:SNT files:S")
    #expect(services("hosts: files [success=continue notfound=RETURN]dns") == "files:N dns:S")
    #expect(services("hosts: a [ ! SUCCESS = return ] [TRYAGAIN=continue] b") == "a:SNU b:S")
  }

  @Test("what is not to be understood ends the line, what is too much is left out")
  func nonsense() {
    #expect(services("hosts: files [NOTFOUND=perhaps] dns") == "files:S")
    #expect(services("hosts: files dns # nis\n") == "files:S dns:S")
    #expect(services("hosts: a b c d", room: 2) == "a:S b:S")
    #expect(services("hosts: nis\nhosts: files\n") == "files:S")
    #expect(services("hosts: files " + String(repeating: "x", count: 40)) == "files:S")
  }
}

@Suite("Servers of names")
struct NameServersTests {
  private func list(_ octets: UInt8...) -> NameServerList {
    var list = NameServerList()
    for octet in octets { list.append(NameServer(IPAddress(IPv4Address(192, 0, 2, octet)))) }
    return list
  }

  @Test("those set are asked, else those learned, else resolv.conf's")
  func precedence() {
    #expect(Names.servers(configured: list(1), learned: list(2)).isSame(as: list(1)))
    #expect(Names.servers(configured: list(), learned: list(2)).isSame(as: list(2)))
    #expect(Names.servers(configured: list(), learned: list()).count == 0)
  }

  @Test("a list takes eight servers")
  func capacity() {
    var list = NameServerList()
    var isTaken = true
    for i in 0..<8 where isTaken { isTaken = list.append(NameServer(IPAddress(IPv4Address(192, 0, 2, UInt8(i))))) }
    #expect(isTaken)
    isTaken = list.append(NameServer(IPAddress(IPv4Address(192, 0, 2, 9))))
    #expect(!isTaken)
    #expect(list.count == 8)
  }
}

@Suite("Order of addresses")
struct AddressOrderTests {
  private func address(_ text: String) -> IPAddress {
    text.withCString { pointer -> IPAddress in
      var cursor = TextCursor(cString: pointer)
      if let v4 = cursor.ipv4Address() { return IPAddress(v4) }
      return cursor.ipv6Address() ?? .anyIPv6
    }
  }

  /// `pairs`: destination, source or "" and the source's prefix length.
  private func order(_ pairs: [(String, String, Int)]) -> [String] {
    let candidates = UnsafeMutableBufferPointer<AddressOrder.Candidate>.allocate(capacity: pairs.count)
    defer { candidates.deallocate() }
    for (i, pair) in pairs.enumerated() {
      let destination = address(pair.0)
      let source = pair.1 == "" ? nil : AddressOrder.Source(address: address(pair.1), prefixLength: pair.2)
      var entry = anp_name_address()
      entry.is_inet6 = destination.isIPv4 ? 0 : 1
      entry.scope = UInt32(i)
      candidates.initializeElement(at: i, to: AddressOrder.Candidate(destination, source, entry: entry))
    }
    AddressOrder.sort(candidates)
    return candidates.map { pairs[Int($0.entry.scope)].0 }
  }

  @Test("RFC 6724 §6 rule 1: what cannot be reached comes last")
  func unusable() {
    #expect(order([("2001:db8::1", "", 0), ("192.0.2.1", "198.18.0.4", 128)]) == ["192.0.2.1", "2001:db8::1"])
    #expect(order([("192.0.2.2", "", 0), ("192.0.2.1", "", 0)]) == ["192.0.2.2", "192.0.2.1"])
  }

  @Test("RFC 6724 §6 rules 2 and 6: a matching scope, then the precedence: IPv6 before IPv4")
  func scopeAndPrecedence() {
    let v4 = ("192.0.2.1", "198.18.0.4", 128)
    #expect(order([v4, ("2001:db8::1", "2001:db8::4", 64)]) == ["2001:db8::1", "192.0.2.1"])
    #expect(order([("2001:db8::1", "fe80::4", 64), v4]) == ["192.0.2.1", "2001:db8::1"])
  }

  @Test("RFC 6724 §6 rule 5: a matching label")
  func label() {
    let sixToFour = ("2001:db8::1", "2002:c612:4::1", 64)
    #expect(order([sixToFour, ("192.0.2.1", "198.18.0.4", 128)]) == ["192.0.2.1", "2001:db8::1"])
    #expect(order([("fd00::1", "2001:db8::4", 64), ("192.0.2.1", "198.18.0.4", 128)]) == ["192.0.2.1", "fd00::1"])
  }

  @Test("RFC 6724 §6 rule 8: the smaller scope")
  func smallerScope() {
    #expect(order([("2001:db8::1", "2001:db8::4", 64), ("fe80::1", "fe80::4", 64)]) == ["fe80::1", "2001:db8::1"])
  }

  @Test("RFC 6724 §6 rules 9 and 10: the longest prefix in common with the source; else as they came")
  func prefix() {
    let source = "2001:db8:1::4"
    #expect(
      order([("2001:db8:2::1", source, 64), ("2001:db8:1::1", source, 64), ("2001:db8:1::2", source, 64)])
        == ["2001:db8:1::1", "2001:db8:1::2", "2001:db8:2::1"])
    // Of IPv4 only within the own network, and where that is known.
    let pairs = ["192.0.2.1", "198.18.9.1", "198.18.0.9"]
    #expect(order(pairs.map { ($0, "198.18.0.4", 96 + 24) }) == ["198.18.0.9", "192.0.2.1", "198.18.9.1"])
    #expect(order(pairs.map { ($0, "198.18.0.4", 128) }) == pairs)
  }

  @Test("as many addresses as an answer over TCP can hold are ordered without delay; equals stay as they came")
  func many() {
    let ofIPv4 = (0..<4000).map { ("192.0.\($0 / 250).\($0 % 250)", "198.18.0.4", 128) }
    // No more in common with the source than 32 bits, each of them.
    let ofIPv6 = (0..<2300).map { ("2001:db8:ffff::\(String($0, radix: 16))", "2001:db8::4", 64) }
    let start = ContinuousClock.now
    let ordered = order(ofIPv4 + ofIPv6)
    #expect(ContinuousClock.now - start < .seconds(1))
    #expect(ordered == (ofIPv6 + ofIPv4).map { $0.0 })
  }

  @Test("loopback's own address is reached, whatever the stack has")
  func loopback() {
    let source = StackAddresses.source(for: IPAddress(IPv4Address(127, 0, 0, 1)), scope: 0)
    #expect(source?.address == IPAddress(IPv4Address(127, 0, 0, 1)))
  }
}
