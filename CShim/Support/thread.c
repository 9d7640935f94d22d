// Owns: the thread record, and the border between "outside" and "inside" (anp_process.h). Read anp_thread.h first, then
// CShim/Interpose/signals.c, whose handler wrapper is the other half.
//
// Contexts: the thread itself, and signal handlers on it. Nobody else touches a record. A record is static thread-local
// storage: there before the first call, nothing to free at the thread's end, still there when destructors of other
// thread-local data call us.
//
// The order in anp_leave is what matters. depth becomes 0 first, then the deferred signals are looked at: a signal before
// the store is deferred and found by the look, one after it runs at once. The other way round, a signal between the look
// and the store would stay blocked until some later call.
#define _GNU_SOURCE
#include "anp_thread.h"

#include <signal.h>

#include "anp_process.h"

__thread struct anp_thread anp_this_thread __attribute__((tls_model("initial-exec"), visibility("hidden")));

void anp_enter(void) {
  anp_this_thread.depth += 1;
  anp_signal_fence();
}

// A handler that runs between the read of the set and its clearing has taken the set over itself (signals.c): the signals are
// then unblocked twice, which is no harm. Nothing adds to the set here: at depth 0 nothing is deferred.
static __attribute__((noinline)) void attend(void) {
  anp_this_thread.unreported = 0;
  if (!anp_this_thread.has_deferred) return;
  uint64_t signals = anp_this_thread.deferred_signals;
  anp_this_thread.has_deferred = 0;
  anp_this_thread.deferred_signals = 0;
  anp_signal_fence();
  anp_call(SYS_rt_sigprocmask, SIG_UNBLOCK, &signals, 0, sizeof signals);
}

void anp_leave(void) {
  anp_signal_fence();
  uint32_t depth = anp_this_thread.depth - 1;
  anp_this_thread.depth = depth;
  anp_signal_fence();
  if (__builtin_expect(depth == 0 && anp_this_thread.attention != 0, 0)) attend();
}

int anp_depth(void) { return (int)anp_this_thread.depth; }
