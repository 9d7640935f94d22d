// What arrives while the program is busy with other things, after waits that ended well and waits that were jumped out of:
// somebody must take it in although no thread asks for it.
// row: seconds=30
#include "probe.h"

#include <setjmp.h>
#include <sys/time.h>

static unsigned char got[100000];
static sigjmp_buf back;
static void jump(int number) {
  (void)number;
  siglongjmp(back, 1);
}

static int unread(int fd) {
  int count = -1;
  MUST(ioctl(fd, FIONREAD, &count));
  return count;
}

/// Round trips in each way of waiting, so that the waiting thread has got used to its role.
static void busy(int fd) {
  int set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  int whole = 1;
  for (int i = 0; i < 30; i++) {
    peer("later 2 send x 10");
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    if (i % 3 == 1 && poll(&entry, 1, 5000) != 1) whole = 0;
    if (i % 3 == 2 && epoll_wait(set, &event, 1, 5000) != 1) whole = 0;
    if (recv(fd, got, 10, MSG_WAITALL) != 10) whole = 0;
    peer("wait later");
  }
  note("round trips: %s", whole ? "all" : "not all");
  close(set);
}

static void working(void) {
  section("arrives while the program works");
  int fd = pair_with_peer("x");
  busy(fd);
  peer("later 50 send x 60000");
  sleep_ms(400);
  note("unread %d", unread(fd));
  peer("wait later");
  note("read %zd", recv(fd, got, 60000, MSG_WAITALL));
  // More than a window: the peer gets rid of it only if it is acknowledged.
  peer("later 50 send x 60000");
  sleep_ms(200);
  peer("wait later");
  peer("later 50 send x 30000");
  sleep_ms(400);
  peer("wait later");
  note("read %zd", recv(fd, got, 90000, MSG_WAITALL));
  close(fd);
  peer("close x");
}

/// Sleeps in one of three ways until the alarm's handler jumps out of it.
static void jump_out(int fd, int set, int way) {
  struct sigaction action = {.sa_handler = jump}, before;
  MUST(sigaction(SIGALRM, &action, &before));
  if (sigsetjmp(back, 1) == 0) {
    struct itimerval soon = {.it_value.tv_usec = 30000};
    MUST(setitimer(ITIMER_REAL, &soon, NULL));
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    struct epoll_event event;
    if (way == 0) recv(fd, got, 1, 0);
    if (way == 1) poll(&entry, 1, -1);
    if (way == 2) epoll_wait(set, &event, 1, -1);
    note("came back without a jump");
  }
  MUST(sigaction(SIGALRM, &before, NULL));
}

static void jumped(void) {
  section("arrives after a jump out of the wait");
  int fd = pair_with_peer("x"), set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  for (int way = 0; way < 3; way++) {
    busy(fd);
    // No call in between that could notice: only the time passes.
    peer("later 200 send x 5000");
    jump_out(fd, set, way);
    sleep_ms(600);
    note("way %d: unread %d", way, unread(fd));
    peer("wait later");
    note("read %zd", recv(fd, got, 5000, MSG_WAITALL));
    busy(fd);
  }
  close(set);
  close(fd);
  peer("close x");
}

int main(void) {
  begin();
  working();
  jumped();
  note("\nend");
}
