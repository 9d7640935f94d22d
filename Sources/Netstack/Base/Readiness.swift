// Owns: what a socket is ready for, in the bits that poll and epoll use. Every layer that holds sockets speaks of it.

/// Level-triggered state of a socket, and on `nextChanged` what is new. Raw values are Linux's EPOLL bits.
package struct Readiness: OptionSet, Sendable {
  package let rawValue: UInt32
  @inline(__always)
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  /// Data, end of stream, or a connection to accept (EPOLLIN | EPOLLRDNORM).
  package static var readable: Readiness { Readiness(rawValue: 0x001 | 0x040) }
  /// Urgent data (EPOLLPRI).
  package static var priority: Readiness { Readiness(rawValue: 0x002) }
  /// Room to send (EPOLLOUT | EPOLLWRNORM).
  package static var writable: Readiness { Readiness(rawValue: 0x004 | 0x100) }
  /// A datagram socket has room (EPOLLWRBAND, which Linux reports for these only).
  package static var writableBand: Readiness { Readiness(rawValue: 0x200) }
  /// A pending error (EPOLLERR).
  package static var error: Readiness { Readiness(rawValue: 0x008) }
  /// Both directions are over, or never connected (EPOLLHUP).
  package static var hangUp: Readiness { Readiness(rawValue: 0x010) }
  /// The peer has sent FIN, or reading was shut down (EPOLLRDHUP).
  package static var readHangUp: Readiness { Readiness(rawValue: 0x2000) }
}
