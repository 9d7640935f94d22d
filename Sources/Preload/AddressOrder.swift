// Owns: in what order a name's addresses are to be tried, and which families the stack has addresses of.
// Read first: RFC 6724 §2.1 (the policy table), §6 (the rules). As in glibc's getaddrinfo: the default table with the labels of
// its gai.conf, no home addresses, no native transport to prefer; IPv4 addresses share a prefix only within the own network, and
// only where there are both families, as libc does not know its networks otherwise. Mapped addresses compare as those of IPv6.
//
// glibc connects a UDP socket to each address to learn the source; here the stack's addresses are known, and the kernel is asked
// for what stays with it. Nothing is started for that.

import CSupport
import Host
import Netstack
import Wire

@c(anp_entry_has_address)
public func entryHasAddress(_ family: Int32) -> Int32 {
  anp_enter()
  defer { anp_leave() }
  return StackAddresses.has(family: family) ? 1 : 0
}

@c(anp_entry_order_addresses)
public func entryOrderAddresses(_ addresses: UnsafeMutablePointer<anp_name_address>, _ count: Int) {
  anp_enter()
  defer { anp_leave() }
  guard count > 1 else { return }
  let candidates = UnsafeMutablePointer<AddressOrder.Candidate>.allocate(capacity: count)
  defer { candidates.deallocate() }
  for i in 0..<count {
    let destination = addresses.address(at: i)
    (candidates + i).initialize(
      to: AddressOrder.Candidate(
        destination, StackAddresses.source(for: destination, scope: addresses[i].scope), entry: addresses[i]))
  }
  AddressOrder.sort(UnsafeMutableBufferPointer(start: candidates, count: count))
  for i in 0..<count { addresses[i] = candidates[i].entry }
}

extension UnsafeMutablePointer<anp_name_address> {
  fileprivate func address(at i: Int) -> IPAddress {
    withUnsafeBytes(of: &self[i].address) { IPAddress(reading16: $0.baseAddress.unsafelyUnwrapped, at: 0) }
  }
}

/// What those who look up names ask about the stack's addresses; nothing is started for it.
enum StackAddresses {
  /// Loopback addresses do not count, link-local ones do, as in glibc.
  static func has(family: Int32) -> Bool {
    let known = current
    for i in 0..<known.count where known[i].address.isIPv4 == (family == Family.inet) {
      if !known[i].address.isLoopback { return true }
    }
    if HostRuntime.shard != nil { return false }
    // Those that the stack will have once it has begun: a leased one, a link-local one.
    return family == Family.inet6 ? HostRuntime.configuration.hasIPv6 : HostRuntime.configuration.link(0).usesDHCP
  }

  /// Where packets to `destination` would come from, and how long the prefix of that address's network is; nil where there is no
  /// way to it.
  static func source(for destination: IPAddress, scope: UInt32) -> AddressOrder.Source? {
    switch Sides.destination(destination) {
    case .refused: return nil
    case .kernel: return kernelSource(for: destination, scope: scope)
    case .stack: break
    }
    let known = current
    var source: IPAddress?
    if let shard = HostRuntime.shard {
      shard.pointee.lock()
      source = shard.pointee.stack.source(toward: destination, now: shard.pointee.now())
      shard.pointee.unlock()
    } else {
      source = likelySource(for: destination, among: known)
    }
    guard let source else { return nil }
    return AddressOrder.Source(address: source, prefixLength: prefixLength(of: source, among: known))
  }

  /// As they are, or as the configuration gives them to a stack that has not begun.
  private static var current: InterfaceAddresses {
    if let shard = HostRuntime.shard {
      shard.pointee.lock()
      let addresses = shard.pointee.stack.addresses
      shard.pointee.unlock()
      return addresses
    }
    var addresses = InterfaceAddresses()
    let link = HostRuntime.configuration.link(0)
    for i in 0..<link.addresses.count { _ = addresses.add(configured(link.addresses[i])) }
    if link.isIPv6Off { return addresses }
    for i in 0..<link.addresses6.count { _ = addresses.add(configured(link.addresses6[i])) }
    return addresses
  }

