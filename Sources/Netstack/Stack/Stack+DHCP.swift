// Owns: the DHCP client as a part of the stack (UDP/DHCPClient.swift decides, here its messages become packets and its lease an
// address with routes). Read first: RFC 2131 §4.1 (addresses of the packets), RFC 3442; RFC 5227 §2.1 (probes).
//
// No socket: there is no address to bind one to. Of several stacks that share the interface the first has the client; the shell
// gives its lease to the others (`install`), as each has routes of its own.

import Wire

struct DHCPService {
  var client: DHCPClient
  let timer: TimerID
  /// Instead of what the server says.
  let gateway: IPv4Address?
  /// The message that granted the lease, for the shell to keep.
  let granting: UnsafeMutableRawBufferPointer
  var grantingLength = 0
  /// When the request for it went out.
  var asked = Instant.zero
  /// The latest lease could not be used: the interface has as many addresses as it can.
  var hasNoRoom = false

  init(client: DHCPClient, timer: TimerID, gateway: IPv4Address?) {
    self.client = client
    self.timer = timer
    self.gateway = gateway
    granting = .allocate(byteCount: 1500, alignment: 8)
  }

  func free() { granting.deallocate() }
}

extension Stack {
  /// From now on the interface's address is leased.
  /// - Parameters:
  ///   - known: the message that granted a lease in an earlier run, asked for at `asked`. If the lease has not run out its address
  ///     is used at once.
  ///   - gateway: instead of what the server says.
  package mutating func startDHCP(
    known: UnsafeRawBufferPointer?, asked: Instant, gateway: IPv4Address?, now: Instant
  ) {
    guard dhcp == nil, device.linkType == .ethernet else { return }
    let env = environment
    env.pointee.now = now
    let service = UnsafeMutablePointer<DHCPService>.allocate(capacity: 1)
    service.initialize(
      to: DHCPService(
        client: DHCPClient(hardware: device.hardwareAddress, seed: env.pointee.random.next()),
        timer: env.pointee.wheel.allocate(kind: TimerKind.dhcp, owner: 0), gateway: gateway))
    dhcp = service
    var lease: DHCPLease?
    if let known, let message = DHCPv4Message(known), message.hardware == device.hardwareAddress {
      lease = DHCPLease(message, asked: asked)
      keep(known, asked)
    }
    service.pointee.client.start(known: lease, now: now)
    followDHCP()
  }

  /// The lease as it is now, nil where there is none; what granted it, and when that was asked for.
  package mutating func takeLeaseNews() -> (lease: DHCPLease?, granting: UnsafeRawBufferPointer, asked: Instant) {
    hasLeaseNews = false
    guard let dhcp else { return (nil, UnsafeRawBufferPointer(start: nil, count: 0), .zero) }
    let granting = UnsafeRawBufferPointer(rebasing: dhcp.pointee.granting[..<dhcp.pointee.grantingLength])
    return (lease, granting, dhcp.pointee.asked)
  }

  /// A server has leased an address, and there is no room for it on the interface.
  package var leaseHasNoRoom: Bool { dhcp?.pointee.hasNoRoom ?? false }

  // MARK: Packets

  /// A server may answer to the address that it offers, whatever the broadcast flag says: RFC 1542 §4.1.2 lets it, where the hardware
  /// address leads to us. `packet` starts at the IP header.
  func mayOfferAddress(_ packet: PacketBuffer, _ header: IPv4Header) -> Bool {
    guard dhcp != nil || steering.index != 0, addresses.ipv4 == .any, header.proto == IPProtocol.udp,
      !header.isFragment,
      packet.linearCount >= header.headerLength + UDPHeader.length
    else { return false }
    return UnsafeRawPointer(packet.base).bigEndian16(at: header.headerLength + 2) == DHCPv4Message.clientPort
  }

  /// `packet` starts behind the UDP header.
  mutating func receiveDHCP(_ packet: PacketBuffer) {
    let env = environment
    defer { env.pointee.pool.release(packet) }
    guard let dhcp else { return }
    // A message may be longer than a small buffer holds.
    var memory = InlineArray<1500, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { room in
      let count = packet.copy(from: 0, to: room)
      guard let message = DHCPv4Message(UnsafeRawBufferPointer(rebasing: room[..<count])), message.isReply else {
        env.pointee.statistics.count(.udpInErrors)
        return env.pointee.noteDrop(.udpMalformed, .udp)
      }
      guard message.hardware == device.hardwareAddress else { return env.pointee.noteDrop(.udpNoSocket, .udp) }
      env.pointee.statistics.count(.udpInDatagrams)
      traceDHCP(.dhcpIn, message.type, message.yourAddress)
      let asked = dhcp.pointee.client.asked
      if dhcp.pointee.client.receive(message, now: env.pointee.now) {
        keep(UnsafeRawBufferPointer(rebasing: room[..<count]), asked)
      }
    }
    followDHCP()
  }

  private func keep(_ granting: UnsafeRawBufferPointer, _ asked: Instant) {
    guard let dhcp, granting.count <= dhcp.pointee.granting.count else { return }
    dhcp.pointee.granting.copyMemory(from: granting)
    dhcp.pointee.grantingLength = granting.count
    dhcp.pointee.asked = asked
  }

