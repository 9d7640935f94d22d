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
    guard description.pointee.datagramKind == .udp, (description.pointee.family == Family.inet) == peer.address.isIPv4,
      HostRuntime.shard == nil, !description.pointee.hasKernelSide.load(ordering: .relaxed),
      source(toward: peer.address) != nil
    else { return false }
    description.pointee.deferredPeer = peer
    return true
  }

  /// What a stack would send from, where the settings alone say so.
  private static func source(toward peer: IPAddress) -> IPAddress? {
    let configuration = HostRuntime.configuration
    guard configuration.error == nil, configuration.linkCount == 1, configuration.routes.count == 0, !peer.isMulticast
    else { return nil }
    let link = configuration.link(0)
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
      var any = (UInt64(UInt16(description.pointee.family)), UInt64(0), UInt64(0), UInt32(0))
      let size = description.pointee.family == Family.inet6 ? SockAddr.inet6Size : SockAddr.inetSize
      if withUnsafeBytes(of: &any, { anp_kernel_bind(fd, $0.baseAddress, UInt32(size)) }) == 0 {
        description.pointee.boundToEphemeral = true
      }
    }
    return Endpoint(source(toward: peer.address) ?? description.pointee.wildcard, Sides.placeholderPort(fd))
  }
}
