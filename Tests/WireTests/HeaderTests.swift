// Every header: the bytes that are written, what is read back, and truncation at every length.

import Testing

@testable import Wire

/// Runs `read` on every prefix of `bytes`, each in memory of exactly its size, so that a read beyond the end is caught by
/// AddressSanitizer; checks that it succeeds from `needed` bytes on.
private func truncating<T>(_ bytes: [UInt8], needs needed: Int, _ read: (UnsafeRawBufferPointer) -> T?) {
  for length in 0...bytes.count {
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, length), alignment: 1)
    defer { memory.deallocate() }
    memory.copyBytes(from: bytes[..<length])
    let read = read(UnsafeRawBufferPointer(rebasing: memory[..<length]))
    #expect((read != nil) == (length >= needed), "\(length) of \(bytes.count) bytes")
  }
  #expect(read(UnsafeRawBufferPointer(start: nil, count: 0)) == nil)
}

private func written(_ length: Int, _ write: (UnsafeMutableRawPointer) -> Void) -> [UInt8] {
  // What was there before must not show through, and nothing behind the header may be touched.
  var bytes = [UInt8](repeating: 0xa5, count: length + 8)
  bytes.withUnsafeMutableBytes { write($0.baseAddress!) }
  #expect(bytes[length...].allSatisfy { $0 == 0xa5 }, "wrote beyond the header")
  return Array(bytes[..<length])
}

@Suite("Byte order and addresses")
struct AddressTests {
  @Test("Network byte order at any alignment")
  func bigEndian() {
    let bytes: [UInt8] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    bytes.withUnsafeBytes {
      let base = $0.baseAddress!
      #expect(base.bigEndian16(at: 1) == 0x0102)
      #expect(base.bigEndian32(at: 3) == 0x0304_0506)
      #expect(base.bigEndian64(at: 3) == 0x0304_0506_0708_090a)
    }
    #expect(written(2) { $0.storeBigEndian16(0x0102, at: 0) } == [1, 2])
    #expect(written(7) { $0.storeBigEndian32(0x0304_0506, at: 3) }[3...] == [3, 4, 5, 6])
    #expect(written(9) { $0.storeBigEndian64(0x0102_0304_0506_0708, at: 1) }[1...] == [1, 2, 3, 4, 5, 6, 7, 8])
  }

  @Test("MAC addresses read, write and classify")
  func mac() {
    let bytes: [UInt8] = [0xff, 0x02, 0x42, 0xac, 0x11, 0x00, 0x02]
    let mac = bytes.withUnsafeBytes { MACAddress(reading: $0.baseAddress!, at: 1) }
    #expect(mac.bits == 0x0242_ac11_0002 && !mac.isGroup)
    #expect(written(6) { mac.write(to: $0, at: 0) } == Array(bytes[1...]))
    #expect(MACAddress(bits: .max) == .broadcast && MACAddress.broadcast.isGroup)
    #expect(MACAddress(bits: 0x0100_5e00_0001).isGroup)
  }

  @Test("RFC 4291 §2.5.5.2: IPv4 addresses are held in their mapped form")
  func mapped() {
    let v4 = IPv4Address(198, 18, 0, 4)
    #expect(v4.bits == 0xc612_0004)
    let ip = IPAddress(v4)
    #expect(ip.isIPv4 && ip.v4 == v4)
    let bytes: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 18, 0, 4]
    #expect(bytes.withUnsafeBytes { IPAddress(reading16: $0.baseAddress!, at: 0) } == ip)
    #expect(!IPAddress(high: 0, low: 0x0000_fffe_c612_0004).isIPv4)
    #expect(!IPAddress(high: 1, low: ip.low).isIPv4)
    #expect(IPAddress.anyIPv4.isUnspecified && IPAddress.anyIPv6.isUnspecified && !ip.isUnspecified)
    #expect(IPAddress(IPv4Address(127, 1, 2, 3)).isLoopback && IPAddress(high: 0, low: 1).isLoopback)
    #expect(IPAddress(IPv4Address(239, 0, 0, 1)).isMulticast && IPAddress(high: 0xff02 << 48, low: 1).isMulticast)
    #expect(!IPAddress(IPv4Address(240, 0, 0, 1)).isMulticast)
  }
}