  private mutating func sendDHCP(_ request: DHCPv4Request, to destination: IPv4Address) {
    let env = environment
    guard let packet = env.pointee.pool.allocateForTransmit() else { return env.pointee.noteDrop(.noBuffer, .udp) }
    let total = UDPHeader.length + DHCPv4Request.length
    let base = packet.put(total)
    UDPHeader(
      sourcePort: DHCPv4Message.clientPort, destinationPort: DHCPv4Message.serverPort, totalLength: total
    ).write(to: base)
    request.write(to: base + UDPHeader.length)
    let source = request.clientAddress
    let pseudo = Checksum.pseudoHeader(
      source: IPAddress(source), destination: IPAddress(destination), proto: IPProtocol.udp, length: total)
    let sum = ~Checksum.fold(packet.checksum(from: 0, pseudo))
    base.storeBigEndian16(sum == 0 ? 0xffff : sum, at: UDPHeader.checksumOffset)
    env.pointee.statistics.count(.udpOutDatagrams)
    traceDHCP(.dhcpOut, request.type, request.requestedAddress ?? request.clientAddress)
    if destination != .limitedBroadcast {
      return route(
        packet, proto: IPProtocol.udp, source: IPAddress(source), destination: IPAddress(destination),
        typeOfService: 0, timeToLive: 0, dontFragment: false)
    }
    // To everybody, also while there is no route at all.
    nextIdentification &+= 1
    env.pointee.statistics.count(.ipOutRequests)
    IPv4Header(
      proto: IPProtocol.udp, source: source, destination: destination, payloadLength: total,
      identification: nextIdentification, timeToLive: env.pointee.settings.ipDefaultTTL
    ).write(to: packet.push(IPv4Header.minimumLength))
    transmitFrame(packet, to: .broadcast, EtherType.ipv4)
  }

  /// RFC 5227 §2.1.1: whoever speaks from the address that we ask for, or asks for it too, has it.
  mutating func watchForConflict(_ arp: ARPPacket) {
    guard let dhcp, let probed = dhcp.pointee.client.probed, arp.senderHardware != device.hardwareAddress else {
      return
    }
    let asksToo = arp.senderProtocol == .any && arp.targetProtocol == probed && arp.operation == ARPPacket.request
    guard arp.senderProtocol == probed || asksToo else { return }
    environment.pointee.statistics.count(.arpConflicts)
    dhcp.pointee.client.conflict(now: environment.pointee.now)
    followDHCP()
  }

  // MARK: What follows

  mutating func advanceDHCP() {
    dhcp?.pointee.client.advance(to: environment.pointee.now)
    followDHCP()
  }

  private mutating func followDHCP() {
    guard let dhcp else { return }
    while let action = dhcp.pointee.client.nextAction() {
      switch action {
      case .send(let request, let destination):
        sendDHCP(request, to: destination)
      case .probe(let address):
        let probe = ARPPacket(
          operation: ARPPacket.request, senderHardware: device.hardwareAddress, senderProtocol: .any,
          targetHardware: .zero, targetProtocol: address)
        environment.pointee.statistics.count(.arpOutRequests)
        sendARP(probe, to: .broadcast, .arpRequestOut)
      case .bound(let lease):
        install(lease, gateway: dhcp.pointee.gateway)
        hasLeaseNews = true
        if self.lease != nil { traceLease(.leaseBound, lease) }
      case .lost(let lease):
        uninstallLease()
        hasLeaseNews = true
        traceLease(.leaseLost, lease)
      }
    }
    let deadline = dhcp.pointee.client.nextDeadline
    if deadline == .distantFuture {
      environment.pointee.wheel.cancel(dhcp.pointee.timer)
    } else {
      environment.pointee.wheel.schedule(dhcp.pointee.timer, at: deadline)
    }
  }

  // MARK: The lease as address and routes

  /// Gives the interface what the lease says. Where it has no room for the address there is no lease (`lease` is nil), until a later
  /// acknowledgment finds room.
  package mutating func install(_ new: DHCPLease, gateway: IPv4Address?) {
    let isProlonged = lease.map { $0.saysTheSame(as: new) } ?? false
    if !isProlonged { uninstallLease() }
    lease = new
    if isProlonged { return }
    let source = IPAddress(new.address)
    addAddress(
      InterfaceAddress(source, prefixLength: new.prefixLength, state: .preferred, origin: .leased))
    let hasAddress = hasAddress(source)
    dhcp?.pointee.hasNoRoom = !hasAddress
    guard hasAddress else {
      lease = nil
      return traceLease(.leaseHasNoRoom, new, .error)
    }
    let mtu = linkMTU(source)
    if let classless = new.routes {
      for i in 0..<classless.count {
        let route = classless[i]
        routes.add(
          Route(
            prefix: IPAddress(route.destination), prefixLength: route.prefixLength,
            gateway: route.router == .any ? nil : IPAddress(route.router), source: source, mtu: mtu))
      }
    } else if let router = new.routers.first {
      setGateway(IPAddress(router), source: source)
    }
    if let gateway { setGateway(IPAddress(gateway), source: source) }
  }

  /// The lease has ended: its address and all that follows from it go.
  package mutating func uninstallLease() {
    guard let old = lease else { return }
    lease = nil
    removeAddress(IPAddress(old.address))
  }

  // MARK: Trace

  private func traceDHCP(_ kind: TraceKind, _ type: DHCPMessageType, _ address: IPv4Address) {
    guard environment.pointee.trace.allows(.udp, .debug) else { return }
    var event = TraceEvent(environment.pointee.now, .udp, .debug, kind)
    event.a = Int64(type.rawValue)
    event.b = Int64(address.bits)
    environment.pointee.trace.append(event)
  }

  private func traceLease(_ kind: TraceKind, _ lease: DHCPLease, _ level: TraceLevel = .info) {
    guard environment.pointee.trace.allows(.ip, level) else { return }
    var event = TraceEvent(environment.pointee.now, .ip, level, kind)
    event.a = Int64(lease.address.bits)
    let left = (lease.expiry - environment.pointee.now).milliseconds / 1000
    event.b = lease.expiry == .distantFuture ? -1 : left
    environment.pointee.trace.append(event)
  }
}
