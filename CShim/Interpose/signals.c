// Owns: sigaction and its relatives, and the wrapper that the kernel calls instead of the program's handlers. Read
// anp_process.h (the contract), anp_thread.h (the record) and CShim/Support/wait.c (the other half) first. Knows nothing of
// sockets.
//
// Why. Socket calls are async-signal-safe on Linux: a handler may call send() while the thread it interrupted is in the middle
// of send(). Ours hold a lock there. So a handler that arrives "inside" must run a moment later, when the thread leaves.
//
// The wrapper, by where it finds its thread:
//   inside     The signal goes back to the kernel, to this thread, with its siginfo, and is blocked in the mask that the
//              interrupted context returns to. So it stays pending until anp_leave unblocks it, and is then delivered by the
//              kernel like any other: right stack, right mask, right siginfo, a true ucontext. (Calling the program's
//              handler from anp_leave as a plain function would have none of these.)
//   waiting    The program's handler runs, then the wrapper notes in the thread record what the wait is to make of it, and
//              zeroes the time-out that the kernel may be about to read (wait.c).
//   outside    As waiting; nobody reads the note.
// What cannot wait is never put off: faults of the thread's own instruction (the instruction would fault again, for ever, or
// be killed because the signal is blocked) and its own abort().
//
// Between depth = 0 and the unblocking in anp_leave another signal may arrive. Its handler must not run under a mask that
// blocks the deferred ones for longer than itself, and a nested anp_leave in that handler must not unblock what the handler's
// sa_mask blocks. So the wrapper takes the deferred set over: out of the record, and out of the mask it returns to. The kernel
// then delivers them when this handler returns.
//
// The kernel's action is the truth; the table only holds what the kernel cannot: the program's function, and the flags that
// the wrapper changes. It is asked for them when the kernel names a wrapper. So actions that libc sets behind our back
// (system, abort) are reported right. What the wrapper must know to act lies in which of the four wrappers it is, so that the
// kernel changes it together with mask and flags, and a delivery reads one atomic pointer and takes no lock.
//   SA_SIGINFO    always set for the kernel. The kernel passes three arguments in any case; so do we.
//   SA_RESETHAND  never given to the kernel: a deferred signal would come back to the default action and kill the program.
//                 The wrapper resets when it really runs the handler.
//   all others, and the mask, are the kernel's business.
//
// Lock: one for the table and the kernel call beside it, held with all signals blocked, so a handler may call sigaction.
//
// Known differences: of several real-time signals of one number sent to one thread, the one that was put off comes after
// those already queued. A signal that arrives while sigaction is replacing its handler may reach the new handler with
// the old mask.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <ucontext.h>

#include "anp_process.h"
#include "anp_thread.h"
#include "process_private.h"

// glibc's own name for its sigaction, exported and not interposed: no look-up needed, at any time.
extern int __sigaction(int signal, const struct sigaction *action, struct sigaction *old);

enum { SIGNALS = 64 };

typedef void (*handler_function)(int, siginfo_t *, void *);

static struct {
  /// The program's function.
  _Atomic(handler_function) handler;
  /// SA_SIGINFO and SA_RESETHAND as the program gave them; under the lock.
  int flags;
} table[SIGNALS + 1];

// ---- The lock -----------------------------------------------------------------------------------------------------------

static _Atomic uint32_t table_lock;

static uint64_t lock_table(void) {
  uint64_t all = ~0ull, mask = 0;
  anp_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof mask);
  anp_small_lock(&table_lock);
  return mask;
}

static void unlock_table(uint64_t mask) {
  anp_small_unlock(&table_lock);
  anp_call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
}

static uint64_t mask_before_fork;
void anp_signals_fork_prepare(void) { mask_before_fork = lock_table(); }
void anp_signals_fork_parent(void) { unlock_table(mask_before_fork); }
void anp_signals_fork_child(void) { unlock_table(mask_before_fork); }
void anp_signals_fork_forget(void) { atomic_store(&table_lock, 0); }

// ---- Delivery -----------------------------------------------------------------------------------------------------------

enum { RESTARTS = 1, RESETS = 2 };

static void deliver(int signal, siginfo_t *info, void *context, int kind);
static void deliver_interrupting(int s, siginfo_t *i, void *c) { deliver(s, i, c, 0); }
static void deliver_restarting(int s, siginfo_t *i, void *c) { deliver(s, i, c, RESTARTS); }
static void deliver_interrupting_once(int s, siginfo_t *i, void *c) { deliver(s, i, c, RESETS); }
static void deliver_restarting_once(int s, siginfo_t *i, void *c) { deliver(s, i, c, RESTARTS | RESETS); }

static const handler_function wrappers[4] = {deliver_interrupting, deliver_restarting, deliver_interrupting_once,
                                             deliver_restarting_once};

