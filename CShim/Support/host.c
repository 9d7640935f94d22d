// Owns: the machine's services under Sources/Host apart from the device: futex, entropy, descriptors, timer, the
// environment at start, the receive thread's birth. Prints nothing.

#define _GNU_SOURCE
#include "anp_host.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/utsname.h>

static void ignore_readiness(uint32_t cookie, uint32_t events) {}
static void ignore_unlock(void) {}

struct anp_host_globals anp_host_globals_ = {
    .readiness_changed = ignore_readiness,
    .after_unlock = ignore_unlock,
};

// ---- Lock -------------------------------------------------------------------------------------------------------------

__thread uint32_t anp_thread_id_ __attribute__((tls_model("initial-exec")));

uint32_t anp_thread_id_slow(void) {
  anp_thread_id_ = (uint32_t)anp_host_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
  return anp_thread_id_;
}

static inline void pause_briefly(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

void anp_lock_slow(uint32_t *word, uint32_t me) {
  // The lock is held for a microsecond or so: look a few times before paying for a sleep, unless others sleep already.
  for (int spin = 0; spin < 60; spin++) {
    uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (seen & ANP_LOCK_WAITERS) break;
    if (seen == 0 && __atomic_compare_exchange_n(word, &seen, me, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
    pause_briefly();
  }
  for (;;) {
    uint32_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
    if (seen == 0) {
      // Whether others still sleep is not known here: assume it. One needless wake at worst.
      if (__atomic_compare_exchange_n(word, &seen, me | ANP_LOCK_WAITERS, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) return;
      continue;
    }
    uint32_t marked = seen | ANP_LOCK_WAITERS;
    if (seen != marked && !__atomic_compare_exchange_n(word, &seen, marked, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) continue;
    anp_host_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, (long)marked, 0, 0, 0);
  }
}

void anp_lock_wake(uint32_t *word) { anp_host_call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0); }

// ---- Chance -----------------------------------------------------------------------------------------------------------

int anp_entropy(void *bytes, size_t count) {
  char *at = bytes;
  while (count > 0) {
    long n = anp_host_call(SYS_getrandom, (long)at, (long)count, 0, 0, 0, 0);
    if (n == -EINTR) continue;
    if (n < 0) return (int)n;
    at += n;
    count -= (size_t)n;
  }
  return 0;
}

int anp_under_thread_sanitizer(void) {
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
  return 1;
#endif
#endif
  return 0;
}

// ---- Descriptors ------------------------------------------------------------------------------------------------------

// Just below the limit, but not above 1024: the kernel's table grows to the highest number in use.
static long lowest_number(void) {
  struct rlimit limit = {1024, 1024};
  anp_host_call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit, 0, 0);
  long top = limit.rlim_cur > 1024 ? 1024 : (long)limit.rlim_cur;
  return top > 128 ? top - 64 : top / 2;
}

int anp_duplicate_descriptor(int fd) {
  return (int)anp_host_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, lowest_number(), 0, 0, 0);
}

int anp_raise_descriptor(int fd) {
  int raised = anp_duplicate_descriptor(fd);
  if (raised < 0) return fd;
  anp_close(fd);
  return raised;
}

void anp_close(int fd) { anp_host_call(SYS_close, fd, 0, 0, 0, 0, 0); }

int anp_open(const char *path, int flags, int mode) {
  long fd = anp_host_call(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, mode, 0, 0);
  return fd < 0 ? (int)fd : anp_raise_descriptor((int)fd);
}

int anp_open_output(const char *path, int fresh) {
  return anp_open(path, O_WRONLY | O_CREAT | O_APPEND | O_NOCTTY | (fresh ? O_TRUNC : 0), 0644);
}

long anp_read_file(const char *path, void *bytes, size_t count) {
  long fd = anp_host_call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0);
  if (fd < 0) return fd;
  size_t used = 0;
  while (used < count) {
    long n = anp_host_call(SYS_read, fd, (long)bytes + (long)used, (long)(count - used), 0, 0, 0);
    if (n == -EINTR) continue;
    if (n <= 0) break;
    used += (size_t)n;
  }
  anp_close((int)fd);
  return (long)used;
}

int anp_open_private_directory(const char *path) {
  anp_host_call(SYS_mkdirat, AT_FDCWD, (long)path, 0700, 0, 0, 0);
  long fd = anp_host_call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, 0, 0);
  if (fd < 0) return (int)fd;
  struct stat status;
  if (anp_host_call(SYS_fstat, fd, (long)&status, 0, 0, 0, 0) == 0 && status.st_uid == anp_user_id() &&
      (status.st_mode & 077) == 0)
    return (int)fd;
  anp_close((int)fd);
  return -EPERM;
}

