// Owns: which of Linux's socket options are the stack's, by level and number. Read first: socket(7), ip(7), ipv6(7), tcp(7).

import Netstack

/// Where an option is looked after.
enum OptionRoute: Equatable {
  /// The stack has it, as an integer; `isBoolean` options are 0 or 1 whatever was set.
  case stack(SocketOption)
  /// The placeholder remembers or refuses it: nothing that the stack does depends on it.
  case placeholder
  case receiveTimeout, sendTimeout
  case linger, congestion, information, pendingError
  /// SO_TYPE, SO_DOMAIN, SO_PROTOCOL
  case type, domain, ipProtocol
  case timestamp, timestampNanoseconds, timestamping
  /// Of datagram sockets alone.
  case datagram(DatagramOption)
  case membership, multicastInterface
  case zeroCopy
  case icmp6Filter
  /// Not supported: ENOPROTOOPT, as from a kernel without it.
  case unsupported
}

enum Options {
  static func route(level: Int32, name: Int32, kind: SocketKind) -> OptionRoute {
    switch level {
    case Level.socket: kind == .datagram ? datagramSocket(name) ?? socket(name) : socket(name)
    case Level.ip: kind == .datagram ? datagramIP(name) ?? ip(name) : ip(name)
    case Level.ipv6: kind == .datagram ? datagramIPv6(name) ?? ipv6(name) : ipv6(name)
    case Level.udp where kind == .datagram: udp(name)
    case Level.raw where kind == .datagram: raw(name)
    case Level.icmpv6 where kind == .datagram: name == 1 ? .icmp6Filter : .unsupported
    // The placeholder says what a datagram socket answers to TCP's options.
    case Level.tcp: kind == .stream ? tcp(name) : .placeholder
    default: .unsupported
    }
  }

  private static func datagramSocket(_ name: Int32) -> OptionRoute? {
    switch name {
    case 11: .datagram(.withoutChecksum)
    case 40: .datagram(.dropCount)
    default: nil
    }
  }

  private static func datagramIP(_ name: Int32) -> OptionRoute? {
    switch name {
    case 3: .datagram(.includesHeader)
    case 20: .datagram(.originalDestination)
    case 33: .datagram(.multicastTimeToLive)
    case 34: .datagram(.multicastLoop)
    case 49: .datagram(.multicastAll)
    default: nil
    }
  }

  private static func datagramIPv6(_ name: Int32) -> OptionRoute? {
    switch name {
    case 2: .datagram(.oldPacketInfo6)
    case 7: .datagram(.checksumOffset)
    case 8: .datagram(.oldHopLimit6)
    case 18: .datagram(.multicastHops)
    case 19: .datagram(.multicastLoop)
    case 29: .datagram(.multicastAll6)
    case 36: .datagram(.includesHeader6)
    case 49: .datagram(.packetInfo6)
    case 51: .datagram(.hopLimit6)
    case 66: .datagram(.trafficClass6)
    case 74: .datagram(.originalDestination6)
    // IPV6_ADD_MEMBERSHIP, IPV6_DROP_MEMBERSHIP, MCAST_JOIN_GROUP … MCAST_LEAVE_SOURCE_GROUP
    case 20, 21, 42...47: .membership
    default: nil
    }
  }

  private static func raw(_ name: Int32) -> OptionRoute {
    switch name {
    case 1: .datagram(.icmpFilter)
    // IPV6_CHECKSUM, IPV6_HDRINCL, which this level knows as well as IPv6's own
    case 7: .datagram(.checksumOffset)
    case 36: .datagram(.includesHeader6)
    default: .unsupported
    }
  }

  private static func udp(_ name: Int32) -> OptionRoute {
    switch name {
    case 1: .datagram(.isCorked)
    case 103: .datagram(.segmentSize)
    case 104: .datagram(.receivesSegments)
    // UDP_NO_CHECK6_TX, UDP_NO_CHECK6_RX
    case 101, 102: .placeholder
    default: .unsupported
    }
  }

  private static func socket(_ name: Int32) -> OptionRoute {
    switch name {
    case 2: .stack(.reuseAddress)
    case 3: .type
    case 4: .pendingError
    case 6: .stack(.broadcast)
    case 7, 32: .stack(.sendBuffer)
    case 8, 33: .stack(.receiveBuffer)
    case 9: .stack(.keepAlive)
    case 13: .linger
    case 15: .stack(.reusePort)
    case 18: .stack(.receiveLowWater)
    case 20, 66: .receiveTimeout
    case 21, 67: .sendTimeout
    case 29, 63: .timestamp
    case 30: .stack(.acceptConnections)
    case 35, 64: .timestampNanoseconds
    case 37, 65: .timestamping
    case 38: .ipProtocol
    case 39: .domain
    case 60: .zeroCopy
    // SO_DEBUG, SO_DONTROUTE, SO_OOBINLINE, SO_PRIORITY, SO_PASSCRED, SO_PEERCRED, SO_SNDLOWAT, SO_BINDTODEVICE, SO_PEERNAME,
    // SO_MARK, SO_RXQ_OVFL, SO_BUSY_POLL, SO_MAX_PACING_RATE, SO_INCOMING_CPU, SO_INCOMING_NAPI_ID, SO_COOKIE,
    // SO_PREFER_BUSY_POLL, SO_BUSY_POLL_BUDGET
    case 1, 5, 10, 12, 16, 17, 19, 25, 28, 36, 40, 46, 47, 49, 56, 57, 69, 70: .placeholder
    default: .unsupported
    }
  }

