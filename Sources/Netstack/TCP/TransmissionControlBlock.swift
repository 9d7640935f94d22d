// Owns: the record of one connection, listener or unconnected stream socket: RFC 9293's TCB with the names of §3.3.1, the
// socket options, the queues and the links of the tables it is in. Behaviour is in SegmentArrives*, Output,
// Retransmission and, for the program's calls, Socket/StreamSocket. Read first: RFC 9293 §3.3.1, §3.10.
//
// A TCB lives in a slab slot at a fixed address from `open` (or an arriving SYN) until it is CLOSED, its program has let go
// of it and no frame on its way to the device points into its send buffer.

import Synchronization
import Wire

package typealias TCBPointer = UnsafeMutablePointer<TransmissionControlBlock>

/// Send sequence space (RFC 9293 §3.3.1, figure 3).
struct SendSequence {
  /// SND.UNA: oldest unacknowledged.
  var una = SequenceNumber(0)
  /// SND.NXT: next to be sent.
  var nxt = SequenceNumber(0)
  /// SND.WND: the peer's window, bytes, already scaled (RFC 7323 §2.3). May shrink: `una + wnd` is not monotonic.
  var wnd = 0
  /// SND.WL1, SND.WL2: sequence and acknowledgment of the last window update.
  var wl1 = SequenceNumber(0)
  var wl2 = SequenceNumber(0)
  /// ISS
  var iss = SequenceNumber(0)
  /// Max(SND.WND): the largest window the peer ever offered (RFC 9293 §3.8.6.2.1).
  var maximumWindow = 0
  /// Snd.Wind.Shift (RFC 7323 §2.3)
  var shift: UInt8 = 0
  /// The sequence number of the send buffer's first byte: `una`, but for SYN and FIN.
  var bufferStart = SequenceNumber(0)
  /// End of the last segment sent that was smaller than the MSS (Minshall's form of Nagle's rule).
  var smallEnd = SequenceNumber(0)
  /// The window may carry data up to here.
  var edge: SequenceNumber { una + wnd }
}

/// Receive sequence space (RFC 9293 §3.3.1, figure 4).
struct ReceiveSequence {
  /// RCV.NXT
  var nxt = SequenceNumber(0)
  /// IRS
  var irs = SequenceNumber(0)
  /// RCV.NXT + RCV.WND as last advertised: the right edge, which never moves left (RFC 9293 §3.8.6).
  var edge = SequenceNumber(0)
  /// RCV.NXT when the last acknowledgment went out (RFC 7323's Last.ACK.sent).
  var acknowledged = SequenceNumber(0)
  /// Rcv.Wind.Shift
  var shift: UInt8 = 0
  /// RCV.WND: what the peer may still send.
  var wnd: Int { max(edge - nxt, 0) }
}

/// What setsockopt can change, with Linux's units and defaults.
struct StreamOptions {
  var reuseAddress = false
  var reusePort = false
  var keepAlive = false
  var broadcast = false
  /// SO_LINGER, seconds; -1 = off.
  var linger = -1
  /// SO_RCVBUF and SO_SNDBUF as getsockopt tells them; locked = set by the program, so auto-tuning keeps away.
  var receiveBuffer = 131072
  var sendBuffer = 16384
  var receiveBufferLocked = false
  var sendBufferLocked = false
  var receiveLowWater = 1
  var noDelay = false
  var cork = false
  /// TCP_MAXSEG as set; 0 = not set.
  var maximumSegment = 0
  /// Seconds; 0 = the setting's.
  var keepIdle = 0
  var keepInterval = 0
  var keepCount = 0
  /// Milliseconds; 0 = the setting's.
  var userTimeout = 0
  var quickAck = false
  var deferAccept = 0
  var synCount = 0
  var linger2 = 0
  var windowClamp = 0
  var notSentLowWater = 0
  var typeOfService: UInt8 = 0
  /// IPV6_TCLASS, IPV6_UNICAST_HOPS (0 = the default), IPV6_V6ONLY
  var trafficClass: UInt8 = 0
  var hopLimit = 0
  var onlyIPv6 = false
  /// 0 = the setting's.
  var timeToLive = 0
  var mtuDiscover = 1
  var freeBind = false
  var bindAddressNoPort = false
  var receiveErrors = false
  var congestion: CongestionAlgorithm = .cubic
}

