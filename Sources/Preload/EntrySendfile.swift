// Owns: sendfile. A large stretch of a file that the kernel has in memory is mapped and lent to the stack like any large write:
// the device reads the file's own pages. Anything else is read a stretch at a time, and sent. Read first: sendfile(2).
//
// A mapping must not be read by this process: the file may become shorter meanwhile, and that would be a SIGBUS. The device's
// reading fails with EFAULT then, which loses a frame; what is not acknowledged in time is copied by the kernel, and where the file
// has ended, zeros take the place of what was promised to the peer.

import CSupport
import Host
import Netstack

/// A part of a file that is mapped.
struct FileStretch {
  /// The bytes that are sent.
  var base: UnsafeRawPointer
  var descriptor: Int32
  /// Where in the file they begin.
  var position: Int64

  /// Fills `memory` with the bytes from `offset` (counted from `base`) on. The kernel copies: for it, a page that is no more is an
  /// error, and zeros take its place.
  func read(at offset: Int, into memory: UnsafeMutableRawBufferPointer) {
    guard let start = memory.baseAddress else { return }
    var done = 0
    while done < memory.count {
      let to = start + done
      var length = anp_kernel_copy(to, base + (offset &+ done), memory.count &- done)
      // Where a sandbox refuses it. By its number the file may be another by now, so this comes second.
      if length == -Errno.notPermitted || length == -Errno.noSystemCall {
        length = anp_kernel_pread(descriptor, to, memory.count &- done, position + Int64(offset &+ done))
      }
      if length <= 0 { break }
      done &+= length
    }
    if done < memory.count {
      (start + done).initializeMemory(as: UInt8.self, repeating: 0, count: memory.count &- done)
    }
  }
}

/// Less is not worth a mapping.
private var leastMapping: Int { 65536 }
private var largestMapping: Int { 1 << 20 }
/// A multiple of every page size (arm64 kernels may have 64 KB): where in a file a mapping may begin.
private var mappingUnit: Int64 { 65536 }

/// Sends from the file's own pages. 0: this is not the moment.
private func sendMapped(
  _ description: DescriptionPointer, _ input: Int32, _ position: Int64, _ count: Int
) -> Int {
  let length = min(count, largestMapping)
  guard length >= leastMapping, mayLendUntouched(description),
    anp_kernel_is_cached(input, position, length) != 0
  else { return 0 }
  let begin = position & ~(mappingUnit - 1)
  let skipped = Int(position - begin)
  guard let base = anp_kernel_map_file(input, begin, skipped + length) else { return 0 }
  var isCopied = false
  let taken = sendLent(
    description, UnsafeRawBufferPointer(start: base + skipped, count: length),
    length < count ? MessageFlag.more : 0, &isCopied,
    of: FileStretch(base: base + skipped, descriptor: input, position: position))
  anp_kernel_unmap(base, skipped + length)
  if taken > 0, let thread = Threads.current {
    AutoCork.wrote(description, thread, isSmall: false, at: MonotonicClock.now, isHeld: false)
  }
  return taken
}

/// sendfile to a stack socket. `offset` NULL: the file's own position moves by what was sent.
@c(anp_entry_sendfile)
public func entrySendfile(
  _ fd: Int32, _ entry: UInt64, _ input: Int32, _ offset: UnsafeMutablePointer<Int64>?, _ count: Int,
  _ stretch: UnsafeMutableRawPointer, _ stretchSize: Int
) -> Int {
  withSocket(fd, entry, sends: true) { description in
    if description.pointee.side == .undecided { return passToKernel }
    if description.pointee.kind == .datagram { return -Errno.invalid }
    if anp_fd_look_up(input) != 0 { return -Errno.invalid }
    var position = offset?.pointee ?? anp_kernel_seek(input, 0, 1)
    if offset == nil, position < 0 { return Int(position) == -Errno.badDescriptor ? Int(position) : -Errno.invalid }
    if position < 0 { return -Errno.invalid }
    // Bytes after a file's end are no reason to hold back what is before it.
    var size = count > stretchSize ? anp_kernel_file_size(input) : -1
    // /proc's files say 0 whatever they hold.
    if size <= position { size = -1 }
    let count = size < 0 ? count : min(count, Int(clamping: size - position))
    var sent = 0
    var result = 0
    while sent < count {
      let mapped = size < 0 ? 0 : sendMapped(description, input, position, count - sent)
      if mapped > 0 {
        sent += mapped
        position += Int64(mapped)
        continue
      }
      let wanted = min(count - sent, stretchSize)
      let length = anp_kernel_pread(input, stretch, wanted, position)
      if length <= 0 {
        result = length
        break
      }
      var vector = iovec(iov_base: stretch, iov_len: numericCast(length))
      var error = 0
      guard let buffers = Buffers(&vector, count: 1, error: &error) else { return error }
      result = sendStream(description, buffers, length == wanted && sent + length < count ? MessageFlag.more : 0)
      if result < 0 { break }
      sent += result
      position += Int64(result)
      if result < length { break }
    }
    if result == referenceLost { return result }
    if let offset {
      offset.pointee = position
    } else if sent > 0 {
      _ = anp_kernel_seek(input, position, 0)
    }
    return sent > 0 ? sent : result
  }
}
