// Owns: the keeper process (anp_keeper.h). Read DESIGN "Exit, crash, exec" first. Knows nothing of sockets.
//
// A process that ends takes its stack with it, while a kernel would go on sending what was written and say goodbye. Exit hooks
// see only some of the ends. So a helper is made when the stack starts: clone(CLONE_VM), a process of its own that shares the
// memory. The program holds the write end of a close-on-exec pipe, the keeper sleeps on the other; whatever ends the
// program closes it. The memory lives on as long as the keeper does.
//
// What the keeper shares, and what not
//   memory       yes. The allocator's and other locks may be held by a thread that is no more.
//   descriptors  a copy of the table from the time of the clone; all but its own few are closed at once, so that the end of a
//                pipe or a terminal of the program is not held open by us. Numbers are those of the time of the clone.
//   credentials  a copy. The program may drop privileges later, and from then on could make a more privileged keeper do things
//                by changing the shared memory. So the keeper gives up its capabilities and its right to nearly all
//                system calls (seccomp) before it sleeps; what is left cannot open, change or signal anything. The user id
//                stays: changing it would make the shared memory, and so the program, undumpable.
//   thread-local storage   a copy of its maker's, made here: the maker's own may be freed when that thread ends.
//   root, cwd    not shared (a shared fs would weaken a later exec of a set-user-id program); cwd is /.
//   signals      actions are a copy (exec in the program does not matter), all signals are blocked; SIGKILL works.
//   session      its own: no ^C, no hang-up, not part of any job.
//   family       a child of the program without an exit signal: no SIGCHLD, and wait(), waitpid(-1), waitid(P_ALL) do not see it
//                (they answer ECHILD where it is the only child); only __WALL and __WCLONE do. CLONE_PARENT would make it a
//                surprise child of the shell. After the program's end it is init's (or a subreaper's), which reaps it.
//   tracer       none (CLONE_UNTRACED): a debugger of the program is not handed a process it does not know.
//
// How it learns of the end: end of file on the pipe, or the program's pidfd becoming readable. The pidfd sees an end where a
// child that no fork hook saw (raw clone) still holds the pipe; the pipe sees an exec. End of file with the program alive in the
// same memory (kcmp) means that the program closed our descriptor by a raw system call: the pipe is then forgotten and the
// pidfd alone decides. Draining under a living program would be the worst of all answers.
//
// Its life ends with drain, or by SIGKILL from a timer of its own that is armed when the program ends: no state the memory may
// be in can stop that.
//
// Limits. A program that is the init of a pid namespace takes the keeper with it: anp_keeper_let_finish makes a regular exit
// wait for it; nothing helps against SIGKILL. Before Linux 5.16 a core dump kills all processes that share the memory. The
// memory of a large program stays until the keeper ends.
#define _GNU_SOURCE
#include "anp_keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "anp_fdtable.h"
#include "anp_process.h"
#include "anp_thread.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum {
  STACK_BYTES = 256 << 10,
  GUARD_BYTES = 64 << 10,
  BOUND_MILLISECONDS = 2000,
  LONGEST_BOUND_MILLISECONDS = 60000,
  KEPT_MAX = 8,
  DEVICES_MAX = 8,
};

/// allocator.c, where there is one: frees its lock from a thread that is no more.
void anp_allocator_keeper(void) __attribute__((weak));

static struct {
  /// The process whose stack this is, 0 before there was one.
  _Atomic int owner;
  _Atomic int end;
  /// Its id, for anp_keeper_let_finish; 0 where there is none.
  _Atomic int process;
  /// The program's end of the pipe; a home of anp_fdtable.h.
  int descriptor;
  void (*drain)(int how);
  int kept[KEPT_MAX];
  int kept_count;
  // Numbers in the keeper's table.
  int devices[DEVICES_MAX], device_count;
  int pipe, program;
  int timer;
} keeper = {.descriptor = -1};

// ---- In the keeper ------------------------------------------------------------------------------------------------------

/// Closes first...last.
static void close_between(unsigned first, unsigned last) {
  if (first > last || anp_call(SYS_close_range, first, last, 0) == 0) return;
  // Before Linux 5.9.
  struct rlimit limit = {.rlim_cur = 1024};
  anp_call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &limit);
  unsigned top = limit.rlim_cur > 1 << 20 ? 1 << 20 : (unsigned)limit.rlim_cur;
  for (unsigned fd = first; fd <= last && fd < top; fd++) anp_call(SYS_close, fd);
}

