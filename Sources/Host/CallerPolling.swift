// Owns: the stack run by the program's own threads. A thread that would sleep until the stack has something for it becomes the
// shard's resident: it sleeps on the device itself, and when frames come it reads and processes them right where the data
// is wanted. That saves a wake-up, two context switches and the other core's cold cache for every packet. Linux's models:
// busy polling and IRQ suspension (Documentation/networking/napi.rst).
//
//   who watches the device    when
//   anp-rx                    nobody waits, or several threads do, or the program has been away for a while
//   the resident              one thread waits; it stays responsible for a moment when it leaves with its data ("suspension"),
//                             as it will most likely be back. No wake-up is spent on the hand-over, either way.
//
// anp-rx, while suspended, sleeps without the device and looks every `firstLook` … `longestLook` whether anybody still polls:
//
//   somebody polled since the last look          all is well; look again, less often
//   nobody polled, no resident                   the program is busy with other things: watch the device again
//   nobody polled, a resident sleeps             an idle connection: look ever less often ("deep"). When the resident leaves
//                                                it tells anp-rx, which goes back to short looks.
//   frames wait and the resident does not come   it was taken off (siglongjmp, a debugger): watch the device again
//
// A resident holds no lock, no duty and nothing on its stack while it sleeps, so it may vanish at any time. It leaves at once
// when other threads sleep and so could not be served by it; anp-rx then takes over (Preload's Resident decides that).
//
// Before it sleeps a resident may look at the device for a moment (spinning): a wake-up on another core costs tens of
// microseconds, often more than the wait would have been. It spins only for what waits have lately been like, up to
// ANP_BUSY_POLL, only for small frames (a bulk transfer gains nothing), never on a machine with a single core. When it was in
// vain it leaves off for some waits, each time for twice as many: whoever has the other end may need this very core. When the
// scheduler took the core away meanwhile, somebody else has use for it. RxSpins and RxSpinMicros in the statistics say what
// spinning cost.
//
// The duty to poll (isPolling) is taken for each turn as anp-rx takes it. Whoever finds it taken does nothing.

import CSupport
import Netstack
import Synchronization

/// What a resident waits for: a word that changes when there is something for its thread.
package struct Awaited {
  let word: UnsafeMutablePointer<Atomic<UInt32>>
  let value: UInt32

  package init(_ word: UnsafeMutablePointer<Atomic<UInt32>>, _ value: UInt32) {
    self.word = word
    self.value = value
  }

  @inline(__always)
  package var hasChanged: Bool { word.pointee.load(ordering: .sequentiallyConsistent) != value }
}

/// Guarded by the lock.
struct Residence {
  /// Residents, nested ones included; at most one thread's.
  var depth = 0
  /// Turns taken by the program's threads.
  var turns: UInt32 = 0
  /// anp-rx looks rarely: who leaves must tell it.
  var isDeep = false
  /// anp-rx shall watch the device (or at least look) now.
  var isWanted = false
  /// Frames came by ones: read only one before looking whether it was the one that was wanted. Now and then more are asked for,
  /// to see whether that is still so.
  var cameAlone = false
  var aloneInARow = 0
  /// Frames were waiting already: try to read before sleeping.
  var wereWaiting = false
  /// The last frames were super-frames.
  var isBulk = false
  /// What waits last, nanoseconds: a moving average.
  var usualWait: Int64 = 1_000_000
  /// So many waits go by without spinning; so many more after the next spin in vain.
  var spinPause = 0
  var nextSpinPause = 8
}

extension Shard {
  /// Whether threads of the program may read the device at all. Without the lock: these change at most once.
  @inline(__always)
  package var callersMayPoll: Bool { work.busyPoll != nil && work.reportedDeviceError == 0 }

  /// Of the payload of what is sent nobody but the device reads a byte.
  package var deviceReadsPayload: Bool {
    device.capabilities.checksumOffload && work.transmitter.gathers && !work.capture.isOn
  }

  /// A thread may send from its own memory, as it can look for the acknowledgments itself.
  package var callersMayLend: Bool { work.lends && callersMayPoll }

  /// Under the lock: a frame handed to the stack now is written by this thread when it lets go of the lock.
  package var callersMayLendFrames: Bool { work.lends && work.transmitter.gathers && !work.isDraining }

  package var joinsWrites: Bool { work.joinsWrites }

