// Owns: `anp run` and `anp shell`: a cable, a program at one end of it, what the caller wants at the other.

import ArgumentParser
import CLauncher
import Glibc

struct Run: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run a program on a stack of its own.",
    usage: "anp run [options] [--] <program> [<argument> ...]",
    discussion: """
      The other end of the cable is the kernel. With CAP_NET_ADMIN the TAP device is made in the present network \
      namespace (anp0, stack 198.18.0.4, kernel 198.18.0.5; other numbers where these are taken). Without, in a new user \
      and network namespace, which needs no rights: there the kernel's side has nothing but this device, so the program's \
      peers are programs in the same namespace, such as those that --server or 'anp shell' start. A device that \
      'anp tap up' made is used with --tap.

      What the program starts runs under the same library. Each process that uses the network has a stack and an address of \
      its own (198.18.0.4, 198.18.1.4 …), up to --processes of them at once.
      """)

  @OptionGroup(title: "Stack")
  var options: StackOptions
  @Flag(help: "Use a namespace of its own even with the rights to do without.")
  var namespace = false
  @Option(
    help: ArgumentHelp(
      "Start this on the kernel's side first (with sh), wait until it listens, end it with the program.",
      valueName: "command"))
  var server: [String] = []
  @Argument(parsing: .captureForPassthrough, help: ArgumentHelp("The program and its arguments.", valueName: "program"))
  var command: [String]

  func run() throws {
    let words = command.first == "--" ? Array(command.dropFirst()) : command
    if words == ["--help"] || words == ["-h"] { throw CleanExit.helpRequest(self) }
    if let first = words.first, first.hasPrefix("-") {
      throw ValidationError("unknown option '\(first)' before the program")
    }
    guard let name = words.first else { throw ValidationError("which program? 'anp run -- program …'") }
    let program = try Program(named: name)
    let library = try Installation.library(options.library)
    let plain = Environment()
    anp_supervise_begin()
    let cables = try Cables.lay(options, namespace: namespace)
    try checkObstacles(program)

    var environment = plain
    options.export(to: &environment, cables)
    let outside = environment
    try environment.preload(library)
    let servants = try server.map { try Servant(command: $0, environment: outside) }
    defer { servants.forEach { $0.dismiss() } }
    try exitAs(program, words, environment, flags: 0, servants)
  }

  private func checkObstacles(_ program: Program) throws {
    guard let obstacle = program.obstacle(inUserNamespace: anp_namespace_is_user()) else { return }
    guard options.fallback || environmentValue("ANP_FALLBACK") == "kernel" else {
      throw Failure(
        message: "\(obstacle).\nIt would use the kernel's network; --fallback permits that.", code: Failure.cannotRun)
    }
    complain("\(obstacle): it uses the kernel's network")
  }
}

struct Shell: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Open a shell on the kernel's side of a cable, in a namespace of its own.",
    usage: "anp shell [options] [--] [<program> [<argument> ...]]",
    discussion: """
      In that shell programs use the kernel's stack at 198.18.0.5, and may do what an administrator may (low ports, \
      tcpdump, ip); 'anp run -- program' runs one on the user-space stack at 198.18.0.4, at the other end. The namespace \
      and all in it ends with the last program in it.
      """)

  @OptionGroup(title: "Stack")
  var options: StackOptions
  @Argument(
    parsing: .captureForPassthrough, help: ArgumentHelp("What to start; default: your shell.", valueName: "program"))
  var command: [String] = []

  func run() throws {
    var words = command.first == "--" ? Array(command.dropFirst()) : command
    if words == ["--help"] || words == ["-h"] { throw CleanExit.helpRequest(self) }
    if let first = words.first, first.hasPrefix("-") {
      throw ValidationError("unknown option '\(first)' before the program")
    }
    if words.isEmpty { words = [environmentValue("SHELL") ?? "/bin/sh"] }
    let program = try Program(named: words[0])
    anp_supervise_begin()
    let cables = try Cables.lay(options, namespace: true)
    var environment = Environment()
    options.export(to: &environment, cables)
    if isatty(STDERR_FILENO) == 1, let kernel = cables.cables.first?.kernel,
      let stack = cables.cables.first?.stack?.first
    {
      complain(
        "this shell is at \(Network.text(kernel.address)); 'anp run -- program' is at \(Network.text(stack.address))")
    }
    try exitAs(program, words, environment, flags: UInt32(ANP_SPAWN_ADMINISTRATOR), [])
  }
}

/// Starts the program, waits for its end and ends the same way.
private func exitAs(
  _ program: Program, _ words: [String], _ environment: Environment, flags: UInt32, _ servants: [Servant]
) throws -> Never {
  let child = anp_spawn(program.path, words.asCStrings(), environment.cStrings(), flags)
  guard child > 0 else {
    servants.forEach { $0.dismiss() }
    throw Failure(
      message: "\(program.path): \(reason(child))", code: child == -ENOENT ? Failure.notFound : Failure.cannotRun)
  }
  let status = anp_supervise(child)
  servants.forEach { $0.dismiss() }
  anp_end_like(status)
}

/// A program on the kernel's side that lives as long as the one at the stack's.
struct Servant {
  private let process: pid_t

  /// Returns when it listens somewhere (there is one more listening socket than before), or after three seconds.
  init(command: String, environment: Environment) throws {
    let before = Servant.listening()
    process = anp_spawn(
      "/bin/sh", ["sh", "-c", command].asCStrings(), environment.cStrings(), UInt32(ANP_SPAWN_SERVANT))
    guard process > 0 else { throw Failure(message: "--server: /bin/sh: \(reason(process))") }
    for _ in 0..<300 {
      if Servant.listening() > before { return }
      if kill(process, 0) != 0 || waitpid(process, nil, WNOHANG) == process { break }
      usleep(10_000)
    }
    complain("--server '\(command)' does not listen (yet)")
  }

  func dismiss() { anp_dismiss(process) }

  /// Sockets in LISTEN (TCP) or bound without a peer (UDP) in this network namespace; see proc_net_tcp.rst.
  private static func listening() -> Int {
    [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")].reduce(0) { sum, table in
      let lines = contents("/proc/self/net/\(table.0)").split(separator: "\n").dropFirst()
      return sum + lines.count { $0.split(separator: " ").dropFirst(3).first == Substring(table.1) }
    }
  }
}

func contents(_ path: String) -> String {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return "" }
  defer { close(descriptor) }
  var text: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 65536)
  while true {
    let length = read(descriptor, &chunk, chunk.count)
    guard length > 0 else { return String(decoding: text, as: UTF8.self) }
    text += chunk[..<length]
  }
}
