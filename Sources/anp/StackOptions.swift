// Owns: the options that become ANP_ variables of the program. An option wins over a variable that is set already.

import ArgumentParser

struct StackOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp("Use the TAP device of this name, or make it if there is none (ANP_TAP).", valueName: "name"))
  var tap: String?
  @Option(
    help: ArgumentHelp(
      "The stack's address or addresses, or dhcp (ANP_ADDR); default 198.18.0.4/24.", valueName: "address/length"))
  var addr: String?
  @Option(
    help: ArgumentHelp(
      "The way out of the stack's network (ANP_GATEWAY); default: the kernel's end.", valueName: "address"))
  var gateway: String?
  @Option(
    help: ArgumentHelp(
      "The servers asked for names (ANP_DNS); default: the network's, else those of resolv.conf. See docs/NAMES.md.",
      valueName: "address"))
  var dns: String?
  @Option(help: ArgumentHelp("Largest packet, for both ends where anp makes the device (ANP_MTU).", valueName: "bytes"))
  var mtu: Int?
  @Option(
    help: ArgumentHelp("What to log, such as tcp,ip:trace (ANP_DEBUG); see docs/DEBUGGING.md.", valueName: "what"))
  var debug: String?
  @Option(
    help: ArgumentHelp(
      "How many processes of the program may use the network at once: a device, a stack and an address for each.",
      valueName: "number"))
  var processes = 4
  @Option(help: ArgumentHelp("Where to log instead of stderr (ANP_LOG).", valueName: "file"))
  var log: String?
  @Option(
    help: ArgumentHelp(
      "Write every frame to this file, for tcpdump and Wireshark (ANP_PCAP).", valueName: "file.pcapng"))
  var pcap: String?
  @Flag(help: "Print counters when the program ends (ANP_STATS).")
  var stats = false
  @Option(help: ArgumentHelp("A network that goes to the stack; may be repeated (ANP_TAKE).", valueName: "network"))
  var take: [String] = []
  @Option(
    help: ArgumentHelp("A network that is left to the kernel; may be repeated (ANP_BYPASS).", valueName: "network"))
  var bypass: [String] = []
  @Flag(help: "Let the program use the kernel's network where the stack cannot serve it (ANP_FALLBACK=kernel).")
  var fallback = false
  @Option(help: ArgumentHelp("The library to preload; default: libanp.so beside anp, or in ../lib.", valueName: "file"))
  var library: String?

  func validate() throws {
    if let tap {
      for name in tap.split(separator: ",", omittingEmptySubsequences: false)
      where name.isEmpty || name.utf8.count > 15 || name.contains(where: { "/% ".contains($0) }) {
        throw ValidationError("--tap takes names of interfaces (1 to 15 bytes each), not '\(tap)'")
      }
    }
    if !(1...8).contains(processes) {
      throw ValidationError("--processes takes a number from 1 to 8, not \(processes)")
    }
    if let mtu, !(68...65521).contains(mtu) {
      throw ValidationError("--mtu takes a number of bytes from 68 to 65521, not \(mtu)")
    }
  }

  /// The stacks' addresses as option or variable give them, for each device.
  func wantedAddresses() throws -> [StackAddresses]? {
    guard let text = addr ?? environmentValue("ANP_ADDR") else { return nil }
    return try text.split(separator: ";", omittingEmptySubsequences: false).map { part in
      guard let addresses = StackAddresses(String(part)) else {
        throw Failure(
          message:
            "\(addr == nil ? "ANP_ADDR" : "--addr") takes 'dhcp', or the stack's addresses, separated by commas, "
            + "each with a prefix length from 8 to 30, such as 198.18.0.4/24 (the next device's stand behind a "
            + "semicolon), not '\(text)'")
      }
      return addresses
    }
  }

  /// ANP_GATEWAY may name one of each family; the kernel's end of the cable can be the IPv4 one.
  func wantedGateway() throws -> UInt32? {
    guard let text = gateway ?? environmentValue("ANP_GATEWAY") else { return nil }
    var ipv4: UInt32?
    for part in text.split(separator: ",", omittingEmptySubsequences: false).map(String.init) {
      if let address = Network.address(part), ipv4 == nil {
        ipv4 = address
      } else if !Network.isIPv6(part) {
        throw Failure(
          message: "\(gateway == nil ? "ANP_GATEWAY" : "--gateway") takes an address of each family at most, such as "
            + "198.18.0.5 or 198.18.0.5,2001:db8::1, not '\(text)'")
      }
    }
    return ipv4
  }

  var wantedTaps: [String]? {
    (tap ?? environmentValue("ANP_TAP")).map { $0.split(separator: ",").map(String.init) }
  }

  /// Sets what the library reads. What is not asked for stays as the caller's environment has it.
  func export(to environment: inout Environment, _ cables: Cables) {
    environment["ANP_TAP"] = cables.cables.map(\.name).joined(separator: ",")
    let addresses = cables.cables.compactMap(\.stack?.text)
    if addresses.count == cables.cables.count { environment["ANP_ADDR"] = addresses.joined(separator: ";") }
    if let gateway { environment["ANP_GATEWAY"] = gateway }
    if let dns { environment["ANP_DNS"] = dns }
    if let mtu { environment["ANP_MTU"] = String(mtu) }
    if let debug { environment["ANP_DEBUG"] = debug }
    if let log { environment["ANP_LOG"] = log }
    if let pcap { environment["ANP_PCAP"] = pcap }
    if stats { environment["ANP_STATS"] = "1" }
    if !take.isEmpty { environment["ANP_TAKE"] = take.joined(separator: ",") }
    if !bypass.isEmpty { environment["ANP_BYPASS"] = bypass.joined(separator: ",") }
    if fallback { environment["ANP_FALLBACK"] = "kernel" }
  }
}

/// What one stack is to have: addresses, the first of which the cable is made for, or a lease.
struct StackAddresses {
  var text: String
  /// nil: leased.
  var first: Network?

  init(_ network: Network) {
    text = network.text
    first = network
  }

  init?(_ text: String) {
    self.text = text
    if text == "dhcp" { return }
    for part in text.split(separator: ",", omittingEmptySubsequences: false) {
      guard let network = Network(String(part)), network.isHost else { return nil }
      first = first ?? network
    }
  }
}
