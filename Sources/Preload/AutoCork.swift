// Owns: two small writes that always come one right behind the other (a header, a body), joined into one segment. A kernel sends
// the first at once, and both wake the peer; here the first waits in the send buffer for the second where experience says that
// it is about to come. Linux's model: tcp_autocorking, which joins what comes while the device is busy.
//
//   write ── another write, next call of the thread, within 100 µs ──▶ a pair: the socket's `pairs` grows
//   write ── any other call of the library ──▶ a single one: `pairs` shrinks
//
// Where a socket has had a row of pairs, the first write of the next is held back (SendFlags.hold), until
//   the second comes            both go out together
//   the thread calls anything   the first goes out before that call does its work, and the row is over
//   a millisecond has passed    the stack's timer sends it (the program computes, or waits for something that is not ours)
//
// The thread remembers what it wrote to last, by table entry, so nothing has to be undone when the socket is closed meanwhile.

import CSupport
import Host
import Netstack
import Synchronization

/// What the thread's last call wrote to.
struct LastWrite {
  /// The table entry, with its generation; 0 = the last call was no write.
  var entry: UInt64 = 0
  var at = Instant.zero
  var isHeld = false
  /// It was a small one, and none to the same came right before it.
  var isFirst = false
}

enum AutoCork {
  /// More than this is worth a segment of its own.
  static var most: Int { 1024 }
  private static var pairGap: Interval { .microseconds(100) }
  /// So many pairs in a row, and the next is believed in.
  private static var enough: Int8 { 4 }
  private static var certain: Int8 { 8 }
  /// After a guess that was wrong and made a write late.
  private static var disbelief: Int8 { -32 }

  /// Whether a write of `count` bytes is to be held back: the first of a pair, as far as one can tell.
  @inline(__always)
  static func mayHold(_ description: DescriptionPointer, _ thread: ThreadPointer, _ count: Int) -> Bool {
    thread.pointee.lastWrite.entry != description.tableEntry && count <= most
      && description.pointee.pairs.load(ordering: .relaxed) >= enough
      && description.pointee.shard.unsafelyUnwrapped.pointee.joinsWrites
  }

  /// A write has been taken, or some of it.
  /// - Parameter isSmall: whole, and it may be the first of a pair.
  @inline(__always)
  static func wrote(
    _ description: DescriptionPointer, _ thread: ThreadPointer, isSmall: Bool, at now: Instant, isHeld: Bool
  ) {
    let entry = description.tableEntry
    let isSecond = thread.pointee.lastWrite.entry == entry
    if isSecond, thread.pointee.lastWrite.isFirst {
      let pairs = description.pointee.pairs.load(ordering: .relaxed)
      let isPair = now - thread.pointee.lastWrite.at < pairGap
      let otherwise = thread.pointee.lastWrite.isHeld ? disbelief : 0
      description.pointee.pairs.store(isPair ? min(pairs + 1, certain) : otherwise, ordering: .relaxed)
    }
    thread.pointee.lastWrite = LastWrite(entry: entry, at: now, isHeld: isHeld, isFirst: isSmall && !isSecond)
  }

  /// The thread does something else after a write.
  @inline(never)
  static func end(_ thread: ThreadPointer) {
    let last = thread.pointee.lastWrite
    thread.pointee.lastWrite = LastWrite()
    guard last.entry != 0, last.isFirst else { return }
    // Most programs never write in pairs. Records are never given back, so a look does no harm, whosever it is by now.
    let record = preload.pointee.descriptions.record(anp_fd_index_of(last.entry))
    if !last.isHeld, record.pointee.pairs.load(ordering: .relaxed) <= 0 { return }
    guard let description = acquireDescription(last.entry) else { return }
    let pairs = description.pointee.pairs.load(ordering: .relaxed)
    if last.isHeld {
      _ = withShard(description) { shard, now throws(SocketError) in
        // Where the timer was faster the peer has waited for it.
        let isInTime = shard.pointee.stack.isHeld(description.pointee.handle)
        description.pointee.pairs.store(isInTime ? 0 : disbelief, ordering: .relaxed)
        shard.pointee.stack.push(description.pointee.handle, now: now)
        return 0
      }
    } else if pairs > 0 {
      description.pointee.pairs.store(pairs - 1, ordering: .relaxed)
    }
    description.release()
  }
}
