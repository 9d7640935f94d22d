// Many threads wait at once, and threads leave their waits by cancellation and by jumping: nobody is forgotten, nothing breaks.
// row: seconds=60
#include "probe.h"

#include <setjmp.h>
#include <sys/resource.h>
#include <sys/time.h>

// More than the shim has poller slots of their own (63).
enum { THREADS = 100 };

enum how { BY_POLL, BY_POLL_WITH_PIPE, BY_SELECT, BY_EPOLL, BY_RECV, BY_ACCEPT };

static int the_fd, the_pipe[2];
static enum how the_how;
static volatile int finished;

static void *wait_once(void *argument) {
  struct pollfd entries[2] = {{.fd = the_fd, .events = POLLIN}, {.fd = the_pipe[0], .events = POLLIN}};
  struct epoll_event event = {.events = EPOLLIN}, got;
  fd_set set;
  char byte;
  int count = 0, epoll;
  switch (the_how) {
  case BY_POLL: count = poll(entries, 1, 10000); break;
  case BY_POLL_WITH_PIPE: count = poll(entries, 2, 10000); break;
  case BY_SELECT:
    FD_ZERO(&set);
    FD_SET(the_fd, &set);
    count = select(the_fd + 1, &set, NULL, NULL, &(struct timeval){10, 0});
    break;
  case BY_EPOLL:
    epoll = epoll_create1(0);
    epoll_ctl(epoll, EPOLL_CTL_ADD, the_fd, &event);
    count = epoll_wait(epoll, &got, 1, 10000);
    close(epoll);
    break;
  case BY_RECV: count = (int)recv(the_fd, &byte, 1, 0); break;
  case BY_ACCEPT: count = accept(the_fd, NULL, NULL); break;
  }
  if (count > 0)
    __atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
  return argument;
}

static void crowd(const char *name, enum how how) {
  section(name);
  pthread_t threads[THREADS];
  the_fd = pair_with_peer("x");
  the_how = how;
  finished = 0;
  for (int i = 0; i < THREADS; i++)
    MUST(pthread_create(&threads[i], NULL, wait_once, NULL) == 0 ? 0 : -1);
  sleep_ms(200);
  note("before: %d", finished);
  long start = now_ms();
  // One byte for all who only look, one for each who takes it.
  peer("send x %d", how == BY_RECV ? THREADS : 1);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  took(start, 0, 3000);
  note("woken: %d", finished);
  close(the_fd);
  peer("close x");
}

static void cancelled(const char *name, enum how how) {
  section(name);
  int listener = how == BY_ACCEPT ? listening(7181, 4) : -1;
  the_fd = how == BY_ACCEPT ? listener : pair_with_peer("x");
  the_how = how;
  finished = 0;
  for (int i = 0; i < 5; i++) {
    pthread_t thread;
    void *result;
    pthread_create(&thread, NULL, wait_once, NULL);
    sleep_ms(50);
    pthread_cancel(thread);
    pthread_join(thread, &result);
    if (result != PTHREAD_CANCELED)
      note("not cancelled");
  }
  note("finished: %d", finished);
  if (how == BY_ACCEPT) {
    peer("connect x 7181");
    settle();
    the_fd = OPEN(accept(listener, NULL, NULL));
    close(listener);
  }
  char byte;
  peer("text x a");
  CALL(recv(the_fd, &byte, 1, 0));
  CALL(send(the_fd, "b", 1, 0));
  peer("receive x 1");
  // The threads' references must be gone, or the peer never sees the end.
  close(the_fd);
  peer("receive x 1");
  peer("close x");
}

static sigjmp_buf back;
static void jump(int signal) { siglongjmp(back, signal); }

static void jumping(const char *name, enum how how) {
  section(name);
  signal(SIGALRM, jump);
  the_fd = pair_with_peer("x");
  the_how = how;
  finished = 0;
  volatile int jumps = 0;
  for (volatile int i = 0; i < 30; i++) {
    if (sigsetjmp(back, 1) == 0) {
      setitimer(ITIMER_REAL, &(struct itimerval){.it_value.tv_usec = 3000}, NULL);
      wait_once(NULL);
    } else {
      jumps++;
    }
  }
  note("jumped: %d, finished: %d", jumps, finished);
  char byte;
  peer("text x a");
  CALL(recv(the_fd, &byte, 1, 0));
  close(the_fd);
  peer("receive x 1");
  peer("close x");
}

static void no_descriptors(void) {
  section("no descriptor left");
  int listener = listening(7182, 8), taken[64], count = 0;
  struct rlimit before, few;
  getrlimit(RLIMIT_NOFILE, &before);
  few = before;
  peer("connect x 7182");
  settle();
  int highest = dup(0);
  few.rlim_cur = (rlim_t)highest + 8;
  setrlimit(RLIMIT_NOFILE, &few);
  while (count < 64 && (taken[count] = dup(0)) >= 0)
    count++;
  CALL(accept(listener, NULL, NULL));
  CALL(socket(AF_INET, SOCK_STREAM, 0));
  CALL(dup(listener));
  show_poll(listener, POLLIN, 100);
  setrlimit(RLIMIT_NOFILE, &before);
  while (count > 0)
    close(taken[--count]);
  close(highest);
  int fd = OPEN(accept(listener, NULL, NULL));
  close(fd);
  close(listener);
  peer("receive x 1");
  peer("close x");
}

int main(void) {
  begin();
  MUST(pipe(the_pipe));
  crowd("100 threads in poll", BY_POLL);
  crowd("100 threads in poll, with a pipe", BY_POLL_WITH_PIPE);
  crowd("100 threads in select", BY_SELECT);
  crowd("100 threads in epoll_wait on sets of their own", BY_EPOLL);
  crowd("100 threads in recv", BY_RECV);
  cancelled("cancelled in recv", BY_RECV);
  cancelled("cancelled in poll", BY_POLL);
  cancelled("cancelled in poll, with a pipe", BY_POLL_WITH_PIPE);
  cancelled("cancelled in select", BY_SELECT);
  cancelled("cancelled in epoll_wait", BY_EPOLL);
  cancelled("cancelled in accept", BY_ACCEPT);
  jumping("jumping out of recv", BY_RECV);
  jumping("jumping out of poll", BY_POLL);
  jumping("jumping out of poll, with a pipe", BY_POLL_WITH_PIPE);
  jumping("jumping out of select", BY_SELECT);
  no_descriptors();
  note("\nend");
}
