// sigaction, signal and their relatives: what they answer, and how handlers run, with a connection open.
// row: seconds=20
#include "probe.h"

#include <setjmp.h>
#include <ucontext.h>

#pragma GCC diagnostic ignored "-Wdeprecated-declarations"

// glibc exports more than its headers declare.
extern sighandler_t bsd_signal(int, sighandler_t);
extern sighandler_t __sysv_signal(int, sighandler_t);

static volatile int runs, last_signal, last_value, last_code, blocked_usr1, blocked_usr2, on_stack, has_context;

static void plain(int signal) {
  sigset_t mask;
  sigprocmask(SIG_SETMASK, NULL, &mask);
  runs++;
  last_signal = signal;
  blocked_usr1 = sigismember(&mask, SIGUSR1);
  blocked_usr2 = sigismember(&mask, SIGUSR2);
}

static char stack[65536];
static void informed(int signal, siginfo_t *info, void *context) {
  plain(signal);
  last_value = info->si_value.sival_int;
  last_code = info->si_code;
  char here;
  on_stack = &here >= stack && &here < stack + sizeof stack;
  has_context = !sigismember(&((ucontext_t *)context)->uc_sigmask, signal);
}

static const char *handler_name(sighandler_t handler) {
  return handler == SIG_DFL ? "default" : handler == SIG_IGN ? "ignore" : handler == SIG_ERR ? "error" : handler == SIG_HOLD ? "hold"
         : handler == plain ? "plain" : handler == (sighandler_t)(void *)informed ? "informed" : "unknown";
}

static void show_action(const char *what, const struct sigaction *action) {
  printf("%s: %s flags %#x mask", what, handler_name(action->sa_handler), action->sa_flags);
  for (int signal = 1; signal < 65; signal++)
    if (sigismember(&action->sa_mask, signal)) printf(" %d", signal);
  printf("\n");
}

static void show_current(int signal) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  CALL(sigaction(signal, NULL, &action));
  show_action("  now", &action);
}

static void set(int signal, void *handler, int flags, int also_blocked) {
  struct sigaction action, old;
  memset(&action, 0, sizeof action);
  memset(&old, 0, sizeof old);
  action.sa_handler = handler;
  action.sa_flags = flags;
  if (also_blocked) sigaddset(&action.sa_mask, also_blocked);
  CALL(sigaction(signal, &action, &old));
  show_action("  before", &old);
}

static void show_run(const char *what) {
  note("%s: runs %d signal %d blocked %d %d", what, runs, last_signal, blocked_usr1, blocked_usr2);
}

static volatile int *volatile nowhere = (int *)16;
static sigjmp_buf out;
static void jumping(int signal) { siglongjmp(out, signal); }

static void *many_actions(void *handler) {
  struct sigaction action = {.sa_handler = plain};
  for (int i = 0; i < 20000; i++) {
    action.sa_flags = i & 1 ? SA_RESTART : SA_SIGINFO;
    action.sa_handler = i & 2 ? handler : SIG_IGN;
    sigaction(SIGWINCH, &action, NULL);
  }
  return NULL;
}

