// The neighbour table's states and what ARP packets mean.

import Testing
import Wire

@testable import Netstack

private let here = IPv4Address(198, 18, 0, 4)
private let peer = IPv4Address(198, 18, 0, 5)
private let ourHardware = MACAddress(bits: 0x02_00_00_00_00_01)
private let peerHardware = MACAddress(bits: 0x02_00_00_00_00_05)
private let otherHardware = MACAddress(bits: 0x02_00_00_00_00_99)

@Suite("ARP")
struct ARPTests {
  private func packet(
    _ operation: UInt16, from sender: IPv4Address, at hardware: MACAddress = peerHardware, for target: IPv4Address
  ) -> ARPPacket {
    ARPPacket(
      operation: operation, senderHardware: hardware, senderProtocol: sender, targetHardware: .zero,
      targetProtocol: target)
  }

  private func judge(_ packet: ARPPacket, to frame: MACAddress = .broadcast) -> ARPVerdict {
    ARP.judge(packet, frameDestination: frame, ourAddress: here, ourHardware: ourHardware)
  }

  @Test("RFC 826: a request for our address is answered to its sender, and the sender is learned")
  func request() {
    guard case .answer(let reply, learn: true) = judge(packet(ARPPacket.request, from: peer, for: here)) else {
      Issue.record("no answer")
      return
    }
    #expect(reply.operation == ARPPacket.reply)
    #expect(reply.senderProtocol == here && reply.senderHardware == ourHardware)
    #expect(reply.targetProtocol == peer && reply.targetHardware == peerHardware)
  }

  @Test("RFC 5227 §2.1.1: a probe for our address is answered but not learned from")
  func probe() {
    guard case .answer(let reply, learn: false) = judge(packet(ARPPacket.request, from: .any, for: here)) else {
      Issue.record("no answer")
      return
    }
    #expect(reply.targetProtocol == .any && reply.targetHardware == peerHardware)
  }

  @Test("RFC 5227 §2.4: whoever sends from our address is a conflict, in requests and replies")
  func conflict() {
    for operation in [ARPPacket.request, ARPPacket.reply] {
      for target in [here, peer, IPv4Address.any] {
        guard case .conflict(let by) = judge(packet(operation, from: here, for: target)) else {
          Issue.record("conflict not seen")
          return
        }
        #expect(by == peerHardware)
      }
    }
  }

  @Test("Our own packet coming back is ignored")
  func ownPacket() {
    guard case .ignore = judge(packet(ARPPacket.request, from: here, at: ourHardware, for: here)) else {
      Issue.record("not ignored")
      return
    }
  }

  @Test("Only a reply sent to us alone proves that the neighbour hears us")
  func replies() {
    let reply = packet(ARPPacket.reply, from: peer, for: here)
    guard case .learn(peer, peerHardware, .reply(solicited: true)) = judge(reply, to: ourHardware),
      case .learn(peer, peerHardware, .reply(solicited: false)) = judge(reply)
    else {
      Issue.record("wrong evidence")
      return
    }
  }

  @Test("RFC 5227 §2.3: announcements are recognised in both forms")
  func announcement() {
    for operation in [ARPPacket.request, ARPPacket.reply] {
      guard case .learn(peer, peerHardware, .gratuitous) = judge(packet(operation, from: peer, for: peer)) else {
        Issue.record("announcement not seen")
        return
      }
    }
    let ours = ARP.announcement(ourAddress: here, ourHardware: ourHardware)
    #expect(ours.operation == ARPPacket.request && ours.senderProtocol == here && ours.targetProtocol == here)
  }

  @Test("A request for somebody else is overheard")
  func overheard() {
    guard
      case .learn(peer, peerHardware, .overheard) = judge(
        packet(ARPPacket.request, from: peer, for: IPv4Address(198, 18, 0, 9)))
    else {
      Issue.record("wrong evidence")
      return
    }
  }

  @Test("Impossible senders and unknown operations are refused")
  func malformed() {
    let senders: [(IPv4Address, MACAddress)] = [
      (peer, .broadcast), (peer, .zero), (IPv4Address(224, 0, 0, 1), peerHardware),
      (IPv4Address(127, 0, 0, 1), peerHardware), (.limitedBroadcast, peerHardware),
    ]
    for (sender, hardware) in senders {
      guard case .malformed = judge(packet(ARPPacket.request, from: sender, at: hardware, for: here)) else {
        Issue.record("accepted \(sender) at \(hardware)")
        continue
      }
    }
    guard case .ignore = judge(packet(9, from: peer, for: here)) else {
      Issue.record("operation 9 accepted")
      return
    }
  }

