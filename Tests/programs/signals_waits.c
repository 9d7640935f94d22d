// Signals and blocking calls on sockets: EINTR, SA_RESTART, handlers that use the socket, jumps and cancellation out of a call.
// row: seconds=60
#include "probe.h"

#include <setjmp.h>
#include <sys/time.h>

#pragma GCC diagnostic ignored "-Wunused-parameter"

static volatile int runs, runs_restart;
static void interrupts(int signal) { runs++; }
static void restarts(int signal) { runs_restart++; }

static void catch(int signal, void (*handler)(int), int flags) {
  struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  sigemptyset(&action.sa_mask);
  sigaction(signal, &action, NULL);
}

/// Sends SIGUSR1 (its handler lets calls restart) and later SIGUSR2 (its does not) to the thread that called `signals`.
static pthread_t target, sender;
static void *send_both(void *nothing) {
  sleep_ms(40);
  pthread_kill(target, SIGUSR1);
  sleep_ms(80);
  pthread_kill(target, SIGUSR2);
  return NULL;
}
static void signals(void) {
  runs = runs_restart = 0;
  target = pthread_self();
  pthread_create(&sender, NULL, send_both, NULL);
}

/// A call that both signals come into, and what it answered; a call that SA_RESTART does not restart sees only the first.
#define INTERRUPTED(expression) \
  do { \
    signals(); \
    errno = 0; \
    long result = (long)(expression); \
    int error = errno; \
    note("%s = %ld %s, handlers %d %d", #expression, result, error_name(error), runs_restart, runs); \
    pthread_join(sender, NULL); \
  } while (0)

static char bytes[4 << 20];

static void interruptions(int fd, int listener, int datagram) {
  catch(SIGUSR1, restarts, SA_RESTART);
  catch(SIGUSR2, interrupts, 0);
  struct iovec vector = {bytes, 10};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  section("calls that restart");
  INTERRUPTED(accept(listener, NULL, NULL));
  INTERRUPTED(accept4(listener, NULL, NULL, SOCK_CLOEXEC));
  INTERRUPTED(recv(fd, bytes, 10, 0));
  INTERRUPTED(recv(fd, bytes, 10, MSG_WAITALL));
  INTERRUPTED(recv(fd, bytes, 10, MSG_PEEK));
  INTERRUPTED(recvfrom(fd, bytes, 10, 0, NULL, NULL));
  INTERRUPTED(recvmsg(fd, &message, 0));
  INTERRUPTED(read(fd, bytes, 10));
  INTERRUPTED(readv(fd, &vector, 1));
  INTERRUPTED(recv(datagram, bytes, 10, 0));
  INTERRUPTED(recvfrom(datagram, bytes, 10, 0, NULL, NULL));

  section("calls that do not");
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  fd_set set;
  struct timespec long_time = {5, 0};
  struct timeval long_select = {5, 0};
  struct epoll_event event = {.events = EPOLLIN};
  int epoll = epoll_create1(0);
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  INTERRUPTED(poll(&entry, 1, -1));
  INTERRUPTED(poll(&entry, 1, 5000));
  INTERRUPTED(ppoll(&entry, 1, &long_time, NULL));
  FD_ZERO(&set);
  FD_SET(fd, &set);
  INTERRUPTED(select(fd + 1, &set, NULL, NULL, NULL));
  FD_SET(fd, &set);
  INTERRUPTED(select(fd + 1, &set, NULL, NULL, &long_select));
  FD_SET(fd, &set);
  INTERRUPTED(pselect(fd + 1, &set, NULL, NULL, NULL, NULL));
  INTERRUPTED(epoll_wait(epoll, &event, 1, -1));
  INTERRUPTED(epoll_wait(epoll, &event, 1, 5000));
  INTERRUPTED(epoll_pwait(epoll, &event, 1, -1, NULL));
  struct timeval timeout = {5, 0};
  CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
  INTERRUPTED(recv(fd, bytes, 10, 0));
  timeout.tv_sec = 0;
  CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));

  section("masks");
  sigset_t usr1, none, before;
  sigemptyset(&none);
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  // Only the wait lets it in, so it is there before the wait begins; a second call has nothing to wait for.
  sigprocmask(SIG_BLOCK, &usr1, &before);
  runs_restart = 0;
  raise(SIGUSR1);
  CALL(ppoll(&entry, 1, NULL, &none));
  raise(SIGUSR1);
  FD_SET(fd, &set);
  CALL(pselect(fd + 1, &set, NULL, NULL, NULL, &none));
  raise(SIGUSR1);
  CALL(epoll_pwait(epoll, &event, 1, -1, &none));
  note("handlers %d", runs_restart);
  raise(SIGUSR1);
  CALL(poll(&entry, 1, 20));
  note("handlers %d", runs_restart);
  sigprocmask(SIG_SETMASK, &before, NULL);
  note("handlers %d", runs_restart);
  // And the other way round: only the wait keeps it out.
  runs_restart = runs = 0;
  target = pthread_self();
  struct timespec short_time = {0, 200000000};
  pthread_create(&sender, NULL, send_both, NULL);
  sigaddset(&usr1, SIGUSR2);
  CALL(ppoll(&entry, 1, &short_time, &usr1));
  pthread_join(sender, NULL);
  note("handlers %d %d", runs_restart, runs);
  close(epoll);
}

