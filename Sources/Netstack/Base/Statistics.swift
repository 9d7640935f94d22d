// Owns: what the stack counts. Names follow `netstat -s` (/proc/net/snmp and netstat), /proc/net/softnet_stat and
// /proc/softirqs where they have one. Printing is the shell's work.

/// A counter. To add one: a case here, its name in `name`.
package enum Counter: Int, CaseIterable, Sendable {
  // Device and softirq
  case rxFrames, rxBytes, txFrames, txBytes, rxInterrupts, rxPolls, rxCallerPolls, rxSpins, rxSpinMicros, timeSqueeze,
    timerRuns, rxRingFull, rxSteered
  case txErrors
  // Copies between the program and the stack
  case bytesIn, copiesIn, copyBytesIn, copiesOut, copyBytesOut
  // IP
  case ipInReceives, ipInDelivers, ipOutRequests, ipForwDatagrams
  case ipReasmReqds, ipReasmOKs, ipReasmFails, ipReasmTimeout, ipFragOKs, ipFragFails, ipFragCreates, ipOutNoRoutes
  // IPv6
  case ip6InReceives, ip6InDelivers, ip6OutRequests, ip6OutNoRoutes
  case icmp6InMsgs, icmp6InErrors, icmp6InEchos, icmp6OutMsgs, icmp6OutEchoReplies
  case ndpInSolicitations, ndpInAdvertisements, ndpInRouterAdvertisements, ndpOutSolicitations, ndpOutAdvertisements
  case ndpConflicts
  // ARP
  case arpInRequests, arpInReplies, arpOutRequests, arpOutReplies, arpConflicts
  // ICMP
  case icmpInMsgs, icmpInErrors, icmpInEchos, icmpInDestUnreachs, icmpInTimeExcds, icmpOutMsgs, icmpOutEchoReps
  case icmpOutDestUnreachs, icmpOutRateLimited
  // Multicast
  case igmpInMsgs, igmpOutMsgs
  // UDP
  case udpInDatagrams, udpNoPorts, udpInErrors, udpOutDatagrams, udpRcvbufErrors
  // TCP
  case tcpActiveOpens, tcpPassiveOpens, tcpAttemptFails, tcpEstabResets, tcpInSegs, tcpOutSegs, tcpRetransSegs
  case tcpInErrs, tcpOutRsts, tcpListenOverflows, tcpListenDrops, tcpTimeouts, tcpTimeWaits, tcpTimeWaitRecycled
  case tcpHPHits, tcpPureAcks, tcpHPAcks, tcpOFOQueue, tcpOFODrop, tcpOFOMerge, tcpRcvCoalesce, tcpDelayedAcks
  case tcpFastRetrans, tcpLossProbes, tcpLossProbeRecovery, tcpSackRecovery, tcpRenoRecovery, tcpSpuriousRtxHost
  case tcpDSACKOldSent, tcpDSACKRecv, tcpPAWSEstab, tcpChallengeACK, tcpSYNChallenge, tcpAbortOnData, tcpAbortOnTimeout
  case tcpAbortOnClose, tcpAbortOnLinger, tcpAbortOnMemory, tcpKeepAlive, tcpZeroWindowProbes, tcpRcvPruned
  case tcpRetransFail, tcpBacklogDrop, tcpUndo, tcpAutoCorking, tcpBlackHoles

  package var name: StaticString {
    switch self {
    case .rxFrames: "RxFrames"
    case .rxBytes: "RxBytes"
    case .txFrames: "TxFrames"
    case .txBytes: "TxBytes"
    case .rxInterrupts: "RxInterrupts"
    case .rxPolls: "RxPolls"
    case .rxCallerPolls: "RxCallerPolls"
    case .rxSpins: "RxSpins"
    case .rxSpinMicros: "RxSpinMicros"
    case .timeSqueeze: "TimeSqueeze"
    case .timerRuns: "TimerRuns"
    case .rxRingFull: "RxRingFull"
    case .rxSteered: "RxSteered"
    case .txErrors: "TxErrors"
    case .bytesIn: "BytesFromUser"
    case .copiesIn: "CopiesFromUser"
    case .copyBytesIn: "CopyBytesFromUser"
    case .copiesOut: "CopiesToUser"
    case .copyBytesOut: "CopyBytesToUser"
    case .ipInReceives: "IpInReceives"
    case .ipInDelivers: "IpInDelivers"
    case .ipOutRequests: "IpOutRequests"
    case .ipForwDatagrams: "IpForwDatagrams"
    case .ipReasmReqds: "IpReasmReqds"
    case .ipReasmOKs: "IpReasmOKs"
    case .ipReasmFails: "IpReasmFails"
    case .ipReasmTimeout: "IpReasmTimeout"
    case .ipFragOKs: "IpFragOKs"
    case .ipFragFails: "IpFragFails"
    case .ipFragCreates: "IpFragCreates"
    case .ipOutNoRoutes: "IpOutNoRoutes"
    case .ip6InReceives: "Ip6InReceives"
    case .ip6InDelivers: "Ip6InDelivers"
    case .ip6OutRequests: "Ip6OutRequests"
    case .ip6OutNoRoutes: "Ip6OutNoRoutes"
    case .icmp6InMsgs: "Icmp6InMsgs"
    case .icmp6InErrors: "Icmp6InErrors"
    case .icmp6InEchos: "Icmp6InEchos"
    case .icmp6OutMsgs: "Icmp6OutMsgs"
    case .icmp6OutEchoReplies: "Icmp6OutEchoReplies"
    case .ndpInSolicitations: "Icmp6InNeighborSolicits"
    case .ndpInAdvertisements: "Icmp6InNeighborAdvertisements"
    case .ndpInRouterAdvertisements: "Icmp6InRouterAdvertisements"
    case .ndpOutSolicitations: "Icmp6OutNeighborSolicits"
    case .ndpOutAdvertisements: "Icmp6OutNeighborAdvertisements"
    case .ndpConflicts: "NdpConflicts"
    case .arpInRequests: "ArpInRequests"
    case .arpInReplies: "ArpInReplies"
    case .arpOutRequests: "ArpOutRequests"
    case .arpOutReplies: "ArpOutReplies"
    case .arpConflicts: "ArpConflicts"
    case .icmpInMsgs: "IcmpInMsgs"
    case .icmpInErrors: "IcmpInErrors"
    case .icmpInEchos: "IcmpInEchos"
    case .icmpInDestUnreachs: "IcmpInDestUnreachs"
    case .icmpInTimeExcds: "IcmpInTimeExcds"
    case .icmpOutMsgs: "IcmpOutMsgs"
    case .icmpOutEchoReps: "IcmpOutEchoReps"
    case .icmpOutDestUnreachs: "IcmpOutDestUnreachs"
    case .icmpOutRateLimited: "IcmpOutRateLimited"
    case .igmpInMsgs: "IgmpInMsgs"
    case .igmpOutMsgs: "IgmpOutMsgs"
    case .udpInDatagrams: "UdpInDatagrams"
    case .udpNoPorts: "UdpNoPorts"
    case .udpInErrors: "UdpInErrors"
    case .udpOutDatagrams: "UdpOutDatagrams"
    case .udpRcvbufErrors: "UdpRcvbufErrors"
    case .tcpActiveOpens: "TcpActiveOpens"
    case .tcpPassiveOpens: "TcpPassiveOpens"
    case .tcpAttemptFails: "TcpAttemptFails"
    case .tcpEstabResets: "TcpEstabResets"
    case .tcpInSegs: "TcpInSegs"
    case .tcpOutSegs: "TcpOutSegs"
    case .tcpRetransSegs: "TcpRetransSegs"
    case .tcpInErrs: "TcpInErrs"
    case .tcpOutRsts: "TcpOutRsts"
    case .tcpListenOverflows: "TcpListenOverflows"
    case .tcpListenDrops: "TcpListenDrops"
    case .tcpTimeouts: "TcpTimeouts"
    case .tcpTimeWaits: "TcpTimeWaits"
    case .tcpTimeWaitRecycled: "TcpTimeWaitRecycled"
    case .tcpHPHits: "TcpHPHits"
    case .tcpPureAcks: "TcpPureAcks"
    case .tcpHPAcks: "TcpHPAcks"
    case .tcpOFOQueue: "TcpOFOQueue"
    case .tcpOFODrop: "TcpOFODrop"
    case .tcpOFOMerge: "TcpOFOMerge"
    case .tcpRcvCoalesce: "TcpRcvCoalesce"
    case .tcpDelayedAcks: "TcpDelayedAcks"
    case .tcpFastRetrans: "TcpFastRetrans"
    case .tcpLossProbes: "TcpLossProbes"
    case .tcpLossProbeRecovery: "TcpLossProbeRecovery"
    case .tcpSackRecovery: "TcpSackRecovery"
    case .tcpRenoRecovery: "TcpRenoRecovery"
    case .tcpSpuriousRtxHost: "TcpSpuriousRtxHostQueues"
    case .tcpDSACKOldSent: "TcpDSACKOldSent"
    case .tcpDSACKRecv: "TcpDSACKRecv"
    case .tcpPAWSEstab: "TcpPAWSEstab"
    case .tcpChallengeACK: "TcpChallengeACK"
    case .tcpSYNChallenge: "TcpSYNChallenge"
    case .tcpAbortOnData: "TcpAbortOnData"
    case .tcpAbortOnTimeout: "TcpAbortOnTimeout"
    case .tcpAbortOnClose: "TcpAbortOnClose"
    case .tcpAbortOnLinger: "TcpAbortOnLinger"
    case .tcpAbortOnMemory: "TcpAbortOnMemory"
    case .tcpKeepAlive: "TcpKeepAlive"
    case .tcpZeroWindowProbes: "TcpZeroWindowProbes"
    case .tcpRcvPruned: "TcpRcvPruned"
    case .tcpRetransFail: "TcpRetransFail"
    case .tcpBacklogDrop: "TcpBacklogDrop"
    case .tcpUndo: "TcpUndo"
    case .tcpAutoCorking: "TcpAutoCorking"
    case .tcpBlackHoles: "TcpBlackHoles"
    }
  }
}

