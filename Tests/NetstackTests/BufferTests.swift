// Packet buffers, queues of them, and their pool.

import Testing
import Wire

@testable import Netstack

@Suite("Packet buffer")
struct PacketBufferTests {
  private func fill(_ at: UnsafeMutableRawPointer, _ bytes: [UInt8]) {
    bytes.withUnsafeBytes { if let from = $0.baseAddress { at.copyMemory(from: from, byteCount: bytes.count) } }
  }

  @Test("reserve, put, push and pull move data and tail as drawn")
  func linear() {
    var pool = BufferPool()
    let packet = pool.allocate()!
    let room = packet.tailroom
    #expect(packet.count == 0 && packet.headroom == 0 && room == BufferPool.linearCapacity)
    packet.reserve(100)
    #expect(packet.count == 0 && packet.headroom == 100 && packet.tailroom == room - 100)
    fill(packet.put(4), [1, 2, 3, 4])
    fill(packet.push(2), [8, 9])
    #expect(contents(packet) == [8, 9, 1, 2, 3, 4] && packet.headroom == 98 && packet.linearCount == 6)
    packet.pull(3)
    #expect(contents(packet) == [2, 3, 4] && Array(packet.readable) == [2, 3, 4] && packet.headroom == 101)
    pool.release(packet)
  }

  @Test("A packet to send has room for Ethernet, IPv6 and a full TCP header")
  func transmitHeadroom() {
    var pool = BufferPool()
    let packet = pool.allocateForTransmit()!
    #expect(packet.headroom >= 14 + 40 + 60)
    #expect(packet.tailroom >= 1500, "and for the payload of a frame")
    pool.release(packet)
  }

  /// A packet of `linear` + two fragments, with its bytes.
  private func make(
    _ sizes: [Int], _ random: inout SeededRandom, _ memory: UnsafeMutableRawPointer, _ pool: inout BufferPool
  )
    -> (PacketBuffer, [UInt8])
  {
    let packet = pool.allocateForTransmit()!
    let bytes = (0..<sizes.reduce(0, +)).map { _ in UInt8(truncatingIfNeeded: random.next()) }
    fill(packet.put(sizes[0]), Array(bytes[..<sizes[0]]))
    var at = sizes[0]
    for size in sizes[1...] {
      fill(memory + at, Array(bytes[at..<at + size]))
      packet.addFragment(memory + at, size)
      at += size
    }
    return (packet, bytes)
  }

  @Test("copy, pull, trim and checksum see linear area and fragments as one run of bytes", arguments: 0..<150)
  func fragments(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 10_000, alignment: 64)
    defer { memory.deallocate() }
    let sizes = [random.below(200), random.below(300), random.below(300)]
    let (packet, bytes) = make(sizes, &random, memory, &pool)
    #expect(packet.count == bytes.count)
    #expect(contents(packet) == bytes)

    for _ in 0..<20 {
      let offset = random.below(bytes.count + 1)
      let length = random.below(bytes.count + 10)
      var out = [UInt8](repeating: 0, count: length)
      let n = out.withUnsafeMutableBytes { packet.copy(from: offset, to: $0) }
      #expect(n == min(length, bytes.count - offset))
      #expect(Array(out[..<n]) == Array(bytes[offset..<offset + n]))
    }

    let from = random.below(sizes[0] + 1)
    let sum = Checksum.fold(packet.checksum(from: from, 17))
    let flat = bytes[from...].withUnsafeBytes { Checksum.fold(Checksum.sum($0, 17)) }
    #expect(sum == flat, "seed \(seed): sizes \(sizes), from \(from)")

    let keep = random.below(bytes.count + 1)
    packet.trim(to: keep)
    #expect(contents(packet) == Array(bytes[..<keep]))
    let drop = random.below(keep + 1)
    packet.pull(drop)
    #expect(contents(packet) == Array(bytes[drop..<keep]))
    pool.release(packet)
  }

  @Test("An empty fragment is not added, nor a fourth")
  func fragmentLimit() {
    var pool = BufferPool()
    let memory = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 8)
    defer { memory.deallocate() }
    let packet = pool.allocate()!
    packet.addFragment(memory, 0)
    #expect(packet.storage.pointee.fragmentCount == 0)
    for _ in 0..<4 { packet.addFragment(memory, 8) }
    #expect(packet.storage.pointee.fragmentCount == 3 && packet.count == 24)
    pool.release(packet)
  }
}

