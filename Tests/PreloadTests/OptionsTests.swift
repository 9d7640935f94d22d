// Owns: tests of the table of socket options, with the headers' numbers.

import CSupport
import Netstack
import Testing

@testable import Preload

@Suite("Socket options")
struct OptionsTests {
  private func route(_ level: Int32, _ name: Int32, _ kind: SocketKind = .stream) -> OptionRoute {
    Options.route(level: level, name: name, kind: kind)
  }

  @Test("SOL_SOCKET")
  func socket() {
    let level = Level.socket
    #expect(route(level, SO_REUSEADDR) == .stack(.reuseAddress))
    #expect(route(level, SO_REUSEPORT) == .stack(.reusePort))
    #expect(route(level, SO_KEEPALIVE) == .stack(.keepAlive))
    #expect(route(level, SO_BROADCAST) == .stack(.broadcast))
    #expect(route(level, SO_SNDBUF) == .stack(.sendBuffer))
    #expect(route(level, SO_RCVBUF) == .stack(.receiveBuffer))
    #expect(route(level, SO_RCVLOWAT) == .stack(.receiveLowWater))
    #expect(route(level, SO_ACCEPTCONN) == .stack(.acceptConnections))
    #expect(route(level, SO_LINGER) == .linger)
    #expect(route(level, SO_RCVTIMEO) == .receiveTimeout)
    #expect(route(level, SO_SNDTIMEO) == .sendTimeout)
    #expect(route(level, SO_ERROR) == .pendingError)
    #expect(route(level, SO_TYPE) == .type)
    #expect(route(level, SO_DOMAIN) == .domain)
    #expect(route(level, SO_PROTOCOL) == .ipProtocol)
    #expect(route(level, SO_TIMESTAMP) == .timestamp)
    #expect(route(level, SO_PRIORITY) == .placeholder)
    #expect(route(level, SO_ATTACH_FILTER) == .unsupported)
    #expect(route(level, SO_ZEROCOPY) == .zeroCopy)
  }

  @Test("IPPROTO_TCP, on streams only")
  func tcp() {
    let level = Level.tcp
    let table: [(Int32, SocketOption)] = [
      (1, .noDelay), (2, .maximumSegment), (3, .cork), (4, .keepIdle), (5, .keepInterval), (6, .keepCount),
      (7, .synCount), (8, .linger2), (9, .deferAccept), (10, .windowClamp), (12, .quickAck), (18, .userTimeout),
      (25, .notSentLowWater),
    ]
    for (name, option) in table {
      #expect(route(level, name) == .stack(option))
      #expect(route(level, name, .datagram) == .placeholder)
    }
    #expect(route(level, 11) == .information)
    #expect(route(level, 13) == .congestion)
    // TCP_MD5SIG, TCP_REPAIR, TCP_ULP change what goes over the wire: not to be taken in silence.
    for name: Int32 in [14, 19, 31] { #expect(route(level, name) == .unsupported) }
  }

  @Test("IPPROTO_IP and IPPROTO_IPV6")
  func ip() {
    #expect(route(Level.ip, IP_TOS) == .stack(.typeOfService))
    #expect(route(Level.ip, IP_TTL) == .stack(.timeToLive))
    #expect(route(Level.ip, IP_MTU_DISCOVER) == .stack(.mtuDiscover))
    #expect(route(Level.ip, IP_MTU) == .stack(.mtu))
    #expect(route(Level.ip, IP_RECVERR) == .stack(.receiveErrors))
    #expect(route(Level.ip, IP_FREEBIND) == .stack(.freeBind))
    #expect(route(Level.ip, IP_ADD_MEMBERSHIP) == .membership)
    #expect(route(Level.ipv6, IPV6_V6ONLY) == .stack(.onlyIPv6))
    #expect(route(Level.ipv6, IPV6_TCLASS) == .stack(.trafficClass))
    #expect(route(Level.ipv6, IPV6_UNICAST_HOPS) == .stack(.unicastHops))
  }

  @Test("no option of the stack is out of reach but those that have a form of their own")
  func complete() {
    var reached: [SocketOption] = [.linger, .congestion]
    for level in [Level.socket, Level.ip, Level.ipv6, Level.tcp] {
      for name: Int32 in 0..<80 {
        if case .stack(let option) = route(level, name) { reached.append(option) }
      }
    }
    for option in SocketOption.allCases { #expect(reached.contains(option)) }
  }

  @Test("what is recorded comes back, the rest is unset")
  func records() {
    var recorded = RecordedOptions()
    #expect(recorded.isEmpty)
    recorded.record(.noDelay, 1)
    recorded.record(.linger, -1)
    recorded.record(.bindAddressNoPort, 1)
    #expect(recorded.value(.noDelay) == 1)
    #expect(recorded.value(.linger) == -1)
    #expect(recorded.value(.bindAddressNoPort) == 1)
    #expect(recorded.value(.keepAlive) == nil)
    #expect(!recorded.isEmpty)
  }
}
