// Owns: the shards of the process as a whole: ANP_QUEUES of them, each with a queue of the device, a stack, a poller and a
// lock. Netstack's Steering says which has a connection. Here is how several are locked at once, and how a frame that came in
// at the wrong queue gets to its owner.
//
// Who needs several: bind, listen and what else touches a socket that is in all of them; whoever looks at the readiness of
// sockets of several; fork and the keeper. They are locked in the order of their numbers. A shard's unlock() may write to the
// device and lock again, so it is called only once no other is held.

import CSupport
import Netstack

/// A set of shards, by number.
package struct ShardMask: Equatable, Sendable {
  package static var maximumCount: Int { 8 }
  package private(set) var bits: UInt32

  @inline(__always)
  package init(bits: UInt32) { self.bits = bits }
  @inline(__always)
  package init(_ index: Int) { bits = 1 << UInt32(index) }
  package static var none: ShardMask { ShardMask(bits: 0) }
  /// All that run.
  @inline(__always)
  package static var all: ShardMask { ShardMask(bits: (1 << UInt32(HostRuntime.shardCount)) - 1) }

  @inline(__always)
  package var isEmpty: Bool { bits == 0 }
  @inline(__always)
  package func contains(_ other: ShardMask) -> Bool { other.bits & ~bits == 0 }
  @inline(__always)
  package mutating func formUnion(_ other: ShardMask) { bits |= other.bits }
  /// Takes out the lowest; nil where none is left.
  @inline(__always)
  package mutating func removeFirst() -> Int? {
    guard bits != 0 else { return nil }
    let index = bits.trailingZeroBitCount
    bits &= bits &- 1
    return index
  }
}

extension HostRuntime {
  /// ANP_QUEUES of the running stack, 0 before it runs.
  @inline(__always)
  package static var shardCount: Int { shard == nil ? 0 : Int(anp_host().pointee.shard_count) }

  @inline(__always)
  package static func shard(at index: Int) -> UnsafeMutablePointer<Shard> { shard.unsafelyUnwrapped + index }

  /// Whether it is one of those that run: a forked child's copies of its parent's are not.
  package static func isRunning(_ shard: UnsafeMutablePointer<Shard>) -> Bool {
    guard let first = self.shard else { return false }
    return shard >= first && shard < first + shardCount
  }

  @inline(__always)
  package static func lock(_ mask: ShardMask) {
    var left = mask
    while let index = left.removeFirst() { anp_lock(shard(at: index).pointee.lockWord) }
  }

  /// After looking only: no stack has anything new to let out.
  @inline(__always)
  package static func unlockUnchanged(_ mask: ShardMask) {
    var left = mask
    while let index = left.removeFirst() { anp_unlock(shard(at: index).pointee.lockWord) }
  }

  package static func unlock(_ mask: ShardMask) {
    unlockUnchanged(mask)
    var left = mask
    while let index = left.removeFirst() {
      shard(at: index).pointee.lock()
      shard(at: index).pointee.unlock()
    }
  }
}

enum Strays {
  /// Brings packets to the stacks that they are for. No lock is held.
  /// - Parameter strays: what the stack of `source` got for others; goes back to it.
  /// - Parameter rounds: how often they may be handed on. A packet goes to the first stack to be put together, and then to its owner.
  static func deliver(from source: UnsafeMutablePointer<Shard>, _ strays: PacketQueue, rounds: Int = 3) {
    var strays = strays
    let own = source.pointee.index
    for target in 0..<HostRuntime.shardCount where rounds > 0 && target != own && isAny(strays, for: target) {
      let shard = HostRuntime.shard(at: target)
      if shard.pointee.work.isLost { continue }
      shard.pointee.lock()
      let now = MonotonicClock.now
      var next = strays.first
      while let packet = next {
        next = packet.next
        if isFor(packet, target) { shard.pointee.stack.receiveStray(packet, now: now) }
      }
      shard.pointee.stack.finishBatch(now: now)
      let more = shard.pointee.stack.takeStrays()
      shard.pointee.unlock()
      // A packet that was put together there, or came with neighbour discovery.
      if !more.isEmpty { deliver(from: shard, more, rounds: rounds - 1) }
    }
    source.pointee.lock()
    source.pointee.stack.release(&strays)
    source.pointee.unlock()
  }

  private static func isFor(_ packet: PacketBuffer, _ target: Int) -> Bool {
    let steeredTo = Int(packet.storage.pointee.steeredTo)
    return steeredTo == target || steeredTo == Stack.everyOther
  }

  private static func isAny(_ strays: PacketQueue, for target: Int) -> Bool {
    var next = strays.first
    while let packet = next {
      if isFor(packet, target) { return true }
      next = packet.next
    }
    return false
  }
}
