// Owns: syscall(2) by hand. Programs and libraries (libuv's sendmmsg and recvmmsg) make socket calls through it; those go the
// way of their namesakes. Everything else is handed on with all six arguments and no frame of ours left on the stack, because
// clone and vfork return twice.
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/select.h>
#include <unistd.h>

#include "interpose.h"

typedef long (*Syscall)(long, long, long, long, long, long, long);

// A plain function under the variadic function's name: on both architectures integer arguments travel alike.
ANP_EXPORT long anp_syscall_by_hand(long n, long a, long b, long c, long d, long e, long f) __asm__("syscall");

ANP_EXPORT long anp_syscall_by_hand(long n, long a, long b, long c, long d, long e, long f) {
  switch (n) {
    case SYS_socket: return socket((int)a, (int)b, (int)c);
    case SYS_bind: return bind((int)a, (const struct sockaddr *)b, (socklen_t)c);
    case SYS_connect: return connect((int)a, (const struct sockaddr *)b, (socklen_t)c);
    case SYS_listen: return listen((int)a, (int)b);
    case SYS_accept: return accept((int)a, (struct sockaddr *)b, (socklen_t *)c);
    case SYS_accept4: return accept4((int)a, (struct sockaddr *)b, (socklen_t *)c, (int)d);
    case SYS_shutdown: return shutdown((int)a, (int)b);
    case SYS_getsockname: return getsockname((int)a, (struct sockaddr *)b, (socklen_t *)c);
    case SYS_getpeername: return getpeername((int)a, (struct sockaddr *)b, (socklen_t *)c);
    case SYS_setsockopt: return setsockopt((int)a, (int)b, (int)c, (const void *)d, (socklen_t)e);
    case SYS_getsockopt: return getsockopt((int)a, (int)b, (int)c, (void *)d, (socklen_t *)e);
    case SYS_read: return read((int)a, (void *)b, (size_t)c);
    case SYS_readv: return readv((int)a, (const struct iovec *)b, (int)c);
    case SYS_write: return write((int)a, (const void *)b, (size_t)c);
    case SYS_writev: return writev((int)a, (const struct iovec *)b, (int)c);
    case SYS_recvfrom: return recvfrom((int)a, (void *)b, (size_t)c, (int)d, (struct sockaddr *)e, (socklen_t *)f);
    case SYS_sendto: return sendto((int)a, (const void *)b, (size_t)c, (int)d, (const struct sockaddr *)e, (socklen_t)f);
    case SYS_recvmsg: return recvmsg((int)a, (struct msghdr *)b, (int)c);
    case SYS_sendmsg: return sendmsg((int)a, (const struct msghdr *)b, (int)c);
    case SYS_recvmmsg: return recvmmsg((int)a, (struct mmsghdr *)b, (unsigned)c, (int)d, (struct timespec *)e);
    case SYS_sendmmsg: return sendmmsg((int)a, (struct mmsghdr *)b, (unsigned)c, (int)d);
    case SYS_sendfile: return sendfile((int)a, (int)b, (off_t *)c, (size_t)d);
    case SYS_close: return close((int)a);
    case SYS_close_range: return close_range((unsigned)a, (unsigned)b, (int)c);
    case SYS_dup: return dup((int)a);
    case SYS_dup3: return dup3((int)a, (int)b, (int)c);
    case SYS_fcntl: return fcntl((int)a, (int)b, c);
    case SYS_ioctl: return ioctl((int)a, (unsigned long)b, c);
    case SYS_epoll_create1: return epoll_create1((int)a);
    case SYS_epoll_ctl: return epoll_ctl((int)a, (int)b, (int)c, (struct epoll_event *)d);
    case SYS_epoll_pwait: return epoll_pwait((int)a, (struct epoll_event *)b, (int)c, (int)d, (const sigset_t *)e);
    case SYS_ppoll: return ppoll((struct pollfd *)a, (nfds_t)b, (const struct timespec *)c, (const sigset_t *)d);
#ifdef SYS_dup2
    case SYS_dup2: return dup2((int)a, (int)b);
    case SYS_poll: return poll((struct pollfd *)a, (nfds_t)b, (int)c);
    case SYS_epoll_create: return epoll_create((int)a);
    case SYS_epoll_wait: return epoll_wait((int)a, (struct epoll_event *)b, (int)c, (int)d);
    case SYS_select: return select((int)a, (fd_set *)b, (fd_set *)c, (fd_set *)d, (struct timeval *)e);
#endif
    default: break;
  }
  __attribute__((musttail)) return ((Syscall)anp_real_get(ANP_REAL_syscall))(n, a, b, c, d, e, f);
}
