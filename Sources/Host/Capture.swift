// Owns: the capture file (ANP_PCAP): pcapng, readable by tcpdump and tshark at any time, also after a crash, because every
// block is complete with one writev(2). Frames are written as they crossed the TAP: a super-frame is one packet, and a
// checksum the device was to fill in is still unfinished. Read first: draft-ietf-opsawg-pcapng §4.1, §4.2, §4.3.
//
// Written without the shard's lock by the poller (inbound) and the drainer (outbound): a frame is recorded before the stack
// or the device sees it, so an answer never stands in front of its question.

import CSupport
import Netstack

struct Capture {
  enum Direction: UInt32 { case inbound = 1, outbound = 2 }

  /// Its value, so that a failed write can switch recording off for both writers.
  private let descriptorCell: UnsafeMutablePointer<Int32>

  var descriptor: Int32 { descriptorCell.pointee }
  @inline(__always)
  var isOn: Bool { descriptorCell.pointee >= 0 }

  /// - Parameter descriptor: opened for appending, or -1.
  init(descriptor: Int32, interface name: UnsafePointer<CChar>, linkType: DeviceCapabilities.LinkType = .ethernet) {
    descriptorCell = .allocate(capacity: 1)
    descriptorCell.initialize(to: descriptor)
    if isOn { writePreamble(name, linkType) }
  }

  func replaceDescriptor(_ number: Int32, by other: Int32) {
    if descriptorCell.pointee == number { descriptorCell.pointee = other }
  }

  /// Section header and interface description. A file may hold several sections, one per process that wrote into it.
  private func writePreamble(_ name: UnsafePointer<CChar>, _ linkType: DeviceCapabilities.LinkType) {
    var memory = InlineArray<128, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { raw in
      var block = BlockWriter(raw)
      block.preamble(interface: name, linkType)
      let n = anp_write_all(descriptorCell.pointee, raw.baseAddress, block.count)
      if n != block.count { fail() }
    }
  }

  func record(_ packet: PacketBuffer, _ direction: Direction) {
    // Enhanced packet block: 28 bytes, the frame padded to four, the flags option, the end of options, the length again.
    let length = packet.count
    let padding = (4 - length & 3) & 3
    let total = UInt32(28 + length + padding + 12 + 4)
    let time = UInt64(bitPattern: anp_realtime())
    var head: InlineArray<7, UInt32> = [
      6, total, 0, UInt32(truncatingIfNeeded: time >> 32), UInt32(truncatingIfNeeded: time), UInt32(length),
      UInt32(length),
    ]
    // epb_flags (code 2, 4 bytes); opt_endofopt; the block's length
    var tail: InlineArray<5, UInt32> = [0, Self.option(2, length: 4), direction.rawValue, 0, total]
    withUnsafeMutableBytes(of: &head) { headBytes in
      withUnsafeMutableBytes(of: &tail) { tailBytes in
        var vectors = InlineArray<6, iovec>(repeating: iovec())
        withUnsafeMutableBytes(of: &vectors) { raw in
          let vector = raw.baseAddress!.assumingMemoryBound(to: iovec.self)
          vector[0] = iovec(iov_base: headBytes.baseAddress, iov_len: 28)
          vector[1] = iovec(iov_base: packet.base, iov_len: packet.linearCount)
          var used = 2
          for i in 0..<packet.storage.pointee.fragmentCount {
            let fragment = packet.storage.pointee.fragments[i]
            vector[used] = iovec(iov_base: fragment.base, iov_len: fragment.length)
            used += 1
          }
          // The first word of the tail is the padding: only as much of it as is needed.
          vector[used] = iovec(iov_base: tailBytes.baseAddress! + (4 - padding), iov_len: 16 + padding)
          if anp_writev(descriptorCell.pointee, vector, Int32(used + 1)) != Int(total) { fail() }
        }
      }
    }
  }

  private static func option(_ code: UInt16, length: UInt16) -> UInt32 {
    // Two 16-bit fields in the machine's order.
    #if _endian(little)
      UInt32(length) << 16 | UInt32(code)
    #else
      UInt32(code) << 16 | UInt32(length)
    #endif
  }

  @inline(never)
  private func fail() {
    report { $0.append("the capture file cannot be written to: recording ends") }
    anp_close(descriptorCell.pointee)
    descriptorCell.pointee = -1
  }

  /// The blocks at the head of a section.
  struct BlockWriter {
    private let base: UnsafeMutableRawPointer
    private(set) var count = 0

    init(_ raw: UnsafeMutableRawBufferPointer) { base = raw.baseAddress! }

    private mutating func put(_ word: UInt32) {
      base.storeBytes(of: word, toByteOffset: count, as: UInt32.self)
      count += 4
    }

    private mutating func put(option code: UInt16, _ bytes: UnsafeRawBufferPointer) {
      put(Capture.option(code, length: UInt16(bytes.count)))
      (base + count).copyMemory(from: bytes.baseAddress!, byteCount: bytes.count)
      count += bytes.count
      while count & 3 != 0 {
        base.storeBytes(of: 0, toByteOffset: count, as: UInt8.self)
        count += 1
      }
    }

    mutating func preamble(interface name: UnsafePointer<CChar>, _ linkType: DeviceCapabilities.LinkType) {
      // Section header block: magic, version 1.0, length unknown.
      let program: StaticString = "ANP"
      let sectionStart = count
      put(0x0a0d_0d0a)
      put(0)
      put(0x1a2b_3c4d)
      #if _endian(little)
        put(0x0000_0001)
      #else
        put(0x0001_0000)
      #endif
      put(0xffff_ffff)
      put(0xffff_ffff)
      // The option shb_userappl.
      put(option: 4, UnsafeRawBufferPointer(start: program.utf8Start, count: program.utf8CodeUnitCount))
      put(0)
      finish(from: sectionStart)

      // Interface description block: LINKTYPE_ETHERNET or LINKTYPE_RAW (IP without a link header), no limit, nanoseconds.
      let linkNumber: UInt32 = linkType == .ethernet ? 1 : 101
      let interfaceStart = count
      put(1)
      put(0)
      #if _endian(little)
        put(linkNumber)
      #else
        put(linkNumber << 16)
      #endif
      put(0)
      var length = 0
      while name[length] != 0 { length += 1 }
      put(option: 2, UnsafeRawBufferPointer(start: name, count: length))  // if_name
      var resolution: UInt8 = 9  // if_tsresol: 10^-9 s
      withUnsafeBytes(of: &resolution) { put(option: 9, $0) }
      put(0)
      finish(from: interfaceStart)
    }

    /// The length at the end and, now that it is known, at the front.
    private mutating func finish(from start: Int) {
      let length = UInt32(count + 4 - start)
      put(length)
      base.storeBytes(of: length, toByteOffset: start + 4, as: UInt32.self)
    }
  }
}
