// Owns: the stack as a whole: one value that composes link, IP, UDP and TCP. This is the surface that the shells use
// (preload, simulator, conformance adapter). No clock, no device, no thread, no libc: time comes in as `now`, frames come in
// through `receive` and go out through `nextTransmit`, randomness is configuration.
//
// A shell holds the stack exclusively for each call (the preload: a shard's lock). Its loop is
//
//   receive(frame)*  finishBatch()  |  a socket command  |  advance(to:)
//     then  nextTransmit() … transmitted()   until nil     frames to the device
//           nextChanged()                    until nil     sockets whose readiness changed
//           nextTraceEvent()                 until nil     what to log
//           nextDeadline()                                 when to call advance(to:) next

import Wire

/// What the device under the stack can do.
package struct DeviceCapabilities: Sendable {
  package enum LinkType: Sendable { case ethernet, ip }
  package var linkType = LinkType.ethernet
  package var hardwareAddress = MACAddress(bits: 0x02_00_00_00_00_01)
  /// Largest IP packet, bytes.
  package var mtu = 1500
  /// The device completes partial transport checksums.
  package var checksumOffload = false
  /// The device takes TCP super-frames up to 64 KB for IPv4 / IPv6.
  package var tcpSegmentation4 = false
  package var tcpSegmentation6 = false
  package init() {}
}

package struct StackConfiguration: Sendable {
  package var device = DeviceCapabilities()
  package var address = IPv4Address(198, 18, 0, 4)
  package var prefixLength = 24
  package var gateway: IPv4Address?
  package var settings = Settings()
  package var secret = HashKey(0, 0)
  package var seed: UInt64 = 0
  package init() {}
}
