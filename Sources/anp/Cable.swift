// Owns: the TAP device a program is started on: one that is there, one made for it, or one in a namespace made for it.
// Read first: Documentation/networking/tuntap.rst, user_namespaces(7).
//
// Which, in this order:
//   1. --tap or ANP_TAP names a device that exists: that one, as it is
//   2. CAP_NET_ADMIN: a device of our own, anp0 or the next free number
//   3. anp0 exists and is ours (scripts/tap.sh up): that one
//   4. a user and network namespace of our own, and anp0 in there
// --namespace asks for 4 in any case.
//
// A device made here is not persistent: it lives while a descriptor of it is open, here or in the program, so that no way to
// die leaves it behind.

import CLauncher
import Glibc

/// The cable between the kernel and the stack.
struct Cable {
  var name: String
  /// The stack's own address; nil leaves it to the library's default.
  var stack: Network?
  /// The kernel's end.
  var kernel: Network?
  var gateway: UInt32?
  var isNamespace = false

  /// Frames that wait for the stack: with TCP windows of some megabytes the usual 1000 overflow (as in scripts/tap.sh).
  static let queueLength: Int32 = 5000

  static func lay(_ options: StackOptions, namespace: Bool) throws -> Cable {
    try checkDeviceFile()
    if !namespace {
      if let name = options.wantedTap, let device = describe(name) {
        return try existing(name, device, options)
      }
      if anp_privilege_take() {
        defer { anp_privilege_drop() }
        if let cable = try make(options, isNamespace: false) { return cable }
        // EPERM: the capability is one over a user namespace that this network namespace does not belong to.
      }
      if options.wantedTap == nil, let device = describe("anp0"), device.is_tap, device.owner == geteuid() {
        return try existing("anp0", device, options)
      }
    }
    let entered = anp_namespace_enter()
    guard entered == 0 else {
      throw Failure(message: "cannot make a network namespace: \(reason(entered)).\n\(Advice.namespace)")
    }
    guard let cable = try make(options, isNamespace: true) else {
      throw Failure(message: "may not make a TAP device in a namespace of our own.\n\(Advice.namespace)")
    }
    return cable
  }

  static func describe(_ name: String) -> anp_interface? {
    var device = anp_interface()
    return anp_interface_describe(name, &device) == 0 ? device : nil
  }

  private static func checkDeviceFile() throws {
    guard access("/dev/net/tun", R_OK | W_OK) != 0 else { return }
    throw Failure(message: "cannot open /dev/net/tun: \(reason(-errno)).\n\(Advice.deviceFile)")
  }

  private static func existing(_ name: String, _ device: anp_interface, _ options: StackOptions) throws -> Cable {
    if let problem = device.problem { throw Failure(message: "\(name) \(problem)") }
    if device.owner != UInt32(ANP_NO_OWNER), device.owner != geteuid(), !anp_privilege_has() {
      throw Failure(
        message: "\(name) belongs to user \(device.owner): make it again with 'scripts/tap.sh up --owner \(geteuid())'")
    }
    let kernel = device.address == 0 ? nil : Network(address: device.address, mask: device.mask)
    return Cable(
      name: name, stack: try options.wantedAddress() ?? device.stack, kernel: kernel,
      gateway: try options.wantedGateway() ?? kernel?.address)
  }

  /// nil: we may not.
  private static func make(_ options: StackOptions, isNamespace: Bool) throws -> Cable? {
    var made = [CChar](repeating: 0, count: Int(IFNAMSIZ))
    let descriptor = anp_tap_make(options.wantedTap ?? "anp%d", geteuid(), &made)
    guard descriptor != -EPERM else { return nil }
    guard descriptor >= 0 else {
      throw Failure(message: "cannot make the TAP device \(options.wantedTap ?? "anp0"): \(reason(descriptor))")
    }
    let name = String(decoding: made.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    let stack = try options.wantedAddress() ?? freeAddress(startingAt: name)
    let wantedGateway = try options.wantedGateway()
    var kernel = Network(address: stack.neighbor, length: stack.length)
    if let wantedGateway, stack.contains(wantedGateway), wantedGateway != stack.address {
      kernel.address = wantedGateway
    }
    let result = anp_interface_up(name, kernel.address, kernel.mask, Int32(options.mtu ?? 0), queueLength)
    guard result == 0 else { throw Failure(message: "cannot set up \(name): \(reason(result))") }
    return Cable(
      name: name, stack: stack, kernel: kernel, gateway: wantedGateway ?? kernel.address, isNamespace: isNamespace)
  }

  /// 198.18.N.4/24 where no interface has an address in that network yet; N starts at the device's own number, so that two
  /// that start at once look at different ones.
  private static func freeAddress(startingAt name: String) -> Network {
    let first = UInt32(name.drop { !$0.isNumber }) ?? 0
    for step in 0..<UInt32(256) {
      let network = Network(
        address: Network.stackDefault.address & ~0xff00 | (first + step & 0xff) << 8,
        length: Network.stackDefault.length)
      let address = Network(address: network.address | 4, length: network.length)
      if anp_network_in_use(address.network, address.mask) == 0 { return address }
    }
    return .stackDefault
  }
}

extension anp_interface {
  /// Why the library cannot use it, as the rest of a sentence that begins with its name.
  var problem: String? {
    guard is_tap else { return "is not a TAP device" }
    guard multi_queue, vnet_hdr, !packet_info else {
      return "was made with other flags than ANP opens it with: it needs multi_queue and vnet_hdr (scripts/tap.sh up)"
    }
    guard up else { return "is down: 'scripts/tap.sh up' brings it up" }
    return nil
  }

  /// scripts/tap.sh writes the address meant for the stack into the alias.
  var stack: Network? {
    let text = withUnsafeBytes(of: alias) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    guard text.hasPrefix("anp ") else { return nil }
    return text.split(separator: " ").first { $0.hasPrefix("stack=") }.flatMap { Network(String($0.dropFirst(6))) }
  }
}

/// What to do about it, in one place for errors and for the doctor.
enum Advice {
  static let deviceFile = """
    Where it is missing: 'sudo modprobe tun', or give the container the device (docker run --device /dev/net/tun).
    Where access is denied: 'sudo chmod 666 /dev/net/tun' (the usual mode; making a device needs rights all the same), or run as root.
    """
  static let namespace = """
    User namespaces without root may be switched off on this machine:
      sysctl user.max_user_namespaces                    must be more than 0
      sysctl kernel.unprivileged_userns_clone            must be 1, where it exists (Debian)
      sysctl kernel.apparmor_restrict_unprivileged_userns  must be 0, where it exists (Ubuntu)
    Or have the device made once by root: 'sudo scripts/tap.sh up', then 'anp run --tap anp0 -- program'.
    """
}
