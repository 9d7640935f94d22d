// Tests the signal and wait machinery from within (anp_process.h): linked with the C files, not run under the library. Ends
// with 0, or with 1 and a line per failure. process_tests.sh builds and runs it, plain and under the sanitizers.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "anp_process.h"

static int failures;

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      printf("%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition); \
      failures += 1; \
    } \
  } while (0)

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000ll + t.tv_nsec / 1000000;
}

static void sleep_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  while (nanosleep(&t, &t) == -1 && errno == EINTR) continue;
}

static sigset_t set_of(int signal) {
  sigset_t set;
  sigemptyset(&set);
  if (signal) sigaddset(&set, signal);
  return set;
}

static int is_blocked(int signal) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  return sigismember(&mask, signal);
}

static void catch(int signal, void (*handler)(int, siginfo_t *, void *), int flags, int also_blocked) {
  struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags, .sa_mask = set_of(also_blocked)};
  if (sigaction(signal, &action, NULL) != 0) abort();
}

// ---- Putting off --------------------------------------------------------------------------------------------------------

static _Atomic int runs, runs_inside, last_value, order[16];
static _Atomic int last_code;

static void record(int signal, siginfo_t *info, void *context) {
  if (anp_depth() != 0) runs_inside += 1;
  if (runs < 16) order[runs] = signal;
  last_value = info->si_value.sival_int;
  last_code = info->si_code;
  runs += 1;
}

static void test_put_off(void) {
  catch(SIGUSR1, record, 0, 0);
  runs = 0;
  anp_enter();
  anp_enter();
  raise(SIGUSR1);
  CHECK(runs == 0);
  anp_leave();
  CHECK(runs == 0);
  CHECK(is_blocked(SIGUSR1));
  anp_leave();
  CHECK(runs == 1);
  CHECK(!is_blocked(SIGUSR1));
  raise(SIGUSR1);
  CHECK(runs == 2);
}

static void test_siginfo_survives(void) {
  catch(SIGUSR1, record, 0, 0);
  runs = 0;
  anp_enter();
  sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 4711});
  CHECK(runs == 0);
  anp_leave();
  CHECK(runs == 1 && last_value == 4711 && last_code == SI_QUEUE);
  anp_enter();
  kill(getpid(), SIGUSR1);
  anp_leave();
  CHECK(runs == 2 && last_code == SI_USER);
}

static void test_several(void) {
  catch(SIGUSR1, record, 0, 0);
  catch(SIGUSR2, record, 0, 0);
  catch(SIGRTMIN, record, 0, 0);
  runs = 0;
  anp_enter();
  for (int i = 0; i < 5; i++) sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
  raise(SIGUSR2);
  raise(SIGUSR1);
  raise(SIGUSR1);
  CHECK(runs == 0);
  anp_leave();
  // Standard signals do not queue, real-time signals do.
  CHECK(runs == 7);
  CHECK(runs_inside == 0);
  CHECK(!is_blocked(SIGUSR1) && !is_blocked(SIGUSR2) && !is_blocked(SIGRTMIN));
}

static void test_nodefer_and_reset(void) {
  runs = 0;
  catch(SIGUSR1, record, SA_NODEFER, 0);
  anp_enter();
  raise(SIGUSR1);
  CHECK(runs == 0);
  anp_leave();
  CHECK(runs == 1);

  catch(SIGUSR1, record, (int)SA_RESETHAND, 0);
  anp_enter();
  raise(SIGUSR1);
  CHECK(runs == 1);
  struct sigaction now;
  sigaction(SIGUSR1, NULL, &now);
  CHECK(now.sa_sigaction == record);
  anp_leave();
  CHECK(runs == 2);
  sigaction(SIGUSR1, NULL, &now);
  CHECK(now.sa_handler == SIG_DFL);
}

static sigjmp_buf out;
static void jump(int signal, siginfo_t *info, void *context) { siglongjmp(out, 1); }

static volatile int *volatile bad_address = (int *)16;

static void test_faults_are_not_put_off(void) {
  catch(SIGSEGV, jump, 0, 0);
  anp_enter();
  if (sigsetjmp(out, 1) == 0) {
    *bad_address = 1;
    CHECK(!"reached");
  }
  anp_leave();
  catch(SIGABRT, jump, 0, 0);
  anp_enter();
  if (sigsetjmp(out, 1) == 0) {
    abort();
    CHECK(!"reached");
  }
  anp_leave();
  signal(SIGSEGV, SIG_DFL);
  signal(SIGABRT, SIG_DFL);
  // A SIGSEGV that somebody sent is no fault.
  catch(SIGSEGV, record, 0, 0);
  runs = 0;
  anp_enter();
  kill(getpid(), SIGSEGV);
  CHECK(runs == 0);
  anp_leave();
  CHECK(runs == 1);
  signal(SIGSEGV, SIG_DFL);
}

