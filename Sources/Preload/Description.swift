// Owns: the open file description of an internet socket: what the descriptors that dup made share. Its side, its handle in
// the stack, the options recorded before the side was known, who waits on it.
//
//   undecided ──connect/bind/listen/sendto──► stack      calls go to the shard's stack
//        └───────────────────────────────────► kernel     the descriptors drop out of the table: plain libc from then on
//
// What may be touched when: `life`, `side`, words, flags and `pollers` are atomics; `interests` belongs to the state lock; the
// rest is written before the side turns to `.stack` or under the shard's lock. `handle` and `shard` of a socket that is in all
// shards (Spread.swift) change under the locks of all.

import CSupport
import Host
import Netstack
import Synchronization
import Wire

typealias DescriptionPointer = UnsafeMutablePointer<Description>
typealias WordPointer = UnsafeMutablePointer<Atomic<UInt32>>

enum Side: UInt8 {
  case undecided = 0
  case stack = 1
  case kernel = 2
}

/// Where a socket's readiness is to be found.
enum Place: Equatable {
  /// Not in the stack.
  case nowhere
  case shard(UInt8)
  /// In all; what waits for accept is counted outside of them.
  case listening

  /// The shards whose locks make it stand still.
  @inline(__always)
  var locks: ShardMask {
    if case .shard(let index) = self { return ShardMask(Int(index)) }
    return .none
  }

  /// The shards that can bring about a change.
  @inline(__always)
  var sources: ShardMask {
    switch self {
    case .nowhere: .none
    case .shard(let index): ShardMask(Int(index))
    case .listening: .all
    }
  }
}

struct Description: ~Copyable, Pooled {
  let index: UInt32
  var nextFree: UInt32 = 0
  let life = Lifetime()
  private let sideValue = Atomic<UInt8>(0)
  /// O_NONBLOCK, which dup'ed descriptors share.
  let nonBlocking = Atomic<Bool>(false)

  var family: Int32 = 0
  var kind = SocketKind.stream
  /// Of a datagram socket.
  var datagramKind = DatagramKind.udp
  /// The placeholder is a UDP socket, as the kernel refused one of this type: it can never become the kernel's.
  var isStoodInFor = false
  /// As given to socket(): SO_PROTOCOL.
  var ipProtocol: Int32 = 0

  var handle = SocketHandle(.stream, SlabHandle(index: 0, generation: 0))
  private let shardAddress = Atomic<UInt>(0)
  /// Where it is in all shards: its socket in each, by the shard's number; `handle` is one of them.
  var replicas: UnsafeMutablePointer<SocketHandle>?
  let isEverywhere = Atomic<Bool>(false)
  /// Address of the queue of a listener that is in all shards; 0 = is none. Written under the locks of all and the state lock.
  let listenQueue = Atomic<UInt>(0)
  /// Memory for it, made once.
  var listenQueueMemory: ListenQueuePointer?

  /// How sure it is that a small write is followed by another at once (AutoCork).
  let pairs = Atomic<Int8>(0)
  /// SO_RCVTIMEO, SO_SNDTIMEO, nanoseconds; -1 = none.
  var receiveTimeout: Int64 = -1
  var sendTimeout: Int64 = -1
  /// IPV6_V6ONLY, while the side is not decided.
  var onlyIPv6 = false
  /// What the socket is bound to where bind was asked for any address.
  var wildcard: IPAddress { family == Family.inet6 ? .anyIPv6 : .anyIPv4 }
  /// SO_TIMESTAMP or SO_TIMESTAMPNS, in the layout that was asked for: the option's number; 0 = off.
  var timestamps: Int32 = 0
  /// SO_TIMESTAMPING's flags, and which of its two numbers was used.
  var timestampingFlags: Int32 = 0
  var timestamping: Int32 = 0
  /// bind(wildcard, port 0) happened on the placeholder; the stack is told when the side is decided.
  var boundToEphemeral = false
  /// The port that the placeholder had until the stack took it over.
  var ephemeralPort: UInt16 = 0
  /// connect on a UDP socket before there is a stack (DeferredConnect.swift).
  var deferredPeer: Endpoint?
  /// A connect is under way whose success no connect call has reported yet.
  var connectUnreported = false
  var zeroCopy = ZeroCopyQueue()
  var recorded = RecordedOptions()
  var recordedDatagram = RecordedOptions()
  /// ICMP6_FILTER, as getsockopt tells it.
  var icmp6Filter = ICMP6Filter()
  /// IP_MULTICAST_IF, as getsockopt tells it.
  var multicastInterface = IPAddress.anyIPv4

