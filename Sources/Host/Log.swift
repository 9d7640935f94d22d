// Owns: the log: trace events as lines (ANP_DEBUG), to standard error or a file (ANP_LOG). One line per event:
//
//       0.001234 tcp   debug out 198.18.0.4:40912 > 198.18.0.5:8000 [S] seq 0 ack 0 win 64240 len 0
//   seconds since    category    direction     connection      flags as tcpdump writes them; seq and ack relative
//   the stack began        level                               to the initial numbers; window and length in bytes
//
// `take` runs under the shard's lock, `write` without it, by whoever has the draining duty; so lines keep their order.

import CSupport
import Netstack
import Wire

struct Log {
  private static var batch: Int { 32 }
  /// PIPE_BUF: a pipe that polls writable takes this much without blocking, and lines of two processes do not mix.
  private static var chunk: Int { 4096 }
  /// The longest line.
  private static var line: Int { 320 }
  /// How long a reader who does not read may hold us up before lines are dropped.
  private static var patienceMilliseconds: Int32 { 200 }

  private(set) var descriptor: Int32
  private let started: Instant
  private var events: UnsafeMutablePointer<TraceEvent>?
  private var memory: UnsafeMutableRawBufferPointer
  private var count = 0
  /// Events the stack's ring had no room for, and lines nobody took: told when there is room again.
  private var lostInRing = 0
  private var lostLines: UnsafeMutablePointer<Int>

  init(descriptor: Int32, started: Instant) {
    self.descriptor = descriptor
    self.started = started
    let on = descriptor >= 0
    events = on ? .allocate(capacity: Self.batch) : nil
    memory = on ? .allocate(byteCount: Self.chunk, alignment: 16) : UnsafeMutableRawBufferPointer(start: nil, count: 0)
    lostLines = .allocate(capacity: 1)
    lostLines.initialize(to: 0)
  }

  mutating func replaceDescriptor(_ number: Int32, by other: Int32) {
    if descriptor == number { descriptor = other }
  }

  /// Under the lock.
  @inline(__always)
  mutating func take(from stack: inout Stack) -> Int {
    guard let events else { return 0 }
    count = 0
    while count < Self.batch, let event = stack.nextTraceEvent() {
      (events + count).initialize(to: event)
      count &+= 1
    }
    if stack.trace.lost != lostInRing {
      lostLines.pointee += stack.trace.lost - lostInRing
      lostInRing = stack.trace.lost
    }
    return count
  }

  /// Without the lock.
  @inline(__always)
  func write() {
    if count > 0 { writeLines() }
  }

  @inline(never)
  private func writeLines() {
    guard let events else { return }
    var text = TextBuffer(memory)
    if lostLines.pointee > 0 {
      text.append("anp: ")
      text.append(lostLines.pointee)
      text.append(" log lines lost\n")
    }
    let owed = lostLines.pointee
    var lines = 0
    for i in 0..<count {
      if text.room < Self.line {
        flush(&text, lines)
        lines = 0
      }
      Self.format(events[i], since: started, to: &text)
      text.append(byte: UInt8(ascii: "\n"))
      lines += 1
    }
    flush(&text, lines)
    if lostLines.pointee == owed { lostLines.pointee = 0 }
  }

  private func flush(_ text: inout TextBuffer, _ lines: Int) {
    // Having waited in vain once is enough: until the reader comes back nobody waits for it again.
    let patience = lostLines.pointee > 0 ? 0 : Self.patienceMilliseconds
    if anp_write_patiently(descriptor, text.bytes.baseAddress, text.count, patience) < 0 { lostLines.pointee += lines }
    text.removeAll()
  }