  /// The device reports an error instead of frames.
  package func noteDeviceLost() {
    let me = here
    anp_lock(me.pointee.lockWord)
    me.pointee.reportDeviceError(EBADFD)
    me.pointee.work.residence.isWanted = true
    me.pointee.kick()
    anp_unlock(me.pointee.lockWord)
  }

  package var deviceDescriptor: Int32 { device.descriptor }

  /// The calling thread will watch the device instead of sleeping on a word. Inside, without the lock. Returns how long it may
  /// look at the device before it sleeps, nanoseconds; 0: not at all, -1: once.
  package func enterResidence() -> Int64 {
    let me = here
    anp_lock(me.pointee.lockWord)
    me.pointee.work.residence.depth += 1
    let spin = me.pointee.spinLimit()
    anp_unlock(me.pointee.lockWord)
    return spin
  }

  /// - Parameters:
  ///   - handingOver: other threads wait, who need anp-rx now.
  ///   - waited: nanoseconds until what it waited for had come; nil where the wait ended otherwise.
  package func leaveResidence(handingOver: Bool, waited: Int64?) {
    let me = here
    anp_lock(me.pointee.lockWord)
    me.pointee.work.residence.depth = max(0, me.pointee.work.residence.depth - 1)
    if let waited {
      let sample = min(waited, 1_000_000)
      me.pointee.work.residence.usualWait += (sample - me.pointee.work.residence.usualWait) / 8
    }
    if handingOver || me.pointee.work.residence.isDeep {
      me.pointee.work.residence.isDeep = false
      me.pointee.work.residence.isWanted = handingOver
      me.pointee.kick()
    }
    anp_unlock(me.pointee.lockWord)
  }

  /// A thread that had entered has vanished from its wait (siglongjmp, cancellation).
  package func forgetResident() {
    let me = here
    anp_lock(me.pointee.lockWord)
    me.pointee.work.residence.depth = 0
    me.pointee.work.residence.isDeep = false
    me.pointee.work.residence.isWanted = true
    me.pointee.kick()
    anp_unlock(me.pointee.lockWord)
  }

  /// Reads and processes what the device has, until nothing is left or what the caller waits for has come. Inside, without the
  /// lock. Does nothing where another thread has the poller. False where the device had nothing.
  /// - Parameter most: as many frames as are expected; asking for no more saves the read that finds nothing.
  package func pollFromCaller(_ awaited: Awaited?, most: Int = Receiver.callerBudget, untilEmpty: Bool = false) -> Bool
  {
    let me = here
    anp_lock(me.pointee.lockWord)
    guard !me.pointee.work.isPolling else {
      anp_unlock(me.pointee.lockWord)
      return false
    }
    me.pointee.work.isPolling = true
    me.pointee.work.residence.turns &+= 1
    me.pointee.stack.count(Counter.rxCallerPolls)
    let alone = me.pointee.work.residence.cameAlone && me.pointee.work.residence.aloneInARow < 8
    anp_unlock(me.pointee.lockWord)

    let outcome = Receiver.poll(
      me, budget: most, first: alone && !untilEmpty ? 1 : Receiver.batch, untilEmpty ? nil : awaited, skipIdle: true)

    anp_lock(me.pointee.lockWord)
    me.pointee.work.isPolling = false
    me.pointee.work.residence.cameAlone = outcome.frames == 1 && !outcome.isBulk
    me.pointee.work.residence.aloneInARow = alone ? me.pointee.work.residence.aloneInARow + 1 : 0
    me.pointee.work.residence.wereWaiting = outcome.frames > 1
    if outcome.frames > 0 { me.pointee.work.residence.isBulk = outcome.isBulk }
    if case .failed = outcome.end {
      // anp-rx knows what to do about it.
      me.pointee.work.residence.isWanted = true
      me.pointee.kick()
    }
    anp_unlock(me.pointee.lockWord)
    return outcome.frames > 0
  }
}

extension Shard {
  /// Where another thread has the poller: waits for the end of its turn, which is a matter of microseconds, or of that thread
  /// being let on a core. True where there was something to wait for.
  package func awaitPoller() -> Bool {
    let me = here
    for turn in 0..<100 {
      anp_lock(me.pointee.lockWord)
      let isBusy = me.pointee.work.isPolling
      anp_unlock(me.pointee.lockWord)
      if !isBusy { return turn > 0 }
      anp_yield()
    }
    return true
  }
}

