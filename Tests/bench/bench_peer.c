// Owns: the small client and server that the benchmark measures with, where no standard tool does what a row needs. The same
// binary is run on the kernel's stack and under the library. Times are CLOCK_MONOTONIC; results go to stdout as "name value".
//
// usage: bench_peer [--threads N] MODE ADDRESS PORT [N [SIZE [zerocopy]]]
//   with --threads (clients only) each thread does the same, the first to PORT, the second to PORT + 1 …, and prints its own figures
//   servers (run until killed; "ready" on stdout once they listen)
//     sink        reads 128 KB at a time until end of file, connection after connection
//     source      writes 128 KB at a time until the client is gone
//     echo        sends each byte back
//     closer      accepts and closes at once
//     drain       reads to the end, then closes
//     epoll-echo  like echo, one epoll set for all connections (level-triggered)
//     udp-echo    sends each datagram back
//     udp-sink    counts datagrams, UDP_GRO on, and tells the count when asked
//   clients
//     udp-pingpong  N times a datagram of SIZE bytes to and fro, as pingpong
//     udp-send    datagrams of 1400 bytes for N seconds, SIZE bytes at once (UDP_SEGMENT) where that is more; then asks what arrived
//     send        writes SIZE bytes (128 KB) at a time for N seconds, with MSG_ZEROCOPY if asked; ends when the server has read all
//     receive     reads 128 KB at a time for N seconds
//     pingpong    N times one byte to and fro; the first tenth is not counted
//     connects    for N seconds: connect, read to the end, close
//     closes      for N seconds: connect, close first; connections per second at the start and at the end
//     idle        opens N connections, says "ready", waits for end of file on stdin
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

enum { BLOCK = 128 << 10, LARGEST = 1 << 20 };
static char block[LARGEST];
static size_t size = BLOCK;
static int zero_copy;
/// Of either family; the port is in the same place in both.
static union address {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
} address;
static socklen_t address_size;
/// Which thread this is, from 0.
static __thread int self;

static void die(const char *what) {
  fprintf(stderr, "bench_peer: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void say(const char *name, double value) { printf("%s %.9g\n", name, value); }

// ---- Servers

static int listening(void) {
  int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(fd, &address.any, address_size) != 0) die("bind");
  if (listen(fd, 4096) != 0) die("listen");
  puts("ready");
  fflush(stdout);
  return fd;
}

static void no_delay(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void serve(void (*one)(int)) {
  int server = listening();
  for (;;) {
    int fd = accept(server, NULL, NULL);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      die("accept");
    }
    one(fd);
    close(fd);
  }
}

static void serve_sink(int fd) {
  while (read(fd, block, BLOCK) > 0) {}
}

static void serve_source(int fd) {
  while (write(fd, block, BLOCK) > 0) {}
}

static void serve_echo(int fd) {
  no_delay(fd);
  char byte;
  while (read(fd, &byte, 1) == 1 && write(fd, &byte, 1) == 1) {}
}

static void serve_nothing(int fd) { (void)fd; }

static void serve_epoll(void) {
  int server = listening(), set = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = server}, events[64];
  if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, server, &event) != 0) die("epoll");
  for (;;) {
    int n = epoll_wait(set, events, 64, -1);
    if (n < 0 && errno != EINTR) die("epoll_wait");
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == server) {
        int connection = accept(server, NULL, NULL);
        if (connection < 0) die("accept");
        no_delay(connection);
        event.data.fd = connection;
        if (epoll_ctl(set, EPOLL_CTL_ADD, connection, &event) != 0) die("epoll_ctl");
      } else {
        ssize_t got = read(fd, block, BLOCK);
        if (got <= 0 || write(fd, block, (size_t)got) != got) close(fd);
      }
    }
  }
}

// ---- Clients

static int connected(void) {
  int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket");
  union address to = address;
  to.in.sin_port = htons((uint16_t)(ntohs(address.in.sin_port) + self));
  if (connect(fd, &to.any, address_size) != 0) die("connect");
  return fd;
}

/// Takes what the error queue says of sends that are complete. The block never changes, so nothing depends on it.
static void reap(int fd) {
  char control[128];
  struct msghdr message = {.msg_control = control, .msg_controllen = sizeof control};
  while (recvmsg(fd, &message, MSG_ERRQUEUE) >= 0) message.msg_controllen = sizeof control;
}

static ssize_t send_block(int fd) {
  if (!zero_copy) return write(fd, block, size);
  ssize_t n;
  while ((n = send(fd, block, size, MSG_ZEROCOPY)) < 0 && errno == ENOBUFS) {
    // Too many that are not complete.
    struct pollfd entry = {.fd = fd};
    poll(&entry, 1, -1);
    reap(fd);
  }
  reap(fd);
  return n;
}

