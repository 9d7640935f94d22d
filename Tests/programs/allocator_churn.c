// Tests CShim/Interpose/allocator.c from within: compiled with -Dmalloc=anp_malloc and so on, so that this program's own
// libc stays out of it. Threads and signal handlers allocate, fill, check and free blocks of all sizes; no two may overlap.
// process_tests.sh builds and runs it, plain and under the sanitizers.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "anp_process.h"

void *anp_malloc(size_t);
void *anp_calloc(size_t, size_t);
void *anp_realloc(void *, size_t);
void anp_free(void *);
int anp_posix_memalign(void **, size_t, size_t);
void *anp_aligned_alloc(size_t, size_t);
size_t anp_malloc_usable_size(void *);
void anp_allocator_fork_prepare(void);
void anp_allocator_keeper(void);

static _Atomic int failures;
#define CHECK(condition) \
  do { \
    if (!(condition)) { \
      printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      failures += 1; \
    } \
  } while (0)

struct block {
  unsigned char *at;
  size_t size;
  unsigned char fill;
};

static unsigned next_random(unsigned *state) {
  *state = *state * 1664525 + 1013904223;
  return *state >> 8;
}

/// Mostly small, sometimes large; now and then around the limits.
static size_t some_size(unsigned *random) {
  unsigned kind = next_random(random) % 100;
  if (kind < 70) return next_random(random) % 600;
  if (kind < 90) return next_random(random) % 13000;
  if (kind < 95) return (12 << 10) - 3 + next_random(random) % 6;
  return next_random(random) % 400000;
}

static void check_fill(const struct block *block) {
  for (size_t i = 0; i < block->size; i += block->size > 2000 ? 97 : 1)
    if (block->at[i] != block->fill) {
      CHECK(!"a block was overwritten");
      return;
    }
}

static void renew(struct block *block, unsigned *random) {
  if (block->at) check_fill(block);
  size_t size = some_size(random);
  unsigned char fill = (unsigned char)next_random(random);
  switch (next_random(random) % 5) {
  case 0: {
    anp_free(block->at);
    block->at = anp_calloc(1, size);
    CHECK(block->at);
    for (size_t i = 0; i < size; i += 61)
      if (block->at[i]) {
        CHECK(!"calloc gave what is not zero");
        break;
      }
    break;
  }
  case 1: {
    size_t kept = block->at ? block->size < size ? block->size : size : 0;
    unsigned char before = block->fill;
    block->at = anp_realloc(block->at, size);
    struct block part = {block->at, kept, before};
    check_fill(&part);
    break;
  }
  case 2: {
    size_t alignment = 8ul << next_random(random) % 13;
    void *at = NULL;
    anp_free(block->at);
    CHECK(anp_posix_memalign(&at, alignment, size) == 0);
    CHECK((uintptr_t)at % alignment == 0);
    block->at = at;
    break;
  }
  default:
    anp_free(block->at);
    block->at = anp_malloc(size);
  }
  CHECK(block->at && (uintptr_t)block->at % 16 <= 8);
  CHECK(anp_malloc_usable_size(block->at) >= size);
  block->size = size;
  block->fill = fill;
  memset(block->at, fill, size);
}

#ifdef __SANITIZE_THREAD__
enum { BLOCKS = 400, ROUNDS = 4000 };
#else
enum { BLOCKS = 400, ROUNDS = 40000 };
#endif

static void *churn(void *seed) {
  struct block blocks[BLOCKS];
  unsigned random = (unsigned)(uintptr_t)seed;
  memset(blocks, 0, sizeof blocks);
  for (int i = 0; i < ROUNDS; i++) renew(&blocks[next_random(&random) % BLOCKS], &random);
  for (int i = 0; i < BLOCKS; i++) {
    if (blocks[i].at) check_fill(&blocks[i]);
    anp_free(blocks[i].at);
  }
  return NULL;
}

/// Freed by another thread than the one that took it.
enum { PASSED = 20000 };
static _Atomic(struct block *) passed[64];

static void *takes(void *nothing) {
  unsigned random = 5;
  for (int i = 0; i < PASSED; i++) {
    struct block *block = anp_calloc(1, sizeof *block);
    renew(block, &random);
    struct block *before = atomic_exchange(&passed[i % 64], block);
    if (before) {
      check_fill(before);
      anp_free(before->at);
      anp_free(before);
    }
  }
  return nothing;
}

