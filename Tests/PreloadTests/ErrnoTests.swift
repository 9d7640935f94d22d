// Owns: the map from the stack's errors to errno, against the numbers of this machine's headers.

import CSupport
import Netstack
import Testing

@testable import Preload

@Suite("errno")
struct ErrnoTests {
  @Test(
    "each error of the stack has Linux's number",
    arguments: [
      (SocketError.wouldBlock, EAGAIN), (.inProgress, EINPROGRESS), (.alreadyInProgress, EALREADY),
      (.isConnected, EISCONN), (.notConnected, ENOTCONN), (.connectionRefused, ECONNREFUSED),
      (.connectionReset, ECONNRESET), (.connectionAborted, ECONNABORTED), (.timedOut, ETIMEDOUT), (.brokenPipe, EPIPE),
      (.addressInUse, EADDRINUSE), (.addressNotAvailable, EADDRNOTAVAIL), (.addressFamilyNotSupported, EAFNOSUPPORT),
      (.destinationAddressRequired, EDESTADDRREQ), (.networkDown, ENETDOWN), (.networkUnreachable, ENETUNREACH),
      (.hostUnreachable, EHOSTUNREACH), (.hostDown, EHOSTDOWN), (.protocolUnreachable, ENOPROTOOPT),
      (.messageTooLong, EMSGSIZE), (.noBufferSpace, ENOBUFS), (.outOfMemory, ENOMEM), (.invalidArgument, EINVAL),
      (.notSupported, EOPNOTSUPP), (.protocolNotAvailable, ENOPROTOOPT), (.permissionDenied, EPERM),
      (.accessDenied, EACCES), (.badHandle, EBADF), (.domain, EDOM),
    ])
  func numbers(error: SocketError, number: Int32) {
    #expect(error.errno == Int(number))
  }

  @Test("the numbers used by name are the headers'")
  func names() {
    #expect(Errno.noEntry == Int(ENOENT))
    #expect(Errno.interrupted == Int(EINTR))
    #expect(Errno.noMemory == Int(ENOMEM))
    #expect(Errno.fault == Int(EFAULT))
    #expect(Errno.exists == Int(EEXIST))
    #expect(Errno.notTypewriter == Int(ENOTTY))
    #expect(Errno.tooManyDescriptors == Int(EMFILE))
    #expect(Errno.loop == Int(ELOOP))
    #expect(Errno.protocolNotSupported == Int(EPROTONOSUPPORT))
  }
}
