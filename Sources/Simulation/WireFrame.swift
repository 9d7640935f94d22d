// Owns: what a frame is, for the eyes of the trace and the monitor.

import Netstack
import Wire

/// A TCP segment over IPv4, decoded.
package struct WireSegment {
  package var ip: IPv4Header
  package var tcp: TCPHeader
  package var options: TCPOptions
  /// Where the payload lies in the frame.
  package var payload: Range<Int>
  package var optionLength: Int { tcp.headerLength - TCPHeader.minimumLength }

  package init?(_ frame: [UInt8], linkHeader: Int) {
    let decoded: WireSegment? = frame.withUnsafeBytes { bytes in
      guard bytes.count > linkHeader else { return nil }
      if linkHeader > 0, bytes[12] != 0x08 || bytes[13] != 0x00 { return nil }
      let packet = UnsafeRawBufferPointer(rebasing: bytes[linkHeader...])
      guard let ip = IPv4Header(quoted: packet), ip.proto == IPProtocol.tcp, ip.fragmentOffset == 0 else { return nil }
      let end = min(linkHeader + ip.totalLength, bytes.count)
      let start = linkHeader + ip.headerLength
      guard start < end, let tcp = TCPHeader(UnsafeRawBufferPointer(rebasing: bytes[start..<end])) else { return nil }
      let optionBytes = bytes[(start + TCPHeader.minimumLength)..<(start + tcp.headerLength)]
      return WireSegment(
        ip: ip, tcp: tcp, options: TCPOptions(parsing: UnsafeRawBufferPointer(rebasing: optionBytes)),
        payload: start + tcp.headerLength..<end)
    }
    guard let decoded else { return nil }
    self = decoded
  }

  private init(ip: IPv4Header, tcp: TCPHeader, options: TCPOptions, payload: Range<Int>) {
    self.ip = ip
    self.tcp = tcp
    self.options = options
    self.payload = payload
  }
}
