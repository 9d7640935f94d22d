// What the programs of this folder share. Each exercises one area of the socket interface and prints every call with
// its result, errno name and data, the same each time: the judge runs it on the kernel's stack and under the shim and
// compares line by line. So: no time, no port the system chose, no descriptor number, unless it is the point.
//
// The peer is scripts/matrix/puppet.py, told what to do over a unix socket; docs/TESTING.md lists its commands.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// linux/tcp.h and netinet/tcp.h cannot both be included; the former has the newer tcp_info.
#include <linux/tcp.h>
#ifndef SOL_TCP
#define SOL_TCP 6
#endif

// Printing

static inline void section(const char *name) { printf("\n== %s\n", name); }

static inline void note(const char *format, ...) {
  va_list list;
  va_start(list, format);
  vprintf(format, list);
  va_end(list);
  putchar('\n');
}

static inline long show(const char *what, long result) {
  int error = errno;
  if (result == -1)
    printf("%s = -1 %s\n", what, strerrorname_np(error) ? strerrorname_np(error) : "?");
  else
    printf("%s = %ld\n", what, result);
  errno = error;
  return result;
}

/// Makes a call, prints it with its result.
#define CALL(expression) (errno = 0, show(#expression, (long)(expression)))
/// The same for calls that give a descriptor: its number says nothing.
#define OPEN(expression) (errno = 0, show_open(#expression, (expression)))
/// Where going on makes no sense without success.
#define MUST(expression) \
  do { \
    if ((long)(expression) == -1) { \
      printf("%s: %s: cannot go on\n", #expression, strerrorname_np(errno)); \
      fflush(stdout); \
      _exit(3); \
    } \
  } while (0)

static inline int show_open(const char *what, int fd) {
  if (fd < 0)
    show(what, fd);
  else
    printf("%s = fd\n", what);
  return fd;
}

static inline const char *error_name(int error) { return error == 0 ? "0" : strerrorname_np(error); }

/// Names of the bits, as in "IN|HUP".
static inline const char *poll_names(unsigned bits) {
  static char texts[8][96];
  static int turn;
  char *text = texts[turn++ % 8];
  const struct {
    unsigned bit;
    const char *name;
  } names[] = {{POLLIN, "IN"},         {POLLPRI, "PRI"},       {POLLOUT, "OUT"},       {POLLERR, "ERR"},
               {POLLHUP, "HUP"},       {POLLNVAL, "NVAL"},     {POLLRDNORM, "RDNORM"}, {POLLRDBAND, "RDBAND"},
               {POLLWRNORM, "WRNORM"}, {POLLWRBAND, "WRBAND"}, {POLLRDHUP, "RDHUP"}};
  text[0] = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (bits & names[i].bit) {
      if (text[0])
        strcat(text, "|");
      strcat(text, names[i].name);
      bits &= ~names[i].bit;
    }
  if (bits)
    sprintf(text + strlen(text), "|%#x", bits);
  return text[0] ? text : "0";
}

// Time

static inline long now_ms(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static inline void sleep_ms(long milliseconds) {
  struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
  while (nanosleep(&time, &time) == -1 && errno == EINTR)
    ;
}

/// Time for what is under way on the network to arrive.
static inline void settle(void) { sleep_ms(60); }

/// Whether what began at `start` took as long as it should; the figure only when not.
static inline void took(long start, long least, long most) {
  long elapsed = now_ms() - start;
  if (elapsed >= least && elapsed <= most)
    printf("took %ld to %ld ms\n", least, most);
  else
    printf("took %ld ms, not %ld to %ld\n", elapsed, least, most);
}

// Addresses

#define SIZE_IN ((socklen_t)sizeof(struct sockaddr_in))
#define SIZE_IN6 ((socklen_t)sizeof(struct sockaddr_in6))

static inline struct sockaddr *in4(const char *address, int port) {
  static struct sockaddr_in ring[16];
  static int turn;
  struct sockaddr_in *result = &ring[__atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED) % 16];
  memset(result, 0, sizeof *result);
  result->sin_family = AF_INET;
  result->sin_port = htons(port);
  inet_pton(AF_INET, address, &result->sin_addr);
  return (struct sockaddr *)result;
}

static inline struct sockaddr *in6(const char *address, int port) {
  static struct sockaddr_in6 ring[16];
  static int turn;
  struct sockaddr_in6 *result = &ring[__atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED) % 16];
  memset(result, 0, sizeof *result);
  result->sin6_family = AF_INET6;
  result->sin6_port = htons(port);
  inet_pton(AF_INET6, address, &result->sin6_addr);
  return (struct sockaddr *)result;
}

