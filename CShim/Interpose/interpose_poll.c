// Owns: the exported symbols that wait for several descriptors: poll, select, epoll and their kin. select is turned into
// poll here (its meaning of readiness: POLLIN_SET, POLLOUT_SET and POLLEX_SET in the kernel's fs/select.c).
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/select.h>

#include "interpose.h"

extern int __poll_chk(struct pollfd *, nfds_t, int, size_t);
extern int __ppoll_chk(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *, size_t);

// Arrays this long live on the stack; longer ones in a mapping of their own, which a jump out of the wait would leave behind.
/// Entries of our own behind the program's: a wake eventfd, and the queues of the device.
enum { POLL_ON_STACK = 512, POLL_EXTRA = 1 + 8 };

static int64_t milliseconds(int timeout) { return timeout < 0 ? -1 : (int64_t)timeout * 1000000; }

static void *map(size_t bytes) {
  long mapped = anp_syscall6(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return mapped < 0 && mapped > -4096 ? NULL : (void *)mapped;
}

static void unmap(void *memory, size_t bytes) { anp_syscall2(SYS_munmap, (long)memory, (long)bytes); }

// MARK: poll

static int has_ours(const struct pollfd *fds, nfds_t count) {
  for (nfds_t i = 0; i < count; i++)
    if (ANP_UNLIKELY(anp_fd_look_up(fds[i].fd) != 0)) return 1;
  return 0;
}

/// *slept, where asked for, becomes 1 when the call slept, and stays otherwise.
static long poll_ours(struct pollfd *fds, nfds_t count, int64_t timeout, const sigset_t *mask, int *slept) {
  if (count + POLL_EXTRA <= POLL_ON_STACK) {
    struct pollfd scratch[POLL_ON_STACK];
    long result = anp_entry_poll(fds, (long)count, timeout, mask, scratch);
    if (slept && scratch[count].revents) *slept = 1;
    return result;
  }
  if (count > 1 << 24) return -EINVAL;
  size_t bytes = (count + POLL_EXTRA) * sizeof(struct pollfd);
  struct pollfd *scratch = map(bytes);
  if (!scratch) return -ENOMEM;
  long result = anp_entry_poll(fds, (long)count, timeout, mask, scratch);
  if (slept && scratch[count].revents) *slept = 1;
  unmap(scratch, bytes);
  return result;
}

ANP_EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout) {
  if (anp_is_nowhere(fds) || !has_ours(fds, count)) return ANP_REAL(poll)(fds, count, timeout);
  return (int)anp_answer(poll_ours(fds, count, milliseconds(timeout), NULL, NULL));
}

ANP_EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room) {
  if (anp_is_nowhere(fds) || room / sizeof *fds < count || !has_ours(fds, count)) return ANP_REAL(__poll_chk)(fds, count, timeout, room);
  return (int)anp_answer(poll_ours(fds, count, milliseconds(timeout), NULL, NULL));
}

static int ppoll_ours(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
  int valid;
  int64_t limit = anp_nanoseconds(timeout, &valid);
  return (int)anp_answer(valid ? poll_ours(fds, count, limit, mask, NULL) : -EINVAL);
}

ANP_EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask) {
  if (anp_is_nowhere(fds) || !has_ours(fds, count)) return ANP_REAL(ppoll)(fds, count, timeout, mask);
  return ppoll_ours(fds, count, timeout, mask);
}

ANP_EXPORT int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask,
                           size_t room) {
  if (anp_is_nowhere(fds) || room / sizeof *fds < count || !has_ours(fds, count))
    return ANP_REAL(__ppoll_chk)(fds, count, timeout, mask, room);
  return ppoll_ours(fds, count, timeout, mask);
}

// MARK: select. The sets are read as long words: they may be longer than fd_set says.

typedef unsigned long Word;
enum { WORD_BITS = 8 * sizeof(Word) };

static Word word_of(const fd_set *set, int index) { return set ? ((const Word *)set)[index] : 0; }

static int has_bit(const fd_set *set, int fd) { return (word_of(set, fd / WORD_BITS) >> (fd % WORD_BITS)) & 1; }

static void set_bit(fd_set *set, int fd) { ((Word *)set)[fd / WORD_BITS] |= 1ul << (fd % WORD_BITS); }

static int is_bad(const fd_set *set) { return set && anp_is_nowhere(set); }

