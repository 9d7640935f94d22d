// Owns: what the keeper does with the stack once the program has ended (CShim/Support/keeper.c explains what the keeper is).
// One thread is left in this memory, with its own copies of the device, log and capture descriptors. It uses raw system calls
// only, and those that the keeper's seccomp filter allows: no timer descriptor, so it sleeps in ppoll with a time-out.
//
//   lock free, or left to us by the ending thread    the state is whole: close all sockets as a kernel would, then run
//                                                    the stack until everything sent is acknowledged
//   lock held by a thread that died inside           the state may be anything: one RST per connection, made without it

import CSupport
import Netstack

enum KeeperDrain {
  /// An end without a sign of life from any peer comes after this long, or after the SO_LINGER time that the program asked for;
  /// each acknowledgment starts it anew …
  private static var patience: Interval { .seconds(2) }
  /// … up to this long altogether. The keeper would be killed at 60 s.
  private static var longest: Interval { .seconds(55) }
  /// How long a peer that has everything may take for its own FIN.
  private static var goodbye: Interval { .milliseconds(100) }

  static func start() {
    guard anp_under_thread_sanitizer() == 0, let shard = HostRuntime.shard else { return }
    anp_keeper_keep(shard.pointee.work.log.descriptor)
    anp_keeper_keep(shard.pointee.work.capture.descriptor)
    anp_keeper_keep(shard.pointee.work.statisticsOutput)
    var devices = InlineArray<8, Int32>(repeating: -1)
    for i in 0..<HostRuntime.shardCount { devices[i] = HostRuntime.shard(at: i).pointee.device.descriptor }
    let result = withUnsafeBytes(of: &devices) {
      anp_keeper_start($0.baseAddress!.assumingMemoryBound(to: Int32.self), Int32(HostRuntime.shardCount)) { how in
        KeeperDrain.run(how)
      }
    }
    if result != 0 {
      report { text in
        text.append("no keeper can be made (error ")
        text.append(Int(-result))
        text.append("): connections will end in silence when the program does")
      }
    }
  }

  private static func run(_ how: Int32) {
    guard HostRuntime.shard != nil else { return }
    anp_forget_thread_id()
    let leftToUs = how == Int32(ANP_END_EXIT.rawValue) || how == Int32(ANP_END_EXEC.rawValue)
    var whole = ShardMask.none
    for i in 0..<HostRuntime.shardCount {
      let shard = HostRuntime.shard(at: i)
      shard.pointee.becomeKeeper(device: anp_keeper_device(Int32(i)))
      if shard.pointee.lockOwner == 0 || leftToUs {
        anp_store_word(shard.pointee.lockWord, 0)
        whole.formUnion(ShardMask(i))
      } else {
        shard.pointee.work.isLost = true
        resetAll(shard)
      }
    }
    if !whole.isEmpty { drain(whole) }
    // After an end that no exit hook saw (SIGTERM, abort, _exit by a raw system call).
    HostRuntime.atExit()
  }

  private static func drain(_ shards: ShardMask) {
    var patience = patience
    var left = shards
    var longestLinger: Int?
    while let i = left.removeFirst() {
      let shard = HostRuntime.shard(at: i)
      shard.pointee.lock()
      shard.pointee.resumeDuties()
      shard.pointee.stack.closeAll(now: MonotonicClock.now)
      if let seconds = shard.pointee.stack.longestLinger() { longestLinger = max(longestLinger ?? 0, seconds) }
      shard.pointee.unlock()
    }
    if let longestLinger { patience = .seconds(longestLinger) }
    anp_keeper_set_bound(60_000)

    let begin = MonotonicClock.now
    var deadline = begin + patience
    var drainedAt: Instant?
    while true {
      var unfinished = false
      var awaiting = false
      var next = Instant.distantFuture
      left = shards
      while let i = left.removeFirst() {
        let shard = HostRuntime.shard(at: i)
        shard.pointee.lock()
        shard.pointee.runTimers(MonotonicClock.now)
        unfinished = shard.pointee.stack.hasUnfinishedSends() || unfinished
        awaiting = shard.pointee.stack.awaitsGoodbye() || awaiting
        next = min(next, shard.pointee.stack.nextDeadline() ?? .distantFuture)
        shard.pointee.unlock()
      }
      let now = MonotonicClock.now
      if !unfinished {
        if drainedAt == nil { drainedAt = now }
        if let drainedAt, !awaiting || now >= drainedAt + goodbye { return }
      } else {
        drainedAt = nil
      }
      guard now < deadline, now < begin + longest else { return }
      let readable = awaitFrames(shards, until: min(next, now + .milliseconds(20)), now: now)
      if readable < 0 { return }
      guard readable > 0 else { continue }
      // Something came; whatever it was, the peers live.
      deadline = MonotonicClock.now + patience
      var ready = ShardMask(bits: UInt32(readable))
      while let i = ready.removeFirst() {
        let shard = HostRuntime.shard(at: i)
        _ = shard.pointee.beginPolling()
        if case .failed = Receiver.poll(shard, budget: 256).end { return }
        shard.pointee.endPolling()
      }
    }
  }

  /// A bit for each queue with frames; negative where the device is gone.
  private static func awaitFrames(_ shards: ShardMask, until wake: Instant, now: Instant) -> Int32 {
    var devices = InlineArray<8, Int32>(repeating: -1)
    var left = shards
    while let i = left.removeFirst() { devices[i] = HostRuntime.shard(at: i).pointee.device.descriptor }
    return withUnsafeBytes(of: &devices) {
      anp_wait_any_readable(
        $0.baseAddress!.assumingMemoryBound(to: Int32.self), Int32(HostRuntime.shardCount),
        max(0, (wake - now).nanoseconds))
    }
  }

  private static func resetAll(_ shard: UnsafeMutablePointer<Shard>) {
    // virtio_net_hdr (nothing to finish), frame
    var memory = InlineArray<128, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { raw in
      let header = shard.pointee.device.headerSize
      let frame = UnsafeMutableRawBufferPointer(rebasing: raw[header...])
      var index: UInt32 = 0
      while let length = shard.pointee.stack.resetFrame(after: &index, into: frame) {
        _ = anp_write_all(shard.pointee.device.descriptor, raw.baseAddress, header + length)
      }
    }
  }
}
