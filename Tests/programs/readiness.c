// What poll, ppoll, select, pselect and epoll report in each state of a socket.
// row: seconds=40
#include "probe.h"

static char bytes[1 << 20];

/// The same question asked in every way there is.
static void every_way(const char *what, int fd) {
  struct pollfd entry = {.fd = fd, .events = ALL_EVENTS | POLLRDNORM | POLLRDBAND | POLLWRNORM | POLLWRBAND};
  int count = poll(&entry, 1, 0);
  note("%s", what);
  note("  poll %d %s", count, poll_names((unsigned short)entry.revents));
  entry.events = 0;
  entry.revents = 0;
  count = poll(&entry, 1, 0);
  note("  poll for nothing %d %s", count, poll_names((unsigned short)entry.revents));
  entry.events = POLLIN;
  struct timespec zero = {0, 0};
  count = ppoll(&entry, 1, &zero, NULL);
  note("  ppoll for IN %d %s", count, poll_names((unsigned short)entry.revents));
  entry.events = POLLOUT;
  count = ppoll(&entry, 1, &zero, NULL);
  note("  ppoll for OUT %d %s", count, poll_names((unsigned short)entry.revents));
  fd_set readers, writers, others;
  struct timeval none = {0, 0};
  FD_ZERO(&readers);
  FD_ZERO(&writers);
  FD_ZERO(&others);
  FD_SET(fd, &readers);
  FD_SET(fd, &writers);
  FD_SET(fd, &others);
  count = select(fd + 1, &readers, &writers, &others, &none);
  note("  select %d read %d write %d except %d", count, !!FD_ISSET(fd, &readers), !!FD_ISSET(fd, &writers),
       !!FD_ISSET(fd, &others));
  FD_SET(fd, &readers);
  count = pselect(fd + 1, &readers, NULL, NULL, &zero, NULL);
  note("  pselect for read %d %d", count, !!FD_ISSET(fd, &readers));
  int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = ALL_EVENTS, .data.u64 = 0x123456789abcdef0};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  memset(&event, 0, sizeof event);
  count = epoll_wait(set, &event, 1, 0);
  note("  epoll %d %s data %d", count, poll_names(event.events), event.data.u64 == 0x123456789abcdef0);
  close(set);
}

static void states(void) {
  section("states of a stream");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  every_way("new", fd);
  MUST(bind(fd, ANY(7150)));
  every_way("bound", fd);
  MUST(listen(fd, 4));
  every_way("listening", fd);
  peer("connect x 7150");
  settle();
  every_way("a connection to accept", fd);
  int other = accept(fd, NULL, NULL);
  every_way("none left", fd);
  close(fd);
  every_way("accepted", other);
  peer("send x 10");
  settle();
  every_way("data", other);
  peer("shutdown x w");
  settle();
  every_way("data and the peer's end", other);
  recv(other, bytes, 100, 0);
  every_way("the peer's end", other);
  recv(other, bytes, 100, 0);
  every_way("the peer's end, read", other);
  shutdown(other, SHUT_WR);
  settle();
  every_way("both ends", other);
  close(other);
  peer("close x");

  fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  connect(fd, in4("198.19.0.1", 7001), SIZE_IN);
  every_way("connecting", fd);
  close(fd);
  fd = pair_with_peer("x");
  every_way("connected", fd);
  shutdown(fd, SHUT_WR);
  settle();
  every_way("our end", fd);
  peer("send x 5");
  settle();
  every_way("our end, data", fd);
  shutdown(fd, SHUT_RD);
  every_way("shut down both ways, data", fd);
  recv(fd, bytes, 10, 0);
  every_way("shut down both ways", fd);
  close(fd);
  peer("close x");
  fd = pair_with_peer("x");
  shutdown(fd, SHUT_RD);
  every_way("reading shut down", fd);
  close(fd);
  peer("close x");
  fd = pair_with_peer("x");
  peer("reset x");
  settle();
  every_way("reset", fd);
  option(fd, SOL_SOCKET, SO_ERROR);
  every_way("reset, error taken", fd);
  close(fd);
  fd = pair_with_peer("x");
  peer("send x 10");
  settle();
  peer("reset x");
  settle();
  every_way("reset with data", fd);
  recv(fd, bytes, 10, 0);
  every_way("reset, error taken by recv", fd);
  close(fd);
  fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  connect(fd, PEER(7999));
  settle();
  every_way("refused", fd);
  option(fd, SOL_SOCKET, SO_ERROR);
  every_way("refused, error taken", fd);
  close(fd);

  fd = pair_with_peer("x");
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 30000);
  fill(fd);
  every_way("full", fd);
  peer("sink x");
  show_poll(fd, POLLOUT, 2000);
  close(fd);
  note("%d", strstr(peer_ask("wait x"), "eof") != NULL);
  peer("close x");

  section("states of a datagram socket");
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  every_way("new", fd);
  MUST(bind(fd, ANY(7151)));
  every_way("bound", fd);
  peer("udp u 7152");
  peer("udp-send u 7151 10");
  settle();
  every_way("a datagram", fd);
  recv(fd, bytes, 100, 0);
  every_way("none left", fd);
  peer("udp-send u 7151 0");
  settle();
  every_way("an empty datagram", fd);
  CALL(recv(fd, bytes, 100, 0));
  MUST(connect(fd, PEER(7999)));
  every_way("connected", fd);
  send(fd, bytes, 1, 0);
  settle();
  every_way("port unreachable", fd);
  close(fd);
}

