import Wire

package struct Stack: ~Copyable {
  package var settings = Settings()                // changeable at any time
  package var statistics = Statistics()
  package var trace = TraceLog()                   // .filter to switch on
  package private(set) var device = DeviceCapabilities()
  package init(_ configuration: StackConfiguration, now: Instant) { fatalError("stub") }

  // Device side
  package mutating func allocateReceiveBuffer() -> PacketBuffer? { fatalError("stub") }
                                                                    // (packet.storage.pointee.large, BufferPool.largeSize bytes)
  package mutating func releaseReceiveBuffer(_ packet: PacketBuffer) { fatalError("stub") }
  /// A frame: shell has put() the first bytes in the linear area and, when there were more, addFragment(large, n);
  /// has set checksumState = .verified when the device vouches for it (virtio NEEDS_CSUM or DATA_VALID). Takes ownership.
  /// If no fragment is used the stack itself detaches the large buffer.
  package mutating func receive(_ packet: PacketBuffer, now: Instant) { fatalError("stub") }
  package mutating func finishBatch(now: Instant) { fatalError("stub") }
  package mutating func nextTransmit() -> PacketBuffer? { fatalError("stub") }
                                                                    // checksumOffset, segmentationType/segmentSize => virtio_net_hdr (hdr_len = linear count)
  package mutating func transmitted(_ packet: PacketBuffer) { fatalError("stub") }
  package func hasTransmit() -> Bool { fatalError("stub") }
  package func nextDeadline() -> Instant? { fatalError("stub") }
  package mutating func advance(to now: Instant) { fatalError("stub") }
  package mutating func nextChanged() -> (handle: SocketHandle, cookie: UInt32, events: Readiness)? { fatalError("stub") }
  package mutating func nextTraceEvent() -> TraceEvent? { fatalError("stub") }

  // Sockets. `cookie` comes back from nextChanged. Everything is non-blocking.
  package mutating func open(_ kind: SocketKind, cookie: UInt32, now: Instant) throws(SocketError) -> SocketHandle { fatalError("stub") }
  package mutating func setCookie(_ socket: SocketHandle, _ cookie: UInt32) { fatalError("stub") }
  /// The program's last close. Returns at once; a stream goes on in the background (FIN, retransmission, TIME-WAIT); SO_LINGER 0 or unread data sends RST.
  package mutating func close(_ socket: SocketHandle, now: Instant) { fatalError("stub") }
  /// True when nothing sent is unacknowledged (FIN included): for a lingering close.
  package func isDrained(_ socket: SocketHandle) -> Bool { fatalError("stub") }
  package mutating func bind(_ socket: SocketHandle, to: Endpoint, now: Instant) throws(SocketError) { fatalError("stub") }
  /// Stream: throws .inProgress at first, .alreadyInProgress while it goes on, .isConnected after; a failure is then the pending error
  /// (taken by takeError, or thrown by the next connect/send/receive). Datagram: sets the peer (unspecified address = disconnect).
  package mutating func connect(_ socket: SocketHandle, to: Endpoint, now: Instant) throws(SocketError) { fatalError("stub") }
  package mutating func listen(_ socket: SocketHandle, backlog: Int, now: Instant) throws(SocketError) { fatalError("stub") }
  package mutating func accept(_ socket: SocketHandle, cookie: UInt32, now: Instant) throws(SocketError) -> SocketHandle { fatalError("stub") }
  package mutating func shutdown(_ socket: SocketHandle, _ how: ShutdownHow, now: Instant) throws(SocketError) { fatalError("stub") }
  package mutating func send(_ socket: SocketHandle, _ bytes: UnsafeRawBufferPointer, flags: SendFlags, now: Instant) throws(SocketError) -> Int { fatalError("stub") }
  /// Bytes copied; 0 = end of stream (or an empty buffer). With .discard `into` may have a nil base: count says how many to drop.
  package mutating func receive(_ socket: SocketHandle, into: UnsafeMutableRawBufferPointer, flags: ReceiveFlags, now: Instant) throws(SocketError) -> Int { fatalError("stub") }
  package mutating func sendDatagram(_ socket: SocketHandle, _ bytes: UnsafeRawBufferPointer, to: Endpoint?, now: Instant) throws(SocketError) -> Int { fatalError("stub") }
  package mutating func receiveDatagram(_ socket: SocketHandle, into: UnsafeMutableRawBufferPointer, flags: ReceiveFlags, now: Instant) throws(SocketError) -> ReceivedDatagram { fatalError("stub") }
  package func readiness(_ socket: SocketHandle) -> Readiness { fatalError("stub") }
  package mutating func takeError(_ socket: SocketHandle) -> SocketError? { fatalError("stub") }
  package func localEndpoint(_ socket: SocketHandle) -> Endpoint { fatalError("stub") }
  package func remoteEndpoint(_ socket: SocketHandle) throws(SocketError) -> Endpoint { fatalError("stub") }
  package mutating func setOption(_ socket: SocketHandle, _ option: SocketOption, _ value: Int, now: Instant) throws(SocketError) { fatalError("stub") }
  package func option(_ socket: SocketHandle, _ option: SocketOption) throws(SocketError) -> Int { fatalError("stub") }
  package func information(_ socket: SocketHandle, now: Instant) -> TCPInfo { fatalError("stub") }
  package func unreadBytes(_ socket: SocketHandle) -> Int { fatalError("stub") }
  package func unsentBytes(_ socket: SocketHandle) -> Int { fatalError("stub") }
  package func isListening(_ socket: SocketHandle) -> Bool { fatalError("stub") }
  /// RSTs every connection (crash path of the keeper); afterwards only nextTransmit is of use.
  package mutating func abortAll(now: Instant) { fatalError("stub") }
  /// True while some closed-by-the-program or live stream still has unacknowledged data or FIN (keeper: drained when false). TIME-WAIT does not count.
  package func hasUnfinishedSends() -> Bool { fatalError("stub") }
  package func leakReport() -> (packets: Int, sockets: Int) { fatalError("stub") }
}
