// Tests the keeper and the hooks around the end of a program, with a pretended stack: a word as its lock, a function that
// reports as its drain. Linked with the C files; process_tests.sh builds and runs it.
//
// Each trial is a child ("the program") that starts a keeper and ends in some way. The keeper reports through a pipe that it
// was told to keep. This process is a subreaper, so the keepers become its children when their programs have ended: it
// sees them end, and when.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "anp_keeper.h"
#include "anp_process.h"
#include "anp_thread.h"

static int failures;
static const char *trial_name = "";

#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      printf("%s:%d: %s: not so: %s\n", __FILE__, __LINE__, trial_name, #condition); \
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

// ---- The pretended stack --------------------------------------------------------------------------------------------------

struct report {
  int how, locked, value, depth, device_works, errno_works;
};

static _Atomic int stack_lock;  // 0 or a thread id
static _Atomic int value;
static int device, device_too, report_fd, behaviour;
enum { REPORTS = 0, NEVER_ENDS, NEVER_ENDS_BRIEFLY, CRASHES };

int anp_entry_in_use(void) { return 1; }
int anp_entry_end(int how) {
  int me = (int)anp_call(SYS_gettid);
  for (int i = 0; i < 200; i++) {
    int free = 0;
    if (stack_lock == me) return 0;
    if (atomic_compare_exchange_strong(&stack_lock, &free, me)) return 1;
    struct timespec t = {0, 1000000};
    anp_call(SYS_nanosleep, &t, 0);
  }
  return 0;
}
void anp_entry_end_undone(void) { stack_lock = 0; }

static void drain(int how) {
  if (behaviour == NEVER_ENDS_BRIEFLY) anp_keeper_set_bound(300);
  if (behaviour == CRASHES) *(volatile int *volatile)16 = 1;
  // Through the kernel's compare, as a lock that a thread died with.
  errno = 4711;
  uint64_t one = 1;
  int queues = 0;
  for (int queue = 0; queue < 2; queue++) queues += anp_call(SYS_write, anp_keeper_device(queue), &one, 8) == 8;
  struct report report = {how, stack_lock, value, anp_depth(), queues == 2, errno == 4711};
  anp_call(SYS_write, report_fd, &report, sizeof report);
  if (behaviour == NEVER_ENDS || behaviour == NEVER_ENDS_BRIEFLY)
    for (;;) anp_call(SYS_ppoll, 0, 0, 0, 0, 0);
}

// ---- Trials ---------------------------------------------------------------------------------------------------------------

struct result {
  /// Of the program, as from waitpid.
  int status;
  /// -1 = the keeper said nothing.
  struct report report;
  /// The keeper was still there when a pipe of the program's had its end.
  int output_ended_first;
  long keeper_ms;
};

static void start_keeper(void) {
  value = 1;
  anp_keeper_keep(report_fd);
  // Two queues of a device.
  if (anp_keeper_start((int[]){device, device_too}, 2, drain) != 0) {
    printf("%s: no keeper\n", trial_name);
    _exit(99);
  }
  value = 2;
}

static struct result trial(const char *name, int what_drain_does, void (*program)(void)) {
  struct result result = {.report = {.how = -1}};
  int ends[2], output[2];
  trial_name = name;
  behaviour = what_drain_does;
  if (pipe2(ends, O_CLOEXEC) != 0 || pipe(output) != 0) abort();
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    report_fd = ends[1];
    // Something to be closed in the keeper.
    dup2(ends[0], 77);
    start_keeper();
    program();
    _exit(98);
  }
  close(ends[1]);
  close(output[1]);
  waitpid(child, &result.status, 0);
  int64_t ended = now_ms();
  struct report report;
  if (read(ends[0], &report, sizeof report) == sizeof report) result.report = report;
  char byte;
  result.output_ended_first = read(output[0], &byte, 1) == 0 && waitpid(-1, NULL, WNOHANG) == 0;
  close(output[0]);
  // The keeper, and whoever else was left.
  while (wait(NULL) > 0 || errno == EINTR) continue;
  result.keeper_ms = now_ms() - ended;
  close(ends[0]);
  return result;
}

