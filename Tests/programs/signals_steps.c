// Tests the races of the signal machinery by trying every one of them: a scenario runs in a child that is single-stepped, and
// a signal is injected after its 1st, 2nd, 3rd … instruction, until the scenario ends first. Stress tests did not find races that
// are one instruction wide; this does. Linked with the C files; process_tests.sh builds and runs it. x86_64 and aarch64.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "anp_process.h"

static void catch(int signal, void (*handler)(int), int flags, int also_blocked) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  sigemptyset(&action.sa_mask);
  if (also_blocked) sigaddset(&action.sa_mask, also_blocked);
  if (sigaction(signal, &action, NULL) != 0) abort();
}

static int nothing_is_blocked(void) {
  sigset_t mask;
  sigprocmask(SIG_SETMASK, NULL, &mask);
  return sigisemptyset(&mask);
}

// Results of a scenario. Everything above NOT_REACHED is a failure and says which.
enum {
  GOOD = 0,
  /// The signal came too late to matter: all places have been tried.
  NOT_REACHED = 1,
  LOST,
  INSIDE,
  OVERLAPPED,
  MASK_LEFT,
  WRONG_COUNT,
  WRONG_RESULT,
};
static const char *const names[] = {
    "good", "not reached", "the signal did not end the wait", "the handler ran inside",
    "a handler ran that the running one blocks", "a signal stayed blocked", "a handler ran too often or never", "wrong result"};

static _Atomic int runs, inside, first_active, overlapped, seconds;
/// 1 while a signal must count.
static _Atomic int counts;
static _Atomic int64_t ran_at;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void counting(int signal) {
  if (anp_depth() != 0) inside = 1;
  runs += counts;
  ran_at = now();
}

/// The scenario's own code starts here, with its handlers installed.
static void start(void) {
  ptrace(PTRACE_TRACEME, 0, 0, 0);
  raise(SIGSTOP);
}

// ---- A wait: a signal between prepare and sleep ends it ---------------------------------------------------------------------

static _Atomic uint32_t word;
static int event, set, kind, wanted_flags, handler_flags;

static int wait_scenario(void) {
  struct pollfd fds = {.fd = event, .events = POLLIN};
  struct epoll_event events[1];
  int64_t timeout = 50 * 1000000;
  catch(SIGUSR1, counting, handler_flags, 0);
  start();
  anp_enter();
  anp_wait_prepare();
  counts = 1;
  anp_leave();
  int result = kind == 0   ? anp_wait(&word, 0, timeout, wanted_flags)
               : kind == 1 ? anp_wait_poll(&fds, 1, timeout, NULL, wanted_flags)
                           : anp_wait_epoll(set, events, 1, timeout, NULL, wanted_flags);
  int64_t ended = now();
  int ran = runs;
  counts = 0;
  if (inside) return INSIDE;
  if (!nothing_is_blocked()) return MASK_LEFT;
  // Too late is a signal after the sleep; one before it must have prevented it.
  if (ran && ended - ran_at > timeout / 2) return LOST;
  if (result == (kind == 0 ? -ETIMEDOUT : 0)) return NOT_REACHED;
  int expected = (handler_flags & SA_RESTART) && (wanted_flags & ANP_WAIT_RESTARTABLE) ? -EAGAIN : -EINTR;
  return result == expected && ran == 1 ? GOOD : WRONG_RESULT;
}

// ---- A handler that jumps out of a wait, from anywhere ------------------------------------------------------------------------

static sigjmp_buf out;
static void jumping(int signal) {
  if (anp_depth() != 0) inside = 1;
  runs += counts;
  if (counts == 1) siglongjmp(out, 1);
}

static int jump_scenario(void) {
  catch(SIGUSR1, jumping, handler_flags, 0);
  start();
  if (sigsetjmp(out, 1) == 0) {
    counts = 1;
    anp_enter();
    anp_wait_prepare();
    anp_leave();
    anp_wait(&word, 0, 50 * 1000000, 0);
  }
  counts = 100;
  int ran = runs, type;
  if (inside) return INSIDE;
  if (!nothing_is_blocked()) return MASK_LEFT;
  if (anp_depth() != 0) return WRONG_RESULT;
  pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
  if (type != PTHREAD_CANCEL_DEFERRED) return WRONG_RESULT;
  // The next call is as if nothing had been.
  anp_enter();
  anp_wait_prepare();
  anp_leave();
  if (ran == 1 && anp_wait(&word, 0, 1000000, 0) != -ETIMEDOUT) return WRONG_RESULT;
  return ran == 0 || ran == 100 ? NOT_REACHED : ran == 1 ? GOOD : WRONG_COUNT;
}

// ---- Entering and leaving -------------------------------------------------------------------------------------------------

static int leave_scenario(void) {
  catch(SIGUSR1, counting, handler_flags, 0);
  start();
  counts = 1;
  anp_enter();
  anp_enter();
  anp_leave();
  anp_leave();
  counts = 100;
  int ran = runs;
  if (inside) return INSIDE;
  if (!nothing_is_blocked()) return MASK_LEFT;
  return ran == 0 || ran == 100 ? NOT_REACHED : ran == 1 ? GOOD : WRONG_COUNT;
}

// ---- Two signals: one put off, the other arriving anywhere ---------------------------------------------------------------

static void second(int signal) {
  if (anp_depth() != 0) inside = 1;
  if (first_active) overlapped = 1;
  seconds += 1;
}

