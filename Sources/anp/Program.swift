// Owns: finding the program as execvp(3) does, and knowing before the start whether a preloaded library can work in it.
// Read first: elf(5), ld.so(8) on LD_PRELOAD and secure-execution mode, capabilities(7).

import CLauncher
import Glibc

struct Program {
  var path: String

  /// Looks through PATH unless the name holds a slash. Exit codes as env(1): 127 not there, 126 there but not runnable.
  init(named name: String) throws {
    guard !name.isEmpty else { throw Failure(message: "the program's name is empty", code: Failure.notFound) }
    if name.contains("/") {
      guard access(name, F_OK) == 0 else {
        throw Failure(
          message: "\(name): \(reason(-errno))", code: errno == ENOENT ? Failure.notFound : Failure.cannotRun)
      }
      guard Program.isRunnable(name) else {
        throw Failure(message: "\(name): not an executable file", code: Failure.cannotRun)
      }
      path = name
      return
    }
    var seenButNotRunnable: String?
    for directory in (environmentValue("PATH") ?? "/usr/local/bin:/usr/bin:/bin").split(
      separator: ":", omittingEmptySubsequences: false)
    {
      let candidate = directory.isEmpty ? "./\(name)" : "\(directory)/\(name)"
      if Program.isRunnable(candidate) {
        path = candidate
        return
      }
      if seenButNotRunnable == nil, access(candidate, F_OK) == 0 { seenButNotRunnable = candidate }
    }
    if let seenButNotRunnable {
      throw Failure(message: "\(seenButNotRunnable): not an executable file", code: Failure.cannotRun)
    }
    throw Failure(message: "\(name): no such program in PATH", code: Failure.notFound)
  }

  private static func isRunnable(_ path: String) -> Bool {
    var status = stat()
    return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFREG && access(path, X_OK) == 0
  }

  /// Why a preloaded library has no effect in this program, or nil. In a user namespace of ours set-id bits have no force and
  /// so do not switch LD_PRELOAD off; file capabilities do.
  func obstacle(inUserNamespace: Bool) -> String? {
    var seen = 0
    var path = self.path
    while seen < 5, let interpreter = Script.interpreter(of: path) {
      path = interpreter
      seen += 1
    }
    if let gain = Program.privilegeGain(path, inUserNamespace: inUserNamespace) {
      return "\(path) \(gain), so the loader ignores LD_PRELOAD: run a copy without it, or as root"
    }
    guard let image = MappedFile(path) else { return nil }
    switch ELF(image).kind {
    case .notELF: return nil
    case .otherMachine: return "\(path) is for another machine than libanp.so (32-bit?)"
    case .linked(let interpreter, let isGo):
      if interpreter.contains("ld-musl") { return "\(path) uses musl instead of glibc" }
      return isGo ? "\(path) is a Go program: it makes system calls without libc, which no preloaded library sees" : nil
    case .statically(let isGo):
      return
        "\(path) is linked statically\(isGo ? " (a Go program)" : ""): the loader that would preload a library has no part in it"
    }
  }

  private static func privilegeGain(_ path: String, inUserNamespace: Bool) -> String? {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    // Only a change of identity makes execution secure: root may preload into what is set-id root.
    if !inUserNamespace {
      if status.st_mode & S_ISUID != 0, status.st_uid != getuid() { return "is set-user-ID" }
      if status.st_mode & S_ISGID != 0, status.st_gid != getgid() { return "is set-group-ID" }
    }
    if getuid() != 0, anp_privilege_of_file(path) { return "has file capabilities" }
    return nil
  }
}

/// The first line of a script.
private enum Script {
  static func interpreter(of path: String) -> String? {
    guard let file = MappedFile(path), file.bytes.count > 2, file.bytes[0] == UInt8(ascii: "#"),
      file.bytes[1] == UInt8(ascii: "!")
    else { return nil }
    let line = String(decoding: file.bytes.dropFirst(2).prefix(255).prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
    let words = line.split { $0 == " " || $0 == "\t" }
    guard let first = words.first else { return nil }
    // #!/usr/bin/env python3, also with -S and settings in between
    if first.hasSuffix("/env"), let name = words.dropFirst().first(where: { !$0.hasPrefix("-") && !$0.contains("=") }) {
      return (try? Program(named: String(name)))?.path
    }
    return String(first)
  }
}

/// A file as bytes, readable while this lives.
private final class MappedFile {
  let bytes: UnsafeRawBufferPointer

  init?(_ path: String) {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_size > 0,
      let start = mmap(nil, Int(status.st_size), PROT_READ, MAP_PRIVATE, descriptor, 0), start != MAP_FAILED
    else { return nil }
    bytes = UnsafeRawBufferPointer(start: start, count: Int(status.st_size))
  }

  deinit { munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count) }
}

private struct ELF {
  enum Kind: Equatable {
    case notELF, otherMachine
    case linked(interpreter: String, isGo: Bool)
    case statically(isGo: Bool)
  }

  private let file: MappedFile
  init(_ file: MappedFile) { self.file = file }

  /// Reads outside the file give 0: a damaged file is the kernel's to refuse.
  private func number<Value: FixedWidthInteger>(_ type: Value.Type, at offset: Int) -> Int {
    guard offset >= 0, offset <= file.bytes.count - MemoryLayout<Value>.size else { return 0 }
    return Int(truncatingIfNeeded: file.bytes.loadUnaligned(fromByteOffset: offset, as: type))
  }

  private func string(at offset: Int, limit: Int = 4096) -> String {
    guard offset >= 0, offset < file.bytes.count else { return "" }
    return String(decoding: file.bytes[offset...].prefix(limit).prefix { $0 != 0 }, as: UTF8.self)
  }

  var kind: Kind {
    guard number(UInt32.self, at: 0) == 0x464c_457f else { return .notELF }
    #if arch(x86_64)
      let machine = Int(EM_X86_64)
    #elseif arch(arm64)
      let machine = Int(EM_AARCH64)
    #endif
    guard number(UInt8.self, at: 4) == Int(ELFCLASS64), number(UInt16.self, at: 18) == machine else {
      return .otherMachine
    }
    let table = number(UInt64.self, at: 32)
    let size = number(UInt16.self, at: 54)
    for index in 0..<number(UInt16.self, at: 56) {
      let header = table + index * size
      guard number(UInt32.self, at: header) == Int(PT_INTERP) else { continue }
      return .linked(interpreter: string(at: number(UInt64.self, at: header + 8)), isGo: isGo)
    }
    return .statically(isGo: isGo)
  }

  private var isGo: Bool {
    let table = number(UInt64.self, at: 40)
    let size = number(UInt16.self, at: 58)
    let names = number(UInt64.self, at: table + number(UInt16.self, at: 62) * size + 24)
    return (0..<number(UInt16.self, at: 60)).contains { index in
      let name = string(at: names + number(UInt32.self, at: table + index * size), limit: 32)
      return name == ".go.buildinfo" || name == ".note.go.buildid"
    }
  }
}
