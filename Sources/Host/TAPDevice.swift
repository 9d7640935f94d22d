// Owns: finding and attaching to the TAP (or TUN) device, and saying what to do when that fails. Attaches only to an interface that
// exists: with CAP_NET_ADMIN, TUNSETIFF on a mistyped name would silently make a new one.
// Read first: Documentation/networking/tuntap.rst; drivers/net/tun.c, tun_set_iff, for which flags must agree.

import CSupport
import Netstack
import Wire

/// Why the stack could not start. The raw value is only compared.
package enum HostStartError: UInt32, Error, Sendable {
  /// An ANP_ variable has a value that means nothing.
  case badConfiguration = 1
  /// The interface does not exist.
  case noDevice
  /// /dev/net/tun is missing or closed to us, or the interface belongs to somebody else.
  case notPermitted
  /// Another process has the device.
  case busy
  /// The interface is no TAP that could carry a stack, or it is down.
  case unusable
  /// A system call failed in an unexpected way, memory or descriptors included.
  case system
}

/// What failed, with enough to explain it.
package struct DeviceError: Error {
  package enum Step: Sendable { case open, find, attach, shared, queue, headerSize, down, mtu }
  package var step: Step
  /// errno's value
  package var code: Int32
}

package struct TAPDevice {
  /// What is needed for each frame.
  struct Queue {
    var descriptor: Int32
    /// Bytes of virtio_net_hdr in front of each frame: 10, or 0 where the device was made without.
    let headerSize: Int
  }
  var queue: Queue
  package internal(set) var descriptor: Int32 {
    get { queue.descriptor }
    set { queue.descriptor = newValue }
  }
  package var headerSize: Int { queue.headerSize }
  package let capabilities: DeviceCapabilities
  /// The interface's number in the kernel.
  package let index: UInt32

  /// All queues of a device that the stack is to have, as so many values that differ in their descriptor.
  package struct Queues {
    private(set) var count = 1
    private(set) var first: TAPDevice
    private var descriptors = InlineArray<8, Int32>(repeating: -1)

    init(_ first: TAPDevice) {
      self.first = first
      descriptors[0] = first.descriptor
    }

    mutating func append(_ descriptor: Int32) {
      descriptors[count] = descriptor
      count += 1
    }

    subscript(_ i: Int) -> TAPDevice {
      var device = first
      device.descriptor = descriptors[i]
      return device
    }

    package func close() {
      for i in 0..<count { anp_close(descriptors[i]) }
    }
  }

  /// All `count` queues, or none: `DeviceError` with step `.queue` where the device has one only.
  /// - Parameter wantedMTU: ANP_MTU; nil takes the device's.
  package static func attach(
    _ name: UnsafePointer<CChar>, queues count: Int, wantedMTU: Int?, offloads: Offloads = .all
  ) throws(DeviceError) -> Queues {
    var queues = Queues(try attach(name, wantedMTU: wantedMTU, offloads: offloads))
    guard count > 1 else { return queues }
    do {
      try addQueues(count - 1, name, to: &queues)
      return queues
    } catch {
      queues.close()
      throw error
    }
  }

  private static func addQueues(
    _ count: Int, _ name: UnsafePointer<CChar>, to queues: inout Queues
  ) throws(DeviceError) {
    let flags = anp_tap_flags(queues.first.descriptor)
    guard flags >= 0, Int(flags) & ANP_TAP_MULTI_QUEUE != 0 else { throw DeviceError(step: .queue, code: EINVAL) }
    for _ in 0..<count {
      let descriptor = anp_tap_open()
      guard descriptor >= 0 else { throw DeviceError(step: .open, code: -descriptor) }
      queues.append(descriptor)
      let result = anp_tap_attach(descriptor, name, UInt32(flags))
      guard result == 0 else { throw DeviceError(step: .attach, code: -result) }
    }
    let asking = anp_interface_socket()
    guard asking >= 0 else { throw DeviceError(step: .find, code: -asking) }
    let all = anp_interface_queues(asking, name)
    anp_close(asking)
    if all > Int32(queues.count) { throw DeviceError(step: .shared, code: EBUSY) }
  }

  /// One queue, the first: it finds out what the device is like.
  package static func attach(
    _ name: UnsafePointer<CChar>, wantedMTU: Int?, offloads: Offloads = .all
  ) throws(DeviceError) -> TAPDevice {
    let asking = anp_interface_socket()
    guard asking >= 0 else { throw DeviceError(step: .find, code: -asking) }
    defer { anp_close(asking) }
    let index = anp_interface_index(asking, name)
    guard index > 0 else { throw DeviceError(step: .find, code: -index) }
    // A multi-queue device admits any number of processes, and deals frames out among them by hash: two stacks would steal
    // each other's. Look before attaching: even a short visit takes frames.
    guard anp_interface_queues(asking, name) <= 0 else { throw DeviceError(step: .shared, code: EBUSY) }
    let descriptor = anp_tap_open()
    guard descriptor >= 0 else { throw DeviceError(step: .open, code: -descriptor) }
    do {
      return try configure(descriptor, asking, name, wantedMTU, offloads)
    } catch {
      anp_close(descriptor)
      throw error
    }
  }

  private static func configure(
    _ descriptor: Int32, _ asking: Int32, _ name: UnsafePointer<CChar>, _ wantedMTU: Int?, _ offloads: Offloads
  ) throws(DeviceError) -> TAPDevice {
    try attachQueue(descriptor, name)

    // Two that looked at the same time both leave again.
    if anp_interface_queues(asking, name) > 1 { throw DeviceError(step: .shared, code: EBUSY) }

    // The device keeps the flags its first queue came with: ask what we really have.
    let flags = anp_tap_flags(descriptor)
    let hasHeader = flags >= 0 && Int(flags) & ANP_TAP_VNET_HEADER != 0
    var capabilities = DeviceCapabilities()
    if flags >= 0, Int(flags) & ANP_TAP_LAYER3 != 0 { capabilities.linkType = .ip }
    if hasHeader {
      let result = anp_tap_set_header_size(descriptor, Int32(ANP_VNET_HEADER_SIZE))
      guard result == 0 else { throw DeviceError(step: .headerSize, code: -result) }
      negotiateOffloads(descriptor, offloads, &capabilities)
    }

    // Carrier comes up asynchronously after the attach; this makes the kernel catch up now. Without it the first reply was
    // lost in one run of four.
    _ = anp_interface_link(asking, name)

    guard anp_interface_is_up(asking, name) == 1 else { throw DeviceError(step: .down, code: ENETDOWN) }
    let deviceMTU = Int(anp_interface_mtu(asking, name))
    guard deviceMTU > 0 else { throw DeviceError(step: .mtu, code: Int32(-deviceMTU)) }
    if let wantedMTU, wantedMTU > deviceMTU { throw DeviceError(step: .mtu, code: 0) }
    capabilities.mtu = wantedMTU ?? deviceMTU
    capabilities.hardwareAddress = ourHardwareAddress(asking, name)

    capabilities.interfaceIndex = Int(anp_interface_index(asking, name))
    let address = anp_interface_address(asking, name)
    if address != 0 { capabilities.hostAddress = IPv4Address(bits: address) }
    let index = UInt32(max(0, anp_interface_index(asking, name)))
    capabilities.hostAddresses6 = DeviceHostAddresses(interface: index).first
    return TAPDevice(
      queue: Queue(descriptor: descriptor, headerSize: hasHeader ? Int(ANP_VNET_HEADER_SIZE) : 0),
      capabilities: capabilities, index: index)
  }

  /// IFF_TAP or IFF_TUN and IFF_MULTI_QUEUE must be what the device was made with, EINVAL otherwise; IFF_VNET_HDR some old
  /// kernels lack.
  private static func attachQueue(_ descriptor: Int32, _ name: UnsafePointer<CChar>) throws(DeviceError) {
    var result = -EINVAL
    let kinds: InlineArray<2, Int> = [0, ANP_TAP_LAYER3]
    let features: InlineArray<4, Int> = [
      ANP_TAP_MULTI_QUEUE | ANP_TAP_VNET_HEADER, ANP_TAP_VNET_HEADER, ANP_TAP_MULTI_QUEUE, 0,
    ]
    for kind in kinds.indices {
      for i in features.indices where result == -EINVAL {
        result = anp_tap_attach(descriptor, name, UInt32(kinds[kind] | features[i]))
      }
    }
    guard result == 0 else { throw DeviceError(step: .attach, code: -result) }
  }

  /// Asks for what the stack can take in: unfinished checksums, TCP and UDP super-frames. What a TAP takes in from us does not
  /// depend on it, but a kernel that has one has the other.
  private static func negotiateOffloads(
    _ descriptor: Int32, _ offloads: Offloads, _ capabilities: inout DeviceCapabilities
  ) {
    let checksum = ANP_OFFLOAD_CHECKSUM
    let four = checksum | ANP_OFFLOAD_TSO4
    let six = four | ANP_OFFLOAD_TSO6
    let all = six | ANP_OFFLOAD_ECN
    let steps: InlineArray<5, Int> = [all | ANP_OFFLOAD_USO, all, six, four, checksum]
    var got = 0
    for i in steps.indices where got == 0 {
      if anp_tap_set_offloads(descriptor, UInt32(steps[i])) == 0 { got = steps[i] }
    }
    capabilities.checksumOffload = got & checksum != 0 && offloads.contains(.transmitChecksum)
    // A super-segment's checksums are the cutter's business: without the one there is not the other, as in Linux.
    let segments = capabilities.checksumOffload && offloads.contains(.segmentation)
    capabilities.tcpSegmentation4 = segments && got & ANP_OFFLOAD_TSO4 != 0
    capabilities.tcpSegmentation6 = segments && got & ANP_OFFLOAD_TSO6 != 0
    capabilities.udpSegmentation = segments && got & ANP_OFFLOAD_USO != 0
    // Since 6.3 Linux takes an IPv4 super-frame's length from the packet where the header says 0; before, it drops such a packet.
    if capabilities.tcpSegmentation4, offloads.contains(.bigTCP), anp_kernel_version() >= 6 << 8 | 3 {
      capabilities.largestSuperPacket = bigPacket
    }
    var wanted = got
    if !offloads.contains(.merging) { wanted &= checksum }
    if !offloads.contains(.receiveChecksum) { wanted = 0 }
    if wanted != got || got == 0 { _ = anp_tap_set_offloads(descriptor, UInt32(wanted)) }
  }

  /// 192 KB: room for a write of 128 KB, and less than the 256 KB that packet captures take.
  private static var bigPacket: Int { 192 << 10 }

  /// Our end's address: the device's own with "ANP" folded into its low half and the locally-administered bit set. It differs
  /// from the kernel's end, is unique as far as that is, and stays the same from one program to the next, so the kernel's
  /// neighbour entry for us stays right.
  static func ourHardwareAddress(_ asking: Int32, _ name: UnsafePointer<CChar>) -> MACAddress {
    var octets = InlineArray<6, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &octets) { raw in
      _ = anp_interface_hardware_address(asking, name, raw.baseAddress!.assumingMemoryBound(to: UInt8.self))
    }
    var bits: UInt64 = 0
    for i in 0..<6 { bits = bits << 8 | UInt64(octets[i]) }
    bits ^= 0x41_4e_50
    bits = bits & ~(1 << 40) | 1 << 41
    return MACAddress(bits: bits)
  }
}

