// Owns: which of several stacks that share one address has a connection. They are the queues of one device (Linux: receive
// side scaling and steering, Documentation/networking/scaling.rst); each has tables, timers and a lock of its own.
//
//   a TCP connection                       where the keyed hash of its socket pair says
//   a bound or listening stream socket     in all of them (the shell keeps one record in each)
//   UDP, fragments, raw sockets            in the first; what stays in another is copied to it where a raw socket may want it
//   ARP, echo requests                     wherever they come in; what ARP tells is for all

import Synchronization
import Wire

package struct Steering: Sendable {
  /// Which of them this stack is, from 0.
  package let index: Int
  package let count: Int
  private let key: HashKey

  package init(index: Int, count: Int, key: HashKey) {
    self.index = index
    self.count = max(count, 1)
    self.key = key
  }

  @inline(__always)
  package var isShared: Bool { count > 1 }

  /// The same for both ends: a conversation with oneself stays within one stack.
  package func owner(of tuple: FourTuple) -> Int {
    count == 1 ? 0 : Int(((tuple.symmetricHash(key) >> 32) &* UInt64(count)) >> 32)
  }

  package func isMine(_ tuple: FourTuple) -> Bool { count == 1 || owner(of: tuple) == index }
}

/// What a listener has in each of several stacks, counted together: the backlog is one.
package struct ListenQueue: ~Copyable {
  /// Connections that wait for accept.
  package let accepted = Atomic<Int>(0)
  /// Connections that still shake hands.
  package let handshakes = Atomic<Int>(0)
  package init() {}
}

/// The protocols that raw sockets of the first stack listen to, for the others to know.
package struct RawProtocolSet: ~Copyable {
  /// A bit per protocol, by its two highest bits.
  private let first = Atomic<UInt64>(0)
  private let second = Atomic<UInt64>(0)
  private let third = Atomic<UInt64>(0)
  private let fourth = Atomic<UInt64>(0)
  /// How many there are.
  private let count = Atomic<Int>(0)
  package init() {}

  package var isEmpty: Bool { count.load(ordering: .relaxed) == 0 }

  package func contains(_ proto: UInt8) -> Bool {
    let word =
      switch proto >> 6 {
      case 0: first.load(ordering: .relaxed)
      case 1: second.load(ordering: .relaxed)
      case 2: third.load(ordering: .relaxed)
      default: fourth.load(ordering: .relaxed)
      }
    return word >> UInt64(proto & 63) & 1 != 0
  }

  /// Of the first stack alone.
  func set(_ proto: UInt8, _ isListening: Bool) {
    guard contains(proto) != isListening else { return }
    let bit = UInt64(1) << UInt64(proto & 63)
    switch proto >> 6 {
    case 0: first.bitwiseXor(bit, ordering: .relaxed)
    case 1: second.bitwiseXor(bit, ordering: .relaxed)
    case 2: third.bitwiseXor(bit, ordering: .relaxed)
    default: fourth.bitwiseXor(bit, ordering: .relaxed)
    }
    count.add(isListening ? 1 : -1, ordering: .relaxed)
  }
}

package typealias RawProtocolSetPointer = UnsafeMutablePointer<RawProtocolSet>

package typealias ListenQueuePointer = UnsafeMutablePointer<ListenQueue>
