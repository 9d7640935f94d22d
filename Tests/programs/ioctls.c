// ioctl: FIONREAD, FIONBIO, SIOCOUTQ, SIOCOUTQNSD, FIOASYNC, and what is not for sockets.
// row: seconds=30
#include "probe.h"

#include <net/if.h>
#include <termios.h>

static char bytes[100000];

static int ask(int fd, unsigned long request) {
  int value = -77;
  errno = 0;
  return ioctl(fd, request, &value) == -1 ? -errno : value;
}

int main(void) {
  begin();
  section("FIONREAD");
  int fd = pair_with_peer("x");
  note("%d", ask(fd, FIONREAD));
  peer("send x 100");
  settle();
  note("%d", ask(fd, FIONREAD));
  note("%d", ask(fd, SIOCINQ));
  CALL(recv(fd, bytes, 30, 0));
  note("%d", ask(fd, FIONREAD));
  CALL(recv(fd, bytes, 30, MSG_PEEK));
  note("%d", ask(fd, FIONREAD));
  peer("send x 50000");
  settle();
  note("%d", ask(fd, FIONREAD));
  CALL(receive_all(fd, bytes, 50070));
  note("%d", ask(fd, FIONREAD));
  peer("send x 10");
  peer("shutdown x w");
  settle();
  note("data and the end %d", ask(fd, FIONREAD));
  CALL(recv(fd, bytes, 100, 0));
  note("the end %d", ask(fd, FIONREAD));
  close(fd);
  peer("close x");

  section("FIONREAD, other states");
  fd = socket(AF_INET, SOCK_STREAM, 0);
  note("new %d", ask(fd, FIONREAD));
  close(fd);
  int listener = listening(7200, 1);
  note("listener %d", ask(listener, FIONREAD));
  note("listener SIOCOUTQ %d", ask(listener, SIOCOUTQ));
  note("listener SIOCATMARK %d", ask(listener, SIOCATMARK));
  close(listener);
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(bind(fd, ANY(7201)));
  note("datagrams: none %d", ask(fd, FIONREAD));
  peer("udp u 7202");
  peer("udp-send u 7201 30");
  peer("udp-send u 7201 70");
  settle();
  note("the first's size %d", ask(fd, FIONREAD));
  CALL(recv(fd, bytes, 10, 0));
  note("the second's size %d", ask(fd, FIONREAD));
  CALL(recv(fd, bytes, 100, 0));
  note("none %d", ask(fd, FIONREAD));
  note("SIOCOUTQ %d", ask(fd, SIOCOUTQ));
  close(fd);

  section("SIOCOUTQ");
  peer("listen l 7203 4 4096");
  fd = connected(7203);
  peer("accept x l");
  note("%d %d", ask(fd, SIOCOUTQ), ask(fd, SIOCOUTQNSD));
  CALL(send(fd, bytes, 100, 0));
  settle();
  note("%d %d", ask(fd, SIOCOUTQ), ask(fd, SIOCOUTQNSD));
  long total = 100 + fill(fd);
  int queued = ask(fd, SIOCOUTQ), unsent = ask(fd, SIOCOUTQNSD);
  note("the peer's window is full: queued %d, unsent %d, no more than sent %d", queued > 0, unsent > 0, queued <= total);
  char command[64];
  snprintf(command, sizeof command, "receive x %ld", total);
  note("all arrives %d", strtol(peer_ask(command) + 3, NULL, 10) == total);
  settle();
  note("%d %d", ask(fd, SIOCOUTQ), ask(fd, SIOCOUTQNSD));
  CALL(shutdown(fd, SHUT_WR));
  settle();
  note("after our end %d", ask(fd, SIOCOUTQ));
  close(fd);
  peer("close x");

  section("FIONBIO");
  fd = pair_with_peer("x");
  int on = 1;
  CALL(ioctl(fd, FIONBIO, &on));
  note("%d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
  CALL(recv(fd, bytes, 10, 0));
  on = 0;
  CALL(ioctl(fd, FIONBIO, &on));
  note("%d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
  peer("later 80 send x 3");
  CALL(recv(fd, bytes, 10, 0));
  peer("wait later");
  on = 7;
  CALL(ioctl(fd, FIONBIO, &on));
  CALL(recv(fd, bytes, 10, 0));
  CALL(fcntl(fd, F_SETFL, 0));
  note("%d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
  note("a duplicate made non-blocking");
  int copy = dup(fd);
  on = 1;
  CALL(ioctl(copy, FIONBIO, &on));
  CALL(recv(fd, bytes, 10, 0));
  close(copy);

  section("not for sockets");
  struct termios terminal;
  CALL(tcgetattr(fd, &terminal));
  struct winsize size;
  CALL(ioctl(fd, TIOCGWINSZ, &size));
  CALL(ioctl(fd, 0x12345678, bytes));
  CALL(ioctl(99, FIONREAD, bytes));
  struct ifreq request = {.ifr_name = "lo"};
  CALL(ioctl(fd, SIOCGIFFLAGS, &request));
  note("loopback %d", !!(request.ifr_flags & IFF_LOOPBACK));
  close(fd);
  peer("close x");
  note("\nend");
}