  /// A datagram socket's other side (KernelSide.swift): whether there is one, whether something may be waiting there, whether it is the
  /// one that connect chose, and whose turn it is where both have something.
  let hasKernelSide = Atomic<Bool>(false)
  let kernelReadable = Atomic<Bool>(false)
  let isConnectedToKernel = Atomic<Bool>(false)
  let kernelsTurn = Atomic<Bool>(false)

  /// Futex words that change when the socket may have become readable or writable, and whether anybody sleeps there.
  let readWord: WordPointer
  let writeWord: WordPointer
  let readWaiting = Atomic<Bool>(false)
  let writeWaiting = Atomic<Bool>(false)
  /// Slots of the threads in poll or select that want to hear of a change (see Pollers).
  let pollers = Atomic<UInt64>(0)
  /// Epoll interests in this socket, and a hint that there are any.
  var interests: InterestPointer?
  let hasInterests = Atomic<Bool>(false)

  init(index: UInt32) {
    self.index = index
    readWord = .allocate(capacity: 2)
    writeWord = readWord + 1
    readWord.initialize(to: Atomic<UInt32>(0))
    writeWord.initialize(to: Atomic<UInt32>(0))
  }

  @inline(__always)
  var shard: UnsafeMutablePointer<Shard>? {
    UnsafeMutablePointer(bitPattern: shardAddress.load(ordering: .acquiring))
  }
  func setShard(_ shard: UnsafeMutablePointer<Shard>?) {
    shardAddress.store(UInt(bitPattern: shard), ordering: .releasing)
  }

  @inline(__always)
  var side: Side { Side(rawValue: sideValue.load(ordering: .acquiring)).unsafelyUnwrapped }
  func setSide(_ side: Side) { sideValue.store(side.rawValue, ordering: .sequentiallyConsistent) }

  /// SO_TYPE
  var socketType: Int32 {
    if kind == .stream { return SocketType.stream }
    return datagramKind == .raw ? SocketType.raw : SocketType.datagram
  }

  /// Waiting for what comes tells that it is the stack's: it serves, or listens to a whole protocol.
  var servesWhenWaitedFor: Bool {
    guard kind == .datagram else { return false }
    if datagramKind == .raw || deferredPeer != nil { return true }
    return boundToEphemeral && !hasKernelSide.load(ordering: .relaxed)
  }

  /// What the stack hands back with a change: 0 means nobody.
  var cookie: UInt32 { index + 1 }

  mutating func begin(family: Int32, kind: SocketKind, ipProtocol: Int32) {
    datagramKind = .udp
    isStoodInFor = false
    self.family = family
    self.kind = kind
    self.ipProtocol = ipProtocol
    setSide(.undecided)
    nonBlocking.store(false, ordering: .relaxed)
    setShard(nil)
    isEverywhere.store(false, ordering: .relaxed)
    listenQueue.store(0, ordering: .relaxed)
    pairs.store(0, ordering: .relaxed)
    receiveTimeout = -1
    sendTimeout = -1
    onlyIPv6 = false
    timestamps = 0
    timestampingFlags = 0
    timestamping = 0
    boundToEphemeral = false
    ephemeralPort = 0
    deferredPeer = nil
    connectUnreported = false
    zeroCopy = ZeroCopyQueue()
    recorded = RecordedOptions()
    recordedDatagram = RecordedOptions()
    icmp6Filter = ICMP6Filter()
    multicastInterface = .anyIPv4
    hasKernelSide.store(false, ordering: .relaxed)
    kernelReadable.store(false, ordering: .relaxed)
    isConnectedToKernel.store(false, ordering: .relaxed)
    kernelsTurn.store(false, ordering: .relaxed)
    readWaiting.store(false, ordering: .relaxed)
    writeWaiting.store(false, ordering: .relaxed)
    pollers.store(0, ordering: .relaxed)
    interests = nil
    hasInterests.store(false, ordering: .relaxed)
    life.begin()
  }
}

