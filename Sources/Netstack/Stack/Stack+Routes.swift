// Owns: routes beside those that follow from addresses: what a person has configured (ip-route(8)).

import Wire

extension Stack {
  /// Adds a route, or replaces the one for the same network; false where there is no room. Connections take it at their next
  /// packet. Its MTU is no more than the link has by now: the device's, or less as a lease or a router says.
  @discardableResult
  package mutating func addRoute(_ wanted: Route) -> Bool {
    var route = wanted
    route.mtu = min(route.mtu, linkMTU(route.prefix))
    return routes.add(route)
  }
}
