// Addresses that are not mapped: EFAULT, as the kernel says, instead of a crash.
// row: seconds=30
#include "probe.h"

#pragma GCC diagnostic ignored "-Wnonnull"
#pragma GCC diagnostic ignored "-Wstringop-overflow"

int main(void) {
  begin();
  char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  munmap(page + 4096, 4096);
  // The first is not mapped at all; the second runs out of its page.
  void *volatile nowhere = (void *)8;
  char *edge = page + 4096 - 10;
  memset(edge, 'e', 10);
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  int fd = pair_with_peer("x"), fresh = socket(AF_INET, SOCK_STREAM, 0), listener = listening(7250, 4), value = 1;
  peer("connect c 7250");
  peer("send x 100");
  settle();

  section("options");
  length = 4;
  CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, nowhere, 4));
  CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, nowhere, &length));
  CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, nowhere));
  CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, nowhere, 4));
  CALL(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, nowhere, 4));
  section("names");
  length = sizeof name;
  CALL(getsockname(fd, nowhere, &length));
  CALL(getpeername(fd, (struct sockaddr *)&name, nowhere));
  CALL(bind(fresh, nowhere, SIZE_IN));
  CALL(connect(fresh, nowhere, SIZE_IN));
  section("data");
  CALL(send(fd, nowhere, 10, MSG_NOSIGNAL));
  CALL(write(fd, nowhere, 10));
  CALL(send(fd, nowhere, 0, MSG_NOSIGNAL));
  CALL(recv(fd, nowhere, 10, MSG_DONTWAIT));
  CALL(recvfrom(fd, &value, 4, MSG_PEEK, nowhere, nowhere) >= -1);
  CALL(writev(fd, nowhere, 2));
  CALL(readv(fd, nowhere, 2));
  CALL(sendmsg(fd, nowhere, 0));
  CALL(recvmsg(fd, nowhere, MSG_DONTWAIT));
  section("waiting");
  CALL(poll(nowhere, 1, 0));
  CALL(select(fd + 1, nowhere, NULL, NULL, &(struct timeval){0, 0}));
  int set = epoll_create1(0);
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, nowhere));
  struct epoll_event event = {.events = EPOLLIN};
  CALL(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_wait(set, nowhere, 4, 0));
  CALL(ioctl(fd, FIONREAD, nowhere));
  CALL(ioctl(fd, FIONBIO, nowhere));
  section("accept");
  OPEN(accept(listener, nowhere, nowhere));
  section("the connection still works");
  CALL(send(fd, "hello", 5, 0));
  peer("quiet x 0");
  note("\nend");
}
