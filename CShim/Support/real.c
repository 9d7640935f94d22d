// Owns: the table of libc's own entry points (anp_real.h).
#define _GNU_SOURCE
#include "anp_real.h"

#include <dlfcn.h>
#include <errno.h>

#include "anp_support.h"

void *_Atomic anp_real_pointers[ANP_REAL_COUNT];

static const char *const names[ANP_REAL_COUNT] = {
#define X(name) #name,
    ANP_REAL_NAMES(X)
#undef X
};

// Stands in for a function that this libc does not have. Every function of the table returns an integer.
static long missing(void) {
  errno = ENOSYS;
  return -1;
}

void *anp_real_resolve(int index) {
  int saved = errno;
  void *found = dlsym(RTLD_NEXT, names[index]);
  if (!found) found = (void *)missing;
  atomic_store_explicit(&anp_real_pointers[index], found, memory_order_relaxed);
  errno = saved;
  return found;
}