static void first(int signal) {
  first_active = 1;
  if (anp_depth() != 0) inside = 1;
  anp_enter();
  anp_leave();
  runs += counts;
  first_active = 0;
}

static int two_scenario(void) {
  catch(SIGUSR1, first, handler_flags, SIGUSR2);
  catch(SIGUSR2, second, handler_flags, 0);
  start();
  counts = 1;
  anp_enter();
  kill(getpid(), SIGUSR2);
  anp_leave();
  counts = 100;
  int ran = runs;
  if (inside) return INSIDE;
  if (overlapped) return OVERLAPPED;
  if (!nothing_is_blocked()) return MASK_LEFT;
  if (seconds != 1) return WRONG_COUNT;
  return ran == 0 || ran == 100 ? NOT_REACHED : ran == 1 ? GOOD : WRONG_COUNT;
}

// ---- sigaction in the middle ----------------------------------------------------------------------------------------------

static void other(int signal) { runs += counts; }

static int replace_scenario(void) {
  struct sigaction old, action = {.sa_handler = other, .sa_flags = handler_flags};
  catch(SIGUSR1, counting, SA_RESTART, 0);
  start();
  counts = 1;
  sigaction(SIGUSR1, &action, &old);
  counts = 100;
  int ran = runs;
  if (old.sa_handler != counting || !(old.sa_flags & SA_RESTART)) return WRONG_RESULT;
  if (!nothing_is_blocked()) return MASK_LEFT;
  return ran == 0 || ran == 100 ? NOT_REACHED : ran == 1 ? GOOD : WRONG_COUNT;
}

// ---- The tracer -----------------------------------------------------------------------------------------------------------

/// Runs the scenario with the signal after `steps` instructions; its result.
static int trial(int (*scenario)(void), long steps) {
  pid_t child = fork();
  if (child == 0) _exit(scenario());
  int status, pass = 0, injected = 0;
  waitpid(child, &status, 0);
  for (;;) {
    // Signals are passed on, the scenario's own, too; SIGTRAP is the step's. Sent while the child stands still, ours arrives
    // before its next instruction.
    if (!injected && steps <= 0) {
      injected = 1;
      kill(child, SIGUSR1);
    }
    if (ptrace(injected ? PTRACE_CONT : PTRACE_SINGLESTEP, child, 0, (long)pass) != 0) abort();
    steps -= 1;
    if (waitpid(child, &status, 0) != child) abort();
    if (WIFEXITED(status)) return injected ? WEXITSTATUS(status) : NOT_REACHED;
    if (!WIFSTOPPED(status)) {
      printf("killed by %s\n", strsignal(WTERMSIG(status)));
      return WRONG_RESULT;
    }
    pass = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
  }
}

static int failures;

static void try_all(const char *name, int (*scenario)(void)) {
  int reached = 0;
  for (long steps = 0;; steps++) {
    int result = trial(scenario, steps);
    // A machine that is busy may let the child stand still as long as the wait lasts; a race is lost at the same instruction
    // every time.
    for (int again = 0; again < 3 && result == LOST; again++) result = trial(scenario, steps);
    if (result == GOOD) reached += 1;
    if (result == NOT_REACHED && reached) break;
    if (result > NOT_REACHED || steps > 20000) {
      printf("%s, signal after %ld instructions: %s\n", name, steps, names[result]);
      failures += 1;
      return;
    }
  }
  if (getenv("VERBOSE")) printf("%s: %d places\n", name, reached);
  // Few places would mean that the scenario was not stepped through.
  if (reached < 20) {
    printf("%s: only %d places\n", name, reached);
    failures += 1;
  }
}

int main(void) {
  // The two take turns: on one processor that is quickest.
  cpu_set_t one;
  sched_getaffinity(0, sizeof one, &one);
  for (int cpu = 0, seen = 0; cpu < CPU_SETSIZE; cpu++)
    if (CPU_ISSET(cpu, &one) && seen++) CPU_CLR(cpu, &one);
  sched_setaffinity(0, sizeof one, &one);
  // Where it is allowed: on a busy machine each of some 200,000 turns would wait for the others.
  struct sched_param lowest = {.sched_priority = 1};
  sched_setscheduler(0, SCHED_FIFO, &lowest);
  setvbuf(stdout, NULL, _IOLBF, 0);
  event = eventfd(0, EFD_CLOEXEC);
  set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN};
  epoll_ctl(set, EPOLL_CTL_ADD, event, &interest);

  static const char *const waits[] = {"futex", "poll", "epoll"};
  for (kind = 0; kind < 3; kind++) {
    char name[64];
    wanted_flags = 0;
    handler_flags = 0;
    snprintf(name, sizeof name, "wait by %s", waits[kind]);
    try_all(name, wait_scenario);
    wanted_flags = ANP_WAIT_RESTARTABLE;
    handler_flags = SA_RESTART;
    snprintf(name, sizeof name, "restartable wait by %s", waits[kind]);
    try_all(name, wait_scenario);
  }
  for (int nodefer = 0; nodefer < 2; nodefer++) {
    handler_flags = nodefer ? SA_NODEFER : 0;
    try_all("leave", leave_scenario);
    try_all("jump", jump_scenario);
    try_all("two signals", two_scenario);
    try_all("sigaction", replace_scenario);
  }
  if (failures == 0) printf("signals_steps: all as it should be\n");
  return failures != 0;
}
