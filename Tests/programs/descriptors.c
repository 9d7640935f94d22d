// Descriptors: numbers, dup, dup2, dup3, F_DUPFD, status flags, CLOEXEC, close_range, limits.
// row: seconds=30
#include "probe.h"

#include <linux/close_range.h>
#include <sys/resource.h>

static char bytes[1000];

static void numbers(void) {
  section("the lowest free number, as ever");
  int first = socket(AF_INET, SOCK_STREAM, 0), second = socket(AF_INET, SOCK_DGRAM, 0);
  note("%d %d", first, second);
  MUST(connect(first, PEER(7001)));
  int file = open("/dev/null", O_RDONLY), third = socket(AF_INET, SOCK_STREAM, 0);
  note("%d %d", file, third);
  close(second);
  second = connected(7001);
  note("%d", second);
  close(first);
  first = dup(second);
  note("%d", first);
  int listener = listening(7170, 1);
  peer("connect x 7170");
  int accepted = accept(listener, NULL, NULL);
  note("%d %d", listener, accepted);
  int pipes[2];
  MUST(pipe(pipes));
  note("%d %d", pipes[0], pipes[1]);
  int set = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, accepted, &event));
  note("%d %d", set, open("/dev/null", O_RDONLY));
  for (int fd = 3; fd < 30; fd++)
    close(fd);
  note("%d", socket(AF_INET, SOCK_STREAM, 0));
  close(3);
  peer("close x");
}

