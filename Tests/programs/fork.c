// fork: the parent's sockets go on, a child's new sockets work; what a child sees of inherited ones.
// row: seconds=40 devices=4
#include "probe.h"

#include <spawn.h>

static char bytes[1000];

/// Runs `body` in a child; its output comes before ours goes on.
static void in_child(void (*body)(int), int argument) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    body(argument);
    fflush(stdout);
    _exit(0);
  }
  int status = -1;
  MUST(waitpid(child, &status, 0));
  note("child: exit %d signal %d", WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

static void nothing(int fd) { (void)fd; }

static void new_connection(int port) {
  int fd = OPEN(socket(AF_INET, SOCK_STREAM, 0));
  CALL(connect(fd, PEER(port)));
  CALL(send(fd, "child", 5, 0));
  CALL(recv(fd, bytes, sizeof bytes, 0));
  CALL(close(fd));
}

static void inherited(int fd) {
  CALL(send(fd, "child", 5, MSG_NOSIGNAL));
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  struct pollfd entry = {.fd = fd, .events = POLLOUT};
  poll(&entry, 1, 0);
  note("child: poll of an inherited socket %s", poll_names((unsigned short)entry.revents));
  CALL(close(fd));
}

static void just_close(int fd) { CALL(close(fd)); }

static void shut(int fd) { CALL(shutdown(fd, SHUT_RDWR)); }

static void server_in_child(int unused) {
  (void)unused;
  // A child's stack has an address of its own.
  int probe = socket(AF_INET, SOCK_DGRAM, 0);
  struct sockaddr_in name;
  socklen_t length = sizeof name;
  CALL(connect(probe, PEER(7999)));
  CALL(getsockname(probe, (struct sockaddr *)&name, &length));
  close(probe);
  char command[64];
  snprintf(command, sizeof command, "host %s", inet_ntoa(name.sin_addr));
  peer_ask(command);
  int listener = listening(7222, 4);
  peer("begin-connect d 7222");
  int fd = accept(listener, NULL, NULL);
  note("child: accepted %d", fd >= 0);
  CALL(send(fd, "child", 5, 0));
  peer("receive d 5");
  close(fd);
  peer("receive d 1");
  peer("close d");
  snprintf(command, sizeof command, "host %s", host());
  peer_ask(command);
}

int main(void) {
  begin();
  peer("listen l 7221");

  section("a child that does nothing");
  int fd = pair_with_peer("x");
  in_child(nothing, fd);
  CALL(send(fd, "parent", 6, 0));
  peer("receive x 6");
  peer("send x 6");
  CALL(recv(fd, bytes, 100, 0));

  section("a child that closes what it inherited");
  in_child(just_close, fd);
  CALL(send(fd, "parent", 6, 0));
  peer("receive x 6");
  peer("send x 6");
  CALL(recv(fd, bytes, 100, 0));

  section("a child with a connection of its own");
  peer("later 300 accept c l");
  peer("later 600 text c hello");
  in_child(new_connection, 7221);
  peer("receive c 10");
  peer("close c");
  CALL(send(fd, "parent", 6, 0));
  peer("receive x 6");

  section("a server in a child");
  in_child(server_in_child, 0);
  CALL(send(fd, "parent", 6, 0));
  peer("receive x 6");

  section("a child that uses what it inherited");
  in_child(inherited, fd);
  CALL(send(fd, "parent", 6, 0));
  close(fd);
  note("the peer has got something %d", strncmp(peer_ask("receive x 100"), "ok 0", 4) != 0);
  peer("close x");

  section("a child that shuts down what it inherited");
  fd = pair_with_peer("x");
  in_child(shut, fd);
  CALL(send(fd, "parent", 6, MSG_NOSIGNAL));
  close(fd);
  peer("close x");

  section("a child whose standard output is a socket");
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    int own = connected(7221);
    dup2(own, STDOUT_FILENO);
    close(own);
    write(STDOUT_FILENO, "from a child\n", 13);
    _exit(0);
  }
  peer("accept z l");
  peer("receive z 100");
  waitpid(child, NULL, 0);
  peer("close z");

  section("system and popen");
  fd = pair_with_peer("x");
  fflush(stdout);
  CALL(system("echo from a shell"));
  FILE *pipe = popen("echo by a pipe", "r");
  char line[64] = "";
  CALL(fgets(line, sizeof line, pipe) != NULL);
  note("%s", line);
  CALL(pclose(pipe));
  pid_t spawned;
  char *arguments[] = {"sh", "-c", "echo spawned", NULL};
  int result = posix_spawnp(&spawned, "sh", NULL, NULL, arguments, environ), status = -1;
  waitpid(spawned, &status, 0);
  note("posix_spawnp %d, status %d", result, status);
  child = vfork();
  if (child == 0) {
    execlp("sh", "sh", "-c", "echo after vfork", NULL);
    _exit(127);
  }
  waitpid(child, &status, 0);
  note("%d", status);
  CALL(send(fd, "parent", 6, 0));
  peer("receive x 6");

  section("twenty forks while data flows");
  peer("pump x 2000000");
  uint32_t crc = 0;
  long total = 0, count;
  static char block[65536];
  for (int i = 0; total < 2000000 && (count = recv(fd, block, sizeof block, 0)) > 0; i++) {
    crc = crc32(crc, block, count);
    total += count;
    if (i < 20) {
      child = fork();
      if (child == 0)
        _exit(0);
      waitpid(child, NULL, 0);
    }
  }
  note("%ld bytes crc %08x", total, crc);
  close(fd);
  peer("wait x.pump");
  peer("close x");
  note("\nend");
}
