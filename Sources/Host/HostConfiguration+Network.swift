// Owns: reading ANP_TAP, ANP_ADDR, ANP_ADDR6, ANP_GATEWAY and ANP_ROUTE: devices, addresses and routes. Commas separate what one
// device has several of, semicolons what different devices have:
//
//   ANP_TAP=anp0,anp1  ANP_ADDR='198.18.0.4/24,198.18.0.9/24;198.18.1.4/24'
//
// Routes are written as in ip-route(8), and what `ip` refuses is refused here.

import CSupport
import Netstack
import Wire

extension HostConfiguration {
  mutating func parseDevices(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_TAP", value: value,
      expected: "names of TAP devices (1 to 15 characters each), separated by commas, such as anp0")
    var cursor = TextCursor(cString: value)
    var count = 0
    repeat {
      guard count < Self.maximumLinks, let name = cursor.field(until: UInt8(ascii: ",")), name.count <= 15 else {
        throw error
      }
      for byte in name where byte <= UInt8(ascii: " ") || byte == UInt8(ascii: "/") || byte == UInt8(ascii: ";") {
        throw error
      }
      links[count].device = Self.copyName(name)
      count += 1
    } while cursor.take(UInt8(ascii: ","))
    linkCount = count
  }

  // MARK: Addresses

  mutating func parseAddresses(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_ADDR", value: value,
      expected:
        "'dhcp', or up to 8 IPv4 addresses of hosts, each with its prefix length, separated by commas, such as 198.18.0.4/24; the next device's stand behind a semicolon"
    )
    var cursor = TextCursor(cString: value)
    var group = 0
    repeat {
      var addresses = ConfiguredAddresses()
      let usesDHCP = cursor.take(word: "dhcp")
      if !usesDHCP {
        repeat {
          guard let address = cursor.ipv4Address(), cursor.take(UInt8(ascii: "/")),
            let length = cursor.decimal(most: 32), length >= 1, Self.isHost(address, length),
            !addresses.contains(IPAddress(address)),
            addresses.append(ConfiguredAddress(IPAddress(address), length))
          else { throw error }
        } while cursor.take(UInt8(ascii: ","))
      }
      guard cursor.atEnd || cursor.peek == UInt8(ascii: ";") else { throw error }
      if group < linkCount {
        links[group].addresses = addresses
        links[group].usesDHCP = usesDHCP
      }
      group += 1
    } while cursor.take(UInt8(ascii: ";"))
    guard group == linkCount else {
      throw ConfigurationError(
        variable: "ANP_ADDR", value: value,
        expected:
          "addresses for each device of ANP_TAP, the devices separated by semicolons (commas separate several addresses of one device): ANP_ADDR='198.18.0.4/24;198.18.1.4/24'"
      )
    }
  }

  /// Neither the network's own address nor its broadcast address (RFC 3021 lets a /31 use both), nor one of no host at all.
  private static func isHost(_ address: IPv4Address, _ length: Int) -> Bool {
    if address.bits == 0 || address.isLoopback || address.isMulticast || address.bits >= 0xf000_0000 { return false }
    guard length < 31 else { return true }
    let host = address.bits & (~0 >> UInt32(length))
    return host != 0 && host != ~0 >> UInt32(length)
  }

  /// "off", "auto", "2001:db8::4/64,2001:db8:1::4/64", "auto,2001:db8::4/64". A single word is for all devices; a device that is left
  /// out is on auto.
  mutating func parseAddresses6(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_ADDR6", value: value,
      expected:
        "'off', 'auto', or IPv6 addresses of hosts, each with its prefix length, separated by commas, such as 2001:db8::4/64; the next device's stand behind a semicolon"
    )
    var cursor = TextCursor(cString: value)
    var group = 0
    repeat {
      let isOff = cursor.take(word: "off")
      var isAuto = false
      var addresses = ConfiguredAddresses()
      if !isOff {
        repeat {
          if !isAuto, cursor.take(word: "auto") {
            isAuto = true
            continue
          }
          guard let address = cursor.ipv6Address(), cursor.take(UInt8(ascii: "/")),
            let length = cursor.decimal(most: 128), length >= 1, Self.isUnicast6(address),
            !addresses.contains(address), addresses.append(ConfiguredAddress(address, length))
          else { throw error }
        } while cursor.take(UInt8(ascii: ","))
      }
      guard cursor.atEnd || cursor.peek == UInt8(ascii: ";") else { throw error }
      let forAll = group == 0 && cursor.atEnd && addresses.count == 0
      for i in 0..<linkCount where i == group || forAll {
        links[i].isIPv6Off = isOff
        links[i].autoconfiguresIPv6 = isAuto
        links[i].addresses6 = addresses
      }
      group = forAll ? linkCount : group + 1
    } while cursor.take(UInt8(ascii: ";"))
    guard cursor.atEnd, group <= linkCount else { throw error }
  }

  private static func isUnicast6(_ address: IPAddress) -> Bool {
    !address.isIPv4 && !address.isUnspecified && !address.isLoopback && !address.isMulticast
  }

  // MARK: Routes

  private func isOnLink(_ address: IPAddress) -> Bool {
    for i in 0..<linkCount {
      // What a lease or a router says is not known yet.
      if address.isIPv4 {
        if links[i].usesDHCP || links[i].addresses.reaches(address) { return true }
      } else if !links[i].isIPv6Off {
        if links[i].autoconfiguresIPv6 || Self.isLinkLocal(address) || links[i].addresses6.reaches(address) {
          return true
        }
      }
    }
    return false
  }

  private static func isLinkLocal(_ address: IPAddress) -> Bool { address.high >> 54 == 0xfe80 >> 6 }

  mutating func parseGateways(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_GATEWAY", value: value,
      expected: "a neighbour's address, one of each family at most, such as 198.18.0.5 or 198.18.0.5,2001:db8::1")
    var cursor = TextCursor(cString: value)
    repeat {
      guard let address = cursor.address(), isOnLink(address) else { throw error }
      if address.isIPv4 {
        guard gateway == nil else { throw error }
        gateway = address.v4
      } else {
        guard gateway6 == nil, Self.isUnicast6(address) else { throw error }
        gateway6 = address
      }
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else { throw error }
  }

  mutating func parseRoutes(_ value: UnsafePointer<CChar>) throws(ConfigurationError) {
    let error = ConfigurationError(
      variable: "ANP_ROUTE", value: value,
      expected:
        "up to 32 routes as in ip-route(8), separated by commas: '[unreachable|blackhole|prohibit] PREFIX [via ADDRESS] [dev NAME] [mtu BYTES] [src ADDRESS]', such as '10.0.0.0/8 via 198.18.0.7'"
    )
    var cursor = TextCursor(cString: value)
    cursor.skipSpaces()
    guard !cursor.atEnd else { return }
    repeat {
      guard let route = route(&cursor), routes.append(route) else { throw error }
    } while cursor.take(UInt8(ascii: ","))
    guard cursor.atEnd else { throw error }
  }

  /// One route; nil where it makes no sense.
  private func route(_ cursor: inout TextCursor) -> RouteConfiguration? {
    cursor.skipSpaces()
    var kind = Route.Kind.unicast
    if cursor.take(word: "unreachable") {
      kind = .unreachable
    } else if cursor.take(word: "blackhole") {
      kind = .blackhole
    } else if cursor.take(word: "prohibit") {
      kind = .prohibit
    } else {
      _ = cursor.take(word: "unicast")
    }
    cursor.skipSpaces()
    let isDefault = cursor.take(word: "default")
    guard let (prefix, length) = isDefault ? (IPAddress.anyIPv4, 0) : Self.prefix(&cursor) else { return nil }
    var route = RouteConfiguration(kind: kind, prefix: prefix, prefixLength: length)
    var saysHow = kind != .unicast
    while true {
      cursor.skipSpaces()
      if cursor.take(word: "via") {
        cursor.skipSpaces()
        guard route.gateway == nil, let gateway = cursor.address(), isOnLink(gateway) else { return nil }
        route.gateway = gateway
        saysHow = true
      } else if cursor.take(word: "dev") {
        cursor.skipSpaces()
        for i in 0..<linkCount where route.link == nil && cursor.take(name: links[i].device) { route.link = i }
        saysHow = true
      } else if cursor.take(word: "mtu") {
        cursor.skipSpaces()
        guard route.mtu == nil, let mtu = cursor.decimal(most: 65535), mtu >= 68 else { return nil }
        route.mtu = mtu
      } else if cursor.take(word: "src") {
        cursor.skipSpaces()
        guard route.source == nil, let source = cursor.address(), isOurs(source) else { return nil }
        route.source = source
      } else {
        break
      }
    }
    guard cursor.atEnd || cursor.peek == UInt8(ascii: ","), saysHow else { return nil }
    // "default" alone does not tell of which family.
    if isDefault, let other = route.gateway ?? route.source, !other.isIPv4 { route.prefix = .anyIPv6 }
    if let gateway = route.gateway, gateway.isIPv4 != route.prefix.isIPv4 || kind != .unicast { return nil }
    if let source = route.source, source.isIPv4 != route.prefix.isIPv4 { return nil }
    if let mtu = route.mtu, !route.prefix.isIPv4, mtu < 1280 { return nil }
    return route
  }

  private func isOurs(_ address: IPAddress) -> Bool {
    for i in 0..<linkCount {
      if address.isIPv4 ? links[i].usesDHCP : links[i].autoconfiguresIPv6 { return true }
      if links[i].addresses.contains(address) || links[i].addresses6.contains(address) { return true }
    }
    return false
  }

  /// "10.0.0.0/8", or an address, which stands for itself alone. Bits behind the prefix are an error, as they are for `ip`.
  private static func prefix(_ cursor: inout TextCursor) -> (IPAddress, Int)? {
    guard let address = cursor.address(), !address.isMulticast else { return nil }
    let most = address.isIPv4 ? 32 : 128
    guard cursor.take(UInt8(ascii: "/")) else { return (address, most) }
    guard let length = cursor.decimal(most: most), Network(address, prefix: length + 128 - most).begins(at: address)
    else { return nil }
    return (address, length)
  }
}
