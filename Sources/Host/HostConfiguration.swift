// Owns: what the ANP_ environment variables mean. A value that means nothing is an error that names the variable and what
// it takes; nothing is guessed. docs/DEBUGGING.md and README list them for people.

import CSupport
import Netstack
import Wire

/// An address and how much of it names its network, in its own family's lengths.
package struct ConfiguredAddress: Sendable {
  package var address: IPAddress
  package var prefixLength: Int

  package init(_ address: IPAddress, _ prefixLength: Int) {
    self.address = address
    self.prefixLength = prefixLength
  }

  package var network: Network { Network(address, prefix: address.isIPv4 ? 96 + prefixLength : prefixLength) }
}

package struct ConfiguredAddresses: Sendable {
  package static var capacity: Int { 8 }
  private var list = InlineArray<8, ConfiguredAddress>(repeating: ConfiguredAddress(.anyIPv6, 128))
  package private(set) var count = 0

  package init() {}

  package mutating func append(_ address: ConfiguredAddress) -> Bool {
    guard count < Self.capacity else { return false }
    list[count] = address
    count += 1
    return true
  }

  package subscript(_ i: Int) -> ConfiguredAddress { list[i] }

  package func contains(_ address: IPAddress) -> Bool {
    for i in 0..<count where list[i].address == address { return true }
    return false
  }

  /// Whether `address` is a neighbour's in one of the networks.
  package func reaches(_ address: IPAddress) -> Bool {
    for i in 0..<count where list[i].network.contains(address) && list[i].address != address { return true }
    return false
  }
}

/// One device and the addresses the stack has on it.
package struct LinkConfiguration {
  /// NUL-terminated, at most 15 bytes (IFNAMSIZ); lives as long as the process.
  package var device: UnsafePointer<CChar>
  /// ANP_ADDR=dhcp: the IPv4 address is leased, and `addresses` is empty.
  package var usesDHCP = false
  /// ANP_ADDR
  package var addresses = ConfiguredAddresses()
  /// ANP_ADDR6=off
  package var isIPv6Off = false
  /// ANP_ADDR6=auto: as routers advertise.
  package var autoconfiguresIPv6 = true
  package var addresses6 = ConfiguredAddresses()

  package init(device: UnsafePointer<CChar>) { self.device = device }
}

/// What ANP_ROUTE says of one network.
package struct RouteConfiguration: Sendable {
  package var kind: Route.Kind
  package var prefix: IPAddress
  package var prefixLength: Int
  /// nil: on the link.
  package var gateway: IPAddress?
  package var source: IPAddress?
  package var mtu: Int?
  /// Only where the stack is on this device.
  package var link: Int?
}

package struct RouteConfigurations: Sendable {
  package static var capacity: Int { 32 }
  private var list = InlineArray<32, RouteConfiguration>(
    repeating: RouteConfiguration(kind: .unicast, prefix: .anyIPv6, prefixLength: 128))
  package private(set) var count = 0

  package mutating func append(_ route: RouteConfiguration) -> Bool {
    guard count < Self.capacity else { return false }
    list[count] = route
    count += 1
    return true
  }

  package subscript(_ i: Int) -> RouteConfiguration { list[i] }
}

package struct NetworkList: ~Copyable {
  private let inMemory = InMemory()
  package static var capacity: Int { 32 }
  private var networks = InlineArray<32, Network>(repeating: Network(.anyIPv6, prefix: 128))
  package private(set) var count = 0

  package mutating func append(_ network: Network) -> Bool {
    guard count < Self.capacity else { return false }
    networks[count] = network
    count += 1
    return true
  }

  package func contains(_ address: IPAddress) -> Bool {
    for i in 0..<count where networks[i].contains(address) { return true }
    return false
  }
}