/// Descriptors asked about; *ours tells whether one of them is in the table.
static int count_asked(int limit, const fd_set *in, const fd_set *out, const fd_set *ex, int *ours) {
  int count = 0;
  *ours = 0;
  for (int i = 0; i * WORD_BITS < limit; i++) {
    Word any = word_of(in, i) | word_of(out, i) | word_of(ex, i);
    for (; any; any &= any - 1) {
      int fd = i * WORD_BITS + __builtin_ctzl(any);
      if (fd >= limit) break;
      count += 1;
      if (anp_fd_look_up(fd) != 0) *ours = 1;
    }
  }
  return count;
}

static void clear(fd_set *set, int limit) {
  if (set) memset(set, 0, (size_t)((limit + WORD_BITS - 1) / WORD_BITS) * sizeof(Word));
}

// poll's words for what select calls readable, writable and exceptional. A descriptor that was closed during the wait is all
// three; one that was bad from the start makes the call fail.
enum {
  MEANS_IN = POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR | POLLNVAL,
  MEANS_OUT = POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR | POLLNVAL,
  MEANS_EX = POLLPRI | POLLNVAL,
};

static int is_in(const struct pollfd *entry) { return entry->events & POLLIN && entry->revents & MEANS_IN; }
static int is_out(const struct pollfd *entry) { return entry->events & POLLOUT && entry->revents & MEANS_OUT; }
static int is_ex(const struct pollfd *entry) { return entry->events & POLLPRI && entry->revents & MEANS_EX; }

/// poll reports hang-ups and errors to everybody, select only to those who asked to read or write. A wait that such an unasked
/// report ends goes on without that descriptor.
static long wait_for_asked(struct pollfd *fds, nfds_t count, int64_t timeout, const sigset_t *mask) {
  int64_t deadline = timeout > 0 ? anp_monotonic_nanoseconds() + timeout : 0;
  int slept = 0;
  for (;;) {
    long result = poll_ours(fds, count, timeout, mask, &slept);
    if (result <= 0) return result;
    int asked = 0;
    for (nfds_t i = 0; i < count; i++) {
      if (fds[i].revents & POLLNVAL && !slept) return -EBADF;
      asked |= is_in(&fds[i]) || is_out(&fds[i]) || is_ex(&fds[i]);
    }
    if (asked || timeout == 0) return result;
    for (nfds_t i = 0; i < count; i++)
      if (fds[i].revents) fds[i].fd = -1;
    if (timeout > 0) {
      int64_t left = deadline - anp_monotonic_nanoseconds();
      timeout = left > 0 ? left : 0;
    }
  }
}

static long select_with(struct pollfd *fds, int limit, fd_set *in, fd_set *out, fd_set *ex, int64_t timeout,
                        const sigset_t *mask) {
  nfds_t count = 0;
  for (int fd = 0; fd < limit; fd++) {
    short events = 0;
    if (has_bit(in, fd)) events |= POLLIN | POLLRDNORM | POLLRDBAND;
    if (has_bit(out, fd)) events |= POLLOUT | POLLWRNORM | POLLWRBAND;
    if (has_bit(ex, fd)) events |= POLLPRI;
    if (events) fds[count++] = (struct pollfd){.fd = fd, .events = events};
  }
  long result = wait_for_asked(fds, count, timeout, mask);
  if (result < 0) return result;
  clear(in, limit);
  clear(out, limit);
  clear(ex, limit);
  long bits = 0;
  for (nfds_t i = 0; i < count; i++) {
    if (fds[i].fd < 0) continue;
    if (is_in(&fds[i])) set_bit(in, fds[i].fd), bits += 1;
    if (is_out(&fds[i])) set_bit(out, fds[i].fd), bits += 1;
    if (is_ex(&fds[i])) set_bit(ex, fds[i].fd), bits += 1;
  }
  return bits;
}

static long select_ours(int asked, int limit, fd_set *in, fd_set *out, fd_set *ex, int64_t timeout, const sigset_t *mask) {
  if (asked < POLL_ON_STACK) {
    struct pollfd fds[POLL_ON_STACK];
    return select_with(fds, limit, in, out, ex, timeout, mask);
  }
  size_t bytes = (size_t)asked * sizeof(struct pollfd);
  struct pollfd *fds = map(bytes);
  if (!fds) return -ENOMEM;
  long result = select_with(fds, limit, in, out, ex, timeout, mask);
  unmap(fds, bytes);
  return result;
}

