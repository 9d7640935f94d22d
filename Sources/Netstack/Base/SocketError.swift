// Owns: what can go wrong with a socket operation, in the stack's own words. Preload/Errno.swift has the one map to errno.

package enum SocketError: Error, Equatable, Sendable {
  case wouldBlock
  case inProgress
  case alreadyInProgress
  case isConnected
  case notConnected
  case connectionRefused
  case connectionReset
  case connectionAborted
  case timedOut
  case brokenPipe
  case addressInUse
  case addressNotAvailable
  case addressFamilyNotSupported
  case destinationAddressRequired
  case networkDown
  case networkUnreachable
  case hostUnreachable
  case hostDown
  case protocolUnreachable
  /// Parameter problem (RFC 792)
  case protocolError
  /// The source host is isolated (RFC 1122 §3.2.2.1).
  case hostIsolated
  case messageTooLong
  case noBufferSpace
  case outOfMemory
  case invalidArgument
  case notSupported
  case protocolNotAvailable
  case permissionDenied
  case accessDenied
  case badHandle
  case domain
  case noDevice
}
