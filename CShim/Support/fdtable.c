// Owns: the table of descriptors that are ours (anp_fdtable.h), and the homes of our internal descriptors.
#define _GNU_SOURCE
#include "anp_fdtable.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "anp_support.h"

uint64_t *anp_fd_pages[ANP_FD_PAGES];
int anp_fd_used;

static uint64_t *page_for(int fd) {
  uint64_t **slot = &anp_fd_pages[fd >> ANP_FD_PAGE_SHIFT];
  uint64_t *page = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
  if (page) return page;
  size_t bytes = ANP_FD_PAGE_ENTRIES * sizeof(uint64_t);
  long mapped = anp_syscall6(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped < 0 && mapped > -4096) return NULL;
  uint64_t *made = (uint64_t *)mapped;
  if (__atomic_compare_exchange_n(slot, &page, made, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) return made;
  anp_syscall2(SYS_munmap, mapped, (long)bytes);
  return page;
}

int anp_fd_exchange(int fd, uint64_t entry, uint64_t *old) {
  if (old) *old = 0;
  if ((unsigned)fd >= (unsigned)ANP_FD_LIMIT) return entry ? -EMFILE : 0;
  if (!entry && !__atomic_load_n(&anp_fd_pages[fd >> ANP_FD_PAGE_SHIFT], __ATOMIC_ACQUIRE)) return 0;
  uint64_t *page = page_for(fd);
  if (!page) return -ENOMEM;
  __atomic_store_n(&anp_fd_used, 1, __ATOMIC_RELAXED);
  uint64_t before = __atomic_exchange_n(&page[fd & (ANP_FD_PAGE_ENTRIES - 1)], entry, __ATOMIC_ACQ_REL);
  if (old) *old = before;
  return 0;
}

int anp_fd_remove(int fd, uint64_t entry) {
  if ((unsigned)fd >= (unsigned)ANP_FD_LIMIT) return 0;
  uint64_t *page = __atomic_load_n(&anp_fd_pages[fd >> ANP_FD_PAGE_SHIFT], __ATOMIC_ACQUIRE);
  return page && __atomic_compare_exchange_n(&page[fd & (ANP_FD_PAGE_ENTRIES - 1)], &entry, 0, 0, __ATOMIC_ACQ_REL,
                                             __ATOMIC_ACQUIRE);
}

int anp_fd_next(int first, int last, uint64_t *entry) {
  if (first < 0) first = 0;
  if (last < 0 || last >= ANP_FD_LIMIT) last = ANP_FD_LIMIT - 1;
  int fd = first;
  while (fd <= last) {
    uint64_t *page = __atomic_load_n(&anp_fd_pages[fd >> ANP_FD_PAGE_SHIFT], __ATOMIC_ACQUIRE);
    if (!page) {
      fd = ((fd >> ANP_FD_PAGE_SHIFT) + 1) << ANP_FD_PAGE_SHIFT;
      continue;
    }
    uint64_t found = __atomic_load_n(&page[fd & (ANP_FD_PAGE_ENTRIES - 1)], __ATOMIC_ACQUIRE);
    if (found) {
      *entry = found;
      return fd;
    }
    fd += 1;
  }
  return -1;
}

// Homes. A slot holds the address of the owner's variable, or NULL when free.
enum { HOMES = 4096 };
static int *homes[HOMES];

static int take_home(int *home) {
  for (int i = 0; i < HOMES; i++) {
    int *none = NULL;
    if (__atomic_load_n(&homes[i], __ATOMIC_RELAXED) == NULL &&
        __atomic_compare_exchange_n(&homes[i], &none, home, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
      return i;
  }
  return -1;
}

// A number that programs do not reach by counting up: just below the soft limit, but not above 1024. The kernel's table grows to
// the highest number in use, and growing it in a program with threads waits for an RCU grace period, 8 ms and more; the
// host's descriptors have made it grow to 1024 already. Wherever there is room when that is full.
static int move_high(int fd) {
  struct rlimit limit = {1024, 1024};
  anp_syscall4(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, (long)&limit);
  long ceiling = limit.rlim_cur > 1024 ? 1024 : (long)limit.rlim_cur;
  for (long room = 64; room < ceiling; room *= 2) {
    int moved = anp_kernel_duplicate(fd, (int)(ceiling - room), 1);
    if (moved >= 0) return moved;
  }
  return anp_kernel_duplicate(fd, 3, 1);
}

int anp_internal_adopt(int *home, int fd) {
  int number = move_high(fd);
  anp_kernel_close(fd);
  if (number < 0) return number;
  int slot = take_home(home);
  if (slot >= 0) {
    int failed = anp_fd_exchange(number, anp_fd_entry(ANP_FD_INTERNAL, (uint32_t)slot, 0), NULL);
    if (failed) __atomic_store_n(&homes[slot], NULL, __ATOMIC_RELEASE);
  }
  __atomic_store_n(home, number, __ATOMIC_RELEASE);
  return number;
}

void anp_internal_close(int *home) {
  int fd = __atomic_exchange_n(home, -1, __ATOMIC_ACQ_REL);
  if (fd < 0) return;
  uint64_t entry = anp_fd_look_up(fd);
  if (anp_fd_kind_of(entry) == ANP_FD_INTERNAL && homes[anp_fd_index_of(entry)] == home) {
    anp_fd_remove(fd, entry);
    __atomic_store_n(&homes[anp_fd_index_of(entry)], NULL, __ATOMIC_RELEASE);
  }
  anp_kernel_close(fd);
}

int anp_internal_move_away(int fd, uint64_t entry) {
  int *home = __atomic_load_n(&homes[anp_fd_index_of(entry)], __ATOMIC_ACQUIRE);
  if (!home || __atomic_load_n(home, __ATOMIC_ACQUIRE) != fd) return 0;
  int number = move_high(fd);
  if (number < 0) return number;
  int failed = anp_fd_exchange(number, entry, NULL);
  if (failed) {
    anp_kernel_close(number);
    return failed;
  }
  __atomic_store_n(home, number, __ATOMIC_RELEASE);
  anp_fd_remove(fd, entry);
  return 0;
}

void anp_internal_close_all(void) {
  for (int i = 0; i < HOMES; i++) {
    int *home = __atomic_load_n(&homes[i], __ATOMIC_ACQUIRE);
    if (home) anp_internal_close(home);
  }
}
