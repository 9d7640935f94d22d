// Owns: getsockopt and setsockopt. Options.swift says whose an option is; here are the forms of values and lengths, as in
// sk_setsockopt, do_ip_setsockopt and do_tcp_setsockopt.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

// MARK: Setting

@c(anp_entry_setsockopt)
public func entrySetsockopt(
  _ fd: Int32, _ entry: UInt64, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer?, _ length: UInt32
) -> Int {
  withSocket(fd, entry) { description in
    let route = Options.route(level: level, name: name, kind: description.pointee.kind)
    let isUndecided = description.pointee.side == .undecided
    switch route {
    case .unsupported:
      // The kernel's side may still be chosen, and there it works; a stack socket says what it cannot.
      return isUndecided ? passToKernel : -Errno.protocolNotAvailable
    case .congestion:
      return setCongestion(description, value, length)
    case .placeholder, .type, .domain, .ipProtocol, .pendingError, .information:
      return passToKernel
    case .membership: return Membership.set(description, fd, level, name, value, length)
    case .multicastInterface: return Membership.setInterface(description, value, length)
    case .icmp6Filter: return setFilter(description, fd, value, length)
    case .datagram(let option) where isOfRawSockets(option):
      guard knowsRaw(option, description) else { return -Errno.protocolNotAvailable }
      if !description.pointee.isStoodInFor {
        let placed = Int(anp_kernel_setsockopt(fd, level, name, value, length))
        if placed < 0 { return placed }
      }
    case .stack(let option) where !isUndecided && Options.isHot(option):
      break
    default:
      let placed = Int(anp_kernel_setsockopt(fd, level, name, value, length))
      if placed < 0 { return placed }
    }
    // A bad pointer that the placeholder has not seen.
    if length > 0, anp_is_nowhere(value) != 0 { return -Errno.fault }
    // The placeholder took it, so the value is there and long enough, but for the hot ones and IP's of no length.
    guard let value else { return length == 0 ? -Errno.invalid : -Errno.fault }
    return set(description, route, level, name, value, length)
  }
}

/// What a UDP socket that stands in for a raw one does not know.
private func isOfRawSockets(_ option: DatagramOption) -> Bool {
  switch option {
  case .includesHeader, .icmpFilter, .includesHeader6, .checksumOffset: true
  default: false
  }
}

/// Whether this is a raw socket of the family whose option that is.
private func knowsRaw(_ option: DatagramOption, _ description: DescriptionPointer) -> Bool {
  let isIPv6 = option == .includesHeader6 || option == .checksumOffset
  return description.pointee.datagramKind == .raw && description.pointee.family == (isIPv6 ? Family.inet6 : Family.inet)
}

private func set(
  _ description: DescriptionPointer, _ route: OptionRoute, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer,
  _ length: UInt32
) -> Int {
  switch route {
  case .receiveTimeout:
    description.pointee.receiveTimeout = timeout(value)
    return 0
  case .sendTimeout:
    description.pointee.sendTimeout = timeout(value)
    return 0
  case .linger:
    let isOn = value.loadUnaligned(as: Int32.self) != 0
    let seconds = value.loadUnaligned(fromByteOffset: 4, as: Int32.self)
    return apply(description, .linger, isOn ? max(0, seconds) : -1)
  default: break
  }
  // IP's options may be one byte; all others are ints.
  let number: Int32
  if length >= 4 {
    number = value.loadUnaligned(as: Int32.self)
  } else if level == Level.ip {
    number = length >= 1 ? Int32(value.load(as: UInt8.self)) : 0
  } else {
    return -Errno.invalid
  }
  switch route {
  case .timestamp, .timestampNanoseconds:
    description.pointee.timestamps = number != 0 ? name : 0
    return 0
  case .timestamping:
    description.pointee.timestamping = name
    description.pointee.timestampingFlags = number
    return 0
  case .zeroCopy:
    description.pointee.zeroCopy.isOn = number != 0
    return 0
  case .stack(let option):
    // Too late once there is a name (do_ipv6_setsockopt); the placeholder may have none.
    if option == .onlyIPv6, description.pointee.boundToEphemeral { return -Errno.invalid }
    if option == .onlyIPv6, description.pointee.side == .undecided { description.pointee.onlyIPv6 = number != 0 }
    return apply(description, option, Options.isBoolean(option) && number != 0 ? 1 : number)
  case .datagram(.checksumOffset) where description.pointee.isStoodInFor:
    // What a raw placeholder has seen to (do_rawv6_setsockopt): ICMPv6's is where it is.
    if level == Level.ipv6, description.pointee.ipProtocol == Level.icmpv6 { return -Errno.invalid }
    if number > 0, number & 1 != 0 { return -Errno.invalid }
    return apply(description, .checksumOffset, number)
  case .datagram(let option):
    return apply(description, option, number)
  default:
    return -Errno.protocolNotAvailable
  }
}

