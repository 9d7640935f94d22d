// Owns: sleeping. Read anp_process.h (the contract) and signals.c (the handler wrapper) first.
//
// No wake-up may be lost between the last check and the system call that sleeps. Two things end a wait:
//
//   A change of the word. futex(2) compares it with `expected` under its own lock: nothing to do.
//
//   A signal handler. It may run (a) after anp_wait_prepare but before the call, (b) between our look at `seen` and the
//   system call instruction, (c) during the call. (a): the look finds it. (c): the kernel returns EINTR. (b) is the gap.
//   Three ways to close it: a handler that compares the interrupted PC with the bounds of a hand-written code sequence
//   (assembly for each machine); futex_waitv on a second, per-thread word (Linux 5.16, dearer, and no help for poll); or
//   this one: the time-out lies in the thread record, is always given, and is read by the kernel after it was entered. A
//   handler zeroes it. So after (b) the call returns at once with "timed out", we look at `seen` again and know better.
//   It works alike for futex, ppoll and epoll_pwait2, is portable C, and costs arming a kernel timer that never fires.
//   The record rather than a local variable, because a handler may siglongjmp out of the wait: a later handler's zeroes
//   then fall on a harmless field instead of somebody's stack.
//
//   A given time-out also makes futex(2) answer EINTR whenever a handler ran, with or without SA_RESTART (restart_syscall
//   only serves stop and continue), so that one path decides about restarting: `interruption`.
//
// Who wins when both happen: the word, as in tcp_recvmsg, which looks at its queue before it looks at its signals. The signal
// is not forgotten: `unreported` makes the next anp_wait_prepare of the same program call keep `seen`; anp_leave at the end of
// the program's call drops it.
//
// Nesting: a handler may wait itself. The wrapper saves `seen` and `unreported` around the program's handler and zeroes the
// time-out after it; nothing else outlives the handler.
//
// Cancellation: asynchronous only around the system call, where this thread holds nothing. Before the program's handler runs
// the wrapper sets the type back, so that a handler is not cancelled in the middle, and one that jumps away does not take
// asynchronous cancellation with it.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>

#include "anp_process.h"
#include "anp_thread.h"

enum { KERNEL_SIGSET_BYTES = 8 };

static void set_timeout(int64_t nanoseconds) {
  // "For ever" is 136 years: no pointer that a handler would have to change as well.
  anp_this_thread.timeout.tv_sec = nanoseconds < 0 ? 1ll << 32 : nanoseconds / 1000000000;
  anp_this_thread.timeout.tv_nsec = nanoseconds < 0 ? 0 : nanoseconds % 1000000000;
  anp_signal_fence();
  // From here on a handler zeroes it; one that ran before is in `seen`.
  if (atomic_load_explicit(&anp_this_thread.seen, memory_order_relaxed)) {
    anp_this_thread.timeout.tv_sec = 0;
    anp_this_thread.timeout.tv_nsec = 0;
  }
  anp_signal_fence();
}

static void begin_cancellable(void) {
  int type;
  pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
  anp_this_thread.wait_cancel_type = type;
  anp_this_thread.cancel_is_async = 1;
  anp_signal_fence();
  // Ends the thread here if it has been cancelled. A handler that comes just after this line sets the type back, and has
  // zeroed the time-out: the call then does not sleep.
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
}

static void end_cancellable(void) {
  int type;
  pthread_setcanceltype(anp_this_thread.wait_cancel_type, &type);
  anp_signal_fence();
  anp_this_thread.cancel_is_async = 0;
}

/// 0 where no handler ran; else the wait's result, and the handlers count as reported.
static int interruption(unsigned flags) {
  uint8_t seen = atomic_exchange_explicit(&anp_this_thread.seen, 0, memory_order_relaxed);
  if (!seen) return 0;
  return (seen & ANP_SEEN_INTERRUPT) || !(flags & ANP_WAIT_RESTARTABLE) ? -EINTR : -EAGAIN;
}

static int keep_unreported(int result) {
  anp_this_thread.unreported = atomic_load_explicit(&anp_this_thread.seen, memory_order_relaxed) != 0;
  return result;
}