static int is_wrapper(const struct sigaction *action) {
  for (int kind = 0; kind < 4; kind++)
    if (action->sa_sigaction == wrappers[kind]) return 1;
  return 0;
}

static uint64_t *mask_of(void *context) { return (uint64_t *)&((ucontext_t *)context)->uc_sigmask; }

static int cannot_wait(int signal, const siginfo_t *info) {
  switch (signal) {
  case SIGSEGV: case SIGBUS: case SIGFPE: case SIGILL: case SIGTRAP: case SIGSYS:
    return info->si_code > 0;
  case SIGABRT:
    return info->si_code == SI_TKILL && info->si_pid == (pid_t)anp_call(SYS_getpid);
  default:
    return 0;
  }
}

/// Back into this thread's queue. Its place there was freed by the delivery, so that only somebody else's signal in the
/// same microsecond can make a real-time signal fail at the limit; then at least its number survives, as after kill(2).
static void send_back(int signal, siginfo_t *info) {
  long process = anp_call(SYS_getpid), thread = anp_call(SYS_gettid);
  if (anp_call(SYS_rt_tgsigqueueinfo, process, thread, signal, info) == 0) return;
  info->si_code = SI_USER;
  anp_call(SYS_rt_tgsigqueueinfo, process, thread, signal, info);
}

static void defer(struct anp_thread *thread, int signal, siginfo_t *info, void *context) {
  uint64_t bit = ANP_SIGNAL_BIT(signal);
  // With SA_NODEFER it is not blocked now, and would come back before this function is left.
  anp_call(SYS_rt_sigprocmask, SIG_BLOCK, &bit, 0, sizeof bit);
  send_back(signal, info);
  *mask_of(context) |= bit;
  thread->deferred_signals |= bit;
  anp_signal_fence();
  thread->has_deferred = 1;
}

static void take_over_deferred(struct anp_thread *thread, void *context) {
  *mask_of(context) &= ~thread->deferred_signals;
  thread->has_deferred = 0;
  thread->deferred_signals = 0;
}

/// SA_RESETHAND: the kernel's action becomes the default, once. False where another thread was faster, or the program has set
/// another action meanwhile: the signal has gone back to meet that.
static int reset_first(int signal, siginfo_t *info, int kind) {
  int saved_errno = errno;
  uint64_t mask = lock_table();
  struct sigaction action;
  int mine = __sigaction(signal, NULL, &action) == 0 && action.sa_sigaction == wrappers[kind];
  if (mine) {
    action.sa_handler = SIG_DFL;
    action.sa_flags = (action.sa_flags & ~SA_SIGINFO) | table[signal].flags;
    __sigaction(signal, &action, NULL);
  } else {
    // Blocked as long as all are; the mask that unlock_table restores may let it in at once (SA_NODEFER): as it should.
    send_back(signal, info);
  }
  unlock_table(mask);
  errno = saved_errno;
  return mine;
}

static void deliver(int signal, siginfo_t *info, void *context, int kind) {
  struct anp_thread *thread = &anp_this_thread;
  if (thread->depth != 0 && !cannot_wait(signal, info)) return defer(thread, signal, info, context);

  handler_function handler = atomic_load_explicit(&table[signal].handler, memory_order_acquire);
  if ((kind & RESETS) && !reset_first(signal, info, kind)) return;
  if (thread->has_deferred && thread->depth == 0) take_over_deferred(thread, context);
  if (thread->cancel_is_async) {
    int type;
    pthread_setcanceltype(thread->wait_cancel_type, &type);
  }
  int handed_over = thread->handed_over;
  if (handed_over) anp_process_resume();
  uint8_t seen = atomic_load_explicit(&thread->seen, memory_order_relaxed);
  uint8_t unreported = thread->unreported;
  anp_signal_fence();

  handler(signal, info, context);

  anp_signal_fence();
  thread->unreported = unreported;
  seen |= kind & RESTARTS ? ANP_SEEN_RESTART : ANP_SEEN_INTERRUPT;
  atomic_fetch_or_explicit(&thread->seen, seen, memory_order_relaxed);
  thread->timeout.tv_sec = 0;
  thread->timeout.tv_nsec = 0;
  anp_signal_fence();
  if (handed_over) anp_process_end(handed_over);
}

// ---- sigaction ----------------------------------------------------------------------------------------------------------

static int is_function(const struct sigaction *action) {
  return action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN;
}

/// What the kernel reports, as the program set it. `known` is the table's entry as it was then.
static void unwrap(struct sigaction *action, handler_function handler, int flags) {
  if (!is_wrapper(action)) return;
  action->sa_sigaction = handler;
  action->sa_flags = (action->sa_flags & ~SA_SIGINFO) | flags;
}

