// Ends of connections: half-close, end of stream, EPIPE and ECONNRESET, unread data, SO_LINGER.
// row: seconds=40
#include "probe.h"

static char bytes[100000];

static void half_close(void) {
  section("half-close, ours first");
  int fd = pair_with_peer("x");
  CALL(send(fd, bytes, 100, 0));
  CALL(shutdown(fd, SHUT_WR));
  peer("receive x 1000");
  CALL(shutdown(fd, SHUT_WR));
  CALL(send(fd, bytes, 1, MSG_NOSIGNAL));
  show_error(fd);
  peer("send x 50000");
  CALL(receive_all(fd, bytes, 50000));
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  peer("send x 10");
  peer("close x");
  settle();
  CALL(recv(fd, bytes, 100, 0));
  CALL(recv(fd, bytes, 100, 0));
  CALL(recv(fd, bytes, 100, 0));
  show_error(fd);
  CALL(shutdown(fd, SHUT_WR));
  CALL(shutdown(fd, SHUT_RD));
  show_names(fd);
  CALL(close(fd));

  section("half-close, the peer's first");
  fd = pair_with_peer("x");
  peer("send x 100");
  peer("shutdown x w");
  CALL(recv(fd, bytes, 1000, MSG_WAITALL));
  CALL(recv(fd, bytes, 1000, 0));
  CALL(send(fd, bytes, 1000, 0));
  peer("receive x 1000");
  CALL(send(fd, bytes, 1000, 0));
  CALL(close(fd));
  peer("receive x 2000");
  peer("close x");

  section("SHUT_RD");
  fd = pair_with_peer("x");
  peer("send x 10");
  settle();
  CALL(shutdown(fd, SHUT_RD));
  CALL(recv(fd, bytes, 5, 0));
  CALL(recv(fd, bytes, 100, 0));
  CALL(recv(fd, bytes, 100, 0));
  peer("send x 10");
  settle();
  show_poll(fd, ALL_EVENTS, 0);
  CALL(recv(fd, bytes, 100, 0));
  CALL(recv(fd, bytes, 100, 0));
  CALL(send(fd, bytes, 10, 0));
  peer("receive x 10");
  close(fd);
  peer("close x");

  section("SHUT_RDWR");
  fd = pair_with_peer("x");
  CALL(shutdown(fd, SHUT_RDWR));
  CALL(recv(fd, bytes, 100, 0));
  CALL(send(fd, bytes, 100, MSG_NOSIGNAL));
  CALL(shutdown(fd, SHUT_RDWR));
  peer("receive x 1");
  peer("send x 10");
  settle();
  CALL(recv(fd, bytes, 100, 0));
  peer("close x");
  settle();
  CALL(shutdown(fd, SHUT_RDWR));
  CALL(recv(fd, bytes, 100, 0));
  close(fd);

  section("both at once");
  fd = pair_with_peer("x");
  peer("later 0 shutdown x w");
  CALL(shutdown(fd, SHUT_WR));
  CALL(recv(fd, bytes, 1, 0));
  peer("wait later");
  peer("receive x 1");
  close(fd);
  peer("close x");

  section("shutdown of a listener");
  int listener = listening(7140, 4);
  peer("connect x 7140");
  settle();
  CALL(shutdown(listener, SHUT_WR));
  show_poll(listener, ALL_EVENTS, 0);
  CALL(shutdown(listener, SHUT_RD));
  show_poll(listener, ALL_EVENTS, 0);
  nonblocking(listener);
  CALL(accept(listener, NULL, NULL));
  peer("receive x 1");
  peer("connect y 7140");
  CALL(listen(listener, 4));
  peer("connect y 7140");
  OPEN(accept(listener, NULL, NULL));
  close(listener);
}

