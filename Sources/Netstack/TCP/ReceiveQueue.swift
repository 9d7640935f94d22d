// Owns: what the peer has sent: the bytes in order that wait for the program, and the segments that came too early. Packets
// are queued as they were received, not copied; small ones are merged into the tail of the one before (coalescing).
// Read first: RFC 9293 §3.10.7.4 "Seventh, process the segment text", RFC 2018 §4 (which SACK blocks to report first).

import Wire

struct ReceiveQueue {
  /// In order, each pulled to what is still unread.
  private(set) var ready = PacketQueue()
  /// Unread bytes in order.
  private(set) var readyBytes = 0
  /// Out of order, by sequence, not overlapping.
  private(set) var early = PacketQueue()
  /// Memory of everything queued (truesize), bytes.
  private(set) var memory = 0
  private(set) var earlyMemory = 0
  /// The out-of-order runs, the most recently changed first (RFC 2018 §4).
  private(set) var blocks = SACKBlocks()

  init() {}

  var isEmpty: Bool { readyBytes == 0 }
  var hasEarly: Bool { !early.isEmpty }

  /// Queues a packet whose payload is the next in order. True when the queue took it, false when its bytes were merged and the
  /// packet is free again.
  @inline(__always)
  mutating func appendInOrder(_ packet: PacketBuffer, length: Int, _ pool: inout BufferPool) {
    readyBytes &+= length
    if let last = ready.last, coalesce(packet, length, into: last) {
      pool.release(packet)
      return
    }
    memory &+= packet.truesize
    ready.append(packet)
  }

  /// Copies a small packet's payload into the room behind the last one's.
  private func coalesce(_ packet: PacketBuffer, _ length: Int, into last: PacketBuffer) -> Bool {
    let storage = last.storage
    if storage.pointee.fragmentCount == 0 {
      guard length <= last.tailroom, last.linearCount > 0 else { return false }
      _ = packet.copy(from: 0, to: UnsafeMutableRawBufferPointer(start: last.put(length), count: length))
      return true
    }
    guard length <= 16384, storage.pointee.fragmentCount == 1, let large = storage.pointee.large,
      let base = storage.pointee.fragments[0].base
    else { return false }
    let used = base + storage.pointee.fragments[0].length - large
    guard used + length <= BufferPool.largeSize else { return false }
    _ = packet.copy(from: 0, to: UnsafeMutableRawBufferPointer(start: large + used, count: length))
    storage.pointee.fragments[0].length += length
    return true
  }

  /// Copies up to `destination.count` bytes out, or drops as many when `destination` has no memory.
  mutating func read(
    _ destination: UnsafeMutableRawBufferPointer, peek: Bool, drop: Bool = false, _ pool: inout BufferPool
  ) -> Int {
    var done = 0
    let wanted = min(destination.count, readyBytes)
    var packet = ready.first
    while done < wanted, let current = packet {
      let length = current.count
      let n = min(length, wanted - done)
      if !drop, let base = destination.baseAddress {
        _ = current.copy(from: 0, to: UnsafeMutableRawBufferPointer(start: base + done, count: n))
      }
      done += n
      packet = current.next
      if peek { continue }
      if n == length {
        ready.remove(current)
        memory &-= current.truesize
        pool.release(current)
      } else {
        current.pull(n)
      }
    }
    if !peek { readyBytes -= done }
    return done
  }

  /// What became of a segment that came too early.
  enum Insertion { case queued, duplicate }

  /// Files a segment (its payload trimmed to the window) among the early ones. Where it overlaps what is there, the new
  /// bytes give way; a packet that brings nothing new is for the caller to release.
  mutating func insertEarly(_ packet: PacketBuffer, _ pool: inout BufferPool) -> Insertion {
    var start = packet.storage.pointee.sequence
    var end = packet.storage.pointee.endSequence
    // From the back: the usual early segment is the newest.
    var before = early.last
    while let b = before, b.storage.pointee.sequence > start { before = b.previous }
    if let b = before, b.storage.pointee.endSequence > start {
      let covered = b.storage.pointee.endSequence
      if covered >= end { return .duplicate }
      packet.pull(covered - start)
      start = covered
      packet.storage.pointee.sequence = start
    }
    // What follows and lies wholly inside the new one goes; a partial overlap cuts the new one's end.
    var after = before.map { $0.next } ?? early.first
    while let a = after, a.storage.pointee.sequence < end {
      if a.storage.pointee.endSequence <= end {
        after = a.next
        early.remove(a)
        memory &-= a.truesize
        earlyMemory &-= a.truesize
        pool.release(a)
        continue
      }
      let keep = a.storage.pointee.sequence - start
      packet.trim(to: keep)
      end = a.storage.pointee.sequence
      packet.storage.pointee.endSequence = end
      packet.storage.pointee.flags.remove(.fin)
      break
    }
    if start >= end { return .duplicate }
    noteBlock(start, end)
    if let before, appendEarly(packet, from: start, to: end, behind: before) {
      pool.release(packet)
      return .queued
    }
    memory &+= packet.truesize
    earlyMemory &+= packet.truesize
    if let before { early.insert(packet, after: before) } else { early.prepend(packet) }
    return .queued
  }

