// Connecting: blocking and not, refused, unreachable, timed out, repeated, with a bound source.
// row: seconds=40
#include "probe.h"

#define SILENT "198.19.0.1"       // packets to it vanish
#define UNREACHABLE "198.19.1.1"  // a router answers ICMP host unreachable
#define PROHIBITED "198.19.2.1"   // a router answers ICMP communication prohibited
#define NOBODY "198.18.0.99"      // in our network; nobody answers ARP for it

static int stream(int flags) {
  int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
  MUST(fd);
  return fd;
}

static void blocking(void) {
  section("blocking connect");
  peer("listen l 7001");
  int fd = stream(0);
  CALL(connect(fd, PEER(7001)));
  peer("accept x l");
  show_names(fd);
  CALL(connect(fd, PEER(7001)));
  CALL(connect(fd, PEER(7002)));
  show_error(fd);
  close(fd);
  peer("receive x 1");

  section("refused");
  fd = stream(0);
  CALL(connect(fd, PEER(7002)));
  show_error(fd);
  show_poll(fd, ALL_EVENTS, 0);
  char byte = 0;
  CALL(recv(fd, &byte, 1, MSG_DONTWAIT));
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  show_names(fd);
  note("the same socket again, to an open port");
  CALL(connect(fd, PEER(7001)));
  peer("accept x l");
  show_names(fd);
  close(fd);

  section("bad addresses");
  fd = stream(0);
  CALL(connect(fd, in4(peer_address(), 7001), 1));
  CALL(connect(fd, in4(peer_address(), 7001), SIZE_IN - 1));
  int fresh = stream(0);
  CALL(connect(fresh, in4(peer_address(), 7001), -1));
  close(fresh);
  CALL(connect(fd, in6("::1", 7001), SIZE_IN6));
  CALL(connect(fd, in4("198.18.0.255", 7001), SIZE_IN));
  CALL(connect(fd, in4("255.255.255.255", 7001), SIZE_IN));
  CALL(connect(fd, in4("224.0.0.1", 7001), SIZE_IN));
  CALL(connect(fd, PEER(0)));
  show_names(fd);
  close(fd);

  section("unreachable");
  const char *addresses[] = {UNREACHABLE, PROHIBITED, "203.0.113.1"};
  for (int i = 0; i < 3; i++) {
    fd = stream(0);
    note("%s", addresses[i]);
    long start = now_ms();
    CALL(connect(fd, in4(addresses[i], 7001), SIZE_IN));
    took(start, 0, 1500);  // Linux may need a second SYN: the answer to the first can come while connect holds the socket
    close(fd);
  }
  fd = stream(0);
  long start = now_ms();
  CALL(connect(fd, in4(NOBODY, 7001), SIZE_IN));
  took(start, 2500, 4500);
  close(fd);
}

static void timed_out(void) {
  section("time-outs");
  int fd = stream(0);
  CALL(set_option(fd, IPPROTO_TCP, TCP_SYNCNT, 1));
  long start = now_ms();
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  took(start, 2800, 3400);
  show_error(fd);
  close(fd);
  fd = stream(0);
  CALL(set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500));
  start = now_ms();
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  took(start, 1300, 3400);
  close(fd);
  fd = stream(0);
  struct timeval limit = {0, 300000};
  CALL(setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
  start = now_ms();
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  took(start, 250, 500);
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  show_error(fd);
  show_poll(fd, ALL_EVENTS, 0);
  close(fd);
  fd = stream(SOCK_NONBLOCK);
  CALL(set_option(fd, IPPROTO_TCP, TCP_SYNCNT, 1));
  start = now_ms();
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  show_poll(fd, ALL_EVENTS, 0);
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  char byte = 0;
  CALL(recv(fd, &byte, 1, 0));
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  CALL(shutdown(fd, SHUT_WR) == 0 || errno == ENOTCONN);
  close(fd);
  fd = stream(SOCK_NONBLOCK);
  CALL(set_option(fd, IPPROTO_TCP, TCP_SYNCNT, 1));
  start = now_ms();
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  show_poll(fd, ALL_EVENTS, 5000);
  took(start, 2800, 3400);
  CALL(connect(fd, in4(SILENT, 7001), SIZE_IN));
  show_error(fd);
  close(fd);
}

