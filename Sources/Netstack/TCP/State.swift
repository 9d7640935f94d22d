// Owns: the connection states and the small enums of a connection's machinery. Read first: RFC 9293 §3.3.2.

/// RFC 9293 §3.3.2. Raw values are Linux's (TCP_INFO's tcpi_state).
package enum TCPState: UInt8, Sendable {
  case established = 1
  case synSent = 2
  case synReceived = 3
  case finWait1 = 4
  case finWait2 = 5
  case timeWait = 6
  case closed = 7
  case closeWait = 8
  case lastAck = 9
  case listen = 10
  case closing = 11

  package var name: StaticString {
    switch self {
    case .established: "ESTABLISHED"
    case .synSent: "SYN-SENT"
    case .synReceived: "SYN-RECEIVED"
    case .finWait1: "FIN-WAIT-1"
    case .finWait2: "FIN-WAIT-2"
    case .timeWait: "TIME-WAIT"
    case .closed: "CLOSED"
    case .closeWait: "CLOSE-WAIT"
    case .lastAck: "LAST-ACK"
    case .listen: "LISTEN"
    case .closing: "CLOSING"
    }
  }

  /// ESTABLISHED and later, but not CLOSED: both sequence spaces are known (RFC 9293 calls these synchronized).
  @inline(__always)
  package var isSynchronized: Bool {
    switch self {
    case .established, .finWait1, .finWait2, .closing, .timeWait, .closeWait, .lastAck: true
    case .closed, .listen, .synSent, .synReceived: false
    }
  }

  /// The program may still queue data (no FIN was asked for).
  @inline(__always)
  package var canSend: Bool { self == .established || self == .closeWait }

  /// The peer may still send data.
  @inline(__always)
  package var canReceive: Bool { self == .established || self == .finWait1 || self == .finWait2 }
}

/// What the one send timer of a connection is waiting for. At most one of these at a time (RFC 6298 §5, RFC 8985 §7.2).
enum SendTimer: UInt8 {
  case idle
  /// RFC 6298: while something is unacknowledged.
  case retransmit
  /// RFC 9293 §3.8.6.1: while there is data and the window does not let it out.
  case persist
  /// RFC 8985 §7: a tail loss probe instead of a retransmission time-out.
  case tailLossProbe
  /// RFC 8985 §6.2: a segment may be reordered rather than lost.
  case reorder
  /// TCP_CORK's 200 ms ceiling (tcp(7)).
  case cork
}

/// Linux's tcp_ca_state (TCP_INFO's tcpi_ca_state).
enum RecoveryState: UInt8 {
  case open = 0
  case disorder = 1
  case cwr = 2
  /// Fast recovery: PRR sets the window.
  case recovery = 3
  /// After a retransmission time-out.
  case loss = 4
}

/// What a connection wants from `Stack/` after it was touched.
struct PendingWork: OptionSet {
  let rawValue: UInt8
  /// An acknowledgment must go out at the end of this batch.
  static var ackNow: PendingWork { PendingWork(rawValue: 1) }
  /// Something may be sendable: data, a retransmission, a FIN.
  static var output: PendingWork { PendingWork(rawValue: 2) }
  /// The SYN or SYN-ACK is to be sent (again).
  static var syn: PendingWork { PendingWork(rawValue: 4) }
  /// A window probe (RFC 9293 §3.8.6.1) or a keep-alive (RFC 1122 §4.2.3.6).
  static var windowProbe: PendingWork { PendingWork(rawValue: 8) }
  static var keepaliveProbe: PendingWork { PendingWork(rawValue: 16) }
  /// A tail loss probe (RFC 8985 §7.3).
  static var lossProbe: PendingWork { PendingWork(rawValue: 32) }
  /// Small segments may go out now, whatever Nagle or cork say.
  static var push: PendingWork { PendingWork(rawValue: 64) }
}
