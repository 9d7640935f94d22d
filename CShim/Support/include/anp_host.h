// What Sources/Host needs from C: system calls that no interposer sees, the lock's futex, the clock, the process's one
// shard, the environment as it was when the program started, and a thread.
//
// Nothing here may go through a libc function that libanp.so itself exports (read, write, close, poll, syscall …): inside
// libanp.so such a call would come back to us. Hence raw system calls; they leave errno alone, too.
#pragma once

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>

/// What every program runs, whether it uses the stack or not: it lies together, so that few pages of the library are touched.
#define ANP_AT_START __attribute__((section(".text.startup")))

/// A system call by number; returns the result or -errno.
static inline long anp_host_call(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = number;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "no system call instruction known for this machine"
#endif
}

// ---- The process's one stack ------------------------------------------------------------------------------------------

/// State shared by every thread. C because it must be there before any constructor and any swift_once ran.
struct anp_host_globals {
  /// The running shards (Swift's UnsafeMutablePointer<Shard> to the first), or NULL. Written with release, read with acquire.
  void *shard;
  /// The parsed configuration (UnsafeMutablePointer<HostConfiguration>), or NULL.
  void *configuration;
  /// Called under the shard's lock / after it was released; never NULL.
  void (*readiness_changed)(uint32_t cookie, uint32_t events);
  void (*after_unlock)(void);
  /// Held while configuration and shard are made.
  uint32_t start_lock;
  /// Raw value of the last start error that was printed, plus one: a program that tries again and again gets one line.
  uint32_t printed_error;
  /// Set when the statistics have been printed.
  uint32_t statistics_printed;
  /// Set in a forked child: the device, the log and the capture file belong to the parent's stack.
  uint32_t forked;
  /// How many shards there are; written before `shard` is.
  uint32_t shard_count;
  /// What was said last about the device (errno's value).
  uint32_t reported_device_error;
  /// What is known of the lease (Swift's UnsafeMutablePointer<LeaseKnowledge>), or NULL.
  void *lease;
  /// ANP_LEASE_…; who waits for the lease sleeps on it.
  uint32_t lease_state;
  /// Held while a lease's news are brought to all who need them, and over what is known of it.
  uint32_t lease_lock;
  /// Until when a first lease is waited for, CLOCK_MONOTONIC, nanoseconds.
  int64_t lease_deadline;
};

enum {
  /// No lease is needed, or there is one.
  ANP_LEASE_SETTLED = 0,
  /// The first one has not come yet.
  ANP_LEASE_AWAITED = 1,
  /// It was waited for in vain; it may still come.
  ANP_LEASE_MISSING = 2,
};

