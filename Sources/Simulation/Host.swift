// Owns: one simulated machine: a stack, the device under it, and the programs on it. It drives the stack only by what the
// preload's shell uses: receive, finishBatch, takeStrays, advance, nextTransmit, nextChanged.
//
// A machine whose device has several queues is as many hosts, one for each stack, that share a name, an address and a link. A
// frame comes in at any of them by chance: worse than any device.

import Glibc
import Netstack
import Wire

/// A program: told when one of its sockets changed, and when a time that it asked for has come.
package protocol Program: AnyObject {
  func ready(_ socket: SocketHandle, _ events: Readiness, on host: Host)
  func timer(on host: Host)
}

package struct DeviceConditions: Sendable {
  /// How long the device takes before it has read a frame's bytes, at most: they must not change meanwhile.
  package var readDelay = Interval.zero
  /// Frames that arrive within this time after the first are received as one batch (interrupt moderation).
  package var interruptDelay = Interval.zero
  /// Super-frames go over the link whole, as between a TAP device and its kernel, instead of being cut.
  package var passesSuperFrames = false
  package init() {}
}

package final class Host {
  package let name: String
  package var stack: Stack
  package let address: IPv4Address
  package let deviceConditions: DeviceConditions
  package unowned let world: World
  package var now: Instant { world.now }

  /// Programs by the cookie of their sockets.
  private var programs: [UInt32: any Program] = [:]
  private var nextCookie: UInt32 = 1
  private var random: SeededRandom
  /// Frames that came in and wait for the next poll.
  private var inbox: [Frame] = []
  private var pollAt: Instant?
  /// Frames the device has not read yet, oldest first, with what they held when they were handed over.
  private var reading: [(packet: PacketBuffer, copy: [UInt8], until: Instant)] = []
  /// Frames lost because the stack had no buffer for them.
  package private(set) var ringDrops = 0
  package private(set) var corruptedReceived = 0
  /// The hosts of the device's other queues; theirs is empty.
  private var otherQueues: [Host] = []
  private weak var firstQueue: Host?
  /// The host of the first queue, which stands for all.
  package var machine: Host { firstQueue ?? self }
  /// All queues of a machine.
  package var queues: [Host] { [self] + otherQueues }

  package init(
    _ name: String, _ configuration: StackConfiguration, device: DeviceConditions, seed: UInt64, world: World
  ) {
    self.name = name
    address = configuration.address
    deviceConditions = device
    self.world = world
    random = SeededRandom(seed: seed)
    stack = Stack(configuration, now: world.now)
  }

  /// A machine with `configuration.stackCount` queues.
  package static func machine(
    _ name: String, _ configuration: StackConfiguration, device: DeviceConditions, seed: UInt64, world: World
  ) -> Host {
    let first = Host(name, configuration, device: device, seed: seed, world: world)
    for index in 1..<max(configuration.stackCount, 1) {
      var other = configuration
      other.stackIndex = index
      other.seed = configuration.seed &+ UInt64(index)
      let host = Host(name, other, device: device, seed: seed &+ UInt64(index), world: world)
      host.firstQueue = first
      first.otherQueues.append(host)
    }
    return first
  }

  /// The queue that a connection belongs to.
  package func queue(for tuple: FourTuple) -> Host { queues[stack.steering.owner(of: tuple)] }

  // MARK: Programs

  /// A cookie under which `program` hears of its sockets.
  package func register(_ program: any Program) -> UInt32 {
    let cookie = nextCookie
    nextCookie += 1
    programs[cookie] = program
    return cookie
  }

  package func forget(_ cookie: UInt32) { programs[cookie] = nil }

  package func wake(_ program: any Program, at instant: Instant) {
    world.schedule(.program(self, program), at: instant)
  }

  // MARK: Frames in

  func arrive(_ frame: Frame) {
    if otherQueues.isEmpty { enqueue(frame) } else { queues[random.below(queues.count)].enqueue(frame) }
  }

  private func enqueue(_ frame: Frame) {
    inbox.append(frame)
    guard pollAt == nil else { return }
    let at = now + deviceConditions.interruptDelay
    pollAt = at
    world.schedule(.poll(self), at: at)
  }

  func poll() {
    pollAt = nil
    let frames = inbox
    inbox.removeAll(keepingCapacity: true)
    for frame in frames {
      world.observer?.received(frame, by: machine)
      if frame.isCorrupted { corruptedReceived += 1 }
      receive(frame)
    }
    stack.finishBatch(now: now)
    deliverStrays()
    service()
  }

  /// What came in here for the other queues' stacks.
  private func deliverStrays() {
    var strays = stack.takeStrays()
    if strays.isEmpty { return }
    for other in machine.queues where other !== self {
      var next = strays.first
      while let packet = next {
        next = packet.next
        let owner = Int(packet.storage.pointee.steeredTo)
        if owner == Stack.everyOther || owner == other.stack.steering.index {
          other.stack.receiveStray(packet, now: now)
        }
      }
      other.stack.finishBatch(now: now)
      other.deliverStrays()
      other.service()
    }
    stack.release(&strays)
  }

  private func receive(_ frame: Frame) {
    guard let packet = stack.allocateReceiveBuffer(), let large = packet.storage.pointee.large else {
      ringDrops += 1
      return
    }
    frame.bytes.withUnsafeBytes { bytes in
      // As readv into a small and a large buffer leaves it.
      let linear = min(bytes.count, packet.tailroom)
      memcpy(packet.put(linear), bytes.baseAddress!, linear)
      if linear < bytes.count {
        memcpy(large, bytes.baseAddress! + linear, bytes.count - linear)
        packet.addFragment(large, bytes.count - linear)
      }
    }
    if frame.isVerified { packet.storage.pointee.checksumState = .verified }
    packet.storage.pointee.segmentSize = frame.segmentSize
    stack.receive(packet, now: now)
  }

  // MARK: What the stack wants done

  /// After anything that touched the stack: frames out, news to the programs, until nothing is left.
  package func service() {
    var again = true
    while again {
      again = false
      while let packet = stack.nextTransmit() {
        transmit(packet)
        again = true
      }
      while let changed = stack.nextChanged() {
        programs[changed.cookie]?.ready(changed.handle, changed.events, on: self)
        again = true
      }
    }
    while let event = stack.nextTraceEvent() { world.observer?.noted(event, by: machine) }
    world.rearm(self)
  }

  private func transmit(_ packet: PacketBuffer) {
    let copy = flatten(packet)
    guard deviceConditions.readDelay > .zero else {
      stack.transmitted(packet)
      return
    }
    let delay = Interval(nanoseconds: Int64(random.next() % UInt64(deviceConditions.readDelay.nanoseconds + 1)))
    // The device reads in order.
    let until = max(now + delay, reading.last?.until ?? now)
    reading.append((packet, copy, until))
    world.schedule(.deviceRead(self), at: until)
  }

  /// The device has read the oldest frame: it must hold what it held when it was handed over.
  func deviceRead() {
    let frame = reading.removeFirst()
    if Self.bytes(frame.packet) != frame.copy { world.fail("\(name): a frame changed while the device read it") }
    stack.transmitted(frame.packet)
    service()
  }

  private static func bytes(_ packet: PacketBuffer) -> [UInt8] {
    let count = packet.count
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
      _ = packet.copy(from: 0, to: UnsafeMutableRawBufferPointer(buffer))
      initialized = count
    }
  }

  /// What the device would put on the wire, on its way. Returns the bytes as they were handed over.
  private func flatten(_ packet: PacketBuffer) -> [UInt8] {
    let bytes = Self.bytes(packet)
    let storage = packet.storage.pointee
    guard storage.checksumState == .partial else {
      put(Frame(bytes: bytes))
      return bytes
    }
    let start = Int(storage.checksumStart)
    let offset = Int(storage.checksumOffset)
    if deviceConditions.passesSuperFrames, bytes.count <= start - 20 + 65535 {
      var frame = Frame(bytes: bytes)
      frame.isVerified = true
      frame.segmentSize = storage.segmentSize
      put(frame)
    } else if storage.segmentationType == .tcpv4 || storage.segmentationType == .tcpv6 {
      let isIPv6 = storage.segmentationType == .tcpv6
      for segment in Offload.segment(bytes, transport: start, size: Int(storage.segmentSize), isIPv6: isIPv6) {
        put(Frame(bytes: segment))
      }
    } else {
      var complete = bytes
      Offload.completeChecksum(&complete, start: start, offset: offset)
      put(Frame(bytes: complete))
    }
    return bytes
  }

  private func put(_ frame: Frame) {
    world.observer?.sent(frame, by: machine)
    world.carry(frame, from: machine)
  }

  // MARK: Time

  package var nextDeadline: Instant? { stack.nextDeadline() }

  func advance() {
    stack.advance(to: now)
    service()
  }
}

