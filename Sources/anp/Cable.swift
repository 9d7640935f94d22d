// Owns: the TAP devices a program is started on: such as are there, made for it, or made in a namespace made for it.
// Read first: Documentation/networking/tuntap.rst, user_namespaces(7).
//
// Which, in this order:
//   1. --tap or ANP_TAP names devices that exist: those, as they are
//   2. CAP_NET_ADMIN: devices of our own, anp0 or the next free numbers
//   3. anp0 exists and is ours (scripts/tap.sh up): that one
//   4. a user and network namespace of our own, and the devices in there
// --namespace asks for 4 in any case.
//
// One device carries one process's stack, so a program whose children use the network as well needs several; each stack takes
// the first that is free.
//
// A device made here is not persistent: it lives while a descriptor of it is open, here or in the program, so that no way to
// die leaves it behind.

import CLauncher
import Glibc

/// The cables between the kernel and the stacks.
struct Cables {
  struct Cable {
    var name: String
    /// The stack's own addresses; nil leaves them to the library's default.
    var stack: StackAddresses?
    /// The kernel's end.
    var kernel: Network?
  }

  var cables: [Cable]

  /// Frames that wait for the stack: with TCP windows of some megabytes the usual 1000 overflow (as in scripts/tap.sh).
  private static let queueLength: Int32 = 5000

  static func lay(_ options: StackOptions, namespace: Bool) throws -> Cables {
    try checkDeviceFile()
    let names = options.wantedTaps
    if !namespace {
      if let names, names.contains(where: { describe($0) != nil }) { return try existing(names, options) }
      if anp_privilege_take() {
        defer { anp_privilege_drop() }
        if let made = try make(names, options) { return made }
        // EPERM: the capability is one over a user namespace that this network namespace does not belong to.
      }
      if names == nil, let device = describe("anp0"), device.is_tap, device.owner == geteuid() {
        return try existing(["anp0"], options)
      }
    }
    let entered = anp_namespace_enter()
    guard entered == 0 else {
      throw Failure(message: "cannot make a network namespace: \(reason(entered)).\n\(Advice.namespace)")
    }
    guard let made = try make(names, options) else {
      throw Failure(message: "may not make a TAP device in a namespace of our own.\n\(Advice.namespace)")
    }
    return made
  }

  static func describe(_ name: String) -> anp_interface? {
    var device = anp_interface()
    return anp_interface_describe(name, &device) == 0 ? device : nil
  }

  private static func checkDeviceFile() throws {
    guard access("/dev/net/tun", R_OK | W_OK) != 0 else { return }
    throw Failure(message: "cannot open /dev/net/tun: \(reason(-errno)).\n\(Advice.deviceFile)")
  }

  private static func existing(_ names: [String], _ options: StackOptions) throws -> Cables {
    let wanted = try options.wantedAddresses()
    if let wanted, wanted.count != names.count {
      throw Failure(
        message:
          "\(names.count) devices (\(names.joined(separator: ","))) need addresses for each, separated by semicolons, not \(wanted.count)"
      )
    }
    return Cables(
      cables: try names.enumerated().map { index, name in
        guard let device = describe(name) else {
          throw Failure(
            message: "\(name) does not exist, but others of \(names.joined(separator: ",")) do: name one sort only")
        }
        if let problem = device.problem { throw Failure(message: "\(name) \(problem)") }
        if device.owner != UInt32(ANP_NO_OWNER), device.owner != geteuid(), !anp_privilege_has() {
          throw Failure(
            message:
              "\(name) belongs to user \(device.owner): make it again with 'scripts/tap.sh up --owner \(geteuid())'")
        }
        return Cable(
          name: name, stack: wanted?[index] ?? device.stack.map(StackAddresses.init),
          kernel: device.address == 0 ? nil : Network(address: device.address, mask: device.mask))
      })
  }

  /// nil: we may not.
  private static func make(_ names: [String]?, _ options: StackOptions) throws -> Cables? {
    var made = Cables(cables: [])
    let wanted = try options.wantedAddresses() ?? []
    for index in 0..<(names?.count ?? max(options.processes, wanted.count)) {
      guard let name = try makeDevice(names?[index] ?? "anp%d") else { return nil }
      let stack = index < wanted.count ? wanted[index] : StackAddresses(freeAddress(startingAt: name))
      let first = stack.first ?? freeAddress(startingAt: name)
      var kernel = Network(address: first.neighbor, length: first.length)
      if let gateway = try options.wantedGateway(), first.contains(gateway), gateway != first.address {
        kernel.address = gateway
      }
      let result = anp_interface_up(name, kernel.address, kernel.mask, Int32(options.mtu ?? 0), queueLength)
      guard result == 0 else { throw Failure(message: "cannot set up \(name): \(reason(result))") }
      made.cables.append(Cable(name: name, stack: stack, kernel: kernel))
    }
    return made
  }

  /// The descriptor stays open for as long as this process lives.
  private static func makeDevice(_ pattern: String) throws -> String? {
    var made = [CChar](repeating: 0, count: Int(IFNAMSIZ))
    let descriptor = anp_tap_make(pattern, geteuid(), &made)
    guard descriptor != -EPERM else { return nil }
    guard descriptor >= 0 else {
      throw Failure(message: "cannot make the TAP device \(pattern): \(reason(descriptor))")
    }
    return String(decoding: made.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// 198.18.N.4/24 where no interface has an address in that network yet; N starts at the device's own number, so that two
  /// that start at once look at different ones.
  private static func freeAddress(startingAt name: String) -> Network {
    let first = UInt32(name.drop { !$0.isNumber }) ?? 0
    for step in 0..<UInt32(256) {
      let third = (first + step & 0xff) << 8
      let candidate = Network(
        address: Network.stackDefault.address & ~0xff00 | third, length: Network.stackDefault.length)
      if anp_network_in_use(candidate.network, candidate.mask) == 0 { return candidate }
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
