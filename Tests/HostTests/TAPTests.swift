// The device, the receive thread and the transmit path against the kernel's own stack, in a network namespace that a thread
// of this process makes for itself and that vanishes with it. Needs root; skipped elsewhere. One test in one sitting: a
// process has one stack.

import CSupport
import Foundation
import Netstack
import Testing
import Wire

@testable import Host

private let canMakeNamespaces =
  getuid() == 0 && access("/dev/net/tun", R_OK | W_OK) == 0 && system("ip -V >/dev/null 2>&1") == 0

/// Runs `body` on a thread with a network namespace of its own.
private func inNewNetwork(_ body: @escaping @Sendable () -> Void) {
  onThreads(1) { _ in
    guard anp_host_call(Int(SYS_unshare), 0x4000_0000, 0, 0, 0, 0, 0) == 0 else {
      Issue.record("no network namespace to be had")
      return
    }
    body()
  }
}

/// A kernel TCP socket that listens on 198.18.0.5; returns it and its port.
private func kernelListener() -> (descriptor: Int32, port: UInt16) {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = UInt32(0xc612_0005).bigEndian
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  withUnsafeMutablePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
      #expect(bind(descriptor, generic, length) == 0)
      #expect(listen(descriptor, 4) == 0)
      #expect(getsockname(descriptor, generic, &length) == 0)
    }
  }
  return (descriptor, UInt16(bigEndian: address.sin_port))
}

/// A stream of the stack, driven by trying again: what Preload does better.
private struct Stream: @unchecked Sendable {
  let shard = HostRuntime.shard!
  let socket: SocketHandle

  private func attempt<R>(_ call: (inout Stack, Instant) throws(SocketError) -> R) -> Result<R, SocketError> {
    shard.pointee.lock()
    defer { shard.pointee.unlock() }
    do throws(SocketError) { return .success(try call(&shard.pointee.stack, shard.pointee.now())) } catch {
      return .failure(error)
    }
  }

  private func patiently<R>(_ call: (inout Stack, Instant) throws(SocketError) -> R) -> Result<R, SocketError> {
    for _ in 0..<20_000 {
      let result = attempt(call)
      guard case .failure(let error) = result,
        error == .wouldBlock || error == .inProgress || error == .alreadyInProgress
      else {
        return result
      }
      usleep(500)
    }
    return .failure(.timedOut)
  }

  init?(to port: UInt16) {
    let shard = HostRuntime.shard!
    shard.pointee.lock()
    let opened = try? shard.pointee.stack.open(.stream, cookie: 1, now: shard.pointee.now())
    shard.pointee.unlock()
    guard let opened else { return nil }
    socket = opened
    let peer = Endpoint(IPAddress(IPv4Address(198, 18, 0, 5)), port)
    let result = patiently { (stack, now) throws(SocketError) in try stack.connect(opened, to: peer, now: now) }
    if case .failure(let error) = result, error != .isConnected { return nil }
  }

  func send(_ bytes: UnsafeRawBufferPointer) -> Int {
    let result = patiently { (stack, now) throws(SocketError) in try stack.send(socket, bytes, flags: [], now: now) }
    return (try? result.get()) ?? -1
  }

  func receive(_ bytes: UnsafeMutableRawBufferPointer) -> Int {
    let result = patiently { (stack, now) throws(SocketError) in
      try stack.receive(socket, into: bytes, flags: [], now: now)
    }
    return (try? result.get()) ?? -1
  }

  func finish() { _ = attempt { (stack, now) throws(SocketError) in try stack.shutdown(socket, .write, now: now) } }
  func close() { _ = attempt { (stack, now) throws(SocketError) in stack.close(socket, now: now) } }
}

/// Sends `count` bytes to a kernel echo server and checks that the same come back.
private func echo(_ count: Int, _ comment: Comment) {
  let listener = kernelListener()
  Thread.detachNewThread {
    let peer = accept(listener.descriptor, nil, nil)
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let n = read(peer, &buffer, buffer.count)
      guard n > 0 else { break }
      var sent = 0
      while sent < n {
        let m = buffer[sent..<n].withUnsafeBytes { write(peer, $0.baseAddress, $0.count) }
        guard m > 0 else { break }
        sent += m
      }
    }
    Glibc.close(peer)
    Glibc.close(listener.descriptor)
  }
  guard let stream = Stream(to: listener.port) else {
    Issue.record(comment)
    return
  }
  let sent = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
  var received: [UInt8] = []
  // The sender is a thread of its own: two user contexts and anp-rx share the lock and the duties.
  let done = DispatchSemaphore(value: 0)
  Thread.detachNewThread {
    sent.withUnsafeBytes { all in
      var at = 0
      while at < count {
        let n = stream.send(UnsafeRawBufferPointer(rebasing: all[at..<min(at + 100_000, count)]))
        guard n > 0 else { break }
        at += n
      }
    }
    stream.finish()
    done.signal()
  }
  var buffer = [UInt8](repeating: 0, count: 50_000)
  while true {
    let n = buffer.withUnsafeMutableBytes { stream.receive($0) }
    guard n > 0 else { break }
    received += buffer[..<n]
  }
  done.wait()
  stream.close()
  #expect(received == sent, comment)
}