extern struct anp_host_globals anp_host_globals_;
static inline struct anp_host_globals *anp_host(void) { return &anp_host_globals_; }
static inline uint32_t *anp_lease_word(void) { return &anp_host_globals_.lease_state; }
static inline void *anp_load_pointer(void **p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void anp_store_pointer(void **p, void *value) { __atomic_store_n(p, value, __ATOMIC_RELEASE); }

// ---- Lock and ownership words -----------------------------------------------------------------------------------------

/// The calling thread's kernel id, asked for once per thread.
extern __thread uint32_t anp_thread_id_ __attribute__((tls_model("initial-exec")));
uint32_t anp_thread_id_slow(void);
static inline uint32_t anp_thread_id(void) { return anp_thread_id_ ? anp_thread_id_ : anp_thread_id_slow(); }
/// In a forked child: the thread has a new id.
static inline void anp_forget_thread_id(void) { anp_thread_id_ = 0; }

/// The lock word has three states: 0 = free, tid = held, tid | WAITERS = held and somebody sleeps for it. So the word also
/// tells who holds it, which the keeper asks when a thread died inside.
#define ANP_LOCK_WAITERS 0x80000000u
void anp_lock_slow(uint32_t *word, uint32_t me);
void anp_lock_wake(uint32_t *word);

static inline int anp_try_lock(uint32_t *word) {
  uint32_t free = 0;
  return __atomic_compare_exchange_n(word, &free, anp_thread_id(), 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}
static inline void anp_lock(uint32_t *word) {
  if (!anp_try_lock(word)) anp_lock_slow(word, anp_thread_id());
}
static inline void anp_unlock(uint32_t *word) {
  if (__atomic_exchange_n(word, 0, __ATOMIC_RELEASE) & ANP_LOCK_WAITERS) anp_lock_wake(word);
}
/// The holder's thread id, 0 where free.
static inline uint32_t anp_lock_owner(uint32_t *word) {
  return __atomic_load_n(word, __ATOMIC_RELAXED) & ~ANP_LOCK_WAITERS;
}
static inline uint32_t anp_load_word(uint32_t *word) { return __atomic_load_n(word, __ATOMIC_ACQUIRE); }
/// Sets a word from 0 to 1; 1 for the one caller who did.
static inline int anp_claim_word(uint32_t *word) { return __atomic_exchange_n(word, 1, __ATOMIC_ACQ_REL) == 0; }
/// Sets a word that is `expected`; 1 where it was.
static inline int anp_replace_word(uint32_t *word, uint32_t expected, uint32_t value) {
  return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
static inline uint32_t anp_exchange_word(uint32_t *word, uint32_t value) {
  return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
}
static inline void anp_store_word(uint32_t *word, uint32_t value) { __atomic_store_n(word, value, __ATOMIC_RELEASE); }

// ---- Time and chance --------------------------------------------------------------------------------------------------

/// CLOCK_MONOTONIC / CLOCK_REALTIME, nanoseconds; through the vDSO, no system call.
static inline int64_t anp_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}
static inline int64_t anp_monotonic(void) { return anp_clock(CLOCK_MONOTONIC); }
/// As the monotonic clock, but going on while the machine is suspended.
static inline int64_t anp_boottime(void) { return anp_clock(CLOCK_BOOTTIME); }
static inline int64_t anp_realtime(void) { return anp_clock(CLOCK_REALTIME); }

/// Fills `bytes` from getrandom(2); 0 or -errno.
int anp_entropy(void *bytes, size_t count);

/// True under ThreadSanitizer, which follows every thread of the memory and does not know what to make of a keeper.
int anp_under_thread_sanitizer(void);

// ---- Descriptors ------------------------------------------------------------------------------------------------------

/// Moves a descriptor of ours to a high number with close-on-exec, out of the way of programs that expect low numbers in
/// order; returns the number (the old one where there is no room above).
int anp_raise_descriptor(int fd);
/// A raised close-on-exec duplicate, or -errno.
int anp_duplicate_descriptor(int fd);
void anp_close(int fd);
/// open(2), raised; -errno on failure.
int anp_open(const char *path, int flags, int mode);
/// A file to append to, made where it is missing, emptied where `fresh`; raised, or -errno.
int anp_open_output(const char *path, int fresh);
/// Reads a file from its beginning, as much as fits; bytes or -errno.
long anp_read_file(const char *path, void *bytes, size_t count);
/// Opens a directory that is this user's and nobody else's, making it first where it is missing: a descriptor, or -errno
/// (-EPERM: it is somebody else's, or open to others).
int anp_open_private_directory(const char *path);
/// Reads a file of this user's in it, as much as fits; bytes or -errno.
long anp_read_private_file(int directory, const char *name, void *bytes, size_t count);
/// Puts a file there as a whole, in the place of an earlier one; 0 or -errno.
int anp_replace_private_file(int directory, const char *name, const void *bytes, size_t count);
void anp_remove_private_file(int directory, const char *name);
/// Writes all of it, or as much as goes; bytes written or -errno.
long anp_write_all(int fd, const void *bytes, size_t count);
/// As anp_write_all, but gives up where the reader of a pipe or terminal does not take anything for `milliseconds`: -EAGAIN.
long anp_write_patiently(int fd, const void *bytes, size_t count, int milliseconds);
/// One write; bytes or -errno.
long anp_write(int fd, const void *bytes, size_t count);
/// One gathered write; bytes or -errno.
struct iovec;
long anp_writev(int fd, const struct iovec *vectors, int count);

/// A timer as a descriptor; arming costs the armer one system call and wakes nobody before its time.
int anp_timer_make(void);
/// Absolute CLOCK_MONOTONIC nanoseconds; a time in the past fires at once; negative disarms. Clears an earlier firing.
void anp_timer_set(int fd, int64_t deadline);

/// True while descriptor 2 is somewhere a line of ours may go: what it was when the program started, a terminal, a pipe, or a
/// file opened for appending. A program that closed it may have been given the number for a file or a socket of its own.
int anp_standard_error_usable(void);

/// What the receive thread sleeps on. Written under the shard's lock, read by that thread without.
struct anp_sleep_numbers {
  int32_t device;
  int32_t timer;
  /// Times it has gone to sleep.
  uint32_t rounds;
};
/// Sleeps until the device (where `device_too`) is readable or in error, the timer has fired, or `timeout` nanoseconds (negative:
/// no limit) have passed; then 0.
enum { ANP_EVENT_READABLE = 1, ANP_EVENT_DEVICE_ERROR = 2, ANP_EVENT_TIMER = 4 };
unsigned anp_event_wait(struct anp_sleep_numbers *numbers, int device_too, int64_t timeout);
/// Gives it other numbers and returns `rounds`: once that has changed, nobody sleeps on the old ones.
uint32_t anp_sleep_move(struct anp_sleep_numbers *numbers, int device, int timer);
uint32_t anp_sleep_rounds(struct anp_sleep_numbers *numbers);

/// 1 where `fd` is readable within the time (negative: at any time), 0 where not, -1 where it is in error.
int anp_wait_readable(int fd, int64_t nanoseconds);
/// The same for `count` descriptors: a bit for each that is readable, 0 after the time, -1 where one is in error.
enum { ANP_WAIT_READABLE_MAX = 8 };
int anp_wait_any_readable(const int *fds, int count, int64_t nanoseconds);

// ---- Environment, thread ----------------------------------------------------------------------------------------------

/// The value of an ANP_ variable, or of XDG_RUNTIME_DIR, as it was when the program started, or NULL. Programs that clear or overwrite their
/// environment (daemons, setproctitle) do not change it. Safe before any constructor ran.
const char *anp_setting(const char *name);

/// Starts a detached thread with every signal blocked; 0 or -errno.
int anp_thread_start(void (*body)(void *), void *context, const char *name, size_t stack_bytes);
/// The kernel's version, major << 8 | minor; 0 where it does not say.
int anp_kernel_version(void);

static inline int anp_process_id(void) { return (int)anp_host_call(SYS_getpid, 0, 0, 0, 0, 0, 0); }
static inline uint32_t anp_user_id(void) { return (uint32_t)anp_host_call(SYS_geteuid, 0, 0, 0, 0, 0, 0); }
/// nanosleep through a raw call.
void anp_sleep(int64_t nanoseconds);
/// Whether the machine has more than one core; this process may be kept to one of them all the same.
int anp_has_several_cores(void);
/// Lets another thread run that is about to finish something.
void anp_yield(void);