ANP_EXPORT int select(int limit, fd_set *in, fd_set *out, fd_set *ex, struct timeval *timeout) {
  int ours = 0;
  int good = limit > 0 && !is_bad(in) && !is_bad(out) && !is_bad(ex);
  int asked = good ? count_asked(limit, in, out, ex, &ours) : 0;
  if (!ours) return ANP_REAL(select)(limit, in, out, ex, timeout);
  int64_t wait = -1;
  if (timeout) {
    if (timeout->tv_sec < 0 || timeout->tv_usec < 0) return (int)anp_answer(-EINVAL);
    wait = timeout->tv_sec > 1l << 32 ? -1 : (int64_t)timeout->tv_sec * 1000000000 + timeout->tv_usec * 1000l;
  }
  int64_t start = timeout ? anp_monotonic_nanoseconds() : 0;
  long result = select_ours(asked, limit, in, out, ex, wait, NULL);
  if (timeout && wait >= 0) {
    // Linux tells how much time is left.
    int64_t left = wait - (anp_monotonic_nanoseconds() - start);
    if (left < 0) left = 0;
    timeout->tv_sec = left / 1000000000;
    timeout->tv_usec = left % 1000000000 / 1000;
  }
  return (int)anp_answer(result);
}

ANP_EXPORT int pselect(int limit, fd_set *in, fd_set *out, fd_set *ex, const struct timespec *timeout,
                       const sigset_t *mask) {
  int ours = 0;
  int good = limit > 0 && !is_bad(in) && !is_bad(out) && !is_bad(ex);
  int asked = good ? count_asked(limit, in, out, ex, &ours) : 0;
  if (!ours) return ANP_REAL(pselect)(limit, in, out, ex, timeout, mask);
  int valid;
  int64_t wait = anp_nanoseconds(timeout, &valid);
  return (int)anp_answer(valid ? select_ours(asked, limit, in, out, ex, wait, mask) : -EINVAL);
}

// MARK: epoll

static int created(int epfd) {
  if (epfd < 0) return epfd;
  long result = anp_entry_epoll_created(epfd);
  if (result == 0) return epfd;
  anp_kernel_close(epfd);
  return (int)anp_answer(result);
}

ANP_EXPORT int epoll_create(int size) { return created(ANP_REAL(epoll_create)(size)); }

ANP_EXPORT int epoll_create1(int flags) { return created(ANP_REAL(epoll_create1)(flags)); }

ANP_EXPORT int epoll_ctl(int epfd, int operation, int fd, struct epoll_event *event) {
  uint64_t target = anp_fd_look_up(fd);
  if (ANP_UNLIKELY(target != 0)) {
    long result = anp_entry_epoll_control(epfd, operation, fd, target, event);
    if (result != ANP_PASS) return (int)anp_answer(result);
  }
  int result = ANP_REAL(epoll_ctl)(epfd, operation, fd, event);
  uint64_t entry = anp_fd_look_up(epfd);
  if (result == 0 && anp_fd_kind_of(entry) == ANP_FD_EPOLL) anp_entry_epoll_kernel_changed(epfd, entry, operation);
  return result;
}

#define EPOLL_WAIT(epfd, real, events, maximum, timeout, mask)                  \
  do {                                                                          \
    uint64_t entry = anp_fd_look_up(epfd);                                      \
    if (anp_fd_kind_of(entry) != ANP_FD_EPOLL) return (real);                   \
    return (int)anp_answer(anp_entry_epoll_wait(epfd, entry, events, maximum, timeout, mask)); \
  } while (0)

ANP_EXPORT int epoll_wait(int epfd, struct epoll_event *events, int maximum, int timeout) {
  EPOLL_WAIT(epfd, ANP_REAL(epoll_wait)(epfd, events, maximum, timeout), events, maximum, milliseconds(timeout), NULL);
}

ANP_EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int maximum, int timeout, const sigset_t *mask) {
  EPOLL_WAIT(epfd, ANP_REAL(epoll_pwait)(epfd, events, maximum, timeout, mask), events, maximum, milliseconds(timeout),
             mask);
}

ANP_EXPORT int epoll_pwait2(int epfd, struct epoll_event *events, int maximum, const struct timespec *timeout,
                            const sigset_t *mask) {
  int valid;
  int64_t wait = anp_nanoseconds(timeout, &valid);
  if (!valid) return (int)anp_answer(-EINVAL);
  EPOLL_WAIT(epfd, ANP_REAL(epoll_pwait2)(epfd, events, maximum, timeout, mask), events, maximum, wait, mask);
}