#define ENDED(result, code) (WIFEXITED((result).status) && WEXITSTATUS((result).status) == (code))
#define KILLED(result, signal) (WIFSIGNALED((result).status) && WTERMSIG((result).status) == (signal))
/// A keeper that did its work at once.
#define CHECK_KEEPER(result, how_it_ended, is_locked) \
  do { \
    CHECK((result).report.how == (how_it_ended)); \
    CHECK(((result).report.locked != 0) == (is_locked)); \
    CHECK((result).report.value == 3); \
    CHECK((result).report.depth == 1 && (result).report.device_works && (result).report.errno_works); \
    CHECK((result).keeper_ms < 1000); \
  } while (0)

static void by_exit(void) { value = 3; exit(5); }
static void by__exit(void) { value = 3; _exit(5); }
static void by__Exit(void) { value = 3; _Exit(5); }
static void by_quick_exit(void) { value = 3; quick_exit(5); }
static void by_abort(void) { value = 3; abort(); }
static void by_kill(void) { value = 3; raise(SIGKILL); }
static void by_terminate(void) { value = 3; raise(SIGTERM); }
static void by_fault(void) { value = 3; *(volatile int *volatile)16 = 1; }
static void by_raw_call(void) { value = 3; syscall(SYS_exit_group, 5); }

static void *exits(void *nothing) { _exit(5); }
static void by_other_thread(void) {
  value = 3;
  pthread_t thread;
  pthread_create(&thread, NULL, exits, NULL);
  for (;;) pause();
}
static void *sleeps(void *nothing) { sleep_ms(30); return NULL; }
static void by_last_thread(void) {
  value = 3;
  pthread_t thread;
  pthread_create(&thread, NULL, sleeps, NULL);
  pthread_exit(NULL);
}

static void by_exec(void) { value = 3; execl("/bin/sh", "sh", "-c", "exit 5", NULL); }
static void by_exec_search(void) { value = 3; execlp("sh", "sh", "-c", "exit 5", NULL); }
static void by_raw_exec(void) {
  value = 3;
  char *arguments[] = {"sh", "-c", "sleep 0.3; exit 5", NULL};
  syscall(SYS_execve, "/bin/sh", arguments, environ);
}
static void by_failed_exec(void) {
  value = 2;
  execl("/nowhere", "nowhere", NULL);
  if (stack_lock != 0 || errno != ENOENT) value = -1;
  execlp("anp-no-such-program", "x", NULL);
  if (stack_lock != 0 || errno != ENOENT) value = -2;
  if (value == 2) value = 3;
  raise(SIGKILL);
}

static void *holds_lock(void *nothing) {
  stack_lock = (int)gettid();
  for (;;) pause();
  return nothing;
}
static void while_other_holds_lock(void) {
  value = 3;
  pthread_t thread;
  pthread_create(&thread, NULL, holds_lock, NULL);
  while (!stack_lock) continue;
  exit(5);
}
static void fault_handler(int signal) { _exit(5); }
static void fault_inside(void) {
  value = 3;
  signal(SIGSEGV, fault_handler);
  anp_enter();
  stack_lock = (int)gettid();
  by_fault();
}

/// The thread that made the keeper has gone, and its stack, too large to be kept for reuse, with it.
static void *makes_keeper(void *nothing) {
  start_keeper();
  return NULL;
}
static void maker_gone(void) {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 << 20);
  pthread_t thread;
  pthread_create(&thread, &attributes, makes_keeper, NULL);
  pthread_join(thread, NULL);
  value = 3;
  _exit(5);
}

/// Everything closed behind our back: the keeper must not take it for the end.
static void closes_everything(void) {
  value = 2;
  syscall(SYS_close_range, 3, ~0u, 0);
  sleep_ms(200);
  value = 3;
  _exit(5);
}

static void leaves_child(void) {
  if (fork() == 0) {
    sleep_ms(1500);
    _exit(0);
  }
  value = 3;
  _exit(5);
}
static void leaves_unseen_child(void) {
  if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0) {
    sleep_ms(1500);
    syscall(SYS_exit_group, 0);
  }
  value = 3;
  _exit(5);
}

static _Atomic int children_told;
static void child_told(int signal) { children_told += 1; }

