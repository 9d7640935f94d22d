// Owns: ancillary data: of recvmsg on datagram sockets the time stamps, drops, IP_PKTINFO, IP_TTL, IP_TOS, IP_ORIGDSTADDR, their
// IPv6 kin, and UDP_GRO; from the error queue IP_RECVERR; of sendmsg IP_PKTINFO, IP_TTL, IP_TOS and UDP_SEGMENT.
// Read first: cmsg(3), ip(7), udp(7); Linux's put_cmsg, __sock_recv_timestamp, ip_cmsg_recv_offset and ip_cmsg_send for the order and
// for what is refused. Layout: a 16-byte cmsghdr (length, level, type), data, padding to 8.

import CSupport
import Host
import Netstack
import Wire

enum ControlMessages {
  private static var headerSize: Int { 16 }

  // MARK: Receiving

  /// What the socket wants to know of a datagram; under the shard's lock. The message's other flags are set already.
  static func write(
    _ datagram: ReceivedDatagram, _ description: DescriptionPointer, _ shard: UnsafeMutablePointer<Shard>,
    to message: UnsafeMutablePointer<msghdr>
  ) {
    var writer = Writer(message)
    writer.appendTimestamps(of: datagram, description, shard)
    if datagram.controls.contains(.dropCount), datagram.drops != 0 { writer.append(Level.socket, 40, datagram.drops) }
    if datagram.controls.contains(.segmentSize), datagram.segmentSize != 0 {
      writer.append(Level.udp, 104, Int32(datagram.segmentSize))
    }
    writer.appendAddressing(of: datagram, shard)
    writer.finish(message)
  }

  /// An error with what is known of the ICMP message that brought it.
  static func write(
    _ error: ReceivedError, _ description: DescriptionPointer, _ shard: UnsafeMutablePointer<Shard>,
    to message: UnsafeMutablePointer<msghdr>
  ) {
    var writer = Writer(message)
    writer.appendTimestamps(of: error.datagram, description, shard)
    let record = error.record
    let isLocal = record.origin == .local
    if !isLocal { writer.appendAddressing(of: error.datagram, shard) }
    // struct sock_extended_err and the offender's address
    let image = (
      UInt32(record.error.errno), record.origin.rawValue, record.type, record.code, UInt8(0), record.information,
      UInt32(0)
    )
    if description.pointee.family == Family.inet {
      let address = isLocal ? 0 : record.offender.v4.bits.bigEndian
      let family = isLocal ? 0 : UInt16(Family.inet)
      writer.append(Level.ip, 11, (image, family, UInt16(0), address, UInt64(0)))
    } else {
      // struct sockaddr_in6, 28 bytes
      let family = isLocal ? 0 : UInt16(Family.inet6)
      let offender = isLocal ? IPAddress.anyIPv6 : record.offender
      writer.append(
        Level.ipv6, 25,
        (image, family, UInt16(0), UInt32(0), offender.high.bigEndian, offender.low.bigEndian, UInt32(0)))
    }
    writer.finish(message)
  }

  /// MSG_ZEROCOPY's notification; the offender is nobody.
  static func write(_ range: ZeroCopyQueue.Range, family: Int32, to message: UnsafeMutablePointer<msghdr>) {
    message.pointee.msg_namelen = 0
    message.pointee.msg_flags = MessageFlag.errorQueue
    var writer = Writer(message)
    let origin: UInt8 = 5  // SO_EE_ORIGIN_ZEROCOPY
    let code: UInt8 = range.isCopied ? 1 : 0  // SO_EE_CODE_ZEROCOPY_COPIED
    let error = (UInt32(0), origin, UInt8(0), code, UInt8(0), range.first, range.last)
    if family == Family.inet {
      writer.append(Level.ip, 11, (error, UInt64(0), UInt64(0)))
    } else {
      // struct sockaddr_in6, 28 bytes
      writer.append(Level.ipv6, 25, (error, UInt64(0), UInt64(0), UInt64(0), UInt32(0)))
    }
    writer.finish(message)
  }

  private struct Writer {
    let base: UnsafeMutableRawPointer?
    let room: Int
    var used = 0
    var isCut = false

    init(_ message: UnsafeMutablePointer<msghdr>) {
      base = message.pointee.msg_control
      room = base == nil ? 0 : Int(message.pointee.msg_controllen)
    }