extension DeviceError {
  package var kind: HostStartError {
    switch step {
    case .find: code == ENODEV || code == ENXIO ? .noDevice : .system
    case .open:
      code == EACCES || code == EPERM || code == ENOENT || code == ENODEV || code == ENXIO ? .notPermitted : .system
    case .attach:
      switch code {
      case EBUSY, E2BIG: .busy
      case EPERM, EACCES: .notPermitted
      case EINVAL: .unusable
      default: .system
      }
    case .shared: .busy
    case .queue, .down, .mtu: .unusable
    case .headerSize: .system
    }
  }

  /// One line: what is wrong and what to do about it.
  package func explain(_ name: UnsafePointer<CChar>, forked: Bool, to text: inout TextBuffer) {
    switch kind {
    case .noDevice:
      text.append("no network device ")
      text.append(cString: name)
      text.append(": make it with 'scripts/tap.sh up', or start the program with 'anp run'")
    case .notPermitted where step == .open && (code == EACCES || code == EPERM):
      text.append(
        "/dev/net/tun may not be opened by this user: as root 'chmod 0666 /dev/net/tun' (the TAP's owner still")
      text.append(" decides who may attach), or start the program with 'anp run'")
    case .notPermitted where step == .open:
      text.append("/dev/net/tun is missing: 'modprobe tun', or give the container the device")
    case .notPermitted:
      text.append(cString: name)
      text.append(" belongs to another user: make it with 'scripts/tap.sh up --owner USER', or run with CAP_NET_ADMIN")
    case .busy where forked:
      text.append(cString: name)
      text.append(
        " carries the parent process's stack; a child that opens connections of its own needs another device:")
      text.append(" ANP_TAP=anp0,anp1 with ANP_ADDR='198.18.0.4/24;198.18.1.4/24'")
    case .busy:
      text.append(cString: name)
      text.append(" is in use by another program, and a TAP carries one stack: end it, or name further devices,")
      text.append(" ANP_TAP=anp0,anp1 with ANP_ADDR='198.18.0.4/24;198.18.1.4/24'")
    case .unusable where step == .down:
      text.append(cString: name)
      text.append(" is down: 'ip link set ")
      text.append(cString: name)
      text.append(" up'")
    case .unusable where step == .mtu:
      text.append("ANP_MTU is more than the MTU of ")
      text.append(cString: name)
      text.append(": raise that with 'ip link set ")
      text.append(cString: name)
      text.append(" mtu N'")
    case .unusable where step == .queue:
      text.append(cString: name)
      text.append(
        " has one queue only, and ANP_QUEUES asks for more: 'ip tuntap add dev NAME mode tap multi_queue vnet_hdr', or")
      text.append(" 'scripts/tap.sh up'")
    case .unusable:
      text.append(cString: name)
      text.append(
        " is no TAP or TUN device: 'ip tuntap add dev NAME mode tap multi_queue vnet_hdr', or 'scripts/tap.sh up'")
    case .system, .badConfiguration:
      text.append(cString: name)
      switch step {
      case .find: text.append(": looking it up")
      case .open: text.append(": opening /dev/net/tun")
      case .attach, .shared, .queue: text.append(": attaching (TUNSETIFF)")
      case .headerSize: text.append(": TUNSETVNETHDRSZ")
      case .down, .mtu: text.append(": asking for its state")
      }
      text.append(" failed with error ")
      text.append(Int(code))
    }
  }
}
