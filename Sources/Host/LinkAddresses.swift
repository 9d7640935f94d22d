// Owns: which addresses and gateways the stack begins with on a device: what the environment says, and where it says nothing of a
// gateway, the host at the device's other end.

import CSupport
import Netstack
import Wire

extension StackConfiguration {
  package mutating func setAddresses6(
    _ link: LinkConfiguration, gateway wanted: IPAddress?, host: DeviceHostAddresses
  ) {
    ipv6 = !link.isIPv6Off
    autoconfiguresIPv6 = link.autoconfiguresIPv6
    guard ipv6 else { return }
    for i in 0..<link.addresses6.count {
      _ = moreAddresses.add(
        InterfaceAddress(
          link.addresses6[i].address, prefixLength: link.addresses6[i].prefixLength, state: .optimistic,
          origin: .configured))
    }
    gateway6 = wanted
    // Without addresses of a person's choice there is nothing to go through a gateway for before a router has told some.
    if gateway6 == nil, link.addresses6.count > 0 { gateway6 = host.neighbor(in: link.addresses6) }
  }
}

/// The IPv6 addresses that the kernel has on the device, as far as they can be seen from here.
package struct DeviceHostAddresses {
  private var list = InlineArray<8, IPAddress>(repeating: .anyIPv6)
  private var count = 0

  package init(interface index: UInt32) {
    withUnsafeMutableBytes(of: &list) { bytes in
      let base = bytes.baseAddress.unsafelyUnwrapped
      var raw = InlineArray<128, UInt8>(repeating: 0)
      withUnsafeMutableBytes(of: &raw) { octets in
        count = Int(anp_interface_addresses6(index, octets.baseAddress, 8))
        for i in 0..<count {
          base.storeBytes(
            of: IPAddress(reading16: octets.baseAddress.unsafelyUnwrapped, at: 16 * i),
            toByteOffset: MemoryLayout<IPAddress>.stride * i, as: IPAddress.self)
        }
      }
    }
  }

  var first: InlineArray<4, IPAddress?> {
    var first = InlineArray<4, IPAddress?>(repeating: nil)
    for i in 0..<min(count, first.count) { first[i] = list[i] }
    return first
  }

  /// One in a network of ours, else its link-local one.
  func neighbor(in addresses: ConfiguredAddresses) -> IPAddress? {
    for i in 0..<count where addresses.reaches(list[i]) { return list[i] }
    for i in 0..<count where list[i].isLinkLocal { return list[i] }
    return nil
  }
}