long anp_read_private_file(int directory, const char *name, void *bytes, size_t count) {
  long fd = anp_host_call(SYS_openat, directory, (long)name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0, 0, 0);
  if (fd < 0) return fd;
  struct stat status;
  long result = -EPERM;
  if (anp_host_call(SYS_fstat, fd, (long)&status, 0, 0, 0, 0) == 0 && S_ISREG(status.st_mode) &&
      status.st_uid == anp_user_id())
    result = anp_host_call(SYS_read, fd, (long)bytes, (long)count, 0, 0, 0);
  anp_close((int)fd);
  return result;
}

int anp_replace_private_file(int directory, const char *name, const void *bytes, size_t count) {
  // A name of this process's own until it is whole: its number, the last digit first.
  char draft[16] = ".";
  int process = anp_process_id();
  for (int i = 1; process > 0; i++, process /= 10) draft[i] = (char)('0' + process % 10);
  long fd = anp_host_call(SYS_openat, directory, (long)draft, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600,
                          0, 0);
  if (fd < 0) return (int)fd;
  long result = anp_write_all((int)fd, bytes, count);
  anp_close((int)fd);
  if (result == (long)count) {
    result = anp_host_call(SYS_renameat2, directory, (long)draft, directory, (long)name, 0, 0);
    if (result == 0) return 0;
  }
  anp_remove_private_file(directory, draft);
  return result < 0 ? (int)result : -ENOSPC;
}

void anp_remove_private_file(int directory, const char *name) {
  anp_host_call(SYS_unlinkat, directory, (long)name, 0, 0, 0, 0);
}

long anp_write_all(int fd, const void *bytes, size_t count) {
  const char *at = bytes;
  size_t left = count;
  while (left > 0) {
    long n = anp_host_call(SYS_write, fd, (long)at, (long)left, 0, 0, 0);
    if (n == -EINTR) continue;
    if (n < 0) return left == count ? n : (long)(count - left);
    at += n;
    left -= (size_t)n;
  }
  return (long)count;
}

static int wait_for(struct pollfd *entries, unsigned count, const struct timespec *limit) {
  struct timespec copy;
  if (limit) copy = *limit;
  return (int)anp_host_call(SYS_ppoll, (long)entries, count, (long)(limit ? &copy : 0), 0, 0, 0);
}

long anp_write_patiently(int fd, const void *bytes, size_t count, int milliseconds) {
  struct pollfd entry = {.fd = fd, .events = POLLOUT};
  struct timespec limit = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};
  // POLLOUT of a pipe promises PIPE_BUF bytes, which is more than a line: the write below does not block.
  if (wait_for(&entry, 1, &limit) == 0) return -EAGAIN;
  return anp_write_all(fd, bytes, count);
}

long anp_write(int fd, const void *bytes, size_t count) {
  long n;
  do n = anp_host_call(SYS_write, fd, (long)bytes, (long)count, 0, 0, 0);
  while (n == -EINTR);
  return n;
}

long anp_writev(int fd, const struct iovec *vectors, int count) {
  for (;;) {
    long n = anp_host_call(SYS_writev, fd, (long)vectors, count, 0, 0, 0);
    if (n != -EINTR) return n;
  }
}

int anp_timer_make(void) {
  long fd = anp_host_call(SYS_timerfd_create, CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK, 0, 0, 0, 0);
  return fd < 0 ? (int)fd : anp_raise_descriptor((int)fd);
}

void anp_timer_set(int fd, int64_t deadline) {
  struct itimerspec when;
  memset(&when, 0, sizeof when);
  if (deadline >= 0) {
    // All zero would disarm.
    if (deadline == 0) deadline = 1;
    when.it_value.tv_sec = deadline / 1000000000;
    when.it_value.tv_nsec = deadline % 1000000000;
  }
  anp_host_call(SYS_timerfd_settime, fd, TFD_TIMER_ABSTIME, (long)&when, 0, 0, 0);
}

// Sequentially consistent: either the sleeper sees the new numbers, or the mover sees its round begin.
uint32_t anp_sleep_move(struct anp_sleep_numbers *numbers, int device, int timer) {
  __atomic_store_n(&numbers->device, device, __ATOMIC_SEQ_CST);
  __atomic_store_n(&numbers->timer, timer, __ATOMIC_SEQ_CST);
  return __atomic_load_n(&numbers->rounds, __ATOMIC_SEQ_CST);
}

