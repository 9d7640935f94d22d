// Many sockets at once, bound, listening and connected, in one epoll set, one poll, several threads: with ANP_QUEUES they are in
// different stacks, and nothing may tell.
// row: seconds=60
#include "probe.h"

enum { MANY = 24 };
static unsigned char bytes[65536];

static const char *ask(const char *format, int number) {
  char command[96];
  snprintf(command, sizeof command, format, number, number);
  return peer_ask(command);
}

/// `count` connections of the peer to `port`, named c0, c1 …, accepted.
static void accept_many(int listener, int port, int count, int *fds) {
  char command[64];
  for (int i = 0; i < count; i++) {
    snprintf(command, sizeof command, "connect c%d %d", i, port);
    peer_ask(command);
    MUST(fds[i] = accept(listener, NULL, NULL));
  }
}

static void bound_clients(void) {
  section("bound, in an epoll set, then connected");
  peer("listen l 7451 32");
  peer("listen m 7452 32");
  int set = epoll_create1(EPOLL_CLOEXEC), right = 0;
  for (int i = 0; i < 12; i++) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(fd, HOST(7460 + i)));
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.fd = fd}, got;
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    while (epoll_wait(set, &got, 1, 0) > 0) {}
    int result = connect(fd, PEER(i % 2 ? 7452 : 7451));
    if (result != 0 && errno != EINPROGRESS) note("connect: %s", error_name(errno));
    int ready = 0;
    for (int tries = 0; !ready && tries < 50; tries++)
      if (epoll_wait(set, &got, 1, 100) == 1 && got.data.fd == fd && (got.events & EPOLLOUT) && !(got.events & EPOLLHUP)) ready = 1;
    ask(i % 2 ? "accept b%d m" : "accept b%d l", i);
    ask("send b%d 3000", i);
    ready += epoll_wait(set, &got, 1, 2000) == 1 && got.data.fd == fd && (got.events & EPOLLIN);
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    MUST(getsockname(fd, (struct sockaddr *)&name, &length));
    right += ready == 2 && ntohs(name.sin_port) == 7460 + i && receive_all(fd, bytes, 3000) == 3000;
    struct linger linger = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
    ask("close b%d", i);
  }
  note("%d of 12 as they should be", right);
  close(set);

  section("one port to two peers, one after the other");
  int again = 0;
  for (int i = 0; i < 8; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(fd, ANY(7480)));
    MUST(connect(fd, PEER(i % 2 ? 7452 : 7451)));
    ask(i % 2 ? "accept d%d m" : "accept d%d l", i);
    MUST(send(fd, "x", 1, 0));
    again += strstr(ask("receive d%d 1", i), "1 ") != NULL;
    struct linger linger = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(fd);
    ask("close d%d", i);
  }
  note("%d of 8", again);

  section("a socket that was refused connects elsewhere");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(fd, HOST(7481)));
  CALL(connect(fd, PEER(7499)));
  CALL(connect(fd, PEER(7451)));
  show_names(fd);
  peer("accept e l");
  close(fd);
  peer("close e");
  fd = socket(AF_INET, SOCK_STREAM, 0);
  CALL(connect(fd, PEER(7499)));
  CALL(bind(fd, ANY(7482)));
  CALL(listen(fd, 3));
  peer("connect f 7482");
  OPEN(accept(fd, NULL, NULL));
  close(fd);
  peer("close f l m");
}

static void one_wait(void) {
  section("one wait for all");
  int listener = listening(7453, 64), fds[MANY], set = epoll_create1(EPOLL_CLOEXEC);
  accept_many(listener, 7453, MANY, fds);
  for (int i = 0; i < MANY; i++) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (unsigned)i};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fds[i], &event));
  }
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = MANY}, events[MANY + 1];
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event));
  note("%d ready", epoll_wait(set, events, MANY + 1, 0));
  for (int i = 0; i < MANY; i++) ask("send c%d 100 %d", i);
  int sets = 0, seen = 0, whole = 0;
  for (long start = now_ms(); seen < MANY && now_ms() - start < 5000;) {
    int n = epoll_wait(set, events, 5, 1000);
    for (int i = 0; i < n; i++) {
      int at = (int)events[i].data.u32;
      unsigned char expected[100];
      pattern(expected, 100, (unsigned)at);
      seen++;
      whole += receive_all(fds[at], bytes, 100) == 100 && memcmp(bytes, expected, 100) == 0;
    }
    sets += n > 0;
  }
  note("seen %d, right %d, at least five calls %d", seen, whole, sets >= 5);
  peer("connect g 7453");
  note("%d ready, the listener %d", epoll_wait(set, events, MANY + 1, 2000), events[0].data.u32 == MANY);
  close(accept(listener, NULL, NULL));

  struct pollfd polled[MANY + 1];
  for (int i = 0; i < MANY; i++) polled[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  polled[MANY] = (struct pollfd){.fd = listener, .events = POLLIN};
  int right = 0;
  for (int i = 0; i < MANY; i += 5) {
    char command[64];
    snprintf(command, sizeof command, "later 20 send c%d 10", i);
    peer_ask(command);
    right += poll(polled, MANY + 1, 3000) == 1 && (polled[i].revents & POLLIN) && receive_all(fds[i], bytes, 10) == 10;
    peer_ask("wait later");
  }
  note("poll: %d of 5", right);
  peer("later 20 connect h 7453");
  note("poll: %d, the listener %d", poll(polled, MANY + 1, 3000), !!(polled[MANY].revents & POLLIN));
  peer("wait later");
  close(accept(listener, NULL, NULL));
  for (int i = 0; i < MANY; i++) close(fds[i]), ask("close c%d", i);
  close(set);
  close(listener);
  peer("close g h");
}

