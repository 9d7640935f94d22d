// The record that the waiting and signal machinery keeps of each thread, and raw system calls for it. Internal to the C files
// (thread.c, wait.c, keeper.c, signals.c, process.c); everybody else reads anp_process.h.
#pragma once

#ifndef __swift__

#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

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

/// A raw system call: no wrapper of ours, no cancellation point, errno untouched. Result or -errno.
static inline long anp_raw(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory", "cc");
  return x0;
#else
#error "libanp supports x86_64 and aarch64"
#endif
}

#define ANP_RAW_PICK(_1, _2, _3, _4, _5, _6, _7, name, ...) name
#define ANP_RAW_1(n) anp_raw(n, 0, 0, 0, 0, 0, 0)
#define ANP_RAW_2(n, a) anp_raw(n, (long)(a), 0, 0, 0, 0, 0)
#define ANP_RAW_3(n, a, b) anp_raw(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define ANP_RAW_4(n, a, b, c) anp_raw(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define ANP_RAW_5(n, a, b, c, d) anp_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define ANP_RAW_6(n, a, b, c, d, e) anp_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define ANP_RAW_7(n, a, b, c, d, e, f) anp_raw(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/// anp_call(SYS_futex, word, …): anp_raw with the arguments there are.
#define anp_call(...) \
  ANP_RAW_PICK(__VA_ARGS__, ANP_RAW_7, ANP_RAW_6, ANP_RAW_5, ANP_RAW_4, ANP_RAW_3, ANP_RAW_2, ANP_RAW_1)(__VA_ARGS__)

#endif
