// What Swift cannot say itself: raw system calls, the kernel's types and constants, one thread-local slot.
// Raw system calls, because ours must reach the kernel without passing through the wrappers that we export, must not be
// cancellation points, and must leave errno alone. They return >= 0 or -errno.
#pragma once

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#if defined(__x86_64__)
static inline long anp_syscall6(long n, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
static inline long anp_syscall6(long n, long a, long b, long c, long d, long e, long f) {
  register long x8 __asm__("x8") = n;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0"
                   : "+r"(x0)
                   : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                   : "memory", "cc");
  return x0;
}
#else
#error "libanp supports x86_64 and aarch64"
#endif

static inline long anp_syscall0(long n) { return anp_syscall6(n, 0, 0, 0, 0, 0, 0); }
static inline long anp_syscall1(long n, long a) { return anp_syscall6(n, a, 0, 0, 0, 0, 0); }
static inline long anp_syscall2(long n, long a, long b) { return anp_syscall6(n, a, b, 0, 0, 0, 0); }
static inline long anp_syscall3(long n, long a, long b, long c) { return anp_syscall6(n, a, b, c, 0, 0, 0); }
static inline long anp_syscall4(long n, long a, long b, long c, long d) { return anp_syscall6(n, a, b, c, d, 0, 0); }

// The kernel's side of a placeholder, and of descriptors that are not ours.
int anp_kernel_socket(int domain, int type, int protocol);
int anp_kernel_close(int fd);
int anp_kernel_bind(int fd, const void *address, uint32_t length);
int anp_kernel_connect(int fd, const void *address, uint32_t length);
ssize_t anp_kernel_recvmsg(int fd, struct msghdr *message, int flags);
/// The epoll set's descriptor, close-on-exec, or -errno.
int anp_kernel_epoll_create(void);
/// Sleeps until the set has events; their data, at most 16 of them. How many, or -errno.
int anp_kernel_epoll_marks(int epfd, uint64_t *marks, int most);
int anp_kernel_getsockname(int fd, void *address, uint32_t *length);
int anp_kernel_setsockopt(int fd, int level, int name, const void *value, uint32_t length);
int anp_kernel_getsockopt(int fd, int level, int name, void *value, uint32_t *length);
int anp_kernel_set_nonblocking(int fd, int on);
int anp_kernel_is_nonblocking(int fd);
int anp_kernel_duplicate(int fd, int at_least, int cloexec);
int anp_kernel_dup3(int old, int new_fd, int flags);
int anp_kernel_close_range(unsigned first, unsigned last, int flags);
int anp_kernel_eventfd(void);
int anp_kernel_epoll_control(int epfd, int operation, int fd, uint32_t events, uint64_t data);
/// poll without waiting.
int anp_kernel_poll_now(struct pollfd *fds, unsigned count);
/// epoll_wait without waiting.
int anp_kernel_epoll_now(int epfd, struct epoll_event *events, int max);
/// How often the library's own code has asked for memory (allocator.c counts, ANP_STATS prints).
extern uint64_t anp_allocations;
static inline uint64_t anp_allocation_count(void) { return anp_allocations; }

ssize_t anp_kernel_pread(int fd, void *buffer, size_t count, int64_t offset);
/// The size of a regular file, -1 of anything else.
int64_t anp_kernel_file_size(int fd);
/// Whether the kernel has the file's bytes in memory, as far as a look at one page in 128 KB tells (read-ahead's stretch). No for
/// file systems that cannot say.
int anp_kernel_is_cached(int fd, int64_t offset, size_t count);
/// memcpy that answers with -EFAULT where it would have been SIGSEGV or SIGBUS; may copy less than all.
ssize_t anp_kernel_copy(void *to, const void *from, size_t count);
/// A read-only mapping; NULL where there can be none.
void *anp_kernel_map_file(int fd, int64_t offset, size_t count);
void anp_kernel_unmap(void *base, size_t count);
ssize_t anp_kernel_read(int fd, void *buffer, size_t count);
int64_t anp_kernel_seek(int fd, int64_t offset, int whence);
/// Adds 1 to an eventfd; a full counter is as good as a success.
void anp_eventfd_signal(int fd);
/// Takes what an eventfd holds.
void anp_eventfd_drain(int fd);
void anp_futex_wait(void *word, uint32_t expected);
void anp_futex_wake(void *word, int count);
int64_t anp_monotonic_nanoseconds(void);
int64_t anp_realtime_nanoseconds(void);
/// SIGPIPE for the calling thread, as the kernel sends it.
void anp_raise_sigpipe(void);
/// True while the calling thread runs on its alternate signal stack.
int anp_on_signal_stack(void);

// The lock of Preload's own state (descriptions' free list, epoll sets, poller slots): a leaf, taken after a shard's lock,
// inside anp_enter(), for a few instructions or one eventfd write.
void anp_state_lock(void);
void anp_state_unlock(void);
/// In a forked child, whose other threads are gone.
void anp_state_lock_reset(void);

/// The calling thread's record (owned by Preload), or NULL. `at_exit` runs when the thread ends.
void *anp_thread_record(void);
void anp_set_thread_record(void *record, void (*at_exit)(void *));
/// The caller's stack depth, to tell whether the frame of an abandoned wait is still there.
static inline uintptr_t anp_stack_depth(void) { return (uintptr_t)__builtin_frame_address(0); }

/// An address in the page that is never mapped. The kernel answers EFAULT to every bad pointer; here it would be a crash. The
/// ones that programs do pass, NULL plus an offset, are told apart.
static inline int anp_is_nowhere(const void *address) { return (uintptr_t)address < 4096; }

/// epoll_event is packed on x86_64 only: Swift goes through these.
static inline void anp_epoll_store(struct epoll_event *array, int index, uint32_t events, uint64_t data) {
  array[index].events = events;
  array[index].data.u64 = data;
}
static inline uint32_t anp_epoll_events(const struct epoll_event *array, int index) { return array[index].events; }
static inline uint64_t anp_epoll_data(const struct epoll_event *array, int index) { return array[index].data.u64; }
