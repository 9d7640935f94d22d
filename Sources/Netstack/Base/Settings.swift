// Owns: what Linux keeps in /proc/sys/net, as a value. Names and defaults are Linux 6.x's (Documentation/networking/
// ip-sysctl.rst); the comment gives the sysctl's name and unit. A stack reads a setting at the moment it matters, so a
// change takes effect for what happens next.

package enum CongestionAlgorithm: UInt8, CaseIterable, Sendable {
  case reno, cubic
  package var name: StaticString {
    switch self {
    case .reno: "reno"
    case .cubic: "cubic"
    }
  }
}

package struct Settings: Sendable {
  /// net.ipv4.tcp_sack
  package var tcpSack = true
  /// net.ipv4.tcp_dsack
  package var tcpDsack = true
  /// net.ipv4.tcp_timestamps
  package var tcpTimestamps = true
  /// net.ipv4.tcp_window_scaling
  package var tcpWindowScaling = true
  /// net.ipv4.tcp_congestion_control
  package var tcpCongestionControl = CongestionAlgorithm.cubic
  /// net.ipv4.tcp_syn_retries: a connect gives up after this many retransmitted SYNs.
  package var tcpSynRetries = 6
  /// net.ipv4.tcp_synack_retries
  package var tcpSynackRetries = 5
  /// net.ipv4.tcp_retries1: after this many the route is asked for anew.
  package var tcpRetries1 = 3
  /// net.ipv4.tcp_retries2: an established connection gives up after the time this many back-offs take.
  package var tcpRetries2 = 15
  /// net.ipv4.tcp_orphan_retries: the same for a connection its program has closed (0 = 8).
  package var tcpOrphanRetries = 0
  /// net.ipv4.tcp_keepalive_time, seconds
  package var tcpKeepaliveTime = 7200
  /// net.ipv4.tcp_keepalive_intvl, seconds
  package var tcpKeepaliveInterval = 75
  /// net.ipv4.tcp_keepalive_probes
  package var tcpKeepaliveProbes = 9
  /// net.ipv4.tcp_fin_timeout, seconds
  package var tcpFinTimeout = 60
  /// net.ipv4.tcp_rfc1337
  package var tcpRfc1337 = false
  /// net.ipv4.tcp_abort_on_overflow
  package var tcpAbortOnOverflow = false
  /// net.ipv4.tcp_tw_reuse: 0 never, 1 always, 2 loopback only. The stack's ports are its own, so reuse is safe: 1.
  package var tcpTimeWaitReuse = 1
  /// net.ipv4.tcp_max_tw_buckets
  package var tcpMaxTimeWaitBuckets = 16384
  /// net.ipv4.tcp_max_syn_backlog
  package var tcpMaxSynBacklog = 1024
  /// net.core.somaxconn
  package var somaxconn = 4096
  /// net.ipv4.tcp_rmem, bytes: least, default, most
  package var tcpRmem = (minimum: 4096, initial: 131072, maximum: 6_291_456)
  /// net.ipv4.tcp_wmem, bytes
  package var tcpWmem = (minimum: 4096, initial: 16384, maximum: 4_194_304)
  /// net.core.rmem_max, wmem_max: what SO_RCVBUF and SO_SNDBUF may ask for (before doubling), bytes
  package var rmemMax = 212_992
  package var wmemMax = 212_992
  /// net.core.rmem_default, wmem_default: UDP's buffers, bytes
  package var rmemDefault = 212_992
  package var wmemDefault = 212_992
  /// net.ipv4.tcp_moderate_rcvbuf: receive-buffer auto-tuning
  package var tcpModerateRcvbuf = true
  /// net.ipv4.tcp_min_rto, tcp_rto_max_ms, milliseconds
  package var tcpRtoMin = 200
  package var tcpRtoMax = 120_000
  /// net.ipv4.tcp_reordering
  package var tcpReordering = 3
  /// net.ipv4.tcp_early_retrans: 3 = tail loss probes
  package var tcpEarlyRetrans = 3
  /// net.ipv4.tcp_recovery: bit 0 = RACK
  package var tcpRecovery = 1
  /// net.ipv4.tcp_slow_start_after_idle
  package var tcpSlowStartAfterIdle = true
  /// net.ipv4.tcp_invalid_ratelimit, milliseconds
  package var tcpInvalidRatelimit = 500
  /// net.ipv4.tcp_challenge_ack_limit per second (Linux: unlimited since 6.x per netns; per-connection limit stays)
  package var tcpChallengeAckLimit = 1000
  /// net.ipv4.tcp_base_mss, tcp_min_snd_mss, bytes
  package var tcpMinSndMss = 48
  /// net.ipv4.tcp_mtu_probing: on where a black hole is suspected (Linux: 1, its default is 0), bytes of the first try
  package var tcpMtuProbing = true
  package var tcpBaseMss = 1024
  /// net.ipv4.tcp_notsent_lowat, bytes
  package var tcpNotsentLowat = Int(UInt32.max)
  /// net.ipv4.tcp_autocorking, but as a time: how long a small write may wait for the one that always follows it; 0 = off. The clock
  /// of timers has milliseconds.
  package var tcpAutocorkingTime = Interval.milliseconds(1)
  /// net.ipv4.ip_default_ttl
  package var ipDefaultTTL: UInt8 = 64
  /// net.ipv4.ip_local_port_range
  package var ipLocalPortRange = (first: UInt16(32768), last: UInt16(60999))
  /// net.ipv4.ip_unprivileged_port_start: binding below is the program's own business here
  package var ipNoPmtuDiscovery = false
  /// net.ipv4.ipfrag_high_thresh, bytes
  package var ipfragHighThreshold = 4_194_304
  /// net.ipv4.ipfrag_time, seconds
  package var ipfragTime = 30
  /// net.ipv6.ip6frag_time, seconds
  package var ip6fragTime = 60
  /// net.ipv4.ipfrag_max_dist
  package var ipfragMaxDistance = 64
  /// net.ipv4.icmp_echo_ignore_all, icmp_echo_ignore_broadcasts
  package var icmpEchoIgnoreAll = false
  package var icmpEchoIgnoreBroadcasts = true
  /// net.ipv4.icmp_ratelimit, milliseconds between two errors to one target; icmp_msgs_per_sec over all
  package var icmpRatelimit = 1000
  package var icmpMessagesPerSecond = 1000
  /// net.ipv4.neigh.default.base_reachable_time_ms
  package var neighborReachableTime = 30_000
  /// net.ipv4.neigh.default.retrans_time_ms, mcast_solicit / ucast_solicit probes, delay_first_probe_time (s)
  package var neighborRetransTime = 1000
  /// The same of net.ipv6.neigh.default: what routers advertise changes them.
  package var neighborReachableTime6 = 30_000
  package var neighborRetransTime6 = 1000
  package var neighborMulticastSolicit = 3
  package var neighborUnicastSolicit = 3
  package var neighborDelayFirstProbe = 5
  /// net.ipv4.neigh.default.unres_qlen_bytes (here: packets)
  package var neighborQueueLength = 101
  /// net.ipv4.neigh.default.gc_thresh3: most entries
  package var neighborMaximum = 1024
  /// net.ipv4.route.mtu_expires, seconds; min_pmtu, bytes
  package var routeMTUExpires = 600
  package var routeMinPMTU = 552
  /// Most connections at once, TIME-WAIT apart.
  package var maximumConnections = 65536

  package init() {}
}
