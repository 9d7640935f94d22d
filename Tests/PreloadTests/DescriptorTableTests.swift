// Owns: tests of the descriptor table and of the homes of internal descriptors. They use descriptors of this process; the
// numbers that no test opens (from 5000 on) stand for those that are not there.

import CSupport
import Testing

@testable import Preload

@Suite("Descriptor table", .serialized)
struct DescriptorTableTests {
  private var socketKind: UInt32 { UInt32(ANP_FD_SOCKET.rawValue) }

  @Test("an entry keeps kind, index and generation apart")
  func packs() {
    let entry = anp_fd_entry(socketKind, 0xabcdef, 0xdead_beef)
    #expect(anp_fd_kind_of(entry) == ANP_FD_SOCKET)
    #expect(anp_fd_index_of(entry) == 0xabcdef)
    #expect(anp_fd_generation_of(entry) == 0xdead_beef)
  }

  @Test("what was never entered, negative numbers and those beyond the limit are not ours")
  func unknown() {
    for fd in [-1, 5000, 70_000, ANP_FD_LIMIT - 1, ANP_FD_LIMIT, Int(Int32.max)] {
      #expect(anp_fd_look_up(Int32(fd)) == 0)
    }
    #expect(anp_fd_exchange(Int32(ANP_FD_LIMIT), 1, nil) == -EMFILE)
    #expect(anp_fd_exchange(Int32(ANP_FD_LIMIT), 0, nil) == 0)
  }

  @Test("an entry is removed once, and only as long as it is the same")
  func removes() {
    let first = anp_fd_entry(socketKind, 1, 1)
    let second = anp_fd_entry(socketKind, 1, 2)
    var old: UInt64 = 99
    #expect(anp_fd_exchange(5001, first, &old) == 0)
    #expect(old == 0)
    #expect(anp_fd_look_up(5001) == first)
    #expect(anp_fd_exchange(5001, second, &old) == 0)
    #expect(old == first)
    #expect(anp_fd_remove(5001, first) == 0)
    #expect(anp_fd_remove(5001, second) == 1)
    #expect(anp_fd_remove(5001, second) == 0)
    #expect(anp_fd_look_up(5001) == 0)
  }

  @Test("walking a range finds the entries in it, in order, across pages")
  func walks() {
    let numbers: [Int32] = [5010, 5011, 6200, 9000]
    for fd in numbers { _ = anp_fd_exchange(fd, anp_fd_entry(socketKind, UInt32(fd), 1), nil) }
    defer { for fd in numbers { _ = anp_fd_exchange(fd, 0, nil) } }
    var found: [Int32] = []
    var entry: UInt64 = 0
    var fd = anp_fd_next(5000, 8999, &entry)
    while fd >= 0 {
      #expect(anp_fd_index_of(entry) == UInt32(fd))
      found.append(fd)
      fd = anp_fd_next(fd + 1, 8999, &entry)
    }
    #expect(found == [5010, 5011, 6200])
  }

  @Test("an internal descriptor moves to a high number, away from a dup2, and is closed by its home")
  func internals() throws {
    let home = UnsafeMutablePointer<Int32>.allocate(capacity: 1)
    home.initialize(to: -1)
    let made = anp_kernel_eventfd()
    try #require(made >= 0)
    let number = anp_internal_adopt(home, made)
    #expect(number >= 0)
    #expect(number != made)
    #expect(anp_internal_number(home) == number)
    let entry = anp_fd_look_up(number)
    #expect(anp_fd_kind_of(entry) == ANP_FD_INTERNAL)

    #expect(anp_internal_move_away(number, entry) == 0)
    let other = anp_internal_number(home)
    #expect(other != number)
    #expect(anp_fd_look_up(number) == 0)
    #expect(anp_fd_look_up(other) == entry)
    _ = anp_kernel_close(number)

    anp_internal_close(home)
    #expect(anp_internal_number(home) == -1)
    #expect(anp_fd_look_up(other) == 0)
    #expect(anp_kernel_close(other) == -EBADF)
    home.deallocate()
  }
}