/// What the device does for the stack, as in ethtool -K (ANP_OFFLOAD).
package struct Offloads: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// tso: cuts super-segments into packets.
  package static var segmentation: Offloads { Offloads(rawValue: 1) }
  /// gro: hands over what a peer on this machine sent in one piece, uncut.
  package static var merging: Offloads { Offloads(rawValue: 2) }
  /// tx-csum: computes the checksums of what is sent.
  package static var transmitChecksum: Offloads { Offloads(rawValue: 4) }
  /// rx-csum: vouches for the checksums of what comes in.
  package static var receiveChecksum: Offloads { Offloads(rawValue: 8) }
  /// big-tcp: takes super-segments of more than 64 KB.
  package static var bigTCP: Offloads { Offloads(rawValue: 16) }
  /// sg: gathers a frame from several pieces of memory.
  package static var scatterGather: Offloads { Offloads(rawValue: 32) }
  /// zero-copy: reads large writes from the program's own memory.
  package static var zeroCopy: Offloads { Offloads(rawValue: 64) }
  package static var all: Offloads { Offloads(rawValue: 127) }
}

/// A variable with a value that cannot be used.
package struct ConfigurationError: Error, @unchecked Sendable {
  package var variable: StaticString
  package var value: UnsafePointer<CChar>
  package var expected: StaticString

  package func explain(to text: inout TextBuffer) {
    text.append(variable)
    text.append("=")
    text.append(cString: value)
    text.append(" cannot be used: it takes ")
    text.append(expected)
  }
}

