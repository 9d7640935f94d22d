// Owns: what happens to the stack when the process forks, executes another program, or ends. Read anp_process.h and
// anp_keeper.h first. Knows nothing of sockets.
//
// fork    Not interposed: handlers registered with pthread_atfork from our constructor see also the forks inside libc (daemon,
//         forkpty) and run in the right place: registered first, prepare runs last, and the child's and parent's first, so
//         the program's own handlers may use sockets. Order in prepare: inside (signals are put off until the other side of
//         the fork), the stack's locks, the allocator's, the pipes of vfork, the signal table's; the reverse afterwards.
//         _Fork runs no handlers by definition, so it is interposed and calls ours.
//
// vfork   A vfork child runs in the parent's memory, so its close() would close the parent's sockets. It becomes a fork whose
//         parent waits, as vfork's does, until the child has executed or ended: both close the write end of a pipe. What a
//         vfork child leaves in memory for its parent is lost: that is the price. While no descriptor of the process has been
//         ours there is nothing to protect, and the call is passed on to the real vfork, by a jump: a function that calls it
//         cannot return twice. The hooks below ask who they are (anp_keeper_is_mine), as the child of a real vfork calls them
//         in its parent's memory.
//         Other forks at the same time would inherit the write end and keep the parent waiting for ever: the fork handler
//         closes the ends of all such pipes in its child.
//
// exec    Each of the family is its own symbol in libc and does not pass through the others.
//
// exit    The end is announced as late as possible, for other threads may still be sending. exit() runs handlers in reverse
//         order of registration, the libraries' destructors among them (ld.so's handler was registered before main's
//         code ran). Ours, registered from our constructor without an owner, is older still: it runs after all. Only libc's
//         flush of its streams follows. Interposing exit would add nothing, and would miss the return from main.
//         quick_exit has its own list, likewise. _exit and _Exit have none and are interposed.
//
// Handing over: inside, anp_entry_end takes the stack's locks and leaves them taken; the keeper finds a consistent stack. The
// thread then is outside again: until exec or exit_group is through, its signal handlers run as usual. (To put them off would
// hand blocked signals to the next program.) A handler that finds its thread in this state takes the stack back until it
// returns (signals.c), so it may use sockets, jump away, or exit.
// A thread that is inside when it ends the program has died there (the program's SIGSEGV handler calls _exit): it announces
// nothing, and the keeper trusts only the locks.
#define _GNU_SOURCE
#include <alloca.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "anp_host.h"
#include "anp_keeper.h"
#include "anp_process.h"
#include "anp_thread.h"
#include "process_private.h"

extern char **environ;

// ---- Handing over -------------------------------------------------------------------------------------------------------

void anp_process_end(int how) {
  struct anp_thread *thread = &anp_this_thread;
  if (how == ANP_END_KILLED || thread->depth != 0 || thread->handed_over || !anp_keeper_is_mine()) return;
  if (!anp_entry_end) return;
  anp_enter();
  if (anp_entry_end(how)) {
    anp_keeper_announce(how);
    thread->handed_over = how;
  }
  anp_leave();
}

int anp_process_resume(void) {
  int how = anp_this_thread.handed_over;
  if (!how) return 0;
  anp_enter();
  anp_this_thread.handed_over = 0;
  anp_keeper_announce(ANP_END_KILLED);
  if (anp_entry_end_undone) anp_entry_end_undone();
  anp_leave();
  return how;
}

// ---- exit ---------------------------------------------------------------------------------------------------------------

static void at_exit(void *nothing) {
  anp_process_end(ANP_END_EXIT);
  anp_keeper_let_finish();
}

static __attribute__((noreturn)) void end_now(int status) {
  at_exit(NULL);
  for (;;) anp_call(SYS_exit_group, status);
}

ANP_EXPORT void _exit(int status) { end_now(status); }
ANP_EXPORT void _Exit(int status) { end_now(status); }

// ---- exec ---------------------------------------------------------------------------------------------------------------

static int failed(long result) {
  anp_process_resume();
  errno = (int)-result;
  return -1;
}

static int execute(const char *path, char *const arguments[], char *const environment[]) {
  anp_process_end(ANP_END_EXEC);
  return failed(anp_call(SYS_execve, path, arguments, environment));
}

