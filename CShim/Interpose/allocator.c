// Owns: the memory of the Swift code in libanp.so. Embedded Swift allocates through malloc, posix_memalign and free; inside
// this library those names are the ones below, hidden from everybody else. So the stack works at any time (before libc is
// initialised, in a signal handler, in the keeper, in a forked child) and never waits for a lock of the program's
// allocator, which may be any allocator and may itself be in the middle of something.
//
// Read first: anp_process.h. Must not know: who asks. C code of this library must not free here what libc allocated (strdup,
// getline, opendir's) or the other way round; it is best off not allocating at all.
//
//   chunk    64 KiB, aligned to its size, so that any address in it leads to its head by a mask. A chunk is either divided into
//            blocks of one size class, or the first of a mapping of its own that holds one large block. Chunks for small
//            blocks come 16 at a time and are never given back.
//   classes  16 … 128 by 16, then four for each doubling, up to 12 KiB. A block's offset in its chunk is a multiple of its size's
//            largest power of two, so that an aligned allocation is one in a class that is a multiple of the alignment.
//   large    own mapping; a few freed ones are kept, as buffers of the same size come and go.
//
// Contexts: any thread, any handler. The lock is taken only inside (anp_enter), so no handler finds its own thread holding it.
// It is held for a few instructions, sometimes an mmap. fork takes it (anp_allocator_fork_*), so a child finds whole
// lists. The keeper, where a thread died holding it, starts afresh with new chunks (anp_allocator_keeper) and what was free
// is lost: it ends soon.
//
// Sanitizers bring an allocator that must see every allocation: with them this file is empty.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define ANP_NO_ALLOCATOR
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define ANP_NO_ALLOCATOR
#endif

typedef int anp_allocator_is_not_an_empty_file;

// Its own test brings its names.
#ifdef ANP_ALLOCATOR_ALWAYS
#undef ANP_NO_ALLOCATOR
#endif

#ifndef ANP_NO_ALLOCATOR
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "anp_process.h"
#include "anp_support.h"
#include "anp_thread.h"
#include "process_private.h"

#define HIDDEN __attribute__((visibility("hidden")))

enum {
  CHUNK_BYTES = 64 << 10,
  CHUNKS_AT_ONCE = 16,
  SMALLEST_BLOCK = 16,
  LARGEST_BLOCK = 12 << 10,
  CLASSES = 34,
  LARGE_CLASS = 0xff,
  KEPT_MAX = 16,
  KEPT_BYTES_MAX = 8 << 20,
  PAGE_BYTES = 4096,
};

struct chunk {
  /// Of the block, or what is usable of the large one.
  size_t block_bytes;
  /// Large: of the whole mapping.
  size_t mapping_bytes;
  struct chunk *next_kept;
  uint32_t size_class;
};

struct free_block {
  struct free_block *next;
};

static _Atomic uint32_t lock_word;
static struct free_block *free_blocks[CLASSES];
/// The part of the newest chunk of each class that no block was cut from yet.
static struct {
  char *at, *end;
} uncut[CLASSES];
static char *fresh_chunks, *fresh_chunks_end;
static struct chunk *kept;
static size_t kept_bytes;
static unsigned kept_count;

static void lock(void) {
  anp_enter();
  anp_small_lock(&lock_word);
}

static void unlock(void) {
  anp_small_unlock(&lock_word);
  anp_leave();
}

/// A mapping whose address is a multiple of CHUNK_BYTES, or NULL.
static char *map_aligned(size_t bytes) {
  size_t wide = bytes + CHUNK_BYTES;
  if (wide < bytes) return NULL;
  long raw = anp_call(SYS_mmap, 0, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw < 0 && raw > -PAGE_BYTES) return NULL;
  char *start = (char *)raw, *aligned = (char *)((raw + CHUNK_BYTES - 1) & -(long)CHUNK_BYTES);
  if (aligned > start) anp_call(SYS_munmap, start, aligned - start);
  size_t rest = (size_t)(start + wide - (aligned + bytes));
  if (rest) anp_call(SYS_munmap, aligned + bytes, rest);
  return aligned;
}

// ---- Small blocks -------------------------------------------------------------------------------------------------------

/// 16, 32 … 128, 160, 192, 224, 256, 320 …
static size_t class_bytes(unsigned class) {
  return class < 8 ? (class + 1) * 16ul : (5ul + (class & 3)) << (5 + (class - 8) / 4);
}

static unsigned class_for(size_t bytes) {
  if (bytes <= 128) return bytes <= 16 ? 0 : (unsigned)((bytes - 1) / 16);
  // 2^high < bytes <= 2^(high + 1)
  unsigned high = 63 - (unsigned)__builtin_clzl(bytes - 1);
  return 8 + (high - 7) * 4 + (unsigned)((bytes - 1) >> (high - 2) & 3);
}

static char *take_chunk(void) {
  if (fresh_chunks == fresh_chunks_end) {
    char *mapped = map_aligned((size_t)CHUNKS_AT_ONCE * CHUNK_BYTES);
    if (!mapped) return NULL;
    fresh_chunks = mapped;
    fresh_chunks_end = mapped + CHUNKS_AT_ONCE * CHUNK_BYTES;
  }
  char *chunk = fresh_chunks;
  fresh_chunks += CHUNK_BYTES;
  return chunk;
}

static void *allocate_small(unsigned class) {
  struct free_block *block = free_blocks[class];
  if (block) {
    free_blocks[class] = block->next;
    return block;
  }
  size_t bytes = class_bytes(class);
  if (uncut[class].at == uncut[class].end) {
    char *start = take_chunk();
    if (!start) return NULL;
    *(struct chunk *)start = (struct chunk){.block_bytes = bytes, .size_class = class};
    size_t first = (sizeof(struct chunk) + bytes - 1) / bytes * bytes;
    uncut[class].at = start + first;
    uncut[class].end = uncut[class].at + (CHUNK_BYTES - first) / bytes * bytes;
  }
  char *cut = uncut[class].at;
  uncut[class].at += bytes;
  return cut;
}