    /// What does not fit is cut, and its header says how much there is of it (put_cmsg).
    mutating func append<Value: BitwiseCopyable>(_ level: Int32, _ type: Int32, _ value: Value) {
      guard let base, room - used >= headerSize else {
        isCut = true
        return
      }
      var length = headerSize + MemoryLayout<Value>.size
      if length > room - used {
        isCut = true
        length = room - used
      }
      base.storeBytes(of: UInt(length), toByteOffset: used, as: UInt.self)
      base.storeBytes(of: level, toByteOffset: used + 8, as: Int32.self)
      base.storeBytes(of: type, toByteOffset: used + 12, as: Int32.self)
      withUnsafeBytes(of: value) { bytes in
        (base + used + headerSize).copyMemory(from: bytes.baseAddress.unsafelyUnwrapped, byteCount: length - headerSize)
      }
      used = min(room, (used + headerSize + MemoryLayout<Value>.size + 7) & ~7)
    }

    mutating func appendTimestamps(
      of datagram: ReceivedDatagram, _ description: DescriptionPointer, _ shard: UnsafeMutablePointer<Shard>
    ) {
      let option = description.pointee.timestamps
      // SOF_TIMESTAMPING_RX_SOFTWARE and SOF_TIMESTAMPING_SOFTWARE
      let wantsSoftware = description.pointee.timestampingFlags & 0x18 == 0x18
      guard option != 0 || wantsSoftware else { return }
      let age = shard.pointee.now() - datagram.time
      let time = anp_realtime_nanoseconds() - age.nanoseconds
      let fraction = time % 1_000_000_000
      if option != 0 {
        let isNanoseconds = option == 35 || option == 64
        append(Level.socket, option, (time / 1_000_000_000, isNanoseconds ? fraction : fraction / 1000))
      }
      if wantsSoftware {
        append(
          Level.socket, description.pointee.timestamping,
          (time / 1_000_000_000, fraction, Int64(0), Int64(0), Int64(0), Int64(0)))
      }
    }

    mutating func appendAddressing(of datagram: ReceivedDatagram, _ shard: UnsafeMutablePointer<Shard>) {
      let controls = datagram.controls
      let isIPv4 = datagram.destination.address.isIPv4
      if controls.contains(.packetInfo6) { appendPacketInfo6(50, of: datagram, shard) }
      if !isIPv4 { return appendIPv6(of: datagram, shard) }
      if controls.contains(.packetInfo) {
        // struct in_pktinfo: interface index, the local address, the header's destination.
        let destination = datagram.destination.address
        let local = shard.pointee.stack.localAddress(for: destination)
        append(
          Level.ip, 8,
          (
            UInt32(shard.pointee.stack.device.interfaceIndex), local.v4.bits.bigEndian, destination.v4.bits.bigEndian
          ))
      }
      if controls.contains(.timeToLive) { append(Level.ip, 2, Int32(datagram.timeToLive)) }
      if controls.contains(.typeOfService) { append(Level.ip, 1, datagram.typeOfService) }
      if controls.contains(.originalDestination) {
        append(
          Level.ip, 20,
          (
            UInt16(Family.inet), datagram.destination.port.bigEndian, datagram.destination.address.v4.bits.bigEndian,
            UInt64(0)
          ))
      }
    }

    /// struct in6_pktinfo: the header's destination (ours, if that was for many), interface index.
    private mutating func appendPacketInfo6(
      _ type: Int32, of datagram: ReceivedDatagram, _ shard: UnsafeMutablePointer<Shard>
    ) {
      let address = datagram.destination.address
      append(
        Level.ipv6, type,
        (
          address.high.bigEndian, address.low.bigEndian, UInt32(shard.pointee.stack.device.interfaceIndex)
        ))
    }

    private mutating func appendIPv6(of datagram: ReceivedDatagram, _ shard: UnsafeMutablePointer<Shard>) {
      let controls = datagram.controls
      if controls.contains(.hopLimit6) { append(Level.ipv6, 52, Int32(datagram.timeToLive)) }
      if controls.contains(.trafficClass6) { append(Level.ipv6, 67, Int32(datagram.typeOfService)) }
      if controls.contains(.oldPacketInfo6) { appendPacketInfo6(2, of: datagram, shard) }
      if controls.contains(.oldHopLimit6) { append(Level.ipv6, 8, Int32(datagram.timeToLive)) }
      if controls.contains(.originalDestination6) {
        let address = datagram.destination.address
        append(
          Level.ipv6, 74,
          (
            UInt16(Family.inet6), datagram.destination.port.bigEndian, UInt32(0), address.high.bigEndian,
            address.low.bigEndian, UInt32(0)
          ))
      }
    }

    func finish(_ message: UnsafeMutablePointer<msghdr>) {
      message.pointee.msg_controllen = numericCast(used)
      if isCut { message.pointee.msg_flags |= MessageFlag.controlTruncated }
    }
  }

  // MARK: Sending

