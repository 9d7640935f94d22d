// epoll sets that hold sockets and kernel descriptors, and sets within sets.
// row: seconds=30
#include "probe.h"

static char bytes[1000];

struct member {
  int fd;
  const char *name;
};
static struct member members[16];
static int member_count;

static void join(int set, int fd, uint32_t events, const char *name) {
  struct epoll_event event = {.events = events, .data.u32 = member_count};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  members[member_count++] = (struct member){fd, name};
}

static int show_set(const char *what, int set, int milliseconds) {
  struct epoll_event events[16];
  int count = epoll_wait(set, events, 16, milliseconds);
  printf("%s: %d", what, count);
  for (int i = 0; i < member_count; i++)
    for (int j = 0; j < count; j++)
      if ((int)events[j].data.u32 == i)
        printf(" %s=%s", members[i].name, poll_names(events[j].events));
  putchar('\n');
  return count;
}

static void *after_a_while(void *argument) {
  sleep_ms(80);
  if (argument == NULL)
    peer_ask("send x 10");
  else
    MUST(write(*(int *)argument, "12345678", 8));
  return NULL;
}

static void mixed(void) {
  section("sockets, pipes, eventfd, timerfd, unix sockets in one set");
  int set = epoll_create1(0), pipes[2], pair[2];
  MUST(pipe2(pipes, O_NONBLOCK));
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
  int event = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  int fd = pair_with_peer("x"), udp = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(bind(udp, ANY(7165)));
  peer("udp u 7166");
  join(set, pipes[0], EPOLLIN, "pipe");
  join(set, fd, EPOLLIN, "stream");
  join(set, event, EPOLLIN, "event");
  join(set, udp, EPOLLIN, "udp");
  join(set, timer, EPOLLIN, "timer");
  join(set, pair[0], EPOLLIN | EPOLLET, "unix");
  show_set("nothing", set, 0);
  MUST(write(pipes[1], "x", 1));
  show_set("pipe", set, 0);
  peer("send x 10");
  settle();
  show_set("pipe, stream", set, 0);
  peer("udp-send u 7165 10");
  settle();
  MUST(write(event, &(uint64_t){1}, 8));
  struct itimerspec spec = {.it_value.tv_nsec = 1000000};
  MUST(timerfd_settime(timer, 0, &spec, NULL));
  MUST(write(pair[1], "x", 1));
  settle();
  show_set("all", set, 0);
  show_set("all but the edge", set, 0);
  struct epoll_event events[8];
  int seen = 0;
  for (int turn = 0; turn < 10; turn++)
    if (epoll_wait(set, events, 1, 0) == 1)
      seen |= 1 << events[0].data.u32;
  note("with room for one, neither kind starves: kernel's %d sockets' %d", !!(seen & 0x15), !!(seen & 0xa));
  recv(fd, bytes, 100, 0);
  recv(udp, bytes, 100, 0);
  read(event, bytes, 8);
  read(timer, bytes, 8);
  read(pipes[0], bytes, 10);
  show_set("all read", set, 0);

  section("each kind ends a wait");
  pthread_t thread;
  pthread_create(&thread, NULL, after_a_while, NULL);
  long start = now_ms();
  show_set("stream", set, 2000);
  took(start, 60, 600);
  pthread_join(thread, NULL);
  recv(fd, bytes, 100, 0);
  int *targets[] = {&pipes[1], &event, &pair[1]};
  for (int i = 0; i < 3; i++) {
    pthread_create(&thread, NULL, after_a_while, targets[i]);
    start = now_ms();
    show_set("kernel's", set, 2000);
    took(start, 60, 600);
    pthread_join(thread, NULL);
    read(pipes[0], bytes, 10);
    read(event, bytes, 8);
  }

  section("a set in poll and select");
  show_poll(set, POLLIN, 0);
  peer("send x 10");
  settle();
  show_poll(set, POLLIN, 0);
  fd_set readers;
  FD_ZERO(&readers);
  FD_SET(set, &readers);
  CALL(select(set + 1, &readers, NULL, NULL, &(struct timeval){0, 0}));
  show_set("harvest", set, 0);
  show_poll(set, POLLIN, 0);
  recv(fd, bytes, 100, 0);
  show_poll(set, POLLIN, 0);
  pthread_create(&thread, NULL, after_a_while, NULL);
  start = now_ms();
  show_poll(set, POLLIN, 2000);
  took(start, 60, 600);
  pthread_join(thread, NULL);
  recv(fd, bytes, 100, 0);

  section("a set within a set");
  int outer = epoll_create1(0), outermost = epoll_create1(0);
  join(outer, set, EPOLLIN, "inner");
  join(outermost, outer, EPOLLIN | EPOLLET, "outer");
  show_set("nothing", outer, 0);
  peer("send x 10");
  settle();
  show_set("outermost", outermost, 0);
  show_set("outermost again", outermost, 0);
  show_set("outer", outer, 0);
  show_set("outer again", outer, 0);
  show_set("inner", set, 0);
  show_set("outer", outer, 0);
  recv(fd, bytes, 100, 0);
  show_set("outer, all read", outer, 0);
  show_set("inner, all read", set, 0);
  MUST(write(pipes[1], "x", 1));
  show_set("outer, a pipe", outer, 0);
  read(pipes[0], bytes, 10);
  pthread_create(&thread, NULL, after_a_while, NULL);
  start = now_ms();
  show_set("outer waits", outer, 2000);
  took(start, 60, 600);
  pthread_join(thread, NULL);
  struct epoll_event none = {0};
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, outermost, &none));

  section("a set is inherited by a duplicate");
  int copy = dup(set);
  show_set("copy", copy, 0);
  close(set);
  show_set("copy, the first closed", copy, 0);
  recv(fd, bytes, 100, 0);
  show_set("copy, all read", copy, 0);
  close(copy);
  show_set("outer, inner closed", outer, 0);
  close(fd);
  peer("close x");
}

static void timing(void) {
  section("epoll_pwait and epoll_pwait2");
  int set = epoll_create1(0), fd = pair_with_peer("x");
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  long start = now_ms();
  CALL(epoll_pwait(set, &event, 1, 100, NULL));
  took(start, 98, 300);
  start = now_ms();
  CALL(epoll_pwait2(set, &event, 1, &(struct timespec){0, 100000000}, NULL));
  took(start, 98, 300);
  CALL(epoll_pwait2(set, &event, 1, &(struct timespec){0, 0}, NULL));
  peer("send x 1");
  settle();
  CALL(epoll_pwait(set, &event, 1, -1, NULL));
  CALL(epoll_pwait2(set, &event, 1, NULL, NULL));
  close(set);
  close(fd);
  peer("close x");
}

int main(void) {
  begin();
  mixed();
  timing();
  note("\nend");
}
