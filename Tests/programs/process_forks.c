// fork, vfork, _Fork, daemon and exec as calls: what they return and in which order things happen, with a connection open and
// other threads sending.
// row: seconds=60
#include "probe.h"

#include <sys/prctl.h>

static int fd;
static char bytes[1 << 16];

static void show_status(const char *what, pid_t child) {
  int status = -1;
  pid_t got = waitpid(child, &status, 0);
  note("%s: waited %d exit %d signal %d", what, got == child, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
       WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

/// The connection still works.
static void check_connection(void) {
  long sent = send(fd, "parent", 6, 0);
  const char *reply = peer_ask("receive c 6");
  note("connection: sent %ld, %s", sent, reply);
}

static void vforks(void) {
  section("vfork");
  pid_t child = vfork();
  if (child == 0) _exit(9);
  show_status("exits", child);

  child = vfork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", "exit 8", NULL);
    _exit(127);
  }
  show_status("executes", child);

  child = vfork();
  if (child == 0) {
    execl("/nowhere", "nowhere", NULL);
    _exit(errno == ENOENT ? 6 : 7);
  }
  show_status("fails to execute", child);

  child = vfork();
  if (child == 0) {
    close(fd);
    dup2(2, fd);
    signal(SIGUSR1, SIG_IGN);
    _exit(5);
  }
  show_status("closes", child);
  check_connection();

  // The parent stands still until the child has executed or ended.
  int order[2];
  pipe(order);
  child = vfork();
  if (child == 0) {
    usleep(100000);
    write(order[1], "c", 1);
    _exit(0);
  }
  write(order[1], "p", 1);
  char text[3] = "";
  read(order[0], text, 2);
  note("order %s", text);
  show_status("first", child);
  child = vfork();
  if (child == 0) {
    execl("/bin/sleep", "sleep", "1", NULL);
    _exit(127);
  }
  long start = now_ms();
  took(start, 0, 500);
  show_status("sleeps", child);

  // Descriptors of a child have the numbers they would have.
  int next = dup(0);
  close(next);
  child = vfork();
  if (child == 0) _exit(dup(0) == next ? 0 : 1);
  show_status("numbers", child);
  note("and here %d", dup(0) == next);
  close(next);
  close(order[0]);
  close(order[1]);
}

static volatile int caught;
static void catch(int signal) { caught = signal; }

static void signals_and_vfork(void) {
  section("a signal while vfork's child runs");
  signal(SIGUSR1, catch);
  pid_t parent = getpid(), child = vfork();
  if (child == 0) {
    kill(parent, SIGUSR1);
    usleep(50000);
    _exit(0);
  }
  note("caught %d", caught == SIGUSR1);
  show_status("child", child);
}

// Two threads vfork while the main thread forks children that live long: nobody waits for them.

static void *vforker(void *nothing) {
  for (int i = 0; i < 30; i++) {
    pid_t child = vfork();
    if (child == 0) _exit(1);
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 1) return "wrong";
  }
  return nothing;
}

static void vforks_beside_forks(void) {
  section("vforks beside forks");
  pthread_t threads[2];
  pid_t children[20];
  long start = now_ms();
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, vforker, NULL);
  for (int i = 0; i < 20; i++) {
    children[i] = fork();
    if (children[i] == 0) {
      sleep_ms(5000);
      _exit(0);
    }
    sleep_ms(2);
  }
  void *result;
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], &result);
    note("vforks %s", result ? (char *)result : "right");
  }
  took(start, 0, 3000);
  for (int i = 0; i < 20; i++) {
    kill(children[i], SIGKILL);
    waitpid(children[i], NULL, 0);
  }
}

// Forks while threads send and receive: no child may find a lock held.

static volatile int stop;
static void *echoes(void *connection) {
  int own = (int)(long)connection;
  char data[1000];
  memset(data, 1, sizeof data);
  while (!stop) {
    if (send(own, data, sizeof data, 0) != sizeof data) return "send";
    if (recv(own, data, sizeof data, MSG_WAITALL) != sizeof data) return "recv";
  }
  return NULL;
}

static pid_t from_handler;
static void forks(int signal) {
  (void)signal;
  from_handler = _Fork();
  if (from_handler == 0) _exit(4);
}

