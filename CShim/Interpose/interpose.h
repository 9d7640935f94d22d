// What the files of exported symbols share. A wrapper looks its descriptor up first; what is not in the table goes to libc at
// once: one load or two, Swift is not entered, nothing is started.
#pragma once

#include <errno.h>
#include <stdint.h>

#include "anp_entry.h"
#include "anp_fdtable.h"
#include "anp_real.h"
#include "anp_support.h"

#define ANP_EXPORT __attribute__((visibility("default")))
#define ANP_UNLIKELY(x) __builtin_expect(!!(x), 0)

/// Kernel style → libc style.
static inline long anp_answer(long result) {
  if (result >= 0) return result;
  errno = (int)-result;
  return -1;
}

/// The body of a wrapper: `entry` holds the table entry in `ours`, an expression that calls an entry point; `real` is the call of
/// the real function.
#define ANP_ROUTE(fd, real, ours)              \
  do {                                         \
    uint64_t entry = anp_fd_look_up(fd);       \
    if (ANP_UNLIKELY(entry != 0)) {            \
      long result = (ours);                    \
      if (result != ANP_PASS) return (__typeof__(real))anp_answer(result); \
    }                                          \
    return (real);                             \
  } while (0)

/// A timespec as nanoseconds for the entry points: NULL is for ever. -1 through `valid` for what the kernel calls EINVAL.
static inline int64_t anp_nanoseconds(const struct timespec *time, int *valid) {
  *valid = 1;
  if (!time) return -1;
  if (time->tv_sec < 0 || time->tv_nsec < 0 || time->tv_nsec > 999999999) {
    *valid = 0;
    return 0;
  }
  if (time->tv_sec > INT64_MAX / 1000000000 - 1) return -1;
  return (int64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}
