// Owns: the ioctls that ask about a socket's queues. All others are the placeholder's.

import CSupport
import Host
import Netstack
import Synchronization

@c(anp_entry_ioctl)
public func entryIoctl(_ fd: Int32, _ entry: UInt64, _ request: UInt, _ argument: UnsafeMutableRawPointer?) -> Int {
  withSocket(fd, entry) { description in
    if description.pointee.side == .undecided { return passToKernel }
    var value: Int32 = 0
    let result: Int
    switch request {
    case 0x541B:  // FIONREAD, SIOCINQ
      result = withShard(description) { shard, _ throws(SocketError) in
        if shard.pointee.stack.isListening(description.pointee.handle) { throw .invalidArgument }
        value = Int32(truncatingIfNeeded: shard.pointee.stack.unreadBytes(description.pointee.handle))
        return 0
      }
      if value == 0, description.pointee.kernelReadable.load(ordering: .relaxed) { return passToKernel }
    case 0x5411:  // TIOCOUTQ, SIOCOUTQ
      result = withShard(description) { shard, _ throws(SocketError) in
        if shard.pointee.stack.isListening(description.pointee.handle) { throw .invalidArgument }
        value = Int32(truncatingIfNeeded: shard.pointee.stack.unacknowledgedBytes(description.pointee.handle))
        return 0
      }
    case 0x894B:  // SIOCOUTQNSD: not even sent
      result = withShard(description) { shard, now throws(SocketError) in
        if description.pointee.kind == .datagram || shard.pointee.stack.isListening(description.pointee.handle) {
          throw .invalidArgument
        }
        let info = shard.pointee.stack.information(description.pointee.handle, now: now)
        value = Int32(truncatingIfNeeded: info.notSentBytes)
        return 0
      }
    case 0x8905:  // SIOCATMARK: there is no urgent data
      result = 0
    default: return passToKernel
    }
    if result != 0 { return result }
    guard let argument, anp_is_nowhere(argument) == 0 else { return -Errno.fault }
    argument.storeBytes(of: value, as: Int32.self)
    return 0
  }
}
