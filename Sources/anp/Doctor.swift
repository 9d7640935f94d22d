// Owns: `anp doctor`: looks at everything that can be missing and says what to do about it. Changes nothing.

import ArgumentParser
import CLauncher
import Glibc

struct Doctor: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Check what this machine has of what ANP needs, and say what to do.",
    discussion: "Exit code 0 if 'anp run' can work here in one way at least, 1 if not.")

  func run() throws {
    let library = checkLibrary()
    let deviceFile = checkDeviceFile()
    let capability = checkCapability()
    let namespace = deviceFile && checkNamespace()
    let tap = checkTap(capability: capability)
    let works = library && deviceFile && (capability || namespace || tap)
    let way =
      capability
      ? "a device made for each run, in this network"
      : tap ? "the device that is there, in this network" : "a namespace of its own for each run, without root"
    print(works ? "\n'anp run' works here: \(way)." : "\n'anp run' cannot work here yet: see above.")
    throw ExitCode(works ? 0 : 1)
  }

  private func report(_ good: Bool, _ what: String, advice: String? = nil) -> Bool {
    print("\(good ? "ok  " : "--  ")\(what)")
    if !good, let advice {
      for line in advice.split(separator: "\n") { print("      \(line)") }
    }
    return good
  }

  private func checkLibrary() -> Bool {
    do {
      let path = try Installation.library(nil)
      // Never closed again: it may have left exit hooks.
      guard dlopen(path, RTLD_NOW | RTLD_LOCAL) != nil else {
        return report(false, "library: \(String(cString: dlerror()))", advice: "Build it again with 'make'.")
      }
      return report(true, "library: \(path)")
    } catch {
      return report(false, "library: \((error as? Failure)?.message ?? "\(error)")", advice: "'make' builds it.")
    }
  }

  private func checkDeviceFile() -> Bool {
    let accessible = access("/dev/net/tun", R_OK | W_OK) == 0
    return report(
      accessible, "/dev/net/tun: \(accessible ? "can be opened" : reason(-errno))", advice: Advice.deviceFile)
  }

  private func checkCapability() -> Bool {
    report(
      anp_privilege_has(), "CAP_NET_ADMIN: \(anp_privilege_has() ? "yes" : "no")",
      advice: "Not needed with a user namespace or a device made by root ('sudo scripts/tap.sh up').")
  }

  /// Tries it in a child: entering cannot be undone.
  private func checkNamespace() -> Bool {
    let result = anp_namespace_try()
    return report(
      result == 0, "namespace of its own: \(result == 0 ? "yes" : reason(result))", advice: Advice.namespace)
  }

  private func checkTap(capability: Bool) -> Bool {
    let name = environmentValue("ANP_TAP") ?? "anp0"
    guard let device = Cables.describe(name) else {
      return report(
        false, "\(name): not there", advice: "Only plain LD_PRELOAD needs it: 'sudo scripts/tap.sh up' makes it.")
    }
    if let problem = device.problem { return report(false, "\(name) \(problem)") }
    let mine = device.owner == UInt32(ANP_NO_OWNER) || device.owner == geteuid() || capability
    return report(
      mine,
      "\(name): \(device.queues > 0 ? "in use" : "free"), stack \(device.stack?.text ?? "unknown")"
        + (mine ? "" : ", belongs to user \(device.owner)"),
      advice: "'sudo scripts/tap.sh down', then 'sudo scripts/tap.sh up --owner \(geteuid())'.")
  }
}