static void transfer(double seconds, int sending) {
  char sink[sending ? 1 : BLOCK];
  int fd = connected();
  if (zero_copy && setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &zero_copy, sizeof zero_copy) != 0) die("SO_ZEROCOPY");
  double total = 0;
  // The first tenth is slow start and page faults.
  double begin = now(), counted = 0, from = begin, end = begin + seconds;
  int warm = 0;
  for (;;) {
    ssize_t n = sending ? send_block(fd) : read(fd, sink, BLOCK);
    total += n > 0 ? (double)n : 0;
    if (n <= 0) die(sending ? "write" : "read");
    double t = now();
    if (warm) counted += (double)n;
    if (!warm && t - begin >= seconds / 10) warm = 1, from = t;
    if (t >= end) break;
  }
  if (sending) {
    shutdown(fd, SHUT_WR);
    if (read(fd, sink, 1) < 0) die("read");
  }
  say("seconds", now() - from);
  say("bytes", counted);
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  say("total", total);
  say("process", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                     (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void ping_pong(int rounds) {
  int fd = connected();
  no_delay(fd);
  double *times = malloc(sizeof(double) * (size_t)rounds);
  int skipped = rounds / 10;
  char byte = 'x';
  for (int i = 0; i < rounds; i++) {
    double begin = now();
    if (write(fd, &byte, 1) != 1) die("write");
    if (read(fd, &byte, 1) != 1) die("read");
    times[i] = now() - begin;
  }
  qsort(times + skipped, (size_t)(rounds - skipped), sizeof(double), by_size);
  say("median", times[skipped + (rounds - skipped) / 2]);
  say("p99", times[skipped + (rounds - skipped) * 99 / 100]);
}

static void connects(double seconds) {
  double begin = now(), end = begin + seconds;
  long count = 0;
  while (now() < end) {
    int fd = connected();
    char byte;
    if (read(fd, &byte, 1) != 0) die("read");
    close(fd);
    count++;
  }
  say("rate", (double)count / (now() - begin));
}

static void closes(double seconds) {
  double begin = now(), mark = begin;
  long count = 0, total = 0;
  double first = 0, last = 0, step = seconds / 10;
  while (now() < begin + seconds) {
    close(connected());
    count++;
    total++;
    if (now() - mark >= step) {
      last = (double)count / (now() - mark);
      if (first == 0) first = last;
      mark = now();
      count = 0;
    }
  }
  say("first", first);
  say("last", last);
  say("total", (double)total);
}

static void idle(int count) {
  for (int i = 0; i < count; i++) connected();
  puts("ready");
  fflush(stdout);
  while (read(0, block, BLOCK) > 0) {}
}

// ---- Datagrams

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

enum { DATAGRAM = 1400, QUESTION = 9 };

static int datagram_socket(int is_server) {
  int fd = socket(address.any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0), room = 4 << 20;
  if (fd < 0) die("socket");
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  if (is_server && bind(fd, &address.any, address_size) != 0) die("bind");
  if (!is_server && connect(fd, &address.any, address_size) != 0) die("connect");
  if (is_server) {
    puts("ready");
    fflush(stdout);
  }
  return fd;
}

static void serve_datagrams(int counts) {
  int fd = datagram_socket(1), one = 1;
  if (counts) setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one);
  uint64_t total = 0;
  for (;;) {
    union address from;
    socklen_t length = sizeof from;
    ssize_t n = recvfrom(fd, block, sizeof block, 0, &from.any, &length);
    if (n < 0) continue;
    if (!counts) {
      sendto(fd, block, (size_t)n, 0, &from.any, length);
    } else if (n == QUESTION) {
      uint64_t answer[2] = {0, total};
      memcpy(answer, block, sizeof answer[0]);
      sendto(fd, answer, sizeof answer, 0, &from.any, length);
      total = 0;
    } else {
      total += (uint64_t)n;
    }
  }
}

/// What the sink has counted since the last question, which waits behind all that was sent. Asked again where it was lost.
static double ask(int fd) {
  static uint64_t number;
  struct timeval patience = {0, 5000};
  uint64_t answer[2], first = number + 1;
  char question[QUESTION] = {0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  for (int i = 0; i < 2000; i++) {
    number++;
    memcpy(question, &number, sizeof number);
    if (send(fd, question, QUESTION, 0) != QUESTION) continue;
    while (recv(fd, answer, sizeof answer, 0) == sizeof answer)
      if (answer[0] >= first) return (double)answer[1];
  }
  errno = ETIMEDOUT;
  die("no answer");
  return 0;
}

static void send_datagrams(double seconds, size_t at_once) {
  int fd = datagram_socket(0), segment = DATAGRAM;
  if (at_once > DATAGRAM) {
    if (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) != 0) die("UDP_SEGMENT");
  } else {
    at_once = DATAGRAM;
  }
  ask(fd);
  uint64_t sent = 0;
  double begin = now(), end = begin + seconds;
  while (now() < end) {
    for (int i = 0; i < 16; i++) {
      if (send(fd, block, at_once, 0) == (ssize_t)at_once) sent += at_once;
    }
  }
  segment = 0;
  setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment);
  // Until all that was under way has arrived.
  say("bytes", ask(fd));
  say("seconds", now() - begin);
  say("sent", (double)sent);
}

