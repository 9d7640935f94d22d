// Urgent data: MSG_OOB, SIOCATMARK, SO_OOBINLINE, POLLPRI.
// row: seconds=20
#include "probe.h"

static char got[32];

int main(void) {
  begin();
  section("urgent data");
  int fd = pair_with_peer("x");
  peer("text x abc");
  peer("urgent x d");
  peer("text x ef");
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  memset(got, 0, 16);
  CALL(recv(fd, got, 10, 0));
  note("%s", got);
  CALL(ioctl(fd, SIOCATMARK, got));
  note("at mark %d", *(int *)got);
  memset(got, 0, 16);
  CALL(recv(fd, got, 10, MSG_OOB));
  note("%s", got);
  CALL(recv(fd, got, 10, MSG_OOB));
  memset(got, 0, 16);
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  note("%s", got);
  CALL(send(fd, "xyz", 3, MSG_OOB));
  peer("option x SOL_SOCKET SO_OOBINLINE 1");
  CALL(shutdown(fd, SHUT_WR));
  peer("receive x 3");
  close(fd);
  peer("close x");

  section("SO_OOBINLINE");
  fd = pair_with_peer("x");
  CALL(set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1));
  peer("text x abc");
  peer("urgent x d");
  peer("text x ef");
  settle();
  for (int i = 0; i < 3; i++) {
    int mark = -1;
    CALL(ioctl(fd, SIOCATMARK, &mark));
    memset(got, 0, 16);
    CALL(recv(fd, got, 10, MSG_DONTWAIT));
    note("at mark %d, then '%s'", mark, got);
  }
  close(fd);
  peer("close x");
  note("\nend");
}