package struct TransmissionControlBlock: ~Copyable {
  private let inMemory = InMemory()
  // MARK: Identity and tables
  let index: UInt32
  var tuple = FourTuple(local: Endpoint(.anyIPv4, 0), remote: Endpoint(.anyIPv4, 0))
  var state = TCPState.closed
  var cookie: UInt32
  /// A program holds a descriptor of it. Not so: a child that was not accepted yet, or the program closed it.
  var isOpen: Bool
  /// The slot's links, all slot index + 1, 0 = none: connection table, port table, accept queue, lists of `Stack/`.
  var hashNext: UInt32 = 0
  var isHashed = false
  var portNext: UInt32 = 0
  var portPrevious: UInt32 = 0
  var isInPortTable = false
  var acceptNext: UInt32 = 0
  var workNext: UInt32 = 0
  var isInWorkList = false
  var changedNext: UInt32 = 0
  var isInChangedList = false
  /// Waits only for its last frame to leave the device.
  var isZombie = false
  /// The program called bind; the port was chosen by it (Linux's userlocks).
  var isBound = false
  /// What bind was asked for; connect puts our address in its place.
  var boundAddress = IPAddress.anyIPv4
  /// The program's socket is of AF_INET6, which speaks to IPv4 too unless IPV6_V6ONLY.
  var isIPv6 = false
  /// Its family's wildcard.
  var anyAddress: IPAddress { isIPv6 ? .anyIPv6 : .anyIPv4 }
  /// What its packets' headers say, as options or defaults (0) have it.
  var sentTimeToLive: Int { tuple.remote.address.isIPv4 ? options.timeToLive : options.hopLimit }
  var sentTypeOfService: UInt8 { tuple.remote.address.isIPv4 ? options.typeOfService : options.trafficClass }

  mutating func setFamily(isIPv6: Bool) {
    self.isIPv6 = isIPv6
    boundAddress = anyAddress
    tuple = FourTuple(local: Endpoint(anyAddress, 0), remote: Endpoint(anyAddress, 0))
  }
  var options = StreamOptions()

  // MARK: Sequence spaces and queues
  var snd = SendSequence()
  var rcv = ReceiveSequence()
  var sendBuffer = ByteRing()
  var receiveQueue = ReceiveQueue()
  var scoreboard = SACKScoreboard()
  /// The program asked for FIN; it follows the last byte of the send buffer.
  var finQueued = false
  var finSent = false
  /// The peer's FIN was taken in order.
  var finReceived = false
  /// It was the peer that ended the stream, not a reset or a time-out.
  var streamEnded = false
  var readShutdown = false
  var error: SocketError?
  /// An ICMP error that did not end the connection: told if it then times out (Linux's sk_err_soft).
  var softError: SocketError?
  /// The program was told "no room" and wants to hear of it (Linux's SOCK_NOSPACE).
  var wantsSpace = false
  /// New since `nextChanged` last told.
  var events = Readiness(rawValue: 0)
  var work = PendingWork()
  /// MSG_MORE was set on the last send: hold back a partial segment.
  var moreComing = false
  /// It only may, and not for long (SendFlags.hold).
  var isHeld = false

  // MARK: What was negotiated
  /// SMSS: largest payload to send, without options' bytes, bytes.
  var maximumSegment = 536
  /// The peer's MSS option.
  var peerMaximumSegment = 536
  /// Our MSS option.
  var advertisedSegment = 1460
  var pathMTU = 1500
  /// Segments larger than this seem to vanish (RFC 4821 §7.7); 0 where none do. Until when that is believed.
  var blackHoleSegment = 0
  var blackHoleUntil = Instant.zero
  var timestampsOn = false
  var sackOn = false
  var windowScaleOn = false
  /// TS.Recent and when it was taken (RFC 7323 §4.3); Last.ACK.sent is `rcv.acknowledged`.
  var recentTimestamp: UInt32 = 0
  var recentTimestampAt = Instant.zero
  var timestampOffset: UInt32 = 0

  // MARK: Timers
  var sendTimer = SendTimer.idle
  let sendTimerID: TimerID
  let delayedAckTimerID: TimerID
  /// Keep-alive, FIN-WAIT-2 and linger.
  let lifeTimerID: TimerID
  var rtt = RTTEstimator()
  /// Time-outs in a row without progress, and when the first of them was sent (user time-out).
  var retransmits = 0
  var retransmitsSince = Instant.zero
  /// Zero-window probes in a row.
  var probesOut = 0
  var persistBackoff = 0
  var probesSince = Instant.zero
  var keepaliveProbesOut = 0
  /// SYN or SYN-ACK retransmissions.
  var synRetries = 0

  // MARK: Congestion and loss
  var congestion: CongestionControl
  var recovery = RecoveryState.open
  /// SND.NXT when recovery began (RFC 6675's RecoveryPoint).
  var recoveryPoint = SequenceNumber(0)
  /// PRR (RFC 6937): bytes delivered and sent in this recovery; the window when it began.
  var prrDelivered = 0
  var prrOut = 0
  var prrPriorWindow = 0
  /// Duplicate acknowledgments without SACK (RFC 5681 §3.2).
  var duplicateAcks = 0
  /// RACK's reordering window (RFC 8985 §6.2 step 4).
  var reorderingSeen = false
  var reorderingWindowMultiplier = 1
  var reorderingWindowPersist = 0
  var dsackRound: SequenceNumber?
  /// RFC 8985 §7: end of the probe in flight, and whether it was a retransmission.
  var lossProbeEnd: SequenceNumber?
  var lossProbeWasRetransmission = false
  /// Undo: the oldest number that recovery retransmitted from, how many retransmissions a DSACK has not called needless yet,
  /// and the timestamp of the first.
  var undoMarker: SequenceNumber?
  var undoRetransmissions = 0
  var firstRetransmissionStamp: UInt32 = 0
  /// The congestion window, not the program or the peer, was the limit when data last went out.
  var windowLimited = false
  var lastSentAt = Instant.zero
  var lastReceivedAt = Instant.zero
  var lastAckAt = Instant.zero

  // MARK: Receiver
  /// The peer's segment size as seen (Linux's rcv_mss): for the second-segment rule and window updates.
  var receivedSegment = 536
  /// A quota of acknowledgments that are sent at once at the connection's beginning (Linux's quick ACKs).
  var quickAcks = 0
  /// How many acknowledgments to send at once: one per early segment where SACK is off (RFC 5681 §4.2).
  var duplicateAcksOwed = 0
  var ackDelayed = false
  /// Segments smaller than the peer's MSS since the last acknowledgment, up to two (Linux's ICSK_ACK_PUSHED and …_PUSHED2).
  var smallReceived: UInt8 = 0
  /// Alternating traffic: delayed acknowledgments pay (Linux's pingpong).
  var interactive = false
  /// The current delayed-ACK interval.
  var ackTimeout = Interval.milliseconds(40)
  /// D-SACK to report with the next acknowledgment (RFC 2883).
  var duplicateBlock: SACKBlock?
  /// Bytes of window that the receive buffer allows; grown by auto-tuning.
  var receiveSpace = 65536
  /// Auto-tuning (Linux's DRS): bytes the program took since `tuneAt`.
  var tuneCopied = 0
  var tuneSpace = 0
  var tuneAt = Instant.zero
  var receiverRTT: Int64 = 0
  var receiverRTTStamp: UInt32 = 0
  /// The last challenge ACK and out-of-window ACK (RFC 5961 §7, tcp_invalid_ratelimit).
  var lastChallengeAt = Instant.zero
  var challengesInSecond = 0
  var lastInvalidAckAt = Instant.zero

  // MARK: Listening and being listened for
  var backlog = 0
  /// Children with a finished handshake, first and last (index + 1), and how many; children still shaking hands.
  var acceptFirst: UInt32 = 0
  var acceptLast: UInt32 = 0
  private(set) var acceptCount = 0
  private(set) var synCount = 0
  /// Where the listener is in several stacks: what they have together.
  var listenQueue: ListenQueuePointer?
  /// The listener of a child that was not accepted yet.
  var parent: SlabHandle?
  /// TCP_DEFER_ACCEPT: the handshake's ACK came, data did not.
  var deferredAcked = false

  // MARK: Path
  /// The gateway or the peer itself, cached with the hardware address it resolved to.
  var neighborGeneration: UInt32 = 0
  var nextHop = IPAddress.anyIPv4
  /// When the neighbour was last told to be reachable.
  var neighborConfirmedAt = Instant.zero
  var ipIdentification: UInt16 = 0
  /// RFC 6437
  var flowLabel: UInt32 = 0

  // MARK: Counters for TCP_INFO
  var bytesAcked: UInt64 = 0
  var bytesReceived: UInt64 = 0
  var bytesSent: UInt64 = 0
  var bytesRetransmitted: UInt64 = 0
  var segmentsOut: UInt32 = 0
  var segmentsIn: UInt32 = 0
  var dataSegmentsOut: UInt32 = 0
  var dataSegmentsIn: UInt32 = 0
  var totalRetransmits: UInt32 = 0
  var dsackDuplicates: UInt32 = 0
  var reorderingCount: UInt32 = 0
  var outOfOrderCount: UInt32 = 0

  init(index: UInt32, cookie: UInt32, isOpen: Bool, env: EnvironmentPointer) {
    self.index = index
    self.cookie = cookie
    self.isOpen = isOpen
    sendTimerID = env.pointee.wheel.allocate(kind: TimerKind.tcpSend, owner: index)
    delayedAckTimerID = env.pointee.wheel.allocate(kind: TimerKind.tcpDelayedAck, owner: index)
    lifeTimerID = env.pointee.wheel.allocate(kind: TimerKind.tcpLife, owner: index)
    options.congestion = env.pointee.settings.tcpCongestionControl
    options.receiveBuffer = env.pointee.settings.tcpRmem.initial
    options.sendBuffer = env.pointee.settings.tcpWmem.initial
    congestion = CongestionControl(algorithm: options.congestion, segment: 1460)
  }

  /// The program has closed it, and it goes on by itself (Linux: SOCK_DEAD). A child that was not accepted yet is none.
  var isOrphan: Bool { !isOpen && parent == nil }

  /// The sequence number after the last byte the program queued (FIN not counted).
  var dataEnd: SequenceNumber { snd.bufferStart + sendBuffer.count }

  /// Bytes sent and unacknowledged that are thought to be in the network (RFC 6675's pipe).
  var pipe: Int {
    let flight = snd.nxt - snd.una - scoreboard.sackedBytes - scoreboard.lostBytes
    if sackOn { return flight }
    return max(flight - duplicateAcks * maximumSegment, 0)
  }

  /// Payload per segment: SMSS less the options that every segment carries (RFC 6691 §2).
  @inline(__always)
  var segmentPayload: Int { max(maximumSegment - (timestampsOn ? 12 : 0), 1) }

  /// Our timestamp clock: milliseconds plus a secret offset (RFC 7323 §5.4, §7.1).
  @inline(__always)
  func timestamp(_ now: Instant) -> UInt32 { UInt32(truncatingIfNeeded: now.milliseconds) &+ timestampOffset }

  /// Adds to what `nextChanged` will tell.
  @inline(__always)
  mutating func raise(_ new: Readiness) { events.formUnion(new) }

  // MARK: Timers

  mutating func arm(_ timer: SendTimer, after interval: Interval, _ env: EnvironmentPointer) {
    sendTimer = timer
    env.pointee.wheel.schedule(sendTimerID, at: env.pointee.now + interval)
  }

  mutating func disarmSendTimer(_ env: EnvironmentPointer) {
    guard sendTimer != .idle else { return }
    sendTimer = .idle
    env.pointee.wheel.cancel(sendTimerID)
  }

  mutating func cancelTimers(_ env: EnvironmentPointer) {
    disarmSendTimer(env)
    env.pointee.wheel.cancel(delayedAckTimerID)
    env.pointee.wheel.cancel(lifeTimerID)
    ackDelayed = false
  }

  mutating func releaseTimers(_ env: EnvironmentPointer) {
    env.pointee.wheel.release(sendTimerID)
    env.pointee.wheel.release(delayedAckTimerID)
    env.pointee.wheel.release(lifeTimerID)
  }

  /// How long without progress before the connection is given up, as Linux computes it from a number of doublings
  /// (`retransmits_timed_out`): the time those would take starting at the minimum RTO.
  func patience(doublings: Int, _ env: EnvironmentPointer) -> Interval {
    let base = Int64(env.pointee.settings.tcpRtoMin) * 1_000_000
    let limit = Int64(env.pointee.settings.tcpRtoMax) * 1_000_000
    var total: Int64 = 0
    var step = base
    for _ in 0...max(doublings, 0) {
      total += step
      step = min(step * 2, limit)
    }
    return Interval(nanoseconds: total)
  }

  // MARK: Listening

  /// Of the listener, in all stacks that it is in.
  var queuedForAccept: Int { listenQueue?.pointee.accepted.load(ordering: .relaxed) ?? acceptCount }
  var handshakes: Int { listenQueue?.pointee.handshakes.load(ordering: .relaxed) ?? synCount }

  mutating func countForAccept(_ n: Int) {
    acceptCount += n
    listenQueue?.pointee.accepted.add(n, ordering: .sequentiallyConsistent)
  }

  mutating func countHandshakes(_ n: Int) {
    synCount += n
    listenQueue?.pointee.handshakes.add(n, ordering: .relaxed)
  }

  /// A line of the trace about a segment. Sequence numbers are told relative to the initial ones.
  func traceSegment(
    _ kind: TraceKind, flags: TCPFlags, sequence: SequenceNumber, acknowledgment: SequenceNumber, length: Int,
    window: Int,
    again: Bool, _ env: EnvironmentPointer
  ) {
    var event = TraceEvent(env.pointee.now, .tcp, .debug, kind)
    event.tuple = tuple
    event.flags = flags
    let inbound = kind == .segmentIn
    // A SYN is what defines the initial number.
    let origin = inbound ? (flags.contains(.syn) ? sequence.value : rcv.irs.value) : snd.iss.value
    event.sequence = sequence.value &- origin
    event.acknowledgment = flags.contains(.ack) ? acknowledgment.value &- (inbound ? snd.iss.value : rcv.irs.value) : 0
    event.length = UInt32(truncatingIfNeeded: length)
    event.window = UInt32(truncatingIfNeeded: window)
    event.b = again ? 1 : 0
    env.pointee.trace.append(event)
  }

  mutating func trace(_ kind: TraceKind, _ level: TraceLevel, a: Int64 = 0, b: Int64 = 0, _ env: EnvironmentPointer) {
    guard env.pointee.trace.allows(.tcp, level) else { return }
    var event = TraceEvent(env.pointee.now, .tcp, level, kind)
    event.tuple = tuple
    event.a = a
    event.b = b
    env.pointee.trace.append(event)
  }

  /// The one place where the state changes.
  mutating func enter(_ new: TCPState, _ env: EnvironmentPointer) {
    trace(.stateChange, .info, a: Int64(state.rawValue), b: Int64(new.rawValue), env)
    state = new
  }
}
