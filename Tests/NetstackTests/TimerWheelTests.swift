// The timing wheel against a list that is searched from end to end.

import Testing

@testable import Netstack

@Suite("Timer wheel")
struct TimerWheelTests {
  private func at(_ milliseconds: Int) -> Instant { Instant(nanoseconds: Int64(milliseconds) * 1_000_000) }

  @Test("A timer never fires before its deadline, and within a millisecond after it")
  func roundsUp() {
    var wheel = TimerWheel(now: .zero)
    let timer = wheel.allocate(kind: 3, owner: 77)
    wheel.schedule(timer, at: Instant(nanoseconds: 10_000_001))
    #expect(wheel.nextExpired(now: Instant(nanoseconds: 10_999_999)) == nil)
    let fired = wheel.nextExpired(now: Instant(nanoseconds: 11_000_000))
    #expect(fired?.id == timer && fired?.kind == 3 && fired?.owner == 77)
    #expect(wheel.isArmed(timer) == false)
    #expect(wheel.deadline(timer) == nil)
    #expect(wheel.armedCount == 0)
  }

  @Test("A deadline on a whole millisecond fires in it")
  func wholeMillisecond() {
    var wheel = TimerWheel(now: .zero)
    let timer = wheel.allocate(kind: 0, owner: 0)
    wheel.schedule(timer, at: at(10))
    #expect(wheel.deadline(timer) == at(10))
    #expect(wheel.nextExpired(now: Instant(nanoseconds: 9_999_999)) == nil)
    #expect(wheel.nextExpired(now: at(10))?.id == timer)
  }

  @Test("A deadline in the past fires at the next call")
  func past() {
    var wheel = TimerWheel(now: at(5000))
    let timer = wheel.allocate(kind: 0, owner: 0)
    #expect(wheel.nextExpired(now: at(6000)) == nil)
    wheel.schedule(timer, at: at(1))
    #expect(wheel.nextDeadline()! <= at(6000))
    #expect(wheel.nextExpired(now: at(6000))?.id == timer)
  }

  @Test("Scheduling a running timer moves it")
  func reschedule() {
    var wheel = TimerWheel(now: .zero)
    let timer = wheel.allocate(kind: 0, owner: 0)
    wheel.schedule(timer, at: at(10))
    wheel.schedule(timer, at: at(20))
    #expect(wheel.armedCount == 1)
    #expect(wheel.nextExpired(now: at(19)) == nil)
    #expect(wheel.nextExpired(now: at(20))?.id == timer)
    #expect(wheel.nextExpired(now: at(20)) == nil)
  }

  @Test("No timer at all: nothing happens, nothing is due")
  func none() {
    var wheel = TimerWheel(now: .zero)
    wheel.schedule(.none, at: at(1))
    wheel.cancel(.none)
    wheel.release(.none)
    #expect(wheel.isArmed(.none) == false)
    #expect(wheel.nextDeadline() == nil)
    #expect(wheel.nextExpired(now: at(1_000_000)) == nil)
  }

  @Test("A released timer's name is given out again, and only then")
  func reuse() {
    var wheel = TimerWheel(now: .zero)
    let first = wheel.allocate(kind: 1, owner: 1)
    let second = wheel.allocate(kind: 2, owner: 2)
    wheel.schedule(first, at: at(5))
    wheel.release(first)
    #expect(wheel.armedCount == 0)
    let third = wheel.allocate(kind: 3, owner: 3)
    #expect(third == first && third != second)
    #expect(wheel.isArmed(third) == false)
    #expect(wheel.nextExpired(now: at(10)) == nil)
  }

  @Test("The farthest instant can be scheduled and is not reached")
  func distantFuture() {
    var wheel = TimerWheel(now: .zero)
    let timer = wheel.allocate(kind: 0, owner: 0)
    wheel.schedule(timer, at: .distantFuture)
    #expect(wheel.nextExpired(now: at(1 << 40)) == nil)
    #expect(wheel.isArmed(timer) == true)
  }

