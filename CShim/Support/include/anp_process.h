// The border between the waiting/signal machinery (C) and the socket calls (Swift).
//
// A thread is in one of three places:
//   outside      in the program's own code, or in libc
//   inside       between anp_enter() and anp_leave(): may hold a lock of ours. A signal handler of the program that
//                arrives here does not run; the signal stays pending in the kernel and is delivered by anp_leave().
//   waiting      inside anp_wait()/anp_wait_poll()/anp_wait_epoll(): holds nothing. Handlers run as usual, may call us, may
//                siglongjmp away; the wait then ends with -EINTR or goes on as SA_RESTART says.
#pragma once

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/epoll.h>

/// Nested; cheap (a thread-local counter). anp_enter is called before any lock of ours is taken.
void anp_enter(void);
/// Leaves; at depth 0 delivers signals that came in meanwhile.
void anp_leave(void);
/// How often the calling thread is inside; 0 = outside.
int anp_depth(void);

enum {
  /// The call may be restarted after a handler installed with SA_RESTART (recv, send, accept, connect …).
  /// Without it every handler ends the wait with -EINTR (poll, select, epoll_wait, and calls with SO_RCVTIMEO set; signal(7)).
  ANP_WAIT_RESTARTABLE = 1,
};

/// Marks the start of a wait: from here on a handler that runs on this thread makes the next anp_wait* of the thread return at
/// once. Call it inside, before the readiness check that precedes the wait; again before each further check of the same call
/// (a handler that a wait had no occasion to report is remembered until the call leaves).
void anp_wait_prepare(void);
/// Sleeps while *word == expected. Call it outside (depth 0), after anp_wait_prepare. A cancellation point.
/// timeout_ns < 0: for ever. 0 = woken (or spuriously), -ETIMEDOUT, -EINTR (a handler without SA_RESTART ran, or the call is not
/// restartable), -EAGAIN (word differed, or a handler with SA_RESTART ran and the call is restartable: check again, wait again).
/// A thread that is cancelled may have taken a wake-up with it: where it matters who is woken, wake all.
int anp_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns, unsigned flags);
/// ppoll with the same rules: number of ready entries, 0 = time-out, -EINTR … `mask` as in ppoll, or NULL.
int anp_wait_poll(struct pollfd *fds, nfds_t count, int64_t timeout_ns, const sigset_t *mask, unsigned flags);
/// epoll_pwait2 with the same rules.
int anp_wait_epoll(int epfd, struct epoll_event *events, int max, int64_t timeout_ns, const sigset_t *mask, unsigned flags);
/// Wakes up to `count` threads that wait on `word` (whose value the caller has changed).
void anp_wake(_Atomic uint32_t *word, int count);

// ---- What Swift provides (exported by Preload with @c) -------------------------------------------------------------------
// Called inside. Weak in C: what is missing is not called.

/// Nonzero once any descriptor of the process has been ours. One load: vfork asks.
int anp_entry_in_use(void) __attribute__((weak));
/// Before fork: takes every lock of ours, so that the child finds nothing half changed. After it, in the parent: lets go.
/// (Neither is called where a fault handler forks with its thread inside, only anp_entry_fork_child: it must not rely on them.)
void anp_entry_fork_prepare(void) __attribute__((weak));
void anp_entry_fork_parent(void) __attribute__((weak));
/// In the child, whose only thread this is: forgets the parent's stack, closes our descriptors, frees the locks.
void anp_entry_fork_child(void) __attribute__((weak));
/// The calling thread is about to end the program (ANP_END_EXIT, ANP_END_EXEC; anp_keeper.h). Takes the shards' locks and
/// leaves them taken, for the keeper; writes statistics and flushes logs where `how` is an exit. True when it has them. Must
/// not wait for ever: after 200 ms, or where the calling thread itself is the holder, it lets go and returns false.
int anp_entry_end(int how) __attribute__((weak));
/// The end did not come (exec failed, a handler interrupted it): lets go of the locks that anp_entry_end took.
void anp_entry_end_undone(void) __attribute__((weak));

// ---- For the few who are called after the last exit handler ----------------------------------------------------------------

/// libc flushes its streams after the last exit handler, when this thread has left the stack to the keeper. A stream on a
/// socket of ours (fopencookie) takes it back for the time of its write: how = anp_process_resume(); …; anp_process_end(how);
/// 0 and nothing to do in all other cases.
int anp_process_resume(void) __attribute__((weak));
void anp_process_end(int how) __attribute__((weak));
