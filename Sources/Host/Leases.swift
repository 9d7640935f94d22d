// Owns: what the host does about a leased address (ANP_ADDR=dhcp; Netstack's DHCPClient leases it): brings news of it to all shards
// and to whoever waits, keeps it for the next program, knows the name servers that came with it.
//
// The news come out of the first shard's unlock(), on whatever thread; `lease_lock` lets one at a time follow them up. It comes before
// the shards' locks, and no shard's is held when it is taken.

import CSupport
import Netstack
import Wire

/// What a lease says for looking up names.
package struct LearnedNameServers: Sendable {
  package var servers = IPv4List()
  /// Search domains, the first of which is the network's own.
  package var domains = DomainText()
}

/// What is known of the present lease; under `lease_lock`.
private struct LeaseKnowledge {
  var device: UnsafePointer<CChar>
  var linkNumber: Int
  var gateway: IPv4Address?
  var lease: DHCPLease?
  /// When what is in the file was asked for; nil where there is none.
  var keptAsked: Instant?
  var names = LearnedNameServers()
  /// A server has leased an address that the interface has no room for.
  var hasNoRoom = false
}

enum Leases {
  /// A server on the link answers within a second; a first message that is lost is repeated after four.
  private static var patience: Int64 { 10_000_000_000 }

  /// A constant address for what is made at the start.
  private static var knowledge: UnsafeMutablePointer<LeaseKnowledge>? {
    anp_load_pointer(&anp_host().pointee.lease)?.assumingMemoryBound(to: LeaseKnowledge.self)
  }

  /// Before any other thread knows the shards.
  static func begin(
    _ shards: UnsafeMutablePointer<Shard>, _ device: UnsafePointer<CChar>, _ linkNumber: Int, _ gateway: IPv4Address?,
    _ now: Instant
  ) {
    let host = anp_host()!
    let made = knowledge ?? .allocate(capacity: 1)
    made.initialize(to: LeaseKnowledge(device: device, linkNumber: linkNumber, gateway: gateway))
    anp_store_pointer(&host.pointee.lease, made)
    host.pointee.lease_deadline = now.nanoseconds + patience
    anp_store_word(&host.pointee.lease_state, UInt32(ANP_LEASE_AWAITED))
    var memory = InlineArray<1500, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { room in
      let hardware = shards.pointee.stack.device.hardwareAddress
      let known = LeaseCache.load(device, hardware, into: room, now)
      let granting = known.map { UnsafeRawBufferPointer(rebasing: room[..<$0.count]) }
      made.pointee.keptAsked = known?.asked
      shards.pointee.stack.startDHCP(known: granting, asked: known?.asked ?? now, gateway: gateway, now: now)
    }
  }

  /// The first shard's lease has changed. Holds no lock of a shard.
  static func follow(_ first: UnsafeMutablePointer<Shard>) {
    // The keeper only brings over what is left.
    guard first.pointee.process == anp_process_id(), let knowledge else { return }
    let host = anp_host()!
    anp_lock(&host.pointee.lease_lock)
    var memory = InlineArray<1500, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { room in
      anp_lock(first.pointee.lockWord)
      let news = first.pointee.stack.takeLeaseNews()
      room.copyMemory(from: news.granting)
      let granting = UnsafeRawBufferPointer(rebasing: room[..<news.granting.count])
      let hardware = first.pointee.stack.device.hardwareAddress
      if news.lease != nil {
        ConfiguredRoutes.add(HostRuntime.configuration, knowledge.pointee.linkNumber, to: &first.pointee.stack)
      }
      knowledge.pointee.hasNoRoom = first.pointee.stack.leaseHasNoRoom
      anp_unlock(first.pointee.lockWord)
      spread(news.lease, first, knowledge)
      knowledge.pointee.lease = news.lease
      knowledge.pointee.names = LearnedNameServers()
      if let lease = news.lease, let message = DHCPv4Message(granting) {
        knowledge.pointee.names = LearnedNameServers(servers: lease.nameServers, domains: message.searchDomains)
        if knowledge.pointee.keptAsked != news.asked {
          LeaseCache.store(knowledge.pointee.device, hardware, granting, news.asked)
        }
        knowledge.pointee.keptAsked = news.asked
      } else {
        LeaseCache.remove(knowledge.pointee.device)
        knowledge.pointee.keptAsked = nil
      }
    }
    if knowledge.pointee.lease != nil, anp_load_word(&host.pointee.lease_state) != UInt32(ANP_LEASE_SETTLED) {
      anp_store_word(&host.pointee.lease_state, UInt32(ANP_LEASE_SETTLED))
      anp_futex_wake(&host.pointee.lease_state, Int32.max)
    }
    anp_unlock(&host.pointee.lease_lock)
  }

