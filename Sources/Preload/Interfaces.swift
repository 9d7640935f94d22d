// Owns: what the files of exported symbols ask about interfaces (CShim/Interpose/interpose_interfaces.c draws the picture).

import CSupport
import Host
import Netstack
import Wire

@c(anp_entry_interface)
public func entryInterface(_ interface: UnsafeMutablePointer<anp_interface>, _ wantsAddresses: Int32) -> Int {
  anp_enter()
  defer { anp_leave() }
  // All else is known without a lease, and is no reason to start a stack, let alone to wait for a server.
  if wantsAddresses != 0, HostRuntime.isLeaseNeededToDescribe { awaitLease() }
  return HostRuntime.describeInterface(interface) ? 1 : 0
}

/// Which address it is only the running stack knows. A program that looks before it binds gets to see it.
func awaitLease() {
  guard Bootstrap.start() else { return }
  while true {
    anp_wait_prepare()
    guard HostRuntime.lacksLease else { return }
    let patience = HostRuntime.patienceForLease()
    guard patience > 0 else { return }
    anp_leave()
    _ = anp_wait(OpaquePointer(HostRuntime.leaseWord), HostRuntime.leaseAwaited, patience, 0)
    anp_enter()
  }
}

@c(anp_entry_is_kernel_address)
public func entryIsKernelAddress(_ family: Int32, _ bytes: UnsafeRawPointer) -> Int32 {
  anp_enter()
  defer { anp_leave() }
  let address =
    family == Family.inet6
    ? IPAddress(reading16: bytes, at: 0) : IPAddress(IPv4Address(bits: bytes.bigEndian32(at: 0)))
  // Loopback can be bound on either side.
  return address.isLoopback || Sides.binding(address) == .kernel ? 1 : 0
}

@c(anp_entry_interface_refused)
public func entryInterfaceRefused(_ request: Int) -> Int {
  anp_enter()
  defer { anp_leave() }
  guard let shard = HostRuntime.shard else { return -Errno.notPermitted }
  shard.pointee.lock()
  if shard.pointee.stack.trace.allows(.device, .debug) {
    var event = TraceEvent(shard.pointee.now(), .device, .debug, .interfaceRefused)
    event.a = Int64(request)
    shard.pointee.stack.trace.append(event)
  }
  shard.pointee.unlock()
  return -Errno.notPermitted
}
