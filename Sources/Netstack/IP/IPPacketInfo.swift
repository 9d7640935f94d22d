// Owns: what the layers above IP are told of a packet that came in, whatever its family. Read first: RFC 791 §3.1, RFC 8200 §3.

import Wire

/// A packet's way through IP: its header's fields, and for whom it came.
package struct IPPacketInfo {
  package var source: IPAddress
  package var destination: IPAddress
  /// From the first byte of the IP header to the transport's: extension headers and options included, bytes.
  package var headerLength: Int
  /// The transport: IPv4's protocol, IPv6's last next header.
  package var proto: UInt8
  /// IPv4's time to live, IPv6's hop limit.
  package var timeToLive: UInt8
  /// IPv4's type of service, IPv6's traffic class: DSCP and ECN.
  package var typeOfService: UInt8
  /// `destination` is one of our own addresses, as opposed to broadcast and multicast.
  package var isOurs: Bool
  /// The frame was for more hosts than us.
  package var wasLinkBroadcast: Bool
  /// IPv6: it came with a fragment header.
  package var wasFragmented = false

  @inline(__always)
  package init(_ header: IPv4Header, isOurs: Bool, wasLinkBroadcast: Bool) {
    source = IPAddress(header.source)
    destination = IPAddress(header.destination)
    headerLength = header.headerLength
    proto = header.proto
    timeToLive = header.timeToLive
    typeOfService = header.typeOfService
    self.isOurs = isOurs
    self.wasLinkBroadcast = wasLinkBroadcast
  }

  @inline(__always)
  package init(_ header: IPv6Header, proto: UInt8, headerLength: Int, isOurs: Bool, wasLinkBroadcast: Bool) {
    source = header.source
    destination = header.destination
    self.headerLength = headerLength
    self.proto = proto
    timeToLive = header.hopLimit
    typeOfService = header.trafficClass
    self.isOurs = isOurs
    self.wasLinkBroadcast = wasLinkBroadcast
  }
}
