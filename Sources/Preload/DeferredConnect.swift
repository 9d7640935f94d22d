// Owns: connect on a UDP socket while no stack runs yet. Many a program connects one only to learn which address it would send from
// (mtr, getaddrinfo's sorting of addresses), and no packet goes out: no reason to take a device that a child of that program may be about
// to need. So the peer is only noted; the socket stays undecided, names are answered from the settings, and the first call that sends,
// receives or waits makes it the stack's and connects it there, with what that has to say.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

enum DeferredConnect {
  /// Notes the peer; false where connect must be done now.
  static func note(_ description: DescriptionPointer, _ peer: Endpoint) -> Bool {
    guard description.pointee.datagramKind == .udp, description.pointee.family == Family.inet, HostRuntime.shard == nil,
      !description.pointee.hasKernelSide.load(ordering: .relaxed), source(toward: peer.address) != nil
    else { return false }
    description.pointee.deferredPeer = peer
    return true
  }

  /// What a stack would send from, where the settings alone say so.
  private static func source(toward peer: IPAddress) -> IPAddress? {
    let configuration = HostRuntime.configuration
    guard configuration.error == nil, configuration.linkCount == 1, !configuration.link(0).usesDHCP,
      !peer.isMulticast
    else { return nil }
    let addresses = configuration.link(0).addresses
    guard addresses.count == 1, configuration.routes.count == 0 else { return nil }
    return addresses[0].address
  }

  /// The socket has become the stack's. 0 or a negative errno.
  static func settle(_ description: DescriptionPointer) -> Int {
    guard let peer = description.pointee.deferredPeer else { return 0 }
    description.pointee.deferredPeer = nil
    return withShard(description) { shard, now throws(SocketError) in
      try shard.pointee.stack.connect(description.pointee.handle, to: peer, now: now)
      return 0
    }
  }

  /// getsockname and getpeername; nil where nothing was noted.
  static func name(_ description: DescriptionPointer, _ fd: Int32, isPeer: Bool) -> Endpoint? {
    guard let peer = description.pointee.deferredPeer else { return nil }
    if isPeer { return peer }
    if !description.pointee.boundToEphemeral {
      // A port that will be the stack's too.
      var any = (UInt16(Family.inet), UInt16(0), UInt32(0), UInt64(0))
      if withUnsafeBytes(of: &any, { anp_kernel_bind(fd, $0.baseAddress, 16) }) == 0 {
        description.pointee.boundToEphemeral = true
      }
    }
    return Endpoint(source(toward: peer.address) ?? .anyIPv4, Sides.placeholderPort(fd))
  }
}