package struct HostConfiguration: ~Copyable {
  package enum Output {
    case none, standardError
    case file(UnsafePointer<CChar>)
  }

  package static var maximumLinks: Int { 8 }
  package static var defaultBusyPoll: Int { 50 }
  var links: InlineArray<8, LinkConfiguration>
  package internal(set) var linkCount = 0
  /// ANP_GATEWAY; nil takes the host's own address on the device, or what DHCP says.
  package internal(set) var gateway: IPv4Address?
  /// ANP_GATEWAY, IPv6; nil takes what routers advertise.
  package internal(set) var gateway6: IPAddress?
  /// ANP_ROUTE
  package internal(set) var routes = RouteConfigurations()
  /// ANP_MTU, bytes of IP packet; nil takes the device's.
  package private(set) var mtu: Int?
  package private(set) var take = NetworkList()
  package private(set) var bypass = NetworkList()
  /// ANP_DNS: the servers that names are asked of; none leaves it to the network and resolv.conf.
  package private(set) var nameServers = NameServerList()
  /// ANP_FALLBACK=kernel: what the stack cannot carry may go to the kernel.
  package private(set) var fallbackToKernel = false
  package private(set) var filter = TraceFilter()
  package private(set) var log = Output.none
  package private(set) var capture = Output.none
  package private(set) var statistics = Output.none
  /// ANP_RING=rx:N: how many frames may wait between the device and the stack, at most.
  package private(set) var receiveRing = 64
  /// ANP_OFFLOAD
  package private(set) var offloads = Offloads.all
  /// ANP_COALESCE=rx-usecs:N: microseconds from the device's interrupt to the poll, so that more frames come in at once.
  package private(set) var coalesce = 0
  /// ANP_COALESCE=tx-usecs:N: microseconds that a small write may wait for the one that always follows it.
  package private(set) var transmitCoalesce = 1000
  /// ANP_QUEUES: queues of the device, each with a stack and a lock of its own.
  package private(set) var queues = 1
  /// ANP_BUDGET: frames per poll (Linux: net.core.dev_weight).
  package private(set) var budget = 64
  /// ANP_BUSY_POLL: microseconds that a waiting thread looks at the device before it sleeps; nil leaves the device to anp-rx.
  package private(set) var busyPoll: Int? = HostConfiguration.defaultBusyPoll
  /// What is wrong with the environment; the stack does not start then.
  package private(set) var error: ConfigurationError?

  /// ANP_LOOPBACK=stack, or a part of it in ANP_TAKE: the program's loopback is the stack's.
  package private(set) var loopbackInStack = false
  private let inMemory = InMemory()

  /// The stack speaks IPv6.
  package var hasIPv6: Bool {
    for i in 0..<linkCount where !links[i].isIPv6Off { return true }
    return false
  }

  package func link(_ i: Int) -> LinkConfiguration { links[i] }
  package func matchesTake(_ address: IPAddress) -> Bool { take.contains(address) }
  package func matchesBypass(_ address: IPAddress) -> Bool { bypass.contains(address) }

  /// - Parameter lookup: the value of a variable; it must stay where it is.
  package init(_ lookup: (StaticString) -> UnsafePointer<CChar>?) {
    links = InlineArray(repeating: LinkConfiguration(device: Self.copyName(Self.defaultDevice)))
    linkCount = 1
    _ = links[0].addresses.append(ConfiguredAddress(IPAddress(IPv4Address(198, 18, 0, 4)), 24))
    do {
      try parse(lookup)
    } catch {
      self.error = error
    }
  }

  private static var defaultDevice: UnsafeRawBufferPointer {
    let name: StaticString = "anp0"
    return UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount)
  }

  static func copyName(_ text: UnsafeRawBufferPointer) -> UnsafePointer<CChar> {
    let copy = UnsafeMutablePointer<CChar>.allocate(capacity: text.count + 1)
    for i in 0..<text.count { copy[i] = CChar(bitPattern: text[i]) }
    copy[text.count] = 0
    return UnsafePointer(copy)
  }

  private mutating func parse(_ lookup: (StaticString) -> UnsafePointer<CChar>?) throws(ConfigurationError) {
    // First, so that it counts even where something else is wrong.
    if let value = lookup("ANP_FALLBACK") {
      var cursor = TextCursor(cString: value)
      fallbackToKernel = cursor.take(word: "kernel")
      guard cursor.atEnd else {
        throw ConfigurationError(variable: "ANP_FALLBACK", value: value, expected: "'kernel', or nothing")
      }
    }
    if let value = lookup("ANP_TAP") { try parseDevices(value) }
    if let value = lookup("ANP_ADDR") {
      try parseAddresses(value)
    } else if linkCount > 1, let value = lookup("ANP_TAP") {
      throw ConfigurationError(
        variable: "ANP_TAP", value: value,
        expected: "one device, or several with addresses for each in ANP_ADDR: ANP_ADDR='198.18.0.4/24;198.18.1.4/24'")
    }
    if let value = lookup("ANP_ADDR6") { try parseAddresses6(value) }
    if let value = lookup("ANP_GATEWAY") { try parseGateways(value) }
    if let value = lookup("ANP_MTU") {
      mtu = try parseNumber("ANP_MTU", value, 68...65521, "a number of bytes from 68 to 65521")
    }
    if let value = lookup("ANP_ROUTE") { try parseRoutes(value) }
    if let value = lookup("ANP_RING") { receiveRing = try parseRing(value) }
    if let value = lookup("ANP_OFFLOAD") { offloads = try parseOffloads(value) }
    if let value = lookup("ANP_COALESCE") { try parseCoalesce(value) }
    if let value = lookup("ANP_BUDGET") {
      budget = try parseNumber("ANP_BUDGET", value, 1...4096, "a number of frames from 1 to 4096")
    }
    if let value = lookup("ANP_QUEUES") {
      queues = try parseNumber(
        "ANP_QUEUES", value, 1...ShardMask.maximumCount, "a number of queues from 1 to 8")
    }
    if let value = lookup("ANP_BUSY_POLL") {
      var cursor = TextCursor(cString: value)
      if cursor.take(word: "off") {
        busyPoll = nil
      } else {
        busyPoll = cursor.decimal(most: 1_000_000)
        guard busyPoll != nil else { throw Self.badBusyPoll(value) }
      }
      guard cursor.atEnd else { throw Self.badBusyPoll(value) }
    }
    if let value = lookup("ANP_DNS") { try parseNameServers(value) }
    if let value = lookup("ANP_TAKE") { try Self.parseNetworks("ANP_TAKE", value, &take) }
    if let value = lookup("ANP_BYPASS") { try Self.parseNetworks("ANP_BYPASS", value, &bypass) }
    if let value = lookup("ANP_LOOPBACK") {
      var cursor = TextCursor(cString: value)
      loopbackInStack = cursor.take(word: "stack")
      guard loopbackInStack || cursor.take(word: "kernel") || cursor.atEnd, cursor.atEnd else {
        throw ConfigurationError(
          variable: "ANP_LOOPBACK", value: value,
          expected: "'stack' for 127.0.0.0/8 and ::1 within the program, or 'kernel'")
      }
    }
    if take.contains(IPAddress(IPv4Address(127, 0, 0, 1))) || take.contains(IPAddress(high: 0, low: 1)) {
      loopbackInStack = true
    }
    if let value = lookup("ANP_DEBUG") { try parseFilter(value) }
    if !filter.isOff { log = .standardError }
    if let value = lookup("ANP_LOG"), value.pointee != 0 {
      log = .file(value)
      // A log without a word about what to log: connections and their ends.
      if lookup("ANP_DEBUG") == nil { for category in TraceCategory.allCases { filter.set(category, .info) } }
    }
    if let value = lookup("ANP_PCAP"), value.pointee != 0 {
      capture = .file(value)
      // tcpdump cannot read an IPv4 packet whose header does not tell its length.
      offloads.remove(.bigTCP)
    }
    if let value = lookup("ANP_STATS"), value.pointee != 0 {
      var one = TextCursor(cString: value)
      var zero = one
      if one.take(UInt8(ascii: "1")), one.atEnd {
        statistics = .standardError
      } else if !(zero.take(UInt8(ascii: "0")) && zero.atEnd) {
        statistics = .file(value)
      }
    }
  }

  private static func badBusyPoll(_ value: UnsafePointer<CChar>) -> ConfigurationError {
    ConfigurationError(
      variable: "ANP_BUSY_POLL", value: value,
      expected:
        "'off', or the microseconds, up to 1000000, for which a waiting thread looks at the device before it sleeps")
  }

  private func parseRing(_ value: UnsafePointer<CChar>) throws(ConfigurationError) -> Int {
    var cursor = TextCursor(cString: value)
    guard cursor.take(word: "rx"), cursor.take(UInt8(ascii: ":")), let frames = cursor.decimal(most: 4096), frames >= 1,
      cursor.atEnd
    else {
      throw ConfigurationError(
        variable: "ANP_RING", value: value, expected: "rx:N with 1 to 4096 frames, such as rx:256")
    }
    return frames
  }

  private mutating func parseCoalesce(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_COALESCE", value: value,
      expected:
        "rx-usecs:N, tx-usecs:N or both, separated by a comma, with up to 100000 microseconds, such as rx-usecs:50")
    var cursor = TextCursor(cString: value)
    guard !cursor.atEnd else { return }
    repeat {
      let isTransmit = cursor.take(word: "tx-usecs")
      guard isTransmit || cursor.take(word: "rx-usecs"), cursor.take(UInt8(ascii: ":")),
        let time = cursor.decimal(most: 100_000)
      else { throw error }
      if isTransmit { transmitCoalesce = time } else { coalesce = time }
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else { throw error }
  }

  /// "-tso", "-all,+gro": from all on, each word takes something away or gives it back.
  private func parseOffloads(_ value: UnsafePointer<CChar>) throws(ConfigurationError) -> Offloads {
    var cursor = TextCursor(cString: value)
    var result = Offloads.all
    guard !cursor.atEnd else { return result }
    repeat {
      let isOff = cursor.take(UInt8(ascii: "-"))
      if !isOff { _ = cursor.take(UInt8(ascii: "+")) }
      let named: Offloads
      if cursor.take(word: "tso") {
        named = .segmentation
      } else if cursor.take(word: "gro") {
        named = .merging
      } else if cursor.take(word: "tx-csum") {
        named = .transmitChecksum
      } else if cursor.take(word: "rx-csum") {
        named = .receiveChecksum
      } else if cursor.take(word: "csum") {
        named = [.transmitChecksum, .receiveChecksum]
      } else if cursor.take(word: "big-tcp") {
        named = .bigTCP
      } else if cursor.take(word: "sg") {
        named = .scatterGather
      } else if cursor.take(word: "zero-copy") {
        named = .zeroCopy
      } else if cursor.take(word: "all") {
        named = .all
      } else {
        throw Self.badOffload(value)
      }
      if isOff { result.subtract(named) } else { result.formUnion(named) }
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else { throw Self.badOffload(value) }
    return result
  }

  private static func badOffload(_ value: UnsafePointer<CChar>) -> ConfigurationError {
    ConfigurationError(
      variable: "ANP_OFFLOAD", value: value,
      expected:
        "tso, gro, tx-csum, rx-csum, csum, sg, zero-copy, big-tcp, all, each with - or + in front, separated by commas, such as -tso,-gro"
    )
  }

  private func parseNumber(
    _ variable: StaticString, _ value: UnsafePointer<CChar>, _ range: ClosedRange<Int>, _ expected: StaticString
  ) throws(ConfigurationError) -> Int {
    var cursor = TextCursor(cString: value)
    guard let number = cursor.decimal(most: range.upperBound), number >= range.lowerBound, cursor.atEnd else {
      throw ConfigurationError(variable: variable, value: value, expected: expected)
    }
    return number
  }

  private mutating func parseNameServers(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_DNS", value: value,
      expected:
        "up to 8 addresses of name servers separated by commas, with a port where it is not 53, such as 198.18.0.5,192.0.2.1:5353 or [2001:db8::5]:53"
    )
    var cursor = TextCursor(cString: value)
    guard !cursor.atEnd else { return }
    repeat {
      let isBracketed = cursor.take(UInt8(ascii: "["))
      var address: IPAddress?
      if !isBracketed, let v4 = cursor.ipv4Address() { address = IPAddress(v4) }
      if address == nil { address = cursor.ipv6Address() }
      guard let address, !address.isUnspecified, !address.isMulticast else { throw error }
      if isBracketed, !cursor.take(UInt8(ascii: "]")) { throw error }
      var server = NameServer(address)
      if isBracketed || address.isIPv4, cursor.take(UInt8(ascii: ":")) {
        guard let port = cursor.decimal(most: 65535), port > 0 else { throw error }
        server.port = UInt16(port)
      }
      guard nameServers.append(server) else { throw error }
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else { throw error }
  }

  private static func parseNetworks(
    _ variable: StaticString, _ value: UnsafePointer<CChar>, _ list: inout NetworkList
  ) throws(ConfigurationError) {
    var cursor = TextCursor(cString: value)
    guard !cursor.atEnd else { return }
    repeat {
      guard let network = cursor.network(), list.append(network) else {
        throw ConfigurationError(
          variable: variable, value: value,
          expected: "up to 32 networks separated by commas, such as 10.0.0.0/8,192.0.2.7,2001:db8::/32 or all")
      }
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else {
      throw ConfigurationError(
        variable: variable, value: value,
        expected: "up to 32 networks separated by commas, such as 10.0.0.0/8,192.0.2.7,2001:db8::/32 or all")
    }
  }

  /// "tcp,ip:trace,arp:info", "all", "all:trace". A category without a level means debug. Later words override earlier ones.
  private mutating func parseFilter(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    var cursor = TextCursor(cString: value)
    guard !cursor.atEnd else { return }
    let error = ConfigurationError(
      variable: "ANP_DEBUG", value: value,
      expected:
        "all, dev, arp, ip, icmp, udp, tcp, sock, timer, with :off, :error … :trace behind, such as tcp,ip:trace")
    repeat {
      var named: TraceCategory?
      var all = cursor.take(word: "all")
      if !all {
        for category in TraceCategory.allCases where named == nil && cursor.take(word: category.name) {
          named = category
        }
        guard named != nil else { throw error }
      }
      var level = TraceLevel.debug
      if cursor.take(UInt8(ascii: ":")) {
        var found = false
        for each in TraceLevel.allCases where !found && cursor.take(word: each.name) {
          level = each
          found = true
        }
        guard found else { throw error }
      }
      for category in TraceCategory.allCases where all || category == named { filter.set(category, level) }
      all = false
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else { throw error }
  }
}
