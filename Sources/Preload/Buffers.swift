// Owns: iovec arrays as the calls hand them in: checks, gathering, scattering.

import CSupport

/// The caller's buffers of one call.
struct Buffers {
  private let vectors: UnsafePointer<iovec>?
  let count: Int
  /// Bytes in all.
  let total: Int

  /// Nil with a negative errno in `error` when the kernel would refuse the array.
  /// Without `isCopied` the addresses do not matter.
  init?(_ vectors: UnsafePointer<iovec>?, count: Int, isCopied: Bool = true, error: inout Int) {
    self.vectors = vectors
    self.count = count
    var sum = 0
    if count > 0 {
      guard let vectors, anp_is_nowhere(vectors) == 0 else {
        error = -Errno.fault
        return nil
      }
      for i in 0..<count {
        let length = vectors[i].iov_len
        if length > 0, isCopied, anp_is_nowhere(vectors[i].iov_base) != 0 {
          error = -Errno.fault
          return nil
        }
        guard length <= Int(bitPattern: UInt.max >> 1) - sum, length >= 0 else {
          error = -Errno.invalid
          return nil
        }
        sum += length
      }
    }
    total = sum
  }

  /// The memory at byte `offset` as far as it is in one piece, and whether it is the last piece.
  @inline(__always)
  func piece(at offset: Int) -> (UnsafeMutableRawBufferPointer, isLast: Bool) {
    var skipped = 0
    guard let vectors else { return (UnsafeMutableRawBufferPointer(start: nil, count: 0), true) }
    for i in 0..<count {
      let length = vectors[i].iov_len
      if offset < skipped + length {
        let within = offset - skipped
        // A buffer without an address has no length either; bytes that are dropped take any address.
        let base = (vectors[i].iov_base ?? UnsafeMutableRawPointer(bitPattern: 64).unsafelyUnwrapped) + within
        return (
          UnsafeMutableRawBufferPointer(start: base, count: length - within), skipped + length == total
        )
      }
      skipped += length
    }
    return (UnsafeMutableRawBufferPointer(start: nil, count: 0), true)
  }

  /// Copies everything to `destination`, which has room for it.
  func gather(into destination: UnsafeMutableRawPointer) {
    var offset = 0
    while offset < total {
      let (from, _) = piece(at: offset)
      guard let base = from.baseAddress else { return }
      (destination + offset).copyMemory(from: base, byteCount: from.count)
      offset += from.count
    }
  }

  /// Copies `length` bytes (at most `total`) from `source`.
  func scatter(from source: UnsafeRawPointer, _ length: Int) {
    var offset = 0
    while offset < length {
      let (to, _) = piece(at: offset)
      guard let base = to.baseAddress else { return }
      let n = min(to.count, length - offset)
      base.copyMemory(from: source + offset, byteCount: n)
      offset += n
    }
  }
}