/// What a network card does for the stack: checksums and segmentation. Written apart from the stack's own code on purpose.
enum Offload {
  /// Fills in a checksum whose field holds the pseudo-header's sum.
  static func completeChecksum(_ bytes: inout [UInt8], start: Int, offset: Int) {
    var sum = 0
    var at = start
    while at < bytes.count {
      sum += Int(bytes[at]) << 8 + (at + 1 < bytes.count ? Int(bytes[at + 1]) : 0)
      at += 2
    }
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    let complement = UInt16(truncatingIfNeeded: ~sum)
    bytes[start + offset] = UInt8(complement >> 8)
    bytes[start + offset + 1] = UInt8(complement & 0xff)
  }

  /// Cuts a TCP super-frame into segments of `size` payload bytes (as Linux's tcp_gso_segment).
  static func segment(_ bytes: [UInt8], transport: Int, size: Int, isIPv6: Bool) -> [[UInt8]] {
    let ip = transport - (isIPv6 ? 40 : 20)
    let headers = transport + Int(bytes[transport + 12] >> 4) * 4
    let payload = bytes.count - headers
    let firstSequence =
      UInt32(bytes[transport + 4]) << 24 | UInt32(bytes[transport + 5]) << 16
      | UInt32(bytes[transport + 6]) << 8 | UInt32(bytes[transport + 7])
    let firstIdentification = UInt16(bytes[ip + 4]) << 8 | UInt16(bytes[ip + 5])
    var segments: [[UInt8]] = []
    var offset = 0
    while offset < payload {
      let length = min(size, payload - offset)
      var segment = Array(bytes[..<headers]) + bytes[(headers + offset)..<(headers + offset + length)]
      let total = segment.count - ip
      if isIPv6 {
        store16(UInt16(total - 40), in: &segment, at: ip + 4)
      } else {
        store16(UInt16(total), in: &segment, at: ip + 2)
        store16(firstIdentification &+ UInt16(segments.count), in: &segment, at: ip + 4)
        store16(0, in: &segment, at: ip + 10)
        store16(~fold(sum(segment[ip..<transport])), in: &segment, at: ip + 10)
      }
      let sequence = firstSequence &+ UInt32(offset)
      store16(UInt16(sequence >> 16), in: &segment, at: transport + 4)
      store16(UInt16(sequence & 0xffff), in: &segment, at: transport + 6)
      // FIN and PSH belong to the last, CWR to the first.
      if offset + length < payload { segment[transport + 13] &= ~0x09 }
      if offset > 0 { segment[transport + 13] &= ~0x80 }
      let addresses = isIPv6 ? segment[(ip + 8)..<(ip + 40)] : segment[(ip + 12)..<(ip + 20)]
      let pseudo = sum(addresses) + 6 + segment.count - transport
      store16(0, in: &segment, at: transport + 16)
      store16(~fold(pseudo + sum(segment[transport...])), in: &segment, at: transport + 16)
      segments.append(segment)
      offset += length
    }
    return segments
  }

  private static func store16(_ value: UInt16, in bytes: inout [UInt8], at offset: Int) {
    bytes[offset] = UInt8(value >> 8)
    bytes[offset + 1] = UInt8(value & 0xff)
  }

  private static func sum(_ bytes: ArraySlice<UInt8>) -> Int {
    var sum = 0
    var high = true
    for byte in bytes {
      sum += high ? Int(byte) << 8 : Int(byte)
      high.toggle()
    }
    return sum
  }

  private static func fold(_ sum: Int) -> UInt16 {
    var sum = sum
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    return UInt16(sum)
  }
}