  private static func configured(_ address: ConfiguredAddress) -> InterfaceAddress {
    InterfaceAddress(address.address, prefixLength: address.prefixLength, state: .preferred, origin: .configured)
  }

  private static func network(_ address: InterfaceAddress) -> Network {
    Network(address.address, prefix: address.prefixLength + (address.address.isIPv4 ? 96 : 0))
  }

  /// Before the stack has begun: an address in the destination's network, else the first of its family and scope.
  private static func likelySource(for destination: IPAddress, among known: InterfaceAddresses) -> IPAddress? {
    var first: IPAddress?
    for i in 0..<known.count where known[i].address.isIPv4 == destination.isIPv4 {
      if network(known[i]).contains(destination) { return known[i].address }
      let fits = AddressSelection.scope(known[i].address) == AddressSelection.scope(destination)
      if first == nil, fits { first = known[i].address }
    }
    return first
  }

  /// Bits, of the IPv4-mapped form. libc knows the networks of its addresses only where there are some of both families, and
  /// compares no prefixes of IPv4 addresses otherwise: then 128.
  private static func prefixLength(of address: IPAddress, among known: InterfaceAddresses) -> Int {
    guard has(family: Family.inet), has(family: Family.inet6), let at = known.index(of: address) else { return 128 }
    return known[at].prefixLength + (address.isIPv4 ? 96 : 0)
  }

  private static func kernelSource(for destination: IPAddress, scope: UInt32) -> AddressOrder.Source? {
    if destination.isIPv4, destination.isLoopback {
      return AddressOrder.Source(address: IPAddress(IPv4Address(127, 0, 0, 1)), prefixLength: 96 + 8)
    }
    var bytes = InlineArray<16, UInt8>(repeating: 0)
    var source = InlineArray<16, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &bytes) { given -> AddressOrder.Source? in
      withUnsafeMutableBytes(of: &source) { taken -> AddressOrder.Source? in
        guard let to = given.baseAddress, let from = taken.baseAddress else { return nil }
        to.storeBigEndian32(UInt32(truncatingIfNeeded: destination.high >> 32), at: 0)
        to.storeBigEndian32(UInt32(truncatingIfNeeded: destination.high), at: 4)
        to.storeBigEndian32(UInt32(truncatingIfNeeded: destination.low >> 32), at: 8)
        to.storeBigEndian32(UInt32(truncatingIfNeeded: destination.low), at: 12)
        let result = anp_kernel_source_address(
          to.assumingMemoryBound(to: UInt8.self), scope, from.assumingMemoryBound(to: UInt8.self))
        guard result == 0 else { return nil }
        // The prefix of the kernel's network is not asked for.
        return AddressOrder.Source(address: IPAddress(reading16: from, at: 0), prefixLength: 128)
      }
    }
  }
}

enum AddressOrder {
  struct Source {
    var address: IPAddress
    /// Bits, of the IPv4-mapped form.
    var prefixLength: Int
  }

  struct Candidate {
    let destination: IPAddress
    let source: Source?
    let entry: anp_name_address

    init(_ destination: IPAddress, _ source: Source?, entry: anp_name_address) {
      self.destination = destination
      self.source = source
      self.entry = entry
    }
  }

  /// By merging runs of twice the length each time: an answer over TCP may hold thousands of addresses, and the program's handlers
  /// wait meanwhile. Equals keep their order (rule 10).
  static func sort(_ candidates: UnsafeMutableBufferPointer<Candidate>) {
    guard candidates.count > 1 else { return }
    let spare = UnsafeMutableBufferPointer<Candidate>.allocate(capacity: candidates.count)
    defer { spare.deallocate() }
    _ = spare.initialize(from: candidates)
    var sorted = candidates
    var other = spare
    var length = 1
    while length < candidates.count {
      for start in stride(from: 0, to: candidates.count, by: 2 * length) {
        merge(sorted, from: start, length: length, into: other)
      }
      swap(&sorted, &other)
      length *= 2
    }
    if sorted.baseAddress == candidates.baseAddress { return }
    for i in 0..<candidates.count { candidates[i] = sorted[i] }
  }