/// A handler during which the other is blocked, and which enters and leaves: must not let the other in.
static _Atomic int in_first, overlaps;
static void first(int signal, siginfo_t *info, void *context) {
  in_first = 1;
  for (int i = 0; i < 3; i++) {
    anp_enter();
    if (i == 1) raise(SIGUSR2);
    anp_leave();
  }
  in_first = 0;
  runs += 1;
}
static void second(int signal, siginfo_t *info, void *context) {
  if (in_first) overlaps += 1;
  if (anp_depth() != 0) runs_inside += 1;
  runs += 1;
}

static void test_masks_of_handlers_hold(void) {
  catch(SIGUSR1, first, 0, SIGUSR2);
  catch(SIGUSR2, second, 0, 0);
  runs = overlaps = runs_inside = 0;
  anp_enter();
  raise(SIGUSR2);
  raise(SIGUSR1);
  anp_leave();
  // The two SIGUSR2 have become one.
  CHECK(runs == 2);
  CHECK(overlaps == 0 && runs_inside == 0);
  CHECK(!is_blocked(SIGUSR1) && !is_blocked(SIGUSR2));
}

// ---- Many signals against a thread that enters and leaves ---------------------------------------------------------------

enum { SENT = 20000 };
static _Atomic int received[3], wrong_depth, stop;
static _Atomic int in_handler_of_first;

static void count(int signal, siginfo_t *info, void *context) {
  if (anp_depth() != 0) wrong_depth += 1;
  if (signal == SIGRTMIN + 1 && in_handler_of_first) wrong_depth += 1;
  if (signal == SIGRTMIN) in_handler_of_first = 1;
  anp_enter();
  received[signal - SIGRTMIN] += 1;
  anp_leave();
  if (signal == SIGRTMIN) in_handler_of_first = 0;
}

static void *enter_and_leave(void *nothing) {
  volatile unsigned work = 0;
  while (!stop) {
    anp_enter();
    for (unsigned i = 0; i < 50; i++) work += i;
    anp_leave();
  }
  return NULL;
}

static void test_under_fire(void) {
  catch(SIGRTMIN, count, 0, SIGRTMIN + 1);
  catch(SIGRTMIN + 1, count, SA_RESTART, 0);
  catch(SIGRTMIN + 2, count, SA_NODEFER, 0);
  stop = 0;
  pthread_t thread;
  pthread_create(&thread, NULL, enter_and_leave, NULL);
  int sent[3] = {0};
  for (int i = 0; i < SENT; i++) {
    int which = i % 3;
    while (pthread_sigqueue(thread, SIGRTMIN + which, (union sigval){.sival_int = i}) == EAGAIN) sched_yield();
    sent[which] += 1;
    // All that are pending nest at once with SA_NODEFER, a stack frame each.
    while (i + 1 - (received[0] + received[1] + received[2]) > 64) sched_yield();
  }
  int64_t give_up = now_ms() + 5000;
  while (received[0] + received[1] + received[2] < SENT && now_ms() < give_up) sleep_ms(1);
  stop = 1;
  pthread_join(thread, NULL);
  for (int i = 0; i < 3; i++) CHECK(received[i] == sent[i]);
  CHECK(wrong_depth == 0);
}

// ---- Waits --------------------------------------------------------------------------------------------------------------

static _Atomic uint32_t word;
static int event;  // an eventfd nobody writes to
static int epoll;  // a set with it

static int wait_on(int kind, int64_t timeout, unsigned flags) {
  struct pollfd fds = {.fd = event, .events = POLLIN};
  struct epoll_event events[1];
  switch (kind) {
  case 0: return anp_wait(&word, 0, timeout, flags);
  case 1: return anp_wait_poll(&fds, 1, timeout, NULL, flags);
  default: return anp_wait_epoll(epoll, events, 1, timeout, NULL, flags);
  }
}

static int timed_out(int kind) { return kind == 0 ? -ETIMEDOUT : 0; }

static void *signal_later(void *thread) {
  sleep_ms(30);
  pthread_kill(*(pthread_t *)thread, SIGUSR1);
  return NULL;
}

