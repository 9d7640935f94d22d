// Owns: IGMP's messages as bytes. Read first: RFC 3376 §4 (version 3), RFC 2236 §2 (version 2).

import Wire

package enum IGMP {
  package static var query: UInt8 { 0x11 }
  package static var reportVersion2: UInt8 { 0x16 }
  package static var leaveVersion2: UInt8 { 0x17 }
  package static var reportVersion3: UInt8 { 0x22 }

  package static var allSystems: IPAddress { IPAddress(IPv4Address(224, 0, 0, 1)) }
  package static var allRouters: IPAddress { IPAddress(IPv4Address(224, 0, 0, 2)) }
  /// Where reports of version 3 go.
  package static var allVersion3Routers: IPAddress { IPAddress(IPv4Address(224, 0, 0, 22)) }

  /// RFC 2113: every router on the way shall look.
  package static var routerAlert: UInt32 { 0x9404_0000 }

  /// A router asks who listens.
  package struct Query {
    /// nil = all groups
    package var group: IPAddress?
    package var sources: SourceFilter
    package var within: Interval
    package var isVersion2: Bool

    /// A message whose checksum has been verified; nil where it is no query, or version 1's.
    package init?(_ bytes: UnsafeRawBufferPointer) {
      guard bytes.count >= 8, let base = bytes.baseAddress, base.byte(at: 0) == IGMP.query else { return nil }
      let address = IPv4Address(bits: base.bigEndian32(at: 4))
      group = address == .any ? nil : IPAddress(address)
      sources = SourceFilter(isInclude: true)
      let code = base.byte(at: 1)
      isVersion2 = bytes.count < 12
      if isVersion2 {
        // Version 1 has no time in it; nobody speaks it any more.
        guard code > 0 else { return nil }
        within = .milliseconds(Int(code) * 100)
        return
      }
      within = .milliseconds(Query.time(code) * 100)
      let count = Int(base.bigEndian16(at: 10))
      guard bytes.count >= 12 + 4 * count else { return nil }
      for i in 0..<count {
        // More than fit: the answer is then about the group as a whole.
        guard sources.insert(IPAddress(IPv4Address(bits: base.bigEndian32(at: 12 + 4 * i)))) else {
          sources = SourceFilter(isInclude: true)
          break
        }
      }
    }

    /// RFC 3376 §4.1.1: from 128 on a mantissa and an exponent; tenths of a second.
    private static func time(_ code: UInt8) -> Int {
      code < 128 ? Int(code) : (Int(code & 0xf) | 0x10) << (Int(code >> 4 & 7) + 3)
    }
  }

  /// A report of version 3 about one group; `packet` is empty.
  package static func writeReport(_ record: MulticastRecord, to packet: PacketBuffer) {
    let length = 16 + 4 * record.sources.count
    let base = packet.put(length)
    base.initializeMemory(as: UInt8.self, repeating: 0, count: length)
    base.storeByte(reportVersion3, at: 0)
    base.storeBigEndian16(1, at: 6)
    base.storeByte(record.kind.rawValue, at: 8)
    base.storeBigEndian16(UInt16(record.sources.count), at: 10)
    base.storeBigEndian32(record.group.v4.bits, at: 12)
    for i in 0..<record.sources.count { base.storeBigEndian32(record.sources[i].v4.bits, at: 16 + 4 * i) }
    base.storeBigEndian16(~Checksum.fold(packet.checksum(from: 0)), at: 2)
  }

  package static func writeVersion2(_ type: UInt8, _ group: IPAddress, to packet: PacketBuffer) {
    let base = packet.put(8)
    base.storeByte(type, at: 0)
    base.storeByte(0, at: 1)
    base.storeBigEndian16(0, at: 2)
    base.storeBigEndian32(group.v4.bits, at: 4)
    base.storeBigEndian16(~Checksum.fold(packet.checksum(from: 0)), at: 2)
  }
}
