// Owns: which of several stacks that share one address has a connection. They are the queues of one device (Linux: receive
// side scaling and steering, Documentation/networking/scaling.rst); each has tables, timers and a lock of its own.
//
//   a TCP connection                       where the keyed hash of its socket pair says
//   a bound or listening stream socket     in all of them (the shell keeps one record in each)
//   UDP, fragments                         in the first
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

package typealias ListenQueuePointer = UnsafeMutablePointer<ListenQueue>
