// The lock under contention, ownership, the settings' memory.

import CSupport
import Foundation
import Testing

@testable import Host

/// Runs `body` on `count` threads at once and waits for all.
func onThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
  let group = DispatchGroup()
  for i in 0..<count {
    group.enter()
    Thread.detachNewThread {
      body(i)
      group.leave()
    }
  }
  group.wait()
}

private struct Shared: @unchecked Sendable {
  let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)
  let counter = UnsafeMutablePointer<Int>.allocate(capacity: 1)
  init() {
    word.initialize(to: 0)
    counter.initialize(to: 0)
  }
}

@Suite("The lock")
struct LockTests {
  @Test("eight threads, a plain counter: no increment is lost", .timeLimit(.minutes(1)))
  func exclusion() {
    let shared = Shared()
    onThreads(8) { _ in
      for _ in 0..<20_000 {
        anp_lock(shared.word)
        shared.counter.pointee += 1
        anp_unlock(shared.word)
      }
    }
    #expect(shared.counter.pointee == 160_000)
    #expect(shared.word.pointee == 0, "free, and nobody marked as waiting")
  }

  @Test("a sleeper is woken even when the holder takes long", .timeLimit(.minutes(1)))
  func sleepers() {
    let shared = Shared()
    onThreads(4) { _ in
      for _ in 0..<20 {
        anp_lock(shared.word)
        shared.counter.pointee += 1
        usleep(500)
        anp_unlock(shared.word)
      }
    }
    #expect(shared.counter.pointee == 80)
  }

  @Test("the word tells which thread holds it, also while others wait")
  func owner() {
    let shared = Shared()
    anp_lock(shared.word)
    let me = anp_lock_owner(shared.word)
    #expect(me == UInt32(anp_host_call(Int(SYS_gettid), 0, 0, 0, 0, 0, 0)))
    let group = DispatchGroup()
    group.enter()
    Thread.detachNewThread {
      anp_lock(shared.word)
      shared.counter.pointee = Int(anp_lock_owner(shared.word))
      anp_unlock(shared.word)
      group.leave()
    }
    while anp_load_word(shared.word) & 0x8000_0000 == 0 { usleep(100) }
    #expect(anp_lock_owner(shared.word) == me)
    #expect(anp_try_lock(shared.word) == 0)
    anp_unlock(shared.word)
    group.wait()
    #expect(shared.counter.pointee != 0 && shared.counter.pointee != Int(me))
    #expect(anp_lock_owner(shared.word) == 0)
  }

  @Test("settings are those of the program's start")
  func settings() {
    setenv("ANP_TEST_LATE", "1", 1)
    #expect(anp_setting("ANP_TEST_LATE") == nil)
    #expect(anp_setting("ANP_") == nil)
  }
}

@Suite("Descriptors and the alarm")
struct DescriptorTests {
  @Test("our descriptors are close-on-exec and out of the program's way")
  func raised() throws {
    let descriptor = anp_timer_make()
    try #require(descriptor >= 0)
    defer { anp_close(descriptor) }
    #expect(descriptor > 100)
    #expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0)
  }

  @Test("an alarm in the past fires at once, a new setting clears it, disarming keeps it silent")
  func alarm() throws {
    let timer = anp_timer_make()
    try #require(timer >= 0)
    defer { anp_close(timer) }
    var numbers = anp_sleep_numbers(device: -1, timer: timer, rounds: 0)
    anp_timer_set(timer, 1)
    #expect(anp_event_wait(&numbers, 0, -1) == UInt32(ANP_EVENT_TIMER))
    anp_timer_set(timer, -1)
    #expect(anp_wait_readable(timer, 1_000_000) == 0)
    let begin = anp_monotonic()
    anp_timer_set(timer, begin + 20_000_000)
    #expect(anp_event_wait(&numbers, 1, -1) == UInt32(ANP_EVENT_TIMER))
    #expect(anp_monotonic() >= begin + 20_000_000)
  }
}
