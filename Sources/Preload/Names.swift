// Owns: which servers are asked for names, and which services of nsswitch.conf answer, in which order. The look-ups themselves
// are in CShim/Names, where c-ares and libc's services are called; docs/NAMES.md says how a name is resolved.
//
//   servers    ANP_DNS, else those the network told of (DHCP, router advertisements), else resolv.conf's
//   services   those of nsswitch.conf's line "hosts", with their actions; without one "files dns", as in glibc
//
// A server on loopback is the kernel's by the rule of Sides.swift, for its socket passes through the same entries as any other.

import CSupport
import Host
import Netstack
import Wire

@c(anp_entry_name_servers)
public func entryNameServers(_ servers: UnsafeMutablePointer<anp_name_server>, _ room: Int) -> Int {
  anp_enter()
  defer { anp_leave() }
  if HostRuntime.configuration.error != nil {
    // Says what is wrong, once.
    _ = Bootstrap.start()
    return -1
  }
  let configured = HostRuntime.configuration.nameServers
  // Where addresses are leased, so are servers: the lease comes first.
  if configured.count == 0, HostRuntime.isLeaseNeededToDescribe { awaitLease() }
  let list = Names.servers(configured: configured, learned: HostRuntime.learnedServers)
  for i in 0..<min(list.count, room) {
    servers[i].port = list[i].port
    servers[i].scope = list[i].scope
    servers.store(list[i].address, at: i)
  }
  return min(list.count, room)
}

extension UnsafeMutablePointer<anp_name_server> {
  fileprivate func store(_ address: IPAddress, at i: Int) {
    withUnsafeMutableBytes(of: &self[i].address) { bytes in
      let base = bytes.baseAddress.unsafelyUnwrapped
      base.storeBigEndian32(UInt32(truncatingIfNeeded: address.high >> 32), at: 0)
      base.storeBigEndian32(UInt32(truncatingIfNeeded: address.high), at: 4)
      base.storeBigEndian32(UInt32(truncatingIfNeeded: address.low >> 32), at: 8)
      base.storeBigEndian32(UInt32(truncatingIfNeeded: address.low), at: 12)
    }
  }
}

@c(anp_entry_name_services)
public func entryNameServices(
  _ text: UnsafePointer<CChar>?, _ length: Int, _ services: UnsafeMutablePointer<anp_name_service>, _ room: Int
) -> Int {
  let bytes = UnsafeRawBufferPointer(start: text, count: text == nil ? 0 : max(length, 0))
  return NameServices.read(bytes, into: services, room: room)
}

enum Names {
  /// ANP_DNS's servers, else the learned ones, else none: resolv.conf's are to be asked.
  static func servers(configured: NameServerList, learned: NameServerList) -> NameServerList {
    configured.count > 0 ? configured : learned
  }
}

@c(anp_entry_search_domains)
public func entrySearchDomains(_ text: UnsafeMutablePointer<CChar>, _ room: Int) -> Int {
  anp_enter()
  defer { anp_leave() }
  guard let learned = HostRuntime.learnedNameServers() else { return 0 }
  let count = min(learned.domains.count, room)
  for i in 0..<count { text[i] = CChar(bitPattern: learned.domains[i]) }
  return count
}

/// nsswitch.conf(5): "hosts: files mdns4_minimal [NOTFOUND=return] dns".
enum NameServices {
  /// The services of the line "hosts", their count. The last such line counts, as in glibc.
  static func read(
    _ text: UnsafeRawBufferPointer, into services: UnsafeMutablePointer<anp_name_service>, room: Int
  ) -> Int {
    var count = 0
    var start = 0
    while start < text.count {
      var end = start
      while end < text.count, text[end] != UInt8(ascii: "\n") { end += 1 }
      let found = readLine(UnsafeRawBufferPointer(rebasing: text[start..<end]), into: services, room: room)
      if found > 0 { count = found }
      start = end + 1
    }
    if count > 0 || room < 2 { return count }
    store("files", at: 0, services)
    store("dns", at: 1, services)
    return 2
  }

