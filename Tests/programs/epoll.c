// epoll on sockets: level, edge, one-shot, exclusive, changes, errors, many at once.
// row: seconds=40
#include "probe.h"

static char bytes[1 << 20];

static int new_set(void) {
  int set = epoll_create1(EPOLL_CLOEXEC);
  MUST(set);
  return set;
}

static int add(int set, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

static int change(int set, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  return epoll_ctl(set, EPOLL_CTL_MOD, fd, &event);
}

/// What the set reports; each known descriptor by its letter, in the order of the letters.
static int fds[8];
static void show_set(const char *what, int set, int milliseconds) {
  struct epoll_event events[16];
  int count = epoll_wait(set, events, 16, milliseconds);
  printf("%s: %d", what, count);
  for (int i = 0; i < 8; i++)
    for (int j = 0; j < count; j++)
      if (fds[i] > 0 && events[j].data.fd == fds[i])
        printf(" %c=%s", 'a' + i, poll_names(events[j].events));
  putchar('\n');
}

static void control(void) {
  section("errors of epoll_ctl");
  int set = new_set(), fd = socket(AF_INET, SOCK_STREAM, 0), other = new_set();
  struct epoll_event event = {.events = EPOLLIN};
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
  CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
  CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
  CALL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
  CALL(epoll_ctl(set, 77, fd, &event));
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, set, &event));
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, 698, &event));
  CALL(epoll_ctl(698, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_ctl(fd, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_ctl(fd, EPOLL_CTL_ADD, other, &event));
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, STDOUT_FILENO, &event) == -1 && errno == EPERM);
  CALL(epoll_wait(set, &event, 0, 0));
  volatile int negative = -1;  // hidden from the compiler, which would refuse
  CALL(epoll_wait(set, &event, negative, 0));
  CALL(epoll_wait(fd, &event, 1, 0));
  CALL(epoll_wait(698, &event, 1, 0));
  CALL(epoll_wait(set, &event, 1, 0));
  CALL(epoll_create(0));
  OPEN(epoll_create(1));
  OPEN(epoll_create1(0x77));
  CALL(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE));
  CALL(change(set, fd, EPOLLIN));
  CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
  CALL(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLONESHOT));
  CALL(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLRDHUP));
  CALL(add(set, fd, EPOLLIN));
  CALL(change(set, fd, EPOLLIN | EPOLLEXCLUSIVE));
  CALL(add(set, other, EPOLLIN | EPOLLEXCLUSIVE));
  close(fd);
  close(set);
  close(other);
}

static void level(void) {
  section("level-triggered");
  int set = new_set(), fd = fds[0] = pair_with_peer("x");
  MUST(add(set, fd, EPOLLIN));
  show_set("nothing", set, 0);
  peer("send x 10");
  settle();
  show_set("data", set, 0);
  show_set("data still", set, 0);
  recv(fd, bytes, 4, 0);
  show_set("some read", set, 0);
  recv(fd, bytes, 100, 0);
  show_set("all read", set, 0);
  MUST(change(set, fd, EPOLLIN | EPOLLOUT));
  show_set("also for OUT", set, 0);
  MUST(change(set, fd, EPOLLOUT));
  show_set("only for OUT", set, 0);
  MUST(change(set, fd, 0));
  show_set("for nothing", set, 0);
  peer("send x 10");
  settle();
  show_set("for nothing, data", set, 0);
  MUST(change(set, fd, EPOLLIN));
  show_set("for IN again", set, 0);
  MUST(change(set, fd, EPOLLIN | EPOLLRDHUP));
  peer("shutdown x w");
  settle();
  show_set("the peer's end", set, 0);
  shutdown(fd, SHUT_WR);
  settle();
  show_set("both ends", set, 0);
  MUST(change(set, fd, 0));
  show_set("for nothing, both ends", set, 0);
  close(fd);
  show_set("closed", set, 0);
  peer("close x");
  fd = fds[0] = pair_with_peer("x");
  MUST(add(set, fd, EPOLLIN));
  peer("reset x");
  show_set("reset", set, 1000);
  close(fd);
  close(set);
}

