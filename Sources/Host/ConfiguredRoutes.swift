// Owns: ANP_ROUTE on the device that the stack is on. A route to a neighbour of another device's network is another stack's.

import Netstack
import Wire

enum ConfiguredRoutes {
  /// Adds those that the stack's addresses reach; again once they have changed.
  static func add(_ configuration: borrowing HostConfiguration, _ linkNumber: Int, to stack: inout Stack) {
    for i in 0..<configuration.routes.count {
      let route = configuration.routes[i]
      if let other = route.link, other != linkNumber { continue }
      var source: IPAddress = route.prefix.isIPv4 ? .anyIPv4 : .anyIPv6
      if route.kind == .unicast {
        guard let own = self.source(route, stack.addresses) else { continue }
        source = own
      }
      var made = Route(
        route.kind, prefix: route.prefix, prefixLength: route.prefixLength, gateway: route.gateway, source: source,
        mtu: route.mtu ?? stack.device.mtu)
      made.ownMTU = route.mtu
      stack.addRoute(made)
    }
  }

  /// What packets on the route are sent from; nil where it cannot be gone.
  private static func source(_ route: RouteConfiguration, _ addresses: InterfaceAddresses) -> IPAddress? {
    if let wanted = route.source { return addresses.contains(wanted) ? wanted : nil }
    // RFC 6724 chooses among IPv6 addresses at each packet.
    guard route.prefix.isIPv4 else { return .anyIPv6 }
    for i in 0..<addresses.count where addresses[i].address.isIPv4 {
      let own = addresses[i]
      guard let gateway = route.gateway else { return own.address }
      if Network(own.address, prefix: 96 + own.prefixLength).contains(gateway), gateway != own.address {
        return own.address
      }
    }
    return nil
  }
}