static int used_in_handler, from_handler, listener_in_handler;
static void uses_socket(int signal) {
  int error = errno;
  struct pollfd entry = {.fd = used_in_handler, .events = POLLIN | POLLOUT};
  from_handler = 0;
  if (poll(&entry, 1, 0) == 1) from_handler |= entry.revents & POLLOUT ? 1 : 0;
  if (send(used_in_handler, "h", 1, 0) == 1) from_handler |= 2;
  char byte;
  if (recv(used_in_handler, &byte, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN) from_handler |= 4;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd >= 0 && close(fd) == 0) from_handler |= 8;
  if (accept(listener_in_handler, NULL, NULL) == -1 && errno == EAGAIN) from_handler |= 16;
  errno = error;
}

static void *signal_later(void *nothing) {
  sleep_ms(60);
  pthread_kill(target, SIGUSR1);
  return NULL;
}

/// A signal after 60 ms, five bytes after 150 ms.
static void signal_then_bytes(void) {
  peer_ask("later 150 text c hello");
  pthread_create(&sender, NULL, signal_later, NULL);
}
static void both_have_come(void) {
  pthread_join(sender, NULL);
  peer("wait later");
  note("from the handler: %d", from_handler);
  peer("receive c 1");
}

static void handlers_that_use_the_socket(int fd, int listener) {
  section("handlers that use the socket");
  used_in_handler = fd;
  listener_in_handler = listener;
  fcntl(listener, F_SETFL, O_NONBLOCK);
  target = pthread_self();
  catch(SIGUSR1, uses_socket, SA_RESTART);
  // The receive restarts and gets what comes later.
  signal_then_bytes();
  CALL(recv(fd, bytes, 5, MSG_WAITALL));
  both_have_come();
  catch(SIGUSR1, uses_socket, 0);
  signal_then_bytes();
  CALL(recv(fd, bytes, 5, MSG_WAITALL));
  CALL(recv(fd, bytes, 5, MSG_WAITALL));
  both_have_come();
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  signal_then_bytes();
  CALL(poll(&entry, 1, -1));
  CALL(recv(fd, bytes, 5, MSG_WAITALL));
  both_have_come();
  fcntl(listener, F_SETFL, 0);
}

// A timer that fires again and again into calls that go on all the time; the handler uses the socket, too.