/// To the stack, or for later.
private func apply(_ description: DescriptionPointer, _ option: SocketOption, _ value: Int32) -> Int {
  if description.pointee.side == .undecided {
    description.pointee.recorded.record(option, value)
    return 0
  }
  return Spread.withEach(description) { shard, handle, now throws(SocketError) in
    try shard.pointee.stack.setOption(handle, option, Int(value), now: now)
  }
}

private func apply(_ description: DescriptionPointer, _ option: DatagramOption, _ value: Int32) -> Int {
  if description.pointee.side == .undecided {
    description.pointee.recordedDatagram.record(option, value)
    return 0
  }
  return withShard(description) { shard, now throws(SocketError) in
    try shard.pointee.stack.setOption(description.pointee.handle, option, Int(value), now: now)
    return 0
  }
}

/// struct icmp6_filter, or the beginning of one (rawv6_seticmpfilter).
private func setFilter(
  _ description: DescriptionPointer, _ fd: Int32, _ value: UnsafeRawPointer?, _ length: UInt32
) -> Int {
  let refusal = filterRefusal(description)
  if refusal != 0 { return refusal }
  if !description.pointee.isStoodInFor {
    let placed = Int(anp_kernel_setsockopt(fd, Level.icmpv6, 1, value, length))
    if placed < 0 { return placed }
  }
  if length == 0 { return 0 }
  guard let value, anp_is_nowhere(value) == 0 else { return -Errno.fault }
  var filter = description.pointee.icmp6Filter
  let count = min(Int(length), MemoryLayout<ICMP6Filter>.size)
  withUnsafeMutableBytes(of: &filter) { bytes in
    bytes.baseAddress.unsafelyUnwrapped.copyMemory(from: value, byteCount: count)
  }
  if description.pointee.side == .undecided {
    description.pointee.icmp6Filter = filter
    return 0
  }
  return withShard(description) { shard, _ throws(SocketError) in
    description.pointee.icmp6Filter = filter
    try shard.pointee.stack.setFilter(description.pointee.handle, filter)
    return 0
  }
}

/// Why a socket has no ICMP6_FILTER, a negative errno; 0 where it has one.
private func filterRefusal(_ description: DescriptionPointer) -> Int {
  guard description.pointee.datagramKind == .raw, description.pointee.family == Family.inet6 else {
    return -Errno.protocolNotAvailable
  }
  return description.pointee.ipProtocol == Level.icmpv6 ? 0 : -Errno.notSupported
}

/// struct timeval → nanoseconds; 0 means for ever.
private func timeout(_ value: UnsafeRawPointer) -> Int64 {
  let seconds = value.loadUnaligned(as: Int64.self)
  let microseconds = value.loadUnaligned(fromByteOffset: 8, as: Int64.self)
  if seconds == 0, microseconds == 0 { return -1 }
  if seconds < 0 { return 0 }
  return seconds > 1 << 32 ? -1 : seconds * 1_000_000_000 + microseconds * 1000
}

