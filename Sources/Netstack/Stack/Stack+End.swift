// Owns: what becomes of the connections when the program ends, normally or not. The shell's keeper calls these after the last
// thread of the program is gone. Read first: RFC 9293 §3.10.5 (CLOSE), §3.5.2 (reset generation).

import Wire

extension Stack {
  /// Closes every stream the program still has open, and leaves its groups: what a kernel does with the descriptors of a process
  /// that ends.
  package mutating func closeAll(now: Instant) {
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      guard tcbs.pointer(at: used).pointee.isOpen else { continue }
      close(SocketHandle(.stream, tcbs.handle(at: used)), now: now)
    }
    leaveEveryGroup(now: now)
  }

  /// The longest SO_LINGER time among connections that are still bringing something over, in seconds; nil where none has one.
  package func longestLinger() -> Int? {
    var longest: Int?
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let seconds = tcbs.pointer(at: used).pointee.options.linger
      if seconds > 0 { longest = max(longest ?? 0, seconds) }
    }
    return longest
  }

  /// Bytes in send buffers that no peer has acknowledged yet.
  package func unacknowledgedBytes() -> Int {
    var bytes = 0
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      bytes += tcbs.pointer(at: used).pointee.sendBuffer.count
    }
    return bytes
  }

  /// True while some peer has acknowledged our FIN and not yet sent its own (FIN-WAIT-2): it usually comes at once.
  package func awaitsGoodbye() -> Bool {
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      if tcbs.pointer(at: used).pointee.state == .finWait2 { return true }
    }
    return false
  }

  /// For a stack that a thread left in the middle of a change: writes a complete Ethernet frame that resets the next
  /// connection at or after `index`, which moves on. Changes nothing and follows no list of connections; reads a few words of
  /// each. Frames of connections whose next hop is not resolved are skipped. Returns its length; nil at the end, or where
  /// `frame` is shorter than 74 bytes.
  package func resetFrame(after index: inout UInt32, into frame: UnsafeMutableRawBufferPointer) -> Int? {
    let ethernet = device.linkType == .ethernet ? EthernetHeader.length : 0
    guard let base = frame.baseAddress, frame.count >= ethernet + IPv6Header.length + TCPHeader.minimumLength else {
      return nil
    }
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let tcb = tcbs.pointer(at: used)
      guard tcb.pointee.state.isSynchronized else { continue }
      let isIPv4 = tcb.pointee.tuple.remote.address.isIPv4
      if device.linkType == .ethernet {
        guard let hardware = neighbors.lookup(tcb.pointee.nextHop) else { continue }
        EthernetHeader(
          destination: hardware, source: device.hardwareAddress, etherType: isIPv4 ? EtherType.ipv4 : EtherType.ipv6
        )
        .write(to: base)
      }
      let tuple = tcb.pointee.tuple
      if isIPv4 {
        IPv4Header(
          proto: IPProtocol.tcp, source: tuple.local.address.v4, destination: tuple.remote.address.v4,
          payloadLength: TCPHeader.minimumLength, flags: IPv4Header.flagDontFragment
        ).write(to: base + ethernet)
      } else {
        IPv6Header(
          nextHeader: IPProtocol.tcp, source: tuple.local.address, destination: tuple.remote.address,
          payloadLength: TCPHeader.minimumLength
        ).write(to: base + ethernet)
      }
      let tcp = base + ethernet + (isIPv4 ? IPv4Header.minimumLength : IPv6Header.length)
      TCPHeader(
        sourcePort: tuple.local.port, destinationPort: tuple.remote.port, sequence: tcb.pointee.snd.nxt,
        acknowledgment: tcb.pointee.rcv.nxt, headerLength: TCPHeader.minimumLength, flags: [.rst, .ack], window: 0
      ).write(to: tcp)
      let pseudo = Checksum.pseudoHeader(
        source: tuple.local.address, destination: tuple.remote.address, proto: IPProtocol.tcp,
        length: TCPHeader.minimumLength)
      let sum = Checksum.sum(UnsafeRawBufferPointer(start: tcp, count: TCPHeader.minimumLength), pseudo)
      tcp.storeBigEndian16(~Checksum.fold(sum), at: TCPHeader.checksumOffset)
      return tcp + TCPHeader.minimumLength - base
    }
    return nil
  }
}
