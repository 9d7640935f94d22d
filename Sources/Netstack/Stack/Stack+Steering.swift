// Owns: packets that came in at the wrong one of several stacks with one address (Steering says which is the right one). A device
// with several queues learns from what is sent where a conversation belongs, but it does not know of a first segment, and
// forgets after a while. Such a packet waits in `strays`; the shell copies it to its owner, whose lock it must take for that:
//
//   receive(frame)* finishBatch() takeStrays()    at the stack that the frames came to
//   receiveStray()* finishBatch()                 at the owner of each; the packets stay the first stack's …
//   release()                                     … which gets them back
//
// The owner of a packet put together from fragments may be yet another, so there may be a second round, but no third.

import Synchronization
import Wire

extension Stack {
  /// `steeredTo` of what is for all others.
  package static var everyOther: Int { 255 }

  /// - Parameter isDelivered: it has been counted as delivered to a protocol.
  mutating func handOver(_ packet: PacketBuffer, to owner: Int, wasLinkBroadcast: Bool = false, isDelivered: Bool) {
    // The first stack's raw sockets have had it.
    if steering.index == 0 { packet.storage.pointee.rawTurn = .had }
    // The owner counts it.
    let isIPv6 = packet.linearCount > 0 && packet.readable[0] >> 4 == 6
    environment.pointee.statistics.count(isIPv6 ? .ip6InReceives : .ipInReceives, -1)
    if isDelivered { environment.pointee.statistics.count(isIPv6 ? .ip6InDelivers : .ipInDelivers, -1) }
    append(packet, owner, wasLinkBroadcast)
  }

  /// A neighbour discovery message, which starts at its ICMP header and remains the caller's.
  mutating func handOverCopyToAll(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    packet.push(ip.headerLength)
    if let twin = copy(packet) { append(twin, Self.everyOther, ip.wasLinkBroadcast) }
    packet.pull(ip.headerLength)
  }

  mutating func handOverToAll(_ packet: PacketBuffer, wasLinkBroadcast: Bool) {
    append(packet, Self.everyOther, wasLinkBroadcast)
  }

  private mutating func append(_ packet: PacketBuffer, _ owner: Int, _ wasLinkBroadcast: Bool) {
    environment.pointee.statistics.count(.rxSteered)
    packet.storage.pointee.steeredTo = UInt8(owner)
    packet.storage.pointee.wasLinkBroadcast = wasLinkBroadcast
    strays.append(packet)
  }

  /// What came in for other stacks since the last call.
  package mutating func takeStrays() -> PacketQueue {
    let taken = strays
    strays = PacketQueue()
    return taken
  }

  package mutating func release(_ queue: inout PacketQueue) { environment.pointee.pool.releaseAll(&queue) }

  /// Takes in a copy of another stack's stray: an IP packet, or an ARP or neighbour discovery packet that the other has answered.
  package mutating func receiveStray(_ stray: PacketBuffer, now: Instant) {
    let env = environment
    env.pointee.now = now
    guard let packet = copy(stray) else {
      env.pointee.statistics.count(.rxRingFull)
      return env.pointee.noteDrop(.noBuffer, .device)
    }
    let wasLinkBroadcast = stray.storage.pointee.wasLinkBroadcast
    // An ARP packet begins with a hardware type, 0 or 1 in its first octet's high half.
    switch packet.linearCount > 0 ? packet.readable[0] >> 4 : 0 {
    case 4: receiveIPv4(packet, wasLinkBroadcast: wasLinkBroadcast)
    case 6:
      let overheard = stray.storage.pointee.steeredTo == UInt8(Self.everyOther)
      receiveIPv6(packet, wasLinkBroadcast: wasLinkBroadcast, overheard: overheard)
    default: overhearARP(packet, wasLinkBroadcast: wasLinkBroadcast)
    }
  }

  private mutating func copy(_ stray: PacketBuffer) -> PacketBuffer? {
    guard let packet = allocateReceiveBuffer() else { return nil }
    let count = stray.count
    let linear = min(count, packet.tailroom)
    _ = stray.copy(from: 0, to: UnsafeMutableRawBufferPointer(start: packet.put(linear), count: linear))
    if linear < count {
      guard count - linear <= BufferPool.largeSize, let large = packet.storage.pointee.large else {
        environment.pointee.pool.release(packet)
        return nil
      }
      _ = stray.copy(from: linear, to: UnsafeMutableRawBufferPointer(start: large, count: count - linear))
      packet.addFragment(large, count - linear)
    } else {
      environment.pointee.pool.detachLarge(packet)
    }
    packet.storage.pointee.checksumState = stray.storage.pointee.checksumState
    packet.storage.pointee.segmentationType = stray.storage.pointee.segmentationType
    packet.storage.pointee.segmentSize = stray.storage.pointee.segmentSize
    packet.storage.pointee.time = stray.storage.pointee.time
    packet.storage.pointee.isLooped = stray.storage.pointee.isLooped
    packet.storage.pointee.rawTurn = stray.storage.pointee.rawTurn
    return packet
  }

  /// Whose an ICMP error is: that of the conversation which it quotes.
  func owner(of error: ICMPError) -> Int {
    error.proto == IPProtocol.tcp ? steering.owner(of: error.quoted) : 0
  }

  // MARK: Raw sockets, which are in the first stack

