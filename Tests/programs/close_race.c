// What a thread that waits on a socket sees when another thread closes it, shuts it down, or puts another in its place.
// row: seconds=40
#include "probe.h"

static char bytes[1 << 20];

struct waiter {
  const char *what;
  int fd, kind, error, count;
  long result;
  volatile bool done;
  pthread_t thread;
};

enum { IN_RECV, IN_ACCEPT, IN_POLL, IN_SELECT, IN_EPOLL, IN_SEND, IN_READ, IN_CONNECT, IN_POLL_HUP };

static void *waiting(void *argument) {
  struct waiter *waiter = argument;
  struct pollfd entry = {.fd = waiter->fd, .events = POLLIN};
  struct epoll_event event = {.events = EPOLLIN};
  fd_set set;
  struct timeval limit = {0, 600000};
  errno = 0;
  switch (waiter->kind) {
  case IN_RECV: waiter->result = recv(waiter->fd, bytes, 10, 0); break;
  case IN_READ: waiter->result = read(waiter->fd, bytes, 10); break;
  case IN_ACCEPT: waiter->result = accept(waiter->fd, NULL, NULL) >= 0 ? 1 : -1; break;
  case IN_POLL:
    waiter->result = poll(&entry, 1, 600);
    waiter->count = entry.revents;
    break;
  case IN_SELECT:
    FD_ZERO(&set);
    FD_SET(waiter->fd, &set);
    waiter->result = select(waiter->fd + 1, &set, NULL, NULL, &limit);
    break;
  case IN_EPOLL: waiter->result = epoll_wait(waiter->fd, &event, 1, 600); break;
  case IN_SEND: waiter->result = send(waiter->fd, bytes, sizeof bytes, MSG_NOSIGNAL) > 0 ? 1 : -1; break;
  case IN_CONNECT: waiter->result = connect(waiter->fd, in4("198.19.0.1", 7001), SIZE_IN); break;
  }
  waiter->error = waiter->result == -1 ? errno : 0;
  waiter->done = true;
  return NULL;
}

static struct waiter wait_in(int kind, int fd) { return (struct waiter){.kind = kind, .fd = fd}; }

static void start(struct waiter *waiter) {
  waiter->done = false;
  pthread_create(&waiter->thread, NULL, waiting, waiter);
  sleep_ms(100);
}

/// Whether it came back by itself; if not, `rescue` (a command for the peer) must end it.
static void finish(struct waiter *waiter, const char *rescue) {
  for (int i = 0; i < 15 && !waiter->done; i++)
    sleep_ms(10);
  bool by_itself = waiter->done;
  if (!by_itself && rescue)
    peer("%s", rescue);
  pthread_join(waiter->thread, NULL);
  note("came back %s with %ld %s %s", by_itself ? "by itself" : "later", waiter->result, error_name(waiter->error),
       waiter->kind == IN_POLL ? poll_names((unsigned short)waiter->count) : "");
}

static void closed(void) {
  section("closed while recv waits");
  int fd = pair_with_peer("x");
  struct waiter waiter = wait_in(IN_RECV, fd);
  start(&waiter);
  CALL(close(fd));
  finish(&waiter, "send x 5");
  peer("receive x 1");
  peer("close x");

  section("closed while read waits, a duplicate remains");
  fd = pair_with_peer("x");
  int copy = dup(fd);
  waiter = wait_in(IN_READ, fd);
  start(&waiter);
  CALL(close(fd));
  finish(&waiter, "send x 5");
  CALL(send(copy, "x", 1, 0));
  peer("receive x 1");
  close(copy);
  peer("close x");

  section("closed while accept waits");
  int listener = listening(7180, 4);
  waiter = wait_in(IN_ACCEPT, listener);
  start(&waiter);
  CALL(close(listener));
  finish(&waiter, "connect x 7180");
  peer("connect y 7180");

  section("closed while poll waits");
  fd = pair_with_peer("x");
  waiter = wait_in(IN_POLL, fd);
  start(&waiter);
  CALL(close(fd));
  finish(&waiter, "send x 5");
  peer("close x");

  section("closed while select waits");
  fd = pair_with_peer("x");
  waiter = wait_in(IN_SELECT, fd);
  start(&waiter);
  CALL(close(fd));
  finish(&waiter, "send x 5");
  peer("close x");

  section("a member closed while epoll_wait waits");
  fd = pair_with_peer("x");
  int set = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  waiter = wait_in(IN_EPOLL, set);
  start(&waiter);
  CALL(close(fd));
  finish(&waiter, "send x 5");
  peer("close x");

  section("the set closed while epoll_wait waits");
  fd = pair_with_peer("x");
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  waiter = wait_in(IN_EPOLL, set);
  start(&waiter);
  CALL(close(set));
  finish(&waiter, "send x 5");
  CALL(epoll_wait(set, &event, 1, 0));
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  close(fd);
  peer("close x");

  section("closed while send waits");
  fd = pair_with_peer("x");
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 20000);
  fill(fd);
  waiter = wait_in(IN_SEND, fd);
  start(&waiter);
  CALL(close(fd));
  for (int i = 0; i < 15 && !waiter.done; i++)
    sleep_ms(10);
  bool by_itself = waiter.done;
  peer("sink x");
  finish(&waiter, NULL);
  note("by itself %d", by_itself);
  note("the peer sees the end: %d", strstr(peer_ask("wait x"), "eof") != NULL);
  peer("close x");
}

