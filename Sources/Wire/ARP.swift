// Owns: ARP for IPv4 over Ethernet. Read first: RFC 826; RFC 5227 §1.1 (probe, announcement).

package struct ARPPacket {
  package static let length = 28
  package static let request: UInt16 = 1
  package static let reply: UInt16 = 2

  package var operation: UInt16
  package var senderHardware: MACAddress
  package var senderProtocol: IPv4Address
  package var targetHardware: MACAddress
  package var targetProtocol: IPv4Address

  package init(
    operation: UInt16, senderHardware: MACAddress, senderProtocol: IPv4Address, targetHardware: MACAddress,
    targetProtocol: IPv4Address
  ) {
    self.operation = operation
    self.senderHardware = senderHardware
    self.senderProtocol = senderProtocol
    self.targetHardware = targetHardware
    self.targetProtocol = targetProtocol
  }

  /// nil for anything but IPv4 over Ethernet, or fewer than 28 bytes.
  package init?(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count >= Self.length, let base = bytes.baseAddress else { return nil }
    // Hardware type 1, protocol type 0x0800, hardware length 6, protocol length 4.
    guard base.bigEndian32(at: 0) == 0x0001_0800, base.bigEndian16(at: 4) == 0x0604 else { return nil }
    operation = base.bigEndian16(at: 6)
    senderHardware = MACAddress(reading: base, at: 8)
    senderProtocol = IPv4Address(bits: base.bigEndian32(at: 14))
    targetHardware = MACAddress(reading: base, at: 18)
    targetProtocol = IPv4Address(bits: base.bigEndian32(at: 24))
  }

  package func write(to base: UnsafeMutableRawPointer) {
    base.storeBigEndian32(0x0001_0800, at: 0)
    base.storeBigEndian16(0x0604, at: 4)
    base.storeBigEndian16(operation, at: 6)
    senderHardware.write(to: base, at: 8)
    base.storeBigEndian32(senderProtocol.bits, at: 14)
    targetHardware.write(to: base, at: 18)
    base.storeBigEndian32(targetProtocol.bits, at: 24)
  }
}