  @Test("RFC 5227 §2.4 (c): an address is defended once in ten seconds")
  func defense() {
    var defense = AddressDefense()
    #expect(defense.shouldDefend(now: .zero + .seconds(1)) == true)
    #expect(defense.shouldDefend(now: .zero + .seconds(10)) == false)
    #expect(defense.shouldDefend(now: .zero + .seconds(11)) == true)
    #expect(defense.conflicts == 3)
  }
}

@Suite("Neighbour table")
struct NeighborTableTests {
  private let address = IPAddress(peer)

  private func after(_ milliseconds: Int) -> Instant { .zero + .milliseconds(milliseconds) }

  /// What a verdict says, for comparing.
  private func describe(_ verdict: NeighborVerdict) -> String {
    switch verdict {
    case .resolved(let hardware): "resolved \(hardware.bits & 0xff)"
    case .queued(let ask, let dropped): "queued\(ask ? ", ask" : "")\(dropped == nil ? "" : ", dropped one")"
    case .tableFull: "full"
    }
  }

  private func describe(_ action: NeighborAction?) -> String {
    switch action {
    case nil: "nothing"
    case .sendRequest(_, let unicast): unicast.map { "ask \($0.bits & 0xff)" } ?? "ask all"
    case .failed(_, let queue): "failed, \(queue.count) waited"
    }
  }

  private func release(_ queue: PacketQueue, _ pool: inout BufferPool) {
    var queue = queue
    pool.releaseAll(&queue)
  }

