// A lease as a file: what is kept comes back, what is not ours to trust does not.

import CSupport
import Foundation
import Netstack
import Testing
import Wire

@testable import Host

@Suite("Kept leases", .serialized)
struct LeaseTests {
  private let hardware = MACAddress(bits: 0x02_00_00_00_00_01)
  /// A device that no machine has.
  private let device = UnsafePointer(strdup("anp-test-lease")!)

  private func load(_ hardware: MACAddress, _ now: Instant) -> (bytes: [UInt8], asked: Instant)? {
    var room = [UInt8](repeating: 0, count: 1500)
    return room.withUnsafeMutableBytes { raw in
      LeaseCache.load(device, hardware, into: raw, now).map { (Array(raw[..<$0.count]), $0.asked) }
    }
  }

  @Test("what was kept comes back, with the time it was asked for; another card's does not; removed it is gone")
  func keep() throws {
    defer { LeaseCache.remove(device) }
    LeaseCache.remove(device)
    #expect(load(hardware, MonotonicClock.now) == nil)
    let message = (0..<576).map { UInt8(truncatingIfNeeded: $0) }
    let asked = MonotonicClock.now - .seconds(100)
    message.withUnsafeBytes { LeaseCache.store(device, hardware, $0, asked) }
    let kept = try #require(load(hardware, MonotonicClock.now))
    #expect(kept.bytes == message)
    #expect(abs((kept.asked - asked).milliseconds) < 100)
    #expect(load(MACAddress(bits: 0x02_00_00_00_00_02), MonotonicClock.now) == nil)
    // A newer one takes its place, whole.
    message.dropLast(200).withUnsafeBytes { LeaseCache.store(device, hardware, $0, asked) }
    #expect(load(hardware, MonotonicClock.now)?.bytes.count == 376)
    LeaseCache.remove(device)
    #expect(load(hardware, MonotonicClock.now) == nil)
  }

  @Test("a file that says it was asked for before the machine began, or in the future, counts as none")
  func times() throws {
    defer { LeaseCache.remove(device) }
    let message = [UInt8](repeating: 1, count: 300)
    message.withUnsafeBytes { LeaseCache.store(device, hardware, $0, MonotonicClock.now) }
    var places = ["/run/user/\(getuid())/anp", "/tmp/anp-\(getuid())"]
    if let runtime = getenv("XDG_RUNTIME_DIR") { places.insert(String(cString: runtime) + "/anp", at: 0) }
    let path = try #require(
      places.map { $0 + "/lease-anp-test-lease" }.first { FileManager.default.fileExists(atPath: $0) })
    let file = try [UInt8](Data(contentsOf: URL(fileURLWithPath: path)))
    for (asked, isGood) in [
      (Int64.min, false), (-1, false), (0, true), (anp_boottime() + 1_000_000_000_000, false), (.max, false),
    ] {
      var changed = file
      withUnsafeBytes(of: asked) { changed.replaceSubrange(32..<40, with: $0) }
      changed.withUnsafeBytes { bytes in
        let descriptor = open(path, O_WRONLY)
        #expect(write(descriptor, bytes.baseAddress, bytes.count) == bytes.count)
        close(descriptor)
      }
      #expect((load(hardware, MonotonicClock.now) != nil) == isGood, "asked at \(asked)")
    }
  }

  @Test("only a directory of this user's, closed to all others, and no way around it through a link")
  func privacy() throws {
    let base = NSTemporaryDirectory() + "anp-lease-test-\(getpid())"
    try FileManager.default.createDirectory(atPath: base, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: base) }
    func opened(_ name: String) -> Int32 {
      let result = anp_open_private_directory(base + "/" + name)
      if result >= 0 { anp_close(result) }
      return result
    }
    #expect(opened("new") >= 0)
    var status = stat()
    #expect(stat(base + "/new", &status) == 0 && status.st_mode & 0o777 == 0o700)
    #expect(opened("new") >= 0)
    chmod(base + "/new", 0o750)
    #expect(opened("new") == -EPERM)
    chmod(base + "/new", 0o700)
    symlink(base + "/new", base + "/link")
    #expect(opened("link") < 0)
    _ = FileManager.default.createFile(atPath: base + "/file", contents: Data())
    #expect(opened("file") < 0)

    let directory = anp_open_private_directory(base + "/new")
    defer { anp_close(directory) }
    #expect(anp_replace_private_file(directory, "lease", "abc", 3) == 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: base + "/new") == ["lease"])
    var room = [UInt8](repeating: 0, count: 8)
    #expect(anp_read_private_file(directory, "lease", &room, 8) == 3)
    symlink("/etc/passwd", base + "/new/other")
    #expect(anp_read_private_file(directory, "other", &room, 8) == Int(-ELOOP))
    mkfifo(base + "/new/pipe", 0o600)
    #expect(anp_read_private_file(directory, "pipe", &room, 8) == Int(-EPERM))
  }
}
