// Owns: how tests hand frames to a stack and take them from it, as a shell does.

import Netstack
import Testing

extension Stack {
  /// A frame from the device, and the end of its batch.
  /// - Parameter segmentSize: of a UDP super-frame, whose checksum the device has seen to; 0 for an ordinary frame.
  mutating func receiveFrame(_ bytes: [UInt8], now: Instant, segmentSize: Int = 0) {
    guard let packet = allocateReceiveBuffer() else {
      Issue.record("no receive buffer")
      return
    }
    let linear = min(bytes.count, packet.tailroom)
    bytes.withUnsafeBytes { raw in
      guard let base = raw.baseAddress else { return }
      packet.put(linear).copyMemory(from: base, byteCount: linear)
      if bytes.count > linear, let large = packet.storage.pointee.large {
        large.copyMemory(from: base + linear, byteCount: bytes.count - linear)
        packet.addFragment(large, bytes.count - linear)
      }
    }
    if segmentSize > 0 {
      packet.storage.pointee.segmentationType = .udpL4
      packet.storage.pointee.segmentSize = UInt16(segmentSize)
      packet.storage.pointee.checksumState = .verified
    }
    receive(packet, now: now)
    finishBatch(now: now)
  }

  /// What the stack has for the device, which takes it.
  mutating func takeFrames() -> [(bytes: [UInt8], segmentSize: Int)] {
    var frames: [(bytes: [UInt8], segmentSize: Int)] = []
    while let packet = nextTransmit() {
      var bytes = [UInt8](repeating: 0, count: packet.count)
      _ = bytes.withUnsafeMutableBytes { packet.copy(from: 0, to: $0) }
      let isSuper = packet.storage.pointee.segmentationType == .udpL4
      frames.append((bytes, isSuper ? Int(packet.storage.pointee.segmentSize) : 0))
      transmitted(packet)
    }
    return frames
  }

  /// Time passes, and all that is due happens at its time.
  mutating func pass(_ interval: Interval, from now: inout Instant) {
    let end = now + interval
    while let deadline = nextDeadline(), deadline <= end {
      now = max(now, deadline)
      advance(to: now)
    }
    now = end
    advance(to: now)
  }
}
