// Owns: what time brings about: the wheel's due timers, handed to their owners.

import Wire

extension Stack {
  /// When to call `advance(to:)` next; nil while nothing waits. Never too late, perhaps early.
  package func nextDeadline() -> Instant? { environment.pointee.wheel.nextDeadline() }

  package mutating func advance(to now: Instant) {
    let env = environment
    env.pointee.now = now
    env.pointee.statistics.count(.timerRuns)
    while let timer = env.pointee.wheel.nextExpired(now: now) {
      switch timer.kind {
      case TimerKind.tcpSend:
        let tcb = tcbs.pointer(at: timer.owner)
        conclude(tcb, tcb.pointee.state, tcb.pointee.sendTimerExpired(env))
      case TimerKind.tcpDelayedAck:
        let tcb = tcbs.pointer(at: timer.owner)
        tcb.pointee.delayedAckTimerExpired(env)
        noteWork(tcb)
      case TimerKind.tcpLife:
        let tcb = tcbs.pointer(at: timer.owner)
        conclude(tcb, tcb.pointee.state, tcb.pointee.lifeTimerExpired(env))
      case TimerKind.timeWait:
        timeWaits.remove(timer.owner, env)
      case TimerKind.neighbor:
        advanceNeighbors()
      case TimerKind.reassembly:
        advanceReassembly()
      case TimerKind.interface:
        advanceInterface()
      case TimerKind.dhcp:
        advanceDHCP()
      case TimerKind.multicast:
        advanceMulticast()
      default:
        break
      }
    }
    flush()
  }

  private mutating func conclude(_ tcb: TCBPointer, _ before: TCPState, _ verdict: TimerVerdict) {
    if case .timedOut = verdict {
      // Linux resets a peer that stopped answering keep-alives or data, if a connection had been there.
      if before.isSynchronized, tcb.pointee.state != .closed { sendReset(of: tcb) }
      tcb.pointee.abort(nil, environment)
    }
    settle(tcb, before: before)
  }

  // MARK: Neighbours

  mutating func rearmNeighborTimer() {
    neighbors.hasNewDeadline = false
    if let deadline = neighbors.nextDeadline() {
      environment.pointee.wheel.schedule(neighborTimer, at: deadline)
    } else {
      environment.pointee.wheel.cancel(neighborTimer)
    }
  }

  private mutating func advanceNeighbors() {
    let env = environment
    while let action = neighbors.nextAction(now: env.pointee.now, settings: &env.pointee.settings) {
      switch action {
      case .sendRequest(let who, let hardware):
        requestNeighbor(who, unicastTo: hardware)
      case .failed(let who, var waiting):
        neighborFailed(who, &waiting)
      }
    }
    rearmNeighborTimer()
  }

  /// Nobody answered: the sockets whose packets waited learn that the host is unreachable (Linux's arp_error_report).
  private mutating func neighborFailed(_ who: IPAddress, _ waiting: inout PacketQueue) {
    let env = environment
    if env.pointee.trace.allows(.arp, .warn) {
      var event = TraceEvent(env.pointee.now, .arp, .warn, .neighborFailed)
      event.tuple.remote = Endpoint(who, 0)
      env.pointee.trace.append(event)
    }
    while let packet = waiting.removeFirst() {
      reportUnreachable(packet)
      discard(packet, .neighborUnreachable, .arp)
    }
  }

  private mutating func reportUnreachable(_ packet: PacketBuffer) {
    guard let (tuple, proto, offset) = FourTuple.quoted(packet.readable) else { return }
    if proto == IPProtocol.tcp, let tcb = demux.find(tuple, in: tcbs) {
      let before = tcb.pointee.state
      if before == .synSent {
        tcb.pointee.abort(.hostUnreachable, environment)
      } else {
        tcb.pointee.softError = .hostUnreachable
      }
      settle(tcb, before: before)
    } else {
      datagramUnreachable(packet, tuple, proto, transport: offset)
    }
  }

  // MARK: Reassembly

  mutating func rearmReassemblyTimer() {
    if let deadline = reassembly.nextDeadline() {
      environment.pointee.wheel.schedule(reassemblyTimer, at: deadline)
    } else {
      environment.pointee.wheel.cancel(reassemblyTimer)
    }
  }

  private mutating func advanceReassembly() {
    let env = environment
    while let expired = reassembly.nextExpired(now: env.pointee.now, pool: &env.pointee.pool) {
      env.pointee.statistics.count(.ipReasmTimeout)
      env.pointee.statistics.count(.ipReasmFails)
      env.pointee.noteDrop(.fragmentTimeout, .ip)
      // Only with the first fragment in hand is there something to quote (RFC 1122 §3.3.2).
      guard let first = expired.first else { continue }
      if first.readable[0] >> 4 == 6 {
        reportErrorIPv6(ICMPv6.timeExceeded, ICMPv4Messages.reassemblyTimeExceeded, about: first)
      } else {
        reportError(
          ICMPHeader.timeExceeded, ICMPv4Messages.reassemblyTimeExceeded, about: first, wasLinkBroadcast: false)
      }
      env.pointee.pool.release(first)
    }
    rearmReassemblyTimer()
  }
}
