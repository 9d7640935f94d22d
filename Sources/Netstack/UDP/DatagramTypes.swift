// Owns: what datagram sockets and whoever puts a socket interface on them say to each other: options, what a call sends with, what a
// received datagram comes with. Knows no errno, no control message.

import Wire

/// What a socket of kind `.datagram` carries.
package enum DatagramKind: UInt8, Sendable { case udp, ping, raw }

/// Options of datagram sockets alone whose value is one integer.
package enum DatagramOption: UInt8, CaseIterable, Sendable {
  // SOL_SOCKET: SO_RXQ_OVFL, SO_NO_CHECK
  case dropCount, withoutChecksum
  // IPPROTO_IP: IP_RECVORIGDSTADDR, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL, IP_HDRINCL
  case originalDestination, multicastTimeToLive, multicastLoop, multicastAll, includesHeader
  // IPPROTO_UDP: UDP_CORK, UDP_SEGMENT, UDP_GRO
  case isCorked, segmentSize, receivesSegments
  // SOL_RAW: ICMP_FILTER; IPV6_CHECKSUM, IPV6_HDRINCL
  case icmpFilter, checksumOffset, includesHeader6
  // IPPROTO_IPV6: IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_RECVORIGDSTADDR, IPV6_MULTICAST_HOPS,
  // IPV6_MULTICAST_ALL
  case packetInfo6, hopLimit6, trafficClass6, originalDestination6, multicastHops, multicastAll6
  // IPV6_2292PKTINFO, IPV6_2292HOPLIMIT
  case oldPacketInfo6, oldHopLimit6
}

/// ICMP6_FILTER (RFC 3542 §3.2): which of the 256 types a raw socket does not want.
package struct ICMP6Filter: Sendable {
  /// struct icmp6_filter: bit t % 32 of word t / 32 set = type t is not for us.
  package var words = InlineArray<8, UInt32>(repeating: 0)
  package init() {}

  package func blocks(_ type: UInt8) -> Bool { words[Int(type >> 5)] >> UInt32(type & 31) & 1 != 0 }
}

/// What a socket wants to be told of each datagram.
package struct DatagramControls: OptionSet, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static var packetInfo: DatagramControls { DatagramControls(rawValue: 1) }
  package static var timeToLive: DatagramControls { DatagramControls(rawValue: 2) }
  package static var typeOfService: DatagramControls { DatagramControls(rawValue: 4) }
  package static var originalDestination: DatagramControls { DatagramControls(rawValue: 8) }
  package static var dropCount: DatagramControls { DatagramControls(rawValue: 16) }
  /// The same of IPv6.
  package static var packetInfo6: DatagramControls { DatagramControls(rawValue: 64) }
  package static var hopLimit6: DatagramControls { DatagramControls(rawValue: 128) }
  package static var trafficClass6: DatagramControls { DatagramControls(rawValue: 256) }
  package static var originalDestination6: DatagramControls { DatagramControls(rawValue: 512) }
  /// As RFC 2292 had them.
  package static var oldPacketInfo6: DatagramControls { DatagramControls(rawValue: 1024) }
  package static var oldHopLimit6: DatagramControls { DatagramControls(rawValue: 2048) }
  /// UDP_GRO: and takes super-frames whole.
  package static var segmentSize: DatagramControls { DatagramControls(rawValue: 32) }
}

/// What a sending call says beside the bytes.
package struct DatagramMessage: Sendable {
  /// nil = the connected peer.
  package var destination: Endpoint?
  /// IP_PKTINFO's ipi_spec_dst; unspecified = as bound, or as the route says.
  package var source = IPAddress.anyIPv4
  /// IP_PKTINFO's ipi_ifindex; 0 = any.
  package var interface = 0
  /// IP_TTL, IP_TOS; below 0 = the socket's.
  package var timeToLive = -1
  package var typeOfService = -1
  /// UDP_SEGMENT; below 0 = the socket's.
  package var segmentSize = -1
  /// MSG_MORE
  package var more = false
  /// The bytes stay where they are until `lentFrames` is 0 again: no need to copy many of them.
  package var mayLend = false
  package init(to destination: Endpoint? = nil) { self.destination = destination }
}

/// One datagram as it was received.
package struct ReceivedDatagram: Sendable {
  /// Bytes copied to the caller, and bytes the datagram had.
  package var copied: Int
  package var length: Int
  package var source: Endpoint
  package var destination: Endpoint
  package var timeToLive: UInt8
  package var typeOfService: UInt8
  package var time: Instant
  /// Of a super-frame that was taken whole: the payload of each of its datagrams, bytes; else 0.
  package var segmentSize = 0
  /// What the socket had dropped before this came.
  package var drops: UInt32
  /// What the socket wants to be told of it.
  package var controls: DatagramControls

  init(copied: Int, length: Int, _ packet: PacketBuffer, controls: DatagramControls) {
    self.copied = copied
    self.length = length
    source = packet.storage.pointee.source
    destination = packet.storage.pointee.destination
    timeToLive = packet.storage.pointee.timeToLive
    typeOfService = packet.storage.pointee.typeOfService
    time = packet.storage.pointee.time
    drops = packet.storage.pointee.drops
    self.controls = controls
  }
}
