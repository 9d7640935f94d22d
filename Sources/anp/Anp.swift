// Owns: the command's name, verbs and exit codes. Read first: env(1) for the exit codes. Knows the library only by its
// file and by the ANP_ variables it reads.

import ArgumentParser
import CLauncher
import Glibc

@main
enum Main {
  static func main() {
    do {
      var command = try Anp.parseAsRoot()
      try command.run()
    } catch let failure as Failure {
      complain(failure.message)
      exit(failure.code)
    } catch let code as ExitCode {
      exit(code.rawValue)
    } catch {
      // Help and version go to stdout with 0; a wrong option is 125, as with env(1): below it is the program's code.
      let code = Anp.exitCode(for: error)
      guard code == .success else {
        writeAll(Anp.fullMessage(for: error) + "\n", to: STDERR_FILENO)
        exit(Failure.ownFault)
      }
      Anp.exit(withError: error)
    }
  }
}

struct Anp: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "anp",
    abstract: "Run programs on a TCP/IP stack of their own, in user space.",
    discussion: """
      'anp run -- curl http://198.18.0.5:8000/' starts curl with libanp.so preloaded: its internet sockets are served by \
      the stack inside that library, and Ethernet frames go over a TAP device that lasts as long as the program.

      Exit codes are the program's own, or 125 if anp itself failed, 126 if the program cannot be run under it, 127 if \
      there is no such program. A program that died by a signal makes anp die by the same signal.
      """,
    version: "anp \(String(cString: anp_version()))",
    subcommands: [Run.self, Shell.self, Tap.self, Doctor.self])
}

/// Ends the command: a line for stderr and an exit code.
struct Failure: Error {
  static let ownFault: Int32 = 125
  static let cannotRun: Int32 = 126
  static let notFound: Int32 = 127

  var message: String
  var code = Failure.ownFault
}

func complain(_ message: String) { writeAll("anp: \(message)\n", to: STDERR_FILENO) }

func writeAll(_ text: String, to descriptor: Int32) {
  var text = text
  text.withUTF8 { bytes in
    var rest = UnsafeRawBufferPointer(bytes)
    while !rest.isEmpty {
      let written = write(descriptor, rest.baseAddress, rest.count)
      guard written > 0 else { return }
      rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(written))
    }
  }
}

/// The system's words for a negative errno, as the C calls return it.
func reason(_ negative: Int32) -> String { String(cString: strerror(-negative)) }

func environmentValue(_ name: String) -> String? {
  guard let value = getenv(name).map({ String(cString: $0) }), !value.isEmpty else { return nil }
  return value
}