static void duplicates(void) {
  section("dup shares one socket");
  int fd = pair_with_peer("x"), copy = dup(fd);
  CALL(send(copy, "hello", 5, 0));
  peer("receive x 5");
  CALL(close(fd));
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  CALL(send(copy, "hello", 5, 0));
  peer("receive x 5");
  show_names(copy);
  CALL(set_option(copy, IPPROTO_TCP, TCP_NODELAY, 1));
  fd = fcntl(copy, F_DUPFD, 20);
  note("F_DUPFD from 20: %d", fd);
  note("TCP_NODELAY %d", option(fd, IPPROTO_TCP, TCP_NODELAY));
  CALL(shutdown(fd, SHUT_WR));
  CALL(send(copy, "x", 1, MSG_NOSIGNAL));
  CALL(close(copy));
  peer("receive x 1");
  peer("send x 5");
  settle();
  CALL(recv(fd, bytes, 10, 0));
  CALL(close(fd));
  peer("send x 5");
  settle();
  peer("close x");

  section("the last close ends the connection");
  fd = pair_with_peer("x");
  copy = dup(fd);
  close(fd);
  settle();
  peer("quiet x 60");
  close(copy);
  peer("receive x 1");
  peer("close x");

  section("status flags are shared, descriptor flags are not");
  fd = pair_with_peer("x");
  copy = dup(fd);
  CALL(fcntl(copy, F_SETFL, O_NONBLOCK));
  note("%d %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), !!(fcntl(copy, F_GETFL) & O_NONBLOCK));
  note("access mode %d", fcntl(fd, F_GETFL) & O_ACCMODE);
  CALL(recv(fd, bytes, 10, 0));
  CALL(fcntl(copy, F_SETFD, FD_CLOEXEC));
  note("%d %d", fcntl(fd, F_GETFD), fcntl(copy, F_GETFD));
  int third = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  note("%d", fcntl(third, F_GETFD));
  CALL(fcntl(fd, F_DUPFD, -1));
  CALL(fcntl(fd, F_DUPFD, 100000000));
  CALL(fcntl(fd, 9999, 0));
  close(third);

  section("dup2 and dup3");
  CALL(dup2(fd, fd) == fd);
  CALL(dup3(fd, fd, 0));
  CALL(dup2(fd, -1));
  CALL(dup2(697, 30));
  CALL(dup2(fd, 30));
  CALL(dup3(fd, 31, O_CLOEXEC));
  note("%d %d", fcntl(30, F_GETFD), fcntl(31, F_GETFD));
  CALL(dup3(fd, 32, 0x77));
  close(fd);
  close(copy);
  close(31);
  peer("quiet x 60");
  CALL(dup2(STDERR_FILENO, 30));
  peer("receive x 1");
  CALL(send(30, "x", 1, 0));
  peer("close x");
  fd = pair_with_peer("x");
  int other = pair_with_peer("y");
  CALL(dup2(other, fd) == fd);
  peer("receive x 1");
  CALL(send(fd, "hello", 5, 0));
  peer("receive y 5");
  close(fd);
  close(other);
  peer("receive y 1");
  peer("close x y");
  close(30);
}

static void across_exec(void) {
  section("CLOEXEC");
  int a = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  note("%d", fcntl(a, F_GETFD));
  CALL(ioctl(a, FIONCLEX));
  note("%d", fcntl(a, F_GETFD));
  CALL(ioctl(a, FIOCLEX));
  note("%d", fcntl(a, F_GETFD));
  int listener = listening(7171, 4);
  fcntl(listener, F_SETFD, FD_CLOEXEC);
  peer("connect x 7171");
  peer("connect y 7171");
  int b = accept(listener, NULL, NULL), c = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  note("accept %d accept4 %d, nonblock %d %d", fcntl(b, F_GETFD), fcntl(c, F_GETFD), !!(fcntl(b, F_GETFL) & O_NONBLOCK),
       !!(fcntl(c, F_GETFL) & O_NONBLOCK));
  close(a);
  close(b);
  close(c);
  close(listener);
  peer("close x y");
}

static void ranges(void) {
  section("close_range");
  int fd = pair_with_peer("x"), other = pair_with_peer("y");
  MUST(dup2(fd, 40));
  MUST(dup2(other, 42));
  close(fd);
  close(other);
  CALL(close_range(50, 45, 0));
  CALL(close_range(40, 45, 0x77));
  CALL(close_range(40, 45, CLOSE_RANGE_CLOEXEC));
  note("%d %d", fcntl(40, F_GETFD), fcntl(42, F_GETFD));
  CALL(send(40, "x", 1, 0));
  peer("receive x 1");
  CALL(close_range(40, 41, 0));
  peer("receive x 1");
  CALL(send(40, "x", 1, 0));
  CALL(send(42, "x", 1, 0));
  peer("receive y 1");
  CALL(close_range(40, 600, 0));
  peer("receive y 1");
  peer("close x y");
  note("the stack lives on");
  fd = pair_with_peer("x");
  CALL(send(fd, "x", 1, 0));
  peer("receive x 1");
  close(fd);
  peer("close x");

  section("closing every number, as a daemon does");
  for (int number = 3; number < 600; number++)
    close(number);
  fd = pair_with_peer("x");
  note("%d", fd);
  CALL(send(fd, "x", 1, 0));
  peer("receive x 1");
  close(fd);
  peer("close x");
}

static void limits(void) {
  section("RLIMIT_NOFILE");
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  rlim_t before = limit.rlim_cur;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  limit.rlim_cur = fd + 1;
  setrlimit(RLIMIT_NOFILE, &limit);
  OPEN(socket(AF_INET, SOCK_STREAM, 0));
  OPEN(dup(fd));
  limit.rlim_cur = before;
  setrlimit(RLIMIT_NOFILE, &limit);
  close(fd);
  int listener = listening(7172, 4);
  peer("connect x 7172");
  settle();
  limit.rlim_cur = listener + 1;
  setrlimit(RLIMIT_NOFILE, &limit);
  OPEN(accept(listener, NULL, NULL));
  limit.rlim_cur = before;
  setrlimit(RLIMIT_NOFILE, &limit);
  fd = OPEN(accept(listener, NULL, NULL));
  CALL(send(fd, "x", 1, 0));
  peer("receive x 1");
  close(fd);
  close(listener);
  peer("close x");
}

static void files(void) {
  section("a socket as a file");
  int fd = pair_with_peer("x");
  char name[64], target[64] = "";
  snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
  MUST(readlink(name, target, sizeof target - 1));
  note("link begins %.8s", target);
  struct stat information;
  CALL(fstat(fd, &information));
  note("mode %o size %ld", information.st_mode, (long)information.st_size);
  CALL(lseek(fd, 0, SEEK_SET));
  CALL(pread(fd, bytes, 1, 0));
  CALL(pwrite(fd, bytes, 1, 0));
  CALL(ftruncate(fd, 0));
  CALL(fsync(fd));
  CALL(isatty(fd));
  FILE *stream = fdopen(dup(fd), "r+");
  note("fdopen %d", stream != NULL);
  if (stream) {
    setvbuf(stream, NULL, _IONBF, 0);
    CALL(fputs("by stdio\n", stream) >= 0);
    peer("receive x 9");
    peer("text x answer");
    peer("shutdown x w");
    char line[32] = "";
    CALL(fgets(line, sizeof line, stream) != NULL);
    note("'%s'", line);
    CALL(fgetc(stream));
    note("eof %d error %d", feof(stream), ferror(stream));
    CALL(fclose(stream));
  }
  CALL(send(fd, "still open", 10, 0));
  peer("receive x 10");
  close(fd);
  peer("close x");
}

int main(void) {
  begin();
  peer("listen l 7001");
  numbers();
  duplicates();
  across_exec();
  ranges();
  limits();
  files();
  note("\nend");
}