static void listening_again(void) {
  section("a listener that stops and begins again");
  int listener = listening(7454, 4), set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event));
  peer("connect a 7454");
  note("%d ready", epoll_wait(set, &event, 1, 2000));
  CALL(shutdown(listener, SHUT_RD));
  CALL(accept(listener, NULL, NULL));
  note("%s", peer_ask("receive a 1"));
  note("%s", peer_ask("connect b 7454"));
  CALL(listen(listener, 4));
  note("%s", peer_ask("connect c 7454"));
  note("%d ready", epoll_wait(set, &event, 1, 2000));
  int fd = OPEN(accept(listener, NULL, NULL));
  CALL(listen(listener, 2));
  peer("connect d 7454");
  close(OPEN(accept(listener, NULL, NULL)));

  section("who has the port");
  int other = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(other, HOST(7454)));
  close(listener);
  CALL(bind(other, HOST(7454)));
  set_option(other, SOL_SOCKET, SO_REUSEADDR, 1);
  CALL(bind(other, HOST(7454)));
  CALL(bind(other, HOST(7455)));
  close(fd);
  close(other);
  close(set);
  peer("close a c d");
}

struct worker {
  int listener, accepted, stop[2];
  long total;
};

/// Serves its own listener and connections until told to stop.
static void *work(void *argument) {
  struct worker *me = argument;
  int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = me->listener}, events[8];
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, me->listener, &event));
  event.data.fd = me->stop[0];
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, me->stop[0], &event));
  char buffer[8192];
  for (;;) {
    int n = epoll_wait(set, events, 8, -1);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == me->stop[0]) {
        close(set);
        return NULL;
      }
      if (fd == me->listener) {
        int connection = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (connection < 0) continue;
        me->accepted++;
        event.data.fd = connection;
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, connection, &event));
        continue;
      }
      long count = recv(fd, buffer, sizeof buffer, 0);
      if (count > 0) me->total += count;
      else if (count == 0) close(fd);
    }
  }
}

static void threads(void) {
  section("a listener and an epoll set for each of two threads");
  struct worker workers[2] = {0};
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    workers[i].listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    set_option(workers[i].listener, SOL_SOCKET, SO_REUSEPORT, 1);
    MUST(bind(workers[i].listener, ANY(7456)));
    MUST(listen(workers[i].listener, 64));
    MUST(pipe(workers[i].stop));
    pthread_create(&threads[i], NULL, work, &workers[i]);
  }
  for (int i = 0; i < MANY; i++) {
    ask("connect t%d 7456", i);
    ask("pump t%d 50000", i);
  }
  for (int i = 0; i < MANY; i++) ask("wait t%d.pump", i), ask("close t%d", i);
  for (long start = now_ms(); workers[0].total + workers[1].total < MANY * 50000L && now_ms() - start < 10000;) sleep_ms(10);
  for (int i = 0; i < 2; i++) {
    MUST(write(workers[i].stop[1], "x", 1));
    pthread_join(threads[i], NULL);
    close(workers[i].listener);
  }
  note("%d connections, %ld bytes, both threads %d", workers[0].accepted + workers[1].accepted,
       workers[0].total + workers[1].total, workers[0].accepted > 0 && workers[1].accepted > 0);
}

static void *accept_some(void *argument) {
  long accepted = 0;
  for (;;) {
    int fd = accept((int)(intptr_t)argument, NULL, NULL);
    if (fd < 0) return (void *)accepted;
    char byte;
    if (recv(fd, &byte, 1, 0) == 1) accepted++;
    close(fd);
  }
}

static void common_listener(void) {
  section("three threads accept from one listener");
  int listener = listening(7457, 64);
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, accept_some, (void *)(intptr_t)listener);
  for (int i = 0; i < MANY; i++) {
    ask("connect n%d 7457", i);
    ask("send n%d 1", i);
  }
  settle();
  CALL(shutdown(listener, SHUT_RDWR));
  long total = 0;
  for (int i = 0; i < 3; i++) {
    void *accepted;
    pthread_join(threads[i], &accepted);
    total += (long)accepted;
  }
  note("%ld accepted", total);
  close(listener);
  for (int i = 0; i < MANY; i++) ask("close n%d", i);
}

int main(void) {
  begin();
  bound_clients();
  one_wait();
  listening_again();
  threads();
  common_listener();
  return 0;
}