int main(void) {
  begin();
  int fd = pair_with_peer("c");

  section("bad arguments");
  struct sigaction action = {.sa_handler = plain}, old;
  CALL(sigaction(0, &action, NULL));
  CALL(sigaction(-1, &action, NULL));
  CALL(sigaction(65, &action, NULL));
  CALL(sigaction(1000, NULL, &old));
  CALL(sigaction(SIGKILL, &action, NULL));
  CALL(sigaction(SIGSTOP, &action, NULL));
  CALL(sigaction(SIGKILL, NULL, &old));
  CALL(sigaction(32, &action, NULL));
  CALL(sigaction(33, NULL, &old));
  CALL(sigaction(SIGUSR1, NULL, NULL));
  errno = 0;
  note("signal: %s %s", handler_name(signal(0, plain)), error_name(errno));
  errno = 0;
  note("signal: %s %s", handler_name(signal(SIGKILL, plain)), error_name(errno));
  errno = 0;
  note("signal: %s %s", handler_name(signal(SIGUSR1, SIG_ERR)), error_name(errno));
  CALL(siginterrupt(0, 1));

  section("what is told");
  set(SIGUSR1, plain, SA_RESTART, SIGUSR2);
  show_current(SIGUSR1);
  set(SIGUSR1, informed, SA_SIGINFO | SA_ONSTACK | SA_NODEFER, 0);
  show_current(SIGUSR1);
  set(SIGUSR1, plain, (int)SA_RESETHAND, SIGKILL);
  show_current(SIGUSR1);
  set(SIGUSR1, SIG_IGN, 0, 0);
  set(SIGUSR1, SIG_DFL, SA_SIGINFO | SA_RESTART, SIGTERM);
  show_current(SIGUSR1);
  set(SIGCHLD, plain, SA_NOCLDSTOP | SA_NOCLDWAIT, 0);
  set(SIGCHLD, SIG_DFL, 0, 0);
  set(SIGUSR1, SIG_DFL, 0, 0);

  section("the older calls");
  note("signal: %s", handler_name(signal(SIGUSR1, plain)));
  show_current(SIGUSR1);
  CALL(siginterrupt(SIGUSR1, 1));
  show_current(SIGUSR1);
  note("signal: %s", handler_name(signal(SIGUSR1, plain)));
  show_current(SIGUSR1);
  CALL(siginterrupt(SIGUSR1, 0));
  show_current(SIGUSR1);
  note("bsd_signal: %s", handler_name(bsd_signal(SIGUSR1, SIG_IGN)));
  note("ssignal: %s", handler_name(ssignal(SIGUSR1, plain)));
  note("__sysv_signal: %s", handler_name(__sysv_signal(SIGUSR1, plain)));
  show_current(SIGUSR1);
  note("sysv_signal: %s", handler_name(sysv_signal(SIGUSR1, SIG_DFL)));
  note("sigset: %s", handler_name(sigset(SIGUSR1, plain)));
  show_current(SIGUSR1);
  note("sigset: %s", handler_name(sigset(SIGUSR1, SIG_HOLD)));
  note("sigset: %s", handler_name(sigset(SIGUSR1, SIG_HOLD)));
  note("sigset: %s", handler_name(sigset(SIGUSR1, SIG_IGN)));
  note("sigset: %s", handler_name(sigset(SIGUSR1, SIG_DFL)));
  errno = 0;
  note("sigset: %s %s", handler_name(sigset(-1, SIG_DFL)), error_name(errno));
  CALL(sigignore(SIGUSR1));
  show_current(SIGUSR1);

  section("handlers");
  set(SIGUSR1, plain, 0, SIGUSR2);
  raise(SIGUSR1);
  show_run("masked");
  set(SIGUSR1, plain, SA_NODEFER, 0);
  raise(SIGUSR1);
  show_run("nodefer");
  set(SIGUSR1, plain, SA_NODEFER, SIGUSR1);
  raise(SIGUSR1);
  show_run("nodefer, but in the mask");
  set(SIGUSR1, plain, (int)SA_RESETHAND, 0);
  raise(SIGUSR1);
  show_run("once");
  show_current(SIGUSR1);
  stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
  CALL(sigaltstack(&alternate, NULL));
  set(SIGUSR1, informed, SA_SIGINFO | SA_ONSTACK, 0);
  CALL(sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 42}));
  show_run("informed");
  note("value %d code %d on its stack %d context %d", last_value, last_code, on_stack, has_context);
  set(SIGUSR1, informed, SA_SIGINFO, 0);
  raise(SIGUSR1);
  note("code %d on its stack %d context %d", last_code, on_stack, has_context);
  set(SIGRTMIN, informed, SA_SIGINFO, 0);
  runs = 0;
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  for (int i = 0; i < 5; i++) sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = i});
  sigprocmask(SIG_SETMASK, &before, NULL);
  note("real-time: runs %d last %d", runs, last_value);

  section("killed by what is not caught");
  for (int once = 0; once < 2; once++) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      signal(SIGTERM, once ? SIG_DFL : plain);
      if (!once) sysv_signal(SIGTERM, plain);
      raise(SIGTERM);
      raise(SIGTERM);
      _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    note("signal %d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  }

  section("faults");
  signal(SIGSEGV, jumping);
  if (sigsetjmp(out, 1) == 0) *nowhere = 1;
  note("back from SIGSEGV");
  signal(SIGABRT, jumping);
  if (sigsetjmp(out, 1) == 0) abort();
  note("back from SIGABRT");
  signal(SIGSEGV, SIG_DFL);
  signal(SIGABRT, SIG_DFL);

  section("libc's own changes");
  set(SIGINT, plain, SA_RESTART, 0);
  CALL(system("true"));
  show_current(SIGINT);
  set(SIGCHLD, plain, SA_RESTART, 0);
  runs = 0;
  CALL(system("true"));
  note("SIGCHLD ran %d", runs);

  section("changed by two threads while it arrives");
  set(SIGWINCH, plain, SA_RESTART, 0);
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, many_actions, plain);
  for (int i = 0; i < 20000; i++) kill(getpid(), SIGWINCH);
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  set(SIGWINCH, plain, SA_RESTART, 0);
  CALL(send(fd, "x", 1, 0));
  peer("receive c 1");
  CALL(close(fd));
  peer("close c");
  return 0;
}
