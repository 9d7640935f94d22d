// Owns: the thread that waits for the device: the interrupt line, the softirqs NET_RX and TIMER, in one loop.
//
//   ppoll ──readable──▶ "interrupt": begin polling (masked: we simply do not ppoll) ──▶ poll(64) … until empty ──▶ ppoll
//         ──alarm────▶ timers due? stack.advance; set the alarm for the next

import CSupport
import Netstack

enum RxThread {
  /// Frames per poll (Linux: net.core.dev_weight).
  private static var budget: Int { 64 }
  /// Deep enough for the stack's paths and a program's hook; the kernel backs only what is touched.
  private static var stackBytes: Int { 256 << 10 }

  static func start(_ shard: UnsafeMutablePointer<Shard>) -> Int32 {
    anp_thread_start({ RxThread.run($0!.assumingMemoryBound(to: Shard.self)) }, shard, "anp-rx", stackBytes)
  }

  private static func run(_ shard: UnsafeMutablePointer<Shard>) {
    var deviceWatched = true
    while true {
      let events = Int(anp_event_wait(shard.pointee.sleep, deviceWatched ? 1 : 0))
      if events & ANP_EVENT_TIMER != 0 {
        shard.pointee.lock()
        // Whoever had the poller may be telling us with the alarm that it is free.
        deviceWatched = shard.pointee.alarmFired()
        shard.pointee.unlock()
      }
      if events & ANP_EVENT_DEVICE_ERROR != 0 {
        // A removed device stays "ready" for ever: look away from it for good.
        deviceWatched = false
        shard.pointee.lock()
        shard.pointee.reportDeviceError(EBADFD)
        shard.pointee.unlock()
      } else if events & ANP_EVENT_READABLE != 0 {
        deviceWatched = interrupt(shard)
      }
    }
  }

  /// False where the device is not to be waited for now.
  private static func interrupt(_ shard: UnsafeMutablePointer<Shard>) -> Bool {
    guard shard.pointee.beginPolling() else { return false }
    while true {
      switch Receiver.poll(shard, budget: budget) {
      case .squeezed: continue
      case .empty:
        shard.pointee.endPolling()
        return true
      case .failed:
        shard.pointee.endPolling()
        return false
      }
    }
  }
}
