// Owns: the ICMPv4 messages the stack sends. Read first: RFC 792, RFC 1122 §3.2.2 (when not to send, what to quote), RFC 1812
// §4.3.2 (quote as much as fits in 576 bytes; rate limit).

import Wire

package enum ICMPv4Messages {
  /// Code of `timeExceeded`: reassembly took too long.
  package static var reassemblyTimeExceeded: UInt8 { 1 }

  /// Largest error message, IP header included, bytes (RFC 1812 §4.3.2.3).
  private static var maximumErrorLength: Int { 576 }

  /// Whether `type` reports an error, as opposed to asking or answering something.
  package static func isError(_ type: UInt8) -> Bool {
    switch type {
    case ICMPHeader.destinationUnreachable, ICMPHeader.sourceQuench, ICMPHeader.redirect,
      ICMPHeader.timeExceeded, ICMPHeader.parameterProblem:
      true
    default: false
    }
  }

  /// Turns a verified echo request, whose data starts at the ICMP header, into its reply, in place.
  package static func makeEchoReply(_ packet: PacketBuffer) {
    let base = packet.base
    let checksum = UnsafeRawPointer(base).bigEndian16(at: 2)
    let oldWord = UnsafeRawPointer(base).bigEndian16(at: 0)
    base.storeByte(ICMPHeader.echoReply, at: 0)
    base.storeByte(0, at: 1)
    // RFC 1624 §3, equation 3: HC' = ~(~HC + ~m + m'), where m' = 0.
    let sum = UInt64(~checksum) &+ UInt64(~oldWord)
    base.storeBigEndian16(~Checksum.fold(sum), at: 2)
  }

  /// Whether an error about a packet may be sent at all (RFC 1122 §3.2.2). `payload` is what follows its IP header.
  package static func mayReport(
    _ header: IPv4Header, payload: UnsafeRawBufferPointer, wasLinkBroadcast: Bool, isLooped: Bool = false,
    routes: borrowing RouteTable
  ) -> Bool {
    // About a broadcast or multicast, of the link or of IP.
    if wasLinkBroadcast || header.destination.isMulticast || routes.isBroadcast(IPAddress(header.destination)) {
      return false
    }
    // About a fragment other than the first.
    if header.fragmentOffset != 0 { return false }
    // To a source that is no single host.
    let source = header.source
    if source.bits >> 24 == 0 || source.isLoopback && !isLooped || source.bits >> 28 >= 0xe
      || routes.isBroadcast(IPAddress(source))
    {
      return false
    }
    // About an error. What type a truncated or unknown message has cannot be told: as Linux, be silent.
    if header.proto == IPProtocol.icmp {
      guard let base = payload.baseAddress, payload.count >= 1 else { return false }
      let type = base.byte(at: 0)
      return !isError(type) && type <= 18
    }
    return true
  }

  /// An error about `packet`, whose data starts at its IP header: the ICMP message alone, with headroom for the headers in
  /// front of it. It quotes as much as fits in 576 bytes. `packet` stays the caller's; nil without a buffer.
  package static func makeError(
    type: UInt8, code: UInt8, rest: UInt32 = 0, about packet: PacketBuffer, pool: inout BufferPool
  ) -> PacketBuffer? {
    guard let message = pool.allocateForTransmit() else { return nil }
    let room = maximumErrorLength - IPv4Header.minimumLength - ICMPHeader.length
    let quote = min(packet.count, room)
    let base = message.put(ICMPHeader.length + quote)
    ICMPHeader(type: type, code: code, rest: rest).write(to: base)
    _ = packet.copy(
      from: 0, to: UnsafeMutableRawBufferPointer(start: base + ICMPHeader.length, count: quote))
    base.storeBigEndian16(~Checksum.fold(message.checksum(from: 0)), at: 2)
    return message
  }
}

/// Limits the errors we send: to one target (Linux's icmp_ratelimit, burst of 6), and over all (icmp_msgs_per_sec, burst
/// of 50). Which targets have used up their share must not be visible to others: the overall limit is blurred by chance,
/// as in Linux since the SAD DNS attack (CVE-2020-25705).
package struct ICMPRateLimiter: ~Copyable {
  private struct Target {
    var address: IPAddress
    var credit: Interval
    var last: Instant
  }

  private static var targetCount: Int { 256 }
  private static var targetBurst: Int { 6 }
  private static var totalBurst: Int { 50 }

  private var targets: UnsafeMutablePointer<Target>?
  private var totalCredit = ICMPRateLimiter.totalBurst
  private var totalLast: Instant
  private let key: HashKey
  private var random: SeededRandom

  package init(key: HashKey, seed: UInt64, now: Instant) {
    self.key = key
    totalLast = now
    random = SeededRandom(seed: seed)
  }

  deinit { targets?.deallocate() }

  /// Whether an error may go to `address` now; if so it is counted.
  package mutating func allows(_ address: IPAddress, now: Instant, settings: borrowing Settings) -> Bool {
    guard allowsInTotal(now, settings.icmpMessagesPerSecond) else { return false }
    return allowsTarget(address, now, settings.icmpRatelimit)
  }

  private mutating func allowsInTotal(_ now: Instant, _ perSecond: Int) -> Bool {
    // Credit comes in steps of 20 ms at least, as in Linux.
    let elapsed = min(max(0, (now - totalLast).milliseconds), 1000)
    if elapsed >= 20 {
      let earned = Int(elapsed) * perSecond / 1000
      if earned > 0 {
        totalCredit = min(totalCredit + earned, Self.totalBurst)
        totalLast = now
      }
    }
    guard totalCredit > 0 else { return false }
    totalCredit = max(0, totalCredit - 1 - random.below(3))
    return true
  }

  private mutating func allowsTarget(_ address: IPAddress, _ now: Instant, _ limitMilliseconds: Int) -> Bool {
    guard limitMilliseconds > 0 else { return true }
    let table: UnsafeMutablePointer<Target>
    if let targets {
      table = targets
    } else {
      table = .allocate(capacity: Self.targetCount)
      table.initialize(
        repeating: Target(address: .anyIPv6, credit: .zero, last: .zero), count: Self.targetCount)
      targets = table
    }
    var hash = SipHash(key)
    hash.add(address.high)
    hash.add(address.low)
    let target = table + Int(truncatingIfNeeded: hash.finish() % UInt64(Self.targetCount))
    let cost = Interval.milliseconds(limitMilliseconds)
    if target.pointee.address != address {
      // A new target, which takes the place of an older one: the overall limit bounds what that can be abused for.
      target.pointee = Target(address: address, credit: cost * Self.targetBurst, last: now)
    }
    target.pointee.credit = min(target.pointee.credit + (now - target.pointee.last), cost * Self.targetBurst)
    target.pointee.last = now
    guard target.pointee.credit >= cost else { return false }
    target.pointee.credit = target.pointee.credit - cost
    return true
  }
}
