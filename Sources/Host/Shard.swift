// Owns: one stack and who may touch it when. Everything that runs the stack comes through lock() and unlock(); unlock() is
// where the stack's outputs leave it: readiness to the Preload layer, frames to the device, events to the log, the next
// deadline to the timer.
//
// Contexts, and what each may do:
//
//   context            runs on                    takes the lock   may sleep          duties it can pick up
//   user               the program's threads      yes              after unlock only  drains the transmit queue; poller
//   receive (NET_RX)   anp-rx                     yes              in ppoll only      poller, drains
//   timer (TIMER)      anp-rx, when the alarm     yes              no                 drains
//                      descriptor fires
//   signal handler     a program's thread         as user: deferred while its thread is inside (anp_process.h)
//   fork child         the forking thread         no: HostRuntime.forkChild() forgets the shards as they stand
//   keeper             own task, after the end    yes, with care   no                 everything, nobody else is left
//
// Duties. A device system call is never made under the lock. Whoever makes it marks the duty as taken, so that order on
// the wire is the queue's order whoever works:
//   isDraining   one thread writes frames and log lines (Linux: the qdisc's RUNNING bit). Others enqueue and leave.
//   isPolling    one thread reads frames (NAPI's SCHED bit): anp-rx, or a thread of the program that would else sleep
//                (CallerPolling.swift).
// Both bits are guarded by the lock. What the holder of a bit uses without the lock (`transmitter`, `receiver`, the log's
// batch) belongs to the bit.
//
// Order of locks: HostRuntime's start lock, then the shards' in the order of their numbers (Shards.swift), then the Preload
// layer's state lock (anp_state_lock: its tables), which is a leaf. Of libc only the allocator's lock is taken under them.

import CSupport
import Netstack