private func setCongestion(_ description: DescriptionPointer, _ value: UnsafeRawPointer?, _ length: UInt32) -> Int {
  guard length >= 1 else { return -Errno.invalid }
  guard let value, anp_is_nowhere(value) == 0 else { return -Errno.fault }
  for algorithm in CongestionAlgorithm.allCases where matches(algorithm.name, value, Int(length)) {
    return apply(description, .congestion, Int32(algorithm.rawValue))
  }
  return -Errno.noEntry
}

/// `value` holds exactly this name, ended by NUL or by its length.
private func matches(_ name: StaticString, _ value: UnsafeRawPointer, _ length: Int) -> Bool {
  let count = name.utf8CodeUnitCount
  guard length >= count else { return false }
  for i in 0..<count where value.load(fromByteOffset: i, as: UInt8.self) != name.utf8Start[i] { return false }
  return length == count || value.load(fromByteOffset: count, as: UInt8.self) == 0
}

// MARK: Getting

@c(anp_entry_getsockopt)
public func entryGetsockopt(
  _ fd: Int32, _ entry: UInt64, _ level: Int32, _ name: Int32, _ value: UnsafeMutableRawPointer?,
  _ length: UnsafeMutablePointer<UInt32>?
) -> Int {
  withSocket(fd, entry) { description in
    let route = Options.route(level: level, name: name, kind: description.pointee.kind)
    // Everything set so far was set on the placeholder too, but for this one: the kernel may not have the algorithm.
    if description.pointee.deferredPeer != nil, route == .stack(.mtu) {
      let decided = Sides.becomeStack(description, fd)
      if decided != 0 { return decided }
    }
    if description.pointee.side == .undecided, route != .congestion, !isAnsweredHere(description, route) {
      return passToKernel
    }
    if route == .placeholder { return passToKernel }
    guard let length, anp_is_nowhere(length) == 0 else { return -Errno.fault }
    guard Int32(bitPattern: length.pointee) >= 0 else { return -Errno.invalid }
    let answer = Answer(value: value, length: length, isByteAllowed: level == Level.ip)
    return get(description, route, name, answer)
  }
}

/// A placeholder that stands in for a socket of another type does not know what that is.
private func isAnsweredHere(_ description: DescriptionPointer, _ route: OptionRoute) -> Bool {
  guard description.pointee.isStoodInFor else { return route == .multicastInterface }
  switch route {
  case .type, .ipProtocol, .multicastInterface, .icmp6Filter: return true
  case .datagram(let option): return isOfRawSockets(option)
  default: return false
  }
}

/// Where an option's value goes: cut to the caller's room, and the length that was given told back.
private struct Answer {
  let value: UnsafeMutableRawPointer?
  let length: UnsafeMutablePointer<UInt32>
  let isByteAllowed: Bool

  func write(_ source: UnsafeRawPointer, _ size: Int) -> Int {
    let given = min(size, Int(length.pointee))
    if given > 0 {
      guard let value, anp_is_nowhere(value) == 0 else { return -Errno.fault }
      value.copyMemory(from: source, byteCount: given)
    }
    length.pointee = UInt32(given)
    return 0
  }

  func write(_ number: Int32) -> Int {
    if isByteAllowed, length.pointee > 0, length.pointee < 4, number >= 0, number <= 255 {
      var byte = UInt8(number)
      return write(&byte, 1)
    }
    var copy = number
    return write(&copy, 4)
  }
}

