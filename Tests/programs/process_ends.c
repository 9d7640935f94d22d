// Ends of a program with unsent data: whatever the end, the peer gets all of it. Each is a process of its own.
// row: seconds=90
#include "probe.h"

#include <spawn.h>
#include <sys/syscall.h>

enum { COUNT = 150000 };

static int fd;

/// A connection whose peer takes little: most of what is sent here is still unsent at the end.
static void connect_and_send(void) {
  unsigned char bytes[COUNT];
  pattern(bytes, sizeof bytes, 0);
  fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int size = 400000;
  MUST(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
  MUST(connect(fd, PEER(7901)));
  long sent = send(fd, bytes, sizeof bytes, 0);
  if (sent != COUNT) _exit(90);
}

static void *exit_in_thread(void *nothing) {
  (void)nothing;
  _exit(7);
}
static void *sleep_a_little(void *nothing) {
  sleep_ms(30);
  return nothing;
}
static void on_alarm(int signal) {
  (void)signal;
  _exit(7);
}
static void say_goodbye(void) { send(fd, "goodbye", 7, 0); }
static void exit_now(void) { _exit(7); }

static int end(const char *how) {
  connect_and_send();
  if (strcmp(how, "return") == 0) return 7;
  if (strcmp(how, "exit") == 0) exit(7);
  if (strcmp(how, "_exit") == 0) _exit(7);
  if (strcmp(how, "_Exit") == 0) _Exit(7);
  if (strcmp(how, "quick_exit") == 0) quick_exit(7);
  if (strcmp(how, "system call") == 0) syscall(SYS_exit_group, 7);
  if (strcmp(how, "close") == 0) {
    close(fd);
    _exit(7);
  }
  if (strcmp(how, "close half") == 0) {
    shutdown(fd, SHUT_WR);
    _exit(7);
  }
  if (strcmp(how, "handler") == 0) {
    atexit(say_goodbye);
    return 7;
  }
  if (strcmp(how, "handler that ends") == 0) {
    atexit(exit_now);
    return 3;
  }
  if (strcmp(how, "thread") == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, exit_in_thread, NULL);
    for (;;) pause();
  }
  if (strcmp(how, "last thread") == 0) {
    pthread_t thread;
    pthread_create(&thread, NULL, sleep_a_little, NULL);
    pthread_exit(NULL);
  }
  if (strcmp(how, "signal handler") == 0) {
    signal(SIGALRM, on_alarm);
    alarm(1);
    char byte;
    recv(fd, &byte, 1, 0);
  }
  if (strcmp(how, "execl") == 0) execl("/bin/sh", "sh", "-c", "exit 7", NULL);
  if (strcmp(how, "execvp") == 0) {
    char *arguments[] = {"sh", "-c", "exit 7", NULL};
    execvp("anp-no-such-program", arguments);
    if (send(fd, "more", 4, 0) != 4) _exit(91);
    execvp("sh", arguments);
  }
  if (strcmp(how, "stream") == 0) {
    FILE *stream = fdopen(fd, "w");
    fprintf(stream, "in a stream's buffer");
    return 7;
  }
  if (strcmp(how, "abort") == 0) abort();
  if (strcmp(how, "SIGTERM") == 0) raise(SIGTERM);
  if (strcmp(how, "SIGKILL") == 0) raise(SIGKILL);
  if (strcmp(how, "killed in a call") == 0) {
    alarm(1);
    char byte;
    recv(fd, &byte, 1, 0);
  }
  if (strcmp(how, "killed while sending") == 0) {
    alarm(1);
    char byte[1000] = {0};
    while (send(fd, byte, 1, MSG_DONTWAIT) == 1 || errno == EAGAIN) continue;
  }
  if (strcmp(how, "reset") == 0) {
    struct linger hard = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    _exit(7);
  }
  _exit(92);
}

int main(int count, char **arguments) {
  begin();
  if (count > 1) return end(arguments[1]);
  static const char *const ends[] = {
      "return", "exit", "_exit", "_Exit", "quick_exit", "system call", "close", "close half", "handler",
      "handler that ends", "thread", "last thread", "signal handler", "execl", "execvp", "stream", "abort", "SIGTERM",
      "SIGKILL", "killed in a call", "killed while sending", "reset"};
  peer("listen l 7901 4 4096");
  for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
    section(ends[i]);
    fflush(stdout);
    char *words[] = {arguments[0], (char *)ends[i], NULL};
    pid_t child;
    int status = -1;
    if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, words, environ) != 0) return 5;
    peer_ask("accept c l");
    long start = now_ms();
    waitpid(child, &status, 0);
    note("exit %d signal %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    // The program does not wait for its data.
    took(start, 0, 1500);
    if (strcmp(ends[i], "killed while sending") == 0) {
      // How much that was, chance says; and a stack whose thread was killed in the middle of something resets.
      const char *reply = peer_ask("receive c 100000000");
      note("%s", strstr(reply, "eof") || strstr(reply, "ECONNRESET") ? "ended" : "not ended");
    } else if (strcmp(ends[i], "reset") == 0) {
      note("%s", strstr(peer_ask("receive c 100000000"), "ECONNRESET") ? "reset" : "no reset");
    } else {
      peer("receive c 100000000");
    }
    peer_ask("close c");
  }
  return 0;
}
