// Owns: the exported symbols that make, name and end sockets and conversations.
#define _GNU_SOURCE
#include <netinet/in.h>

#include "interpose.h"

// A socket for echo requests.
static int is_ping(int domain, int type, int protocol) {
  return (type & 0xf) == SOCK_DGRAM && protocol == (domain == AF_INET6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
}

// Which sockets may be the stack's. Everything else (local, netlink, packet) stays with the kernel unseen. Multipath TCP falls back to
// TCP with any peer, so it may as well do so here.
static int is_candidate(int domain, int type, int protocol) {
  if (domain != AF_INET && domain != AF_INET6) return 0;
  switch (type & 0xf) {
    case SOCK_STREAM: return protocol == 0 || protocol == IPPROTO_TCP || protocol == 262 /* IPPROTO_MPTCP */;
    case SOCK_DGRAM: return protocol == 0 || protocol == IPPROTO_UDP || is_ping(domain, type, protocol);
    case SOCK_RAW: return 1;
    default: return 0;
  }
}

// Raw and ICMP sockets take privileges that the stack has no need of: where the kernel refuses one, a UDP socket stands in for it.
static int may_stand_in(int domain, int type, int protocol, int error) {
  int is_privileged = (type & 0xf) == SOCK_RAW || is_ping(domain, type, protocol);
  return is_privileged && (error == EPERM || error == EACCES);
}

ANP_EXPORT int socket(int domain, int type, int protocol) {
  if (!is_candidate(domain, type, protocol)) return ANP_REAL(socket)(domain, type, protocol);
  int error = errno;
  int fd = ANP_REAL(socket)(domain, type, protocol == 262 ? IPPROTO_TCP : protocol);
  int stands_in = fd < 0 && may_stand_in(domain, type, protocol, errno);
  if (stands_in) {
    fd = ANP_REAL(socket)(domain, (type & ~0xf) | SOCK_DGRAM, 0);
    if (fd >= 0) errno = error;
  }
  if (fd < 0) return fd;
  long result = anp_entry_socket_created(fd, domain, type, protocol, stands_in);
  if (result < 0) {
    anp_kernel_close(fd);
    return (int)anp_answer(result);
  }
  return fd;
}

ANP_EXPORT int bind(int fd, const struct sockaddr *address, socklen_t length) {
  ANP_ROUTE(fd, ANP_REAL(bind)(fd, address, length), anp_entry_bind(fd, entry, address, length));
}

ANP_EXPORT int connect(int fd, const struct sockaddr *address, socklen_t length) {
  ANP_ROUTE(fd, ANP_REAL(connect)(fd, address, length), anp_entry_connect(fd, entry, address, length));
}

ANP_EXPORT int listen(int fd, int backlog) {
  ANP_ROUTE(fd, ANP_REAL(listen)(fd, backlog), anp_entry_listen(fd, entry, backlog));
}

ANP_EXPORT int accept(int fd, struct sockaddr *address, socklen_t *length) {
  ANP_ROUTE(fd, ANP_REAL(accept)(fd, address, length), anp_entry_accept(fd, entry, address, length, 0));
}

ANP_EXPORT int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
  ANP_ROUTE(fd, ANP_REAL(accept4)(fd, address, length, flags), anp_entry_accept(fd, entry, address, length, flags));
}

ANP_EXPORT int shutdown(int fd, int how) {
  ANP_ROUTE(fd, ANP_REAL(shutdown)(fd, how), anp_entry_shutdown(fd, entry, how));
}

ANP_EXPORT int getsockname(int fd, struct sockaddr *address, socklen_t *length) {
  ANP_ROUTE(fd, ANP_REAL(getsockname)(fd, address, length), anp_entry_name(fd, entry, 0, address, length));
}

ANP_EXPORT int getpeername(int fd, struct sockaddr *address, socklen_t *length) {
  ANP_ROUTE(fd, ANP_REAL(getpeername)(fd, address, length), anp_entry_name(fd, entry, 1, address, length));
}

ANP_EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
  ANP_ROUTE(fd, ANP_REAL(setsockopt)(fd, level, name, value, length),
            anp_entry_setsockopt(fd, entry, level, name, value, length));
}

ANP_EXPORT int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
  ANP_ROUTE(fd, ANP_REAL(getsockopt)(fd, level, name, value, length),
            anp_entry_getsockopt(fd, entry, level, name, value, length));
}

ANP_EXPORT int sockatmark(int fd) {
  uint64_t entry = anp_fd_look_up(fd);
  if (entry) {
    int mark = 0;
    long result = anp_entry_ioctl(fd, entry, 0x8905 /* SIOCATMARK */, &mark);
    if (result != ANP_PASS) return result < 0 ? (int)anp_answer(result) : mark;
  }
  return ANP_REAL(sockatmark)(fd);
}
