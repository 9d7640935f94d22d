// Owns: the ancillary data of recvmsg: on datagram sockets SCM_TIMESTAMP(NS), IP_PKTINFO, IP_TTL, IP_TOS; from the error queue
// IP_RECVERR.
// Read first: cmsg(3), ip(7). Layout: a 16-byte cmsghdr (length, level, type), data, padding to 8.

import CSupport
import Host
import Netstack
import Wire

enum ControlMessages {
  private static var headerSize: Int { 16 }

  static func write(
    _ datagram: ReceivedDatagram, _ description: DescriptionPointer, _ shard: UnsafeMutablePointer<Shard>,
    to message: UnsafeMutablePointer<msghdr>
  ) throws(SocketError) {
    guard let control = message.pointee.msg_control else {
      message.pointee.msg_controllen = 0
      return
    }
    var writer = Writer(base: control, room: Int(message.pointee.msg_controllen))
    let handle = description.pointee.handle
    if description.pointee.timestamps != 0 {
      let age = shard.pointee.now() - datagram.time
      let time = anp_realtime_nanoseconds() - age.nanoseconds
      let isNanoseconds = description.pointee.timestamps == 2
      let fraction = time % 1_000_000_000
      writer.append(
        Level.socket, isNanoseconds ? 35 : 29, (time / 1_000_000_000, isNanoseconds ? fraction : fraction / 1000))
    }
    if try shard.pointee.stack.option(handle, .packetInfo) != 0 {
      // struct in_pktinfo: interface index, the local address, the header's destination.
      let address = datagram.destination.address.v4.bits.bigEndian
      writer.append(Level.ip, 8, (UInt32(1), address, address))
    }
    if try shard.pointee.stack.option(handle, .receiveTTL) != 0 {
      writer.append(Level.ip, 2, Int32(datagram.timeToLive))
    }
    if try shard.pointee.stack.option(handle, .receiveTOS) != 0 {
      writer.append(Level.ip, 1, datagram.typeOfService)
    }
    message.pointee.msg_controllen = numericCast(writer.used)
    if writer.isCut { message.pointee.msg_flags |= MessageFlag.controlTruncated }
  }

  /// struct sock_extended_err and an offender's address, which is nobody's.
  static func write(_ range: ZeroCopyQueue.Range, family: Int32, to message: UnsafeMutablePointer<msghdr>) {
    message.pointee.msg_namelen = 0
    message.pointee.msg_flags = MessageFlag.errorQueue
    guard let control = message.pointee.msg_control else {
      message.pointee.msg_controllen = 0
      return
    }
    var writer = Writer(base: control, room: Int(message.pointee.msg_controllen))
    let origin: UInt8 = 5  // SO_EE_ORIGIN_ZEROCOPY
    let code: UInt8 = range.isCopied ? 1 : 0  // SO_EE_CODE_ZEROCOPY_COPIED
    let error = (UInt32(0), origin, UInt8(0), code, UInt8(0), range.first, range.last)
    if family == Family.inet {
      writer.append(Level.ip, 11, (error, UInt64(0), UInt64(0)))
    } else {
      // struct sockaddr_in6, 28 bytes
      writer.append(Level.ipv6, 25, (error, UInt64(0), UInt64(0), UInt64(0), UInt32(0)))
    }
    message.pointee.msg_controllen = numericCast(writer.used)
    if writer.isCut { message.pointee.msg_flags |= MessageFlag.controlTruncated }
  }

  private struct Writer {
    let base: UnsafeMutableRawPointer
    let room: Int
    var used = 0
    var isCut = false

    init(base: UnsafeMutableRawPointer, room: Int) {
      self.base = base
      self.room = room
    }

    mutating func append<Value: BitwiseCopyable>(_ level: Int32, _ type: Int32, _ value: Value) {
      let length = headerSize + MemoryLayout<Value>.size
      guard used + length <= room else {
        isCut = true
        return
      }
      base.storeBytes(of: UInt(length), toByteOffset: used, as: UInt.self)
      base.storeBytes(of: level, toByteOffset: used + 8, as: Int32.self)
      base.storeBytes(of: type, toByteOffset: used + 12, as: Int32.self)
      base.storeBytes(of: value, toByteOffset: used + headerSize, as: Value.self)
      used = min(room, (used + length + 7) & ~7)
    }
  }
}
