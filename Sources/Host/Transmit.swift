// Owns: frames on their way from the transmit queue to the device. `take` and `finish` run under the shard's lock, `write`
// without it, by whoever holds the draining duty. Read first: virtio 1.2 §5.1.6.2 (packet transmission), drivers/net/tun.c.

import CSupport
import Netstack

struct Transmitter {
  /// Frames per turn without the lock.
  private static var batch: Int { 16 }
  /// Of BIG TCP, with room for headers.
  private static var largestFrame: Int { 256 << 10 }

  private let frames: UnsafeMutablePointer<PacketBuffer>
  /// Bytes written of each, or -errno.
  private let results: UnsafeMutablePointer<Int>
  private var count = 0
  private let header: UnsafeMutablePointer<anp_vnet_header>
  private let vectors: UnsafeMutablePointer<iovec>
  /// For a device that does not gather: a frame is put together here first.
  private let whole: UnsafeMutableRawBufferPointer?

  init(gathers: Bool) {
    whole = gathers ? nil : .allocate(byteCount: Self.largestFrame, alignment: 64)
    frames = .allocate(capacity: Self.batch)
    results = .allocate(capacity: Self.batch)
    header = .allocate(capacity: 1)
    header.initialize(to: anp_vnet_header())
    vectors = .allocate(capacity: 5)
  }

  var gathers: Bool { whole == nil }

  /// Under the lock: takes what is queued, up to a batch.
  mutating func take(from stack: inout Stack) -> Int {
    count = 0
    while count < Self.batch, let packet = stack.nextTransmit() {
      (frames + count).initialize(to: packet)
      count &+= 1
    }
    return count
  }

  /// Without the lock.
  func write(_ queue: TAPDevice.Queue, _ capture: Capture) {
    for i in 0..<count {
      if capture.isOn { capture.record(frames[i], .outbound) }
      results[i] = write(frames[i], queue)
    }
  }

  private func write(_ packet: PacketBuffer, _ queue: TAPDevice.Queue) -> Int {
    let storage = packet.storage
    if storage.pointee.fragmentCount == 0, packet.headroom >= queue.headerSize, whole == nil {
      // In one piece: the header goes into the headroom, and one write is cheaper than a gathered one of two.
      describe(packet)
      let start = packet.base - queue.headerSize
      start.copyMemory(from: header, byteCount: queue.headerSize)
      return anp_write(queue.descriptor, start, packet.linearCount &+ queue.headerSize)
    }
    var used = 0
    if queue.headerSize > 0 {
      describe(packet)
      vectors[0] = iovec(iov_base: header, iov_len: queue.headerSize)
      used = 1
    }
    if let whole {
      let length = packet.copy(from: 0, to: UnsafeMutableRawBufferPointer(rebasing: whole[..<packet.count]))
      vectors[used] = iovec(iov_base: whole.baseAddress, iov_len: length)
      return anp_writev(queue.descriptor, vectors, Int32(used &+ 1))
    }
    vectors[used] = iovec(iov_base: packet.base, iov_len: packet.linearCount)
    used &+= 1
    var i = 0
    while i < storage.pointee.fragmentCount {
      let fragment = storage.pointee.fragments[i]
      vectors[used] = iovec(iov_base: fragment.base, iov_len: fragment.length)
      used &+= 1
      i &+= 1
    }
    return anp_writev(queue.descriptor, vectors, Int32(used))
  }

  /// virtio_net_hdr: what the device has to finish.
  private func describe(_ packet: PacketBuffer) {
    let storage = packet.storage
    var h = anp_vnet_header()
    if storage.pointee.checksumState == .partial {
      h.flags = UInt8(ANP_VNET_NEEDS_CHECKSUM)
      h.checksum_start = storage.pointee.checksumStart
      h.checksum_offset = storage.pointee.checksumOffset
    }
    if storage.pointee.segmentationType != .none {
      h.segmentation_type = storage.pointee.segmentationType.rawValue
      h.segment_size = storage.pointee.segmentSize
      h.header_length = UInt16(truncatingIfNeeded: packet.linearCount)
    }
    header.pointee = h
  }

  /// Under the lock again: accounts for the batch and gives the packets back.
  static func finish(_ shard: UnsafeMutablePointer<Shard>) {
    let me = shard.pointee.work.transmitter
    for i in 0..<me.count {
      let packet = me.frames[i]
      let result = me.results[i]
      if result >= 0 {
        shard.pointee.work.calls.writes &+= 1
        shard.pointee.work.calls.writeBytes &+= UInt64(result)
        if !me.gathers { shard.pointee.work.calls.copyBytes &+= UInt64(result) }
        if packet.storage.pointee.segmentationType != .none { shard.pointee.work.calls.writeSuperFrames &+= 1 }
      } else {
        Self.failed(shard, Int32(-result), packet)
      }
      shard.pointee.stack.transmitted(packet)
    }
    shard.pointee.work.transmitter.count = 0
  }

  /// The frame is lost, as on a wire; whoever sent it will send it again. Nothing is retried here: a device that refuses
  /// (queue full, down, removed) would keep this thread busy for ever.
  @inline(never)
  private static func failed(_ shard: UnsafeMutablePointer<Shard>, _ error: Int32, _ packet: PacketBuffer) {
    // A kernel whose memory is in small pieces has no packet for so much at once.
    let isTooBig = packet.count > 65536 && (error == EMSGSIZE || error == ENOBUFS || error == ENOMEM)
    if isTooBig { shard.pointee.stack.limitSuperPackets(forGood: error == EMSGSIZE, now: MonotonicClock.now) }
    // A mapped file that became shorter (sendfile), or a program's bad pointer.
    let isGone = error == EFAULT
    let full = error == EAGAIN || error == ENOBUFS || error == ENOMEM || isTooBig
    let reason: DropReason = full ? .transmitQueueFull : isGone ? .payloadGone : .deviceError
    shard.pointee.stack.count(.txErrors)
    shard.pointee.stack.statistics[drop: reason] &+= 1
    if shard.pointee.stack.trace.allows(.device, .warn) {
      var event = TraceEvent(MonotonicClock.now, .device, .warn, .drop)
      event.a = Int64(reason.rawValue)
      event.b = Int64(error)
      shard.pointee.stack.trace.append(event)
    }
    if !full, !isGone { shard.pointee.reportDeviceError(error) }
  }
}

extension Shard {
  /// Says once what has become of the device. Under the lock; it happens once.
  func reportDeviceError(_ error: Int32) {
    guard error != work.reportedDeviceError else { return }
    work.reportedDeviceError = error
    // All queues of a device fail together.
    if anp_exchange_word(&anp_host().pointee.reported_device_error, UInt32(bitPattern: error))
      == UInt32(bitPattern: error)
    {
      return
    }
    report { text in
      switch error {
      case EBADFD: text.append("the TAP device was removed; this program's connections cannot go on")
      case EIO: text.append("the TAP device is down; nothing can be sent until 'ip link set … up'")
      default:
        text.append("the TAP device refuses service, error ")
        text.append(Int(error))
      }
    }
  }
}
