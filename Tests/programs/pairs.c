// Small writes that come in pairs, and what comes after a row of them: a write that no other follows must not stay behind.
// row: seconds=30
#include "probe.h"

static char bytes[4096];

/// `count` times a header and a body, one right behind the other, and the answer to both.
static int pairs(int fd, int count) {
  int right = 0;
  for (int i = 0; i < count; i++) {
    char header[20], body[30];
    memset(header, 'a' + i % 26, sizeof header);
    memset(body, 'A' + i % 26, sizeof body);
    if (send(fd, header, sizeof header, 0) != sizeof header || send(fd, body, sizeof body, 0) != sizeof body) return -1;
    if (receive_all(fd, bytes, 50) == 50 && memcmp(bytes, header, 20) == 0 && memcmp(bytes + 20, body, 30) == 0) right++;
  }
  return right;
}

static volatile unsigned long sink;
static void compute(long milliseconds) {
  // Nothing here is a system call that anybody could hook into.
  for (long start = now_ms(); now_ms() - start < milliseconds;)
    for (int i = 0; i < 1000; i++) sink += (unsigned)i * sink + 1;
}

static void took_part(const char *what, int fd, int count) {
  note("%s: %zd bytes are back", what, recv(fd, bytes, (size_t)count, MSG_DONTWAIT));
}

int main(void) {
  begin();
  section("pairs");
  int fd = pair_with_peer("p");
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  peer("echo p");
  note("%d of 40", pairs(fd, 40));

  section("a single write, and the program computes");
  MUST(send(fd, "0123456789", 10, 0));
  compute(100);
  took_part("after a while", fd, 10);

  section("a single write, and the program sleeps");
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "0123456789", 10, 0));
  sleep_ms(100);
  took_part("after a while", fd, 10);

  section("a single write, and the program waits for the answer");
  note("%d of 60", pairs(fd, 60));
  long start = now_ms();
  MUST(send(fd, "0123456789", 10, 0));
  note("recv %ld", receive_all(fd, bytes, 10));
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "0123456789", 10, 0));
  struct pollfd entry = {.fd = fd, .events = POLLIN};
  note("poll %d", poll(&entry, 1, 1000));
  note("recv %ld", receive_all(fd, bytes, 10));
  took(start, 0, 2000);

  section("what is asked in between");
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "0123456789", 10, 0));
  int unsent = -1;
  MUST(ioctl(fd, 0x894B, &unsent));
  note("SIOCOUTQNSD %d", unsent);
  note("recv %ld", receive_all(fd, bytes, 10));

  section("two connections in turn");
  int other = pair_with_peer("q");
  peer("echo q");
  note("%d of 40", pairs(other, 40));
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "one", 3, 0));
  MUST(send(other, "two", 3, 0));
  MUST(send(fd, "three", 5, 0));
  MUST(send(other, "four", 4, 0));
  note("recv %ld", receive_all(fd, bytes, 8));
  note("recv %ld", receive_all(other, bytes, 7));

  section("fork after a single write");
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "0123456789", 10, 0));
  pid_t child = fork();
  if (child == 0) _exit(0);
  compute(50);
  took_part("after a while", fd, 10);
  waitpid(child, NULL, 0);

  section("three writes, and the end");
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "1", 1, 0));
  MUST(send(fd, "2", 1, 0));
  MUST(send(fd, "3", 1, 0));
  note("recv %ld", receive_all(fd, bytes, 3));
  note("%d of 60", pairs(fd, 60));
  MUST(send(fd, "last words", 10, 0));
  MUST(shutdown(fd, SHUT_WR));
  note("recv %ld", receive_all(fd, bytes, 10));
  note("then %zd", recv(fd, bytes, 1, 0));
  close(fd);
  close(other);
  return 0;
}
