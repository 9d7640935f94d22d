// Owns: frames on their way from the device into the stack: the ring of empty buffers, the poller (Linux: NAPI's poll), and
// what virtio_net_hdr says about a frame. Runs on whoever holds the polling duty. Read first: virtio 1.2 §5.1.6.4,
// Documentation/networking/napi.rst.

import CSupport
import Netstack

package struct Receiver {
  /// Frames read before the lock is taken to process them, and bytes: so that the program's threads work on what has come
  /// while the next is read.
  static var batch: Int { 16 }
  /// Frames a thread of the program processes before it looks what it came for.
  package static var callerBudget: Int { 64 }
  private static var batchBytes: Int { 256 << 10 }

  /// The receive ring: empty buffers the device may fill. It is refilled after each batch; when the pool has none left, frames
  /// are lost here, counted as RxRingFull. Taken from the top, last in, first out: the buffer just given back is in the cache.
  private let ring: UnsafeMutablePointer<anp_receive_buffer>
  private let ringSize: Int
  private var posted = 0
  /// How many buffers to post: begins small, as most programs never have more than a few frames waiting and each buffer is
  /// 68 KB; doubles, up to the ring's size, whenever a batch used all there were.
  private var wanted: Int
  private var smallSize = 0
  private let results: UnsafeMutablePointer<anp_received>
  /// Where a frame goes for which there is no buffer.
  private var waste: anp_receive_buffer

  init(ringSize: Int) {
    self.ringSize = ringSize
    wanted = min(2, ringSize)
    ring = .allocate(capacity: ringSize)
    results = .allocate(capacity: Self.batch)
    results.initialize(repeating: anp_received(), count: Self.batch)
    // Read on a device without memory, only to be rid of the frame: two words are enough, the kernel cuts the rest.
    waste = anp_receive_buffer(
      small_area: .allocate(byteCount: 24, alignment: 8) + 16,
      large_area: .allocate(byteCount: 8, alignment: 8), packet: nil)
  }

  /// Under the lock.
  mutating func refill(from stack: inout Stack) {
    if posted == 0 { wanted = min(wanted * 2, ringSize) }
    while posted < wanted, let packet = stack.allocateReceiveBuffer() {
      guard let large = packet.storage.pointee.large else {
        stack.releaseReceiveBuffer(packet)
        return
      }
      smallSize = packet.tailroom
      ring[posted] = anp_receive_buffer(small_area: packet.base, large_area: large, packet: packet.storage)
      posted &+= 1
    }
  }

  enum End {
    /// Nothing is left: unmask the interrupt.
    case empty
    /// The budget is spent or the caller has what it waited for; there may be more.
    case squeezed
    /// The device is gone.
    case failed(Int32)
  }

  struct Outcome {
    var end: End
    var frames: Int
    /// The last frame was a super-frame.
    var isBulk = false
  }

  /// Reads and processes up to `budget` frames, `first` of them before the first look at `awaited`.
  /// - Parameter skipIdle: where the device has nothing, leave without taking the lock.
  static func poll(
    _ shard: UnsafeMutablePointer<Shard>, budget: Int, first firstBatch: Int = batch, _ awaited: Awaited? = nil,
    skipIdle: Bool = false
  ) -> Outcome {
    var left = budget
    var isBulk = false
    var first = true
    while left > 0 {
      let me = shard.pointee.work.receiver
      let queue = shard.pointee.device.queue
      var error: Int32 = 0
      var lost = 0
      var n = 0
      let wanted = min(left, first ? firstBatch : batch)
      if me.posted > 0 {
        n = Int(
          anp_tap_read(
            queue.descriptor, Int32(queue.headerSize), me.ring + (me.posted &- 1), me.smallSize, BufferPool.largeSize,
            Int32(min(wanted, me.posted)), batchBytes, me.results, &error))
      } else {
        lost = me.discard(queue, wanted, &error)
      }
      if skipIdle, n == 0, lost == 0, error == EAGAIN {
        return Outcome(end: .empty, frames: budget &- left, isBulk: isBulk)
      }
      if n > 0 { isBulk = me.results[n &- 1].header.segmentation_type != 0 }
      for i in 0..<n { me.fill(i) }
      if shard.pointee.work.capture.isOn {
        for i in 0..<n { shard.pointee.work.capture.record(me.packet(i), .inbound) }
      }

      anp_lock(shard.pointee.lockWord)
      let now = MonotonicClock.now
      if first { shard.pointee.stack.count(.rxPolls) }
      first = false
      shard.pointee.runTimers(now)
      shard.pointee.work.receiver.posted &-= n
      for i in 0..<n {
        shard.pointee.work.calls.readBytes &+= UInt64(me.results[i].length) &+ UInt64(queue.headerSize)
        if me.results[i].header.segmentation_type != 0 { shard.pointee.work.calls.readSuperFrames &+= 1 }
        shard.pointee.stack.receive(me.packet(i), now: now)
      }
      // The call that found nothing counts, too.
      shard.pointee.work.calls.reads &+= UInt64(n &+ lost &+ (error == 0 ? 0 : 1))
      if n > 0 { shard.pointee.stack.finishBatch(now: now) }
      let strays = shard.pointee.stack.takeStrays()
      if lost > 0 {
        shard.pointee.stack.count(.rxRingFull, lost)
        shard.pointee.stack.statistics[drop: .noBuffer] &+= UInt64(lost)
      }
      shard.pointee.work.receiver.refill(from: &shard.pointee.stack)
      left &-= n &+ lost
      if left <= 0, error == 0, budget >= shard.pointee.work.budget { shard.pointee.stack.count(.timeSqueeze) }
      if error != 0, error != EAGAIN { shard.pointee.reportDeviceError(error) }
      shard.pointee.unlock()
      if !strays.isEmpty { Strays.deliver(from: shard, strays) }
      if error != 0 {
        return Outcome(end: error == EAGAIN ? .empty : .failed(error), frames: budget &- left, isBulk: isBulk)
      }
      if let awaited, awaited.hasChanged { break }
    }
    return Outcome(end: .squeezed, frames: budget &- left, isBulk: isBulk)
  }

  /// The i-th buffer of the batch just read.
  @inline(__always)
  private func packet(_ i: Int) -> PacketBuffer {
    PacketBuffer(
      storage: ring[posted &- 1 &- i].packet.assumingMemoryBound(to: PacketBuffer.Storage.self))
  }

  /// Tells the packet what has been read into it.
  @inline(__always)
  private func fill(_ i: Int) {
    let packet = packet(i)
    let result = results[i]
    let length = Int(result.length)
    let linear = min(length, smallSize)
    packet.put(linear)
    if length > linear { packet.addFragment(ring[posted &- 1 &- i].large_area, length &- linear) }
    // NEEDS_CSUM: a sender on this machine left the sum to a device that never came, so nothing can have gone wrong with it.
    // DATA_VALID: the kernel has looked already.
    let flags = Int(result.header.flags)
    if flags & (ANP_VNET_NEEDS_CHECKSUM | ANP_VNET_DATA_VALID) != 0 {
      packet.storage.pointee.checksumState = .verified
    }
    let type = result.header.segmentation_type & ~UInt8(ANP_VNET_ECN)
    if type != 0, let segmentation = SegmentationType(rawValue: type) {
      packet.storage.pointee.segmentationType = segmentation
      packet.storage.pointee.segmentSize = result.header.segment_size
    }
  }

  /// Reads frames for which there is no buffer, so that the device does not stay readable for ever.
  @inline(never)
  private func discard(_ queue: TAPDevice.Queue, _ count: Int, _ error: inout Int32) -> Int {
    var lost = 0
    var buffer = waste
    while lost < count {
      let n = anp_tap_read(queue.descriptor, Int32(queue.headerSize), &buffer, 8, 8, 1, 16, results, &error)
      guard n == 1 else { break }
      lost &+= 1
    }
    return lost
  }
}
