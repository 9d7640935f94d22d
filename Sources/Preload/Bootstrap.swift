// Owns: tying the shim to the host runtime: the hooks before the stack can start, and the runtime's descriptors into the table
// once it has, so that the program can neither close nor hit them.

import CSupport
import Host
import Synchronization

enum Bootstrap {
  /// The index of an internal entry whose home the host runtime looks after.
  static var hostIndex: UInt32 { 0xffffff }

  private static let hooked: Bool = {
    HostRuntime.setHooks(
      HostHooks(
        readinessChanged: { cookie, events in Wakes.readinessChanged(cookie, events) },
        afterUnlock: { Wakes.afterUnlock() }))
    return true
  }()

  /// True when the stack runs; starts it if need be.
  static func start() -> Bool {
    if HostRuntime.shard != nil { return true }
    _ = hooked
    guard HostRuntime.start() == nil else { return false }
    enterHostDescriptors()
    return true
  }

  static func enterHostDescriptors() {
    let entry = anp_fd_entry(UInt32(ANP_FD_INTERNAL.rawValue), hostIndex, 0)
    HostRuntime.eachDescriptor { number in _ = anp_fd_exchange(number, entry, nil) }
  }

  /// A dup2 aims at a descriptor of the host runtime: it gets another number. 0 or a negative errno.
  static func moveHostDescriptor(_ number: Int32, _ entry: UInt64) -> Int {
    guard HostRuntime.moveDescriptor(number) else { return -Errno.tooManyDescriptors }
    _ = anp_fd_remove(number, entry)
    enterHostDescriptors()
    return 0
  }
}