// ---- Large blocks -------------------------------------------------------------------------------------------------------

/// A kept mapping that is not much larger than asked for.
static struct chunk *take_kept(size_t bytes) {
  for (struct chunk **at = &kept; *at; at = &(*at)->next_kept) {
    struct chunk *found = *at;
    if (found->mapping_bytes < bytes || found->mapping_bytes > bytes + bytes / 4) continue;
    *at = found->next_kept;
    kept_bytes -= found->mapping_bytes;
    kept_count -= 1;
    return found;
  }
  return NULL;
}

static void *allocate_large(size_t bytes, size_t alignment, int *is_zero) {
  size_t offset = alignment > sizeof(struct chunk) ? alignment : 64;
  size_t total = bytes + offset + PAGE_BYTES - 1;
  if (total < bytes || offset >= CHUNK_BYTES) return NULL;
  total &= -(size_t)PAGE_BYTES;
  struct chunk *chunk = take_kept(total);
  *is_zero = chunk == NULL;
  if (!chunk) {
    chunk = (struct chunk *)map_aligned(total);
    if (!chunk) return NULL;
    chunk->mapping_bytes = total;
  }
  chunk->size_class = LARGE_CLASS;
  chunk->block_bytes = chunk->mapping_bytes - offset;
  return (char *)chunk + offset;
}

static void free_large(struct chunk *chunk) {
  if (kept_count < KEPT_MAX && kept_bytes + chunk->mapping_bytes <= KEPT_BYTES_MAX) {
    chunk->next_kept = kept;
    kept = chunk;
    kept_bytes += chunk->mapping_bytes;
    kept_count += 1;
  } else {
    anp_call(SYS_munmap, chunk, chunk->mapping_bytes);
  }
}

// ---- The names ----------------------------------------------------------------------------------------------------------

static struct chunk *chunk_of(void *block) { return (struct chunk *)((uintptr_t)block & -(uintptr_t)CHUNK_BYTES); }

/// `alignment` is a power of two, at most half a chunk.
static void *allocate(size_t bytes, size_t alignment, int *is_zero) {
  *is_zero = 0;
  if (bytes > PTRDIFF_MAX) return NULL;
  // A multiple of the alignment that is also a class: the next power of two, which every fourth class is.
  size_t wanted = bytes;
  if (alignment > SMALLEST_BLOCK) {
    wanted = alignment;
    while (wanted < bytes && wanted <= LARGEST_BLOCK) wanted *= 2;
  }
  lock();
  anp_allocations++;
  void *block = wanted <= LARGEST_BLOCK ? allocate_small(class_for(wanted)) : allocate_large(bytes, alignment, is_zero);
  unlock();
  return block;
}

HIDDEN void *malloc(size_t bytes) {
  int is_zero;
  return allocate(bytes, SMALLEST_BLOCK, &is_zero);
}

HIDDEN void free(void *block) {
  if (!block) return;
  struct chunk *chunk = chunk_of(block);
  lock();
  if (chunk->size_class == LARGE_CLASS) {
    free_large(chunk);
  } else {
    ((struct free_block *)block)->next = free_blocks[chunk->size_class];
    free_blocks[chunk->size_class] = block;
  }
  unlock();
}

HIDDEN void *calloc(size_t count, size_t size) {
  size_t bytes;
  if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
  int is_zero;
  void *block = allocate(bytes, SMALLEST_BLOCK, &is_zero);
  return block && !is_zero ? memset(block, 0, bytes) : block;
}

HIDDEN void *realloc(void *block, size_t bytes) {
  size_t before = block ? chunk_of(block)->block_bytes : 0;
  if (block && bytes && bytes <= before && bytes >= before / 2) return block;
  void *moved = malloc(bytes);
  if (!moved || !block) return moved;
  memcpy(moved, block, bytes < before ? bytes : before);
  free(block);
  return moved;
}

HIDDEN int posix_memalign(void **result, size_t alignment, size_t bytes) {
  if (alignment < sizeof(void *) || alignment & (alignment - 1)) return EINVAL;
  int is_zero;
  void *block = alignment < CHUNK_BYTES ? allocate(bytes, alignment, &is_zero) : NULL;
  if (!block) return ENOMEM;
  *result = block;
  return 0;
}

HIDDEN void *aligned_alloc(size_t alignment, size_t bytes) {
  void *block;
  return posix_memalign(&block, alignment < sizeof(void *) ? sizeof(void *) : alignment, bytes) == 0 ? block : NULL;
}
HIDDEN void *memalign(size_t alignment, size_t bytes) { return aligned_alloc(alignment, bytes); }
HIDDEN size_t malloc_usable_size(void *block) { return block ? chunk_of(block)->block_bytes : 0; }

// ---- fork, keeper -------------------------------------------------------------------------------------------------------

void anp_allocator_fork_prepare(void) { lock(); }
void anp_allocator_fork_parent(void) { unlock(); }
void anp_allocator_fork_child(void) { unlock(); }

void anp_allocator_keeper(void) {
  if (atomic_load(&lock_word) == 0) return;
  memset(free_blocks, 0, sizeof free_blocks);
  memset(uncut, 0, sizeof uncut);
  fresh_chunks = fresh_chunks_end = NULL;
  kept = NULL;
  kept_bytes = kept_count = 0;
  atomic_store(&lock_word, 0);
}

#endif
