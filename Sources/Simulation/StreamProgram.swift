// Owns: the programs of a transfer: one that sends a known stream of bytes and checks the one it receives, and one that accepts
// connections for such programs. They use sockets as a careful edge-triggered program would: after a short count or `wouldBlock`
// they wait to be told.

import Netstack
import Wire

/// How a program behaves; drawn from the seed.
package struct Behaviour: Sendable {
  /// Bytes of one write, of one read, at most.
  package var writeSize = 16384
  package var readSize = 16384
  /// Waits so long after each write / after reading `readBurst` bytes.
  package var writePause = Interval.zero
  package var readPause = Interval.zero
  package var readBurst = Int.max
  /// Says MSG_MORE with every write but the last.
  package var saysMore = false
  /// Sends FIN as soon as all is written, and reads on. Else: closes when everything has been written and read.
  package var halfCloses = true
  package var options: [(SocketOption, Int)] = []
  package init() {}
}

package final class StreamProgram: Program {
  package let label: String
  private let behaviour: Behaviour
  private let outgoing: Pattern
  private let outgoingCount: Int
  private let incoming: Pattern
  private let incomingCount: Int

  private var socket: SocketHandle?
  private var cookie: UInt32 = 0
  private var written = 0
  package private(set) var received = 0
  private var writeShut = false
  private var sawEnd = false
  private var mayWriteAt = Instant.zero
  private var mayReadAt = Instant.zero
  private var burst = 0
  private var buffer: [UInt8]
  package private(set) var isDone = false
  package private(set) var finishedAt = Instant.zero
  /// TCP_INFO just before the close.
  package private(set) var information = TCPInfo()

  package init(
    _ label: String, _ behaviour: Behaviour, sends outgoing: Pattern, _ outgoingCount: Int,
    expects incoming: Pattern, _ incomingCount: Int
  ) {
    self.label = label
    self.behaviour = behaviour
    self.outgoing = outgoing
    self.outgoingCount = outgoingCount
    self.incoming = incoming
    self.incomingCount = incomingCount
    buffer = [UInt8](repeating: 0, count: behaviour.readSize)
  }

  // MARK: Beginning

  package func connect(from host: Host, to remote: Endpoint, localPort: UInt16? = nil) {
    do throws(SocketError) {
      cookie = host.register(self)
      let isIPv6 = !remote.address.isIPv4
      let socket = try host.stack.open(.stream, isIPv6: isIPv6, cookie: cookie, now: host.now)
      self.socket = socket
      for (option, value) in behaviour.options { try host.stack.setOption(socket, option, value, now: host.now) }
      if let localPort {
        try host.stack.bind(socket, to: Endpoint(isIPv6 ? .anyIPv6 : .anyIPv4, localPort), now: host.now)
      }
      do throws(SocketError) {
        try host.stack.connect(socket, to: remote, now: host.now)
      } catch {
        guard error == .inProgress else { throw error }
      }
    } catch {
      host.world.fail("\(label): cannot begin: \(error)")
    }
    host.service()
  }

  func accepted(_ socket: SocketHandle, cookie: UInt32, on host: Host) {
    self.socket = socket
    self.cookie = cookie
    do throws(SocketError) {
      for (option, value) in behaviour.options { try host.stack.setOption(socket, option, value, now: host.now) }
    } catch {
      host.world.fail("\(label): cannot set an option: \(error)")
    }
    proceed(on: host)
  }

  // MARK: Going on

  package func ready(_ socket: SocketHandle, _ events: Readiness, on host: Host) {
    guard socket == self.socket else { return }
    if host.stack.readiness(socket).contains(.error), let error = host.stack.takeError(socket) {
      return host.world.fail("\(label): \(error), \(written) written, \(received) received")
    }
    proceed(on: host)
  }

  package func timer(on host: Host) { proceed(on: host) }

  private func proceed(on host: Host) {
    guard let socket, !isDone else { return }
    do throws(SocketError) {
      try write(socket, on: host)
      try read(socket, on: host)
    } catch {
      return host.world.fail("\(label): \(error), \(written) written, \(received) received")
    }
    let allRead = sawEnd || !behaviour.halfCloses && received == incomingCount
    if written == outgoingCount, allRead {
      isDone = true
      finishedAt = host.now
      information = host.stack.information(socket, now: host.now)
      host.stack.close(socket, now: host.now)
      host.forget(cookie)
    }
  }

  private func write(_ socket: SocketHandle, on host: Host) throws(SocketError) {
    while written < outgoingCount {
      if host.now < mayWriteAt { return }
      let size = min(behaviour.writeSize, outgoingCount - written)
      let more = behaviour.saysMore && written + size < outgoingCount
      let result = outgoing.withBytes(at: written, count: size) { bytes -> Result<Int, SocketError> in
        do throws(SocketError) {
          return .success(try host.stack.send(socket, bytes, flags: more ? .more : [], now: host.now))
        } catch {
          return .failure(error)
        }
      }
      switch result {
      case .success(let n):
        written += n
        if n < size { return }
      case .failure(.wouldBlock): return
      case .failure(let error): throw error
      }
      if behaviour.writePause > .zero, written < outgoingCount {
        mayWriteAt = host.now + behaviour.writePause
        host.wake(self, at: mayWriteAt)
      }
    }
    if behaviour.halfCloses, !writeShut {
      do throws(SocketError) {
        try host.stack.shutdown(socket, .write, now: host.now)
        writeShut = true
      } catch {
        // Still connecting, with nothing to send: later.
        guard error == .notConnected else { throw error }
      }
    }
  }

  private func read(_ socket: SocketHandle, on host: Host) throws(SocketError) {
    while !sawEnd {
      if host.now < mayReadAt { return }
      if !behaviour.halfCloses, received == incomingCount, written == outgoingCount { return }
      let n: Int
      do throws(SocketError) {
        n = try receive(socket, on: host)
      } catch {
        if error == .wouldBlock { return }
        throw error
      }
      if n == 0 {
        sawEnd = true
        if received != incomingCount {
          host.world.fail("\(label): the stream ended after \(received) of \(incomingCount) bytes")
        }
        return
      }
      received += n
      burst += n
      if burst >= behaviour.readBurst, behaviour.readPause > .zero {
        burst = 0
        mayReadAt = host.now + behaviour.readPause
        host.wake(self, at: mayReadAt)
      }
    }
  }

  private func receive(_ socket: SocketHandle, on host: Host) throws(SocketError) -> Int {
    let result = buffer.withUnsafeMutableBytes { space -> Result<Int, SocketError> in
      do throws(SocketError) {
        let n = try host.stack.receive(socket, into: space, flags: [], now: host.now)
        let bytes = UnsafeRawBufferPointer(rebasing: space[..<n])
        if received + n > incomingCount {
          host.world.fail("\(label): more bytes than were sent: \(received + n) of \(incomingCount)")
        } else if !incoming.matches(bytes, at: received) {
          host.world.fail("\(label): wrong bytes between \(received) and \(received + n)")
        }
        return .success(n)
      } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }
}

/// Listens, and hands each connection to the program that expects it (by the peer's port, or in turn).
package final class ListenerProgram: Program {
  private let make: (_ remote: Endpoint) -> StreamProgram
  private let options: [(SocketOption, Int)]
  private let backlog: Int
  private var socket: SocketHandle?
  private var cookie: UInt32 = 0
  package private(set) var accepted: [StreamProgram] = []

  package init(options: [(SocketOption, Int)] = [], backlog: Int = 16, _ make: @escaping (Endpoint) -> StreamProgram) {
    self.options = options
    self.backlog = backlog
    self.make = make
  }

  package func listen(on host: Host, port: UInt16, isIPv6: Bool = false) {
    do throws(SocketError) {
      cookie = host.register(self)
      let socket = try host.stack.open(.stream, isIPv6: isIPv6, cookie: cookie, now: host.now)
      self.socket = socket
      for (option, value) in options { try host.stack.setOption(socket, option, value, now: host.now) }
      try host.stack.bind(socket, to: Endpoint(isIPv6 ? .anyIPv6 : .anyIPv4, port), now: host.now)
      try host.stack.listen(socket, backlog: backlog, now: host.now)
    } catch {
      host.world.fail("cannot listen: \(error)")
    }
  }

  package func close(on host: Host) {
    guard let socket else { return }
    host.stack.close(socket, now: host.now)
    host.forget(cookie)
    self.socket = nil
    host.service()
  }

  package func ready(_ socket: SocketHandle, _ events: Readiness, on host: Host) {
    while true {
      do throws(SocketError) {
        // The program is known only when the peer is: the cookie is set afterwards.
        let connection = try host.stack.accept(socket, cookie: 0, now: host.now)
        let program = make(try host.stack.remoteEndpoint(connection))
        accepted.append(program)
        let cookie = host.register(program)
        host.stack.setCookie(connection, cookie)
        program.accepted(connection, cookie: cookie, on: host)
      } catch {
        if error != .wouldBlock { host.world.fail("accept: \(error)") }
        return
      }
    }
  }

  package func timer(on host: Host) {}
}
