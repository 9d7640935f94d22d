// Owns: MSG_ZEROCOPY: which calls asked for it, and what the socket's error queue says of them. Read first:
// Documentation/networking/msg_zerocopy.rst; net/core/skbuff.c, msg_zerocopy_callback.
//
// Nothing is pinned here, and nothing need be: large writes are sent straight from the program's memory anyway (EntrySend.swift), and
// what is not acknowledged when the call returns has been copied. So each call is complete when it returns, and its notification
// waits in the error queue from then on; SO_EE_CODE_ZEROCOPY_COPIED says, as in Linux, that bytes were copied after all.

import CSupport
import Host
import Netstack

/// Of one socket; under its shard's lock once the stack has it.
struct ZeroCopyQueue {
  /// The calls `first ... last`, counted from the first that asked, are complete.
  struct Range {
    var first: UInt32
    var last: UInt32
    var isCopied: Bool
  }

  /// SO_ZEROCOPY
  var isOn = false
  private var next: UInt32 = 0
  private var ranges = InlineArray<4, Range>(repeating: Range(first: 0, last: 0, isCopied: false))
  private var count = 0

  var isEmpty: Bool { count == 0 }

  /// A call is complete. Joins the range before it if that says the same of it, or if there is no room for one more.
  mutating func append(isCopied: Bool) {
    let number = next
    next &+= 1
    if count > 0, ranges[count - 1].isCopied == isCopied || count == ranges.count {
      ranges[count - 1].last = number
      // Of several calls it says the worse.
      if isCopied { ranges[count - 1].isCopied = true }
      return
    }
    ranges[count] = Range(first: number, last: number, isCopied: isCopied)
    count += 1
  }

  mutating func removeFirst() -> Range? {
    guard count > 0 else { return nil }
    let first = ranges[0]
    for i in 1..<count { ranges[i - 1] = ranges[i] }
    count -= 1
    return first
  }
}

enum ZeroCopy {
  /// A sending call with MSG_ZEROCOPY has taken `sent` bytes.
  @inline(never)
  static func complete(_ description: DescriptionPointer, sent: Int, isCopied: Bool) {
    guard sent > 0, description.pointee.side == .stack else { return }
    let shard = lockShard(of: description)
    if description.pointee.zeroCopy.isOn {
      description.pointee.zeroCopy.append(isCopied: isCopied)
      Wakes.changed(description, PollEvent.error)
    }
    shard.pointee.unlock()
  }

  /// recvmsg with MSG_ERRQUEUE: one notification, -EAGAIN where there is none.
  static func receive(_ description: DescriptionPointer, _ message: UnsafeMutablePointer<msghdr>?) -> Int {
    guard description.pointee.side == .stack else { return -Errno.again }
    let shard = lockShard(of: description)
    let range = description.pointee.zeroCopy.removeFirst()
    shard.pointee.unlock()
    guard let range else { return -Errno.again }
    if let message { ControlMessages.write(range, family: description.pointee.family, to: message) }
    return 0
  }
}