static void edge(void) {
  section("edge-triggered");
  int set = new_set(), fd = fds[0] = pair_with_peer("x");
  MUST(add(set, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET));
  show_set("at first", set, 0);
  show_set("again", set, 0);
  peer("send x 10");
  settle();
  show_set("data", set, 0);
  show_set("the same data", set, 0);
  recv(fd, bytes, 4, 0);
  show_set("some read", set, 0);
  peer("send x 10");
  settle();
  show_set("more data", set, 0);
  recv(fd, bytes, 100, 0);
  show_set("all read", set, 0);
  peer("send x 10");
  settle();
  MUST(change(set, fd, EPOLLIN | EPOLLET));
  show_set("data, after a change", set, 0);
  MUST(change(set, fd, EPOLLIN | EPOLLET));
  show_set("a change triggers again", set, 0);
  show_set("once", set, 0);
  peer("shutdown x w");
  settle();
  show_set("the peer's end", set, 0);
  show_set("again", set, 0);
  close(fd);
  peer("close x");

  note("room to send");
  fd = fds[0] = pair_with_peer("x");
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 30000);
  MUST(add(set, fd, EPOLLOUT | EPOLLET));
  show_set("at first", set, 0);
  show_set("again", set, 0);
  fill(fd);
  show_set("full", set, 0);
  peer("sink x");
  show_set("room again", set, 2000);
  close(fd);
  peer_ask("wait x");
  peer("close x");

  note("a listener");
  int listener = fds[0] = listening(7160, 8);
  MUST(add(set, listener, EPOLLIN | EPOLLET));
  show_set("nothing", set, 0);
  peer("connect a 7160");
  settle();
  show_set("one", set, 0);
  show_set("still one", set, 0);
  peer("connect b 7160");
  settle();
  show_set("two", set, 0);
  show_set("still two", set, 0);
  nonblocking(listener);
  CALL(accept(listener, NULL, NULL) >= 0);
  show_set("one left", set, 0);
  CALL(accept(listener, NULL, NULL) >= 0);
  OPEN(accept(listener, NULL, NULL));
  peer("connect c 7160");
  show_set("a new one", set, 1000);
  close(listener);
  close(set);
  peer("close a b c");
}

static void one_shot(void) {
  section("one-shot");
  int set = new_set(), fd = fds[0] = pair_with_peer("x");
  MUST(add(set, fd, EPOLLIN | EPOLLONESHOT));
  peer("send x 10");
  settle();
  show_set("data", set, 0);
  show_set("again", set, 0);
  peer("send x 10");
  settle();
  show_set("more data", set, 0);
  CALL(change(set, fd, EPOLLIN | EPOLLONESHOT));
  show_set("armed again", set, 0);
  peer("reset x");
  settle();
  show_set("reset while disarmed", set, 0);
  CALL(change(set, fd, EPOLLONESHOT));
  show_set("armed for nothing", set, 0);
  close(fd);
  fd = fds[0] = pair_with_peer("x");
  note("one-shot, edge-triggered");
  MUST(add(set, fd, EPOLLIN | EPOLLONESHOT | EPOLLET));
  show_set("nothing", set, 0);
  peer("send x 10");
  settle();
  show_set("data", set, 0);
  show_set("again", set, 0);
  CALL(change(set, fd, EPOLLIN | EPOLLONESHOT | EPOLLET));
  show_set("armed again", set, 0);
  close(fd);
  close(set);
  peer("close x");
}

