// SO_RCVTIMEO, SO_SNDTIMEO, SO_RCVLOWAT, keepalive, TCP_USER_TIMEOUT, TCP_DEFER_ACCEPT at work.
// row: seconds=40
#include "probe.h"

static char bytes[1 << 20];

static void set_time(int fd, int name, long milliseconds) {
  struct timeval value = {milliseconds / 1000, milliseconds % 1000 * 1000};
  MUST(setsockopt(fd, SOL_SOCKET, name, &value, sizeof value));
}

/// Until the peer's window is full as well: it acknowledges small segments late, and each time there is room once more.
static void fill_both_ends(int fd) {
  do {
    fill(fd);
    sleep_ms(300);
  } while (send(fd, bytes, 1, MSG_DONTWAIT) == 1);
}

static void limits(void) {
  section("SO_RCVTIMEO");
  int fd = pair_with_peer("x");
  set_time(fd, SO_RCVTIMEO, 150);
  long start = now_ms();
  CALL(recv(fd, bytes, 10, 0));
  took(start, 140, 400);
  start = now_ms();
  CALL(read(fd, bytes, 10));
  took(start, 140, 400);
  start = now_ms();
  CALL(recvmsg(fd, &(struct msghdr){.msg_iov = &(struct iovec){bytes, 10}, .msg_iovlen = 1}, 0));
  took(start, 140, 400);
  start = now_ms();
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  took(start, 0, 50);
  peer("send x 4");
  start = now_ms();
  CALL(recv(fd, bytes, 10, MSG_WAITALL));
  took(start, 140, 400);
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  start = now_ms();
  CALL(poll(&entry, 1, 300));
  took(start, 290, 600);
  set_time(fd, SO_RCVTIMEO, 0);
  peer("later 300 send x 4");
  CALL(recv(fd, bytes, 10, 0));
  peer("wait later");

  section("SO_SNDTIMEO");
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 20000);
  set_time(fd, SO_SNDTIMEO, 200);
  start = now_ms();
  long first = send(fd, bytes, sizeof bytes, 0);
  note("some were taken: %d", first > 0 && first < (long)sizeof bytes);
  took(start, 180, 500);
  fill_both_ends(fd);
  start = now_ms();
  CALL(send(fd, bytes, sizeof bytes, 0));
  took(start, 180, 500);
  start = now_ms();
  CALL(write(fd, bytes, sizeof bytes));
  took(start, 180, 500);
  close(fd);
  peer("close x");

  section("SO_RCVTIMEO and accept");
  int listener = listening(7190, 4);
  set_time(listener, SO_RCVTIMEO, 150);
  start = now_ms();
  OPEN(accept(listener, NULL, NULL));
  took(start, 140, 400);
  close(listener);

  section("SO_RCVTIMEO and datagrams");
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(bind(fd, ANY(7191)));
  set_time(fd, SO_RCVTIMEO, 150);
  start = now_ms();
  CALL(recv(fd, bytes, 10, 0));
  took(start, 140, 400);
  close(fd);
}

static void low_water(void) {
  section("SO_RCVLOWAT");
  int fd = pair_with_peer("x");
  CALL(set_option(fd, SOL_SOCKET, SO_RCVLOWAT, 100));
  peer("send x 60");
  settle();
  show_poll(fd, POLLIN, 0);
  CALL(recv(fd, bytes, 10, MSG_DONTWAIT));
  // Linux looks at what is unread alone: 50 that recv has taken and 60 more would not wake it.
  peer("later 100 send x 150");
  long start = now_ms();
  CALL(recv(fd, bytes, 1000, 0));
  took(start, 80, 500);
  peer("wait later");
  peer("send x 40");
  settle();
  show_poll(fd, POLLIN, 0);
  peer("send x 60");
  settle();
  show_poll(fd, POLLIN, 0);
  CALL(recv(fd, bytes, 1000, 0));
  peer("send x 30");
  peer("shutdown x w");
  settle();
  show_poll(fd, POLLIN, 0);
  CALL(recv(fd, bytes, 1000, 0));
  CALL(recv(fd, bytes, 1000, 0));
  close(fd);
  peer("close x");
  note("recv of less than the mark");
  fd = pair_with_peer("x");
  CALL(set_option(fd, SOL_SOCKET, SO_RCVLOWAT, 100));
  peer("send x 60");
  settle();
  CALL(recv(fd, bytes, 50, 0));
  CALL(set_option(fd, SOL_SOCKET, SO_RCVLOWAT, 1));
  show_poll(fd, POLLIN, 0);
  close(fd);
  peer("close x");
}

static void deferred(void) {
  section("TCP_DEFER_ACCEPT");
  int listener = listening(7192, 4);
  CALL(set_option(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5));
  peer("connect x 7192");
  settle();
  show_poll(listener, POLLIN, 200);
  peer("send x 10");
  show_poll(listener, POLLIN, 1000);
  int fd = OPEN(accept(listener, NULL, NULL));
  CALL(recv(fd, bytes, 100, MSG_DONTWAIT));
  close(fd);
  close(listener);
  peer("close x");
}

static void user_timeout(void) {
  section("TCP_USER_TIMEOUT when the window stays closed");
  peer("listen l 7193 4 4096");
  int fd = connected(7193);
  peer("accept x l");
  CALL(set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500));
  fill(fd);
  long start = now_ms();
  show_poll(fd, POLLRDHUP, 8000);
  took(start, 1000, 5000);
  show_error(fd);
  CALL(send(fd, bytes, 1, MSG_NOSIGNAL));
  close(fd);
  peer("close x");
}

static void backlog(void) {
  section("a full accept queue");
  int listener = listening(7194, 1);
  peer("connect a 7194");
  peer("connect b 7194");
  settle();
  peer("begin-connect c 7194");
  peer("end-connect c 300");
  int one = OPEN(accept(listener, NULL, NULL)), two = OPEN(accept(listener, NULL, NULL));
  peer("end-connect c 3000");
  int three = OPEN(accept(listener, NULL, NULL));
  close(one);
  close(two);
  close(three);
  close(listener);
  peer("close a b c");
}

static void windows(void) {
  section("a receiver that stops and goes on");
  int fd = pair_with_peer("x");
  set_option(fd, SOL_SOCKET, SO_RCVBUF, 8192);
  peer("pump x 500000");
  sleep_ms(500);
  uint32_t crc = 0;
  long total = 0, count;
  while ((count = recv(fd, bytes, 3000, 0)) > 0) {
    crc = crc32(crc, bytes, count);
    total += count;
    if (total == 90000)
      sleep_ms(300);
  }
  note("%ld bytes crc %08x, then %ld", total, crc, count);
  peer("wait x.pump");
  close(fd);
  peer("close x");
  section("a peer that stops and goes on");
  peer("listen m 7195 4 4096");
  fd = connected(7195);
  peer("accept x m");
  unsigned char *data = malloc(500000);
  pattern(data, 500000, 3);
  peer("later 700 sink x");
  long start = now_ms();
  CALL(send(fd, data, 500000, 0));
  took(start, 300, 8000);
  CALL(shutdown(fd, SHUT_WR));
  peer("wait later");
  peer("wait x");
  close(fd);
  peer("close x");
  free(data);
}

int main(void) {
  begin();
  limits();
  low_water();
  deferred();
  backlog();
  windows();
  user_timeout();
  note("\nend");
}
