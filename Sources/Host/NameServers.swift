// Owns: lists of servers of names, and what the network has told of them. Who is asked in the end is decided in
// Preload/Names.swift.

import CSupport
import Netstack
import Wire

package struct NameServer: Equatable, Sendable {
  package static var defaultPort: UInt16 { 53 }

  package var address: IPAddress
  package var port: UInt16
  /// The interface of a link-local address, 0 for any other.
  package var scope: UInt32

  package init(_ address: IPAddress, port: UInt16 = NameServer.defaultPort, scope: UInt32 = 0) {
    self.address = address
    self.port = port
    self.scope = scope
  }
}

package struct NameServerList: Sendable {
  package static var capacity: Int { 8 }
  private var servers = InlineArray<8, NameServer>(repeating: NameServer(.anyIPv6))
  package private(set) var count = 0

  package init() {}

  package subscript(_ i: Int) -> NameServer { servers[i] }

  /// False where there is no room.
  @discardableResult
  package mutating func append(_ server: NameServer) -> Bool {
    guard count < Self.capacity else { return false }
    servers[count] = server
    count += 1
    return true
  }

  package func isSame(as other: NameServerList) -> Bool {
    guard count == other.count else { return false }
    for i in 0..<count where servers[i] != other.servers[i] { return false }
    return true
  }
}

extension HostRuntime {
  /// The servers that the network has told the running stack of: those of the lease, then those that IPv6 routers advertise
  /// (RFC 8106).
  package static var learnedServers: NameServerList {
    var all = NameServerList()
    guard let shard else { return all }
    if let learned = learnedNameServers() {
      for i in 0..<learned.servers.count { all.append(NameServer(IPAddress(learned.servers[i]))) }
    }
    shard.pointee.lock()
    for i in 0..<NameServerList.capacity {
      guard let server = shard.pointee.stack.routers.nameServer(i) else { continue }
      all.append(NameServer(server, scope: server.isLinkLocal ? interfaceIndex : 0))
    }
    shard.pointee.unlock()
    return all
  }
}
