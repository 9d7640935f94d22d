// Owns: a child process, its signals and its end. Read wait(2), signal(7) and env(1)'s exit codes first.
//
// Signals are blocked here for good and taken with sigwaitinfo: no handler, so no race between a signal and a wait.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "anp_launcher.h"
#include "privilege.h"

static sigset_t mask_before;
static struct sigaction child_action_before;

void anp_supervise_begin(void) {
  // An ignored SIGCHLD (inherited) would make children vanish without a status.
  struct sigaction standard = {.sa_handler = SIG_DFL};
  sigaction(SIGCHLD, &standard, &child_action_before);
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &mask_before);
}

static _Noreturn void become(const char *path, char *const argv[], char *const environment[], unsigned flags, int report) {
  if (flags & ANP_SPAWN_SERVANT) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
  }
  if (flags & (ANP_SPAWN_SERVANT | ANP_SPAWN_ADMINISTRATOR)) anp_privilege_hand_on();
  else anp_privilege_as_before();
  sigaction(SIGCHLD, &child_action_before, NULL);
  sigprocmask(SIG_SETMASK, &mask_before, NULL);
  execve(path, argv, environment);
  int error = errno;
  (void)!write(report, &error, sizeof error);
  _exit(127);
}

pid_t anp_spawn(const char *path, char *const argv[], char *const environment[], unsigned flags) {
  int report[2];  // stays empty when execve succeeds: it closes it
  if (pipe2(report, O_CLOEXEC) < 0) return -errno;
  pid_t child = fork();
  if (child == 0) become(path, argv, environment, flags, report[1]);
  int error = child < 0 ? errno : 0;
  close(report[1]);
  if (child > 0 && read(report[0], &error, sizeof error) == sizeof error) waitpid(child, NULL, 0);
  close(report[0]);
  return error ? -error : child;
}

static void pass_on(pid_t child, const siginfo_t *signal) {
  // The terminal signals the whole foreground group (SI_KERNEL): the child has that one already.
  if (signal->si_code > 0) return;
  if (signal->si_code == SI_QUEUE) sigqueue(child, signal->si_signo, signal->si_value);
  else kill(child, signal->si_signo);
}

int anp_supervise(pid_t child) {
  sigset_t all;
  sigfillset(&all);
  for (;;) {
    int status;
    pid_t changed;
    while ((changed = waitpid(-1, &status, WNOHANG | WUNTRACED)) > 0) {
      if (changed != child) continue;
      if (!WIFSTOPPED(status)) return status;
      raise(SIGSTOP);  // so that the shell sees the job stopped; it goes on here when the shell continues it
      kill(child, SIGCONT);
    }
    siginfo_t signal;
    if (sigwaitinfo(&all, &signal) > 0 && signal.si_signo != SIGCHLD) pass_on(child, &signal);
  }
}

void anp_dismiss(pid_t servant) {
  kill(-servant, SIGTERM);
  kill(-servant, SIGCONT);
  const struct timespec step = {.tv_nsec = 10 * 1000 * 1000};
  for (int waited = 0; waited < 100; waited++) {
    while (waitpid(-servant, NULL, WNOHANG) > 0) continue;
    if (kill(-servant, 0) < 0) return;
    nanosleep(&step, NULL);
  }
  kill(-servant, SIGKILL);
}

void anp_end_like(int status) {
  if (WIFSIGNALED(status)) {
    int number = WTERMSIG(status);
    const struct rlimit no_core = {0, 0};  // the child's is the one that says something
    setrlimit(RLIMIT_CORE, &no_core);
    struct sigaction standard = {.sa_handler = SIG_DFL};
    sigaction(number, &standard, NULL);
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, number);
    raise(number);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
    exit(128 + number);
  }
  exit(WEXITSTATUS(status));
}