  /// The first line: what the stack found when it started. Before any other thread knows the log.
  func begin(_ device: TAPDevice, named name: UnsafePointer<CChar>, _ configuration: StackConfiguration) {
    guard events != nil else { return }
    var text = TextBuffer(memory)
    text.append("    0.000000 dev   info  ")
    text.append(cString: name)
    text.append(": ")
    for i in 0..<configuration.moreAddresses.count {
      if i > 0 { text.append(" ") }
      text.append(configuration.moreAddresses[i].address)
      text.append("/")
      text.append(configuration.moreAddresses[i].prefixLength)
    }
    if let gateway = configuration.gateway {
      text.append(" gateway ")
      text.append(gateway)
    }
    if let gateway = configuration.gateway6 {
      text.append(" gateway ")
      text.append(gateway)
    }
    text.append(" hardware ")
    text.append(device.capabilities.hardwareAddress)
    text.append(" MTU ")
    text.append(device.capabilities.mtu)
    text.append(device.capabilities.checksumOffload ? " checksum-offload" : " no-offload")
    if device.capabilities.tcpSegmentation4 { text.append(" TSO4") }
    if device.capabilities.largestSuperPacket > 65535 { text.append(" BIG-TCP") }
    if device.capabilities.tcpSegmentation6 { text.append(" TSO6") }
    text.append("\n")
    _ = anp_write_patiently(descriptor, text.bytes.baseAddress, text.count, Self.patienceMilliseconds)
  }

  // MARK: Format

  /// One event without the newline.
  static func format(_ event: TraceEvent, since start: Instant, to text: inout TextBuffer) {
    let begin = text.count
    let microseconds = UInt64(max(0, (event.time - start).microseconds))
    text.append(microseconds / 1_000_000, width: 5)
    text.append(byte: UInt8(ascii: "."))
    text.append(microseconds % 1_000_000, width: 6, padding: UInt8(ascii: "0"))
    text.append(byte: UInt8(ascii: " "))
    text.append(event.category.name)
    text.pad(to: 19, from: begin)
    text.append(event.level.name)
    text.pad(to: 25, from: begin)
    body(event, &text)
  }