static int execute_at(int directory, const char *path, char *const arguments[], char *const environment[], int flags) {
  anp_process_end(ANP_END_EXEC);
  return failed(anp_call(SYS_execveat, directory, path, arguments, environment, flags));
}

/// The search along PATH, and the shell for scripts without #!, are libc's.
static int execute_found(const char *name, char *const arguments[], char *const environment[]) {
  static _Atomic(int (*)(const char *, char *const[], char *const[])) real;
  if (!real) real = (int (*)(const char *, char *const[], char *const[]))dlsym(RTLD_NEXT, "execvpe");
  if (!real) {
    errno = ENOSYS;
    return -1;
  }
  anp_process_end(ANP_END_EXEC);
  real(name, arguments, environment);
  return failed(-errno);
}

ANP_EXPORT int execve(const char *path, char *const arguments[], char *const environment[]) {
  return execute(path, arguments, environment);
}
ANP_EXPORT int execv(const char *path, char *const arguments[]) { return execute(path, arguments, environ); }
ANP_EXPORT int execvpe(const char *name, char *const arguments[], char *const environment[]) {
  return execute_found(name, arguments, environment);
}
ANP_EXPORT int execvp(const char *name, char *const arguments[]) { return execute_found(name, arguments, environ); }
ANP_EXPORT int execveat(int directory, const char *path, char *const arguments[], char *const environment[], int flags) {
  return execute_at(directory, path, arguments, environment, flags);
}
ANP_EXPORT int fexecve(int fd, char *const arguments[], char *const environment[]) {
  if (fd >= 0) return execute_at(fd, "", arguments, environment, AT_EMPTY_PATH);
  errno = EINVAL;
  return -1;
}

/// The arguments from `first` to the NULL, as an array on the caller's stack; `list` then stands after the NULL.
#define COLLECT(arguments, first, list)                            \
  va_list counting;                                                \
  va_copy(counting, list);                                         \
  size_t count = 1;                                                \
  for (const char *a = first; a; a = va_arg(counting, char *)) count++; \
  va_end(counting);                                                \
  char **arguments = alloca(count * sizeof(char *));               \
  count = 0;                                                       \
  for (const char *a = first; a; a = va_arg(list, char *)) arguments[count++] = (char *)a; \
  arguments[count] = NULL

ANP_EXPORT int execl(const char *path, const char *first, ...) {
  va_list list;
  va_start(list, first);
  COLLECT(arguments, first, list);
  va_end(list);
  return execute(path, arguments, environ);
}
ANP_EXPORT int execlp(const char *name, const char *first, ...) {
  va_list list;
  va_start(list, first);
  COLLECT(arguments, first, list);
  va_end(list);
  return execute_found(name, arguments, environ);
}
ANP_EXPORT int execle(const char *path, const char *first, ...) {
  va_list list;
  va_start(list, first);
  COLLECT(arguments, first, list);
  char **environment = va_arg(list, char **);
  va_end(list);
  return execute(path, arguments, environment);
}

// ---- fork ---------------------------------------------------------------------------------------------------------------

// The pipes of vforks in progress. Both ends, so that no child keeps either.
enum { VFORKS = 64 };
static _Atomic uint32_t vfork_lock;
static struct vfork_pipe {
  int used, read_end, write_end;
} vfork_pipes[VFORKS];
/// In a child of ours made for vfork: its own pipe, to spare when the fork handler closes the others.
static __thread struct vfork_pipe *own_pipe __attribute__((tls_model("initial-exec")));

// Held for a few system calls, inside.
static void lock_vforks(void) { anp_small_lock(&vfork_lock); }
static void unlock_vforks(void) { anp_small_unlock(&vfork_lock); }

/// How deep inside the forking thread is when it does not hold locks of ours: 1 in anp_vfork_by_fork.
static __thread uint32_t depth_without_locks __attribute__((tls_model("initial-exec")));
/// The fork comes from a handler of a fault inside (a crash reporter): the thread may hold any lock of ours. Then none is
/// taken, and the child frees them all: what they protect may be half changed.
static __thread int from_fault __attribute__((tls_model("initial-exec")));

