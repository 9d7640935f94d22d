// Owns: routes beside those that follow from addresses: what a person has configured (ip-route(8)).

import Wire

extension Stack {
  /// Adds a route, or replaces the one for the same network; false where there is no room. Connections take it at their next
  /// packet.
  @discardableResult
  package mutating func addRoute(_ route: Route) -> Bool { routes.add(route) }
}