/// Holds pointers only, which never change: any number of threads may use it at once. What they point to is the lock's.
package struct Shard: ~Copyable {
  /// At an address of its own and never destroyed, as a shard lives as long as its process. Embedded Swift cannot destroy a
  /// value whose parts have a deinit in another module; a stored property, or the setter the compiler would make here, would.
  private let stackAddress: UnsafeMutablePointer<Stack>
  package var stack: Stack {
    @inline(__always) unsafeAddress { UnsafePointer(stackAddress) }
    @inline(__always) nonmutating _modify { yield &stackAddress.pointee }
    nonmutating set { stackAddress.initialize(to: newValue) }
  }

  private let workAddress: UnsafeMutablePointer<ShardWork>
  /// Under the lock, but for what belongs to a duty.
  var work: ShardWork {
    @inline(__always) unsafeAddress { UnsafePointer(workAddress) }
    @inline(__always) nonmutating unsafeMutableAddress { workAddress }
  }

  private let deviceAddress: UnsafeMutablePointer<TAPDevice>
  /// Apart from `work`, as both duties read it without the lock. Its number changes while nobody has a duty (replaceDescriptor).
  var device: TAPDevice {
    @inline(__always) unsafeAddress { UnsafePointer(deviceAddress) }
    @inline(__always) nonmutating unsafeMutableAddress { deviceAddress }
  }

  let here: UnsafeMutablePointer<Shard>
  /// Its number, from 0: the queue of the device that is its own.
  package let index: Int
  /// Room for one datagram, for gathering and scattering; the lock's.
  package let scratch: UnsafeMutableRawPointer
  package static var scratchSize: Int { 65536 }
  /// A cache line of its own: waiters spin on it.
  package let lockWord: UnsafeMutablePointer<UInt32>
  /// What anp-rx sleeps on; it looks without the lock.
  let sleep: UnsafeMutablePointer<anp_sleep_numbers>

  /// What anp-rx waits for before it does anything: 1 = go, 2 = leave, not all threads could be started.
  let gate: UnsafeMutablePointer<UInt32>
  let started: Instant
  let deviceName: UnsafePointer<CChar>
  /// Whose stack this is; the keeper is another process.
  let process = anp_process_id()
  /// What the kernel's counter of frames it could not queue stood at; a device outlives many stacks.
  let queueDropsAtStart: UInt64

  private init(at here: UnsafeMutablePointer<Shard>, _ parts: ShardParts) {
    self.here = here
    index = parts.index
    gate = parts.gate
    scratch = .allocate(byteCount: Self.scratchSize, alignment: 64)
    stackAddress = parts.stack
    deviceName = parts.deviceName
    started = parts.started
    queueDropsAtStart = parts.queueDropsAtStart
    lockWord = UnsafeMutableRawPointer.allocate(byteCount: 64, alignment: 64).bindMemory(to: UInt32.self, capacity: 16)
    lockWord.initialize(repeating: 0, count: 16)
    sleep = .allocate(capacity: 1)
    sleep.initialize(to: anp_sleep_numbers(device: parts.device.descriptor, timer: parts.timer, rounds: 0))
    deviceAddress = .allocate(capacity: 1)
    deviceAddress.initialize(to: parts.device)
    workAddress = .allocate(capacity: 1)
    workAddress.initialize(to: ShardWork(parts))
  }

  /// Makes a shard at an address that it keeps for the life of the process.
  static func make(at shard: UnsafeMutablePointer<Shard>, _ parts: ShardParts) {
    shard.initialize(to: Shard(at: shard, parts))
  }

  // MARK: Lock

  /// The caller is inside (anp_enter) when it is a thread of the program.
  @inline(__always)
  package func lock() { anp_lock(lockWord) }

  /// Lets the stack's outputs out, releases, and calls the hooks. May write to the device on the way.
  @inline(__always)
  package func unlock() { Self.release(here) }

  /// The thread that holds the lock, 0 where nobody does.
  package var lockOwner: UInt32 { anp_lock_owner(lockWord) }

  @inline(__always)
  package func now() -> Instant { MonotonicClock.now }

  /// Frames one thread writes for all before it leaves the rest to anp-rx (Linux: dev_tx_weight).
  private static var drainQuota: Int { 64 }

  /// Works on the pointer, not on `self`: the lock is dropped in between, and others change the shard then.
  private static func release(_ me: UnsafeMutablePointer<Shard>) {
    let host = anp_host()!
    var changed = false
    var quota = drainQuota
    while true {
      while let change = me.pointee.stack.nextChanged() {
        host.pointee.readiness_changed(change.cookie, change.events.rawValue)
        changed = true
      }
      if me.pointee.work.isDraining { break }
      if quota <= 0, me.pointee.stack.hasTransmit() {
        me.pointee.kick()
        break
      }
      let frames = me.pointee.work.transmitter.take(from: &me.pointee.stack)
      let events = me.pointee.work.log.take(from: &me.pointee.stack)
      if frames == 0, events == 0 { break }
      quota -= frames

      me.pointee.work.isDraining = true
      anp_unlock(me.pointee.lockWord)
      // Whoever waits for what changed can run while this thread is busy with the device.
      if changed { host.pointee.after_unlock() }
      changed = false
      me.pointee.work.log.write()
      me.pointee.work.transmitter.write(me.pointee.device.queue, me.pointee.work.capture)
      anp_lock(me.pointee.lockWord)
      me.pointee.work.isDraining = false
      Transmitter.finish(me)
    }
    if let deadline = me.pointee.stack.nextDeadline(), deadline < me.pointee.work.alarm {
      me.pointee.setAlarm(deadline)
    }
    let hasLeaseNews = me.pointee.stack.hasLeaseNews
    anp_unlock(me.pointee.lockWord)
    host.pointee.after_unlock()
    if hasLeaseNews { Leases.follow(me) }
  }

  // MARK: Alarm (under the lock)

  private func setAlarm(_ deadline: Instant) {
    work.alarm = deadline
    anp_timer_set(work.timer, deadline == .distantFuture ? -1 : max(1, deadline.nanoseconds))
  }

  /// Makes anp-rx look around at once.
  func kick() {
    if work.alarm > .zero { setAlarm(.zero) }
  }

  /// anp-rx: the alarm went off. Sets it for what comes next, which also clears it.
  /// False where the device is gone and need not be watched any more.
  func alarmFired() -> Bool {
    runTimers(MonotonicClock.now)
    setAlarm(stack.nextDeadline() ?? .distantFuture)
    return work.reportedDeviceError != EBADFD
  }

  /// The timer softirq.
  func runTimers(_ now: Instant) {
    if let deadline = stack.nextDeadline(), deadline <= now {
      stack.advance(to: now)
    }
  }

  // MARK: Polling

  /// anp-rx takes the poller; false where a thread of the program has it, or is about to.
  func beginPolling() -> Bool {
    let me = here
    anp_lock(me.pointee.lockWord)
    let free = !me.pointee.work.isPolling && me.pointee.work.residence.depth == 0
    if free {
      me.pointee.work.isPolling = true
      me.pointee.stack.count(.rxInterrupts)
    }
    anp_unlock(me.pointee.lockWord)
    return free
  }

  func endPolling() {
    let me = here
    anp_lock(me.pointee.lockWord)
    me.pointee.work.isPolling = false
    anp_unlock(me.pointee.lockWord)
  }

  // MARK: Keeper

  /// The program is gone, this is the keeper's process: its number for the device; no anp-rx whom an alarm could wake.
  func becomeKeeper(device number: Int32) {
    device.descriptor = number
    work.timer = -1
    anp_host().pointee.readiness_changed = { _, _ in }
    anp_host().pointee.after_unlock = {}
  }

  /// Under the lock: takes over from threads that ended in the middle of a duty. What the poller had read and not yet handed
  /// over is lost like a frame on a wire; what the drainer had taken is written again, a duplicate at worst.
  func resumeDuties() {
    work.isPolling = false
    work.residence = Residence()
    if work.isDraining {
      work.transmitter.write(device.queue, work.capture)
      Transmitter.finish(here)
      work.isDraining = false
    }
  }

  // MARK: Descriptors

  /// All of ours, -1 where there is none. Under the lock, or where no other thread is.
  var descriptors: InlineArray<5, Int32> {
    [device.descriptor, work.timer, work.log.descriptor, work.capture.descriptor, work.statisticsOutput]
  }

  /// Changes a number at a moment when no thread reads or writes by it, and returns when nobody sleeps on it either. Both
  /// numbers must stay open until then.
  func replaceDescriptor(_ number: Int32, by other: Int32) {
    let me = here
    while true {
      anp_lock(me.pointee.lockWord)
      if !me.pointee.work.isDraining, !me.pointee.work.isPolling { break }
      anp_unlock(me.pointee.lockWord)
      anp_sleep(20_000)
    }
    if me.pointee.device.descriptor == number { me.pointee.device.descriptor = other }
    if me.pointee.work.timer == number { me.pointee.work.timer = other }
    me.pointee.work.log.replaceDescriptor(number, by: other)
    me.pointee.work.capture.replaceDescriptor(number, by: other)
    if me.pointee.work.statisticsOutput == number { me.pointee.work.statisticsOutput = other }
    let round = anp_sleep_move(me.pointee.sleep, me.pointee.device.descriptor, me.pointee.work.timer)
    me.pointee.kick()
    anp_unlock(me.pointee.lockWord)
    while anp_sleep_rounds(me.pointee.sleep) == round { anp_sleep(20_000) }
  }
}