uint32_t anp_sleep_rounds(struct anp_sleep_numbers *numbers) {
  return __atomic_load_n(&numbers->rounds, __ATOMIC_ACQUIRE);
}

unsigned anp_event_wait(struct anp_sleep_numbers *numbers, int device_too, int64_t timeout) {
  __atomic_fetch_add(&numbers->rounds, 1, __ATOMIC_SEQ_CST);
  int timer = __atomic_load_n(&numbers->timer, __ATOMIC_SEQ_CST);
  int device = device_too ? __atomic_load_n(&numbers->device, __ATOMIC_SEQ_CST) : -1;
  struct pollfd entries[2] = {{.fd = timer, .events = POLLIN}, {.fd = device, .events = POLLIN}};
  struct timespec limit = {timeout / 1000000000, timeout % 1000000000};
  int n = wait_for(entries, 2, timeout < 0 ? 0 : &limit);
  if (n <= 0) return 0;
  // Closed by the program with a raw system call: no alarm any more, but no mad loop either; timers run when looked at.
  if (entries[0].revents & (POLLNVAL | POLLERR)) {
    anp_sleep(1000000);
    return ANP_EVENT_TIMER | ((entries[1].revents & POLLIN) ? ANP_EVENT_READABLE : 0);
  }
  return ((entries[1].revents & POLLIN) ? ANP_EVENT_READABLE : 0) |
         ((entries[1].revents & (POLLERR | POLLHUP | POLLNVAL)) ? ANP_EVENT_DEVICE_ERROR : 0) |
         ((entries[0].revents & POLLIN) ? ANP_EVENT_TIMER : 0);
}

int anp_wait_readable(int fd, int64_t nanoseconds) { return anp_wait_any_readable(&fd, 1, nanoseconds); }