/// The keeper is no child that waits see.
static void waits_for_children(void) {
  signal(SIGCHLD, child_told);
  siginfo_t info;
  value = 0;
  if (waitpid(-1, NULL, 0) != -1 || errno != ECHILD) value = 10;
  if (wait(NULL) != -1 || errno != ECHILD) value = 11;
  if (waitid(P_ALL, 0, &info, WEXITED) != -1 || errno != ECHILD) value = 12;
  pid_t child = fork();
  if (child == 0) {
    // Nor is the parent's keeper the child's.
    if (anp_keeper_is_mine() || anp_keeper_descriptor() != -1) _exit(1);
    _exit(0);
  }
  int status = -1;
  if (waitpid(-1, &status, 0) != child || status != 0) value = 13;
  if (waitpid(-1, NULL, 0) != -1 || errno != ECHILD) value = 14;
  if (children_told != 1) value = 15;
  if (value == 0) value = 3;
  _exit(5);
}

/// An exit handler of the program comes before the hand-over.
static void late_handler(void) {
  if (stack_lock == 0 && value == 2) value = 3;
}
static void handlers_before_hand_over(void) {
  value = 2;
  atexit(late_handler);
  exit(5);
}

/// A handler while the stack is handed over: it has it back meanwhile.
static _Atomic int saw_lock = -1;
static void looks_at_lock(int signal) { saw_lock = stack_lock; }
static void interrupted_after_hand_over(void) {
  signal(SIGUSR1, looks_at_lock);
  value = 2;
  anp_process_end(ANP_END_EXIT);
  if (!stack_lock) value = 20;
  raise(SIGUSR1);
  if (saw_lock != 0) value = 21;
  if (!stack_lock) value = 22;
  if (anp_process_resume() != ANP_END_EXIT || stack_lock != 0) value = 23;
  if (anp_process_resume() != 0) value = 24;
  if (value == 2) value = 3;
  _exit(5);
}

// ---- Looking at a keeper that sleeps ----------------------------------------------------------------------------------------

static long field(const char *file, const char *name, int base) {
  char line[256];
  long found = -1;
  FILE *f = fopen(file, "r");
  while (f && fgets(line, sizeof line, f))
    if (strncmp(line, name, strlen(name)) == 0) found = strtol(line + strlen(name), NULL, base);
  if (f) fclose(f);
  return found;
}

static void test_asleep(void) {
  int ends[2];
  trial_name = "asleep";
  behaviour = REPORTS;
  if (pipe2(ends, O_CLOEXEC) != 0) abort();
  pid_t child = fork();
  if (child == 0) {
    report_fd = ends[1];
    start_keeper();
    value = 3;
    pause();
    _exit(0);
  }
  close(ends[1]);
  sleep_ms(100);

  // Its only child is the keeper.
  char path[300], name[32] = "";
  snprintf(path, sizeof path, "/proc/%d/task/%d/children", child, child);
  long keeper = field(path, "", 10);
  CHECK(keeper > 0);
  snprintf(path, sizeof path, "/proc/%ld/comm", keeper);
  int fd = open(path, O_RDONLY);
  if (read(fd, name, sizeof name - 1) < 0) abort();
  close(fd);
  CHECK(strcmp(name, "anp-keeper\n") == 0);
  snprintf(path, sizeof path, "/proc/%ld/status", keeper);
  CHECK(field(path, "Seccomp:", 10) == 2);
  CHECK(field(path, "NoNewPrivs:", 10) == 1);
  CHECK(field(path, "CapEff:", 16) == 0 && field(path, "CapPrm:", 16) == 0);
  CHECK(getsid((pid_t)keeper) == keeper);
  // Two queues of the device, pipe, pidfd, report.
  snprintf(path, sizeof path, "/proc/%ld/fd", keeper);
  int count = 0;
  DIR *directory = opendir(path);
  while (directory && readdir(directory)) count += 1;
  if (directory) closedir(directory);
  CHECK(count == 2 + 5);

  // Signals do not reach it.
  kill((pid_t)keeper, SIGTERM);
  kill((pid_t)keeper, SIGHUP);
  kill((pid_t)keeper, SIGINT);
  sleep_ms(50);
  CHECK(kill((pid_t)keeper, 0) == 0);
  kill(child, SIGKILL);
  struct report report = {.how = -1};
  CHECK(read(ends[0], &report, sizeof report) == sizeof report && report.how == ANP_END_KILLED && report.value == 3);
  int64_t start = now_ms();
  CHECK(waitpid(child, NULL, 0) == child);
  CHECK(waitpid((pid_t)keeper, NULL, 0) == keeper);
  CHECK(now_ms() - start < 1000);
  close(ends[0]);
}