static void fork_prepare(void) {
  from_fault = anp_this_thread.depth > depth_without_locks;
  anp_enter();
  if (from_fault) return;
  if (anp_entry_fork_prepare) anp_entry_fork_prepare();
  if (anp_allocator_fork_prepare) anp_allocator_fork_prepare();
  lock_vforks();
  anp_signals_fork_prepare();
}

static void fork_parent(void) {
  if (from_fault) return anp_leave();
  anp_signals_fork_parent();
  unlock_vforks();
  if (anp_allocator_fork_parent) anp_allocator_fork_parent();
  if (anp_entry_fork_parent) anp_entry_fork_parent();
  anp_leave();
}

static void fork_child(void) {
  anp_this_thread.handed_over = 0;
  for (int i = 0; i < VFORKS; i++) {
    struct vfork_pipe *pipe = &vfork_pipes[i];
    if (!pipe->used) continue;
    anp_call(SYS_close, pipe->read_end);
    if (pipe != own_pipe) anp_call(SYS_close, pipe->write_end);
    // A grandchild must close our own write end, so that one stays in the list; its read end is gone.
    if (pipe != own_pipe) pipe->used = 0;
    pipe->read_end = -1;
  }
  own_pipe = NULL;
  anp_keeper_fork_child();
  if (!from_fault) {
    anp_signals_fork_child();
    unlock_vforks();
    if (anp_allocator_fork_child) anp_allocator_fork_child();
  } else {
    anp_signals_fork_forget();
    atomic_store(&vfork_lock, 0);
    if (anp_allocator_keeper) anp_allocator_keeper();
    // In place of the one in anp_entry_fork_prepare.
    if (anp_entry_fork_prepare) anp_enter();
  }
  if (anp_entry_fork_child) anp_entry_fork_child();
  anp_leave();
}

ANP_EXPORT pid_t _Fork(void) {
  static _Atomic(pid_t (*)(void)) real;
  if (!real) real = (pid_t (*)(void))dlsym(RTLD_NEXT, "_Fork");
  if (!real) {
    errno = ENOSYS;
    return -1;
  }
  fork_prepare();
  pid_t child = real();
  int saved_errno = errno;
  if (child == 0) {
    fork_child();
  } else {
    fork_parent();
  }
  errno = saved_errno;
  return child;
}

/// High, so that the child's descriptors have the numbers they would have.
static int raise_end(int fd) {
  long high = anp_call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 256);
  if (high < 0) return fd;
  anp_call(SYS_close, fd);
  return (int)high;
}

static struct vfork_pipe *open_pipe(void) {
  struct vfork_pipe *free = NULL;
  for (int i = 0; i < VFORKS && !free; i++)
    if (!vfork_pipes[i].used) free = &vfork_pipes[i];
  int ends[2];
  if (!free || anp_call(SYS_pipe2, ends, O_CLOEXEC) != 0) return NULL;
  *free = (struct vfork_pipe){1, raise_end(ends[0]), raise_end(ends[1])};
  return free;
}

/// As vfork's parent in the kernel: no handler runs, SIGKILL ends it.
static void wait_for_child(int read_end) {
  uint64_t all = ~0ull, mask;
  char byte;
  anp_call(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, sizeof mask);
  while (anp_call(SYS_read, read_end, &byte, 1) == -EINTR) continue;
  anp_call(SYS_rt_sigprocmask, SIG_SETMASK, &mask, 0, sizeof mask);
}

__attribute__((visibility("hidden"))) pid_t anp_vfork_by_fork(void) {
  anp_enter();
  lock_vforks();
  // Without a pipe (no descriptor left) it is a mere fork.
  struct vfork_pipe *pipe = open_pipe();
  unlock_vforks();
  own_pipe = pipe;
  depth_without_locks = 1;
  pid_t child = fork();
  depth_without_locks = 0;
  int saved_errno = errno;
  if (child != 0) {
    own_pipe = NULL;
    if (pipe) {
      // Closed and struck off in one, or a fork in between would close another's descriptor in its child.
      lock_vforks();
      anp_call(SYS_close, pipe->write_end);
      pipe->write_end = -1;
      unlock_vforks();
      if (child > 0) wait_for_child(pipe->read_end);
      lock_vforks();
      anp_call(SYS_close, pipe->read_end);
      pipe->used = 0;
      unlock_vforks();
    }
  }
  anp_leave();
  errno = saved_errno;
  return child;
}

