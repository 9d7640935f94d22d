// Owns: the mark of a large value that must be handed on by its address.

import Synchronization

/// A property of this type, which is never read, keeps its owner in memory: a borrow of the owner passes its address, as C's
/// `const *`. Without it, the compiler copies the whole value for the callee of each nonmutating method: a stack of 4 KB and control blocks
/// of 1.5 KB, several times per packet. (What holds an atomic has an address for good; the compiler may not move it into
/// registers or temporaries.)
package struct InMemory: ~Copyable {
  private let atomic = Atomic<UInt8>(0)
  package init() {}
}
