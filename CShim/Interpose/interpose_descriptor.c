// Owns: the exported symbols that make, copy, change and close descriptors, and fdopen.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "anp_process.h"
#include "interpose.h"
#include "interpose_interfaces.h"

ANP_EXPORT int close(int fd) {
  ANP_ROUTE(fd, ANP_REAL(close)(fd), anp_entry_close(fd, entry));
}

static int duplicated(uint64_t entry, int duplicate) {
  if (duplicate < 0) return duplicate;
  long result = anp_entry_duplicated(entry, duplicate);
  if (result >= 0) return duplicate;
  anp_kernel_close(duplicate);
  return (int)anp_answer(result);
}

ANP_EXPORT int dup(int fd) {
  uint64_t entry = anp_fd_look_up(fd);
  if (!entry) return ANP_REAL(dup)(fd);
  if (anp_fd_kind_of(entry) == ANP_FD_INTERNAL) return (int)anp_answer(-EBADF);
  return duplicated(entry, ANP_REAL(dup)(fd));
}

ANP_EXPORT int dup2(int old, int new_fd) {
  if (old == new_fd || (!anp_fd_look_up(old) && !anp_fd_look_up(new_fd))) return ANP_REAL(dup2)(old, new_fd);
  return (int)anp_answer(anp_entry_dup3(old, new_fd, 0));
}

ANP_EXPORT int dup3(int old, int new_fd, int flags) {
  if (old == new_fd || (!anp_fd_look_up(old) && !anp_fd_look_up(new_fd))) return ANP_REAL(dup3)(old, new_fd, flags);
  return (int)anp_answer(anp_entry_dup3(old, new_fd, flags));
}

ANP_EXPORT int close_range(unsigned first, unsigned last, int flags) {
  // Marking close-on-exec changes nothing for us: our own descriptors are.
  if (flags & CLOSE_RANGE_CLOEXEC) return ANP_REAL(close_range)(first, last, flags);
  return (int)anp_answer(anp_entry_close_range(first, last, flags));
}

ANP_EXPORT void closefrom(int first) {
  anp_entry_close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
}

// MARK: fcntl and ioctl. Both take one more argument, a pointer or an int, which the real function picks as it likes.

static int control(int fd, int command, void *argument, int (*real)(int, int, ...)) {
  uint64_t entry = anp_fd_look_up(fd);
  if (!entry) return real(fd, command, argument);
  if (anp_fd_kind_of(entry) == ANP_FD_INTERNAL) return (int)anp_answer(-EBADF);
  int result = real(fd, command, argument);
  switch (command) {
    case F_DUPFD:
    case F_DUPFD_CLOEXEC: return duplicated(entry, result);
    case F_SETFL:
      if (result >= 0) anp_entry_set_nonblocking(entry, ((int)(intptr_t)argument & O_NONBLOCK) != 0);
      return result;
    default: return result;
  }
}

ANP_EXPORT int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  return control(fd, command, argument, ANP_REAL(fcntl));
}

ANP_EXPORT int fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  return control(fd, command, argument, ANP_REAL(fcntl64));
}

ANP_EXPORT int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  uint64_t entry = anp_fd_look_up(fd);
  if (ANP_UNLIKELY(entry != 0)) {
    enum anp_fd_kind kind = anp_fd_kind_of(entry);
    long result = anp_is_interface_request(request) && (kind == ANP_FD_SOCKET || kind == ANP_FD_ORPHAN)
                      ? anp_interface_request(fd, request, argument)
                      : anp_entry_ioctl(fd, entry, request, argument);
    if (result != ANP_PASS) return (int)anp_answer(result);
  }
  int result = ANP_REAL(ioctl)(fd, request, argument);
  if (entry && request == FIONBIO && result == 0) anp_entry_set_nonblocking(entry, *(int *)argument != 0);
  return result;
}

// MARK: fdopen. libc's streams read and write with calls of libc's own, which no wrapper sees; a cookie stream comes back to
// ours. glibc's fileno() answers from the field that fopencookie sets to "no descriptor" and nothing else of a cookie
// stream uses, so the number is put there.

static ssize_t cookie_read(void *cookie, char *buffer, size_t length) { return read((int)(intptr_t)cookie, buffer, length); }

static ssize_t cookie_write(void *cookie, const char *buffer, size_t length) {
  // fopencookie wants 0 for an error, and takes a short count for a full device.
  // libc's last flush comes after the stack was left to the keeper (anp_process.h).
  int how = anp_process_resume ? anp_process_resume() : 0;
  ssize_t written = write((int)(intptr_t)cookie, buffer, length);
  if (how) anp_process_end(how);
  return written < 0 ? 0 : written;
}

static int cookie_close(void *cookie) { return close((int)(intptr_t)cookie); }

ANP_EXPORT FILE *fdopen(int fd, const char *mode) {
  if (anp_fd_kind_of(anp_fd_look_up(fd)) != ANP_FD_SOCKET) return ANP_REAL(fdopen)(fd, mode);
  cookie_io_functions_t functions = {.read = cookie_read, .write = cookie_write, .close = cookie_close};
  FILE *stream = fopencookie((void *)(intptr_t)fd, mode, functions);
  if (stream) stream->_fileno = fd;
  return stream;
}