static void errors(void) {
  section("sending after the peer closed");
  int fd = pair_with_peer("x");
  peer("close x");
  settle();
  show_poll(fd, ALL_EVENTS, 0);
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  settle();
  show_poll(fd, ALL_EVENTS, 0);
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  CALL(recv(fd, bytes, 10, 0));
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  close(fd);

  section("receiving after the peer closed with our data unread");
  fd = pair_with_peer("x");
  CALL(send(fd, bytes, 10, 0));
  settle();
  peer("close x");
  settle();
  show_poll(fd, ALL_EVENTS, 0);
  CALL(recv(fd, bytes, 10, 0));
  CALL(recv(fd, bytes, 10, 0));
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  close(fd);

  section("reset with data that we have not read");
  fd = pair_with_peer("x");
  peer("send x 10");
  settle();
  peer("reset x");
  settle();
  show_poll(fd, ALL_EVENTS, 0);
  CALL(recv(fd, bytes, 100, 0));
  CALL(recv(fd, bytes, 100, 0));
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  close(fd);

  section("reset after the peer's end");
  fd = pair_with_peer("x");
  peer("send x 10");
  peer("shutdown x w");
  settle();
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  settle();
  peer("close x");
  settle();
  CALL(recv(fd, bytes, 100, 0));
  CALL(recv(fd, bytes, 100, 0));
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
  close(fd);

  section("reset, seen first by each call");
  for (int first = 0; first < 5; first++) {
    fd = pair_with_peer("x");
    peer("reset x");
    settle();
    switch (first) {
    case 0: CALL(send(fd, bytes, 10, MSG_NOSIGNAL)); break;
    case 1: CALL(recv(fd, bytes, 10, 0)); break;
    case 2: CALL(shutdown(fd, SHUT_WR)); break;
    case 3: show_names(fd); break;
    case 4: CALL(recv(fd, bytes, 10, MSG_PEEK)); break;
    }
    CALL(send(fd, bytes, 10, MSG_NOSIGNAL));
    CALL(recv(fd, bytes, 10, 0));
    CALL(recv(fd, bytes, 10, 0));
    CALL(shutdown(fd, SHUT_RDWR));
    show_error(fd);
    close(fd);
  }

  section("reset while waiting");
  fd = pair_with_peer("x");
  peer("later 80 reset x");
  CALL(recv(fd, bytes, 10, 0));
  peer("wait later");
  close(fd);
  fd = pair_with_peer("x");
  peer("later 80 close x");
  CALL(recv(fd, bytes, 10, 0));
  peer("wait later");
  close(fd);
}

static void our_close(void) {
  section("close with everything read");
  int fd = pair_with_peer("x");
  CALL(close(fd));
  peer("receive x 1");
  peer("close x");

  section("close with data unread");
  fd = pair_with_peer("x");
  peer("send x 10");
  settle();
  CALL(close(fd));
  settle();
  peer("receive x 1");
  peer("close x");

  section("data after close");
  fd = pair_with_peer("x");
  CALL(close(fd));
  peer("receive x 1");
  peer("send x 10");
  settle();
  peer("receive x 1");
  peer("send x 10");
  peer("close x");

  section("close with much to send");
  fd = pair_with_peer("x");
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 1000000);
  long total = 0, count;
  nonblocking(fd);
  while (total < 600000 && (count = send(fd, bytes, sizeof bytes, 0)) > 0)
    total += count;
  CALL(close(fd));
  char command[64];
  snprintf(command, sizeof command, "receive x %ld", total + 1);
  const char *reply = peer_ask(command);
  note("all arrives, then the end: %d %s", strtol(reply + 3, NULL, 10) == total, strstr(reply, "eof") ? "eof" : reply);
  peer("close x");

  section("SO_LINGER 0");
  struct linger linger = {1, 0};
  fd = pair_with_peer("x");
  CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  CALL(close(fd));
  settle();
  peer("receive x 1");
  peer("close x");
  fd = pair_with_peer("x");
  CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  CALL(shutdown(fd, SHUT_WR));
  CALL(close(fd));
  settle();
  peer("receive x 1");
  peer("close x");

  section("SO_LINGER waits");
  linger.l_linger = 1;
  fd = pair_with_peer("x");
  CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  CALL(send(fd, bytes, 1000, 0));
  long start = now_ms();
  CALL(close(fd));
  took(start, 0, 300);
  peer("receive x 2000");
  peer("close x");
  note("a peer that does not read");
  peer("listen l 7141 4 4096");
  fd = connected(7141);
  peer("accept x l");
  total = 0;
  while ((count = send(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
    total += count;
  CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  start = now_ms();
  CALL(close(fd));
  took(start, 900, 1400);
  note("a peer that does not read, and a descriptor that may not wait");
  fd = connected(7141);
  peer("accept y l");
  while ((count = send(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
    total += count;
  CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  nonblocking(fd);
  start = now_ms();
  CALL(close(fd));
  took(start, 900, 1400);
  peer("close x y");

  section("close of an unfinished connect");
  fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  CALL(connect(fd, in4("198.19.0.1", 7001), SIZE_IN));
  start = now_ms();
  CALL(close(fd));
  took(start, 0, 300);
}

int main(void) {
  begin();
  half_close();
  errors();
  our_close();
  note("\nend");
}