@Suite("Ethernet and ARP headers")
struct LinkHeaderTests {
  @Test("RFC 894: an Ethernet header survives the way there and back, and truncation is refused")
  func ethernet() {
    let header = EthernetHeader(
      destination: .broadcast, source: MACAddress(bits: 0x0200_0000_0001), etherType: EtherType.arp)
    let bytes = written(14) { header.write(to: $0) }
    #expect(bytes == [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x08, 0x06])
    let read = bytes.withUnsafeBytes { EthernetHeader($0) }
    #expect(read?.destination == .broadcast && read?.source == header.source && read?.etherType == EtherType.arp)
    truncating(bytes, needs: 14) { EthernetHeader($0) }
  }

  @Test("RFC 826: an ARP packet survives the way there and back; other hardware and protocols are refused")
  func arp() {
    let packet = ARPPacket(
      operation: ARPPacket.request, senderHardware: MACAddress(bits: 0x0200_0000_0001),
      senderProtocol: IPv4Address(198, 18, 0, 4), targetHardware: MACAddress(bits: 0x0200_0000_0005),
      targetProtocol: IPv4Address(198, 18, 0, 5))
    let bytes = written(28) { packet.write(to: $0) }
    #expect(
      bytes == [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 198, 18, 0, 4, 2, 0, 0, 0, 0, 5, 198, 18, 0, 5,
      ])
    let read = bytes.withUnsafeBytes { ARPPacket($0) }
    #expect(read?.operation == 1 && read?.senderHardware == packet.senderHardware)
    #expect(read?.senderProtocol == packet.senderProtocol && read?.targetHardware == packet.targetHardware)
    #expect(read?.targetProtocol == packet.targetProtocol)
    truncating(bytes, needs: 28) { ARPPacket($0) }
    for position in 0..<6 {
      var wrong = bytes
      wrong[position] ^= 1
      #expect(wrong.withUnsafeBytes { ARPPacket($0) } == nil, "byte \(position)")
    }
  }
}

@Suite("IPv4 header")
struct IPv4HeaderTests {
  private let header = IPv4Header(
    proto: IPProtocol.udp, source: IPv4Address(192, 168, 0, 1), destination: IPv4Address(192, 168, 0, 199),
    payloadLength: 95, typeOfService: 0x10, identification: 0xbeef, flags: IPv4Header.flagDontFragment,
    timeToLive: 63)

  private func parse(_ bytes: [UInt8], length: Int? = nil) -> (header: IPv4Header?, invalid: IPv4Header.Invalid) {
    bytes.withUnsafeBytes { IPv4Header.parse($0, length: length ?? 115) }
  }

  /// The header with some bytes changed and the checksum made right again.
  private func changed(_ change: (inout [UInt8]) -> Void) -> [UInt8] {
    var bytes = written(20) { header.write(to: $0) }
    change(&bytes)
    bytes[10] = 0
    bytes[11] = 0
    let sum = ~naiveChecksum(bytes)
    bytes[10] = UInt8(sum >> 8)
    bytes[11] = UInt8(sum & 0xff)
    return bytes
  }

  @Test("RFC 791 §3.1: the bytes of a header, and back")
  func roundTrip() {
    let bytes = written(20) { header.write(to: $0) }
    #expect(Array(bytes[..<10]) == [0x45, 0x10, 0, 115, 0xbe, 0xef, 0x40, 0, 63, 17])
    #expect(naiveChecksum(bytes) == 0xffff)
    let read = parse(bytes).header
    #expect(read?.headerLength == 20 && read?.totalLength == 115 && read?.typeOfService == 0x10)
    #expect(read?.identification == 0xbeef && read?.flags == IPv4Header.flagDontFragment && read?.fragmentOffset == 0)
    #expect(read?.timeToLive == 63 && read?.proto == 17)
    #expect(read?.source == header.source && read?.destination == header.destination)
    #expect(read?.isFragment == false)
  }

  @Test("RFC 791 §3.1: fragment offsets and flags, and back")
  func fragments() {
    for offset in [0, 8, 1480, 65528] {
      for more in [true, false] {
        var piece = header
        piece.flags = more ? IPv4Header.flagMoreFragments : 0
        piece.fragmentOffset = offset
        let read = parse(written(20) { piece.write(to: $0) }).header
        #expect(read?.fragmentOffset == offset && read?.flags == piece.flags)
        #expect(read?.isFragment == (more || offset > 0))
      }
    }
  }