/// EINTR without a handler of the program: libc's own signals (set*id in all threads, cancellation that is switched off) and,
/// for epoll, stop and continue. Native calls treat the former as SA_RESTART.
static int interrupted_by_nobody(unsigned flags) { return flags & ANP_WAIT_RESTARTABLE ? -EAGAIN : -EINTR; }

void anp_wait_prepare(void) {
  if (anp_this_thread.unreported) {
    anp_this_thread.unreported = 0;
  } else {
    atomic_store_explicit(&anp_this_thread.seen, 0, memory_order_relaxed);
  }
  // A wait that was left by siglongjmp may have left it.
  anp_this_thread.cancel_is_async = 0;
  anp_signal_fence();
}

int anp_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns, unsigned flags) {
  // Often enough it has changed by now: no need to ask the kernel.
  if (atomic_load_explicit(word, memory_order_acquire) != expected) return keep_unreported(-EAGAIN);
  set_timeout(timeout_ns);
  begin_cancellable();
  long result = anp_call(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &anp_this_thread.timeout);
  end_cancellable();
  if (result == 0 || result == -EAGAIN) return keep_unreported((int)result);
  if (atomic_load_explicit(word, memory_order_acquire) != expected) return keep_unreported(-EAGAIN);
  int interrupted = interruption(flags);
  if (interrupted) return interrupted;
  return result == -EINTR ? interrupted_by_nobody(flags) : (int)result;
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/// A mask may keep a signal out until the call is over: its handler runs at the kernel's exit then and has interrupted
/// nothing. So where there is a mask, a time-out that is due is a time-out. 0 = not to be looked at.
static int64_t due_time(int64_t timeout_ns, const sigset_t *mask) { return mask && timeout_ns >= 0 ? now() + timeout_ns : 0; }

static int after_poll(long result, int64_t due, unsigned flags) {
  if (result > 0) return keep_unreported((int)result);
  if (result == 0 && due && now() >= due) return 0;
  if (result == 0 || result == -EINTR) {
    int interrupted = interruption(flags);
    if (interrupted) return interrupted;
  }
  return result == -EINTR ? interrupted_by_nobody(flags) : (int)result;
}

int anp_wait_poll(struct pollfd *fds, nfds_t count, int64_t timeout_ns, const sigset_t *mask, unsigned flags) {
  int64_t due = due_time(timeout_ns, mask);
  set_timeout(timeout_ns);
  begin_cancellable();
  long result = anp_call(SYS_ppoll, fds, count, &anp_this_thread.timeout, mask, KERNEL_SIGSET_BYTES);
  end_cancellable();
  return after_poll(result, due, flags);
}

#ifndef SYS_epoll_pwait2
#define SYS_epoll_pwait2 441
#endif

/// Before Linux 5.11: the epoll descriptor itself is readable when its set has something.
static long epoll_by_poll(int epfd, struct epoll_event *events, int max, const sigset_t *mask) {
  struct pollfd set = {.fd = epfd, .events = POLLIN};
  long result = anp_call(SYS_ppoll, &set, 1, &anp_this_thread.timeout, mask, KERNEL_SIGSET_BYTES);
  return result < 0 ? result : anp_call(SYS_epoll_pwait, epfd, events, max, 0, 0, KERNEL_SIGSET_BYTES);
}

int anp_wait_epoll(int epfd, struct epoll_event *events, int max, int64_t timeout_ns, const sigset_t *mask, unsigned flags) {
  int64_t due = due_time(timeout_ns, mask);
  set_timeout(timeout_ns);
  begin_cancellable();
  long result = anp_call(SYS_epoll_pwait2, epfd, events, max, &anp_this_thread.timeout, mask, KERNEL_SIGSET_BYTES);
  if (result == -ENOSYS) result = epoll_by_poll(epfd, events, max, mask);
  end_cancellable();
  return after_poll(result, due, flags);
}

void anp_wake(_Atomic uint32_t *word, int count) { anp_call(SYS_futex, word, FUTEX_WAKE_PRIVATE, count); }
