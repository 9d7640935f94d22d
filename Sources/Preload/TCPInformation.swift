// Owns: struct tcp_info as bytes (linux/tcp.h, offsets as of Linux 6.9, 248 bytes). Fields that the stack has no
// counterpart for stay 0.

import CSupport
import Host
import Netstack

enum TCPInformation {
  static var size: Int { 248 }

  /// TCP_INFO: hands the image to `write`, which cuts it to the caller's room.
  @inline(__always)
  static func get(_ description: DescriptionPointer, _ write: (UnsafeRawPointer, Int) -> Int) -> Int {
    var info = TCPInfo()
    let result = withShard(description) { shard, now throws(SocketError) in
      info = shard.pointee.stack.information(description.pointee.handle, now: now)
      return 0
    }
    if result != 0 { return result }
    var image = InlineArray<248, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &image) { bytes in
      let base = bytes.baseAddress.unsafelyUnwrapped
      store(info, to: base)
      return write(base, size)
    }
  }

  static func store(_ info: TCPInfo, to base: UnsafeMutableRawPointer) {
    func byte(_ offset: Int, _ value: UInt8) { base.storeBytes(of: value, toByteOffset: offset, as: UInt8.self) }
    func word(_ offset: Int, _ value: UInt32) { base.storeBytes(of: value, toByteOffset: offset, as: UInt32.self) }
    func long(_ offset: Int, _ value: UInt64) { base.storeBytes(of: value, toByteOffset: offset, as: UInt64.self) }
    byte(0, info.state)
    byte(1, info.congestionState)
    byte(2, info.retransmits)
    byte(3, info.probes)
    byte(4, info.backoff)
    // TCPI_OPT_TIMESTAMPS 1, TCPI_OPT_SACK 2, TCPI_OPT_WSCALE 4
    byte(5, (info.optionTimestamps ? 1 : 0) | (info.optionSACK ? 2 : 0) | (info.optionWindowScale ? 4 : 0))
    // Bit fields, the first in the low bits on little-endian machines: what we send with, what we receive with.
    byte(6, info.sendWindowScale & 0xf | info.receiveWindowScale << 4)
    word(8, info.rto)
    word(12, info.ato)
    word(16, info.sendMSS)
    word(20, info.receiveMSS)
    word(24, info.unacked)
    word(28, info.sacked)
    word(32, info.lost)
    word(36, info.retransmitted)
    word(44, info.lastDataSentMilliseconds)
    word(52, info.lastDataReceivedMilliseconds)
    word(56, info.lastAckReceivedMilliseconds)
    word(60, info.pathMTU)
    word(64, info.receiveSlowStartThreshold)
    word(68, info.rtt)
    word(72, info.rttVariance)
    word(76, info.sendSlowStartThreshold)
    word(80, info.sendCongestionWindow)
    word(84, info.advertisedMSS)
    word(88, info.reordering)
    word(92, info.receiveRTT)
    word(96, info.receiveSpace)
    word(100, info.totalRetransmits)
    long(104, info.pacingRate)
    long(112, .max)  // tcpi_max_pacing_rate: no limit
    long(120, info.bytesAcked)
    long(128, info.bytesReceived)
    word(136, info.segmentsOut)
    word(140, info.segmentsIn)
    word(144, info.notSentBytes)
    word(148, info.minimumRTT)
    word(152, info.dataSegmentsIn)
    word(156, info.dataSegmentsOut)
    long(160, info.deliveryRate)
    long(200, info.bytesSent)
    long(208, info.bytesRetransmitted)
    word(216, info.dsackDuplicates)
    word(220, info.reorderingSeen)
    word(224, info.outOfOrderPackets)
    word(228, info.sendWindow)
    word(232, info.receiveWindow)
  }
}
