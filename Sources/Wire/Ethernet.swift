// Owns: the Ethernet II header. Read first: RFC 894, IEEE 802.3 §3.

package enum EtherType {
  package static let ipv4: UInt16 = 0x0800
  package static let arp: UInt16 = 0x0806
  package static let ipv6: UInt16 = 0x86dd
}

package struct EthernetHeader {
  package static let length = 14

  package var destination: MACAddress
  package var source: MACAddress
  package var etherType: UInt16

  package init(destination: MACAddress, source: MACAddress, etherType: UInt16) {
    self.destination = destination
    self.source = source
    self.etherType = etherType
  }

  /// nil where fewer than 14 bytes are there.
  @inline(__always)
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress else { return nil }
    destination = MACAddress(reading: base, at: 0)
    source = MACAddress(reading: base, at: 6)
    etherType = base.bigEndian16(at: 12)
  }

  @inline(__always)
  package func write(to base: UnsafeMutableRawPointer) {
    destination.write(to: base, at: 0)
    source.write(to: base, at: 6)
    base.storeBigEndian16(etherType, at: 12)
  }
}
