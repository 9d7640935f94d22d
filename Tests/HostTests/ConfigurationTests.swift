// What the ANP_ variables mean, and what is said about values that mean nothing.

import Foundation
import Netstack
import Testing
import Wire

@testable import Host

/// Reads a configuration from these variables alone.
private func configuration(_ variables: [String: String]) -> HostConfiguration {
  HostConfiguration { name in
    // Must stay where it is, as the environment does.
    variables["\(name)"].map { UnsafePointer(strdup($0)) }
  }
}

private func explanation(_ variables: [String: String]) -> String? {
  guard let error = configuration(variables).error else { return nil }
  return text { error.explain(to: &$0) }
}

/// What `body` appends, as a String.
func text(_ body: (inout TextBuffer) -> Void) -> String {
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 8192, alignment: 8)
  defer { memory.deallocate() }
  var buffer = TextBuffer(memory)
  body(&buffer)
  return String(decoding: buffer.bytes, as: UTF8.self)
}

/// As they are written.
private func addresses(_ list: ConfiguredAddresses) -> [String] {
  (0..<list.count).map { i in
    text {
      $0.append(list[i].address)
      $0.append("/")
      $0.append(list[i].prefixLength)
    }
  }
}

private func addresses(_ link: LinkConfiguration) -> [String] { addresses(link.addresses) }

private func v4(_ a: UInt8, _ b: UInt8, _ c: UInt8, _ d: UInt8) -> IPAddress { IPAddress(IPv4Address(a, b, c, d)) }

@Suite("Configuration from the environment")
struct ConfigurationTests {
  @Test("nothing set: anp0, 198.18.0.4/24, everything else off")
  func defaults() {
    let c = configuration([:])
    #expect(c.error == nil)
    #expect(c.linkCount == 1)
    #expect(String(cString: c.link(0).device) == "anp0")
    #expect(addresses(c.link(0)) == ["198.18.0.4/24"])
    #expect(!c.link(0).usesDHCP && !c.link(0).isIPv6Off && c.link(0).autoconfiguresIPv6)
    #expect(c.link(0).addresses6.count == 0 && c.routes.count == 0 && c.gateway6 == nil)
    #expect(c.gateway == nil && c.mtu == nil && !c.fallbackToKernel && c.filter.isOff)
    #expect(!c.matchesTake(v4(10, 0, 0, 1)) && !c.matchesBypass(v4(10, 0, 0, 1)))
    if case .none = c.log, case .none = c.capture, case .none = c.statistics {} else { Issue.record("output is on") }
  }

  @Test("device, address, gateway, MTU")
  func link() {
    let c = configuration([
      "ANP_TAP": "tap-7", "ANP_ADDR": "10.1.2.3/8", "ANP_GATEWAY": "10.9.9.9", "ANP_MTU": "9000", "ANP_RING": "rx:256",
      "ANP_BUDGET": "16", "ANP_BUSY_POLL": "20", "ANP_QUEUES": "2",
    ])
    #expect(c.error == nil)
    #expect(String(cString: c.link(0).device) == "tap-7")
    #expect(addresses(c.link(0)) == ["10.1.2.3/8"])
    #expect(c.gateway == IPv4Address(10, 9, 9, 9))
    #expect(c.mtu == 9000 && c.receiveRing == 256 && c.budget == 16 && c.busyPoll == 20 && c.queues == 2)
  }

  @Test("coalescing has two directions, each by itself or both")
  func coalescing() {
    #expect(configuration([:]).coalesce == 0 && configuration([:]).transmitCoalesce == 1000)
    #expect(configuration(["ANP_COALESCE": "rx-usecs:50"]).coalesce == 50)
    let both = configuration(["ANP_COALESCE": "tx-usecs:0,rx-usecs:7"])
    #expect(both.error == nil && both.coalesce == 7 && both.transmitCoalesce == 0)
  }

