// Owns: the vocabulary between the stack and whoever puts a socket interface on it: handles, readiness, options, results.
// Knows no errno, no file descriptor, no sockaddr.

import Wire

package enum SocketKind: UInt8, Sendable { case stream = 1, datagram = 2 }

/// Names a socket of a stack. Stale handles are recognised.
package struct SocketHandle: Equatable, Sendable {
  package var kind: SocketKind
  package var slot: SlabHandle
  package init(_ kind: SocketKind, _ slot: SlabHandle) {
    self.kind = kind
    self.slot = slot
  }
}

package enum ShutdownHow: Sendable { case read, write, both }

package struct ReceiveFlags: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// MSG_PEEK
  package static var peek: ReceiveFlags { ReceiveFlags(rawValue: 1) }
  /// MSG_TRUNC on a stream: drop the bytes instead of copying them (tcp(7)).
  package static var discard: ReceiveFlags { ReceiveFlags(rawValue: 2) }
  /// A datagram socket's pending error is told and stays.
  package static var keepError: ReceiveFlags { ReceiveFlags(rawValue: 4) }
}

package struct SendFlags: OptionSet, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }
  /// MSG_MORE: more is coming at once, do not send a partial segment.
  package static var more: SendFlags { SendFlags(rawValue: 1) }
  /// The bytes stay where they are, unchanged, until `settleLoan` has returned true: what is acknowledged by then is never copied.
  package static var lend: SendFlags { SendFlags(rawValue: 2) }
  /// As `more`, but it is only a guess: where nothing is in flight, a partial segment is held back until the next `send` or `push`, for no longer than `Settings.tcpAutocorkingTime`.
  package static var hold: SendFlags { SendFlags(rawValue: 4) }
}

/// Socket options whose value is one integer. Units are those of setsockopt; booleans are 0 and 1.
package enum SocketOption: UInt8, CaseIterable, Sendable {
  // SOL_SOCKET
  case reuseAddress, reusePort, keepAlive, broadcast
  /// SO_LINGER: seconds, or -1 for off
  case linger
  /// SO_RCVBUF, SO_SNDBUF: setting doubles, as in Linux; reading gives the doubled value
  case receiveBuffer, sendBuffer
  case receiveLowWater
  /// SO_ACCEPTCONN, read-only
  case acceptConnections
  // IPPROTO_TCP
  case noDelay, cork
  /// TCP_MAXSEG: reading gives the segment size in use
  case maximumSegment
  case keepIdle, keepInterval, keepCount
  /// TCP_USER_TIMEOUT, milliseconds
  case userTimeout
  case quickAck
  /// TCP_DEFER_ACCEPT, seconds
  case deferAccept
  case synCount
  /// TCP_LINGER2, seconds
  case linger2
  case windowClamp
  /// TCP_CONGESTION: raw value of `CongestionAlgorithm`
  case congestion
  case notSentLowWater
  // IPPROTO_IP
  case typeOfService, timeToLive
  /// IP_MTU_DISCOVER: 0 don't, 1 want, 2 do, 3 probe
  case mtuDiscover
  /// IP_MTU, read-only, connected sockets only
  case mtu
  /// IP_RECVERR, IP_PKTINFO, IP_RECVTTL, IP_RECVTOS
  case receiveErrors, packetInfo, receiveTTL, receiveTOS
  /// IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT
  case freeBind, bindAddressNoPort
  // IPPROTO_IPV6
  /// IPV6_V6ONLY, IPV6_TCLASS, IPV6_UNICAST_HOPS
  case onlyIPv6, trafficClass, unicastHops
}

/// What TCP_INFO tells (tcp(7), linux/tcp.h); times in microseconds unless named otherwise.
package struct TCPInfo: Sendable {
  package var state: UInt8 = 0
  package var congestionState: UInt8 = 0
  package var retransmits: UInt8 = 0
  package var probes: UInt8 = 0
  package var backoff: UInt8 = 0
  package var optionTimestamps = false
  package var optionSACK = false
  package var optionWindowScale = false
  package var sendWindowScale: UInt8 = 0
  package var receiveWindowScale: UInt8 = 0
  package var rto: UInt32 = 0
  package var ato: UInt32 = 0
  package var sendMSS: UInt32 = 0
  package var receiveMSS: UInt32 = 0
  /// Segments, as in Linux. For a listener: `unacked` = accept queue length, `sacked` = backlog.
  package var unacked: UInt32 = 0
  package var sacked: UInt32 = 0
  package var lost: UInt32 = 0
  package var retransmitted: UInt32 = 0
  package var lastDataSentMilliseconds: UInt32 = 0
  package var lastDataReceivedMilliseconds: UInt32 = 0
  package var lastAckReceivedMilliseconds: UInt32 = 0
  package var pathMTU: UInt32 = 0
  package var receiveSlowStartThreshold: UInt32 = 0
  package var rtt: UInt32 = 0
  package var rttVariance: UInt32 = 0
  package var sendSlowStartThreshold: UInt32 = 0
  /// Segments
  package var sendCongestionWindow: UInt32 = 0
  package var advertisedMSS: UInt32 = 0
  package var reordering: UInt32 = 0
  package var receiveRTT: UInt32 = 0
  package var receiveSpace: UInt32 = 0
  package var totalRetransmits: UInt32 = 0
  package var pacingRate: UInt64 = 0
  package var bytesAcked: UInt64 = 0
  package var bytesReceived: UInt64 = 0
  package var segmentsOut: UInt32 = 0
  package var segmentsIn: UInt32 = 0
  package var notSentBytes: UInt32 = 0
  package var minimumRTT: UInt32 = 0
  package var dataSegmentsIn: UInt32 = 0
  package var dataSegmentsOut: UInt32 = 0
  package var deliveryRate: UInt64 = 0
  package var bytesSent: UInt64 = 0
  package var bytesRetransmitted: UInt64 = 0
  package var dsackDuplicates: UInt32 = 0
  package var reorderingSeen: UInt32 = 0
  package var outOfOrderPackets: UInt32 = 0
  package var sendWindow: UInt32 = 0
  package var receiveWindow: UInt32 = 0
  package init() {}
}
