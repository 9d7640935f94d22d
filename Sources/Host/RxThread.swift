// Owns: the thread that waits for the device: the interrupt line, the softirqs NET_RX and TIMER, in one loop.
//
//   ppoll ──readable──▶ "interrupt": begin polling (masked: we simply do not ppoll) ──▶ poll(64) … until empty ──▶ ppoll
//         ──alarm────▶ timers due? stack.advance; set the alarm for the next

import CSupport
import Netstack

enum RxThread {
  /// Deep enough for the stack's paths and a program's hook; the kernel backs only what is touched.
  private static var stackBytes: Int { 256 << 10 }

  static func start(_ shard: UnsafeMutablePointer<Shard>) -> Int32 {
    let body: @convention(c) (UnsafeMutableRawPointer?) -> Void = {
      RxThread.run($0!.assumingMemoryBound(to: Shard.self))
    }
    if shard.pointee.index == 0 { return anp_thread_start(body, shard, "anp-rx", stackBytes) }
    var name: InlineArray<9, CChar> = [97, 110, 112, 45, 114, 120, 47, 48, 0]  // anp-rx/0
    name[7] += CChar(shard.pointee.index)
    return withUnsafeBytes(of: &name) {
      anp_thread_start(body, shard, $0.baseAddress!.assumingMemoryBound(to: CChar.self), stackBytes)
    }
  }

  private static func run(_ shard: UnsafeMutablePointer<Shard>) {
    while anp_load_word(shard.pointee.gate) == 0 { anp_sleep(20_000) }
    if anp_load_word(shard.pointee.gate) == 2 { return }
    var watch = Watch()
    while true {
      let events = Int(anp_event_wait(shard.pointee.sleep, watch.state == .device ? 1 : 0, watch.timeout))
      let timedOut = events == 0 && watch.state == .suspended
      if events & ANP_EVENT_TIMER != 0 || timedOut {
        let framesWait = timedOut && anp_wait_readable(shard.pointee.sleep.pointee.device, 0) != 0
        shard.pointee.lock()
        if !timedOut, !shard.pointee.alarmFired() { watch.giveUp() }
        watch.look(shard, timedOut: timedOut, framesWait: framesWait)
        shard.pointee.unlock()
      }
      if events & ANP_EVENT_DEVICE_ERROR != 0 {
        // A removed device stays "ready" for ever: look away from it for good.
        watch.giveUp()
        shard.pointee.lock()
        shard.pointee.reportDeviceError(EBADFD)
        shard.pointee.unlock()
      } else if events & ANP_EVENT_READABLE != 0 {
        interrupt(shard, &watch)
      }
    }
  }

  private static func interrupt(_ shard: UnsafeMutablePointer<Shard>, _ watch: inout Watch) {
    if shard.pointee.work.coalesce > 0 { anp_sleep(shard.pointee.work.coalesce) }
    guard shard.pointee.beginPolling() else { return watch.suspend() }
    while true {
      switch Receiver.poll(shard, budget: shard.pointee.work.budget).end {
      case .squeezed: continue
      case .empty: return shard.pointee.endPolling()
      case .failed:
        shard.pointee.endPolling()
        return watch.giveUp()
      }
    }
  }
}