static void close_all_but_ours(void) {
  int ours[KEPT_MAX + DEVICES_MAX + 2], count = 0;
  for (int i = 0; i < keeper.device_count; i++) ours[count++] = keeper.devices[i];
  ours[count++] = keeper.pipe;
  ours[count++] = keeper.program;
  for (int i = 0; i < keeper.kept_count; i++) ours[count++] = keeper.kept[i];
  unsigned from = 0;
  for (;;) {
    unsigned next = ~0u;
    for (int i = 0; i < count; i++)
      if (ours[i] >= 0 && (unsigned)ours[i] >= from && (unsigned)ours[i] < next) next = (unsigned)ours[i];
    if (next == ~0u) break;
    if (next > from) close_between(from, next - 1);
    from = next + 1;
  }
  close_between(from, ~0u);
}

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#else
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define ALLOW(name) \
  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void give_up_rights(void) {
  static struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      ALLOW(read), ALLOW(readv), ALLOW(write), ALLOW(writev), ALLOW(ppoll), ALLOW(futex),
      ALLOW(clock_gettime), ALLOW(clock_nanosleep), ALLOW(nanosleep), ALLOW(restart_syscall),
      ALLOW(timer_settime), ALLOW(mmap), ALLOW(munmap), ALLOW(madvise), ALLOW(close),
      ALLOW(getpid), ALLOW(gettid), ALLOW(kcmp), ALLOW(exit), ALLOW(exit_group),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
  };
  static const struct sock_fprog filter = {.len = sizeof program / sizeof program[0], .filter = program};
  struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
  struct __user_cap_data_struct none[2];
  memset(none, 0, sizeof none);
  anp_call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  anp_call(SYS_capset, &header, none);
  anp_call(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0);
}

static void set_timer(uint32_t milliseconds) {
  struct itimerspec when = {.it_value = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000}};
  // Zero would disarm.
  if (milliseconds == 0) when.it_value.tv_nsec = 1;
  anp_call(SYS_timer_settime, keeper.timer, 0, &when, 0);
}

void anp_keeper_set_bound(uint32_t milliseconds) {
  set_timer(milliseconds > LONGEST_BOUND_MILLISECONDS ? LONGEST_BOUND_MILLISECONDS : milliseconds);
}

/// The program runs, in this memory: somebody closed our end of the pipe.
static int program_lives(void) {
  struct pollfd program = {.fd = keeper.program, .events = POLLIN};
  struct timespec now = {0, 0};
  if (keeper.program < 0 || anp_call(SYS_ppoll, &program, 1, &now, 0, 8) != 0) return 0;
  // An announced end is one. 1 and 2 = another memory: an exec that no hook saw. An error says nothing: go on waiting.
  if (atomic_load(&keeper.end) != ANP_END_KILLED) return 0;
  long difference = anp_call(SYS_kcmp, anp_call(SYS_getpid), atomic_load(&keeper.owner), KCMP_VM, 0, 0);
  return difference <= 0;
}

static void wait_for_the_end(void) {
  struct pollfd watched[2] = {{.fd = keeper.pipe, .events = POLLIN}, {.fd = keeper.program, .events = POLLIN}};
  for (;;) {
    long ready = anp_call(SYS_ppoll, watched, 2, 0, 0, 8);
    if (ready <= 0) continue;
    if (watched[1].revents || !program_lives()) return;
    watched[0].fd = -1;
  }
}

static int keep(void *nothing) {
  struct rlimit no_core = {0, 0};
  struct sigevent death;
  memset(&death, 0, sizeof death);
  death.sigev_notify = SIGEV_SIGNAL;
  death.sigev_signo = SIGKILL;

  memset(&anp_this_thread, 0, sizeof anp_this_thread);
  anp_this_thread.depth = 1;
  close_all_but_ours();
  anp_call(SYS_prctl, PR_SET_NAME, "anp-keeper", 0, 0, 0);
  anp_call(SYS_setsid);
  anp_call(SYS_chdir, "/");
  anp_call(SYS_prlimit64, 0, RLIMIT_CORE, &no_core, 0);
  if (anp_call(SYS_timer_create, CLOCK_MONOTONIC, &death, &keeper.timer) == 0) {
    give_up_rights();
    wait_for_the_end();
    set_timer(BOUND_MILLISECONDS);
    if (anp_allocator_keeper) anp_allocator_keeper();
    keeper.drain(atomic_load(&keeper.end));
  }
  for (;;) anp_call(SYS_exit_group, 0);
  __builtin_unreachable();
}

int anp_keeper_device(int queue) { return keeper.devices[queue]; }

// ---- Making it ----------------------------------------------------------------------------------------------------------

struct span {
  uintptr_t low, high;
};

static void include(struct span *span, uintptr_t low, size_t bytes) {
  if (low < span->low) span->low = low;
  if (low + bytes > span->high) span->high = low + bytes;
}

/// Includes the calling thread's block of the module that this file is in.
static int include_own_module(struct dl_phdr_info *module, size_t size, void *span) {
  uintptr_t record = (uintptr_t)&anp_this_thread, block = (uintptr_t)module->dlpi_tls_data;
  if (!block) return 0;
  for (int i = 0; i < module->dlpi_phnum; i++) {
    const ElfW(Phdr) *header = &module->dlpi_phdr[i];
    if (header->p_type != PT_TLS || record < block || record >= block + header->p_memsz) continue;
    include(span, block, header->p_memsz);
    return 1;
  }
  return 0;
}

