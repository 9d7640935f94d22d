// Owns: the statistics printed when the program ends (ANP_STATS): one "Name value" per line, so that a person can read and a
// script can parse them. Names follow netstat -s and /proc/softirqs; a counter that is zero is left out unless it belongs to
// the core that is always there.

import CSupport
import Netstack

enum ExitStatistics {
  private static func isCore(_ counter: Counter) -> Bool {
    switch counter {
    case .rxFrames, .rxBytes, .txFrames, .txBytes, .rxInterrupts, .rxPolls, .timeSqueeze, .timerRuns, .rxRingFull,
      .txErrors,
      .bytesIn, .copiesIn, .copyBytesIn, .copiesOut, .copyBytesOut, .ipInReceives, .ipOutRequests, .tcpActiveOpens,
      .tcpPassiveOpens,
      .tcpInSegs, .tcpOutSegs, .tcpRetransSegs, .udpInDatagrams, .udpOutDatagrams:
      true
    default: false
    }
  }

  /// All lines, whole ones only, piece by piece to `write`.
  static func format(
    _ statistics: Statistics, calls: DeviceCalls, queueDrops: UInt64?, leftToKeeper: Int, process: Int32,
    write: (UnsafeRawBufferPointer) -> Void
  ) {
    var memory = InlineArray<8192, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { raw in
      var text = TextBuffer(raw)
      func line(_ name: StaticString, _ value: UInt64) {
        text.append(name)
        text.append(" ")
        text.append(value)
        text.append("\n")
        guard text.room < 128 else { return }
        write(text.bytes)
        text.removeAll()
      }
      line("Process", UInt64(process))
      // What it cost the kernel to move the frames …
      line("DeviceReads", calls.reads)
      line("DeviceReadBytes", calls.readBytes)
      line("DeviceReadSuperFrames", calls.readSuperFrames)
      line("DeviceWrites", calls.writes)
      line("DeviceWriteBytes", calls.writeBytes)
      line("DeviceWriteSuperFrames", calls.writeSuperFrames)
      if calls.copyBytes > 0 { line("DeviceCopyBytes", calls.copyBytes) }
      if let queueDrops { line("DeviceQueueDrops", queueDrops) }
      // … and what the stack did with them.
      for counter in Counter.allCases where statistics[counter] != 0 || isCore(counter) {
        line(counter.name, statistics[counter])
      }
      var dropped: UInt64 = 0
      for reason in DropReason.allCases where statistics[drop: reason] != 0 {
        text.append("Drop:")
        line(reason.name, statistics[drop: reason])
        dropped += statistics[drop: reason]
      }
      line("Drops", dropped)
      line("Allocations", anp_allocation_count())
      if leftToKeeper > 0 { line("BytesLeftToKeeper", UInt64(leftToKeeper)) }
      write(text.bytes)
    }
  }

  /// Frames the kernel could not queue for us on `device` since it exists (its txqueuelen was too short, or we too slow): the
  /// twelfth number of its line in /proc/self/net/dev. nil where that cannot be read.
  static func queueDrops(_ device: UnsafePointer<CChar>) -> UInt64? {
    var memory = InlineArray<16384, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &memory) { raw -> UInt64? in
      let path: StaticString = "/proc/self/net/dev"
      let n = Int(anp_read_file(path.pointer, raw.baseAddress, raw.count))
      guard n > 0 else { return nil }
      return parseQueueDrops(UnsafeRawBufferPointer(rebasing: raw[..<n]), device)
    }
  }

  static func parseQueueDrops(_ file: UnsafeRawBufferPointer, _ device: UnsafePointer<CChar>) -> UInt64? {
    var lines = TextCursor(file)
    repeat {
      guard let line = lines.field(until: UInt8(ascii: "\n")) else { continue }
      var cursor = TextCursor(line)
      cursor.skipSpaces()
      guard cursor.take(cString: device), cursor.take(UInt8(ascii: ":")) else { continue }
      var value: UInt64 = 0
      for _ in 0..<12 {
        cursor.skipSpaces()
        guard let field = cursor.field(until: UInt8(ascii: " ")) else { return nil }
        value = 0
        for digit in field {
          guard digit >= UInt8(ascii: "0"), digit <= UInt8(ascii: "9") else { return nil }
          value = value &* 10 &+ UInt64(digit - UInt8(ascii: "0"))
        }
      }
      return value
    } while lines.take(UInt8(ascii: "\n"))
    return nil
  }
}

extension HostRuntime {
  /// At the program's end, however it comes about (Preload calls this from its exit hooks, the keeper where there were none;
  /// more than once does no harm): prints what ANP_STATS asks for.
  package static func atExit() {
    guard let shard, shard.pointee.work.statisticsOutput >= 0 else { return }
    guard anp_claim_word(&anp_host().pointee.statistics_printed) != 0 else { return }
    var statistics = Statistics()
    var calls = DeviceCalls()
    var leftToKeeper = 0
    let isKeeper = anp_process_id() != shard.pointee.process
    for i in 0..<shardCount {
      let shard = self.shard(at: i)
      // A thread may have been cut off inside the lock: after a while the counters are read as they stand.
      var locked = false
      for _ in 0..<200 where !locked {
        locked = anp_try_lock(shard.pointee.lockWord) != 0
        if !locked { anp_sleep(500_000) }
      }
      statistics.add(shard.pointee.stack.statistics)
      // What is still on its way goes out after this, uncounted.
      if locked, !isKeeper { leftToKeeper += shard.pointee.stack.unacknowledgedBytes() }
      calls.add(shard.pointee.work.calls)
      if locked { anp_unlock(shard.pointee.lockWord) }
    }
    let drops = ExitStatistics.queueDrops(shard.pointee.deviceName).map { $0 &- shard.pointee.queueDropsAtStart }
    let descriptor = shard.pointee.work.statisticsOutput
    ExitStatistics.format(
      statistics, calls: calls, queueDrops: drops, leftToKeeper: leftToKeeper, process: shard.pointee.process
    ) {
      _ = anp_write_all(descriptor, $0.baseAddress, $0.count)
    }
  }
}
