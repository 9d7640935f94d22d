// Owns: sockaddr_in and sockaddr_in6 as bytes, in and out. Read first: ip(7), ipv6(7).
// Checks are those of inet_bind, tcp_v4_connect, tcp_v6_connect and their kin, in their order.

import CSupport
import Host
import Netstack
import Wire

enum SockAddr {
  /// struct sockaddr_in, struct sockaddr_in6 and the part of it that RFC 2133 had (no scope), bytes.
  static var inetSize: Int { 16 }
  static var inet6Size: Int { 28 }
  static var inet6LeastSize: Int { 24 }
  static var storageSize: Int { 128 }

  enum Parsed {
    case endpoint(Endpoint)
    /// AF_UNSPEC: dissolve the association (connect(2)).
    case unspecified
    /// A negative errno.
    case failure(Int)
  }

  static func family(_ address: UnsafeRawPointer) -> Int32 {
    Int32(address.loadUnaligned(as: UInt16.self))
  }

  /// Reads an address for a socket of `family`.
  static func parse(_ address: UnsafeRawPointer?, length: UInt32, family: Int32) -> Parsed {
    // move_addr_to_kernel: no more than a sockaddr_storage.
    if length > storageSize { return .failure(-Errno.invalid) }
    guard let address, anp_is_nowhere(address) == 0 else {
      return .failure(length == 0 ? -Errno.invalid : -Errno.fault)
    }
    guard length >= 2 else { return .failure(-Errno.invalid) }
    let given = SockAddr.family(address)
    if given == Family.unspecified { return .unspecified }
    if family == Family.inet6 {
      // An IPv6 socket is told of IPv4 peers in mapped form only.
      guard Int(length) >= inet6LeastSize else { return .failure(-Errno.invalid) }
      guard given == Family.inet6 else { return .failure(-Errno.familyNotSupported) }
      return .endpoint(Endpoint(IPAddress(reading16: address, at: 8), address.bigEndian16(at: 2)))
    }
    guard Int(length) >= inetSize else { return .failure(-Errno.invalid) }
    guard given == Family.inet else { return .failure(-Errno.familyNotSupported) }
    return .endpoint(Endpoint(IPAddress(IPv4Address(bits: address.bigEndian32(at: 4))), address.bigEndian16(at: 2)))
  }

  /// Writes `endpoint` as a socket of `family` reports it, cut to the caller's room; returns the whole length.
  @discardableResult
  static func write(
    _ endpoint: Endpoint, family: Int32, to destination: UnsafeMutableRawPointer?, room: Int
  ) -> UInt32 {
    var image = InlineArray<28, UInt8>(repeating: 0)
    let size = family == Family.inet6 ? inet6Size : inetSize
    withUnsafeMutableBytes(of: &image) { bytes in
      let base = bytes.baseAddress.unsafelyUnwrapped
      base.storeBytes(of: UInt16(truncatingIfNeeded: family), as: UInt16.self)
      base.storeBigEndian16(endpoint.port, at: 2)
      if family == Family.inet6 {
        endpoint.address.write16(to: base, at: 8)
        if hasScope(endpoint.address) {
          base.storeBytes(of: HostRuntime.interfaceIndex, toByteOffset: 24, as: UInt32.self)
        }
      } else {
        base.storeBigEndian32(endpoint.address.isUnspecified ? 0 : endpoint.address.v4.bits, at: 4)
      }
      if let destination { destination.copyMemory(from: base, byteCount: min(size, max(room, 0))) }
    }
    return UInt32(size)
  }

  /// Addresses that mean something on one link only, and are told with the link's index (RFC 4007 §5).
  private static func hasScope(_ address: IPAddress) -> Bool {
    !address.isIPv4 && (address.isLinkLocal || address.isLinkMulticast)
  }

  /// A link-local address must come with the index of the stack's interface (RFC 4007 §11; Linux's tcp_v6_connect, inet6_bind), or
  /// the socket be bound to that device, which the descriptor's kernel socket knows (SO_BINDTODEVICE). 0 or a negative errno. The
  /// stack has been started.
  static func checkScope(_ fd: Int32, _ sockaddr: UnsafeRawPointer?, _ length: UInt32, _ address: IPAddress) -> Int {
    guard !address.isIPv4, address.isLinkLocal, let sockaddr else { return 0 }
    guard Int(length) >= inet6Size else { return -Errno.invalid }
    var scope = sockaddr.loadUnaligned(fromByteOffset: 24, as: UInt32.self)
    if scope == 0 {
      var size = UInt32(MemoryLayout<UInt32>.size)
      let (socketLevel, bindToInterfaceIndex) = (Int32(1), Int32(62))
      let result = anp_kernel_getsockopt(fd, socketLevel, bindToInterfaceIndex, &scope, &size)
      if result != 0 || scope == 0 { return -Errno.invalid }
    }
    return scope == HostRuntime.interfaceIndex ? 0 : -Errno.noDevice
  }

  /// Writes `endpoint` to the caller's `address`/`length` pair (getsockname, accept, recvfrom). 0 or a negative errno.
  static func report(
    _ endpoint: Endpoint, family: Int32, to address: UnsafeMutableRawPointer?, _ length: UnsafeMutablePointer<UInt32>?
  ) -> Int {
    guard let length, anp_is_nowhere(length) == 0 else { return -Errno.fault }
    let room = Int32(bitPattern: length.pointee)
    guard room >= 0 else { return -Errno.invalid }
    if room > 0, anp_is_nowhere(address) != 0 { return -Errno.fault }
    length.pointee = write(endpoint, family: family, to: address, room: Int(room))
    return 0
  }
}