  /// Reads what sendmsg's control data ask for. 0 or a negative errno.
  static func read(
    _ message: UnsafePointer<msghdr>, _ description: DescriptionPointer, _ wish: inout DatagramMessage
  ) -> Int {
    guard let base = message.pointee.msg_control else { return 0 }
    if anp_is_nowhere(base) != 0 { return -Errno.fault }
    let room = Int(message.pointee.msg_controllen)
    let toIPv6 = goesToIPv6(description, wish)
    var at = 0
    while room - at >= headerSize {
      let length = Int(truncatingIfNeeded: base.load(fromByteOffset: at, as: UInt.self))
      guard length >= headerSize, length <= room - at else { return -Errno.invalid }
      let level = base.load(fromByteOffset: at + 8, as: Int32.self)
      let type = base.load(fromByteOffset: at + 12, as: Int32.self)
      let data = UnsafeRawBufferPointer(start: base + at + headerSize, count: length - headerSize)
      let error: Int
      switch level {
      case Level.udp where description.pointee.datagramKind == .udp: error = readUDP(type, data, &wish)
      case Level.socket: error = isKnown(type) ? 0 : -Errno.invalid
      // What is for the other family says nothing of this datagram (ip6_datagram_send_ctl).
      case Level.ip: error = toIPv6 ? 0 : readIP(type, data, &wish)
      case Level.ipv6 where description.pointee.family == Family.inet6: error = readIPv6(type, data, &wish)
      default: error = 0
      }
      if error != 0 { return error }
      at += (length + 7) & ~7
    }
    return 0
  }

  private static func goesToIPv6(_ description: DescriptionPointer, _ wish: DatagramMessage) -> Bool {
    if description.pointee.family == Family.inet { return false }
    if let destination = wish.destination { return !destination.address.isIPv4 }
    var toIPv6 = true
    _ = withShard(description) { shard, _ throws(SocketError) in
      toIPv6 = try !shard.pointee.stack.remoteEndpoint(description.pointee.handle).address.isIPv4
      return 0
    }
    return toIPv6
  }

  /// SO_MARK is for the privileged; SO_TIMESTAMPING, SCM_RIGHTS, SCM_CREDENTIALS and SO_PRIORITY have no effect here.
  private static func isKnown(_ type: Int32) -> Bool {
    type == 37 || type == 65 || type == 1 || type == 2 || type == 12
  }

  private static func readUDP(_ type: Int32, _ data: UnsafeRawBufferPointer, _ wish: inout DatagramMessage) -> Int {
    guard type == 103, data.count == 2 else { return -Errno.invalid }
    wish.segmentSize = Int(data.loadUnaligned(as: UInt16.self))
    return 0
  }

  private static func readIP(_ type: Int32, _ data: UnsafeRawBufferPointer, _ wish: inout DatagramMessage) -> Int {
    switch type {
    case 8:  // IP_PKTINFO
      guard data.count == 12, let base = data.baseAddress else { return -Errno.invalid }
      wish.interface = Int(data.loadUnaligned(as: Int32.self))
      wish.source = IPAddress(IPv4Address(bits: base.bigEndian32(at: 4)))
    case 2:  // IP_TTL
      guard data.count == 4 else { return -Errno.invalid }
      let value = data.loadUnaligned(as: Int32.self)
      guard (1...255).contains(value) else { return -Errno.invalid }
      wish.timeToLive = Int(value)
    case 1:  // IP_TOS
      guard data.count == 4 || data.count == 1 else { return -Errno.invalid }
      let value = data.count == 4 ? data.loadUnaligned(as: Int32.self) : Int32(data[0])
      guard (0...255).contains(value) else { return -Errno.invalid }
      wish.typeOfService = Int(value)
    case 7: return 0  // IP_RETOPTS: options are not sent
    default: return -Errno.invalid
    }
    return 0
  }

  /// An IPv6 socket that sends to a mapped address (ip_cmsg_send with allow_ipv6; the rest is ip6_datagram_send_ctl's).
  private static func readIPv6(_ type: Int32, _ data: UnsafeRawBufferPointer, _ wish: inout DatagramMessage) -> Int {
    switch type {
    case 50, 2:  // IPV6_PKTINFO, IPV6_2292PKTINFO
      guard data.count >= 20, let base = data.baseAddress else { return -Errno.invalid }
      wish.interface = Int(data.loadUnaligned(fromByteOffset: 16, as: Int32.self))
      wish.source = IPAddress(reading16: base, at: 0)
    case 52, 8:  // IPV6_HOPLIMIT, IPV6_2292HOPLIMIT
      guard data.count == 4 else { return -Errno.invalid }
      let value = data.loadUnaligned(as: Int32.self)
      guard (-1...255).contains(value) else { return -Errno.invalid }
      wish.timeToLive = Int(value)
    case 67:  // IPV6_TCLASS
      guard data.count == 4 else { return -Errno.invalid }
      let value = data.loadUnaligned(as: Int32.self)
      guard (-1...255).contains(value) else { return -Errno.invalid }
      wish.typeOfService = Int(value)
    default: break
    }
    return 0
  }
}