  private static func body(_ event: TraceEvent, _ text: inout TextBuffer) {
    switch event.kind {
    case .segmentIn, .segmentOut: segment(event, &text)
    case .stateChange:
      pair(event, &text)
      text.append(" ")
      text.append(stateName(event.a))
      text.append(" -> ")
      text.append(stateName(event.b))
    case .retransmissionTimeout:
      pair(event, &text)
      number(" retransmission timeout, RTO ", event.a, &text)
      number(" us, back-off ", event.b, &text)
    case .recoveryEnter, .recoveryExit:
      pair(event, &text)
      text.append(event.kind == .recoveryEnter ? " loss recovery begins" : " loss recovery ends")
      number(", cwnd ", event.a, &text)
      number(" ssthresh ", event.b, &text)
    case .lossProbe:
      pair(event, &text)
      text.append(" tail loss probe")
    case .windowProbe:
      pair(event, &text)
      number(" zero-window probe, back-off ", event.a, &text)
    case .keepaliveProbe:
      pair(event, &text)
      number(" keepalive probe ", event.a, &text)
    case .rttSample:
      pair(event, &text)
      number(" rtt ", event.a, &text)
      number(" us, srtt ", event.b, &text)
      text.append(" us")
    case .drop:
      text.append("drop: ")
      if let reason = DropReason(rawValue: Int(event.a)) {
        text.append(reason.name)
      } else {
        number("reason ", event.a, &text)
      }
      if event.category == .device, event.b != 0 { number(", error ", event.b, &text) }
      if event.tuple.remote != .none {
        text.append(" ")
        pair(event, &text)
      }
      if event.category == .tcp, event.tuple.remote != .none {
        text.append(" ")
        numbers(event, &text)
      }
    case .arpRequestIn, .arpRequestOut:
      text.append(event.kind == .arpRequestIn ? "in  " : "out ")
      text.append("who has ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.b)))
      text.append("? tell ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
    case .arpReplyIn, .arpReplyOut:
      text.append(event.kind == .arpReplyIn ? "in  " : "out ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
      text.append(" is here, to ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.b)))
    case .arpAnnounce:
      text.append("out announcing ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
    case .arpConflict:
      text.append("address conflict: ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
      text.append(" is also used by ")
      text.append(MACAddress(bits: UInt64(bitPattern: event.b)))
    case .neighborResolved:
      text.append("neighbor ")
      text.append(event.tuple.remote.address)
      text.append(" is at ")
      text.append(MACAddress(bits: UInt64(bitPattern: event.b)))
    case .neighborFailed:
      text.append("neighbor ")
      text.append(event.tuple.remote.address)
      text.append(" does not answer")
    case .solicitationIn, .solicitationOut:
      text.append(event.kind == .solicitationIn ? "in  who has " : "out who has ")
      text.append(target(event))
      text.append("? tell ")
      text.append(event.kind == .solicitationIn ? event.tuple.remote.address : event.tuple.local.address)
    case .advertisementIn, .advertisementOut:
      text.append(event.kind == .advertisementIn ? "in  " : "out ")
      text.append(target(event))
      text.append(" is here, to ")
      text.append(event.kind == .advertisementIn ? event.tuple.local.address : event.tuple.remote.address)
    case .routerAdvertised:
      text.append("router ")
      text.append(event.tuple.remote.address)
      number(" for ", event.a, &text)
      number(" s, prefixes: ", event.b, &text)
    case .duplicateAddress:
      text.append("address conflict: ")
      text.append(event.tuple.local.address)
      text.append(" is another node's already; it is not used")
    case .icmpIn, .icmpOut:
      direction(event, event.kind == .icmpOut, &text)
      icmp(Int(event.a >> 8), Int(event.a & 255), &text)
      length(event, &text)
    case .icmp6In, .icmp6Out:
      direction(event, event.kind == .icmp6Out, &text)
      icmp6(Int(event.a >> 8), Int(event.a & 255), &text)
      length(event, &text)
    case .datagramIn, .datagramOut:
      direction(event, event.kind == .datagramOut, &text)
      text.append(" UDP")
      length(event, &text)
    case .reassembled:
      number("reassembled a datagram of ", event.a, &text)
      text.append(" bytes")
    case .fragmented:
      number("cut a datagram of ", event.a, &text)
      number(" bytes into ", event.b, &text)
      text.append(" fragments")
    case .socketCall:
      if let call = SocketCall(rawValue: event.a) {
        text.append(callName(call))
      } else {
        number("call ", event.a, &text)
      }
      if event.tuple.local != .none || event.tuple.remote != .none {
        text.append(" ")
        pair(event, &text)
      }
      number(" = ", event.b, &text)
    case .pathMTU:
      pair(event, &text)
      number(" path MTU ", event.a, &text)
    case .interfaceRefused:
      text.append("refused an ioctl that sets up the interface, 0x")
      text.append(hex: UInt64(bitPattern: event.a), digits: 4)
      text.append(": the ANP_ variables do that")
    case .dhcpIn, .dhcpOut:
      text.append(event.kind == .dhcpOut ? "out DHCP " : "in  DHCP ")
      text.append(dhcpName(event.a))
      if event.b != 0 {
        text.append(" ")
        text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.b)))
      }
    case .leaseBound:
      text.append("leased ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
      if event.b >= 0 { number(", seconds left: ", event.b, &text) }
    case .leaseHasNoRoom:
      text.append("the interface has too many addresses; no room for the leased one: ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
    case .leaseLost:
      text.append("the lease has ended: ")
      text.append(IPv4Address(bits: UInt32(truncatingIfNeeded: event.a)))
    }
  }

  private static func number(_ before: StaticString, _ n: Int64, _ text: inout TextBuffer) {
    text.append(before)
    text.append(Int(n))
  }

  private static func pair(_ event: TraceEvent, _ text: inout TextBuffer) {
    text.append(event.tuple.local)
    text.append(" > ")
    text.append(event.tuple.remote)
  }

  /// "out local > remote" or "in  remote > local": who sent it stands first.
  private static func direction(_ event: TraceEvent, _ out: Bool, _ text: inout TextBuffer) {
    text.append(out ? "out " : "in  ")
    ends(out ? event.tuple.local : event.tuple.remote, &text)
    text.append(" > ")
    ends(out ? event.tuple.remote : event.tuple.local, &text)
  }

  /// Without the port where there is none (ICMP).
  private static func ends(_ endpoint: Endpoint, _ text: inout TextBuffer) {
    if endpoint.port == 0 { text.append(endpoint.address) } else { text.append(endpoint) }
  }

  private static func length(_ event: TraceEvent, _ text: inout TextBuffer) {
    text.append(" len ")
    text.append(UInt64(event.length))
  }

  private static func segment(_ event: TraceEvent, _ text: inout TextBuffer) {
    direction(event, event.kind == .segmentOut, &text)
    text.append(" ")
    numbers(event, &text)
    if event.b == 1, event.kind == .segmentOut { text.append(" retransmission") }
  }

  private static func numbers(_ event: TraceEvent, _ text: inout TextBuffer) {
    flags(event.flags, &text)
    text.append(" seq ")
    text.append(UInt64(event.sequence))
    if event.length > 0 {
      text.append(":")
      text.append(UInt64(event.sequence &+ event.length))
    }
    if event.flags.contains(.ack) {
      text.append(" ack ")
      text.append(UInt64(event.acknowledgment))
    }
    text.append(" win ")
    text.append(UInt64(event.window))
    length(event, &text)
  }

  /// tcpdump's letters, in its order.
  private static func flags(_ flags: TCPFlags, _ text: inout TextBuffer) {
    text.append("[")
    if flags.contains(.fin) { text.append("F") }
    if flags.contains(.syn) { text.append("S") }
    if flags.contains(.rst) { text.append("R") }
    if flags.contains(.psh) { text.append("P") }
    if flags.contains(.ack) { text.append(".") }
    if flags.contains(.urg) { text.append("U") }
    if flags.contains(.ece) { text.append("E") }
    if flags.contains(.cwr) { text.append("W") }
    if flags.isEmpty { text.append("none") }
    text.append("]")
  }

  private static func icmp(_ type: Int, _ code: Int, _ text: inout TextBuffer) {
    switch type {
    case 0: text.append(" echo reply")
    case 8: text.append(" echo request")
    case 3:
      switch code {
      case 0: text.append(" net unreachable")
      case 1: text.append(" host unreachable")
      case 2: text.append(" protocol unreachable")
      case 3: text.append(" port unreachable")
      case 4: text.append(" fragmentation needed")
      default: number(" unreachable, code ", Int64(code), &text)
      }
    case 11: text.append(code == 0 ? " time exceeded in transit" : " reassembly time exceeded")
    default:
      number(" ICMP type ", Int64(type), &text)
      number(" code ", Int64(code), &text)
    }
  }

  private static func target(_ event: TraceEvent) -> IPAddress {
    IPAddress(high: UInt64(bitPattern: event.a), low: UInt64(bitPattern: event.b))
  }

  private static func icmp6(_ type: Int, _ code: Int, _ text: inout TextBuffer) {
    switch type {
    case 1:
      switch code {
      case 0: text.append(" no route")
      case 1: text.append(" prohibited")
      case 3: text.append(" address unreachable")
      case 4: text.append(" port unreachable")
      default: number(" unreachable, code ", Int64(code), &text)
      }
    case 2: text.append(" packet too big")
    case 3: text.append(code == 0 ? " hop limit exceeded in transit" : " reassembly time exceeded")
    case 4: number(" parameter problem, code ", Int64(code), &text)
    case 128: text.append(" echo request")
    case 129: text.append(" echo reply")
    case 133: text.append(" router solicitation")
    case 134: text.append(" router advertisement")
    case 135: text.append(" neighbour solicitation")
    case 136: text.append(" neighbour advertisement")
    case 137: text.append(" redirect")
    default:
      number(" ICMPv6 type ", Int64(type), &text)
      number(" code ", Int64(code), &text)
    }
  }

  private static func dhcpName(_ type: Int64) -> StaticString {
    switch DHCPMessageType(rawValue: UInt8(truncatingIfNeeded: type)) {
    case .discover: "DISCOVER"
    case .offer: "OFFER"
    case .request: "REQUEST"
    case .decline: "DECLINE"
    case .acknowledge: "ACK"
    case .refuse: "NAK"
    case .release: "RELEASE"
    case .inform: "INFORM"
    case nil: "?"
    }
  }

  private static func callName(_ call: SocketCall) -> StaticString {
    switch call {
    case .open: "open"
    case .bind: "bind"
    case .connect: "connect"
    case .listen: "listen"
    case .accept: "accept"
    case .shutdown: "shutdown"
    case .close: "close"
    }
  }

  private static func stateName(_ raw: Int64) -> StaticString {
    TCPState(rawValue: UInt8(truncatingIfNeeded: raw))?.name ?? "NONE"
  }
}
