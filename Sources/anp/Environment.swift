// Owns: the environment a program is started with, and the preloaded library in it.

import Glibc

struct Environment {
  /// In the order of the caller's environment; duplicates stay, as execve would pass them.
  private var entries: [String]

  init() {
    entries = []
    var next = environ
    while let entry = next.pointee {
      entries.append(String(cString: entry))
      next += 1
    }
  }

  subscript(name: String) -> String? {
    get { entries.first { $0.hasPrefix(name + "=") }.map { String($0.dropFirst(name.count + 1)) } }
    set {
      entries.removeAll { $0.hasPrefix(name + "=") }
      if let newValue { entries.append("\(name)=\(newValue)") }
    }
  }

  /// First of all preloaded libraries, so that it is asked before those that came with the environment.
  mutating func preload(_ library: String) throws {
    guard !library.contains(where: { $0 == " " || $0 == ":" }) else {
      throw Failure(message: "LD_PRELOAD cannot name \(library): its path holds a space or a colon")
    }
    let others = (self["LD_PRELOAD"] ?? "").split { $0 == " " || $0 == ":" }.map(String.init).filter { $0 != library }
    self["LD_PRELOAD"] = ([library] + others).joined(separator: " ")
  }

  /// As execve(2) takes it; never freed, the process ends soon after.
  func cStrings() -> UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> { entries.asCStrings() }
}

extension [String] {
  /// A null-terminated array of C strings that is never freed.
  func asCStrings() -> UnsafeMutablePointer<UnsafeMutablePointer<CChar>?> {
    let array = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>.allocate(capacity: count + 1)
    for (index, string) in enumerated() { array[index] = strdup(string) }
    array[count] = nil
    return array
  }
}

/// Files that belong to this installation.
enum Installation {
  /// Where `anp` itself lies.
  static let directory: String = {
    guard let real = realpath("/proc/self/exe", nil) else { return "." }
    defer { free(real) }
    return String(cString: real).directory
  }()

  /// Beside the command in a build directory, in ../lib after `make install`.
  static func library(_ wanted: String?) throws -> String {
    if let wanted {
      guard let real = realpath(wanted, nil) else { throw Failure(message: "\(wanted): \(reason(-errno))") }
      defer { free(real) }
      return String(cString: real)
    }
    return try find(["libanp.so", "../lib/libanp.so"], otherwise: "'make' builds it, --library names another")
  }

  static func tapScript() throws -> String {
    try find(["../scripts/tap.sh", "../libexec/anp/tap.sh"], otherwise: "it comes with the sources and 'make install'")
  }

  private static func find(_ places: [String], otherwise advice: String) throws -> String {
    for place in places {
      guard let real = realpath("\(directory)/\(place)", nil) else { continue }
      defer { free(real) }
      return String(cString: real)
    }
    throw Failure(message: "no \(places[0].fileName) beside \(directory)/anp: \(advice)")
  }
}

extension String {
  fileprivate var directory: String {
    guard let slash = lastIndex(of: "/") else { return "." }
    return slash == startIndex ? "/" : String(self[..<slash])
  }
  fileprivate var fileName: String { String(self[(lastIndex(of: "/").map(index(after:)) ?? startIndex)...]) }
}