static struct block of_handler[50];
static unsigned random_of_handler = 99;
static _Atomic int in_handler;
static void in_signal(int signal) {
  // The timer is the process's: any thread may get it, and these blocks are one handler's at a time.
  if (atomic_exchange(&in_handler, 1)) return;
  renew(&of_handler[next_random(&random_of_handler) % 50], &random_of_handler);
  in_handler = 0;
}

static void test_sizes(void) {
  for (size_t size = 0; size < 70000; size += size < 20000 ? 1 : 97) {
    unsigned char *block = anp_malloc(size);
    CHECK(block && (uintptr_t)block % 16 == 0 && anp_malloc_usable_size(block) >= size);
    memset(block, 1, size);
    anp_free(block);
  }
  for (size_t alignment = 8; alignment < 65536; alignment *= 2) {
    for (size_t size = 1; size < 100000; size = size * 3 + 1) {
      void *block = NULL;
      CHECK(anp_posix_memalign(&block, alignment, size) == 0 && (uintptr_t)block % alignment == 0);
      memset(block, 2, size);
      anp_free(block);
    }
  }
  void *block = NULL;
  CHECK(anp_posix_memalign(&block, 24, 10) == EINVAL);
  CHECK(anp_posix_memalign(&block, 65536, 10) == ENOMEM);
  CHECK(anp_malloc((size_t)-1) == NULL && anp_malloc((size_t)-100000) == NULL && anp_calloc((size_t)1 << 33, (size_t)1 << 33) == NULL);
  CHECK(anp_malloc(PTRDIFF_MAX) == NULL);
  anp_free(NULL);
}

/// What is freed is used again: no growth.
static long resident_pages(void) {
  long total = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file && fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
  if (file) fclose(file);
  return resident;
}
static void test_reuse(void) {
  churn((void *)7);
  long before = resident_pages();
  for (int i = 0; i < 3; i++) churn((void *)7);
  // The sanitizers' own memory grows.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(resident_pages() - before < 500);
#else
  (void)before;
#endif
}

static _Atomic int stop;
static void *allocates_for_ever(void *nothing) {
  while (!stop) {
    void *a = anp_malloc(100), *b = anp_malloc(20000);
    anp_free(a);
    anp_free(b);
  }
  return nothing;
}

static void test_fork(void) {
  pthread_t threads[2];
  stop = 0;
  // process.c calls the allocator's hooks.
  for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, allocates_for_ever, NULL);
  for (int i = 0; i < 200; i++) {
    pid_t child = fork();
    if (child == 0) {
      alarm(5);
      for (int j = 0; j < 50; j++) anp_free(anp_malloc((size_t)j * 300));
      _exit(anp_depth());
    }
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  stop = 1;
  for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
  CHECK(anp_depth() == 0);
}

/// The lock's holder is gone for ever.
static void test_keeper(void) {
  void *before = anp_malloc(100);
  anp_allocator_fork_prepare();
  anp_allocator_keeper();
  void *after = anp_malloc(100);
  CHECK(after && after != before);
  memset(after, 1, 100);
  anp_free(after);
  anp_free(before);
  CHECK(anp_malloc(1 << 20) != NULL);
}

int main(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  test_sizes();
  test_reuse();

  struct itimerval often = {{0, 300}, {0, 300}}, never = {{0, 0}, {0, 0}};
  struct sigaction action = {.sa_handler = in_signal, .sa_flags = SA_RESTART};
  sigaction(SIGALRM, &action, NULL);
  // ThreadSanitizer does not know of handlers that are installed past it.
#ifdef __SANITIZE_THREAD__
  often = never;
#endif
  setitimer(ITIMER_REAL, &often, NULL);
  pthread_t threads[6];
  for (uintptr_t i = 0; i < 6; i++) pthread_create(&threads[i], NULL, i < 4 ? churn : takes, (void *)(i + 1));
  for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
  setitimer(ITIMER_REAL, &never, NULL);

#ifndef __SANITIZE_THREAD__
  // Nor does it go on in the child of a program with threads.
  test_fork();
#endif
  test_keeper();
  if (failures == 0) printf("allocator_churn: all as it should be\n");
  return failures != 0;
}