static void test_interruptions(void) {
  for (int kind = 0; kind < 3; kind++) {
    for (int restart = 0; restart < 2; restart++) {
      for (int restartable = 0; restartable < 2; restartable++) {
        catch(SIGUSR1, record, restart ? SA_RESTART : 0, 0);
        int expected = restart && restartable ? -EAGAIN : -EINTR;
        unsigned flags = restartable ? ANP_WAIT_RESTARTABLE : 0;
        runs = 0;

        // While it waits.
        pthread_t self = pthread_self(), thread;
        pthread_create(&thread, NULL, signal_later, &self);
        anp_wait_prepare();
        CHECK(wait_on(kind, -1, flags) == expected);
        pthread_join(thread, NULL);
        CHECK(runs == 1);

        // Between prepare and wait.
        anp_wait_prepare();
        raise(SIGUSR1);
        CHECK(wait_on(kind, -1, flags) == expected);

        // Inside, after prepare.
        anp_enter();
        anp_wait_prepare();
        raise(SIGUSR1);
        CHECK(runs == 2);
        anp_leave();
        CHECK(wait_on(kind, -1, flags) == expected);

        // Before prepare: nobody's business.
        raise(SIGUSR1);
        anp_wait_prepare();
        int64_t start = now_ms();
        CHECK(wait_on(kind, 20 * 1000000, flags) == timed_out(kind));
        CHECK(now_ms() - start >= 19);
        CHECK(runs == 4);
      }
    }
  }
}

static void test_word_wins(void) {
  catch(SIGUSR1, record, 0, 0);
  word = 1;
  anp_wait_prepare();
  raise(SIGUSR1);
  CHECK(anp_wait(&word, 0, -1, 0) == -EAGAIN);
  // The same call checks again, in vain: now it learns of the handler.
  anp_enter();
  anp_wait_prepare();
  word = 0;
  anp_leave();
  // anp_leave without a wait in between is the end of a call…
  raise(SIGUSR1);
  word = 1;
  anp_wait_prepare();
  raise(SIGUSR1);
  CHECK(anp_wait(&word, 0, -1, 0) == -EAGAIN);
  word = 0;
  anp_enter();
  anp_wait_prepare();
  anp_leave();
  CHECK(anp_wait(&word, 0, -1, 0) == -EINTR);
  // …so that the next call is not told of it.
  word = 1;
  anp_wait_prepare();
  raise(SIGUSR1);
  CHECK(anp_wait(&word, 0, -1, 0) == -EAGAIN);
  word = 0;
  anp_enter();
  anp_leave();
  anp_enter();
  anp_wait_prepare();
  anp_leave();
  CHECK(anp_wait(&word, 0, 10 * 1000000, 0) == -ETIMEDOUT);
}

static void *wake_later(void *nothing) {
  sleep_ms(30);
  word = 1;
  anp_wake(&word, 1);
  return NULL;
}

static void test_wake(void) {
  pthread_t thread;
  word = 0;
  pthread_create(&thread, NULL, wake_later, NULL);
  anp_wait_prepare();
  int result = anp_wait(&word, 0, -1, ANP_WAIT_RESTARTABLE);
  CHECK(result == 0 || result == -EAGAIN);
  CHECK(word == 1);
  pthread_join(thread, NULL);
  word = 0;
  int64_t start = now_ms();
  CHECK(anp_wait(&word, 0, 25 * 1000000, 0) == -ETIMEDOUT);
  CHECK(now_ms() - start >= 24);
  CHECK(anp_wait(&word, 0, 0, 0) == -ETIMEDOUT);
}

static void test_ready_descriptors(void) {
  int fd = eventfd(1, EFD_CLOEXEC);
  struct pollfd fds = {.fd = fd, .events = POLLIN};
  catch(SIGUSR1, record, 0, 0);
  anp_wait_prepare();
  raise(SIGUSR1);
  // What is ready is reported even so.
  CHECK(anp_wait_poll(&fds, 1, -1, NULL, 0) == 1);
  int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN, .data.u32 = 7}, got[2];
  epoll_ctl(set, EPOLL_CTL_ADD, fd, &interest);
  anp_wait_prepare();
  CHECK(anp_wait_epoll(set, got, 2, -1, NULL, 0) == 1 && got[0].data.u32 == 7);
  close(set);
  close(fd);
}