private func get(_ description: DescriptionPointer, _ route: OptionRoute, _ name: Int32, _ answer: Answer) -> Int {
  switch route {
  case .type: return answer.write(description.pointee.socketType)
  case .domain: return answer.write(description.pointee.family)
  case .ipProtocol: return answer.write(description.pointee.ipProtocol)
  case .timestamp, .timestampNanoseconds:
    // SO_TIMESTAMP_NEW says yes to SO_TIMESTAMPNS_NEW as well, and only that one does (sk_getsockopt).
    let isSet = description.pointee.timestamps == name || name == 63 && description.pointee.timestamps == 64
    return answer.write(isSet ? 1 : 0)
  case .timestamping:
    // With the flags what SOF_TIMESTAMPING_BIND_PHC binds to: nothing.
    var image = (description.pointee.timestampingFlags, Int32(0))
    return answer.write(&image, 8)
  case .multicastInterface:
    var address = description.pointee.multicastInterface.v4.bits.bigEndian
    return answer.write(&address, 4)
  case .membership: return -Errno.protocolNotAvailable
  case .datagram(let option):
    if isOfRawSockets(option), !knowsRaw(option, description) { return -Errno.protocolNotAvailable }
    if description.pointee.side == .undecided {
      return answer.write(description.pointee.recordedDatagram.value(option) ?? standard(option, description))
    }
    var number = 0
    let result = withShard(description) { shard, _ throws(SocketError) in
      number = try shard.pointee.stack.option(description.pointee.handle, option)
      return 0
    }
    return result != 0 ? result : answer.write(Int32(truncatingIfNeeded: number))
  case .icmp6Filter:
    let refusal = filterRefusal(description)
    if refusal != 0 { return refusal }
    var filter = description.pointee.icmp6Filter
    return answer.write(&filter, MemoryLayout<ICMP6Filter>.size)
  case .zeroCopy: return answer.write(description.pointee.zeroCopy.isOn ? 1 : 0)
  case .receiveTimeout: return write(description.pointee.receiveTimeout, answer)
  case .sendTimeout: return write(description.pointee.sendTimeout, answer)
  case .pendingError:
    var errno: Int32 = 0
    _ = withShard(description) { shard, _ throws(SocketError) in
      if let error = shard.pointee.stack.takeError(description.pointee.handle) { errno = Int32(error.errno) }
      return 0
    }
    return answer.write(errno)
  case .linger:
    var seconds = 0
    let result = withShard(description) { shard, _ throws(SocketError) in
      seconds = try shard.pointee.stack.option(description.pointee.handle, .linger)
      return 0
    }
    if result != 0 { return result }
    var image = (Int32(seconds >= 0 ? 1 : 0), Int32(max(0, seconds)))
    return answer.write(&image, 8)
  case .congestion: return getCongestion(description, answer)
  case .information: return TCPInformation.get(description) { image, size in answer.write(image, size) }
  case .stack(let option):
    var number = 0
    let result = withShard(description) { shard, _ throws(SocketError) in
      number = try shard.pointee.stack.option(description.pointee.handle, option)
      return 0
    }
    return result != 0 ? result : answer.write(Int32(truncatingIfNeeded: number))
  case .placeholder, .unsupported: return -Errno.protocolNotAvailable
  }
}

/// What a raw socket's option is from the beginning.
private func standard(_ option: DatagramOption, _ description: DescriptionPointer) -> Int32 {
  switch option {
  case .checksumOffset: description.pointee.ipProtocol == Level.icmpv6 ? 2 : -1
  case .includesHeader, .includesHeader6: description.pointee.ipProtocol == Level.raw ? 1 : 0
  default: 0
  }
}

private func write(_ timeout: Int64, _ answer: Answer) -> Int {
  let nanoseconds = max(0, timeout)
  var image = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000 / 1000)
  return answer.write(&image, 16)
}

private func getCongestion(_ description: DescriptionPointer, _ answer: Answer) -> Int {
  var number = Int(description.pointee.recorded.value(.congestion) ?? Int32(Settings().tcpCongestionControl.rawValue))
  if description.pointee.side == .stack {
    let result = withShard(description) { shard, _ throws(SocketError) in
      number = try shard.pointee.stack.option(description.pointee.handle, .congestion)
      return 0
    }
    if result != 0 { return result }
  }
  guard let algorithm = CongestionAlgorithm(rawValue: UInt8(truncatingIfNeeded: number)) else { return -Errno.invalid }
  // TCP_CA_NAME_MAX bytes, padded with NULs.
  var image = InlineArray<16, UInt8>(repeating: 0)
  for i in 0..<min(15, algorithm.name.utf8CodeUnitCount) { image[i] = algorithm.name.utf8Start[i] }
  return withUnsafeBytes(of: &image) { bytes in answer.write(bytes.baseAddress.unsafelyUnwrapped, 16) }
}