static void nonblocking_connect(void) {
  section("non-blocking connect");
  int fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, PEER(7001)));
  show_poll(fd, POLLOUT, 1000);
  show_error(fd);
  CALL(connect(fd, PEER(7001)));
  CALL(connect(fd, PEER(7001)));
  peer("accept x l");
  close(fd);

  section("non-blocking connect, result by connect alone");
  fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, PEER(7001)));
  settle();
  CALL(connect(fd, PEER(7001)));
  CALL(connect(fd, PEER(7001)));
  peer("accept x l");
  close(fd);

  section("non-blocking connect, refused");
  fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, PEER(7002)));
  show_poll(fd, ALL_EVENTS, 1000);
  show_poll(fd, POLLOUT, 0);
  show_poll(fd, 0, 0);
  show_error(fd);
  show_error(fd);
  show_poll(fd, ALL_EVENTS, 0);
  char byte = 0;
  CALL(recv(fd, &byte, 1, 0));
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  close(fd);

  section("non-blocking connect, refused, told by connect");
  fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, PEER(7002)));
  settle();
  CALL(connect(fd, PEER(7002)));
  CALL(connect(fd, PEER(7001)));
  settle();
  CALL(connect(fd, PEER(7001)));
  peer("accept x l");
  close(fd);

  section("non-blocking connect, refused, told by recv");
  fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, PEER(7002)));
  settle();
  CALL(recv(fd, &byte, 1, 0));
  CALL(recv(fd, &byte, 1, 0));
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  close(fd);

  section("non-blocking connect, refused, told by send");
  fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, PEER(7002)));
  settle();
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  show_error(fd);
  close(fd);

  section("non-blocking connect, unreachable");
  fd = stream(SOCK_NONBLOCK);
  CALL(connect(fd, in4(UNREACHABLE, 7001), SIZE_IN));
  // Whether the connection is over at once, or has only heard of a fault that may pass, is a race in Linux.
  struct pollfd entry = {.fd = fd};
  CALL(poll(&entry, 1, 2000));
  note("ERR %d", !!(entry.revents & POLLERR));
  show_error(fd);
  close(fd);
}

static void source(void) {
  section("bound source");
  int fd = stream(0);
  CALL(bind(fd, ANY(7300)));
  CALL(connect(fd, PEER(7001)));
  show_names(fd);
  peer("accept x l");
  close(fd);
  fd = stream(0);
  CALL(bind(fd, HOST(7301)));
  CALL(connect(fd, PEER(7001)));
  show_names(fd);
  peer("accept y l");
  note("the same four-tuple");
  int other = stream(0);
  set_option(other, SOL_SOCKET, SO_REUSEADDR, 1);
  CALL(bind(other, HOST(7301)));
  close(other);
  close(fd);

  section("AF_UNSPEC dissolves");
  fd = stream(0);
  CALL(connect(fd, PEER(7001)));
  peer("accept x l");
  struct sockaddr none = {.sa_family = AF_UNSPEC};
  CALL(connect(fd, &none, sizeof none));
  show_names(fd);
  peer("receive x 1");
  CALL(connect(fd, PEER(7001)));
  close(fd);

  peer("listen l 7003");
  section("the peer leaves right after accepting");
  fd = stream(0);
  CALL(connect(fd, PEER(7003)));
  peer("accept x l");
  peer("close x");
  char byte = 1;
  CALL(recv(fd, &byte, 1, 0));
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  settle();
  CALL(send(fd, &byte, 1, MSG_NOSIGNAL));
  show_error(fd);
  close(fd);
}

static void self(void) {
  section("to an address of our own");
  int listener = listening(7302, 1), fd = stream(0);
  CALL(connect(fd, HOST(7302)));
  int other = OPEN(accept(listener, NULL, NULL));
  CALL(send(fd, "hello", 5, 0));
  char bytes[8];
  CALL(recv(other, bytes, sizeof bytes, 0));
  close(fd);
  CALL(recv(other, bytes, sizeof bytes, 0));
  close(other);
  close(listener);
  fd = stream(0);
  CALL(connect(fd, HOST(7302)));
  close(fd);
}

int main(void) {
  begin();
  blocking();
  nonblocking_connect();
  source();
  self();
  timed_out();
  note("\nend");
}
