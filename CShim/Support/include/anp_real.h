// libc's own entry points behind the names that we export, looked up lazily and atomically with dlsym(RTLD_NEXT):
// other libraries' constructors call us before any constructor of ours would have run.
//
//   ANP_REAL(recv)(fd, buffer, length, flags)
#pragma once

#include <stdatomic.h>

// One name per exported function that passes calls on. Keep sorted.
#define ANP_REAL_NAMES(X) \
  X(__poll_chk) X(__ppoll_chk) X(__read_chk) X(__recv_chk) X(__recvfrom_chk) X(__vdprintf_chk) \
  X(accept) X(accept4) \
  X(bind) \
  X(close) X(close_range) X(connect) \
  X(dup) X(dup2) X(dup3) \
  X(epoll_create) X(epoll_create1) X(epoll_ctl) X(epoll_pwait) X(epoll_pwait2) X(epoll_wait) \
  X(fcntl) X(fcntl64) X(fdopen) X(freeaddrinfo) X(freeifaddrs) \
  X(getaddrinfo) X(gethostbyaddr) X(gethostbyaddr_r) X(gethostbyname) X(gethostbyname2) X(gethostbyname2_r) \
  X(getifaddrs) X(getnameinfo) X(getpeername) X(getsockname) X(getsockopt) \
  X(ioctl) \
  X(listen) \
  X(poll) X(ppoll) X(pselect) \
  X(read) X(readv) X(recv) X(recvfrom) X(recvmmsg) X(recvmsg) \
  X(select) X(send) X(sendfile) X(sendfile64) X(sendmmsg) X(sendmsg) X(sendto) X(setsockopt) X(shutdown) X(sockatmark) \
  X(socket) X(splice) X(syscall) \
  X(vdprintf) \
  X(write) X(writev)

enum anp_real_index {
#define X(name) ANP_REAL_##name,
  ANP_REAL_NAMES(X)
#undef X
  ANP_REAL_COUNT
};

extern void *_Atomic anp_real_pointers[ANP_REAL_COUNT];
void *anp_real_resolve(int index);

static inline void *anp_real_get(int index) {
  void *found = atomic_load_explicit(&anp_real_pointers[index], memory_order_relaxed);
  return __builtin_expect(found != 0, 1) ? found : anp_real_resolve(index);
}

#define ANP_REAL(name) ((__typeof__(&name))anp_real_get(ANP_REAL_##name))