struct later {
  const char *command;
};

static void *tell(void *argument) {
  sleep_ms(80);
  peer_ask(((struct later *)argument)->command);
  return NULL;
}

/// Waits in poll for `events` while the peer does something.
static void wake(const char *what, int fd, short events, const char *command) {
  pthread_t thread;
  struct later later = {command};
  note("%s", what);
  pthread_create(&thread, NULL, tell, &later);
  long start = now_ms();
  show_poll(fd, events, 2000);
  took(start, 60, 600);
  pthread_join(thread, NULL);
}

static void waking(void) {
  section("what ends a wait");
  int fd = pair_with_peer("x");
  wake("data", fd, POLLIN, "send x 10");
  recv(fd, bytes, 100, 0);
  wake("the peer's end, for RDHUP", fd, POLLRDHUP, "shutdown x w");
  close(fd);
  peer("close x");
  fd = pair_with_peer("x");
  wake("the peer's end, for IN", fd, POLLIN, "shutdown x w");
  close(fd);
  peer("close x");
  fd = pair_with_peer("x");
  wake("a reset, for nothing", fd, 0, "reset x");
  close(fd);
  int listener = listening(7153, 4);
  wake("a connection", listener, POLLIN, "connect x 7153");
  close(listener);
  section("time-outs");
  fd = pair_with_peer("x");
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  long start = now_ms();
  CALL(poll(&entry, 1, 120));
  took(start, 118, 300);
  start = now_ms();
  struct timespec time = {0, 120000000};
  CALL(ppoll(&entry, 1, &time, NULL));
  took(start, 118, 300);
  note("the time left untouched: %d", time.tv_nsec == 120000000);
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  struct timeval value = {0, 120000};
  start = now_ms();
  CALL(select(fd + 1, &set, NULL, NULL, &value));
  took(start, 118, 300);
  note("bit %d, time left %ld %ld", !!FD_ISSET(fd, &set), (long)value.tv_sec, (long)value.tv_usec);
  FD_SET(fd, &set);
  fd_set writable;
  FD_ZERO(&writable);
  FD_SET(fd, &writable);
  value = (struct timeval){5, 0};
  CALL(select(fd + 1, &set, &writable, NULL, &value));
  note("bits %d %d, more than 4 s left %d", !!FD_ISSET(fd, &set), !!FD_ISSET(fd, &writable), value.tv_sec >= 4);
  int queue = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(queue, EPOLL_CTL_ADD, fd, &event));
  start = now_ms();
  CALL(epoll_wait(queue, &event, 1, 120));
  took(start, 118, 300);
  close(queue);
  close(fd);
  peer("close x");
}

static void several(void) {
  section("several descriptors of several kinds");
  int a = pair_with_peer("a"), b = pair_with_peer("b"), pipes[2];
  MUST(pipe(pipes));
  int event = eventfd(0, 0);
  struct pollfd entries[] = {{.fd = a, .events = POLLIN},
                             {.fd = -5, .events = POLLIN, .revents = 0x7f},
                             {.fd = pipes[0], .events = POLLIN},
                             {.fd = 698, .events = POLLIN},
                             {.fd = b, .events = POLLOUT},
                             {.fd = event, .events = POLLIN | POLLOUT},
                             {.fd = a, .events = POLLOUT},
                             {.fd = STDIN_FILENO, .events = POLLIN}};
  for (int turn = 0; turn < 4; turn++) {
    if (turn == 1)
      peer("send a 3");
    if (turn == 2)
      MUST(write(pipes[1], "x", 1));
    if (turn == 3)
      close(pipes[1]), recv(a, bytes, 10, 0);
    settle();
    CALL(poll(entries, 8, 0));
    for (int i = 0; i < 8; i++)
      printf(" %s", poll_names((unsigned short)entries[i].revents));
    putchar('\n');
  }
  section("a kernel descriptor wakes a wait for both kinds");
  MUST(pipe(pipes));
  struct pollfd both[] = {{.fd = a, .events = POLLIN}, {.fd = pipes[0], .events = POLLIN}};
  pid_t child = fork();
  if (child == 0) {
    sleep_ms(80);
    MUST(write(pipes[1], "x", 1));
    _exit(0);
  }
  long start = now_ms();
  CALL(poll(both, 2, 2000));
  took(start, 60, 600);
  note("%s %s", poll_names((unsigned short)both[0].revents), poll_names((unsigned short)both[1].revents));
  waitpid(child, NULL, 0);
  section("errors");
  CALL(poll(NULL, 0, 10));
  volatile nfds_t many = 2000000000;  // hidden from the compiler, which would refuse
  CALL(poll(entries, many, 0));
  fd_set set;
  FD_ZERO(&set);
  FD_SET(698, &set);
  struct timeval none = {0, 0};
  CALL(select(699, &set, NULL, NULL, &none));
  CALL(select(-1, NULL, NULL, NULL, &none));
  none.tv_sec = -1;
  CALL(select(1, NULL, NULL, NULL, &none));
  struct timespec bad = {0, 2000000000};
  CALL(ppoll(entries, 1, &bad, NULL));
  CALL(select(0, NULL, NULL, NULL, &(struct timeval){0, 1000}));
  close(a);
  close(b);
  peer("close a b");
}

int main(void) {
  begin();
  states();
  waking();
  several();
  note("\nend");
}