  /// Two runs of `length`, the second shorter or missing at the end.
  private static func merge(
    _ runs: UnsafeMutableBufferPointer<Candidate>, from start: Int, length: Int,
    into merged: UnsafeMutableBufferPointer<Candidate>
  ) {
    let middle = min(start + length, runs.count)
    let end = min(middle + length, runs.count)
    var first = start
    var second = middle
    for at in start..<end {
      if first == middle || (second < end && isBetter(runs[second], runs[first])) {
        merged[at] = runs[second]
        second += 1
      } else {
        merged[at] = runs[first]
        first += 1
      }
    }
  }

  /// Whether `a` must come before `b`.
  static func isBetter(_ a: Candidate, _ b: Candidate) -> Bool {
    // Rule 1: avoid unusable destinations.
    guard let ofA = a.source, let ofB = b.source else { return a.source != nil && b.source == nil }
    // Rule 2: prefer a matching scope.
    let scopeA = AddressSelection.scope(a.destination)
    let scopeB = AddressSelection.scope(b.destination)
    let matchesA = scopeA == AddressSelection.scope(ofA.address)
    let matchesB = scopeB == AddressSelection.scope(ofB.address)
    if matchesA != matchesB { return matchesA }
    // Rule 5: prefer a matching label.
    let labelA = label(a.destination) == label(ofA.address)
    let labelB = label(b.destination) == label(ofB.address)
    if labelA != labelB { return labelA }
    // Rule 6: prefer the higher precedence.
    let precedenceA = precedence(a.destination)
    let precedenceB = precedence(b.destination)
    if precedenceA != precedenceB { return precedenceA > precedenceB }
    // Rule 8: prefer the smaller scope.
    if scopeA != scopeB { return scopeA < scopeB }
    // Rule 9: use the longest matching prefix.
    guard a.destination.isIPv4 == b.destination.isIPv4 else { return false }
    let commonA = common(a, ofA)
    let commonB = common(b, ofB)
    return commonA > commonB
  }

  /// glibc's default tables (gai.conf(5)): the precedences of RFC 3484, labels that tell 6to4, unique local and Teredo apart.
  static func precedence(_ address: IPAddress) -> Int {
    if address.high == 0, address.low == 1 { return 50 }
    if address.high >> 48 == 0x2002 { return 30 }
    if address.isIPv4 { return 10 }
    if address.high == 0, address.low >> 32 == 0 { return 20 }
    return 40
  }

  static func label(_ address: IPAddress) -> Int {
    if address.high == 0, address.low == 1 { return 0 }
    if address.high >> 48 == 0x2002 { return 2 }
    if address.isIPv4 { return 4 }
    if address.high == 0, address.low >> 32 == 0 { return 3 }
    if address.high >> 54 == 0xfec0 >> 6 { return 5 }
    if address.high >> 57 == 0xfc >> 1 { return 6 }
    if address.high >> 32 == 0x2001_0000 { return 7 }
    return 1
  }

  /// The bits that destination and source share. Of IPv4 only where both are in the source's network: elsewhere nothing follows
  /// from a common prefix.
  private static func common(_ candidate: Candidate, _ source: Source) -> Int {
    let destination = candidate.destination
    if destination.isIPv4, candidate.entry.is_inet6 == 0,
      source.prefixLength >= 128 || !Network(source.address, prefix: source.prefixLength).contains(destination)
    {
      return 0
    }
    let high = destination.high ^ source.address.high
    if high != 0 { return high.leadingZeroBitCount }
    return 64 + (destination.low ^ source.address.low).leadingZeroBitCount
  }
}