  private static func spread(
    _ lease: DHCPLease?, _ first: UnsafeMutablePointer<Shard>, _ knowledge: UnsafeMutablePointer<LeaseKnowledge>
  ) {
    for i in 1..<max(1, Int(anp_host().pointee.shard_count)) {
      let shard = first + i
      shard.pointee.lock()
      if let lease {
        shard.pointee.stack.install(lease, gateway: knowledge.pointee.gateway)
        ConfiguredRoutes.add(HostRuntime.configuration, knowledge.pointee.linkNumber, to: &shard.pointee.stack)
      } else {
        shard.pointee.stack.uninstallLease()
      }
      shard.pointee.unlock()
    }
  }

  static func explainAbsence(to text: inout TextBuffer) {
    if let knowledge, knowledge.pointee.hasNoRoom {
      text.append("a DHCP server has leased an address, but ")
      text.append(cString: knowledge.pointee.device)
      return text.append(" has as many others as it can (ANP_ADDR6=off, or fewer there, makes room)")
    }
    text.append("no DHCP server has answered on ")
    if let knowledge { text.append(cString: knowledge.pointee.device) }
    text.append(" within 10 s (ANP_ADDR=dhcp): start one there, or give the address in ANP_ADDR; ANP_DEBUG=udp shows")
    text.append(" the messages")
  }

  static func names() -> LearnedNameServers? {
    guard HostRuntime.shard != nil, let knowledge else { return nil }
    anp_lock(&anp_host().pointee.lease_lock)
    defer { anp_unlock(&anp_host().pointee.lease_lock) }
    return knowledge.pointee.lease == nil ? nil : knowledge.pointee.names
  }
}

extension HostRuntime {
  /// The running stack has no address yet: its first lease has not come.
  @inline(__always)
  package static var lacksLease: Bool { anp_load_word(&anp_host().pointee.lease_state) != UInt32(ANP_LEASE_SETTLED) }

  /// For how long to wait for it, nanoseconds, on `leaseWord` while that has the value `leaseAwaited`. 0: no longer; said to the person
  /// who runs the program, once.
  package static func patienceForLease() -> Int64 {
    let host = anp_host()!
    guard anp_load_word(&host.pointee.lease_state) == leaseAwaited else { return 0 }
    let left = host.pointee.lease_deadline - anp_monotonic()
    if left > 0 { return left }
    if anp_replace_word(&host.pointee.lease_state, leaseAwaited, UInt32(ANP_LEASE_MISSING)) != 0 {
      report { Leases.explainAbsence(to: &$0) }
      anp_futex_wake(&host.pointee.lease_state, Int32.max)
    }
    return 0
  }

  package static var leaseWord: UnsafeMutablePointer<UInt32> { anp_lease_word() }
  package static var leaseAwaited: UInt32 { UInt32(ANP_LEASE_AWAITED) }

  /// The name servers and search domains that came with the present lease; nil where there is none.
  package static func learnedNameServers() -> LearnedNameServers? { Leases.names() }
}