static uintptr_t thread_pointer(void) {
  uintptr_t pointer;
#if defined(__x86_64__)
  __asm__("mov %%fs:0, %0" : "=r"(pointer));
#else
  __asm__("mrs %0, tpidr_el0" : "=r"(pointer));
#endif
  return pointer;
}

/// What code of ours reaches through the thread pointer: the thread control block (the stack protector's canary is in it),
/// errno, and our own variables. All lie in one static block around the pointer.
static struct span thread_local_span(void) {
  enum { CONTROL_BLOCK = sizeof(void *) == 8 ? 704 : 0 };
  uintptr_t pointer = thread_pointer();
  struct span span = {pointer, pointer + CONTROL_BLOCK};
#if defined(__aarch64__)
  span.high = pointer + 16;
#endif
  include(&span, (uintptr_t)&errno, sizeof errno);
  dl_iterate_phdr(include_own_module, &span);
  return span;
}

static uintptr_t copy_thread_local(char *to, struct span span) {
  uintptr_t pointer = thread_pointer();
  memcpy(to, (void *)span.low, span.high - span.low);
  uintptr_t copy = (uintptr_t)to + (pointer - span.low);
#if defined(__x86_64__)
  // tcbhead_t names itself: %fs:0 and %fs:16.
  ((uintptr_t *)copy)[0] = copy;
  ((uintptr_t *)copy)[2] = copy;
#endif
  return copy;
}

static int make_keeper(void) {
  struct span span = thread_local_span();
  size_t local = (span.high - span.low + 4095) & ~4095ul;
  size_t bytes = GUARD_BYTES + STACK_BYTES + local;
  long area = anp_call(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
  if (area < 0 && area > -4096) return (int)area;
  char *stack_top = (char *)area + GUARD_BYTES + STACK_BYTES;
  anp_call(SYS_mprotect, area, GUARD_BYTES, PROT_NONE);
  // As far off a 64-byte border as the original.
  uintptr_t pointer = copy_thread_local(stack_top + (span.low & 63), span);

  // A signal for the program must not be taken by the keeper before it has blocked them.
  uint64_t all = ~0ull, mask;
  anp_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof mask);
  int saved_errno = errno;
  int process = clone(keep, stack_top, CLONE_VM | CLONE_UNTRACED | CLONE_SETTLS, 0, 0, (void *)pointer, 0);
  int failure = process < 0 ? -errno : 0;
  errno = saved_errno;
  anp_call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
  if (failure) {
    anp_call(SYS_munmap, area, bytes);
    return failure;
  }
  atomic_store(&keeper.process, process);
  return 0;
}

int anp_keeper_start(const int *device_fds, int count, void (*drain)(int how)) {
  long self = anp_call(SYS_getpid);
  atomic_store(&keeper.end, ANP_END_KILLED);
  atomic_store(&keeper.process, 0);
  atomic_store(&keeper.owner, (int)self);
  int ends[2];
  long result = anp_call(SYS_pipe2, ends, O_CLOEXEC);
  if (result < 0) return (int)result;
  keeper.drain = drain;
  keeper.device_count = count < DEVICES_MAX ? count : DEVICES_MAX;
  memcpy(keeper.devices, device_fds, sizeof *device_fds * (size_t)keeper.device_count);
  keeper.pipe = ends[0];
  // Without it (before Linux 5.3) the pipe has to do.
  keeper.program = (int)anp_call(SYS_pidfd_open, self, 0);
  result = make_keeper();
  if (keeper.program >= 0) anp_call(SYS_close, keeper.program);
  anp_call(SYS_close, ends[0]);
  if (result < 0) {
    anp_call(SYS_close, ends[1]);
    return (int)result;
  }
  // High, known as ours, so that the program's own closing of everything spares it.
  anp_internal_adopt(&keeper.descriptor, ends[1]);
  return 0;
}

void anp_keeper_keep(int fd) {
  if (fd >= 0 && keeper.kept_count < KEPT_MAX) keeper.kept[keeper.kept_count++] = fd;
}

// ---- In the program -----------------------------------------------------------------------------------------------------

int anp_keeper_descriptor(void) { return anp_internal_number(&keeper.descriptor); }
int anp_keeper_is_mine(void) { return atomic_load(&keeper.owner) == (int)anp_call(SYS_getpid); }
void anp_keeper_announce(int how) { atomic_store(&keeper.end, how); }

void anp_keeper_let_finish(void) {
  int process = atomic_load(&keeper.process);
  if (process == 0 || anp_call(SYS_getpid) != 1 || !anp_keeper_is_mine()) return;
  // Unannounced, it would not believe the pipe.
  if (atomic_load(&keeper.end) == ANP_END_KILLED) return;
  anp_internal_close(&keeper.descriptor);
  while (anp_call(SYS_wait4, process, 0, __WCLONE, 0) == -EINTR) continue;
}

void anp_keeper_fork_child(void) {
  anp_internal_close(&keeper.descriptor);
  keeper.kept_count = 0;
}