  @Test("Timers of one millisecond fire in the order in which they were scheduled")
  func orderWithinTick() {
    var wheel = TimerWheel(now: .zero)
    let timers = (0..<10).map { wheel.allocate(kind: 0, owner: UInt32($0)) }
    for timer in timers { wheel.schedule(timer, at: at(100_000)) }
    var order: [UInt32] = []
    while let fired = wheel.nextExpired(now: at(200_000)) { order.append(fired.owner) }
    #expect(order == Array(0..<10))
  }

  @Test("Against a model: random schedules, cancels and steps of time", arguments: 0..<40)
  func model(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    // Odd starts put the present next to the borders of high levels, where a digit is about to carry.
    var now = Int64(random.below(1 << 30)) * Int64(1 + random.below(3_000_000))
    if seed % 3 == 0 {
      now = (Int64(1) << Int64(6 * (1 + random.below(6)))) * 1_000_000 - Int64(random.below(3_000_000))
    }
    var wheel = TimerWheel(now: Instant(nanoseconds: now))
    struct Model { var id: TimerID; var deadline: Int64? }
    var timers: [Model] = []

    for step in 0..<1500 {
      switch random.below(10) {
      case 0 where timers.count < 200:
        timers.append(Model(id: wheel.allocate(kind: 1, owner: UInt32(timers.count)), deadline: nil))
      case 1...5 where !timers.isEmpty:
        let i = random.below(timers.count)
        let reach = Int64(1) << Int64(random.below(45))
        let deadline = now + Int64(random.below(Int(min(reach, 1 << 31)))) * max(1, reach >> 31) - reach / 16
        wheel.schedule(timers[i].id, at: Instant(nanoseconds: deadline))
        timers[i].deadline = deadline
      case 6 where !timers.isEmpty:
        let i = random.below(timers.count)
        wheel.cancel(timers[i].id)
        timers[i].deadline = nil
      default:
        if let next = wheel.nextDeadline(), random.below(2) == 0 {
          // As a shell does: sleep until the wheel says so, or somewhat less.
          now = max(now, next.nanoseconds - Int64(random.below(3)) * 500_000)
        } else {
          now += Int64(random.below(1 << 31)) >> Int64(random.below(31))
        }
        while let fired = wheel.nextExpired(now: Instant(nanoseconds: now)) {
          let i = Int(fired.owner)
          guard let deadline = timers[i].deadline else {
            Issue.record("seed \(seed) step \(step): timer \(i) fired though it was not running")
            return
          }
          let tick = (deadline + 999_999) / 1_000_000
          #expect(tick * 1_000_000 <= now, "fired early")
          timers[i].deadline = nil
        }
        let missed = timers.firstIndex { ($0.deadline ?? .max - 999_999) + 999_999 < (now / 1_000_000 + 1) * 1_000_000 }
        #expect(missed == nil, "seed \(seed) step \(step): a timer did not fire")
      }
      let running = timers.compactMap(\.deadline)
      #expect(wheel.armedCount == running.count)
      let next = wheel.nextDeadline()?.nanoseconds
      if let earliest = running.min() {
        let fires = max((earliest + 999_999) / 1_000_000 * 1_000_000, now / 1_000_000 * 1_000_000)
        #expect(next != nil && next! <= fires, "seed \(seed) step \(step): the wheel would oversleep")
      } else {
        #expect(next == nil)
      }
    }
  }

  @Test("Deadlines come in order over all levels", arguments: 0..<20)
  func order(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var wheel = TimerWheel(now: at(random.below(1 << 20)))
    var expected: [Int64] = []
    for i in 0..<500 {
      let deadline = at((1 << 20) + random.below(1 << (1 + random.below(30))))
      wheel.schedule(wheel.allocate(kind: 0, owner: UInt32(i)), at: deadline)
      expected.append(deadline.nanoseconds)
    }
    let byOwner = expected
    var fired: [Int64] = []
    // Sleeping as told must reach every timer in a bounded number of wake-ups: one per level and timer at most.
    var wakeups = 0
    while let next = wheel.nextDeadline() {
      wakeups += 1
      while let timer = wheel.nextExpired(now: next) {
        #expect(byOwner[Int(timer.owner)] == next.nanoseconds, "a timer fires at its own millisecond")
        fired.append(byOwner[Int(timer.owner)])
      }
    }
    #expect(fired == expected.sorted())
    #expect(wakeups <= 500 * 6)
  }
}
