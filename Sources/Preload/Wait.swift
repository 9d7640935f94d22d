// Owns: how a blocking call sleeps. The order that loses no wake-up:
//
//   anp_wait_prepare()            a signal from here on ends the wait
//   lock; try the operation; note the word's value and that somebody waits; unlock
//   leave; anp_wait(word, value); enter; try again
//
// The stack changes the word under the same lock before it wakes, so a change after the try makes the wait return at once.

import CSupport
import Host
import Synchronization

enum WaitOutcome {
  case tryAgain
  case timedOut
  case interrupted
  /// The reference was reaped: the description must not be touched any more.
  case lost
}

/// When a call gives up, on the monotonic clock, nanoseconds.
struct Deadline {
  var nanoseconds: Int64
  static var never: Deadline { Deadline(nanoseconds: .max) }

  static func after(_ timeout: Int64) -> Deadline {
    guard timeout >= 0 else { return .never }
    let (sum, overflow) = anp_monotonic_nanoseconds().addingReportingOverflow(timeout)
    return overflow ? .never : Deadline(nanoseconds: sum)
  }

  var isNever: Bool { nanoseconds == .max }
  /// What is left, for anp_wait*: -1 for ever, never below 0 otherwise.
  var remaining: Int64 { isNever ? -1 : max(0, nanoseconds - anp_monotonic_nanoseconds()) }
}

@inline(__always)
func cWord(_ word: WordPointer) -> OpaquePointer { OpaquePointer(UnsafeMutableRawPointer(word)) }

/// Sleeps outside while `word` is `expected`, keeping the caller's reference to `description` safe from an abandoned frame.
@inline(never)
func sleep(
  _ description: DescriptionPointer, on word: WordPointer, while expected: UInt32, until deadline: Deadline
) -> WaitOutcome {
  let reference = HeldReference(
    kind: .description, index: description.pointee.index, generation: description.pointee.life.generation,
    depth: anp_stack_depth())
  let thread = Threads.current
  let noted = thread?.pointee.note(reference) ?? false
  // A call with a time-out is not restarted after a handler (signal(7)).
  let flags = deadline.isNever ? UInt32(ANP_WAIT_RESTARTABLE) : 0
  let sources = description.place.sources
  let result: Int
  if noted, let thread, var outer = Resident.begin(thread, word, sources) {
    thread.pointee.noteSleep(.resident, sources)
    result = waitAsResident(thread, &outer, Awaited(word, expected), deadline, flags)
    if !thread.pointee.takeBack(reference) { return .lost }
    Resident.end(outer)
  } else {
    let forks = Resident.noteSleeper(sources, onWord: true)
    if noted, let thread { thread.pointee.noteSleep(.onWord, sources) }
    anp_leave()
    result = Int(anp_wait(cWord(word), expected, deadline.remaining, flags))
    anp_enter()
    if noted, let thread, !thread.pointee.takeBack(reference) { return .lost }
    Resident.endSleeper(sources, onWord: true, forks)
  }
  switch -result {
  case Errno.interrupted: return .interrupted
  case Errno.timedOut: return .timedOut
  default: return .tryAgain
  }
}

/// -EAGAIN, -EINTR or -ETIMEDOUT, as anp_wait.
private func waitAsResident(
  _ thread: ThreadPointer, _ outer: inout Resident.Outer, _ awaited: Awaited, _ deadline: Deadline, _ flags: UInt32
) -> Int {
  var entries = InlineArray<9, pollfd>(repeating: pollfd())
  let result = withUnsafeMutableBytes(of: &entries) { raw in
    Resident.wait(
      thread, &outer, awaited, raw.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: pollfd.self), 0, deadline, nil,
      flags)
  }
  return result == 0 ? -Errno.timedOut : result
}