// MARK: Spinning

extension Shard {
  /// ANP_COALESCE: after the device's interrupt, before the poll.
  @inline(__always)
  package func coalesce() {
    if work.coalesce > 0 { anp_sleep(work.coalesce) }
  }

  /// Under the lock; see enterResidence.
  private func spinLimit() -> Int64 {
    if work.coalesce > 0 { return 0 }
    let time = spinTime()
    if time == 0, work.residence.wereWaiting || work.residence.usualWait < Self.hardlyAWait { return -1 }
    return time
  }

  private static var hardlyAWait: Int64 { 20_000 }

  private func spinTime() -> Int64 {
    guard let most = work.busyPoll, most > 0, work.hasSeveralCores else { return 0 }
    if work.residence.spinPause > 0 {
      let me = here
      me.pointee.work.residence.spinPause -= 1
      return 0
    }
    let limit = Int64(most) * 1000
    guard !work.residence.isBulk, work.residence.usualWait < limit else { return 0 }
    return min(limit, 2 * work.residence.usualWait + 5000)
  }

  /// What came of it, for the next time. Only the resident calls this.
  package func noteSpin(_ nanoseconds: Int64, _ end: SpinEnd) {
    let me = here
    anp_lock(me.pointee.lockWord)
    me.pointee.stack.count(Counter.rxSpins)
    me.pointee.stack.count(Counter.rxSpinMicros, Int(nanoseconds / 1000))
    switch end {
    case .found:
      me.pointee.work.residence.nextSpinPause = 8
    case .inVain:
      me.pointee.work.residence.spinPause = me.pointee.work.residence.nextSpinPause
      me.pointee.work.residence.nextSpinPause = min(2 * me.pointee.work.residence.nextSpinPause, 4096)
    case .preempted: me.pointee.work.residence.spinPause = 1000
    }
    anp_unlock(me.pointee.lockWord)
  }

  package enum SpinEnd { case found, inVain, preempted }
}

/// anp-rx's side of it: whether it watches the device.
struct Watch {
  private static var firstLook: Int64 { 200_000 }
  private static var longestLook: Int64 { 2_000_000 }
  private static var deepLook: Int64 { 50_000_000 }
  private static var looksBeforeDeep: Int { 10 }

  enum State { case device, suspended, gone }
  private(set) var state = State.device
  private var interval: Int64 = 0
  private var turns: UInt32 = 0
  private var idleLooks = 0
  private var missed = 0

  /// Nanoseconds anp-rx may sleep, -1 = for ever.
  var timeout: Int64 { state == .suspended ? interval : -1 }

  /// The poller is in the hands of a caller.
  mutating func suspend() {
    guard state == .device else { return }
    state = .suspended
    interval = Self.firstLook
    idleLooks = 0
    missed = 0
  }

  mutating func giveUp() { state = .gone }

  /// Under the lock, after the alarm or when the time-out has passed.
  /// - Parameter framesWait: the device is readable (asked before the lock was taken); only looked at when `timedOut`.
  mutating func look(_ shard: UnsafeMutablePointer<Shard>, timedOut: Bool, framesWait: Bool) {
    guard state == .suspended else { return }
    if shard.pointee.work.residence.isWanted {
      shard.pointee.work.residence.isWanted = false
      state = .device
      return
    }
    let now = shard.pointee.work.residence.turns
    if now != turns {
      turns = now
      idleLooks = 0
      missed = 0
      shard.pointee.work.residence.isDeep = false
      interval = min(max(interval * 2, Self.firstLook), Self.longestLook)
      return
    }
    if !timedOut {
      // An alarm of the stack's own, or a resident who left: from now on short looks again.
      if interval > Self.longestLook { interval = Self.firstLook }
      return
    }
    guard shard.pointee.work.residence.depth > 0 else {
      state = .device
      return
    }
    if framesWait {
      missed += 1
      interval = Self.longestLook
      if missed > 1 {
        shard.pointee.work.residence.depth = 0
        state = .device
      }
      return
    }
    missed = 0
    idleLooks += 1
    interval = min(interval * 2, Self.longestLook)
    if idleLooks > Self.looksBeforeDeep {
      interval = Self.deepLook
      shard.pointee.work.residence.isDeep = true
    }
  }
}