extension UnsafeMutablePointer where Pointee == Description {
  /// The entry of the descriptor table that names this description.
  var tableEntry: UInt64 {
    anp_fd_entry(UInt32(ANP_FD_SOCKET.rawValue), pointee.index, pointee.life.generation)
  }

  /// Where the stack's socket is, for whoever looks at its readiness or waits for it.
  @inline(__always)
  var place: Place {
    guard pointee.side == .stack, let shard = pointee.shard else { return .nowhere }
    return pointee.listenQueue.load(ordering: .relaxed) != 0 ? .listening : .shard(UInt8(shard.pointee.index))
  }

  /// Level-triggered readiness, under the state lock. For a socket of the stack the caller holds its shard as well.
  @inline(__always)
  func readinessLocked() -> UInt32 {
    switch pointee.side {
    case .stack:
      if let queue = ListenQueuePointer(bitPattern: pointee.listenQueue.load(ordering: .relaxed)) {
        return queue.pointee.accepted.load(ordering: .sequentiallyConsistent) > 0 ? Readiness.readable.rawValue : 0
      }
      var level = pointee.shard.unsafelyUnwrapped.pointee.stack.readiness(pointee.handle).rawValue
      if !pointee.zeroCopy.isEmpty { level |= PollEvent.error }
      if pointee.kernelReadable.load(ordering: .sequentiallyConsistent) { level |= Readiness.readable.rawValue }
      // datagram_poll says EPOLLWRBAND as well, tcp_poll does not.
      return pointee.kind == .datagram && level & PollEvent.writable != 0 ? level | PollEvent.writeBand : level
    case .undecided, .kernel:
      // What Linux reports for a fresh socket: a stream one is TCP_CLOSE, hence hung up (tcp_poll).
      let writable = PollEvent.writable | PollEvent.writeNormal
      if pointee.kind == .stream { return writable | PollEvent.hangUp }
      let isReadable = pointee.kernelReadable.load(ordering: .sequentiallyConsistent)
      return writable | PollEvent.writeBand | (isReadable ? Readiness.readable.rawValue : 0)
    }
  }

  /// A new description with one reference, or nil when there are too many.
  static func make(family: Int32, kind: SocketKind, ipProtocol: Int32) -> DescriptionPointer? {
    anp_state_lock()
    let taken = preload.pointee.descriptions.take()
    anp_state_unlock()
    guard let taken else { return nil }
    taken.pointee.begin(family: family, kind: kind, ipProtocol: ipProtocol)
    return taken
  }

  /// Gives a reference back; the last one closes the socket. The caller holds no lock.
  @inline(__always)
  func release() {
    if pointee.life.release() { finish() }
  }

  @inline(never)
  private func finish() {
    if pointee.side == .stack, let shard = pointee.shard, HostRuntime.isRunning(shard) {
      if pointee.isEverywhere.load(ordering: .relaxed) {
        Spread.close(self)
      } else {
        Spread.close(pointee.handle, in: shard)
      }
    }
    anp_state_lock()
    while let interest = pointee.interests { Epoll.removeLocked(interest) }
    pointee.life.end()
    preload.pointee.descriptions.give(self)
    anp_state_unlock()
  }
}

/// The description that a table entry names, with a reference taken, or nil when that life is over.
@inline(__always)
func acquireDescription(_ entry: UInt64) -> DescriptionPointer? {
  let description = preload.pointee.descriptions.record(anp_fd_index_of(entry))
  return description.pointee.life.acquire(anp_fd_generation_of(entry)) ? description : nil
}
