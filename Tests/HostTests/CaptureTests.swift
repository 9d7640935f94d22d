// The capture file, byte by byte (draft-ietf-opsawg-pcapng §4).

import CSupport
import Foundation
import Netstack
import Testing
import Wire

@testable import Host

/// A block of a pcapng file: type, body without the two lengths.
private struct Block {
  var type: UInt32
  var body: [UInt8]
  func word(_ i: Int) -> UInt32 { (0..<4).reduce(0) { $0 | UInt32(body[i * 4 + $1]) << UInt32(8 * $1) } }

  /// Options from `offset` on: code and value.
  func options(from offset: Int) -> [(code: Int, value: [UInt8])] {
    var found: [(code: Int, value: [UInt8])] = []
    var at = offset
    while at + 4 <= body.count {
      let code = Int(body[at]) | Int(body[at + 1]) << 8
      let length = Int(body[at + 2]) | Int(body[at + 3]) << 8
      if code == 0 {
        #expect(at + 4 == body.count, "end of options is the end of the block")
        return found
      }
      found.append((code, Array(body[at + 4..<at + 4 + length])))
      at += 4 + (length + 3) / 4 * 4
    }
    Issue.record("options without an end")
    return found
  }
}

private func blocks(_ file: Data) -> [Block] {
  let bytes = [UInt8](file)
  func word(_ at: Int) -> Int { (0..<4).reduce(0) { $0 | Int(bytes[at + $1]) << (8 * $1) } }
  var found: [Block] = []
  var at = 0
  while at < bytes.count {
    let length = word(at + 4)
    guard length >= 12, length % 4 == 0, at + length <= bytes.count, word(at + length - 4) == length else {
      Issue.record("the block at \(at) has lengths \(length)")
      return found
    }
    found.append(Block(type: UInt32(word(at)), body: Array(bytes[at + 8..<at + length - 4])))
    at += length
  }
  return found
}

@Suite("The capture file")
struct CaptureTests {
  private func record(_ body: (Capture, inout BufferPool) -> Void) throws -> [Block] {
    let path = NSTemporaryDirectory() + "anp-capture-\(UUID().uuidString).pcapng"
    defer { unlink(path) }
    let descriptor = anp_open_output(path, 1)
    try #require(descriptor >= 0)
    let capture = Capture(descriptor: descriptor, interface: "anp0")
    var pool = BufferPool(maximum: 64, maximumLarge: 4)
    body(capture, &pool)
    anp_close(descriptor)
    return blocks(try Data(contentsOf: URL(fileURLWithPath: path)))
  }

  @Test("§4.1, §4.2: section header, then one Ethernet interface with its name, in nanoseconds")
  func preamble() throws {
    let all = try record { _, _ in }
    try #require(all.count == 2)
    #expect(all[0].type == 0x0a0d_0d0a && all[0].word(0) == 0x1a2b_3c4d && all[0].word(1) == 1)
    #expect(all[0].word(2) == .max && all[0].word(3) == .max, "length of the section unknown")
    #expect(all[1].type == 1 && all[1].word(0) == 1, "LINKTYPE_ETHERNET")
    let options = all[1].options(from: 8)
    #expect(options.contains { $0.code == 2 && $0.value == Array("anp0".utf8) })
    #expect(options.contains { $0.code == 9 && $0.value == [9] })
  }

  @Test("§4.3: a packet of every length modulo four, with its time and direction", arguments: 60...64)
  func packet(length: Int) throws {
    let before = UInt64(anp_realtime())
    let all = try record { capture, pool in
      let packet = pool.allocate()!
      let bytes = packet.put(length)
      for i in 0..<length { bytes.storeBytes(of: UInt8(i), toByteOffset: i, as: UInt8.self) }
      capture.record(packet, length % 2 == 0 ? .inbound : .outbound)
      pool.release(packet)
    }
    try #require(all.count == 3)
    let block = all[2]
    #expect(block.type == 6 && block.word(0) == 0)
    let time = UInt64(block.word(1)) << 32 | UInt64(block.word(2))
    #expect(time >= before && time <= UInt64(anp_realtime()))
    #expect(block.word(3) == UInt32(length) && block.word(4) == UInt32(length))
    #expect(Array(block.body[20..<20 + length]) == (0..<length).map { UInt8($0) })
    let options = block.options(from: 20 + (length + 3) / 4 * 4)
    #expect(options.map(\.code) == [2])
    #expect(options.first?.value == [length % 2 == 0 ? 1 : 2, 0, 0, 0])
  }

  @Test("a super-frame with its fragments is one packet")
  func superFrame() throws {
    let payload = (0..<60001).map { UInt8(truncatingIfNeeded: $0) }
    let all = try record { capture, pool in
      let packet = pool.allocateForTransmit()!
      packet.push(66).initializeMemory(as: UInt8.self, repeating: 7, count: 66)
      payload.withUnsafeBytes { raw in
        let base = UnsafeMutableRawPointer(mutating: raw.baseAddress!)
        packet.addFragment(base, 40000)
        packet.addFragment(base + 40000, 20001)
        capture.record(packet, .outbound)
      }
      pool.release(packet)
    }
    try #require(all.count == 3)
    #expect(all[2].word(3) == 60067)
    #expect(Array(all[2].body[20..<86]) == [UInt8](repeating: 7, count: 66))
    #expect(Array(all[2].body[86..<86 + 60001]) == payload)
  }

  @Test("a file that cannot be written to ends the recording, not the program")
  func fullDisk() throws {
    let descriptor = open("/dev/full", O_WRONLY)
    try #require(descriptor >= 0)
    let capture = Capture(descriptor: descriptor, interface: "anp0")
    #expect(!capture.isOn)
  }

  @Test("%p is the process id, %% a percent sign")
  func names() {
    #expect(text { OutputFile.expand("a-%p.%%p", to: &$0) } == "a-\(getpid()).%p")
  }
}