/// ppoll's mask lets in what is blocked otherwise.
static void test_masked_poll(void) {
  catch(SIGUSR1, record, SA_RESTART, 0);
  sigset_t usr1 = set_of(SIGUSR1), none = set_of(0);
  struct epoll_event events[1];
  pthread_sigmask(SIG_BLOCK, &usr1, NULL);
  runs = 0;
  for (int kind = 1; kind < 3; kind++) {
    anp_wait_prepare();
    raise(SIGUSR1);
    CHECK(runs == kind - 1);
    struct pollfd fds = {.fd = event, .events = POLLIN};
    CHECK((kind == 1 ? anp_wait_poll(&fds, 1, -1, &none, 0) : anp_wait_epoll(epoll, events, 1, -1, &none, 0)) == -EINTR);
    CHECK(runs == kind);
    CHECK(is_blocked(SIGUSR1));
  }
  pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);

  // What the mask keeps out until the time is up has not interrupted the wait.
  runs = 0;
  for (int kind = 1; kind < 3; kind++) {
    pthread_t self = pthread_self(), thread;
    pthread_create(&thread, NULL, signal_later, &self);
    struct pollfd fds = {.fd = event, .events = POLLIN};
    anp_enter();
    anp_wait_prepare();
    anp_leave();
    int64_t start = now_ms(), timeout = 80 * 1000000;
    CHECK((kind == 1 ? anp_wait_poll(&fds, 1, timeout, &usr1, 0) : anp_wait_epoll(epoll, events, 1, timeout, &usr1, 0)) == 0);
    CHECK(now_ms() - start >= 79);
    CHECK(runs == kind);
    pthread_join(thread, NULL);
  }
}

static int result_in_handler, kind_in_handler;
static void wait_in_handler(int signal, siginfo_t *info, void *context) {
  anp_enter();
  anp_wait_prepare();
  anp_leave();
  result_in_handler = wait_on(kind_in_handler, 20 * 1000000, ANP_WAIT_RESTARTABLE);
}

static void test_handler_that_waits(void) {
  for (int outer = 0; outer < 3; outer++) {
    for (kind_in_handler = 0; kind_in_handler < 3; kind_in_handler++) {
      for (int restart = 0; restart < 2; restart++) {
        catch(SIGUSR1, wait_in_handler, restart ? SA_RESTART : 0, 0);
        result_in_handler = 1234;
        pthread_t self = pthread_self(), thread;
        pthread_create(&thread, NULL, signal_later, &self);
        anp_wait_prepare();
        CHECK(wait_on(outer, -1, ANP_WAIT_RESTARTABLE) == (restart ? -EAGAIN : -EINTR));
        CHECK(result_in_handler == timed_out(kind_in_handler));
        pthread_join(thread, NULL);
      }
    }
  }
}

static int cancel_type(void) {
  int type;
  pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
  return type;
}

static void test_jump_out_of_a_wait(void) {
  catch(SIGUSR1, jump, SA_RESTART, 0);
  for (int kind = 0; kind < 3; kind++) {
    pthread_t self = pthread_self(), thread;
    pthread_create(&thread, NULL, signal_later, &self);
    anp_wait_prepare();
    if (sigsetjmp(out, 1) == 0) {
      wait_on(kind, -1, ANP_WAIT_RESTARTABLE);
      CHECK(!"reached");
    }
    pthread_join(thread, NULL);
    CHECK(cancel_type() == PTHREAD_CANCEL_DEFERRED);
    CHECK(anp_depth() == 0);
    CHECK(!is_blocked(SIGUSR1));
    anp_enter();
    anp_wait_prepare();
    anp_leave();
    CHECK(wait_on(kind, 10 * 1000000, 0) == timed_out(kind));
  }
}

// ---- No signal is lost before a sleep -----------------------------------------------------------------------------------

enum { ROUNDS = 20000 };
static _Atomic int round_begun, lost_kind;

static void quick(int signal, siginfo_t *info, void *context) {}

static void *wait_rounds(void *nothing) {
  for (int i = 1; i <= ROUNDS; i++) {
    int kind = i % 3;
    anp_enter();
    anp_wait_prepare();
    round_begun = i;
    anp_leave();
    // Five seconds stand for ever: the signal of this round has to end it.
    if (wait_on(kind, 5ll * 1000000000, 0) != -EINTR) lost_kind = kind + 1;
  }
  return NULL;
}

static void test_no_signal_is_lost(void) {
  catch(SIGUSR1, quick, 0, 0);
  pthread_t thread;
  round_begun = lost_kind = 0;
  pthread_create(&thread, NULL, wait_rounds, NULL);
  unsigned random = 1;
  for (int i = 1; i <= ROUNDS && !lost_kind; i++) {
    while (round_begun < i && !lost_kind) continue;
    random = random * 1103515245 + 12345;
    for (volatile unsigned spin = random >> 16 & 2047; spin > 0; spin--) continue;
    pthread_kill(thread, SIGUSR1);
  }
  pthread_join(thread, NULL);
  CHECK(lost_kind == 0);
}

