// Owns: connect on a UDP socket while no stack runs yet. Many a program connects one only to learn which address it would send from
// (mtr, getaddrinfo's sorting of addresses), and no packet goes out: no reason to take a device that a child of that program may be about
// to need. So the peer is only noted; the socket stays undecided, names are answered from the settings, and the first call that sends,
// receives or waits makes it the stack's and connects it there, with what that has to say. What the stack would refuse at once (no
// way to the peer, a broadcast) is not put off: then connect itself is that first call.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

enum DeferredConnect {
  /// Notes the peer; false where connect must be done now.
  static func note(_ description: DescriptionPointer, _ peer: Endpoint) -> Bool {
    guard description.pointee.datagramKind == .udp, (description.pointee.family == Family.inet) == peer.address.isIPv4,
      HostRuntime.shard == nil, !description.pointee.hasKernelSide.load(ordering: .relaxed),
      source(toward: peer.address) != nil, isReached(peer.address)
    else { return false }
    description.pointee.deferredPeer = peer
    return true
  }

  /// What a stack would send from, where the settings alone say so.
  private static func source(toward peer: IPAddress) -> IPAddress? {
    guard HostRuntime.configuration.error == nil, HostRuntime.configuration.linkCount == 1,
      HostRuntime.configuration.routes.count == 0, !peer.isMulticast
    else { return nil }
    let link = HostRuntime.configuration.link(0)
    guard peer.isIPv4 else { return source6(toward: peer, link) }
    guard !link.usesDHCP, link.addresses.count == 1 else { return nil }
    return link.addresses[0].address
  }

  private static func source6(toward peer: IPAddress, _ link: LinkConfiguration) -> IPAddress? {
    // A router may tell of more addresses where it is listened to; a link-local peer has a scope to be checked.
    guard !link.isIPv6Off, !link.autoconfiguresIPv6, link.addresses6.count == 1, !peer.isLinkLocal,
      link.addresses6.reaches(peer) || HostRuntime.hasLikelyGateway6(link)
    else { return nil }
    return link.addresses6[0].address
  }

  /// Whether a stack would have a way to `peer`, and no question of permission (SO_BROADCAST).
  private static func isReached(_ peer: IPAddress) -> Bool {
    guard peer.isIPv4 else { return true }  // source6 has seen to it
    guard peer.v4 != .limitedBroadcast else { return false }
    let link = HostRuntime.configuration.link(0)
    let own = link.addresses[0]
    guard own.network.contains(peer) else { return HostRuntime.willHaveGateway(link) }
    // RFC 3021: /31 and /32 have no broadcast.
    let host = own.prefixLength < 32 ? ~0 >> UInt32(own.prefixLength) : UInt32(0)
    return own.prefixLength > 30 || peer.v4.bits & host != 0 && peer.v4.bits & host != host
  }

  /// The socket has become the stack's: connects it, under the lock that has made it so, before any other thread can use it there.
  /// 0 or a negative errno; then the peer stays noted, and the next call that needs it tries again.
  static func settle(_ description: DescriptionPointer, _ shard: UnsafeMutablePointer<Shard>) -> Int {
    guard let peer = description.pointee.deferredPeer else { return 0 }
    let now = shard.pointee.now()
    let result = kernelStyle { () throws(SocketError) -> Int in
      try shard.pointee.stack.connect(description.pointee.handle, to: peer, now: now)
      return 0
    }
    if result == 0 { description.pointee.deferredPeer = nil }
    return result
  }

  /// getsockname and getpeername; nil where nothing was noted.
  static func name(_ description: DescriptionPointer, _ fd: Int32, isPeer: Bool) -> Endpoint? {
    guard let peer = description.pointee.deferredPeer else { return nil }
    if isPeer { return peer }
    if !description.pointee.boundToEphemeral, description.pointee.side == .undecided {
      // A port that will be the stack's too.
      var any = (UInt64(UInt16(description.pointee.family)), UInt64(0), UInt64(0), UInt32(0))
      let size = description.pointee.family == Family.inet6 ? SockAddr.inet6Size : SockAddr.inetSize
      if withUnsafeBytes(of: &any, { anp_kernel_bind(fd, $0.baseAddress, UInt32(size)) }) == 0 {
        description.pointee.boundToEphemeral = true
      }
    }
    return Endpoint(source(toward: peer.address) ?? description.pointee.wildcard, Sides.placeholderPort(fd))
  }
}