@Suite("Packet queue")
struct PacketQueueTests {
  @Test("Against an array: append, prepend, insert, remove anywhere", arguments: 0..<30)
  func model(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    var queue = PacketQueue()
    var model: [PacketBuffer] = []
    for _ in 0..<1000 {
      switch random.below(6) {
      case 0:
        let packet = pool.allocate()!
        queue.append(packet)
        model.append(packet)
      case 1:
        let packet = pool.allocate()!
        queue.prepend(packet)
        model.insert(packet, at: 0)
      case 2 where !model.isEmpty:
        let at = random.below(model.count)
        let packet = pool.allocate()!
        queue.insert(packet, after: model[at])
        model.insert(packet, at: at + 1)
      case 3:
        let packet = queue.removeFirst()
        #expect(packet == model.first)
        if let packet {
          model.removeFirst()
          pool.release(packet)
        }
      case 4 where !model.isEmpty:
        let packet = model.remove(at: random.below(model.count))
        queue.remove(packet)
        #expect(packet.next == nil && packet.previous == nil)
        pool.release(packet)
      default: break
      }
      var forward: [PacketBuffer] = []
      var backward: [PacketBuffer] = []
      var at = queue.first
      while let packet = at {
        forward.append(packet)
        at = packet.next
      }
      at = queue.last
      while let packet = at {
        backward.append(packet)
        at = packet.previous
      }
      guard forward == model, backward == model.reversed() else {
        Issue.record("seed \(seed): the queue differs from the model")
        return
      }
      #expect(queue.count == model.count && queue.isEmpty == model.isEmpty)
    }
    pool.releaseAll(&queue)
    #expect(queue.isEmpty && queue.count == 0 && pool.outstanding == 0)
  }
}

@Suite("Buffer pool")
struct BufferPoolTests {
  @Test("Empty at its limit, usable again after a release; large buffers likewise")
  func limits() {
    var pool = BufferPool(maximum: 64, maximumLarge: 3)
    var packets: [PacketBuffer] = []
    while let packet = pool.allocate() { packets.append(packet) }
    #expect(packets.count == 64 && pool.outstanding == 64)
    for i in 0..<3 {
      let attached = pool.attachLarge(packets[i])
      #expect(attached)
    }
    let refused = pool.attachLarge(packets[3])
    #expect(!refused && pool.outstandingLarge == 3)
    let again = pool.attachLarge(packets[0])
    #expect(again && pool.outstandingLarge == 3, "a packet has one at most")
    pool.release(packets[0])
    #expect(pool.outstandingLarge == 2 && pool.outstanding == 63)
    let attached = pool.attachLarge(packets[3])
    #expect(attached)
    for packet in packets[1...] { pool.release(packet) }
    #expect(pool.outstanding == 0 && pool.outstandingLarge == 0)
  }

  @Test("As many large buffers are kept as were lately out at once; when fewer are needed the others are freed")
  func keeping() {
    var pool = BufferPool()
    func use(_ count: Int) {
      var packets: [PacketBuffer] = []
      for _ in 0..<count {
        let packet = pool.allocate()!
        let attached = pool.attachLarge(packet)
        #expect(attached)
        packets.append(packet)
      }
      for packet in packets { pool.release(packet) }
    }
    use(200)
    #expect(pool.idleLarge == 200)
    use(200)
    #expect(pool.idleLarge == 200, "none was made or freed")
    for _ in 0..<3 { for _ in 0..<4096 { use(1) } }
    #expect(pool.idleLarge == 64)
    use(2000)
    #expect(pool.idleLarge == 512)
  }

  @Test("A packet comes out of the pool as new, whatever was done to it before")
  func reset() {
    var pool = BufferPool()
    let packet = pool.allocateForTransmit()!
    packet.put(100)
    _ = pool.attachLarge(packet)
    packet.addFragment(packet.storage.pointee.large!, 1000)
    packet.storage.pointee.checksumState = .partial
    packet.storage.pointee.segmentationType = .tcpv4
    packet.storage.pointee.segmentSize = 1448
    packet.storage.pointee.flags = [.syn, .fin]
    packet.storage.pointee.pinnedBy = 5
    pool.release(packet)
    let again = pool.allocate()!
    #expect(again == packet, "the one released last is the warmest")
    #expect(again.count == 0 && again.headroom == 0 && again.storage.pointee.large == nil)
    #expect(again.storage.pointee.checksumState == .none && again.storage.pointee.segmentationType == .none)
    #expect(again.storage.pointee.segmentSize == 0 && again.storage.pointee.flags == [])
    #expect(again.storage.pointee.pinnedBy == 0 && again.next == nil && again.previous == nil)
    pool.release(again)
  }

  @Test("Buffers do not overlap")
  func disjoint() {
    var pool = BufferPool()
    var packets: [PacketBuffer] = []
    for i in 0..<200 {
      let packet = pool.allocate()!
      let room = packet.tailroom
      packet.put(room).initializeMemory(as: UInt8.self, repeating: UInt8(i), count: room)
      packets.append(packet)
    }
    for (i, packet) in packets.enumerated() {
      #expect(packet.readable.allSatisfy { $0 == UInt8(i) })
      #expect(packet.storage.pointee.fragmentCount == 0 && packet.storage.pointee.large == nil)
      pool.release(packet)
    }
  }
}
