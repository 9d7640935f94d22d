extension Stack {
  package func dumpTMP() -> String {
    var s = ""
    var index: UInt32 = 0
    while let used = tcbs.nextInUse(from: index) {
      index = used + 1
      let t = tcbs.pointer(at: used)
      s += "  tcb \(used) \(t.pointee.state) port \(t.pointee.tuple.local.port)/\(t.pointee.tuple.remote.port) timer \(t.pointee.sendTimer) armed \(environment.pointee.wheel.isArmed(t.pointee.sendTimerID)) at \(environment.pointee.wheel.deadline(t.pointee.sendTimerID)?.nanoseconds ?? -1) una \(t.pointee.snd.una.value &- t.pointee.snd.iss.value) nxt \(t.pointee.snd.nxt.value &- t.pointee.snd.iss.value) end \(t.pointee.dataEnd.value &- t.pointee.snd.iss.value) wnd \(t.pointee.snd.wnd) max \(t.pointee.snd.maximumWindow) finq \(t.pointee.finQueued) sent \(t.pointee.finSent) rcvd \(t.pointee.finReceived) rcvnxt \(t.pointee.rcv.nxt.value &- t.pointee.rcv.irs.value) edge \(t.pointee.rcv.edge.value &- t.pointee.rcv.irs.value) rec \(t.pointee.recovery) lost \(t.pointee.scoreboard.lostBytes) sacked \(t.pointee.scoreboard.sackedBytes) cwnd \(t.pointee.congestion.window) pipe \(t.pointee.pipe) lpe \(t.pointee.lossProbeEnd?.value ?? 0) open \(t.pointee.isOpen) zombie \(t.pointee.isZombie) pinned \(t.pointee.sendBuffer.isPinned) parent \(t.pointee.parent != nil) work \(t.pointee.work.rawValue) inwork \(t.pointee.isInWorkList) ready \(t.pointee.receiveQueue.readyBytes) mem \(t.pointee.receiveQueue.memory) rspace \(t.pointee.receiveSpace) backoff \(t.pointee.rtt.backoff) retr \(t.pointee.retransmits) mss \(t.pointee.maximumSegment)\n"
    }
    s += "  wheel next \(environment.pointee.wheel.nextDeadline()?.nanoseconds ?? -1) armed \(environment.pointee.wheel.armedCount) now \(environment.pointee.now.nanoseconds)\n"
    s += "  counts \(tcbs.count) \(datagrams.count) \(timeWaits.count) pool \(environment.pointee.pool.outstanding) nb \(neighbors.count)\n"
    return s
  }
}
