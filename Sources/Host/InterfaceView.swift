// Owns: the stack's interface as programs are told of it. Where the stack runs it tells itself; before that the configuration and
// the device answer, so that a program that only looks does not start a stack.
//
// The index is the device's own, which the kernel's packet sockets and netlink know it by. A device that is not there has none:
// then 2, as 1 is the loopback's.

import CSupport
import Netstack
import Wire

extension HostRuntime {
  /// False where the program is the kernel's as a whole: the stack cannot start, and ANP_FALLBACK lets it go on without.
  package static func describeInterface(_ interface: UnsafeMutablePointer<anp_interface>) -> Bool {
    interface.initialize(to: anp_interface())
    interface.pointee.index = 2
    interface.pointee.mtu = 1500
    let asking = anp_interface_socket()
    defer { if asking >= 0 { anp_close(asking) } }
    if let shard {
      describe(shard, interface)
      let index = anp_interface_index(asking, interface.pointee.name)
      if index > 0 { interface.pointee.index = index }
      return true
    }
    let configuration = configuration
    let link = configuration.link(likelyLink(configuration, asking))
    interface.pointee.name = link.device
    let index = anp_interface_index(asking, link.device)
    let isUsable = index > 0 && configuration.error == nil && anp_host().pointee.printed_error == 0
    if !isUsable, configuration.fallbackToKernel { return false }
    let isEthernet = anp_interface_hardware_type(asking, link.device) != Int32(ANP_HARDWARE_NONE)
    let isUp = configuration.error == nil && anp_interface_is_up(asking, link.device) == 1
    interface.pointee.flags = flags(isEthernet: isEthernet, isUp: isUp)
    setHardware(interface, isEthernet, index > 0 ? TAPDevice.ourHardwareAddress(asking, link.device) : .zero)
    if index > 0 { interface.pointee.index = index }
    let mtu = anp_interface_mtu(asking, link.device)
    if let wanted = configuration.mtu {
      interface.pointee.mtu = Int32(wanted)
    } else if mtu > 0 {
      interface.pointee.mtu = mtu
    }
    if configuration.error == nil { addAddresses(of: link.device, to: interface) }
    return true
  }

  /// The device that start() would take now: the first that is free.
  private static func likelyLink(_ configuration: HostConfiguration, _ asking: Int32) -> Int {
    guard configuration.linkCount > 1 else { return 0 }
    for i in 0..<configuration.linkCount {
      let name = configuration.link(i).device
      if anp_interface_index(asking, name) > 0, anp_interface_queues(asking, name) <= 0 { return i }
    }
    return 0
  }

  private static func describe(
    _ shard: UnsafeMutablePointer<Shard>, _ interface: UnsafeMutablePointer<anp_interface>
  ) {
    interface.pointee.name = shard.pointee.deviceName
    for i in 0..<shardCount {
      let each = self.shard(at: i)
      anp_lock(each.pointee.lockWord)
      let statistics = each.pointee.stack.statistics
      interface.pointee.received_packets += statistics[.rxFrames]
      interface.pointee.received_bytes += statistics[.rxBytes]
      interface.pointee.sent_packets += statistics[.txFrames]
      interface.pointee.sent_bytes += statistics[.txBytes]
      if i == 0 {
        let device = each.pointee.stack.device
        let isEthernet = device.linkType == .ethernet
        interface.pointee.flags = flags(isEthernet: isEthernet, isUp: true)
        setHardware(interface, isEthernet, device.hardwareAddress)
        interface.pointee.mtu = Int32(device.mtu)
        addAddresses(of: shard.pointee.deviceName, to: interface)
      }
      anp_unlock(each.pointee.lockWord)
    }
  }

  private static func addAddresses(of device: UnsafePointer<CChar>, to interface: UnsafeMutablePointer<anp_interface>) {
    for i in 0..<configuration.linkCount where configuration.link(i).device == device {
      let link = configuration.link(i)
      for j in 0..<link.addresses.count {
        add(link.addresses[j].address, link.addresses[j].prefixLength, to: interface)
      }
    }
  }

  private static func add(
    _ address: IPAddress, _ prefixLength: Int, to interface: UnsafeMutablePointer<anp_interface>
  ) {
    anp_interface_add(interface, address.high, address.low, address.isIPv4 ? 0 : 1, Int32(prefixLength))
  }

  private static func setHardware(
    _ interface: UnsafeMutablePointer<anp_interface>, _ isEthernet: Bool, _ address: MACAddress
  ) {
    interface.pointee.hardware_type = UInt16(isEthernet ? ANP_HARDWARE_ETHERNET : ANP_HARDWARE_NONE)
    guard isEthernet else { return }
    withUnsafeMutableBytes(of: &interface.pointee.hardware) { octets in
      guard let base = octets.baseAddress else { return }
      address.write(to: base, at: 0)
    }
  }

  private static func flags(isEthernet: Bool, isUp: Bool) -> UInt32 {
    var flags = isEthernet ? ANP_FLAGS_ETHERNET : ANP_FLAGS_POINT_TO_POINT
    if isUp { flags |= ANP_FLAGS_UP }
    return UInt32(flags)
  }
}
