// Owns: SEGMENT ARRIVES in LISTEN, and the birth of a connection in SYN-RECEIVED. Read first: RFC 9293 §3.10.7.2.

import Wire

/// What a listener says to a segment.
enum ListenVerdict {
  /// Make a connection in SYN-RECEIVED.
  case open
  case reset
  case drop(DropReason)
}

extension TransmissionControlBlock {
  func listenSegmentArrives(_ segment: Segment) -> ListenVerdict {
    let flags = segment.flags
    if flags.contains(.rst) { return .drop(.tcpInvalidReset) }
    if flags.contains(.ack) { return .reset }
    guard flags.contains(.syn), !flags.contains(.fin) else { return .drop(.tcpInvalidFlags) }
    return .open
  }

  /// Makes this fresh record the connection that `segment`, a SYN, asked `listener` for.
  mutating func open(from segment: Segment, listener: TCBPointer, iss: SequenceNumber, _ env: EnvironmentPointer) {
    options = listener.pointee.options
    // Linger, cork and the like are inherited; what the listener measured is not.
    receiveSpace = listener.pointee.receiveSpace
    rcv.shift = listener.pointee.rcv.shift
    advertisedSegment = listener.pointee.advertisedSegment
    snd.iss = iss
    snd.una = iss
    snd.nxt = iss
    snd.bufferStart = iss + 1
    snd.smallEnd = iss
    takePeersSyn(segment, env)
    snd.wnd = Int(segment.header.window)
    snd.wl1 = segment.sequence
    snd.wl2 = iss
    enter(.synReceived, env)
    lastSentAt = env.pointee.now
    work.insert(.syn)
  }
}
