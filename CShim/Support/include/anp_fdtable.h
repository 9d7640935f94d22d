// Which descriptors are ours. A sparse table of atomics, two levels, grown by use and never shrunk, so that a look-up
// needs no lock and may run in a signal handler. A descriptor that is not in it belongs to the program and the kernel.
//
//   entry = generation (32 bits) | index (24 bits) | kind (8 bits);  0 = not ours
#pragma once

#include <stddef.h>
#include <stdint.h>

enum anp_fd_kind {
  ANP_FD_NONE = 0,
  /// An internet socket whose side is undecided or the stack's; index and generation name its description.
  ANP_FD_SOCKET = 1,
  /// An epoll descriptor; index and generation name its set.
  ANP_FD_EPOLL = 2,
  /// A descriptor of our own that the program must neither see nor hit; index names its home (anp_internal_*).
  ANP_FD_INTERNAL = 3,
  /// A stack socket that came through fork: the stack stayed with the parent.
  ANP_FD_ORPHAN = 4,
};

enum {
  ANP_FD_PAGE_SHIFT = 9,
  ANP_FD_PAGE_ENTRIES = 1 << ANP_FD_PAGE_SHIFT,
  ANP_FD_PAGES = 4096,
  /// Descriptors at and above this are never ours (socket() answers EMFILE there).
  ANP_FD_LIMIT = ANP_FD_PAGES * ANP_FD_PAGE_ENTRIES,
};

// Plain words accessed with the __atomic builtins: Swift cannot import _Atomic.
extern uint64_t *anp_fd_pages[ANP_FD_PAGES];

static inline uint64_t anp_fd_look_up(int fd) {
  if (__builtin_expect((unsigned)fd >= (unsigned)ANP_FD_LIMIT, 0)) return 0;
  uint64_t *page = __atomic_load_n(&anp_fd_pages[fd >> ANP_FD_PAGE_SHIFT], __ATOMIC_ACQUIRE);
  return page ? __atomic_load_n(&page[fd & (ANP_FD_PAGE_ENTRIES - 1)], __ATOMIC_ACQUIRE) : 0;
}

static inline enum anp_fd_kind anp_fd_kind_of(uint64_t entry) { return (enum anp_fd_kind)(entry & 0xff); }
static inline uint32_t anp_fd_index_of(uint64_t entry) { return (uint32_t)(entry >> 8) & 0xffffff; }
static inline uint32_t anp_fd_generation_of(uint64_t entry) { return (uint32_t)(entry >> 32); }
static inline uint64_t anp_fd_entry(uint32_t kind, uint32_t index, uint32_t generation) {
  return (uint64_t)generation << 32 | (uint64_t)(index & 0xffffff) << 8 | kind;
}

extern int anp_fd_used;
/// Nonzero once any descriptor has had an entry.
static inline int anp_fd_in_use(void) {
  return __atomic_load_n(&anp_fd_used, __ATOMIC_RELAXED);
}

/// Stores an entry and returns the old one through `old` (may be NULL). 0, -EMFILE beyond the limit, or -ENOMEM.
int anp_fd_exchange(int fd, uint64_t entry, uint64_t *old);
/// Clears the entry if it still is `entry`: true for the one caller that did it.
int anp_fd_remove(int fd, uint64_t entry);
/// The first descriptor in first...last that has an entry, or -1.
int anp_fd_next(int first, int last, uint64_t *entry);

// Descriptors of our own. `home` is the variable that the owner reads the number from; it must live for ever.

/// Moves `fd` to a high number, close-on-exec, enters it in the table and stores the number in *home. Takes `fd` over also on
/// failure. The new number or -errno.
int anp_internal_adopt(int *home, int fd);
/// Closes what *home names and stores -1 there.
void anp_internal_close(int *home);
/// Makes way for a dup2 that aims at `fd`: our descriptor gets another number, *home is changed. 0 or -errno.
int anp_internal_move_away(int fd, uint64_t entry);
/// In a forked child: closes all of them and stores -1 in every home.
void anp_internal_close_all(void);

static inline int anp_internal_number(const int *home) { return __atomic_load_n(home, __ATOMIC_ACQUIRE); }
