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