  private static func ip(_ name: Int32) -> OptionRoute {
    switch name {
    case 1: .stack(.typeOfService)
    case 2: .stack(.timeToLive)
    case 8: .stack(.packetInfo)
    case 10: .stack(.mtuDiscover)
    case 11: .stack(.receiveErrors)
    case 12: .stack(.receiveTTL)
    case 13: .stack(.receiveTOS)
    case 14: .stack(.mtu)
    case 15: .stack(.freeBind)
    case 24: .stack(.bindAddressNoPort)
    case 32: .multicastInterface
    // IP_ADD_MEMBERSHIP … IP_DROP_SOURCE_MEMBERSHIP, MCAST_JOIN_GROUP … MCAST_LEAVE_SOURCE_GROUP
    case 35...40, 42...47: .membership
    // IP_OPTIONS (sshd reads it), IP_TRANSPARENT, IP_MINTTL, IP_NODEFRAG, IP_CHECKSUM, IP_RECVFRAGSIZE, IP_RECVERR_RFC4884,
    // IP_MULTICAST_TTL/LOOP, IP_MULTICAST_ALL, IP_UNICAST_IF
    case 4, 19, 21, 22, 23, 25, 26, 33, 34, 49, 50: .placeholder
    default: .unsupported
    }
  }

  private static func ipv6(_ name: Int32) -> OptionRoute {
    switch name {
    case 16: .stack(.unicastHops)
    case 23: .stack(.mtuDiscover)
    case 24: .stack(.mtu)
    case 25: .stack(.receiveErrors)
    case 26: .stack(.onlyIPv6)
    case 67: .stack(.trafficClass)
    // IPV6_MULTICAST_IF/HOPS/LOOP, IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_AUTOFLOWLABEL, IPV6_ADDR_PREFERENCES
    case 17, 18, 19, 49, 51, 66, 70, 72: .placeholder
    default: .unsupported
    }
  }

  private static func tcp(_ name: Int32) -> OptionRoute {
    switch name {
    case 1: .stack(.noDelay)
    case 2: .stack(.maximumSegment)
    case 3: .stack(.cork)
    case 4: .stack(.keepIdle)
    case 5: .stack(.keepInterval)
    case 6: .stack(.keepCount)
    case 7: .stack(.synCount)
    case 8: .stack(.linger2)
    case 9: .stack(.deferAccept)
    case 10: .stack(.windowClamp)
    case 11: .information
    case 12: .stack(.quickAck)
    case 13: .congestion
    case 18: .stack(.userTimeout)
    case 25: .stack(.notSentLowWater)
    // TCP_THIN_LINEAR_TIMEOUTS, TCP_THIN_DUPACK, TCP_FASTOPEN, TCP_FASTOPEN_CONNECT: hints that a peer may ignore, too
    case 16, 17, 23, 30: .placeholder
    default: .unsupported
    }
  }

  static func isBoolean(_ option: SocketOption) -> Bool {
    switch option {
    case .reuseAddress, .reusePort, .keepAlive, .broadcast, .acceptConnections, .noDelay, .cork, .receiveErrors,
      .packetInfo, .receiveTTL, .receiveTOS, .freeBind, .bindAddressNoPort, .onlyIPv6:
      true
    case .linger, .receiveBuffer, .sendBuffer, .receiveLowWater, .maximumSegment, .keepIdle, .keepInterval, .keepCount,
      .userTimeout, .quickAck, .deferAccept, .synCount, .linger2, .windowClamp, .congestion, .notSentLowWater,
      .typeOfService, .timeToLive, .mtuDiscover, .mtu, .trafficClass, .unicastHops:
      false
    }
  }

  /// Set per request by busy servers: the stack's own check must do. All others are tried on the placeholder first, whose
  /// answer to a bad value is Linux's own.
  static func isHot(_ option: SocketOption) -> Bool {
    option == .noDelay || option == .cork || option == .quickAck
  }
}

/// What was set before the side was known, to be replayed to the stack: of one of the two kinds of options.
struct RecordedOptions {
  private static var capacity: Int { 64 }
  private var values = InlineArray<64, Int32>(repeating: 0)
  private var isSet: UInt64 = 0

  mutating func record(_ option: SocketOption, _ value: Int32) { record(option.rawValue, value) }
  mutating func record(_ option: DatagramOption, _ value: Int32) { record(option.rawValue, value) }
  func value(_ option: SocketOption) -> Int32? { value(option.rawValue) }
  func value(_ option: DatagramOption) -> Int32? { value(option.rawValue) }

  private mutating func record(_ number: UInt8, _ value: Int32) {
    values[Int(number)] = value
    isSet |= 1 << UInt64(number)
  }

  private func value(_ number: UInt8) -> Int32? {
    isSet >> UInt64(number) & 1 == 1 ? values[Int(number)] : nil
  }

  var isEmpty: Bool { isSet == 0 }
}
