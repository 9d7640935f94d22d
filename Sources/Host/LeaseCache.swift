// Owns: the lease of a device as a file, for the next program on it: the message that granted it, as it came, and when that was asked
// for, on the clock that goes on while the machine sleeps and begins anew with each boot. So a clock that is set changes nothing,
// and what is read is judged as if it came from the network.
//
//   $XDG_RUNTIME_DIR/anp, else /run/user/UID/anp, else /tmp/anp-UID     a directory that is this user's alone
//     lease-anp0        which is one device's, whatever program runs on it; another device of that name replaces it

import CSupport
import Netstack
import Wire

enum LeaseCache {
  /// Magic, version; hardware address; boot; asked.
  private static var headerLength: Int { 40 }
  private static var magic: UInt64 { 0x3130_6573_6165_6c41 }

  /// The granting message in `room`: its length, and when it was asked for.
  static func load(
    _ device: UnsafePointer<CChar>, _ hardware: MACAddress, into room: UnsafeMutableRawBufferPointer, _ now: Instant
  ) -> (count: Int, asked: Instant)? {
    guard let boot = Entropy.bootSecret() else { return nil }
    var memory = InlineArray<1600, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &memory) { file -> (Int, Instant)? in
      let read = withFile(device) { directory, name in
        Int(anp_read_private_file(directory, name, file.baseAddress, file.count))
      }
      let count = (read ?? 0) - headerLength
      guard count > 0, count <= room.count, file.loadUnaligned(as: UInt64.self) == magic,
        file.loadUnaligned(fromByteOffset: 8, as: UInt64.self) == hardware.bits,
        file.loadUnaligned(fromByteOffset: 16, as: UInt64.self) == boot.k0,
        file.loadUnaligned(fromByteOffset: 24, as: UInt64.self) == boot.k1
      else { return nil }
      // What is no time since the boot is no file of ours; with it there is no overflow, either.
      let (known, boottime) = (file.loadUnaligned(fromByteOffset: 32, as: Int64.self), anp_boottime())
      guard known >= 0, known <= boottime else { return nil }
      let age = boottime - known
      room.copyMemory(from: UnsafeRawBufferPointer(rebasing: file[headerLength..<headerLength + count]))
      return (count, now - Interval(nanoseconds: age))
    }
  }

  /// Failure does no harm but that the next program must ask anew.
  static func store(
    _ device: UnsafePointer<CChar>, _ hardware: MACAddress, _ granting: UnsafeRawBufferPointer, _ asked: Instant
  ) {
    guard let boot = Entropy.bootSecret() else { return }
    var memory = InlineArray<1600, UInt8>(repeating: 0)
    withUnsafeMutableBytes(of: &memory) { file in
      guard headerLength + granting.count <= file.count, let base = file.baseAddress else { return }
      file.storeBytes(of: magic, as: UInt64.self)
      file.storeBytes(of: hardware.bits, toByteOffset: 8, as: UInt64.self)
      file.storeBytes(of: boot.k0, toByteOffset: 16, as: UInt64.self)
      file.storeBytes(of: boot.k1, toByteOffset: 24, as: UInt64.self)
      let (age, boottime) = ((MonotonicClock.now - asked).nanoseconds, anp_boottime())
      guard age >= 0, age <= boottime else { return }
      file.storeBytes(of: boottime - age, toByteOffset: 32, as: Int64.self)
      UnsafeMutableRawBufferPointer(start: base + headerLength, count: granting.count).copyMemory(from: granting)
      _ = withFile(device) { directory, name in
        Int(anp_replace_private_file(directory, name, base, headerLength + granting.count))
      }
    }
  }

  static func remove(_ device: UnsafePointer<CChar>) {
    _ = withFile(device) { directory, name in
      anp_remove_private_file(directory, name)
      return 0
    }
  }

  /// The directory, opened, and the file's name; nil where there is no directory to trust.
  private static func withFile(
    _ device: UnsafePointer<CChar>, _ body: (Int32, UnsafePointer<CChar>) -> Int
  ) -> Int? {
    var memory = InlineArray<256, UInt8>(repeating: 0)
    return withUnsafeMutableBytes(of: &memory) { raw -> Int? in
      // The last byte stays the NUL.
      let room = UnsafeMutableRawBufferPointer(rebasing: raw[..<255])
      var directory: Int32 = -1
      for place in 0..<3 where directory < 0 {
        var path = TextBuffer(room)
        guard name(place, to: &path) else { continue }
        path.append(byte: 0)
        directory = anp_open_private_directory(cString(raw))
      }
      guard directory >= 0 else { return nil }
      defer { anp_close(directory) }
      var name = TextBuffer(room)
      name.append("lease-")
      name.append(cString: device)
      name.append(byte: 0)
      return body(directory, cString(raw))
    }
  }

  private static func cString(_ raw: UnsafeMutableRawBufferPointer) -> UnsafePointer<CChar> {
    UnsafePointer(raw.baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: CChar.self))
  }

  private static func name(_ place: Int, to path: inout TextBuffer) -> Bool {
    switch place {
    case 0:
      guard let runtime = anp_setting("XDG_RUNTIME_DIR"), runtime.pointee == CChar(UInt8(ascii: "/")) else {
        return false
      }
      path.append(cString: runtime)
      path.append("/anp")
      // A path that is cut is another.
      return path.room > 0
    case 1:
      path.append("/run/user/")
      path.append(UInt64(anp_user_id()))
      path.append("/anp")
      return true
    default:
      path.append("/tmp/anp-")
      path.append(UInt64(anp_user_id()))
      return true
    }
  }
}