  private static func readLine(
    _ line: UnsafeRawBufferPointer, into services: UnsafeMutablePointer<anp_name_service>, room: Int
  ) -> Int {
    var end = 0
    while end < line.count, line[end] != UInt8(ascii: "#") { end += 1 }
    var words = Words(UnsafeRawBufferPointer(rebasing: line[0..<end]))
    guard words.take("hosts"), words.take(UInt8(ascii: ":")) else { return 0 }
    var count = 0
    while true {
      if words.take(UInt8(ascii: "[")) {
        guard let action = readActions(&words, before: count > 0 ? services[count - 1].ends : 0) else { return count }
        if count > 0 { services[count - 1].ends = action }
        continue
      }
      guard count < room, let word = words.next(), word.count < Int(ANP_NAME_SERVICE_LENGTH) else { return count }
      store(word, at: count, services)
      count += 1
    }
  }

  /// "!UNAVAIL=return SUCCESS=continue ]": what ends the search from now on; nil for what is not to be understood.
  private static func readActions(_ words: inout Words, before: UInt32) -> UInt32? {
    var ends = before
    while !words.take(UInt8(ascii: "]")) {
      let isNegated = words.take(UInt8(ascii: "!"))
      guard var statuses = status(&words), words.take(UInt8(ascii: "=")) else { return nil }
      if isNegated { statuses = every & ~statuses }
      if words.take("return") {
        ends |= statuses
      } else if words.take("continue") || words.take("merge") {
        ends &= ~statuses
      } else {
        return nil
      }
    }
    return ends
  }

  private static var every: UInt32 {
    UInt32(ANP_ENDS_ON_SUCCESS | ANP_ENDS_ON_NOTFOUND | ANP_ENDS_ON_UNAVAIL | ANP_ENDS_ON_TRYAGAIN)
  }

  private static func status(_ words: inout Words) -> UInt32? {
    if words.take("success") { return UInt32(ANP_ENDS_ON_SUCCESS) }
    if words.take("notfound") { return UInt32(ANP_ENDS_ON_NOTFOUND) }
    if words.take("unavail") { return UInt32(ANP_ENDS_ON_UNAVAIL) }
    if words.take("tryagain") { return UInt32(ANP_ENDS_ON_TRYAGAIN) }
    return nil
  }

  private static func store(_ name: StaticString, at i: Int, _ services: UnsafeMutablePointer<anp_name_service>) {
    store(UnsafeRawBufferPointer(start: name.utf8Start, count: name.utf8CodeUnitCount), at: i, services)
  }

  private static func store(
    _ name: UnsafeRawBufferPointer, at i: Int, _ services: UnsafeMutablePointer<anp_name_service>
  ) {
    services[i].ends = UInt32(ANP_ENDS_ON_SUCCESS)
    withUnsafeMutableBytes(of: &services[i].name) { bytes in
      for n in 0..<bytes.count { bytes[n] = n < name.count ? name[n] : 0 }
    }
  }
}

/// The words and signs of a line; letters of either case are the same, as in glibc.
private struct Words {
  private let line: UnsafeRawBufferPointer
  private var at = 0

  init(_ line: UnsafeRawBufferPointer) { self.line = line }

  private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || (byte >= 0x09 && byte <= 0x0d) }

  private static func isSign(_ byte: UInt8) -> Bool {
    byte == UInt8(ascii: "[") || byte == UInt8(ascii: "]") || byte == UInt8(ascii: "=") || byte == UInt8(ascii: "!")
      || byte == UInt8(ascii: ":")
  }

  private mutating func skipSpaces() {
    while at < line.count, Self.isSpace(line[at]) { at += 1 }
  }

  mutating func take(_ sign: UInt8) -> Bool {
    skipSpaces()
    guard at < line.count, line[at] == sign else { return false }
    at += 1
    return true
  }

  /// `word` in small letters.
  mutating func take(_ word: StaticString) -> Bool {
    let before = at
    guard let found = next(), found.count == word.utf8CodeUnitCount else {
      at = before
      return false
    }
    for i in 0..<found.count {
      let isCapital = found[i] >= UInt8(ascii: "A") && found[i] <= UInt8(ascii: "Z")
      if (isCapital ? found[i] | 0x20 : found[i]) != word.utf8Start[i] {
        at = before
        return false
      }
    }
    return true
  }

  mutating func next() -> UnsafeRawBufferPointer? {
    skipSpaces()
    let start = at
    while at < line.count, !Self.isSpace(line[at]), !Self.isSign(line[at]) { at += 1 }
    return at > start ? UnsafeRawBufferPointer(rebasing: line[start..<at]) : nil
  }
}
