// Owns: what the files of exported symbols ask about interfaces (CShim/Interpose/interpose_interfaces.c draws the picture).

import CSupport
import Host
import Netstack
import Wire

@c(anp_entry_interface)
public func entryInterface(_ interface: UnsafeMutablePointer<anp_interface>) -> Int {
  anp_enter()
  defer { anp_leave() }
  return HostRuntime.describeInterface(interface) ? 1 : 0
}

@c(anp_entry_is_kernel_address)
public func entryIsKernelAddress(_ family: Int32, _ bytes: UnsafeRawPointer) -> Int32 {
  anp_enter()
  defer { anp_leave() }
  let address =
    family == Family.inet6
    ? IPAddress(reading16: bytes, at: 0) : IPAddress(IPv4Address(bits: bytes.bigEndian32(at: 0)))
  return Sides.binding(address) == .kernel ? 1 : 0
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