/// A datagram from the kernel to a port of the stack where nobody is: the way there and back through ARP, IP, UDP, ICMP.
private func kernelIsRefused() -> Bool {
  let descriptor = socket(AF_INET, Int32(SOCK_DGRAM.rawValue), 0)
  defer { Glibc.close(descriptor) }
  var limit = timeval(tv_sec: 3, tv_usec: 0)
  setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = UInt32(0xc612_0004).bigEndian
  address.sin_port = UInt16(9).bigEndian
  let connected = withUnsafePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, 16) }
  }
  var byte: UInt8 = 1
  return connected == 0 && Glibc.send(descriptor, &byte, 1, 0) == 1 && recv(descriptor, &byte, 1, 0) == -1
    && errno == ECONNREFUSED
}

/// CPU time of the thread of ours called anp-rx, clock ticks.
private func receiveThreadTicks() -> Int? {
  let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
  for task in tasks {
    guard let line = try? String(contentsOfFile: "/proc/self/task/\(task)/stat", encoding: .utf8),
      line.contains("(anp-rx)")
    else {
      continue
    }
    let fields = line.components(separatedBy: ") ")[1].split(separator: " ")
    return Int(fields[11])! + Int(fields[12])!
  }
  return nil
}

@Suite("The stack on a TAP", .serialized, .enabled(if: canMakeNamespaces))
struct TAPTests {
  @Test("from no device to a removed one", .timeLimit(.minutes(2)))
  func life() {
    inNewNetwork {
      #expect(HostRuntime.start() == .noDevice)
      #expect(HostRuntime.shard == nil)
      #expect(system("ip tuntap add dev anp0 mode tap multi_queue vnet_hdr && ip addr add 198.18.0.5/24 dev anp0") == 0)
      #expect(HostRuntime.start() == .unusable, "the device is down")
      #expect(system("ip link set anp0 up") == 0)
      #expect(HostRuntime.start() == nil)
      #expect(HostRuntime.start() == nil, "a second start is no start")
      guard let shard = HostRuntime.shard else {
        Issue.record("no shard")
        return
      }
      #expect(
        shard.pointee.device.capabilities.tcpSegmentation4
          && shard.pointee.device.capabilities.checksumOffload)
      #expect(shard.pointee.device.capabilities.hostAddress == IPv4Address(198, 18, 0, 5))

      #expect(kernelIsRefused())
      echo(3_000_000, "a stream both ways")

      #expect {
        try TAPDevice.attach("anp0", wantedMTU: nil)
      } throws: {
        ($0 as? DeviceError)?.kind == .busy
      }

      // The program wants our numbers for itself.
      var numbers: [Int32] = []
      HostRuntime.eachDescriptor { numbers.append($0) }
      #expect(numbers.count == 2, "device and alarm")
      for number in numbers {
        #expect(HostRuntime.ownsDescriptor(number))
        #expect(HostRuntime.moveDescriptor(number))
        #expect(!HostRuntime.ownsDescriptor(number))
        let other = open("/dev/null", O_RDWR)
        #expect(dup2(other, number) == number)
        Glibc.close(other)
      }
      echo(1_000_000, "a stream after the descriptors moved")

      shard.pointee.lock()
      let statistics = shard.pointee.stack.statistics
      let calls = shard.pointee.work.calls
      shard.pointee.unlock()
      #expect(statistics[.rxInterrupts] > 0 && statistics[.rxPolls] >= statistics[.rxInterrupts])
      #expect(statistics[.tcpActiveOpens] == 2)
      #expect(calls.writeBytes > 4_000_000 && calls.readBytes > 4_000_000)
      #expect(shard.pointee.lockOwner == 0)

      // Down: frames are lost and counted, nothing is held up.
      #expect(system("ip link set anp0 down") == 0)
      shard.pointee.lock()
      let before = shard.pointee.stack.statistics[.txErrors]
      let lonely = try? shard.pointee.stack.open(.stream, cookie: 2, now: shard.pointee.now())
      if let lonely {
        _ = try? shard.pointee.stack.connect(
          lonely, to: Endpoint(IPAddress(IPv4Address(198, 18, 0, 5)), 7), now: shard.pointee.now())
      }
      shard.pointee.unlock()
      shard.pointee.lock()
      #expect(shard.pointee.stack.statistics[.txErrors] > before)
      #expect(shard.pointee.work.reportedDeviceError == EIO)
      shard.pointee.unlock()

      // Gone: said once, and the thread does not spin on a descriptor that is "ready" for ever.
      #expect(system("ip link del anp0") == 0)
      usleep(300_000)
      shard.pointee.lock()
      #expect(shard.pointee.work.reportedDeviceError == EBADFD)
      shard.pointee.unlock()
      guard let ticks = receiveThreadTicks() else {
        Issue.record("no thread called anp-rx")
        return
      }
      usleep(500_000)
      #expect(receiveThreadTicks()! - ticks < 10, "a tenth of a second of CPU in half a second")
    }
  }
}
