// Owns: the options of setsockopt that join and leave multicast groups or choose the interface for them: their many structures. Read
// first: ip(7), ipv6(7); Linux's do_ip_setsockopt and do_mcast_group_source for lengths and errors. None of them goes to the placeholder: the
// kernel would join, at the device's other end.

import CSupport
import Host
import Netstack
import Wire

enum Membership {
  /// What a call asks for.
  struct Request {
    var group = IPAddress.anyIPv4
    var change = Stack.MembershipChange.join
    /// The interface by its address, or by its number where that is not 0.
    var address = IPAddress.anyIPv4
    var index: Int32 = 0
  }

  static func set(
    _ description: DescriptionPointer, _ fd: Int32, _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer?,
    _ length: UInt32
  ) -> Int {
    // Streams join nothing (EPROTO, as in Linux).
    guard description.pointee.kind == .datagram else { return -71 }
    if level == Level.ipv6, description.pointee.family != Family.inet6 { return -Errno.protocolNotAvailable }
    guard Int32(bitPattern: length) >= 0 else { return -Errno.invalid }
    guard let value, anp_is_nowhere(value) == 0 else { return length == 0 ? -Errno.invalid : -Errno.fault }
    var request = Request()
    let error = parse(level, name, value, Int(length), &request)
    if error != 0 { return error }
    // A program that joins at each interface does so at loopback too: no reason to give its socket away.
    if request.address.isLoopback, !HostRuntime.configuration.loopbackInStack { return -Errno.noDevice }
    if description.pointee.side == .undecided {
      let decided = Sides.becomeStack(description, fd)
      if decided != 0 { return decided }
    }
    return withShard(description) { shard, now throws(SocketError) in
      guard isOurs(request.address, request.index, shard) else { return -Errno.noDevice }
      try shard.pointee.stack.changeMembership(
        description.pointee.handle, request.group, request.change, now: now)
      return 0
    }
  }

  /// The one interface there is, whichever of its two ends' addresses a program knows it by.
  private static func isOurs(_ address: IPAddress, _ index: Int32, _ shard: UnsafeMutablePointer<Shard>) -> Bool {
    if index != 0 { return Int(index) == shard.pointee.stack.device.interfaceIndex }
    return address.isUnspecified || shard.pointee.stack.isInterface(address)
  }

  /// IP_MULTICAST_IF
  static func setInterface(
    _ description: DescriptionPointer, _ value: UnsafeRawPointer?, _ length: UInt32
  ) -> Int {
    guard description.pointee.kind == .datagram else { return -Errno.invalid }
    guard Int32(bitPattern: length) >= 4 else { return -Errno.invalid }
    guard let value, anp_is_nowhere(value) == 0 else { return -Errno.fault }
    var request = Request()
    if length >= 12 {
      request.address = address(value, 4)
      request.index = value.loadUnaligned(fromByteOffset: 8, as: Int32.self)
    } else {
      request.address = address(value, length >= 8 ? 4 : 0)
    }
    if request.address.isLoopback, !HostRuntime.configuration.loopbackInStack { return -Errno.addressNotAvailable }
    if description.pointee.side == .stack {
      let result = withShard(description) { shard, _ throws(SocketError) in
        isOurs(request.address, request.index, shard) ? 0 : -Errno.addressNotAvailable
      }
      if result != 0 { return result }
    }
    description.pointee.multicastInterface = request.address
    return 0
  }

  private static func address(_ value: UnsafeRawPointer, _ offset: Int) -> IPAddress {
    IPAddress(IPv4Address(bits: value.bigEndian32(at: offset)))
  }

  /// Of the struct sockaddr_in or sockaddr_in6 at `offset`.
  private static func address(_ value: UnsafeRawPointer, _ offset: Int, of family: Int32) -> IPAddress {
    family == Family.inet6 ? IPAddress(reading16: value, at: offset + 8) : address(value, offset + 4)
  }

  private static func parse(
    _ level: Int32, _ name: Int32, _ value: UnsafeRawPointer, _ length: Int, _ request: inout Request
  ) -> Int {
    let family = level == Level.ipv6 ? Family.inet6 : Family.inet
    switch name {
    case 20, 21:  // IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP: struct ipv6_mreq
      guard length >= 20 else { return -Errno.invalid }
      request.group = IPAddress(reading16: value, at: 0)
      request.index = value.loadUnaligned(fromByteOffset: 16, as: Int32.self)
      request.change = name == 20 ? .join : .leave
    case 35, 36:  // IP_ADD_MEMBERSHIP, IP_DROP_MEMBERSHIP: struct ip_mreq or ip_mreqn
      guard length >= 8 else { return -Errno.invalid }
      request.group = address(value, 0)
      request.address = address(value, 4)
      if length >= 12 { request.index = value.loadUnaligned(fromByteOffset: 8, as: Int32.self) }
      request.change = name == 35 ? .join : .leave
    case 37...40:  // IP_UNBLOCK_SOURCE, IP_BLOCK_SOURCE, IP_ADD_SOURCE_MEMBERSHIP, IP_DROP_SOURCE_MEMBERSHIP
      // struct ip_mreq_source: group, interface, source
      guard length == 12 else { return -Errno.invalid }
      request.group = address(value, 0)
      request.address = address(value, 4)
      request.change = change(name - 37, of: address(value, 8))
    case 42, 45:  // MCAST_JOIN_GROUP, MCAST_LEAVE_GROUP: struct group_req
      guard length >= 136 else { return -Errno.invalid }
      guard SockAddr.family(value + 8) == family else { return -Errno.invalid }
      request.index = value.loadUnaligned(as: Int32.self)
      request.group = address(value, 8, of: family)
      request.change = name == 42 ? .join : .leave
    default:  // MCAST_BLOCK_SOURCE 43, _UNBLOCK_ 44, _JOIN_ 46, _LEAVE_SOURCE_GROUP 47: struct group_source_req
      guard length == 264 else { return -Errno.invalid }
      guard SockAddr.family(value + 8) == family, SockAddr.family(value + 136) == family else {
        return -Errno.addressNotAvailable
      }
      request.index = value.loadUnaligned(as: Int32.self)
      request.group = address(value, 8, of: family)
      let order: Int32 = name == 44 ? 0 : name == 43 ? 1 : name == 46 ? 2 : 3
      request.change = change(order, of: address(value, 136, of: family))
    }
    return 0
  }

  /// In the order of IP_UNBLOCK_SOURCE and its successors.
  private static func change(_ order: Int32, of source: IPAddress) -> Stack.MembershipChange {
    switch order {
    case 0: .unblock(source)
    case 1: .block(source)
    case 2: .joinSource(source)
    default: .leaveSource(source)
    }
  }
}
