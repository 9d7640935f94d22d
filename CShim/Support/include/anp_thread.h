// The record that the waiting and signal machinery keeps of each thread, and the small lock and the system calls it uses.
// Internal to the C files (thread.c, wait.c, keeper.c, signals.c, process.c, allocator.c); everybody else reads anp_process.h.
#pragma once

#ifndef __swift__

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "anp_support.h"

/// What handlers ran since anp_wait_prepare.
enum {
  /// One installed without SA_RESTART.
  ANP_SEEN_INTERRUPT = 1,
  /// One installed with SA_RESTART.
  ANP_SEEN_RESTART = 2,
};

/// Owned by its thread; only signal handlers on that same thread come in between, so plain volatile accesses in the right order
/// suffice. Where the thread and a handler both change a field, the field is a byte or word of its own.
struct anp_thread {
  /// anp_enter minus anp_leave.
  volatile uint32_t depth;
  /// Work for anp_leave at depth 0, as two bytes that are read together.
  union {
    struct {
      /// deferred_signals is not empty.
      volatile uint8_t has_deferred;
      /// The last wait returned without telling its caller about `seen`.
      volatile uint8_t unreported;
    };
    volatile uint16_t attention;
  };
  /// ANP_SEEN_*.
  _Atomic uint8_t seen;
  /// anp_wait* has set the thread's cancellation type to asynchronous; wait_cancel_type is what it was.
  volatile uint8_t cancel_is_async;
  volatile int wait_cancel_type;
  /// Nonzero while this thread, about to exec or exit, has left the stack to the keeper (process.c): how it ends.
  volatile int handed_over;
  /// Signals that were deferred and are blocked and pending on this thread, bit n-1 for signal n.
  volatile uint64_t deferred_signals;
  /// The time-out of the system call in anp_wait*, read by the kernel at its entry. A handler zeroes it, so that a wait
  /// it came just before does not sleep.
  volatile struct timespec timeout;
};

/// initial-exec: an access is one instruction relative to the thread pointer, never a call that may allocate.
extern __thread struct anp_thread anp_this_thread __attribute__((tls_model("initial-exec"), visibility("hidden")));

#define ANP_SIGNAL_BIT(signal) (1ull << ((signal) - 1))

/// Orders this thread's accesses as seen by its own signal handlers; no instruction.
#define anp_signal_fence() atomic_signal_fence(memory_order_seq_cst)

#define ANP_RAW_PICK(_1, _2, _3, _4, _5, _6, _7, name, ...) name
#define ANP_RAW_1(n) anp_syscall6(n, 0, 0, 0, 0, 0, 0)
#define ANP_RAW_2(n, a) anp_syscall6(n, (long)(a), 0, 0, 0, 0, 0)
#define ANP_RAW_3(n, a, b) anp_syscall6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define ANP_RAW_4(n, a, b, c) anp_syscall6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define ANP_RAW_5(n, a, b, c, d) anp_syscall6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define ANP_RAW_6(n, a, b, c, d, e) anp_syscall6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define ANP_RAW_7(n, a, b, c, d, e, f) anp_syscall6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/// anp_call(SYS_futex, word, …): a raw system call (anp_support.h) with the arguments there are. Result or -errno.
#define anp_call(...) \
  ANP_RAW_PICK(__VA_ARGS__, ANP_RAW_7, ANP_RAW_6, ANP_RAW_5, ANP_RAW_4, ANP_RAW_3, ANP_RAW_2, ANP_RAW_1)(__VA_ARGS__)

/// A lock for a few instructions or a system call: 0 free, 1 held, 2 held and somebody may sleep for it. Whoever takes it sees to
/// it that no signal handler on the same thread can want it (anp_enter, or all signals blocked).
static inline void anp_small_lock(_Atomic uint32_t *word) {
  uint32_t free = 0;
  if (atomic_compare_exchange_strong(word, &free, 1)) return;
  while (atomic_exchange(word, 2)) anp_call(SYS_futex, word, FUTEX_WAIT_PRIVATE, 2, 0);
}
static inline void anp_small_unlock(_Atomic uint32_t *word) {
  if (atomic_exchange(word, 0) == 2) anp_call(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1);
}

#endif