  @Test("offloads are taken away and given back one by one; without the variable all are on")
  func offloads() {
    #expect(configuration([:]).offloads == .all)
    let all = Offloads.all
    #expect(configuration(["ANP_OFFLOAD": "-tso,-gro"]).offloads == all.subtracting([.segmentation, .merging]))
    #expect(configuration(["ANP_OFFLOAD": "-all,+gro,rx-csum"]).offloads == [.merging, .receiveChecksum])
    #expect(
      configuration(["ANP_OFFLOAD": "-csum"]).offloads == all.subtracting([.transmitChecksum, .receiveChecksum]))
    #expect(
      configuration(["ANP_OFFLOAD": "-big-tcp,-sg,-zero-copy"]).offloads
        == all.subtracting([.bigTCP, .scatterGather, .zeroCopy]))
    #expect(configuration(["ANP_PCAP": "x.pcapng"]).offloads == all.subtracting(.bigTCP))
  }

  @Test("commas separate a device's addresses, semicolons devices")
  func links() {
    let c = configuration(["ANP_TAP": "a,b", "ANP_ADDR": "198.18.0.4/24,198.18.0.9/24;198.18.1.4/24"])
    #expect(c.error == nil && c.linkCount == 2)
    #expect(String(cString: c.link(1).device) == "b")
    #expect(addresses(c.link(0)) == ["198.18.0.4/24", "198.18.0.9/24"] && addresses(c.link(1)) == ["198.18.1.4/24"])
    #expect(addresses(configuration(["ANP_ADDR": "198.18.0.4/24,198.18.1.4/24"]).link(0)).count == 2)
    let eight = (1...8).map { "198.18.0.\($0)/24" }.joined(separator: ",")
    #expect(addresses(configuration(["ANP_ADDR": eight]).link(0)).count == 8)
    #expect(configuration(["ANP_ADDR": eight + ",198.18.0.9/24"]).error != nil)
  }

  @Test(
    "what does not fit the devices is told with how it is written",
    arguments: [
      ["ANP_TAP": "a,b", "ANP_ADDR": "198.18.0.4/24"], ["ANP_TAP": "a,b"],
      // As it was written when commas separated devices.
      ["ANP_TAP": "a,b", "ANP_ADDR": "198.18.0.4/24,198.18.1.4/24"],
      ["ANP_ADDR": "198.18.0.4/24;198.18.1.4/24"],
    ])
  func linkCounts(variables: [String: String]) {
    #expect(explanation(variables)?.contains("ANP_ADDR='198.18.0.4/24;198.18.1.4/24'") == true)
  }

  @Test("a lease instead of addresses, for each device by itself")
  func leases() {
    let c = configuration(["ANP_TAP": "a,b", "ANP_ADDR": "dhcp;198.18.1.4/24", "ANP_GATEWAY": "10.0.0.1"])
    #expect(c.error == nil && c.link(0).usesDHCP && c.link(0).addresses.count == 0)
    #expect(!c.link(1).usesDHCP && addresses(c.link(1)) == ["198.18.1.4/24"])
    // Where the lease will be nobody knows yet.
    #expect(c.gateway == IPv4Address(10, 0, 0, 1))
  }

  @Test("IPv6 addresses beside autoconfiguration or instead of it; a word alone is for all devices")
  func addresses6() {
    let both = configuration(["ANP_ADDR6": "auto,2001:db8::4/64,2001:db8:1::4/48"])
    #expect(both.error == nil && both.link(0).autoconfiguresIPv6 && !both.link(0).isIPv6Off)
    #expect(addresses(both.link(0).addresses6) == ["2001:db8::4/64", "2001:db8:1::4/48"])
    let fixed = configuration(["ANP_ADDR6": "2001:db8::4/64", "ANP_GATEWAY": "198.18.0.1,2001:db8::1"])
    #expect(fixed.error == nil && !fixed.link(0).autoconfiguresIPv6)
    #expect(fixed.gateway == IPv4Address(198, 18, 0, 1) && text { $0.append(fixed.gateway6!) } == "2001:db8::1")
    let two = ["ANP_TAP": "a,b", "ANP_ADDR": "198.18.0.4/24;198.18.1.4/24"]
    let off = configuration(two.merging(["ANP_ADDR6": "off"]) { $1 })
    #expect(off.error == nil && off.link(0).isIPv6Off && off.link(1).isIPv6Off)
    let mixed = configuration(two.merging(["ANP_ADDR6": "2001:db8::4/64;off"]) { $1 })
    #expect(mixed.error == nil && !mixed.link(0).isIPv6Off && mixed.link(1).isIPv6Off)
    let first = configuration(two.merging(["ANP_ADDR6": "2001:db8::4/64"]) { $1 })
    #expect(first.error == nil && first.link(1).autoconfiguresIPv6 && first.link(1).addresses6.count == 0)
    #expect(configuration(["ANP_ADDR6": "off", "ANP_GATEWAY": "fe80::1"]).error != nil)
  }

  @Test("servers of names of both families, with and without ports")
  func nameServers() {
    let c = configuration(["ANP_DNS": "198.18.0.5,192.0.2.1:5353,2001:db8::5,[2001:db8::6]:54,[2001:db8::7]"])
    #expect(c.error == nil)
    #expect((0..<c.nameServers.count).map { c.nameServers[$0].port } == [53, 5353, 53, 54, 53])
    #expect(c.nameServers[0].address == v4(198, 18, 0, 5) && c.nameServers[1].address == v4(192, 0, 2, 1))
    #expect(text { $0.append(c.nameServers[3].address) } == "2001:db8::6")
    #expect(configuration(["ANP_DNS": ""]).error == nil && configuration([:]).nameServers.count == 0)
    let eight = Array(repeating: "192.0.2.1", count: 8).joined(separator: ",")
    #expect(configuration(["ANP_DNS": eight]).nameServers.count == 8)
    for wrong in [
      "one.one", "192.0.2.1,", ",192.0.2.1", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:", "[192.0.2.1]:53",
      "[2001:db8::1",
      "2001:db8::1]:53", "0.0.0.0", "::", "224.0.0.1", "192.0.2.1 ", eight + ",192.0.2.2",
    ] {
      #expect(configuration(["ANP_DNS": wrong]).error != nil, "\(wrong)")
    }
    #expect(explanation(["ANP_DNS": "me"])?.hasPrefix("ANP_DNS=me cannot be used: it takes up to 8 addresses") == true)
  }

  @Test("ip-route(8): routes by gateway, on the link, to nowhere; with MTU and source")
  func routes() {
    let c = configuration([
      "ANP_ROUTE":
        "10.0.0.0/8 via 198.18.0.7, 192.0.2.0/24 via 198.18.0.9 mtu 1400,203.0.113.0/24 dev anp0 src 198.18.0.4, "
        + "unreachable 172.16.0.0/12,blackhole 192.0.2.66 , prohibit 2001:db8:2::/48,2001:db8:1::/48 via fe80::1,default via fe80::2"
    ])
    #expect(c.error == nil && c.routes.count == 8)
    func said(_ i: Int) -> String {
      let route = c.routes[i]
      return text {
        $0.append(route.prefix)
        $0.append("/")
        $0.append(route.prefixLength)
        if let gateway = route.gateway {
          $0.append(" via ")
          $0.append(gateway)
        }
        if let mtu = route.mtu {
          $0.append(" mtu ")
          $0.append(mtu)
        }
        if let source = route.source {
          $0.append(" src ")
          $0.append(source)
        }
        if route.link != nil { $0.append(" dev") }
      }
    }
    #expect(said(0) == "10.0.0.0/8 via 198.18.0.7" && c.routes[0].kind == .unicast)
    #expect(said(1) == "192.0.2.0/24 via 198.18.0.9 mtu 1400")
    #expect(said(2) == "203.0.113.0/24 src 198.18.0.4 dev")
    #expect(said(3) == "172.16.0.0/12" && c.routes[3].kind == .unreachable)
    #expect(said(4) == "192.0.2.66/32" && c.routes[4].kind == .blackhole)
    #expect(said(5) == "2001:db8:2::/48" && c.routes[5].kind == .prohibit)
    #expect(said(6) == "2001:db8:1::/48 via fe80::1")
    #expect(said(7) == "::/0 via fe80::2")
    #expect(configuration(["ANP_ROUTE": ""]).error == nil)
  }

  @Test(
    "a bad value is named, with what the variable takes",
    arguments: [
      ("ANP_TAP", ""), ("ANP_TAP", "a,"), ("ANP_TAP", "a-name-of-16-chars"), ("ANP_TAP", "a b"), ("ANP_TAP", "../x"),
      ("ANP_ADDR", "198.18.0.4"), ("ANP_ADDR", "198.18.0.4/33"), ("ANP_ADDR", "198.18.0.4/0"),
      ("ANP_ADDR", "198.18.0/24"),
      ("ANP_ADDR", "198.18.0.0/24"), ("ANP_ADDR", "198.18.0.255/24"), ("ANP_ADDR", "127.0.0.1/8"),
      ("ANP_ADDR", "224.0.0.1/8"),
      ("ANP_ADDR", "198.18.0.256/24"), ("ANP_ADDR", "198.18.0.4/24 "), ("ANP_ADDR", "::1/64"),
      ("ANP_GATEWAY", "198.18.1.1"), ("ANP_GATEWAY", "198.18.0.4"), ("ANP_GATEWAY", "gateway"),
      ("ANP_GATEWAY", "198.18.0.5,198.18.0.6"), ("ANP_GATEWAY", "198.18.0.5,"), ("ANP_GATEWAY", "::"),
      ("ANP_ADDR", "dhcp,198.18.0.4/24"), ("ANP_ADDR", "198.18.0.4/24,"), ("ANP_ADDR", "198.18.0.4/24,198.18.0.4/24"),
      ("ANP_ADDR", "dhcp6"), ("ANP_ADDR6", "198.18.0.4/24"), ("ANP_ADDR6", "2001:db8::4"), ("ANP_ADDR6", "::1/128"),
      ("ANP_ADDR6", "ff02::1/16"), ("ANP_ADDR6", "off,auto"), ("ANP_ADDR6", "auto,auto"), ("ANP_ADDR6", "auto;auto"),
      ("ANP_ADDR6", "2001:db8::4/129"), ("ANP_ADDR6", ""), ("ANP_TAP", "a;b"),
      ("ANP_ROUTE", "10.0.0.0/8"), ("ANP_ROUTE", "10.0.0.1/8 via 198.18.0.7"),
      ("ANP_ROUTE", "10.0.0.0/8 via 198.19.0.7"),
      ("ANP_ROUTE", "10.0.0.0/8 via 198.18.0.4"), ("ANP_ROUTE", "10.0.0.0/8 via 2001:db8::1"),
      ("ANP_ROUTE", "10.0.0.0/33 via 198.18.0.7"), ("ANP_ROUTE", "10.0.0.0/8 via 198.18.0.7 mtu 67"),
      ("ANP_ROUTE", "10.0.0.0/8 via 198.18.0.7 metric 3"), ("ANP_ROUTE", "10.0.0.0/8 via 198.18.0.7,"),
      ("ANP_ROUTE", "10.0.0.0/8 dev anp1"), ("ANP_ROUTE", "10.0.0.0/8 dev src 198.18.0.9"),
      ("ANP_ROUTE", "blackhole 10.0.0.0/8 via 198.18.0.7"), ("ANP_ROUTE", "224.0.0.0/4 dev"),
      ("ANP_ROUTE", "everything"),
      ("ANP_MTU", "67"), ("ANP_MTU", "65522"), ("ANP_MTU", "1500x"), ("ANP_MTU", "-1"),
      ("ANP_MTU", "99999999999999999999"),
      ("ANP_RING", "rx:0"), ("ANP_OFFLOAD", "-lso"), ("ANP_OFFLOAD", "-tso,"), ("ANP_OFFLOAD", "-tso -gro"),
      ("ANP_COALESCE", "50"), ("ANP_COALESCE", "tx-usecs:"), ("ANP_COALESCE", "rx-usecs:1,"),
      ("ANP_COALESCE", "rx-usecs:1s"), ("ANP_RING", "64"), ("ANP_BUDGET", "0"),
      ("ANP_QUEUES", "0"), ("ANP_QUEUES", "9"), ("ANP_QUEUES", "two"),
      ("ANP_BUSY_POLL", "on"), ("ANP_BUSY_POLL", "5us"),
      ("ANP_TAKE", "10.0.0.0/33"), ("ANP_TAKE", "10.0.0.0/8,"), ("ANP_BYPASS", "everything"),
      ("ANP_BYPASS", "2001:db8::/129"), ("ANP_DEBUG", "tpc"), ("ANP_DEBUG", "tcp:loud"), ("ANP_DEBUG", "tcp ip"),
      ("ANP_FALLBACK", "yes"),
    ])
  func badValue(variable: String, value: String) {
    let said = explanation([variable: value])
    #expect(said?.hasPrefix("\(variable)=\(value) cannot be used: it takes ") == true, "\(said ?? "nothing")")
  }

  @Test("RFC 3021: both addresses of a /31 are hosts")
  func pointToPoint() {
    #expect(configuration(["ANP_ADDR": "198.18.0.4/31"]).error == nil)
    #expect(configuration(["ANP_ADDR": "198.18.0.5/31"]).error == nil)
    #expect(configuration(["ANP_ADDR": "198.18.0.5/32"]).error == nil)
  }

  @Test("networks of both families")
  func networks() {
    let c = configuration(["ANP_TAKE": "10.0.0.0/8,192.0.2.7,2001:db8::/32", "ANP_BYPASS": "all"])
    #expect(c.error == nil)
    #expect(c.matchesTake(v4(10, 255, 0, 1)) && !c.matchesTake(v4(11, 0, 0, 1)))
    #expect(c.matchesTake(v4(192, 0, 2, 7)) && !c.matchesTake(v4(192, 0, 2, 8)))
    #expect(c.matchesTake(IPAddress(high: 0x2001_0db8_1234_0000, low: 1)) == true)
    #expect(c.matchesTake(IPAddress(high: 0x2001_0db9_0000_0000, low: 1)) == false)
    #expect(c.matchesBypass(v4(1, 2, 3, 4)) && c.matchesBypass(IPAddress(high: 1, low: 2)))
    let many = (0..<32).map { "10.0.\($0).0/24" }.joined(separator: ",")
    #expect(configuration(["ANP_TAKE": many]).error == nil)
    #expect(configuration(["ANP_TAKE": many + ",10.1.0.0/16"]).error != nil)
    #expect(configuration(["ANP_TAKE": ""]).error == nil)
  }

  @Test("ANP_DEBUG: a category alone means debug, later words win, all means all")
  func debug() {
    let some = configuration(["ANP_DEBUG": "tcp,ip:trace,arp:info"]).filter
    #expect(some.allows(.tcp, .debug) && !some.allows(.tcp, .trace))
    #expect(some.allows(.ip, .trace))
    #expect(some.allows(.arp, .info) && !some.allows(.arp, .debug))
    #expect(!some.allows(.udp, .error))
    let all = configuration(["ANP_DEBUG": "all:trace,timer:off"]).filter
    for category in TraceCategory.allCases { #expect(all.allows(category, .trace) == (category != .timer)) }
    if case .standardError = configuration(["ANP_DEBUG": "tcp"]).log {
    } else {
      Issue.record("the log has nowhere to go")
    }
    let silent = configuration(["ANP_DEBUG": "tcp:off"])
    if case .none = silent.log {} else { Issue.record("a log without events") }
  }

  @Test("ANP_LOG alone logs what is worth knowing")
  func logAlone() {
    let c = configuration(["ANP_LOG": "/tmp/x.log"])
    #expect(c.filter.allows(.tcp, .info) && !c.filter.allows(.tcp, .debug))
    guard case .file(let name) = c.log else { return #expect(Bool(false)) }
    #expect(String(cString: name) == "/tmp/x.log")
  }

  @Test("ANP_STATS: 1 is standard error, 0 is off, anything else a file")
  func statistics() {
    if case .standardError = configuration(["ANP_STATS": "1"]).statistics {} else { Issue.record("1") }
    if case .none = configuration(["ANP_STATS": "0"]).statistics {} else { Issue.record("0") }
    if case .file = configuration(["ANP_STATS": "10"]).statistics {} else { Issue.record("10") }
  }

  @Test("ANP_FALLBACK counts even where something else is wrong")
  func fallback() {
    #expect(configuration(["ANP_FALLBACK": "kernel", "ANP_MTU": "x"]).fallbackToKernel == true)
    #expect(configuration(["ANP_FALLBACK": ""]).fallbackToKernel == false)
  }
}

@Suite("Addresses as text")
struct AddressTextTests {
  @Test(
    "RFC 5952 §4: what is read comes out in its canonical form",
    arguments: [
      ("::", "::"), ("::1", "::1"), ("1::", "1::"), ("2001:db8::1", "2001:db8::1"),
      ("2001:0DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
      ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"), ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"),
      ("fe80::a:0:0", "fe80::a:0:0"),
      ("::ffff:192.0.2.1", "192.0.2.1"), ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
      ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
    ])
  func roundTrip(given: String, canonical: String) {
    let address = given.withCString { name in
      var cursor = TextCursor(cString: name)
      let address = cursor.ipv6Address()
      return cursor.atEnd ? address : nil
    }
    #expect(address.map { address in text { $0.append(address) } } == canonical)
  }

  @Test(
    "RFC 4291 §2.2: what is no address is refused",
    arguments: [
      ":", ":::", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "1:2:3:4:5:6:7:8::", "g::", "1:", ":1",
    ])
  func refused(given: String) {
    given.withCString { name in
      var cursor = TextCursor(cString: name)
      let address = cursor.ipv6Address()
      #expect(address == nil || !cursor.atEnd)
    }
  }

  @Test("numbers, padding, cutting at the end of the buffer")
  func numbers() {
    #expect(text { $0.append(UInt64.max) } == "18446744073709551615")
    #expect(text { $0.append(-42) } == "-42")
    #expect(text { $0.append(7, width: 6, padding: UInt8(ascii: "0")) } == "000007")
    #expect(text { $0.append(MACAddress(bits: 0x0200_5e10_00ff)) } == "02:00:5e:10:00:ff")
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: 4, alignment: 1)
    defer { memory.deallocate() }
    var small = TextBuffer(memory)
    small.append("abc")
    small.append("def")
    #expect(String(decoding: small.bytes, as: UTF8.self) == "abcd")
  }
}