static int compare_times(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void datagram_ping_pong(int rounds) {
  int fd = datagram_socket(0), count = 0;
  size_t length = size <= DATAGRAM ? size : 1;
  double *times = malloc(sizeof *times * (size_t)rounds);
  for (int i = 0; i < rounds; i++) {
    double begin = now();
    if (send(fd, block, length, 0) < 0 || recv(fd, block, sizeof block, 0) < 0) die("ping-pong");
    if (i >= rounds / 10) times[count++] = now() - begin;
  }
  qsort(times, (size_t)count, sizeof *times, compare_times);
  say("median", times[count / 2]);
  say("p99", times[count * 99 / 100]);
}

static const char *mode;
static double amount;

/// False where there is no such client.
static int run_client(void) {
  if (strcmp(mode, "send") == 0) transfer(amount, 1);
  else if (strcmp(mode, "receive") == 0) transfer(amount, 0);
  else if (strcmp(mode, "pingpong") == 0) ping_pong((int)amount);
  else if (strcmp(mode, "udp-pingpong") == 0) datagram_ping_pong((int)amount);
  else if (strcmp(mode, "udp-send") == 0) send_datagrams(amount, size);
  else if (strcmp(mode, "connects") == 0) connects(amount);
  else if (strcmp(mode, "closes") == 0) closes(amount);
  else if (strcmp(mode, "idle") == 0) idle((int)amount);
  else return 0;
  return 1;
}

static void *client_thread(void *number) {
  self = (int)(intptr_t)number;
  run_client();
  return NULL;
}

int main(int argc, char **argv) {
  int threads = 1;
  if (argc > 2 && strcmp(argv[1], "--threads") == 0) {
    threads = atoi(argv[2]);
    argv += 2, argc -= 2;
  }
  if (argc < 4 || threads < 1 || threads > 64) {
    fprintf(stderr, "usage: bench_peer [--threads N] MODE ADDRESS PORT [N [SIZE [zerocopy]]]\n");
    return 2;
  }
  mode = argv[1];
  amount = argc > 4 ? atof(argv[4]) : 1;
  if (argc > 5) size = (size_t)atol(argv[5]);
  if (size < 1 || size > LARGEST) size = BLOCK;
  zero_copy = argc > 6 && strcmp(argv[6], "zerocopy") == 0;
  int is_v6 = strchr(argv[2], ':') != NULL;
  address.any.sa_family = is_v6 ? AF_INET6 : AF_INET;
  address_size = is_v6 ? sizeof address.in6 : sizeof address.in;
  address.in.sin_port = htons((uint16_t)atoi(argv[3]));
  if (inet_pton(address.any.sa_family, argv[2], is_v6 ? (void *)&address.in6.sin6_addr : &address.in.sin_addr) != 1) die(argv[2]);
  signal(SIGPIPE, SIG_IGN);
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
  if (strcmp(mode, "sink") == 0 || strcmp(mode, "drain") == 0) serve(serve_sink);
  if (strcmp(mode, "source") == 0) serve(serve_source);
  if (strcmp(mode, "echo") == 0) serve(serve_echo);
  if (strcmp(mode, "udp-echo") == 0) serve_datagrams(0);
  if (strcmp(mode, "udp-sink") == 0) serve_datagrams(1);
  if (strcmp(mode, "closer") == 0) serve(serve_nothing);
  if (strcmp(mode, "epoll-echo") == 0) serve_epoll();
  pthread_t others[64];
  for (int i = 1; i < threads; i++)
    if (pthread_create(&others[i], NULL, client_thread, (void *)(intptr_t)i) != 0) die("pthread_create");
  if (!run_client()) {
    fprintf(stderr, "bench_peer: no mode %s\n", mode);
    return 2;
  }
  for (int i = 1; i < threads; i++) pthread_join(others[i], NULL);
  return 0;
}