static inline const char *host(void) { return getenv("HOST"); }
static inline const char *peer_address(void) { return getenv("PEER"); }
/// The peer's address with that port, and ours.
#define PEER(port) in4(peer_address(), port), SIZE_IN
#define HOST(port) in4(host(), port), SIZE_IN
#define ANY(port) in4("0.0.0.0", port), SIZE_IN
static inline const char *host6(void) { return getenv("HOST6"); }
static inline const char *peer6(void) { return getenv("PEER6"); }
#define PEER_6(port) in6(peer6(), port), SIZE_IN6
#define HOST_6(port) in6(host6(), port), SIZE_IN6

/// recvmsg into `buffer`, with room for a name and control data, which *message then points to until the next call. Notes the error
/// behind `what` where there is nothing.
static inline long take_message(int fd, int flags, const char *what, void *buffer, size_t size, struct msghdr *message) {
  static struct sockaddr_storage name;
  static unsigned char control[512];
  static struct iovec vector;
  memset(&name, 0, sizeof name);
  vector = (struct iovec){buffer, size};
  *message = (struct msghdr){.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &vector, .msg_iovlen = 1,
                             .msg_control = control, .msg_controllen = sizeof control};
  errno = 0;
  long count = recvmsg(fd, message, flags);
  if (count < 0)
    note("%s: %s", what, error_name(errno));
  return count;
}

/// The address with its port: "#" for a port the system chose from its ephemeral range.
static inline const char *address_text(const void *storage) {
  static char texts[4][80];
  static int turn;
  char *text = texts[turn++ % 4], name[INET6_ADDRSTRLEN] = "?";
  const struct sockaddr *address = storage;
  int port = 0;
  if (address->sa_family == AF_INET) {
    const struct sockaddr_in *in = storage;
    inet_ntop(AF_INET, &in->sin_addr, name, sizeof name);
    port = ntohs(in->sin_port);
  } else if (address->sa_family == AF_INET6) {
    const struct sockaddr_in6 *in = storage;
    inet_ntop(AF_INET6, &in->sin6_addr, name, sizeof name);
    port = ntohs(in->sin6_port);
  } else {
    sprintf(text, "family %d", address->sa_family);
    return text;
  }
  if (port >= 32768)
    sprintf(text, "[%s]:#", name);
  else
    sprintf(text, "[%s]:%d", name, port);
  return text;
}

static inline void show_names(int fd) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  memset(&name, 0, sizeof name);
  if (CALL(getsockname(fd, (struct sockaddr *)&name, &length)) == 0)
    note("  %s length %u", address_text(&name), length);
  length = sizeof name;
  if (CALL(getpeername(fd, (struct sockaddr *)&name, &length)) == 0)
    note("  %s length %u", address_text(&name), length);
}

// The peer

static inline const char *peer_ask(const char *command) {
  static FILE *in;
  static int control = -1;
  static char reply[512];
  if (control < 0) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", getenv("PUPPET") ? getenv("PUPPET") : "puppet.sock");
    // High up: the low numbers belong to the test.
    int low = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    MUST(low);
    MUST(connect(low, (struct sockaddr *)&address, sizeof address));
    control = fcntl(low, F_DUPFD_CLOEXEC, 700);
    close(low);
    in = fdopen(fcntl(control, F_DUPFD_CLOEXEC, 701), "r");
  }
  dprintf(control, "%s\n", command);
  if (!fgets(reply, sizeof reply, in)) {
    printf("the peer has gone\n");
    fflush(stdout);
    _exit(4);
  }
  reply[strcspn(reply, "\n")] = 0;
  return reply;
}

/// Tells the peer what to do; prints command and reply. Returns when it has been done.
__attribute__((format(printf, 1, 2))) static inline const char *peer(const char *format, ...) {
  char command[256];
  va_list list;
  va_start(list, format);
  vsnprintf(command, sizeof command, format, list);
  va_end(list);
  const char *reply = peer_ask(command);
  printf("peer: %s -> %s\n", command, reply);
  return reply;
}