static volatile int ticks, wrong;
static void tick(int signal) {
  int error = errno;
  ticks++;
  struct pollfd entry = {.fd = used_in_handler, .events = POLLOUT};
  int type;
  socklen_t length = sizeof type;
  if (poll(&entry, 1, 0) < 0 && errno != EINTR) wrong++;
  if (getsockopt(used_in_handler, SOL_SOCKET, SO_TYPE, &type, &length) != 0) wrong++;
  char byte;
  if (recv(used_in_handler, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno != EAGAIN && errno != EINTR) wrong++;
  errno = error;
}

static void under_fire(void) {
  enum { COUNT = 32 << 20 };
  section("an interval timer into a transfer");
  int fd = used_in_handler = pair_with_peer("s");
  catch(SIGALRM, tick, SA_RESTART);
  struct itimerval often = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
  pattern((unsigned char *)bytes, sizeof bytes, 0);
  peer("sink s");
  setitimer(ITIMER_REAL, &often, NULL);
  long sent = 0;
  while (sent < COUNT) {
    long n = send(fd, bytes + sent % 251, COUNT - sent < 1 << 20 ? (size_t)(COUNT - sent) : 1 << 20, 0);
    if (n < 0) break;
    sent += n;
  }
  setitimer(ITIMER_REAL, &never, NULL);
  note("sent %ld, ticks %s, wrong %d", sent, ticks > 5 ? "many" : "few", wrong);
  CALL(shutdown(fd, SHUT_WR));
  peer("wait s");
  close(fd);

  fd = used_in_handler = pair_with_peer("p");
  ticks = 0;
  peer("pump p 33554432");
  setitimer(ITIMER_REAL, &often, NULL);
  long received = 0, n;
  uint32_t crc = 0;
  while ((n = recv(fd, bytes, 100000, 0)) > 0) {
    received += n;
    crc = crc32(crc, bytes, (size_t)n);
  }
  setitimer(ITIMER_REAL, &never, NULL);
  note("received %ld, then %ld, crc %08x, ticks %s, wrong %d", received, n, crc, ticks > 5 ? "many" : "few", wrong);
  peer("wait p.pump");
  close(fd);
}

static sigjmp_buf out;
static void jumps(int signal) { siglongjmp(out, 1); }

/// Out of the call by a jump; the socket must be as good as before.
#define JUMPED(expression) \
  do { \
    signals(); \
    if (sigsetjmp(out, 1) == 0) { \
      long result = (long)(expression); \
      note("%s = %ld", #expression, result); \
    } else { \
      note("%s: out by a jump", #expression); \
    } \
    pthread_join(sender, NULL); \
  } while (0)

static void jumps_out(int fd, int listener) {
  section("jumps out of calls");
  catch(SIGUSR1, jumps, SA_RESTART);
  catch(SIGUSR2, interrupts, 0);
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  struct epoll_event event = {.events = EPOLLIN};
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  int epoll = epoll_create1(0);
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  for (int i = 0; i < 2; i++) {
    JUMPED(recv(fd, bytes, 10, 0));
    JUMPED(accept(listener, NULL, NULL));
    JUMPED(poll(&entry, 1, -1));
    JUMPED(select(fd + 1, &set, NULL, NULL, NULL));
    JUMPED(epoll_wait(epoll, &event, 1, -1));
  }
  peer("text c hello");
  CALL(poll(&entry, 1, 1000));
  CALL(epoll_wait(epoll, &event, 1, 1000));
  CALL(recv(fd, bytes, 10, 0));
  close(epoll);
}

// Cancellation.

static int cancelled_fd, cleaned;
static void clean(void *nothing) { cleaned++; }

#define CANCELLED(name, expression) \
  static void *name(void *argument) { \
    pthread_cleanup_push(clean, NULL); \
    (void)!(expression); \
    pthread_cleanup_pop(0); \
    return NULL; \
  }
CANCELLED(cancel_recv, recv(cancelled_fd, bytes, 10, 0))
CANCELLED(cancel_accept, accept(cancelled_fd, NULL, NULL))
CANCELLED(cancel_poll, poll(&(struct pollfd){.fd = cancelled_fd, .events = POLLIN}, 1, -1))
CANCELLED(cancel_select, select(cancelled_fd + 1, argument, NULL, NULL, NULL))
CANCELLED(cancel_epoll, epoll_wait(*(int *)argument, &(struct epoll_event){.events = 0}, 1, -1))

static void cancel(const char *what, void *(*body)(void *), void *argument, int fd) {
  pthread_t thread;
  void *result = NULL;
  cancelled_fd = fd;
  cleaned = 0;
  pthread_create(&thread, NULL, body, argument);
  sleep_ms(50);
  CALL(pthread_cancel(thread));
  CALL(pthread_join(thread, &result));
  note("%s: cancelled %d cleaned %d", what, result == PTHREAD_CANCELED, cleaned);
}

static void cancellation(int fd, int listener) {
  section("cancellation");
  struct epoll_event event = {.events = EPOLLIN};
  int epoll = epoll_create1(0);
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  cancel("recv", cancel_recv, NULL, fd);
  cancel("accept", cancel_accept, NULL, listener);
  cancel("poll", cancel_poll, NULL, fd);
  cancel("select", cancel_select, &set, fd);
  cancel("epoll_wait", cancel_epoll, &epoll, fd);
  peer("text c hello");
  CALL(epoll_wait(epoll, &event, 1, 1000));
  CALL(recv(fd, bytes, 10, 0));
  close(epoll);
}

int main(void) {
  begin();
  int fd = pair_with_peer("c");
  int listener = listening(7811, 4);
  int datagram = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(bind(datagram, ANY(7812)));
  interruptions(fd, listener, datagram);
  handlers_that_use_the_socket(fd, listener);
  under_fire();
  jumps_out(fd, listener);
  cancellation(fd, listener);

  section("SIGPIPE caught");
  runs = 0;
  catch(SIGPIPE, interrupts, 0);
  peer("reset c");
  settle();
  CALL(send(fd, "x", 1, 0));
  note("handlers %d", runs);
  CALL(send(fd, "x", 1, 0));
  note("handlers %d", runs);
  CALL(send(fd, "x", 1, MSG_NOSIGNAL));
  note("handlers %d", runs);
  return 0;
}