static void shut_down(void) {
  section("shut down while recv waits");
  int fd = pair_with_peer("x");
  struct waiter waiter = wait_in(IN_RECV, fd);
  start(&waiter);
  CALL(shutdown(fd, SHUT_RD));
  finish(&waiter, "send x 5");
  close(fd);
  peer("close x");
  section("shut down while poll waits");
  fd = pair_with_peer("x");
  waiter = wait_in(IN_POLL, fd);
  start(&waiter);
  CALL(shutdown(fd, SHUT_RDWR));
  finish(&waiter, "send x 5");
  close(fd);
  peer("close x");
  section("shut down while accept waits");
  int listener = listening(7181, 4);
  waiter = wait_in(IN_ACCEPT, listener);
  start(&waiter);
  CALL(shutdown(listener, SHUT_RDWR));
  finish(&waiter, "connect x 7181");
  close(listener);
  section("shut down while send waits");
  fd = pair_with_peer("x");
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 20000);
  fill(fd);
  waiter = wait_in(IN_SEND, fd);
  start(&waiter);
  CALL(shutdown(fd, SHUT_WR));
  finish(&waiter, NULL);
  close(fd);
  peer("close x");
}

static void connecting(void) {
  section("closed and shut down while connect waits");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  set_option(fd, IPPROTO_TCP, TCP_SYNCNT, 1);
  struct waiter waiter = wait_in(IN_CONNECT, fd);
  start(&waiter);
  CALL(close(fd));
  finish(&waiter, NULL);
  fd = socket(AF_INET, SOCK_STREAM, 0);
  waiter = wait_in(IN_CONNECT, fd);
  start(&waiter);
  CALL(shutdown(fd, SHUT_RDWR));
  finish(&waiter, NULL);
  show_error(fd);
  close(fd);
}

static void replaced(void) {
  section("another socket put in its place by dup2 while recv waits");
  int fd = pair_with_peer("x"), other = pair_with_peer("y");
  struct waiter waiter = wait_in(IN_RECV, fd);
  start(&waiter);
  CALL(dup2(other, fd) == fd);
  peer("send y 3");
  finish(&waiter, "send x 5");
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  close(fd);
  close(other);
  peer("close x y");

  section("several threads in recv: each byte goes to one");
  fd = pair_with_peer("x");
  struct waiter waiters[4];
  for (int i = 0; i < 4; i++) {
    waiters[i] = wait_in(IN_RECV, fd);
    pthread_create(&waiters[i].thread, NULL, waiting, &waiters[i]);
  }
  sleep_ms(100);
  long total = 0;
  for (int i = 0; i < 4; i++) {
    peer("send x 10");
    settle();
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(waiters[i].thread, NULL);
    total += waiters[i].result;
  }
  note("%ld bytes", total);
  close(fd);
  peer("close x");

  section("several threads in accept: each connection goes to one");
  int listener = listening(7182, 8);
  for (int i = 0; i < 4; i++) {
    waiters[i] = wait_in(IN_ACCEPT, listener);
    pthread_create(&waiters[i].thread, NULL, waiting, &waiters[i]);
  }
  sleep_ms(100);
  for (int i = 0; i < 4; i++)
    peer("connect c%d 7182", i);
  total = 0;
  for (int i = 0; i < 4; i++) {
    pthread_join(waiters[i].thread, NULL);
    total += waiters[i].result;
  }
  note("%ld connections", total);
  close(listener);
}

int main(void) {
  begin();
  closed();
  shut_down();
  connecting();
  replaced();
  note("\nend");
}
