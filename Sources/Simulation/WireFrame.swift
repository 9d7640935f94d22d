// Owns: what a frame is, for the eyes of the trace and the monitor.

import Netstack
import Wire

/// A TCP segment over IPv4 or IPv6 (without extension headers), decoded.
package struct WireSegment {
  package var source: IPAddress
  package var destination: IPAddress
  package var tcp: TCPHeader
  package var options: TCPOptions
  /// Where the payload lies in the frame.
  package var payload: Range<Int>
  package var optionLength: Int { tcp.headerLength - TCPHeader.minimumLength }

  package init?(_ frame: [UInt8], linkHeader: Int) {
    let decoded: WireSegment? = frame.withUnsafeBytes { bytes in
      guard bytes.count > linkHeader else { return nil }
      let packet = UnsafeRawBufferPointer(rebasing: bytes[linkHeader...])
      guard let ip = Network(packet, etherType: linkHeader > 0 ? UInt16(bytes[12]) << 8 | UInt16(bytes[13]) : nil)
      else {
        return nil
      }
      let end = min(linkHeader + ip.length, bytes.count)
      let start = linkHeader + ip.headerLength
      guard start < end, let tcp = TCPHeader(UnsafeRawBufferPointer(rebasing: bytes[start..<end])) else { return nil }
      let optionBytes = bytes[(start + TCPHeader.minimumLength)..<(start + tcp.headerLength)]
      return WireSegment(
        source: ip.source, destination: ip.destination, tcp: tcp,
        options: TCPOptions(parsing: UnsafeRawBufferPointer(rebasing: optionBytes)),
        payload: start + tcp.headerLength..<end)
    }
    guard let decoded else { return nil }
    self = decoded
  }

  /// What the IP header says, of either family.
  private struct Network {
    var source: IPAddress
    var destination: IPAddress
    var headerLength: Int
    var length: Int

    /// nil where there is no TCP segment's beginning in it. Without an Ethernet type the version alone says what it is.
    init?(_ packet: UnsafeRawBufferPointer, etherType: UInt16?) {
      if etherType ?? EtherType.ipv4 == EtherType.ipv4, let ip = IPv4Header(quoted: packet) {
        guard ip.proto == IPProtocol.tcp, ip.fragmentOffset == 0 else { return nil }
        (source, destination) = (IPAddress(ip.source), IPAddress(ip.destination))
        (headerLength, length) = (ip.headerLength, ip.totalLength)
      } else if etherType ?? EtherType.ipv6 == EtherType.ipv6, let ip = IPv6Header(quoted: packet) {
        guard ip.nextHeader == IPProtocol.tcp else { return nil }
        (source, destination) = (ip.source, ip.destination)
        (headerLength, length) = (IPv6Header.length, IPv6Header.length + ip.payloadLength)
      } else {
        return nil
      }
    }
  }

  private init(
    source: IPAddress, destination: IPAddress, tcp: TCPHeader, options: TCPOptions, payload: Range<Int>
  ) {
    self.source = source
    self.destination = destination
    self.tcp = tcp
    self.options = options
    self.payload = payload
  }
}

extension IPAddress: Hashable {
  package func hash(into hasher: inout Hasher) {
    hasher.combine(high)
    hasher.combine(low)
  }
}