/// The init process of a pid namespace takes all others with it: its exit waits.
static void init_program(void) {
  value = 3;
  _exit(5);
}
static void test_init(void) {
  int ends[2];
  trial_name = "init of a pid namespace";
  behaviour = REPORTS;
  if (pipe2(ends, O_CLOEXEC) != 0) abort();
  pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD | CLONE_NEWPID, 0, 0, 0, 0);
  if (child < 0) {
    printf("%s: not tried: %s\n", trial_name, strerror(errno));
    return;
  }
  if (child == 0) {
    report_fd = ends[1];
    start_keeper();
    init_program();
  }
  close(ends[1]);
  struct report report = {.how = -1};
  int status;
  CHECK(read(ends[0], &report, sizeof report) == sizeof report && report.how == ANP_END_EXIT && report.value == 3);
  CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 5);
  close(ends[0]);
}

int main(void) {
  struct result result;
  setvbuf(stdout, NULL, _IOLBF, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  device = eventfd(0, EFD_CLOEXEC);
  device_too = eventfd(0, EFD_CLOEXEC);

  const struct {
    const char *name;
    void (*program)(void);
  } exits_by[] = {{"exit", by_exit}, {"_exit", by__exit}, {"_Exit", by__Exit}, {"quick_exit", by_quick_exit},
                  {"another thread's _exit", by_other_thread}, {"maker gone", maker_gone},
                  {"leaves a child", leaves_child}, {"leaves a child unseen", leaves_unseen_child},
                  {"waits for children", waits_for_children}, {"exit handlers", handlers_before_hand_over},
                  {"interrupted after the hand-over", interrupted_after_hand_over}};
  for (size_t i = 0; i < sizeof exits_by / sizeof *exits_by; i++) {
    result = trial(exits_by[i].name, REPORTS, exits_by[i].program);
    CHECK(ENDED(result, 5));
    if (exits_by[i].program == leaves_child || exits_by[i].program == leaves_unseen_child) {
      // It is the child that is waited for then.
      CHECK(result.keeper_ms > 1000);
      result.keeper_ms = 0;
    }
    CHECK_KEEPER(result, ANP_END_EXIT, 1);
  }
  result = trial("last thread", REPORTS, by_last_thread);
  CHECK(ENDED(result, 0));
  CHECK_KEEPER(result, ANP_END_EXIT, 1);

  const struct {
    const char *name;
    void (*program)(void);
    int signal;
  } killed_by[] = {{"abort", by_abort, SIGABRT}, {"SIGKILL", by_kill, SIGKILL}, {"SIGTERM", by_terminate, SIGTERM},
                   {"SIGSEGV", by_fault, SIGSEGV}, {"failed exec", by_failed_exec, SIGKILL}};
  for (size_t i = 0; i < sizeof killed_by / sizeof *killed_by; i++) {
    result = trial(killed_by[i].name, REPORTS, killed_by[i].program);
    CHECK(KILLED(result, killed_by[i].signal));
    CHECK_KEEPER(result, ANP_END_KILLED, 0);
  }
  result = trial("raw exit_group", REPORTS, by_raw_call);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_KILLED, 0);

  result = trial("exec", REPORTS, by_exec);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_EXEC, 1);
  result = trial("execlp", REPORTS, by_exec_search);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_EXEC, 1);
  result = trial("raw execve", REPORTS, by_raw_exec);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_KILLED, 0);

  result = trial("another thread in the lock", REPORTS, while_other_holds_lock);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_KILLED, 1);
  result = trial("fault inside", REPORTS, fault_inside);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_KILLED, 1);

  result = trial("closes everything", REPORTS, closes_everything);
  CHECK(ENDED(result, 5));
  CHECK_KEEPER(result, ANP_END_EXIT, 1);

  result = trial("endless drain", NEVER_ENDS, by_exit);
  CHECK(ENDED(result, 5));
  CHECK(result.keeper_ms >= 1900 && result.keeper_ms < 2600);
  CHECK(result.output_ended_first);
  result = trial("endless drain, bound set", NEVER_ENDS_BRIEFLY, by_exit);
  CHECK(result.keeper_ms >= 250 && result.keeper_ms < 900);
  result = trial("drain that crashes", CRASHES, by_exit);
  CHECK(ENDED(result, 5));
  CHECK(result.keeper_ms < 1000);

  test_asleep();
  test_init();
  if (failures == 0) printf("process_keeper: all as it should be\n");
  return failures != 0;
}