int anp_wait_any_readable(const int *fds, int count, int64_t nanoseconds) {
  struct pollfd entries[ANP_WAIT_READABLE_MAX];
  struct timespec limit = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  if (count > ANP_WAIT_READABLE_MAX) count = ANP_WAIT_READABLE_MAX;
  for (int i = 0; i < count; i++) entries[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  if (wait_for(entries, (unsigned)count, nanoseconds < 0 ? 0 : &limit) <= 0) return 0;
  int ready = 0;
  for (int i = 0; i < count; i++) {
    if (entries[i].revents & POLLIN) {
      ready |= 1 << i;
    } else if (entries[i].revents) {
      return -1;
    }
  }
  return ready;
}

int anp_has_several_cores(void) {
  char online[64] = "";  // "0-3,8", or "0"
  long length = anp_read_file("/sys/devices/system/cpu/online", online, sizeof online - 1);
  for (long i = 0; i < length; i++)
    if (online[i] == '-' || online[i] == ',') return 1;
  return 0;
}

void anp_yield(void) { anp_host_call(SYS_sched_yield, 0, 0, 0, 0, 0, 0); }

void anp_sleep(int64_t nanoseconds) {
  struct timespec t = {nanoseconds / 1000000000, nanoseconds % 1000000000};
  anp_host_call(SYS_nanosleep, (long)&t, 0, 0, 0, 0, 0);
}

// ---- Environment ------------------------------------------------------------------------------------------------------

extern char **environ;

enum { settings_size = 8192 };
static char settings[settings_size];  // "ANP_TAP=anp0\0ANP_DEBUG=all\0\0"
static uint32_t settings_taken;
static uint32_t settings_lock;

/// What the library reads: its own variables, and where a user's run-time files belong.
ANP_AT_START static int is_setting(const char *entry) {
  return strncmp(entry, "ANP_", 4) == 0 || strncmp(entry, "XDG_RUNTIME_DIR=", 16) == 0;
}

ANP_AT_START static void take_from(char **from) {
  size_t used = 0;
  for (; *from; from++) {
    const char *entry = *from;
    if (!is_setting(entry)) continue;
    size_t length = strlen(entry) + 1;
    // One setting that is longer than this is no setting of ours.
    if (used + length + 1 > settings_size) continue;
    memcpy(settings + used, entry, length);
    used += length;
  }
}

static void take_from_kernel(void) {
  long fd = anp_host_call(SYS_openat, AT_FDCWD, (long)"/proc/self/environ", O_RDONLY | O_CLOEXEC, 0, 0, 0);
  if (fd < 0) return;
  static char chunk[4096];
  size_t used = 0, length = 0;
  // Copies entry by entry; an entry that is not ours is overwritten by the next.
  for (;;) {
    long n = anp_host_call(SYS_read, fd, (long)chunk, sizeof chunk, 0, 0, 0);
    if (n <= 0) break;
    for (long i = 0; i < n; i++) {
      if (used + length < settings_size - 2) settings[used + length] = chunk[i];
      length++;
      if (chunk[i] != 0) continue;
      if (used + length < settings_size - 2 && is_setting(settings + used)) used += length;
      length = 0;
    }
  }
  memset(settings + used, 0, settings_size - used);
  anp_close((int)fd);
}

ANP_AT_START static void take_settings(char **from) {
  if (anp_load_word(&settings_taken)) return;
  anp_lock(&settings_lock);
  if (!settings_taken) {
    if (from) take_from(from);
    else take_from_kernel();
    anp_store_word(&settings_taken, 1);
  }
  anp_unlock(&settings_lock);
}

static struct stat standard_error;
static int standard_error_known;

int anp_standard_error_usable(void) {
  struct stat now;
  if (anp_host_call(SYS_fstat, 2, (long)&now, 0, 0, 0, 0) < 0) return 0;
  if (standard_error_known && now.st_dev == standard_error.st_dev && now.st_ino == standard_error.st_ino) return 1;
  if (S_ISCHR(now.st_mode) || S_ISFIFO(now.st_mode)) return 1;
  return S_ISREG(now.st_mode) && (anp_host_call(SYS_fcntl, 2, F_GETFL, 0, 0, 0, 0) & O_APPEND);
}

__attribute__((constructor)) ANP_AT_START static void as_it_was_at_start(int count, char **arguments, char **environment) {
  take_settings(environment ? environment : environ);
  standard_error_known = anp_host_call(SYS_fstat, 2, (long)&standard_error, 0, 0, 0, 0) == 0;
}

const char *anp_setting(const char *name) {
  take_settings(environ);
  size_t length = strlen(name);
  for (const char *entry = settings; *entry; entry += strlen(entry) + 1) {
    if (strncmp(entry, name, length) == 0 && entry[length] == '=') return entry + length + 1;
  }
  return 0;
}

// ---- Thread -----------------------------------------------------------------------------------------------------------

struct birth {
  void (*body)(void *);
  void *context;
  char name[16];
  uint32_t taken;
};

static void *live(void *given) {
  struct birth *birth = given;
  void (*body)(void *) = birth->body;
  void *context = birth->context;
  anp_host_call(SYS_prctl, PR_SET_NAME, (long)birth->name, 0, 0, 0, 0);
  anp_store_word(&birth->taken, 1);
  anp_host_call(SYS_futex, (long)&birth->taken, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
  body(context);
  return 0;
}

/// A program whose main thread has left by pthread_exit ends with its last thread: libc counts. A thread of ours never ends, and
/// must not count. The counter is private to libc and its debugger interface; where it is not to be found, such a program
/// has to call exit.
static void leave_uncounted(void) {
  uint32_t *count = dlsym(RTLD_DEFAULT, "__nptl_nthreads");
  if (count) __atomic_fetch_sub(count, 1, __ATOMIC_RELAXED);
}

static const char *number(const char *text, int *value) {
  for (*value = 0; *text >= '0' && *text <= '9' && *value < 255; text++) *value = *value * 10 + (*text - '0');
  return text;
}

int anp_kernel_version(void) {
  struct utsname names;
  if (anp_host_call(SYS_uname, (long)&names, 0, 0, 0, 0, 0) < 0) return 0;
  int major, minor = 0;
  const char *rest = number(names.release, &major);
  if (*rest == '.') number(rest + 1, &minor);
  return major << 8 | minor;
}

int anp_thread_start(void (*body)(void *), void *context, const char *name, size_t stack_bytes) {
  struct birth birth = {.body = body, .context = context};
  strncpy(birth.name, name, sizeof birth.name - 1);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, stack_bytes);
  // From its first instruction: a handler of the program must never run on a thread the program does not know. glibc
  // leaves its own two signals open (set*id in all threads needs them).
  sigset_t all;
  sigfillset(&all);
  pthread_attr_setsigmask_np(&attributes, &all);
  pthread_t thread;
  int error = pthread_create(&thread, &attributes, live, &birth);
  pthread_attr_destroy(&attributes);
  if (error) return -error;
  while (!anp_load_word(&birth.taken)) anp_host_call(SYS_futex, (long)&birth.taken, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
  leave_uncounted();
  return 0;
}