  /// Brings the first stack a copy of a packet that stays here, where a raw socket may want it, or hear of the error that it is.
  /// True where one listens to its protocol.
  /// - Parameter start: where its IP header is, counted as `data` is.
  @discardableResult
  mutating func offerToRaw(_ packet: PacketBuffer, _ ip: IPPacketInfo, start: Int) -> Bool {
    guard steering.index != 0, let wanted = rawProtocolSet, !wanted.pointee.isEmpty,
      packet.storage.pointee.rawTurn == .open
    else { return false }
    let isListening = wanted.pointee.contains(ip.proto)
    guard isListening || ip.proto == IPProtocol.icmp || ip.proto == IPProtocol.icmpv6 else { return false }
    packet.storage.pointee.rawTurn = .had
    let data = packet.storage.pointee.data
    packet.storage.pointee.data = start
    if let twin = copy(packet) {
      twin.storage.pointee.rawTurn = .only
      twin.storage.pointee.steeredTo = 0
      twin.storage.pointee.wasLinkBroadcast = ip.wasLinkBroadcast
      strays.append(twin)
    }
    packet.storage.pointee.data = data
    return isListening
  }

  /// The first stack's side of it. `packet` starts at the IP header; the other stack has counted it.
  mutating func deliverToRawAlone(_ packet: PacketBuffer, _ ip: IPPacketInfo) {
    let env = environment
    let isIPv4 = ip.source.isIPv4
    env.pointee.statistics.count(isIPv4 ? .ipInReceives : .ip6InReceives, -1)
    env.pointee.statistics.count(isIPv4 ? .ipInDelivers : .ip6InDelivers, -1)
    _ = deliverToRaw(packet, ip)
    packet.pull(ip.headerLength)
    // Errors are offered once they have been found sound.
    let error =
      ip.proto == IPProtocol.icmp && isIPv4
      ? ICMPError(v4: packet.readable)
      : ip.proto == IPProtocol.icmpv6 && !isIPv4 ? ICMPError(v6: packet.readable) : nil
    if let error, owns(error.quoted.local.address) { errorArrives(error, in: packet, ip) }
    env.pointee.pool.release(packet)
  }

  // MARK: Sockets that are in all stacks

  /// A new stream socket with everything that the program has set on the one that is `like`, but no port.
  package mutating func open(like: StreamLikeness, cookie: UInt32, now: Instant) throws(SocketError) -> SocketHandle {
    environment.pointee.now = now
    guard let tcb = makeTCB(cookie: cookie, isOpen: true) else { throw .outOfMemory }
    tcb.pointee.setFamily(isIPv6: like.isIPv6)
    tcb.pointee.options = like.options
    tcb.pointee.congestion.use(like.options.congestion)
    tcb.pointee.receiveSpace = like.receiveSpace
    tcb.pointee.rcv.shift = like.windowShift
    tcb.pointee.interactive = like.interactive
    tcb.pointee.advertisedSegment = like.advertisedSegment
    return SocketHandle(.stream, tcbs.handle(at: tcb.pointee.index))
  }

  package func likeness(of socket: SocketHandle) throws(SocketError) -> StreamLikeness {
    let tcb = try stream(socket)
    return StreamLikeness(
      isIPv6: tcb.pointee.isIPv6, options: tcb.pointee.options, receiveSpace: tcb.pointee.receiveSpace,
      windowShift: tcb.pointee.rcv.shift,
      interactive: tcb.pointee.interactive, advertisedSegment: tcb.pointee.advertisedSegment)
  }

  /// Undoes a bind that was not possible in another stack.
  package mutating func unbind(_ socket: SocketHandle) {
    guard let tcb = tcbs.pointer(socket.slot), tcb.pointee.state == .closed else { return }
    demux.releasePort(tcb, in: tcbs)
    tcb.pointee.isBound = false
    tcb.pointee.boundAddress = tcb.pointee.anyAddress
    tcb.pointee.tuple.local = Endpoint(tcb.pointee.anyAddress, 0)
  }

  /// A listener that is in several stacks counts what waits for it in `queue`, together with the others.
  package mutating func join(_ socket: SocketHandle, _ queue: ListenQueuePointer) {
    guard let tcb = tcbs.pointer(socket.slot), tcb.pointee.listenQueue == nil else { return }
    tcb.pointee.listenQueue = queue
    queue.pointee.accepted.add(tcb.pointee.acceptCount, ordering: .sequentiallyConsistent)
    queue.pointee.handshakes.add(tcb.pointee.synCount, ordering: .relaxed)
  }

  /// Neither connected nor about to be, and no error waits to be told.
  package func isIdle(_ socket: SocketHandle) -> Bool {
    guard let tcb = tcbs.pointer(socket.slot) else { return false }
    return tcb.pointee.state == .closed && tcb.pointee.error == nil
  }

  package func isUnconnected(_ socket: SocketHandle) -> Bool {
    guard let tcb = tcbs.pointer(socket.slot) else { return false }
    return tcb.pointee.state == .closed || tcb.pointee.state == .listen
  }

  package func hasPort(_ socket: SocketHandle) -> Bool { tcbs.pointer(socket.slot)?.pointee.isInPortTable ?? false }

  /// The stack that a connection of `socket` to `remote` belongs to; nil where there is no way.
  package func owner(of socket: SocketHandle, connectedTo remote: Endpoint, now: Instant) -> Int? {
    guard let tcb = tcbs.pointer(socket.slot), let route = decide(remote.address, now: now) else { return nil }
    var local = tcb.pointee.tuple.local
    if local.address.isUnspecified { local.address = route.source }
    return steering.owner(of: FourTuple(local: local, remote: remote))
  }
}

/// What a program has chosen for a stream socket.
package struct StreamLikeness {
  let isIPv6: Bool
  let options: StreamOptions
  let receiveSpace: Int
  let windowShift: UInt8
  let interactive: Bool
  let advertisedSegment: Int
}