ANP_EXPORT int sigaction(int signal, const struct sigaction *restrict action, struct sigaction *restrict old) {
  // What no handler can be set for, libc refuses: bad numbers, SIGKILL, SIGSTOP and its own two.
  if (signal < 1 || signal > SIGNALS || signal == SIGKILL || signal == SIGSTOP || (signal >= 32 && signal < SIGRTMIN))
    return __sigaction(signal, action, old);

  // The program's memory is touched before and after the lock: where it is bad, the fault is as in libc.
  struct sigaction wanted, before;
  if (action) wanted = *action;

  uint64_t mask = lock_table();
  handler_function handler = atomic_load_explicit(&table[signal].handler, memory_order_relaxed);
  int flags = table[signal].flags;
  if (action && is_function(&wanted)) {
    int kind = (wanted.sa_flags & SA_RESTART ? RESTARTS : 0) | (wanted.sa_flags & SA_RESETHAND ? RESETS : 0);
    table[signal].flags = wanted.sa_flags & (int)(SA_SIGINFO | SA_RESETHAND);
    // Before the kernel can call a wrapper. A wrapper that another thread just started for the old action may find it already.
    atomic_store_explicit(&table[signal].handler, wanted.sa_sigaction, memory_order_release);
    wanted.sa_sigaction = wrappers[kind];
    wanted.sa_flags = (wanted.sa_flags | SA_SIGINFO) & ~(int)SA_RESETHAND;
  }
  int result = __sigaction(signal, action ? &wanted : NULL, &before);
  if (result != 0) {
    table[signal].flags = flags;
    atomic_store_explicit(&table[signal].handler, handler, memory_order_release);
  }
  unlock_table(mask);

  if (result == 0 && old) {
    unwrap(&before, handler, flags);
    *old = before;
  }
  return result;
}

// ---- The older calls ----------------------------------------------------------------------------------------------------

/// Signals for which siginterrupt asked that signal() set no SA_RESTART.
static _Atomic uint64_t interrupting;

static sighandler_t set(int signal, sighandler_t handler, uint64_t mask, int flags) {
  if (handler == SIG_ERR || signal < 1 || signal > SIGNALS) {
    errno = EINVAL;
    return SIG_ERR;
  }
  struct sigaction action, old;
  memset(&action, 0, sizeof action);
  action.sa_handler = handler;
  memcpy(&action.sa_mask, &mask, sizeof mask);
  action.sa_flags = flags;
  return sigaction(signal, &action, &old) == 0 ? old.sa_handler : SIG_ERR;
}

static uint64_t bit_if_valid(int signal) { return signal >= 1 && signal <= SIGNALS ? ANP_SIGNAL_BIT(signal) : 0; }

static sighandler_t set_bsd(int signal, sighandler_t handler) {
  uint64_t bit = bit_if_valid(signal);
  return set(signal, handler, bit, interrupting & bit ? 0 : SA_RESTART);
}
ANP_EXPORT sighandler_t signal(int signal, sighandler_t handler) { return set_bsd(signal, handler); }
ANP_EXPORT sighandler_t bsd_signal(int signal, sighandler_t handler) { return set_bsd(signal, handler); }
ANP_EXPORT sighandler_t ssignal(int signal, sighandler_t handler) { return set_bsd(signal, handler); }

static sighandler_t set_sysv(int signal, sighandler_t handler) {
  return set(signal, handler, 0, (int)(SA_RESETHAND | SA_NODEFER | SA_INTERRUPT));
}
ANP_EXPORT sighandler_t sysv_signal(int signal, sighandler_t handler) { return set_sysv(signal, handler); }
ANP_EXPORT sighandler_t __sysv_signal(int signal, sighandler_t handler) { return set_sysv(signal, handler); }

ANP_EXPORT int siginterrupt(int signal, int interrupt) {
  struct sigaction action;
  if (sigaction(signal, NULL, &action) != 0) return -1;
  if (interrupt) {
    atomic_fetch_or(&interrupting, bit_if_valid(signal));
    action.sa_flags &= ~SA_RESTART;
  } else {
    atomic_fetch_and(&interrupting, ~bit_if_valid(signal));
    action.sa_flags |= SA_RESTART;
  }
  return sigaction(signal, &action, NULL);
}

ANP_EXPORT sighandler_t sigset(int signal, sighandler_t handler) {
  uint64_t bit = bit_if_valid(signal), mask = 0;
  if (handler == SIG_ERR || !bit) {
    errno = EINVAL;
    return SIG_ERR;
  }
  struct sigaction old;
  if (handler == SIG_HOLD) {
    if (sigaction(signal, NULL, &old) != 0) return SIG_ERR;
    anp_call(SYS_rt_sigprocmask, SIG_BLOCK, &bit, &mask, sizeof mask);
    return mask & bit ? SIG_HOLD : old.sa_handler;
  }
  sighandler_t before = set(signal, handler, 0, 0);
  if (before == SIG_ERR) return SIG_ERR;
  anp_call(SYS_rt_sigprocmask, SIG_UNBLOCK, &bit, &mask, sizeof mask);
  return mask & bit ? SIG_HOLD : before;
}
