// Owns: the numbers of Linux's socket interface that the shim interprets (asm-generic; equal on x86_64 and aarch64).
// Those of glibc's headers are anonymous enums that Swift imports as different types in different contexts.

enum Family {
  static var unspecified: Int32 { 0 }
  static var inet: Int32 { 2 }
  static var inet6: Int32 { 10 }
}

enum SocketType {
  static var stream: Int32 { 1 }
  static var datagram: Int32 { 2 }
  static var raw: Int32 { 3 }
  static var closeOnExec: Int32 { 0o2000000 }
  static var nonBlocking: Int32 { 0o4000 }
}

enum MessageFlag {
  static var outOfBand: Int32 { 0x1 }
  static var peek: Int32 { 0x2 }
  static var controlTruncated: Int32 { 0x8 }
  static var truncate: Int32 { 0x20 }
  static var dontWait: Int32 { 0x40 }
  static var waitAll: Int32 { 0x100 }
  static var errorQueue: Int32 { 0x2000 }
  static var noSignal: Int32 { 0x4000 }
  static var more: Int32 { 0x8000 }
  static var zeroCopy: Int32 { 0x0400_0000 }
  static var fastOpen: Int32 { 0x2000_0000 }
  /// Not Linux's: this call is read or readv (a zero length returns at once), or write or writev.
  static var plainIO: Int32 { 0x0100_0000 }
  /// Nor is this: a pending error is told and stays for the next call.
  static var keepError: Int32 { 0x0200_0000 }
}

enum PollEvent {
  static var readable: UInt32 { 0x001 }
  static var priority: UInt32 { 0x002 }
  static var writable: UInt32 { 0x004 }
  static var error: UInt32 { 0x008 }
  static var hangUp: UInt32 { 0x010 }
  static var invalid: UInt32 { 0x020 }
  static var readNormal: UInt32 { 0x040 }
  static var readBand: UInt32 { 0x080 }
  static var writeNormal: UInt32 { 0x100 }
  static var writeBand: UInt32 { 0x200 }
  static var readHangUp: UInt32 { 0x2000 }
}

enum EpollFlag {
  static var exclusive: UInt32 { 1 << 28 }
  static var wakeUp: UInt32 { 1 << 29 }
  static var oneShot: UInt32 { 1 << 30 }
  static var edge: UInt32 { 1 << 31 }
  /// What a disarmed EPOLLONESHOT interest keeps (fs/eventpoll.c, EP_PRIVATE_BITS).
  static var privateBits: UInt32 { exclusive | wakeUp | oneShot | edge }
}

enum EpollOperation {
  static var add: Int32 { 1 }
  static var delete: Int32 { 2 }
  static var modify: Int32 { 3 }
}

enum Level {
  static var ip: Int32 { 0 }
  static var socket: Int32 { 1 }
  static var icmp: Int32 { 1 }
  static var tcp: Int32 { 6 }
  static var udp: Int32 { 17 }
  static var ipv6: Int32 { 41 }
  static var icmpv6: Int32 { 58 }
  static var raw: Int32 { 255 }
}

/// What an entry point returns for "let libc do it".
let passToKernel = Int.min
/// The wait's reference was reaped while it slept (see ThreadRecord): the description may be gone.
let referenceLost = Int.min + 1
