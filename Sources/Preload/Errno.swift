// Owns: the one map from the stack's errors to Linux's errno numbers (asm-generic/errno.h; the same on x86_64 and aarch64).
// Entry points return kernel style: >= 0, or a negative errno.

import Netstack

enum Errno {
  static var notPermitted: Int { 1 }
  static var noEntry: Int { 2 }
  static var interrupted: Int { 4 }
  static var badDescriptor: Int { 9 }
  static var again: Int { 11 }
  static var noMemory: Int { 12 }
  static var accessDenied: Int { 13 }
  static var fault: Int { 14 }
  static var exists: Int { 17 }
  static var noDevice: Int { 19 }
  static var invalid: Int { 22 }
  static var notTypewriter: Int { 25 }
  static var tooManyDescriptors: Int { 24 }
  static var brokenPipe: Int { 32 }
  static var domain: Int { 33 }
  static var noSystemCall: Int { 38 }
  static var loop: Int { 40 }
  static var destinationRequired: Int { 89 }
  static var messageTooLong: Int { 90 }
  static var protocolNotAvailable: Int { 92 }
  static var protocolNotSupported: Int { 93 }
  static var notSupported: Int { 95 }
  static var familyNotSupported: Int { 97 }
  static var addressInUse: Int { 98 }
  static var addressNotAvailable: Int { 99 }
  static var networkDown: Int { 100 }
  static var networkUnreachable: Int { 101 }
  static var noBuffers: Int { 105 }
  static var isConnected: Int { 106 }
  static var notConnected: Int { 107 }
  static var timedOut: Int { 110 }
  static var inProgress: Int { 115 }
  static var already: Int { 114 }
}

extension SocketError {
  /// The errno that Linux reports for the same event.
  var errno: Int {
    switch self {
    case .wouldBlock: Errno.again
    case .inProgress: Errno.inProgress
    case .alreadyInProgress: Errno.already
    case .isConnected: Errno.isConnected
    case .notConnected: Errno.notConnected
    case .connectionRefused: 111
    case .connectionReset: 104
    case .connectionAborted: 103
    case .timedOut: Errno.timedOut
    case .brokenPipe: Errno.brokenPipe
    case .addressInUse: 98
    case .addressNotAvailable: Errno.addressNotAvailable
    case .addressFamilyNotSupported: Errno.familyNotSupported
    case .destinationAddressRequired: Errno.destinationRequired
    case .networkDown: Errno.networkDown
    case .networkUnreachable: Errno.networkUnreachable
    case .hostUnreachable: 113
    case .hostDown: 112
    case .protocolUnreachable: Errno.protocolNotAvailable  // ICMP code 2: ENOPROTOOPT, icmp_err_convert[]
    case .protocolError: 71
    case .hostIsolated: 64  // ENONET
    case .messageTooLong: Errno.messageTooLong
    case .noBufferSpace: Errno.noBuffers
    case .outOfMemory: Errno.noMemory
    case .invalidArgument: Errno.invalid
    case .notSupported: Errno.notSupported
    case .protocolNotAvailable: Errno.protocolNotAvailable
    case .permissionDenied: 1
    case .accessDenied: Errno.accessDenied
    case .badHandle: Errno.badDescriptor
    case .domain: Errno.domain
    case .noDevice: Errno.noDevice
    }
  }
}

/// Runs a stack operation and turns what it throws into a negative errno.
@inline(__always)
func kernelStyle(_ operation: () throws(SocketError) -> Int) -> Int {
  do throws(SocketError) {
    return try operation()
  } catch {
    return -error.errno
  }
}