/// Without the answer: as if in use.
__attribute__((visibility("hidden"), used)) int anp_vfork_must_fork(void) {
  return anp_entry_in_use ? anp_entry_in_use() : 1;
}

// __vfork is glibc's own name for it, exported and not interposed.
#if defined(__x86_64__)
__asm__(
    ".text\n"
    ".globl vfork\n"
    ".type vfork, @function\n"
    "vfork:\n"
    "  .cfi_startproc\n"
    "  endbr64\n"
    "  subq $8, %rsp\n"
    "  .cfi_adjust_cfa_offset 8\n"
    "  call anp_vfork_must_fork\n"
    "  addq $8, %rsp\n"
    "  .cfi_adjust_cfa_offset -8\n"
    "  testl %eax, %eax\n"
    "  jne anp_vfork_by_fork\n"
    "  jmp __vfork@PLT\n"
    "  .cfi_endproc\n"
    ".size vfork, . - vfork\n");
#elif defined(__aarch64__)
__asm__(
    ".text\n"
    ".globl vfork\n"
    ".type vfork, %function\n"
    "vfork:\n"
    "  .cfi_startproc\n"
    "  stp x29, x30, [sp, -16]!\n"
    "  .cfi_adjust_cfa_offset 16\n"
    "  .cfi_rel_offset x29, 0\n"
    "  .cfi_rel_offset x30, 8\n"
    "  bl anp_vfork_must_fork\n"
    "  ldp x29, x30, [sp], 16\n"
    "  .cfi_adjust_cfa_offset -16\n"
    "  .cfi_restore x29\n"
    "  .cfi_restore x30\n"
    "  cbz w0, 1f\n"
    "  b anp_vfork_by_fork\n"
    "1:\n"
    "  b __vfork\n"
    "  .cfi_endproc\n"
    ".size vfork, . - vfork\n");
#endif

// ---- daemon -------------------------------------------------------------------------------------------------------------

// libc's leaves its parent by its own _exit, and replaces descriptors 0, 1, 2 by its own dup2: neither passes by us. Here
// they are meant to: dup2 and close are the ones that this library exports.
static int attach_to_null(void) {
  struct stat status;
  int fd = open("/dev/null", O_RDWR);
  if (fd < 0) return -1;
  if (fstat(fd, &status) != 0 || !S_ISCHR(status.st_mode) || status.st_rdev != makedev(1, 3)) {
    close(fd);
    errno = ENODEV;
    return -1;
  }
  dup2(fd, STDIN_FILENO);
  dup2(fd, STDOUT_FILENO);
  dup2(fd, STDERR_FILENO);
  if (fd > STDERR_FILENO) close(fd);
  return 0;
}

ANP_EXPORT int daemon(int stay_in_directory, int keep_descriptors) {
  pid_t child = fork();
  if (child < 0) return -1;
  if (child > 0) end_now(EXIT_SUCCESS);
  if (setsid() < 0) return -1;
  if (!stay_in_directory && chdir("/") != 0) { /* As libc: no reason to fail. */
  }
  return keep_descriptors ? 0 : attach_to_null();
}

// ---- Registration -------------------------------------------------------------------------------------------------------

extern int __cxa_atexit(void (*)(void *), void *, void *);
extern int __cxa_at_quick_exit(void (*)(void *), void *);
// pthread_atfork is this call and no more, in an object of its own that every library gets: far from here, so a page more.
extern int __register_atfork(void (*)(void), void (*)(void), void (*)(void), void *);
extern void *__dso_handle;

__attribute__((constructor)) ANP_AT_START static void register_hooks(void) {
  __register_atfork(fork_prepare, fork_parent, fork_child, &__dso_handle);
  // No owner (NULL): the end of this library's own destructors must not call it early.
  __cxa_atexit(at_exit, NULL, NULL);
  __cxa_at_quick_exit(at_exit, NULL);
}