  @Test("RFC 1122 §3.2.1: what must be refused is, each for its reason")
  func refused() {
    let good = written(20) { header.write(to: $0) }
    for length in 0..<20 {
      let result = parse(Array(good[..<length]))
      #expect(result.header == nil && result.invalid == .truncated)
    }
    #expect(parse(changed { $0[0] = 0x65 }).invalid == .version)
    #expect(parse(changed { $0[0] = 0x44 }).invalid == .headerLength)
    #expect(parse(changed { $0[0] = 0x46 }).invalid == .headerLength, "options beyond the bytes there are")
    #expect(parse(good, length: 114).invalid == .totalLength, "longer than the frame")
    #expect(parse(changed { $0[3] = 19 }).invalid == .totalLength, "shorter than its header")
    #expect(parse(good, length: 200).header?.totalLength == 115, "the link's padding is not the packet's")
  }

  @Test("RFC 1122 §3.2.1.2: each single wrong bit is caught")
  func corruption() {
    let good = written(20) { header.write(to: $0) }
    for bit in 0..<160 {
      var bad = good
      bad[bit / 8] ^= 1 << (bit % 8)
      #expect(parse(bad).header == nil, "bit \(bit)")
    }
  }

  @Test("RFC 1122 §3.2.1.8: options are skipped")
  func options() {
    var long = written(20) { header.write(to: $0) } + [1, 1, 1, 0]
    long[0] = 0x46
    long[10] = 0
    long[11] = 0
    let sum = ~naiveChecksum(long)
    long[10] = UInt8(sum >> 8)
    long[11] = UInt8(sum & 0xff)
    let read = parse(long).header
    #expect(read?.headerLength == 24 && read?.totalLength == 115)
    for length in 20..<24 { #expect(parse(Array(long[..<length])).header == nil) }
  }

  @Test("A quoted header is read without its checksum, but never beyond its end")
  func quoted() {
    var bytes = written(20) { header.write(to: $0) }
    bytes[8] = 1
    truncating(bytes, needs: 20) { IPv4Header(quoted: $0) }
    let read = bytes.withUnsafeBytes { IPv4Header(quoted: $0) }
    #expect(read?.timeToLive == 1 && read?.source == header.source)
    bytes[0] = 0x4f
    #expect(bytes.withUnsafeBytes { IPv4Header(quoted: $0) } == nil)
    bytes[0] = 0x55
    #expect(bytes.withUnsafeBytes { IPv4Header(quoted: $0) } == nil)
  }
}

@Suite("UDP and ICMP headers")
struct SmallHeaderTests {
  @Test("RFC 768: the bytes of a header, and back; a length below eight is refused")
  func udp() {
    let header = UDPHeader(sourcePort: 5353, destinationPort: 53, totalLength: 0x0123)
    var bytes = written(8) { header.write(to: $0) }
    #expect(bytes == [0x14, 0xe9, 0, 53, 0x01, 0x23, 0, 0])
    bytes[6] = 0xab
    let read = bytes.withUnsafeBytes { UDPHeader($0) }
    #expect(read?.sourcePort == 5353 && read?.destinationPort == 53 && read?.totalLength == 0x0123)
    #expect(read?.checksum == 0xab00)
    truncating(bytes, needs: 8) { UDPHeader($0) }
    for length: UInt8 in 0..<8 {
      bytes[4] = 0
      bytes[5] = length
      #expect(bytes.withUnsafeBytes { UDPHeader($0) } == nil)
    }
  }

  @Test("RFC 792: the bytes of a header, and back")
  func icmp() {
    let header = ICMPHeader(type: 3, code: 4, rest: 0x0000_05dc)
    var bytes = written(8) { header.write(to: $0) }
    #expect(bytes == [3, 4, 0, 0, 0, 0, 0x05, 0xdc])
    bytes[2] = 0x12
    let read = bytes.withUnsafeBytes { ICMPHeader($0) }
    #expect(read?.type == 3 && read?.code == 4 && read?.checksum == 0x1200 && read?.rest == 0x05dc)
    truncating(bytes, needs: 8) { ICMPHeader($0) }
  }
}