static void many(void) {
  section("several sockets, little room");
  int set = new_set();
  for (int i = 0; i < 6; i++) {
    char name[2] = {'a' + i, 0};
    fds[i] = pair_with_peer(name);
    MUST(add(set, fds[i], EPOLLIN));
    peer("send %s 5", name);
  }
  settle();
  show_set("all", set, 0);
  struct epoll_event events[4];
  int seen = 0;
  for (int turn = 0; turn < 3; turn++) {
    int count = epoll_wait(set, events, 2, 0);
    for (int i = 0; i < count; i++)
      for (int j = 0; j < 6; j++)
        if (events[i].data.fd == fds[j])
          seen |= 1 << j;
  }
  note("three waits with room for two see all six: %d", seen == 63);
  for (int i = 0; i < 6; i += 2)
    recv(fds[i], bytes, 10, 0);
  show_set("every second read", set, 0);
  for (int i = 1; i < 6; i += 2)
    CALL(epoll_ctl(set, EPOLL_CTL_DEL, fds[i], NULL));
  show_set("the others removed", set, 0);
  for (int i = 0; i < 6; i++)
    close(fds[i]);
  memset(fds, 0, sizeof fds);
  peer("close a b c d e f");
  show_set("all closed", set, 0);

  section("a socket in two sets, and twice in one");
  int fd = fds[0] = pair_with_peer("x"), other = new_set();
  MUST(add(set, fd, EPOLLIN));
  MUST(add(other, fd, EPOLLIN | EPOLLET));
  int copy = fds[1] = dup(fd);
  CALL(add(set, copy, EPOLLIN));
  peer("send x 10");
  settle();
  show_set("first", set, 0);
  show_set("second", other, 0);
  show_set("first", set, 0);
  show_set("second", other, 0);
  CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
  show_set("the copy remains", set, 0);
  note("closing a copy leaves the other's registration");
  close(fd);
  show_set("first", set, 0);
  show_set("second: of a descriptor that is closed, the socket lives", other, 0);
  MUST(change(set, copy, EPOLLIN));
  show_set("first", set, 0);
  close(copy);
  show_set("first, all closed", set, 0);
  show_set("second, all closed", other, 0);
  close(set);
  close(other);
  peer("close x");

  section("a number used again");
  set = new_set();
  fd = pair_with_peer("x");
  MUST(add(set, fd, EPOLLIN));
  close(fd);
  peer("close x");
  int again = fds[0] = pair_with_peer("y");
  note("the same number %d", fd == again);
  peer("send y 3");
  settle();
  show_set("not registered", set, 0);
  CALL(add(set, again, EPOLLIN));
  show_set("registered", set, 0);
  close(again);
  close(set);
  peer("close y");
}

struct waiter {
  int set, result;
};

static void *wait_in_epoll(void *argument) {
  struct waiter *waiter = argument;
  struct epoll_event event;
  waiter->result = epoll_wait(waiter->set, &event, 1, 700);
  return NULL;
}

static void threads(void) {
  section("threads that wait in epoll");
  note("changes while another thread waits");
  int set = new_set(), fd = fds[0] = pair_with_peer("x");
  peer("send x 10");
  settle();
  struct waiter waiter = {set, -7};
  pthread_t thread;
  pthread_create(&thread, NULL, wait_in_epoll, &waiter);
  sleep_ms(80);
  CALL(add(set, fd, EPOLLIN));
  pthread_join(thread, NULL);
  note("added: %d", waiter.result);
  recv(fd, bytes, 100, 0);
  pthread_create(&thread, NULL, wait_in_epoll, &waiter);
  sleep_ms(80);
  CALL(change(set, fd, EPOLLOUT));
  pthread_join(thread, NULL);
  note("changed: %d", waiter.result);
  MUST(change(set, fd, EPOLLIN));
  pthread_create(&thread, NULL, wait_in_epoll, &waiter);
  sleep_ms(80);
  CALL(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
  peer("send x 3");
  pthread_join(thread, NULL);
  note("removed: %d", waiter.result);

  note("two sets, exclusive and not");
  for (int exclusive = 0; exclusive < 2; exclusive++) {
    struct waiter waiters[3];
    pthread_t several[3];
    recv(fd, bytes, 100, MSG_DONTWAIT);
    for (int i = 0; i < 3; i++) {
      waiters[i].set = new_set();
      MUST(add(waiters[i].set, fd, EPOLLIN | (exclusive ? EPOLLEXCLUSIVE : 0)));
      pthread_create(&several[i], NULL, wait_in_epoll, &waiters[i]);
    }
    sleep_ms(100);
    peer("send x 3");
    int woken = 0;
    for (int i = 0; i < 3; i++) {
      pthread_join(several[i], NULL);
      woken += waiters[i].result;
      close(waiters[i].set);
    }
    note("exclusive %d: woken at least one %d, all %d", exclusive, woken >= 1, woken == 3);
  }
  close(fd);
  close(set);
  peer("close x");
}

int main(void) {
  begin();
  control();
  level();
  edge();
  one_shot();
  many();
  threads();
  note("\nend");
}
