// Owns: what a datagram socket's error queue holds: what was wrong, who says so, and the beginning of the datagram that it was wrong
// with. Read first: ip(7) on IP_RECVERR; Linux's ip_icmp_error, ip_local_error and sock_dequeue_err_skb.
//
//   PacketBuffer of an error    head │ ErrorRecord │ … │ the datagram's payload, as far as the ICMP message quotes it │
//                                                      data                                                         tail
//   `source` of the packet: where the datagram had been sent to; `time`, `timeToLive`, `typeOfService`: of the ICMP message

import Wire

/// sock_extended_err, with the address behind it.
package struct ErrorRecord: Sendable {
  package enum Origin: UInt8, Sendable { case local = 1, icmp = 2, icmp6 = 3 }
  package var error: SocketError
  package var origin: Origin
  package var type: UInt8
  package var code: UInt8
  /// The MTU of EMSGSIZE.
  package var information: UInt32
  /// Who sent the ICMP message; meaningful unless `origin` is `.local`.
  package var offender: IPAddress

  package init(
    _ error: SocketError, _ origin: Origin, type: UInt8 = 0, code: UInt8 = 0, information: UInt32 = 0,
    offender: IPAddress = .anyIPv4
  ) {
    self.error = error
    self.origin = origin
    self.type = type
    self.code = code
    self.information = information
    self.offender = offender
  }
}

/// One error as recvmsg with MSG_ERRQUEUE reads it.
package struct ReceivedError {
  package var record: ErrorRecord
  package var datagram: ReceivedDatagram
}

extension DatagramSocketState {
  /// Room for the record in front of the payload, bytes.
  private static var recordSpace: Int { 64 }

  /// An error with `packet`'s bytes from `offset` on; without effect where the socket's memory is used up. `ours`: the address that
  /// was told of it.
  mutating func appendError(
    _ record: ErrorRecord, about destination: Endpoint, at ours: IPAddress, _ packet: PacketBuffer?, from offset: Int,
    time: Instant, pool: inout BufferPool
  ) {
    guard queuedMemory + BufferPool.smallSize <= receiveBuffer, let note = pool.allocate() else { return }
    note.base.bindMemory(to: ErrorRecord.self, capacity: 1).initialize(to: record)
    note.reserve(Self.recordSpace)
    if let packet, packet.count > offset {
      let length = min(packet.count - offset, note.tailroom)
      _ = packet.copy(from: offset, to: UnsafeMutableRawBufferPointer(start: note.put(length), count: length))
      note.storage.pointee.timeToLive = packet.storage.pointee.timeToLive
      note.storage.pointee.typeOfService = packet.storage.pointee.typeOfService
    }
    note.storage.pointee.source = destination
    note.storage.pointee.destination = Endpoint(ours, local.port)
    note.storage.pointee.time = time
    note.storage.pointee.charge = UInt32(BufferPool.smallSize)
    queuedMemory += BufferPool.smallSize
    errors.append(note)
  }

  /// The oldest error; what SO_ERROR says from then on is the next one's (sock_dequeue_err_skb).
  mutating func takeError(
    into destination: UnsafeMutableRawBufferPointer, pool: inout BufferPool
  ) -> ReceivedError? {
    guard let note = errors.removeFirst() else { return nil }
    let record = Self.record(of: note)
    let length = note.count
    let copied = note.copy(
      from: 0,
      to: UnsafeMutableRawBufferPointer(start: destination.baseAddress, count: min(destination.count, length)))
    let datagram = ReceivedDatagram(copied: copied, length: length, note, controls: controls)
    queuedMemory -= Int(note.storage.pointee.charge)
    pool.release(note)
    if let next = errors.first, Self.record(of: next).origin != .local {
      error = Self.record(of: next).error
    } else if record.origin != .local {
      error = nil
    }
    return ReceivedError(record: record, datagram: datagram)
  }

  /// IP_RECVERR was turned off.
  mutating func forgetErrors(pool: inout BufferPool) {
    while let note = errors.removeFirst() {
      queuedMemory -= Int(note.storage.pointee.charge)
      pool.release(note)
    }
  }

  private static func record(of note: PacketBuffer) -> ErrorRecord {
    note.storage.pointee.head.assumingMemoryBound(to: ErrorRecord.self).pointee
  }
}
