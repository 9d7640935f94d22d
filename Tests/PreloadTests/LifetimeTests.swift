// Owns: tests of counted lives and of the pool: who is last, and what stale names see.

import Synchronization
import Testing

@testable import Preload

struct Note: ~Copyable, Pooled {
  let index: UInt32
  var nextFree: UInt32 = 0
  var value = 0
  init(index: UInt32) { self.index = index }
}

@Suite("Lifetimes and pools")
struct LifetimeTests {
  @Test("the last reference is told, and nobody can come back after it")
  func last() {
    // In a box: the macros copy what they check.
    let box = Box()
    box.life.begin()
    let generation = box.life.generation
    #expect(box.acquire(generation))
    #expect(box.references == 2)
    #expect(!box.release())
    #expect(box.release())
    #expect(!box.acquire(generation))
    #expect(!box.isAlive(generation))
    box.life.end()
    box.life.begin()
    #expect(box.generation == generation &+ 1)
    #expect(!box.acquire(generation))
    #expect(box.isAlive(generation &+ 1))
  }

  @Test("of many threads that come and go exactly one is last")
  func threads() async {
    let life = Box()
    life.life.begin()
    let generation = life.life.generation
    let lasts = await withTaskGroup(of: Int.self) { group in
      for _ in 0..<8 {
        group.addTask {
          var lasts = 0
          for _ in 0..<2000 where life.life.acquire(generation) { if life.life.release() { lasts += 1 } }
          return lasts
        }
      }
      var sum = 0
      for await lasts in group { sum += lasts }
      return sum
    }
    #expect(lasts == 0)
    #expect(life.references == 1)
    #expect(life.release())
  }

  final class Box: Sendable {
    let life = Lifetime()
    func acquire(_ generation: UInt32) -> Bool { life.acquire(generation) }
    func isAlive(_ generation: UInt32) -> Bool { life.isAlive(generation) }
    func release() -> Bool { life.release() }
    var references: UInt32 { life.references }
    var generation: UInt32 { life.generation }
  }

  @Test("records keep their address and come back in reverse order; the maximum holds")
  func pool() {
    var pool = Pool<Note>(maximum: 100)
    var taken: [UnsafeMutablePointer<Note>] = []
    while let record = pool.take() { taken.append(record) }
    #expect(taken.count == 100)
    #expect(Set(taken).count == 100)
    for (i, record) in taken.enumerated() {
      let found = pool.record(UInt32(i))
      #expect(found == record)
    }
    taken[7].pointee.value = 42
    pool.give(taken[7])
    pool.give(taken[9])
    let last = pool.take()
    let again = pool.take()
    let none = pool.take()
    #expect(last == taken[9])
    #expect(again == taken[7])
    #expect(again?.pointee.value == 42)
    #expect(none == nil)
  }
}