// ---- Cancellation -------------------------------------------------------------------------------------------------------

static _Atomic int cleaned, begun;
static void clean(void *nothing) { cleaned += 1; }

static void *wait_for_cancel(void *kind) {
  pthread_cleanup_push(clean, NULL);
  begun = 1;
  for (;;) {
    anp_wait_prepare();
    wait_on((int)(long)kind, -1, ANP_WAIT_RESTARTABLE);
  }
  pthread_cleanup_pop(0);
  return NULL;
}

static void *wait_uncancellable(void *kind) {
  int old;
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &old);
  begun = 1;
  anp_wait_prepare();
  return (void *)(long)wait_on((int)(long)kind, 60 * 1000000, ANP_WAIT_RESTARTABLE);
}

static void *computes_inside(void *nothing) {
  anp_enter();
  begun = 1;
  int64_t until = now_ms() + 50;
  while (now_ms() < until) continue;
  anp_leave();
  cleaned += 10;
  anp_wait_prepare();
  anp_wait(&word, 0, -1, 0);
  cleaned += 100;
  return NULL;
}

static void test_cancellation(void) {
  for (int early = 0; early < 2; early++) {
    for (long kind = 0; kind < 3; kind++) {
      pthread_t thread;
      void *result = NULL;
      cleaned = begun = 0;
      pthread_create(&thread, NULL, wait_for_cancel, (void *)kind);
      while (!begun) continue;
      if (!early) sleep_ms(20);
      pthread_cancel(thread);
      pthread_join(thread, &result);
      CHECK(result == PTHREAD_CANCELED && cleaned == 1);
    }
  }
  for (long kind = 0; kind < 3; kind++) {
    pthread_t thread;
    void *result = NULL;
    begun = 0;
    pthread_create(&thread, NULL, wait_uncancellable, (void *)kind);
    while (!begun) continue;
    sleep_ms(10);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    CHECK((int)(long)result == timed_out((int)kind));
  }
  // Not while inside; the wait after it is where it ends.
  pthread_t thread;
  void *result = NULL;
  cleaned = begun = 0;
  pthread_create(&thread, NULL, computes_inside, NULL);
  while (!begun) continue;
  pthread_cancel(thread);
  pthread_join(thread, &result);
  CHECK(result == PTHREAD_CANCELED && cleaned == 10);
}

// ---- Others -------------------------------------------------------------------------------------------------------------

static _Atomic int waiter_result;
static void *plain_wait(void *nothing) {
  anp_wait_prepare();
  waiter_result = anp_wait(&word, 0, 100 * 1000000, ANP_WAIT_RESTARTABLE);
  return NULL;
}

/// set*id signals all threads by libc's own signal, which no program knows of.
static void test_setxid_does_not_interrupt(void) {
  pthread_t thread;
  waiter_result = 1;
  pthread_create(&thread, NULL, plain_wait, NULL);
  sleep_ms(20);
  if (setuid(getuid()) != 0) abort();
  pthread_join(thread, NULL);
  CHECK(waiter_result == -EAGAIN || waiter_result == -ETIMEDOUT);
}

/// A fork with a signal on its way: the parent gets it once, the child does not, and neither keeps it blocked.
static void test_fork(void) {
  catch(SIGUSR1, record, 0, 0);
  runs = 0;
  anp_enter();
  raise(SIGUSR1);
  pid_t child = fork();
  if (child == 0) {
    anp_leave();
    _exit(runs != 0 || is_blocked(SIGUSR1) || anp_depth() != 0);
  }
  CHECK(runs == 0);
  anp_leave();
  CHECK(runs == 1 && !is_blocked(SIGUSR1));
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  event = eventfd(0, EFD_CLOEXEC);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN};
  epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest);

  test_put_off();
  test_siginfo_survives();
  test_several();
  test_nodefer_and_reset();
  // The sanitizers take faults themselves, keep signals for later on their own account, and lose track of frames that a
  // cancellation unwinds.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  test_faults_are_not_put_off();
  test_cancellation();
#endif
  test_masks_of_handlers_hold();
  test_under_fire();
  test_interruptions();
  test_word_wins();
  test_wake();
  test_ready_descriptors();
  test_masked_poll();
  test_handler_that_waits();
  test_jump_out_of_a_wait();
  test_no_signal_is_lost();
  test_setxid_does_not_interrupt();
  test_fork();
  if (failures == 0) printf("signals_inside: all as it should be\n");
  return failures != 0;
}
