// Owns: MLD's messages as bytes: IPv6's IGMP. Read first: RFC 3810 §5.1, §5.2.

import Wire

package enum MLD {
  package static var query: UInt8 { 130 }
  package static var report: UInt8 { 143 }

  /// Where reports go.
  package static var allRouters: IPAddress { IPAddress(high: 0xff02 << 48, low: 0x16) }

  /// The hop-by-hop header with Router Alert (RFC 2711) and two bytes of padding, in front of ICMPv6.
  package static var headerLength: Int { 8 }
  package static func writeHeader(to base: UnsafeMutableRawPointer) {
    base.storeBigEndian32(UInt32(IPProtocol.icmpv6) << 24 | 0x05_02, at: 0)
    base.storeBigEndian32(0x0100, at: 4)
  }

  /// A router asks who listens.
  package struct Query {
    /// nil = all groups
    package var group: IPAddress?
    package var sources: SourceFilter
    package var within: Interval

    /// An ICMPv6 message whose checksum has been verified; nil where it is no query. One of version 1 is 24 bytes long.
    package init?(_ bytes: UnsafeRawBufferPointer) {
      guard bytes.count >= 24, let base = bytes.baseAddress, base.byte(at: 0) == MLD.query else { return nil }
      let address = IPAddress(reading16: base, at: 8)
      group = address.isUnspecified ? nil : address
      sources = SourceFilter(isInclude: true)
      let code = Int(base.bigEndian16(at: 4))
      // RFC 3810 §5.1.3: from 32,768 on a mantissa and an exponent; milliseconds.
      within = .milliseconds(code < 32768 ? code : (code & 0xfff | 0x1000) << ((code >> 12 & 7) + 3))
      guard bytes.count >= 28 else { return }
      let count = Int(base.bigEndian16(at: 26))
      guard bytes.count >= 28 + 16 * count else { return nil }
      for i in 0..<count {
        // More than fit: the answer is then about the group as a whole.
        guard sources.insert(IPAddress(reading16: base, at: 28 + 16 * i)) else {
          sources = SourceFilter(isInclude: true)
          break
        }
      }
    }
  }

  /// A report about one group, without its checksum; `packet` is empty.
  package static func writeReport(_ record: MulticastRecord, to packet: PacketBuffer) {
    let length = 28 + 16 * record.sources.count
    let base = packet.put(length)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: length)
    base.storeByte(report, at: 0)
    base.storeBigEndian16(1, at: 6)
    base.storeByte(record.kind.rawValue, at: 8)
    base.storeBigEndian16(UInt16(record.sources.count), at: 10)
    record.group.write16(to: base, at: 12)
    for i in 0..<record.sources.count { record.sources[i].write16(to: base, at: 28 + 16 * i) }
  }
}
