// Owns: tying the shim to the host runtime, once, before the stack can start.

import CSupport
import Host
import Synchronization

enum Bootstrap {
  private static let hooked: Bool = {
    HostRuntime.hooks = HostHooks(
      readinessChanged: { cookie, events in Wakes.readinessChanged(cookie, events) },
      afterUnlock: { Wakes.afterUnlock() })
    return true
  }()

  /// True when the stack runs; starts it if need be.
  static func start() -> Bool {
    _ = hooked
    return HostRuntime.start() == nil
  }
}