static void forks_under_traffic(void) {
  section("forks beside threads that send");
  pthread_t threads[2];
  int own[2];
  for (long i = 0; i < 2; i++) {
    char name[8], command[32];
    snprintf(name, sizeof name, "e%ld", i);
    own[i] = pair_with_peer(name);
    snprintf(command, sizeof command, "echo %s", name);
    peer_ask(command);
  }
  stop = 0;
  for (long i = 0; i < 2; i++) pthread_create(&threads[i], NULL, echoes, (void *)(long)own[i]);
  int good = 0;
  for (int i = 0; i < 100; i++) {
    pid_t child = i % 2 ? fork() : _Fork();
    if (child == 0) {
      // Ours in the child: the look-up, the allocator, the state lock.
      int inherited = own[0], fresh = socket(AF_INET, SOCK_STREAM, 0);
      struct pollfd entry = {.fd = fresh, .events = POLLIN};
      poll(&entry, 1, 0);
      close(inherited);
      close(fresh);
      _exit(3);
    }
    int status = 0;
    waitpid(child, &status, 0);
    good += WIFEXITED(status) && WEXITSTATUS(status) == 3;
  }
  note("children %d", good);
  signal(SIGUSR2, forks);
  raise(SIGUSR2);
  show_status("from a handler", from_handler);
  stop = 1;
  for (int i = 0; i < 2; i++) {
    void *result;
    pthread_join(threads[i], &result);
    note("thread %s", result ? (char *)result : "went on");
    close(own[i]);
  }
  peer_ask("wait e0");
  peer_ask("wait e1");
}

// The program's own fork handlers use sockets.

static int handlers_on, at_prepare, at_parent;
static void before_fork(void) {
  if (handlers_on) at_prepare = send(fd, "1", 1, 0) == 1;
}
static void in_parent(void) {
  if (handlers_on) at_parent = send(fd, "2", 1, 0) == 1;
}
static void in_child(void) {
  if (!handlers_on) return;
  int own = socket(AF_INET, SOCK_STREAM, 0);
  if (own < 0 || close(own) != 0) _exit(99);
}

static void fork_handlers(void) {
  section("fork handlers that use sockets");
  pthread_atfork(before_fork, in_parent, in_child);
  handlers_on = 1;
  pid_t child = fork();
  if (child == 0) _exit(2);
  handlers_on = 0;
  show_status("fork", child);
  note("sent %d %d", at_prepare, at_parent);
  peer("receive c 2");
}

static void daemons(void) {
  section("daemon");
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  for (int keep = 0; keep < 2; keep++) {
    int report[2];
    pipe(report);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
      int result = daemon(keep, keep);
      char directory[200] = "", target[200] = "", text[500];
      getcwd(directory, sizeof directory);
      readlink("/proc/self/fd/1", target, sizeof target - 1);
      snprintf(text, sizeof text, "%d, in / %d, output to null %d, leader %d", result, strcmp(directory, "/") == 0,
               strcmp(target, "/dev/null") == 0, getsid(0) == getpid());
      write(report[1], text, strlen(text));
      _exit(6);
    }
    close(report[1]);
    show_status("parent", child);
    long length = read(report[0], bytes, sizeof bytes - 1);
    bytes[length > 0 ? length : 0] = 0;
    note("daemon: %s", bytes);
    close(report[0]);
    show_status("daemon", -1);
  }
}

static void executes(const char *what, int how) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    char *const arguments[] = {"sh", "-c", "exit ${VALUE:-40}", NULL};
    char *const environment[] = {"VALUE=41", NULL};
    setenv("VALUE", "42", 1);
    int shell = open("/bin/sh", O_RDONLY | O_CLOEXEC);
    switch (how) {
      case 0: execv("/bin/sh", arguments); break;
      case 1: execve("/bin/sh", arguments, environment); break;
      case 2: execvp("sh", arguments); break;
      case 3: execvpe("sh", arguments, environment); break;
      case 4: execl("/bin/sh", "sh", "-c", "exit ${VALUE:-40}", NULL); break;
      case 5: execlp("sh", "sh", "-c", "exit ${VALUE:-40}", NULL); break;
      case 6: execle("/bin/sh", "sh", "-c", "exit ${VALUE:-40}", NULL, environment); break;
      case 7: fexecve(shell, arguments, environment); break;
      case 8: execveat(AT_FDCWD, "/bin/sh", arguments, environment, 0); break;
      case 9: fexecve(-1, arguments, environment); break;
      case 10: execv("/etc/passwd", arguments); break;
      case 11: execvp("", arguments); break;
      case 12: execlp("anp-no-such-program", "x", NULL); break;
    }
    printf("%s: %s\n", what, error_name(errno));
    fflush(stdout);
    _exit(1);
  }
  show_status(what, child);
}

int main(void) {
  begin();
  fd = pair_with_peer("c");
  vforks();
  signals_and_vfork();
  vforks_beside_forks();
  check_connection();
  forks_under_traffic();
  check_connection();
  fork_handlers();

  section("the family of exec");
  static const char *const names[] = {"execv", "execve", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve",
                                      "execveat", "fexecve of nothing", "execv of a text", "execvp of nothing",
                                      "execlp of no program"};
  for (int i = 0; i < 13; i++) executes(names[i], i);
  check_connection();
  daemons();
  check_connection();
  return 0;
}