// Bytes, as puppet.py makes and sums them

static inline void pattern(unsigned char *bytes, size_t count, unsigned seed) {
  for (size_t i = 0; i < count; i++)
    bytes[i] = seed + i % 251;
}

/// Continues `crc` (0 at first): zlib's crc32.
static inline uint32_t crc32(uint32_t crc, const void *data, size_t count) {
  static uint32_t table[256];
  if (!table[1])
    for (uint32_t i = 0; i < 256; i++) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; bit++)
        value = value & 1 ? value >> 1 ^ 0xEDB88320 : value >> 1;
      table[i] = value;
    }
  const unsigned char *bytes = data;
  crc = ~crc;
  for (size_t i = 0; i < count; i++)
    crc = table[(crc ^ bytes[i]) & 255] ^ crc >> 8;
  return ~crc;
}

static inline void show_bytes(const char *what, const void *bytes, long count) {
  if (count >= 0)
    note("  %s: %ld bytes crc %08x", what, count, crc32(0, bytes, count));
}

// Sockets that are ready for use. They print nothing: the calls are another program's subject.

static inline int connected(int port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  MUST(fd);
  MUST(connect(fd, PEER(port)));
  return fd;
}

static inline int listening(int port, int backlog) {
  int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  MUST(fd);
  MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
  MUST(bind(fd, ANY(port)));
  MUST(listen(fd, backlog));
  return fd;
}

/// A connection to the peer's socket `name`; both ends are ready.
static inline int pair_with_peer(const char *name) {
  static int port = 7400;
  char command[64];
  port++;
  snprintf(command, sizeof command, "listen %s-listener %d", name, port);
  peer_ask(command);
  int fd = connected(port);
  snprintf(command, sizeof command, "accept %s %s-listener", name, name);
  peer_ask(command);
  snprintf(command, sizeof command, "close %s-listener", name);
  peer_ask(command);
  return fd;
}

/// The same where we accept.
static inline int accepted_from_peer(const char *name) {
  static int port = 7600;
  char command[64];
  int listener = listening(++port, 4);
  snprintf(command, sizeof command, "connect %s %d", name, port);
  peer_ask(command);
  int fd = accept(listener, NULL, NULL);
  MUST(fd);
  close(listener);
  return fd;
}

/// Waits until poll reports any of `events` on the socket (or time is up) and prints what it reports.
static inline int show_poll(int fd, short events, int milliseconds) {
  struct pollfd entry = {.fd = fd, .events = events};
  int count = poll(&entry, 1, milliseconds);
  note("poll for %s: %d %s", poll_names((unsigned short)events), count, poll_names((unsigned short)entry.revents));
  return entry.revents;
}

#define ALL_EVENTS (POLLIN | POLLPRI | POLLOUT | POLLRDHUP)

static inline int option(int fd, int level, int name) {
  int value = -77;
  socklen_t length = sizeof value;
  return getsockopt(fd, level, name, &value, &length) == -1 ? -errno : value;
}

static inline void show_error(int fd) { note("SO_ERROR: %s", error_name(option(fd, SOL_SOCKET, SO_ERROR))); }

static inline int set_option(int fd, int level, int name, int value) {
  return setsockopt(fd, level, name, &value, sizeof value);
}

static inline void nonblocking(int fd) { MUST(fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)); }

/// Receives until `count` bytes, the end or an error; the number of bytes.
static inline long receive_all(int fd, void *buffer, size_t count) {
  size_t got = 0;
  while (got < count) {
    ssize_t n = recv(fd, (char *)buffer + got, count - got, 0);
    if (n <= 0)
      break;
    got += n;
  }
  return got;
}

/// Sends until both ends' buffers are full and stay so; the number of bytes.
static inline long fill(int fd) {
  static const char zeros[1 << 18];
  long total = 0, count;
  for (int quiet = 0; quiet < 3; sleep_ms(50)) {
    long before = total;
    while ((count = send(fd, zeros, sizeof zeros, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
      total += count;
    quiet = total == before ? quiet + 1 : 0;
  }
  return total;
}

/// First statement of each main: lines come out whole even when the program is ended from outside.
static inline void begin(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGPIPE, SIG_DFL);
}