/// What changes in a shard, apart from the stack.
struct ShardWork {
  var receiver: Receiver
  var transmitter: Transmitter
  var log: Log
  var capture: Capture
  /// Where the counters go at the end, -1 = nowhere. Opened at the start: at the end it may be the keeper who writes.
  var statisticsOutput: Int32
  var calls = DeviceCalls()

  /// In the keeper: a thread died inside, nothing of the stack can be used.
  var isLost = false
  var isDraining = false
  var isPolling = false
  var residence = Residence()
  /// Frames per poll of anp-rx.
  let budget: Int
  /// ANP_BUSY_POLL
  let busyPoll: Int?
  /// Large writes may go out from the program's memory.
  let lends: Bool
  /// Small writes may wait for those that always follow them (Preload's AutoCork).
  let joinsWrites: Bool
  /// ANP_COALESCE, nanoseconds
  let coalesce: Int64
  let hasSeveralCores = anp_has_several_cores() != 0
  /// The device is gone or refuses service: what was said about it already (errno's value), 0 = nothing.
  var reportedDeviceError: Int32 = 0

  /// The timer descriptor that ends anp-rx's sleep, and the time it is set to. A timer instead of an eventfd and a sleep with a
  /// time-out: an earlier deadline costs its maker one system call, no thread wakes up before there is something to do.
  var timer: Int32
  var alarm = Instant.distantFuture

  init(_ parts: ShardParts) {
    receiver = Receiver(ringSize: parts.ringSize)
    transmitter = Transmitter(gathers: parts.offloads.contains(.scatterGather))
    lends = parts.offloads.contains(.zeroCopy)
    joinsWrites = parts.joinsWrites
    budget = parts.budget
    busyPoll = parts.busyPoll
    coalesce = Int64(parts.coalesce) * 1000
    log = parts.log
    capture = parts.capture
    statisticsOutput = parts.statisticsOutput
    timer = parts.timer
  }
}

/// What a shard is made of.
struct ShardParts {
  var index: Int
  var gate: UnsafeMutablePointer<UInt32>
  var stack: UnsafeMutablePointer<Stack>
  var device: TAPDevice
  var deviceName: UnsafePointer<CChar>
  var timer: Int32
  var ringSize: Int
  var budget: Int
  var busyPoll: Int?
  var offloads: Offloads
  var coalesce: Int
  var joinsWrites: Bool
  var log: Log
  var capture: Capture
  var statisticsOutput: Int32
  var queueDropsAtStart: UInt64
  var started: Instant
}

/// What the device cost in system calls: "the kernel's" share of the bytes, beside the stack's own counters.
struct DeviceCalls {
  var reads: UInt64 = 0
  var readBytes: UInt64 = 0
  var writes: UInt64 = 0
  var writeBytes: UInt64 = 0
  /// Super-frames among them.
  var readSuperFrames: UInt64 = 0
  var writeSuperFrames: UInt64 = 0
  /// Bytes of frames that were put together before they were written.
  var copyBytes: UInt64 = 0

  mutating func add(_ other: DeviceCalls) {
    reads &+= other.reads
    readBytes &+= other.readBytes
    writes &+= other.writes
    writeBytes &+= other.writeBytes
    readSuperFrames &+= other.readSuperFrames
    writeSuperFrames &+= other.writeSuperFrames
    copyBytes &+= other.copyBytes
  }
}
