// Owns: the raw system calls behind anp_support.h, and the thread-local slot. Knows nothing of the stack.
#define _GNU_SOURCE
#include "anp_support.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "anp_names.h"

uint64_t anp_allocations;

int anp_kernel_socket(int domain, int type, int protocol) {
  return (int)anp_syscall3(SYS_socket, domain, type, protocol);
}

int anp_kernel_close(int fd) { return (int)anp_syscall1(SYS_close, fd); }

int anp_kernel_bind(int fd, const void *address, uint32_t length) {
  return (int)anp_syscall3(SYS_bind, fd, (long)address, length);
}

int anp_kernel_connect(int fd, const void *address, uint32_t length) {
  return (int)anp_syscall3(SYS_connect, fd, (long)address, length);
}

ssize_t anp_kernel_recvmsg(int fd, struct msghdr *message, int flags) {
  return anp_syscall3(SYS_recvmsg, fd, (long)message, flags);
}

int anp_kernel_epoll_create(void) { return (int)anp_syscall3(SYS_epoll_create1, EPOLL_CLOEXEC, 0, 0); }

int anp_kernel_epoll_marks(int epfd, uint64_t *marks, int most) {
  struct epoll_event events[16];
  int count = (int)anp_syscall6(SYS_epoll_pwait, epfd, (long)events, most < 16 ? most : 16, -1, 0, 8);
  for (int i = 0; i < count; i++) marks[i] = events[i].data.u64;
  return count;
}

int anp_kernel_getsockname(int fd, void *address, uint32_t *length) {
  return (int)anp_syscall3(SYS_getsockname, fd, (long)address, (long)length);
}

int anp_kernel_source_address(const uint8_t *destination, uint32_t scope, uint8_t *source) {
  // An IPv6 socket reaches mapped addresses, too, but the kernel may be without IPv6.
  static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
  int is_inet = __builtin_memcmp(destination, mapped, sizeof mapped) == 0;
  struct sockaddr_in6 inet6 = {.sin6_family = AF_INET6, .sin6_port = 0x0100, .sin6_scope_id = scope};
  struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = 0x0100};
  __builtin_memcpy(&inet6.sin6_addr, destination, 16);
  __builtin_memcpy(&inet.sin_addr, destination + 12, 4);
  uint32_t length = is_inet ? sizeof inet : sizeof inet6;
  void *name = is_inet ? (void *)&inet : (void *)&inet6;
  int fd = anp_kernel_socket(is_inet ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return fd;
  int result = (int)anp_syscall3(SYS_connect, fd, (long)name, length);
  if (result == 0) result = anp_kernel_getsockname(fd, name, &length);
  anp_kernel_close(fd);
  if (result < 0) return result;
  if (is_inet) {
    __builtin_memcpy(source, mapped, sizeof mapped);
    __builtin_memcpy(source + 12, &inet.sin_addr, 4);
  } else {
    __builtin_memcpy(source, &inet6.sin6_addr, 16);
  }
  return 0;
}

int anp_kernel_setsockopt(int fd, int level, int name, const void *value, uint32_t length) {
  return (int)anp_syscall6(SYS_setsockopt, fd, level, name, (long)value, length, 0);
}

int anp_kernel_getsockopt(int fd, int level, int name, void *value, uint32_t *length) {
  return (int)anp_syscall6(SYS_getsockopt, fd, level, name, (long)value, (long)length, 0);
}

int anp_kernel_is_nonblocking(int fd) {
  long flags = anp_syscall3(SYS_fcntl, fd, F_GETFL, 0);
  return flags < 0 ? (int)flags : (flags & O_NONBLOCK) != 0;
}

int anp_kernel_set_nonblocking(int fd, int on) {
  long flags = anp_syscall3(SYS_fcntl, fd, F_GETFL, 0);
  if (flags < 0) return (int)flags;
  long wanted = on ? flags | O_NONBLOCK : flags & ~(long)O_NONBLOCK;
  return wanted == flags ? 0 : (int)anp_syscall3(SYS_fcntl, fd, F_SETFL, wanted);
}

int anp_kernel_duplicate(int fd, int at_least, int cloexec) {
  return (int)anp_syscall3(SYS_fcntl, fd, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, at_least);
}

int anp_kernel_dup3(int old, int new_fd, int flags) { return (int)anp_syscall3(SYS_dup3, old, new_fd, flags); }

int anp_kernel_close_range(unsigned first, unsigned last, int flags) {
  return (int)anp_syscall3(SYS_close_range, first, last, flags);
}

int anp_kernel_eventfd(void) { return (int)anp_syscall2(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK); }

int anp_kernel_epoll_control(int epfd, int operation, int fd, uint32_t events, uint64_t data) {
  struct epoll_event event = {.events = events, .data.u64 = data};
  return (int)anp_syscall4(SYS_epoll_ctl, epfd, operation, fd, (long)&event);
}

int anp_kernel_poll_now(struct pollfd *fds, unsigned count) {
  struct timespec zero = {0, 0};
  return (int)anp_syscall6(SYS_ppoll, (long)fds, count, (long)&zero, 0, 8, 0);
}

int anp_kernel_epoll_now(int epfd, struct epoll_event *events, int max) {
  return (int)anp_syscall6(SYS_epoll_pwait, epfd, (long)events, max, 0, 0, 8);
}

