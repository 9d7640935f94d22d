// Owns: the stack's interface as programs are told of it. Where the stack runs it tells itself; before that the configuration and
// the device answer, so that a program that only looks does not start a stack.
//
// The index is the device's own, which the kernel's packet sockets and netlink know it by. A device that is not there has none:
// then 2, as 1 is the loopback's.

import CSupport
import Netstack
import Wire

extension HostRuntime {
  /// ANP_ADDR=dhcp on the device that the stack is on, or will be.
  package static var isLeaseNeededToDescribe: Bool {
    if shard != nil { return lacksLease }
    guard configuration.error == nil else { return false }
    if configuration.linkCount == 1 { return configuration.link(0).usesDHCP }
    let asking = anp_interface_socket()
    defer { if asking >= 0 { anp_close(asking) } }
    return configuration.link(likelyLink(configuration, asking)).usesDHCP
  }

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
    guard configuration.error == nil else { return true }
    var addresses = InterfaceAddresses()
    func note(_ address: IPAddress, _ prefixLength: Int) {
      _ = addresses.add(
        InterfaceAddress(address, prefixLength: prefixLength, state: .preferred, origin: .configured))
    }
    for i in 0..<link.addresses.count { note(link.addresses[i].address, link.addresses[i].prefixLength) }
    // RFC 8200 §5: IPv6 needs a link of 1280 bytes.
    if !link.isIPv6Off, interface.pointee.mtu >= 1280 {
      for i in 0..<link.addresses6.count { note(link.addresses6[i].address, link.addresses6[i].prefixLength) }
      if isEthernet, index > 0 {
        note(IPAddress(prefix: 0xfe80 << 48, hardware: TAPDevice.ourHardwareAddress(asking, link.device)), 64)
      }
    }
    add(addresses, to: interface)
    return true
  }

  /// Whether a stack that began on this device now would have a gateway for IPv6.
  package static func hasLikelyGateway6(_ link: LinkConfiguration) -> Bool {
    if configuration.gateway6 != nil { return true }
    let asking = anp_interface_socket()
    defer { if asking >= 0 { anp_close(asking) } }
    let index = anp_interface_index(asking, link.device)
    return index > 0 && DeviceHostAddresses(interface: UInt32(index)).neighbor(in: link.addresses6) != nil
  }

  /// The device that start() would take now: the first that is free.
  private static func likelyLink(_ configuration: borrowing HostConfiguration, _ asking: Int32) -> Int {
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
        add(each.pointee.stack.addresses, to: interface)
      }
      anp_unlock(each.pointee.lockWord)
    }
  }

  /// In the kernel's order: second addresses of a network behind the first of each, IPv6's by scope, the widest first.
  private static func add(_ addresses: InterfaceAddresses, to interface: UnsafeMutablePointer<anp_interface>) {
    for rank in 0..<2 {
      for i in 0..<addresses.count where self.rank(addresses, i) == rank {
        let (address, prefixLength) = (addresses[i].address, addresses[i].prefixLength)
        anp_interface_add(interface, address.high, address.low, address.isIPv4 ? 0 : 1, Int32(prefixLength))
      }
    }
  }

  private static func rank(_ addresses: InterfaceAddresses, _ i: Int) -> Int {
    let own = addresses[i]
    guard own.address.isIPv4 else { return own.address.isLinkLocal ? 1 : 0 }
    let network = Network(own.address, prefix: 96 + own.prefixLength)
    for j in 0..<i
    where addresses[j].prefixLength == own.prefixLength && addresses[j].address.isIPv4
      && network.contains(addresses[j].address)
    {
      return 1
    }
    return 0
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
