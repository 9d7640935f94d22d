// Owns: `anp tap`, which is scripts/tap.sh under another name.

import ArgumentParser
import CLauncher

struct Tap: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Make, remove or show a TAP device that stays.",
    usage: "anp tap up|down|status [options]",
    discussion: "Hands everything on to tap.sh; 'anp tap --help' shows its options.")

  @Argument(
    parsing: .captureForPassthrough, help: ArgumentHelp("up, down or status, and their options.", valueName: "command"))
  var arguments: [String] = []

  func run() throws {
    let script = try Installation.tapScript()
    anp_supervise_begin()
    // ip(8) and nft(8) are programs of their own: a file capability of ours reaches them only when handed on.
    let flags = anp_privilege_has() ? UInt32(ANP_SPAWN_ADMINISTRATOR) : 0
    let child = anp_spawn(script, ([script] + arguments).asCStrings(), Environment().cStrings(), flags)
    guard child > 0 else { throw Failure(message: "\(script): \(reason(child))") }
    anp_end_like(anp_supervise(child))
  }
}
