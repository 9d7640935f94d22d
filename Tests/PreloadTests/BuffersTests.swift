// Owns: tests of iovec arrays: what the kernel refuses, and that every byte ends up where it belongs.

import CSupport
import Testing

@testable import Preload

@Suite("Buffers of a call")
struct BuffersTests {
  /// Runs `body` with buffers of these lengths, filled with 0, 1, 2 … throughout.
  private func withBuffers(_ lengths: [Int], _ body: (Buffers, UnsafeMutableRawPointer) -> Void) {
    let total = lengths.reduce(0, +)
    // One gap byte after each buffer, to see whether anything is written there.
    let memory = UnsafeMutableRawPointer.allocate(byteCount: total + lengths.count + 1, alignment: 8)
    defer { memory.deallocate() }
    memory.initializeMemory(as: UInt8.self, repeating: 0xee, count: total + lengths.count + 1)
    var vectors: [iovec] = []
    var at = 0
    var value = 0
    for length in lengths {
      vectors.append(iovec(iov_base: memory + at, iov_len: length))
      for i in 0..<length {
        memory.storeBytes(of: UInt8(truncatingIfNeeded: value), toByteOffset: at + i, as: UInt8.self)
        value += 1
      }
      at += length + 1
    }
    var error = 0
    guard let buffers = Buffers(vectors, count: vectors.count, error: &error) else {
      Issue.record("refused with \(error)")
      return
    }
    body(buffers, memory)
  }

  @Test("gathering and scattering keep the order", arguments: [[5], [1, 0, 2, 7], [0, 0, 3], [100, 1, 100]])
  func roundTrip(lengths: [Int]) {
    withBuffers(lengths) { buffers, memory in
      let total = lengths.reduce(0, +)
      #expect(buffers.total == total)
      let copy = UnsafeMutableRawPointer.allocate(byteCount: total + 1, alignment: 1)
      defer { copy.deallocate() }
      buffers.gather(into: copy)
      for i in 0..<total { #expect(copy.load(fromByteOffset: i, as: UInt8.self) == UInt8(truncatingIfNeeded: i)) }
      for i in 0..<total { copy.storeBytes(of: UInt8(truncatingIfNeeded: i + 100), toByteOffset: i, as: UInt8.self) }
      buffers.scatter(from: copy, total)
      buffers.gather(into: copy)
      for i in 0..<total { #expect(copy.load(fromByteOffset: i, as: UInt8.self) == UInt8(truncatingIfNeeded: i + 100)) }
      var gap = 0
      for length in lengths {
        gap += length
        #expect(memory.load(fromByteOffset: gap, as: UInt8.self) == 0xee)
        gap += 1
      }
    }
  }

  @Test("a piece ends with its buffer, and the last one with bytes says so")
  func pieces() {
    withBuffers([3, 0, 4, 0]) { buffers, _ in
      #expect(buffers.piece(at: 0).0.count == 3)
      #expect(!buffers.piece(at: 0).isLast)
      #expect(buffers.piece(at: 2).0.count == 1)
      #expect(buffers.piece(at: 3).0.count == 4)
      #expect(buffers.piece(at: 3).isLast)
      #expect(buffers.piece(at: 7).0.count == 0)
    }
  }

  @Test("NULL with a length is EFAULT, lengths beyond SSIZE_MAX are EINVAL, dropped bytes need no address")
  func refuses() {
    var error = 0
    #expect(Buffers([iovec(iov_base: nil, iov_len: 1)], count: 1, error: &error) == nil)
    #expect(error == -14)
    #expect(Buffers(nil, count: 1, error: &error) == nil)
    #expect(error == -14)
    var byte: UInt8 = 0
    withUnsafeMutableBytes(of: &byte) { bytes in
      let huge = iovec(iov_base: bytes.baseAddress, iov_len: .max)
      #expect(Buffers([huge, huge], count: 2, error: &error) == nil)
    }
    #expect(error == -22)
    #expect(Buffers([iovec(iov_base: nil, iov_len: 9)], count: 1, isCopied: false, error: &error)?.total == 9)
    #expect(Buffers([iovec(iov_base: nil, iov_len: 0)], count: 1, error: &error)?.total == 0)
  }
}