/// Why a packet was thrown away. Every drop counts under exactly one of these.
package enum DropReason: Int, CaseIterable, Sendable {
  case ethernetTooShort, ethernetUnknownType, ethernetOtherHost
  case arpMalformed, ndpMalformed, neighborQueueFull, neighborUnreachable
  case ipTruncated, ipVersion, ipHeaderLength, ipTotalLength, ipChecksum, ipNotForUs, ipMartianSource, ipUnknownProtocol
  case ipTimeToLive, ipNoRoute, ipExtensionHeader, fragmentOverlap, fragmentTooLong, fragmentMemory, fragmentTimeout,
    fragmentECN
  case igmpMalformed
  case icmpMalformed, icmpChecksum, icmpBroadcastEcho, icmpRateLimited
  case udpMalformed, udpChecksum, udpNoSocket, udpReceiveBufferFull
  case tcpMalformed, tcpChecksum, tcpNoSocket, tcpInvalidFlags, tcpSequenceOutOfWindow, tcpOldAck, tcpUnacceptableAck
  case tcpPAWS, tcpListenQueueFull, tcpAcceptQueueFull, tcpReceiveBufferFull, tcpOutOfOrderLimit, tcpClosed
  case tcpInvalidReset, tcpDuplicate, tcpNoMemory
  case noBuffer, transmitQueueFull, payloadGone, deviceError

  package var name: StaticString {
    switch self {
    case .ethernetTooShort: "ethernet-too-short"
    case .ethernetUnknownType: "ethernet-unknown-type"
    case .ethernetOtherHost: "ethernet-other-host"
    case .arpMalformed: "arp-malformed"
    case .ndpMalformed: "ndp-malformed"
    case .neighborQueueFull: "neighbor-queue-full"
    case .neighborUnreachable: "neighbor-unreachable"
    case .ipTruncated: "ip-truncated"
    case .ipVersion: "ip-version"
    case .ipHeaderLength: "ip-header-length"
    case .ipTotalLength: "ip-total-length"
    case .ipChecksum: "ip-checksum"
    case .ipNotForUs: "ip-not-for-us"
    case .ipMartianSource: "ip-martian-source"
    case .ipUnknownProtocol: "ip-unknown-protocol"
    case .ipTimeToLive: "ip-time-to-live"
    case .ipNoRoute: "ip-no-route"
    case .ipExtensionHeader: "ip-extension-header"
    case .fragmentOverlap: "fragment-overlap"
    case .fragmentTooLong: "fragment-too-long"
    case .fragmentMemory: "fragment-memory"
    case .fragmentTimeout: "fragment-timeout"
    case .fragmentECN: "fragment-ecn"
    case .igmpMalformed: "igmp-malformed"
    case .icmpMalformed: "icmp-malformed"
    case .icmpChecksum: "icmp-checksum"
    case .icmpBroadcastEcho: "icmp-broadcast-echo"
    case .icmpRateLimited: "icmp-rate-limited"
    case .udpMalformed: "udp-malformed"
    case .udpChecksum: "udp-checksum"
    case .udpNoSocket: "udp-no-socket"
    case .udpReceiveBufferFull: "udp-receive-buffer-full"
    case .tcpMalformed: "tcp-malformed"
    case .tcpChecksum: "tcp-checksum"
    case .tcpNoSocket: "tcp-no-socket"
    case .tcpInvalidFlags: "tcp-invalid-flags"
    case .tcpSequenceOutOfWindow: "tcp-sequence-out-of-window"
    case .tcpOldAck: "tcp-old-ack"
    case .tcpUnacceptableAck: "tcp-unacceptable-ack"
    case .tcpPAWS: "tcp-paws"
    case .tcpListenQueueFull: "tcp-listen-queue-full"
    case .tcpAcceptQueueFull: "tcp-accept-queue-full"
    case .tcpReceiveBufferFull: "tcp-receive-buffer-full"
    case .tcpOutOfOrderLimit: "tcp-out-of-order-limit"
    case .tcpClosed: "tcp-closed"
    case .tcpInvalidReset: "tcp-invalid-reset"
    case .tcpDuplicate: "tcp-duplicate"
    case .tcpNoMemory: "tcp-no-memory"
    case .noBuffer: "no-buffer"
    case .transmitQueueFull: "transmit-queue-full"
    case .payloadGone: "payload-gone"
    case .deviceError: "device-error"
    }
  }
}

/// All counters of one stack. Written only by whoever holds the stack.
package struct Statistics: Sendable {
  private var counters = InlineArray<160, UInt64>(repeating: 0)
  private var dropCounters = InlineArray<64, UInt64>(repeating: 0)

  package init() {}

  @inline(__always)
  package subscript(_ counter: Counter) -> UInt64 {
    get { counters[counter.rawValue] }
    set { counters[counter.rawValue] = newValue }
  }

  @inline(__always)
  package subscript(drop reason: DropReason) -> UInt64 {
    get { dropCounters[reason.rawValue] }
    set { dropCounters[reason.rawValue] = newValue }
  }

  @inline(__always)
  package mutating func count(_ counter: Counter, _ n: Int = 1) {
    counters[counter.rawValue] &+= UInt64(truncatingIfNeeded: n)
  }

  /// Adds another stack's.
  package mutating func add(_ other: Statistics) {
    for i in counters.indices { counters[i] &+= other.counters[i] }
    for i in dropCounters.indices { dropCounters[i] &+= other.dropCounters[i] }
  }
}