  @Test("RFC 1122 §2.3.2.2: packets wait for the answer and leave in order")
  func resolution() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    let first = pool.allocate()!
    let second = pool.allocate()!
    #expect(describe(table.resolve(address, packet: first, now: .zero, settings: &settings)) == "queued, ask")
    #expect(describe(table.resolve(address, packet: second, now: .zero, settings: &settings)) == "queued")
    #expect(table.lookup(address) == nil)
    var released = table.learned(
      address, peerHardware, how: .reply(solicited: true), now: after(3), settings: &settings)
    #expect(released.count == 2)
    #expect(released.removeFirst() == first)
    #expect(released.removeFirst() == second)
    #expect(table.state(address, now: after(3), settings: &settings) == .reachable)
    #expect(table.nextDeadline() == nil)
    #expect(describe(table.resolve(address, packet: first, now: after(4), settings: &settings)) == "resolved 5")
    pool.release(first)
    pool.release(second)
    #expect(pool.outstanding == 0)
  }

  @Test("RFC 4861 §7.3.3: unanswered requests are repeated each retransmission time, three in all, then the wait fails")
  func failure() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    _ = table.resolve(address, packet: pool.allocate()!, now: .zero, settings: &settings)
    #expect(describe(table.nextAction(now: after(999), settings: &settings)) == "nothing")
    for second in 1...2 {
      #expect(table.nextDeadline()! <= after(second * 1000))
      #expect(describe(table.nextAction(now: after(second * 1000), settings: &settings)) == "ask all")
      #expect(describe(table.nextAction(now: after(second * 1000), settings: &settings)) == "nothing")
      #expect(table.nextDeadline() == after(second * 1000 + 1000))
    }
    guard case .failed(address, let queue) = table.nextAction(now: after(3000), settings: &settings) else {
      Issue.record("did not fail")
      return
    }
    #expect(queue.count == 1)
    release(queue, &pool)
    #expect(table.state(address, now: after(3000), settings: &settings) == .failed)
    #expect(table.nextDeadline() == nil)
    // The next packet starts anew.
    let again = pool.allocate()!
    #expect(describe(table.resolve(address, packet: again, now: after(3001), settings: &settings)) == "queued, ask")
    while let queue = table.removeWaiting() { release(queue, &pool) }
    #expect(pool.outstanding == 0)
  }

  @Test("RFC 4861 §7.3.3: use after the reachable time leads to a delay, unicast probes and failure")
  func probing() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    let packet = pool.allocate()!
    _ = table.learned(address, peerHardware, how: .request, now: .zero, settings: &settings)
    #expect(table.state(address, now: .zero, settings: &settings) == .stale)
    #expect(table.nextDeadline() == nil, "a stale entry waits for a packet")
    #expect(describe(table.resolve(address, packet: packet, now: after(100), settings: &settings)) == "resolved 5")
    #expect(table.state(address, now: after(100), settings: &settings) == .delay)
    #expect(describe(table.nextAction(now: after(5099), settings: &settings)) == "nothing")
    for second in 0..<3 {
      #expect(describe(table.nextAction(now: after(5100 + second * 1000), settings: &settings)) == "ask 5")
    }
    #expect(describe(table.resolve(address, packet: packet, now: after(7200), settings: &settings)) == "resolved 5")
    #expect(describe(table.nextAction(now: after(8100), settings: &settings)) == "failed, 0 waited")
    #expect(table.lookup(address) == nil)
    pool.release(packet)
  }

  @Test("RFC 4861 §7.3.1: progress of an upper layer keeps a neighbour reachable without a probe")
  func confirmation() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    let packet = pool.allocate()!
    _ = table.learned(address, peerHardware, how: .request, now: .zero, settings: &settings)
    _ = table.resolve(address, packet: packet, now: .zero, settings: &settings)
    table.confirm(address, now: after(4000))
    #expect(table.state(address, now: after(4000), settings: &settings) == .reachable)
    #expect(table.nextDeadline() == nil)
    #expect(describe(table.nextAction(now: after(10_000), settings: &settings)) == "nothing")
    table.confirm(IPAddress(here), now: after(4000))
    #expect(table.count == 1, "a confirmation makes no entry")
    pool.release(packet)
  }

  @Test("RFC 4861 §6.3.2: the reachable time is between half and one and a half of the base", arguments: 0..<30)
  func reachableTime(seed: UInt64) {
    var table = NeighborTable(seed: seed, now: .zero)
    var settings = Settings()
    _ = table.learned(address, peerHardware, how: .request, now: .zero, settings: &settings)
    _ = table.learned(address, peerHardware, how: .reply(solicited: true), now: .zero, settings: &settings)
    #expect(table.state(address, now: after(14_999), settings: &settings) == .reachable)
    #expect(table.state(address, now: after(45_001), settings: &settings) == .stale)
  }

  @Test("Who asks for us is remembered; other news about strangers is not")
  func strangers() {
    var settings = Settings()
    for how in [NeighborEvidence.reply(solicited: true), .reply(solicited: false), .gratuitous, .overheard] {
      var table = NeighborTable(seed: 1, now: .zero)
      _ = table.learned(address, peerHardware, how: how, now: .zero, settings: &settings)
      #expect(table.count == 0)
    }
    var table = NeighborTable(seed: 1, now: .zero)
    _ = table.learned(address, peerHardware, how: .request, now: .zero, settings: &settings)
    #expect(table.lookup(address) == peerHardware)
  }

  @Test("A second answer within a second does not replace the first; an announcement does, and makes the entry stale")
  func changes() {
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    _ = table.learned(address, peerHardware, how: .request, now: .zero, settings: &settings)
    _ = table.learned(address, peerHardware, how: .reply(solicited: true), now: .zero, settings: &settings)
    _ = table.learned(address, otherHardware, how: .reply(solicited: true), now: after(500), settings: &settings)
    #expect(table.lookup(address) == peerHardware)
    _ = table.learned(address, otherHardware, how: .gratuitous, now: after(600), settings: &settings)
    #expect(table.lookup(address) == otherHardware)
    #expect(table.state(address, now: after(600), settings: &settings) == .stale)
    _ = table.learned(address, peerHardware, how: .reply(solicited: true), now: after(1700), settings: &settings)
    #expect(table.lookup(address) == peerHardware)
  }

  @Test("The same address heard again leaves the state alone")
  func unchanged() {
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    _ = table.learned(address, peerHardware, how: .request, now: .zero, settings: &settings)
    _ = table.learned(address, peerHardware, how: .reply(solicited: true), now: .zero, settings: &settings)
    _ = table.learned(address, peerHardware, how: .overheard, now: after(10), settings: &settings)
    #expect(table.state(address, now: after(10), settings: &settings) == .reachable)
  }

  @Test("A request by a neighbour that packets wait for releases them")
  func requestReleases() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    _ = table.resolve(address, packet: pool.allocate()!, now: .zero, settings: &settings)
    let released = table.learned(address, peerHardware, how: .request, now: after(1), settings: &settings)
    #expect(released.count == 1)
    release(released, &pool)
    // They go out on an unproven address: it is looked after from now on.
    #expect(table.state(address, now: after(1), settings: &settings) == .delay)
    #expect(table.nextDeadline()! <= after(5001))
  }

  @Test("RFC 1122 §2.3.2.2: the queue is bounded and gives up its oldest packet")
  func boundedQueue() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    settings.neighborQueueLength = 3
    let packets = (0..<5).map { _ in pool.allocate()! }
    for (i, packet) in packets.enumerated() {
      guard case .queued(_, let dropped) = table.resolve(address, packet: packet, now: .zero, settings: &settings)
      else {
        Issue.record("not queued")
        return
      }
      #expect(dropped == (i < 3 ? nil : packets[i - 3]))
      if let dropped { pool.release(dropped) }
    }
    while let queue = table.removeWaiting() { release(queue, &pool) }
    #expect(pool.outstanding == 0)
  }

  @Test("The table is bounded: the least recently used entry goes, one that packets wait for stays")
  func boundedTable() {
    var pool = BufferPool()
    var table = NeighborTable(seed: 1, now: .zero)
    var settings = Settings()
    settings.neighborMaximum = 20
    func host(_ n: Int) -> IPAddress { IPAddress(IPv4Address(bits: 0xc612_0100 + UInt32(n))) }
    let packet = pool.allocate()!
    for i in 0..<20 {
      _ = table.learned(host(i), peerHardware, how: .request, now: after(i), settings: &settings)
      table.confirm(host(i), now: after(i))
    }
    _ = table.resolve(host(0), packet: packet, now: after(100), settings: &settings)
    _ = table.learned(host(20), peerHardware, how: .request, now: after(101), settings: &settings)
    #expect(table.count == 20)
    #expect(table.lookup(host(0)) != nil && table.lookup(host(1)) == nil && table.lookup(host(20)) != nil)
    // Twenty neighbours that are all being asked for: there is no room for another.
    for i in 100..<120 {
      #expect(
        describe(table.resolve(host(i), packet: pool.allocate()!, now: after(200), settings: &settings))
          == "queued, ask"
      )
    }
    #expect(describe(table.resolve(host(120), packet: packet, now: after(200), settings: &settings)) == "full")
    #expect(table.count == 20)
    var failed = 0
    for second in 1...3 {
      while let action = table.nextAction(now: after(200 + second * 1000), settings: &settings) {
        if case .failed(_, let queue) = action {
          failed += 1
          release(queue, &pool)
        }
      }
    }
    #expect(failed == 20)
    pool.release(packet)
    #expect(pool.outstanding == 0)
  }

  @Test("Random life of many neighbours: no packet is lost or kept", arguments: 0..<20)
  func randomLife(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    var pool = BufferPool()
    var table = NeighborTable(seed: seed, now: .zero)
    var settings = Settings()
    settings.neighborMaximum = 8
    settings.neighborQueueLength = 4
    var now = Instant.zero
    for _ in 0..<3000 {
      let host = IPAddress(IPv4Address(bits: 0xc612_0000 + UInt32(random.below(16))))
      let hardware = MACAddress(bits: UInt64(0x0200_0000_0000 + random.below(3)))
      switch random.below(6) {
      case 0, 1:
        let packet = pool.allocate()!
        switch table.resolve(host, packet: packet, now: now, settings: &settings) {
        case .resolved(let address):
          #expect(table.lookup(host) == address)
          pool.release(packet)
        case .tableFull: pool.release(packet)
        case .queued(_, let dropped): if let dropped { pool.release(dropped) }
        }
      case 2:
        let kinds: [NeighborEvidence] = [
          .request, .reply(solicited: true), .reply(solicited: false), .gratuitous, .overheard,
        ]
        release(
          table.learned(host, hardware, how: kinds[random.below(5)], now: now, settings: &settings), &pool)
      case 3: table.confirm(host, now: now)
      default:
        now = now + .milliseconds(random.below(3000))
        while let action = table.nextAction(now: now, settings: &settings) {
          if case .failed(_, let queue) = action { release(queue, &pool) }
        }
        if let deadline = table.nextDeadline() { #expect(deadline > now) }
      }
      #expect(table.count <= 8)
    }
    while let queue = table.removeWaiting() { release(queue, &pool) }
    #expect(pool.outstanding == 0)
  }
}
