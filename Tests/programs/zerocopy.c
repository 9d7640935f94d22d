// MSG_ZEROCOPY: which calls get a notification, what it says, and how poll and epoll tell of it.
// row: seconds=30
// Not compared: SO_EE_CODE_ZEROCOPY_COPIED, which is each stack's own affair, and how it groups notifications.
#include "probe.h"

// Needs <time.h> before it.
#include <linux/errqueue.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

static unsigned char data[200000];

/// Takes one notification; whether there was one.
static bool take(int fd, unsigned *first, unsigned *last, bool tell) {
  char control[128], byte;
  struct iovec vector = {&byte, 1};
  struct sockaddr_in name;
  struct msghdr message = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &vector, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = sizeof control};
  long result = recvmsg(fd, &message, MSG_ERRQUEUE);
  if (result < 0) {
    if (errno != EAGAIN) note("recvmsg: %s", error_name(errno));
    return false;
  }
  struct cmsghdr *head = CMSG_FIRSTHDR(&message);
  struct sock_extended_err *error = (void *)CMSG_DATA(head);
  if (tell)
    note("result %ld name %u flags %#x control %zu: length %zu level %d type %d; errno %u origin %u", result,
         message.msg_namelen, message.msg_flags, (size_t)message.msg_controllen, (size_t)head->cmsg_len, head->cmsg_level,
         head->cmsg_type, error->ee_errno, error->ee_origin);
  *first = error->ee_info;
  *last = error->ee_data;
  return true;
}

/// Waits until the calls up to `number` are complete.
static void until(int fd, unsigned number, bool tell) {
  unsigned first, last, next = 0, begin = ~0u;
  while (begin == ~0u || next <= number) {
    struct pollfd entry = {.fd = fd};
    if (poll(&entry, 1, 5000) != 1) {
      note("nothing came");
      return;
    }
    if (entry.revents != POLLERR) note("revents %s", poll_names((unsigned)entry.revents));
    while (take(fd, &first, &last, tell)) {
      if (begin == ~0u) begin = next = first;
      if (first != next) note("out of order: %u after %u", first, next);
      next = last + 1;
      tell = false;
    }
  }
  note("complete: %u to %u", begin, next - 1);
  struct pollfd entry = {.fd = fd};
  CALL(poll(&entry, 1, 0));
  CALL(recv(fd, data, 1, MSG_ERRQUEUE));
}

static void stream(void) {
  section("a stream");
  int fd = pair_with_peer("x");
  int value = -1;
  socklen_t length = sizeof value;
  CALL(getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &value, &length));
  note("%d", value);
  CALL(recv(fd, data, 1, MSG_ERRQUEUE));
  peer("sink x");
  note("the flag without the option");
  CALL(send(fd, data, 1000, MSG_ZEROCOPY));
  settle();
  CALL(recv(fd, data, 1, MSG_ERRQUEUE));
  value = 2;
  CALL(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &value, sizeof value));
  value = 1;
  CALL(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &value, sizeof value));
  CALL(getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &value, &length));
  note("%d", value);
  note("the option without the flag");
  CALL(send(fd, data, 1000, 0));
  settle();
  CALL(recv(fd, data, 1, MSG_ERRQUEUE));
  note("both");
  CALL(send(fd, data, sizeof data, MSG_ZEROCOPY));
  until(fd, 0, true);
  note("nothing to send is nothing to tell of");
  CALL(send(fd, data, 0, MSG_ZEROCOPY));
  for (int i = 0; i < 20; i++) MUST(send(fd, data, 20000 + i, MSG_ZEROCOPY));
  until(fd, 20, false);
  CALL(send(fd, data, 1, MSG_ZEROCOPY));
  until(fd, 21, false);
  note("epoll");
  int set = OPEN(epoll_create1(0));
  struct epoll_event event = {.events = EPOLLET}, got = {0};
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_wait(set, &got, 1, 0));
  CALL(send(fd, data, sizeof data, MSG_ZEROCOPY));
  CALL(epoll_wait(set, &got, 1, 5000));
  note("%s", poll_names(got.events));
  until(fd, 22, false);
  close(set);
  note("no room for what it says");
  CALL(send(fd, data, sizeof data, MSG_ZEROCOPY));
  struct pollfd entry = {.fd = fd};
  CALL(poll(&entry, 1, 5000));
  char control[8];
  struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
  CALL(recvmsg(fd, &message, MSG_ERRQUEUE));
  note("flags %#x control %zu", message.msg_flags, (size_t)message.msg_controllen);
  note("what went out is what was there");
  CALL(shutdown(fd, SHUT_WR));
  peer("wait x");
  close(fd);
  peer("close x");
}

static void full(void) {
  section("a full buffer");
  int fd = pair_with_peer("x");
  int one = 1;
  MUST(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one));
  nonblocking(fd);
  unsigned sent = 0;
  while (send(fd, data, sizeof data, MSG_ZEROCOPY) > 0) {
    sent++;
    if (sent % 4 == 0) settle();
  }
  note("%s", error_name(errno));
  peer("sink x");
  note("some were taken: %d", sent > 0);
  close(fd);
  peer("close x");
}

static void accepted(void) {
  section("an accepted socket has its listener's option");
  int listener = OPEN(socket(AF_INET, SOCK_STREAM, 0));
  int one = 1, value = -1;
  socklen_t length = sizeof value;
  CALL(setsockopt(listener, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one));
  CALL(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
  CALL(bind(listener, HOST(7100)));
  CALL(listen(listener, 1));
  peer("connect y 7100");
  int fd = OPEN(accept(listener, NULL, NULL));
  CALL(getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &value, &length));
  note("%d", value);
  peer("sink y");
  CALL(send(fd, data, 30000, MSG_ZEROCOPY));
  until(fd, 0, false);
  close(fd);
  close(listener);
  peer("close y");
}

static void datagrams(void) {
  section("datagrams");
  peer("udp u 7101");
  int fd = OPEN(socket(AF_INET, SOCK_DGRAM, 0));
  int one = 1;
  CALL(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof one));
  CALL(connect(fd, PEER(7101)));
  CALL(send(fd, data, 1000, MSG_ZEROCOPY));
  peer("udp_receive u");
  until(fd, 0, true);
  close(fd);
  peer("close u");
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  stream();
  full();
  accepted();
  datagrams();
  note("\nend");
}
