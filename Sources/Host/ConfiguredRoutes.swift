// Owns: ANP_ROUTE on the device that the stack is on. A route to a neighbour of another device's network is another stack's.

import Netstack
import Wire

enum ConfiguredRoutes {
  static func add(
    _ configuration: UnsafePointer<HostConfiguration>, _ linkNumber: Int, to stack: inout Stack
  ) {
    let link = configuration.pointee.link(linkNumber)
    for i in 0..<configuration.pointee.routes.count {
      let route = configuration.pointee.routes[i]
      if let other = route.link, other != linkNumber { continue }
      let addresses = route.prefix.isIPv4 ? link.addresses : link.addresses6
      if route.kind == .unicast, !(route.gateway.map { addresses.reaches($0) } ?? (addresses.count > 0)) { continue }
      let mtu = min(route.mtu ?? stack.device.mtu, stack.device.mtu)
      let source = route.source ?? addresses.source(toward: route.gateway) ?? .anyIPv4
      stack.addRoute(
        Route(
          route.kind, prefix: route.prefix, prefixLength: route.prefixLength, gateway: route.gateway, source: source,
          mtu: mtu))
    }
  }
}