  /// Copies an early segment into the room behind the one it follows without a gap: many small segments beyond a hole would
  /// else use up the memory with their buffers, and be thrown away after they were SACKed.
  private func appendEarly(
    _ packet: PacketBuffer, from start: SequenceNumber, to end: SequenceNumber, behind before: PacketBuffer
  ) -> Bool {
    let fin = packet.storage.pointee.flags.contains(.fin)
    guard before.storage.pointee.endSequence == start, !before.storage.pointee.flags.contains(.fin),
      coalesce(packet, end - start - (fin ? 1 : 0), into: before)
    else { return false }
    before.storage.pointee.endSequence = end
    if fin { before.storage.pointee.flags.insert(.fin) }
    return true
  }

  /// Merges a run into the blocks to report and moves it to the front.
  private mutating func noteBlock(_ start: SequenceNumber, _ end: SequenceNumber) {
    var merged = SACKBlock(start: start, end: end)
    // Grow to the whole run of adjacent early segments.
    var rest = SACKBlocks()
    for i in 0..<blocks.count {
      let b = blocks[i]
      if b.start <= merged.end, merged.start <= b.end {
        merged.start = SequenceNumber.min(merged.start, b.start)
        merged.end = SequenceNumber.max(merged.end, b.end)
      } else {
        rest.append(b)
      }
    }
    var new = SACKBlocks()
    new.append(merged)
    for i in 0..<rest.count { new.append(rest[i]) }
    blocks = new
  }

  /// The next early segment that `next` (RCV.NXT) has reached, trimmed to what is new; wholly old ones are released.
  mutating func takeEarly(reached next: SequenceNumber, _ pool: inout BufferPool) -> PacketBuffer? {
    while let packet = early.first, packet.storage.pointee.sequence <= next {
      early.remove(packet)
      memory &-= packet.truesize
      earlyMemory &-= packet.truesize
      let end = packet.storage.pointee.endSequence
      if end > next {
        let old = next - packet.storage.pointee.sequence
        if old > 0 {
          packet.pull(old)
          packet.storage.pointee.sequence = next
        }
        return packet
      }
      pool.release(packet)
    }
    return nil
  }

  /// Forgets the blocks that RCV.NXT has passed.
  mutating func trimBlocks(below next: SequenceNumber) {
    guard blocks.count > 0 else { return }
    if early.isEmpty {
      blocks = SACKBlocks()
      return
    }
    var new = SACKBlocks()
    for i in 0..<blocks.count where blocks[i].end > next { new.append(blocks[i]) }
    blocks = new
  }

  /// Drops early segments from the far end until they hold at most `limit` bytes of memory; returns how many went
  /// (RFC 2018 §8 allows it).
  mutating func pruneEarly(to limit: Int, _ pool: inout BufferPool) -> Int {
    var dropped = 0
    while earlyMemory > limit, let last = early.last {
      early.remove(last)
      memory &-= last.truesize
      earlyMemory &-= last.truesize
      pool.release(last)
      dropped += 1
    }
    guard dropped > 0 else { return 0 }
    blocks = SACKBlocks()
    var packet = early.first
    while let p = packet {
      noteBlock(p.storage.pointee.sequence, p.storage.pointee.endSequence)
      packet = p.next
    }
    return dropped
  }

  mutating func releaseAll(_ pool: inout BufferPool) {
    pool.releaseAll(&ready)
    pool.releaseAll(&early)
    readyBytes = 0
    memory = 0
    earlyMemory = 0
    blocks = SACKBlocks()
  }
}