ssize_t anp_kernel_pread(int fd, void *buffer, size_t count, int64_t offset) {
  return anp_syscall4(SYS_pread64, fd, (long)buffer, (long)count, offset);
}

int64_t anp_kernel_file_size(int fd) {
  struct stat status;
  if (anp_syscall2(SYS_fstat, fd, (long)&status) < 0) return -1;
  return S_ISREG(status.st_mode) ? status.st_size : -1;
}

int anp_kernel_is_cached(int fd, int64_t offset, size_t count) {
  char byte;
  struct iovec one = {&byte, 1};
  for (size_t at = 0; at < count; at += 128 << 10)
    if (anp_syscall6(SYS_preadv2, fd, (long)&one, 1, (long)offset + (long)at, 0, RWF_NOWAIT) != 1) return 0;
  return 1;
}

ssize_t anp_kernel_copy(void *to, const void *from, size_t count) {
  struct iovec local = {to, count}, remote = {(void *)from, count};
  return anp_syscall6(SYS_process_vm_readv, anp_syscall0(SYS_getpid), (long)&local, 1, (long)&remote, 1, 0);
}

void *anp_kernel_map_file(int fd, int64_t offset, size_t count) {
  long base = anp_syscall6(SYS_mmap, 0, (long)count, PROT_READ, MAP_SHARED, fd, offset);
  return base < 0 && base >= -4095 ? NULL : (void *)base;
}

void anp_kernel_unmap(void *base, size_t count) { anp_syscall2(SYS_munmap, (long)base, (long)count); }

ssize_t anp_kernel_read(int fd, void *buffer, size_t count) {
  return anp_syscall3(SYS_read, fd, (long)buffer, (long)count);
}

int64_t anp_kernel_seek(int fd, int64_t offset, int whence) { return anp_syscall3(SYS_lseek, fd, offset, whence); }

void anp_eventfd_signal(int fd) {
  uint64_t one = 1;
  (void)anp_syscall3(SYS_write, fd, (long)&one, sizeof one);
}

void anp_eventfd_drain(int fd) {
  uint64_t held;
  (void)anp_syscall3(SYS_read, fd, (long)&held, sizeof held);
}

void anp_futex_wait(void *word, uint32_t expected) {
  (void)anp_syscall4(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, expected, 0);
}

void anp_futex_wake(void *word, int count) {
  (void)anp_syscall3(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, count);
}

// The vDSO through libc: clock_gettime is not among the calls that we export.
static int64_t nanoseconds(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t anp_monotonic_nanoseconds(void) { return nanoseconds(CLOCK_MONOTONIC); }
int64_t anp_realtime_nanoseconds(void) { return nanoseconds(CLOCK_REALTIME); }

void anp_raise_sigpipe(void) {
  (void)anp_syscall3(SYS_tgkill, anp_syscall0(SYS_getpid), anp_syscall0(SYS_gettid), SIGPIPE);
}

int anp_on_signal_stack(void) {
  stack_t now;
  return anp_syscall2(SYS_sigaltstack, 0, (long)&now) == 0 && (now.ss_flags & SS_ONSTACK) != 0;
}

// 0 free, 1 held, 2 held and waited for.
static uint32_t state_word;

void anp_state_lock(void) {
  uint32_t seen = 0;
  if (__atomic_compare_exchange_n(&state_word, &seen, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
  do {
    if (seen == 2 || __atomic_exchange_n(&state_word, 2, __ATOMIC_ACQUIRE) != 0) {
      anp_futex_wait(&state_word, 2);
      seen = __atomic_exchange_n(&state_word, 2, __ATOMIC_ACQUIRE);
    } else {
      return;
    }
  } while (seen != 0);
}

void anp_state_unlock(void) {
  if (__atomic_exchange_n(&state_word, 0, __ATOMIC_RELEASE) == 2) anp_futex_wake(&state_word, 1);
}

void anp_state_lock_reset(void) { __atomic_store_n(&state_word, 0, __ATOMIC_RELEASE); }

// The key exists for its destructor only: look-ups go through the thread-local pointer. initial-exec, because the
// general model may allocate on first use, which a signal handler must not.
static __thread void *record __attribute__((tls_model("initial-exec")));
static _Atomic(uintptr_t) key_plus_one;
static void (*_Atomic exit_hook)(void *);

static void thread_ends(void *value) {
  void (*hook)(void *) = atomic_load_explicit(&exit_hook, memory_order_acquire);
  record = NULL;
  if (hook) hook(value);
}

void *anp_thread_record(void) { return record; }

void anp_set_thread_record(void *value, void (*at_exit)(void *)) {
  uintptr_t key = atomic_load_explicit(&key_plus_one, memory_order_acquire);
  if (key == 0) {
    pthread_key_t made;
    atomic_store_explicit(&exit_hook, at_exit, memory_order_release);
    if (pthread_key_create(&made, thread_ends) == 0) {
      uintptr_t none = 0;
      if (atomic_compare_exchange_strong(&key_plus_one, &none, (uintptr_t)made + 1)) {
        key = (uintptr_t)made + 1;
      } else {
        pthread_key_delete(made);
        key = none;
      }
    }
  }
  record = value;
  if (key != 0) pthread_setspecific((pthread_key_t)(key - 1), value);
}
