// A peer that falls silent: keepalive, TCP_USER_TIMEOUT, retransmission, closing meanwhile.
// row: seconds=60
#include "probe.h"

static unsigned char data[200000];

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  char bytes[10];

  section("keepalive finds out");
  int fd = pair_with_peer("x");
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 2);
  CALL(set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1));
  note("a peer that answers is left in peace");
  show_poll(fd, POLLRDHUP, 2500);
  peer("mute");
  long start = now_ms();
  CALL(recv(fd, bytes, 10, 0));
  took(start, 1500, 4500);
  CALL(recv(fd, bytes, 10, 0));
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  peer("unmute");
  settle();
  close(fd);
  peer("receive x 1");
  peer("close x");

  section("TCP_USER_TIMEOUT with data under way");
  fd = pair_with_peer("x");
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1000);
  peer("mute");
  CALL(send(fd, data, 1000, 0));
  start = now_ms();
  show_poll(fd, POLLIN | POLLRDHUP, 8000);
  took(start, 900, 3500);
  show_error(fd);
  peer("unmute");
  close(fd);
  peer("close x");

  section("TCP_USER_TIMEOUT governs keepalive");
  fd = pair_with_peer("x");
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 2500);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  peer("mute");
  start = now_ms();
  CALL(recv(fd, bytes, 10, 0));
  took(start, 2000, 5500);
  peer("unmute");
  close(fd);
  peer("close x");

  section("what is sent into the silence arrives after it");
  fd = pair_with_peer("x");
  peer("mute");
  CALL(send(fd, data, 10000, 0));
  sleep_ms(900);
  peer("unmute");
  peer("receive x 10000");
  CALL(send(fd, data, 200000, 0));
  peer("receive x 200000");

  section("closing into the silence");
  peer("mute");
  CALL(send(fd, data, 10000, 0));
  CALL(close(fd));
  sleep_ms(700);
  peer("unmute");
  peer("receive x 20000");
  peer("close x");

  section("connecting through a short silence");
  peer("listen l 7260");
  peer("mute");
  fd = socket(AF_INET, SOCK_STREAM, 0);
  peer("later 500 unmute");
  start = now_ms();
  CALL(connect(fd, PEER(7260)));
  took(start, 400, 4000);
  peer("wait later");
  peer("accept y l");
  CALL(send(fd, "hello", 5, 0));
  peer("receive y 5");

  section("shutting down into a short silence");
  peer("mute");
  CALL(shutdown(fd, SHUT_WR));
  peer("later 500 unmute");
  peer("receive y 1");
  peer("wait later");
  peer("close y");
  CALL(recv(fd, bytes, 10, 0));
  close(fd);
  note("\nend");
}
