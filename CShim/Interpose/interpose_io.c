// Owns: the exported symbols that move bytes: read and write, send and receive in all their forms, and the fortified twins.
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "interpose.h"

extern ssize_t __read_chk(int, void *, size_t, size_t);
extern ssize_t __recv_chk(int, void *, size_t, size_t, int);
extern ssize_t __recvfrom_chk(int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *);
extern int __vdprintf_chk(int, int, const char *, va_list);

// The kernel cuts a transfer there (MAX_RW_COUNT); a length with the sign bit set is EINVAL for a socket.
static const size_t most = 0x7ffff000;

static inline struct iovec single(const void *buffer, size_t length) {
  return (struct iovec){(void *)buffer, length > most ? most : length};
}

// MARK: Receiving

static long receive(int fd, uint64_t entry, void *buffer, size_t length, int flags) {
  struct iovec vector = single(buffer, length);
  return anp_entry_receive(fd, entry, &vector, 1, flags, NULL);
}

ANP_EXPORT ssize_t read(int fd, void *buffer, size_t length) {
  ANP_ROUTE(fd, ANP_REAL(read)(fd, buffer, length), receive(fd, entry, buffer, length, ANP_PLAIN_IO));
}

ANP_EXPORT ssize_t __read_chk(int fd, void *buffer, size_t length, size_t room) {
  // libc's own form ends the program when the buffer is too small.
  if (length > room) return ANP_REAL(__read_chk)(fd, buffer, length, room);
  ANP_ROUTE(fd, ANP_REAL(__read_chk)(fd, buffer, length, room), receive(fd, entry, buffer, length, ANP_PLAIN_IO));
}

ANP_EXPORT ssize_t readv(int fd, const struct iovec *vectors, int count) {
  ANP_ROUTE(fd, ANP_REAL(readv)(fd, vectors, count),
            count < 0 || count > IOV_MAX ? -EINVAL : anp_entry_receive(fd, entry, vectors, count, ANP_PLAIN_IO, NULL));
}

ANP_EXPORT ssize_t recv(int fd, void *buffer, size_t length, int flags) {
  ANP_ROUTE(fd, ANP_REAL(recv)(fd, buffer, length, flags), receive(fd, entry, buffer, length, flags));
}

ANP_EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t length, size_t room, int flags) {
  if (length > room) return ANP_REAL(__recv_chk)(fd, buffer, length, room, flags);
  ANP_ROUTE(fd, ANP_REAL(__recv_chk)(fd, buffer, length, room, flags), receive(fd, entry, buffer, length, flags));
}

static long receive_from(int fd, uint64_t entry, void *buffer, size_t length, int flags, struct sockaddr *name,
                         socklen_t *name_length) {
  if (!name) return receive(fd, entry, buffer, length, flags);
  if (anp_is_nowhere(name_length) || anp_is_nowhere(name)) return -EFAULT;
  if ((int)*name_length < 0) return -EINVAL;
  struct iovec vector = single(buffer, length);
  struct msghdr message = {.msg_name = name, .msg_namelen = *name_length};
  long result = anp_entry_receive(fd, entry, &vector, 1, flags, &message);
  if (result >= 0) *name_length = message.msg_namelen;
  return result;
}

ANP_EXPORT ssize_t recvfrom(int fd, void *buffer, size_t length, int flags, struct sockaddr *name,
                            socklen_t *name_length) {
  ANP_ROUTE(fd, ANP_REAL(recvfrom)(fd, buffer, length, flags, name, name_length),
            receive_from(fd, entry, buffer, length, flags, name, name_length));
}

ANP_EXPORT ssize_t __recvfrom_chk(int fd, void *buffer, size_t length, size_t room, int flags, struct sockaddr *name,
                                  socklen_t *name_length) {
  if (length > room) return ANP_REAL(__recvfrom_chk)(fd, buffer, length, room, flags, name, name_length);
  ANP_ROUTE(fd, ANP_REAL(__recvfrom_chk)(fd, buffer, length, room, flags, name, name_length),
            receive_from(fd, entry, buffer, length, flags, name, name_length));
}

static long receive_message(int fd, uint64_t entry, struct msghdr *message, int flags) {
  if (anp_is_nowhere(message)) return -EFAULT;
  if (message->msg_iovlen > IOV_MAX) return -EMSGSIZE;
  if (message->msg_name && (int)message->msg_namelen < 0) return -EINVAL;
  if (message->msg_name && anp_is_nowhere(message->msg_name)) return -EFAULT;
  return anp_entry_receive(fd, entry, message->msg_iov, (long)message->msg_iovlen, flags, message);
}

ANP_EXPORT ssize_t recvmsg(int fd, struct msghdr *message, int flags) {
  ANP_ROUTE(fd, ANP_REAL(recvmsg)(fd, message, flags), receive_message(fd, entry, message, flags));
}

static long receive_messages(int fd, uint64_t entry, struct mmsghdr *messages, unsigned count, int flags,
                             const struct timespec *timeout) {
  int valid;
  int64_t limit = anp_nanoseconds(timeout, &valid);
  if (!valid) return -EINVAL;
  int64_t start = timeout ? anp_monotonic_nanoseconds() : 0;
  if (count > 0 && anp_is_nowhere(messages)) return -EFAULT;
  unsigned done = 0;
  while (done < count) {
    // Behind the first datagram an error is the next call's (do_recvmmsg).
    int keep = done > 0 ? ANP_KEEP_ERROR : 0;
    long result = receive_message(fd, entry, &messages[done].msg_hdr, (flags & ~MSG_WAITFORONE) | keep);
    if (result < 0) return done > 0 ? (long)done : result;
    messages[done].msg_len = (unsigned)result;
    done += 1;
    if (flags & MSG_WAITFORONE) flags |= MSG_DONTWAIT;
    // As in Linux, the time is looked at after each datagram only (recvmmsg(2), BUGS).
    if (timeout && limit >= 0 && anp_monotonic_nanoseconds() - start >= limit) break;
  }
  return (long)done;
}

ANP_EXPORT int recvmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags, struct timespec *timeout) {
  ANP_ROUTE(fd, ANP_REAL(recvmmsg)(fd, messages, count, flags, timeout),
            receive_messages(fd, entry, messages, count, flags, timeout));
}

// MARK: Sending

static long send_to(int fd, uint64_t entry, const void *buffer, size_t length, int flags, const struct sockaddr *name,
                    socklen_t name_length) {
  struct iovec vector = single(buffer, length);
  return anp_entry_send(fd, entry, &vector, 1, flags, name, name_length, NULL);
}

ANP_EXPORT ssize_t write(int fd, const void *buffer, size_t length) {
  ANP_ROUTE(fd, ANP_REAL(write)(fd, buffer, length), send_to(fd, entry, buffer, length, ANP_PLAIN_IO, NULL, 0));
}

ANP_EXPORT ssize_t writev(int fd, const struct iovec *vectors, int count) {
  ANP_ROUTE(fd, ANP_REAL(writev)(fd, vectors, count),
            count < 0 || count > IOV_MAX ? -EINVAL : anp_entry_send(fd, entry, vectors, count, ANP_PLAIN_IO, NULL, 0, NULL));
}

ANP_EXPORT ssize_t send(int fd, const void *buffer, size_t length, int flags) {
  ANP_ROUTE(fd, ANP_REAL(send)(fd, buffer, length, flags), send_to(fd, entry, buffer, length, flags, NULL, 0));
}

ANP_EXPORT ssize_t sendto(int fd, const void *buffer, size_t length, int flags, const struct sockaddr *name,
                          socklen_t name_length) {
  ANP_ROUTE(fd, ANP_REAL(sendto)(fd, buffer, length, flags, name, name_length),
            send_to(fd, entry, buffer, length, flags, name, name_length));
}

static long send_message(int fd, uint64_t entry, const struct msghdr *message, int flags) {
  if (anp_is_nowhere(message)) return -EFAULT;
  if (message->msg_iovlen > IOV_MAX) return -EMSGSIZE;
  return anp_entry_send(fd, entry, message->msg_iov, (long)message->msg_iovlen, flags, message->msg_name,
                        message->msg_namelen, message->msg_control && message->msg_controllen ? message : NULL);
}

ANP_EXPORT ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
  ANP_ROUTE(fd, ANP_REAL(sendmsg)(fd, message, flags), send_message(fd, entry, message, flags));
}

static long send_messages(int fd, uint64_t entry, struct mmsghdr *messages, unsigned count, int flags) {
  if (count > IOV_MAX) count = IOV_MAX;
  if (count > 0 && anp_is_nowhere(messages)) return -EFAULT;
  unsigned done = 0;
  while (done < count) {
    long result = send_message(fd, entry, &messages[done].msg_hdr, flags);
    if (result == ANP_PASS && anp_fd_look_up(fd) == entry) {
      // This one goes by the kernel; the next may not.
      result = ANP_REAL(sendmsg)(fd, &messages[done].msg_hdr, flags);
      if (result < 0) result = -errno;
    }
    if (result < 0) return done > 0 ? (long)done : result;
    messages[done].msg_len = (unsigned)result;
    done += 1;
  }
  return (long)done;
}

ANP_EXPORT int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags) {
  ANP_ROUTE(fd, ANP_REAL(sendmmsg)(fd, messages, count, flags), send_messages(fd, entry, messages, count, flags));
}

// MARK: Files

static long send_file(int fd, uint64_t entry, int input, int64_t *offset, size_t count) {
  // On this call's own stack: a handler that interrupts the wait may call sendfile too.
  char stretch[65536];
  return anp_entry_sendfile(fd, entry, input, offset, (long)(count > most ? most : count), stretch, sizeof stretch);
}

ANP_EXPORT ssize_t sendfile(int fd, int input, off_t *offset, size_t count) {
  ANP_ROUTE(fd, ANP_REAL(sendfile)(fd, input, offset, count), send_file(fd, entry, input, (int64_t *)offset, count));
}

ANP_EXPORT ssize_t sendfile64(int fd, int input, off64_t *offset, size_t count) {
  ANP_ROUTE(fd, ANP_REAL(sendfile64)(fd, input, offset, count), send_file(fd, entry, input, (int64_t *)offset, count));
}

ANP_EXPORT ssize_t splice(int input, off64_t *input_offset, int output, off64_t *output_offset, size_t length,
                          unsigned flags) {
  // EINVAL, the kernel's word for a descriptor that cannot splice, makes programs fall back to read and write.
  if (anp_fd_kind_of(anp_fd_look_up(input)) == ANP_FD_SOCKET || anp_fd_kind_of(anp_fd_look_up(output)) == ANP_FD_SOCKET)
    return anp_answer(-EINVAL);
  return ANP_REAL(splice)(input, input_offset, output, output_offset, length, flags);
}

// MARK: Formatted output to a descriptor, which libc would write with a call of its own that nobody sees

static int write_all(int fd, const char *text, int length) {
  int done = 0;
  while (done < length) {
    ssize_t written = write(fd, text + done, (size_t)(length - done));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return -1;
    done += (int)written;
  }
  return length;
}

// Not vasprintf: its memory is libc's, and `free` in this library is our own (allocator.c).
static int print_to_socket(int fd, const char *format, va_list arguments) {
  char text[4096];
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(text, sizeof text, format, arguments);
  if (length >= (int)sizeof text) {
    size_t bytes = (size_t)length + 1;
    long mapped = anp_syscall6(SYS_mmap, 0, (long)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped < 0 && mapped > -4096) {
      errno = ENOMEM;
      length = -1;
    } else {
      vsnprintf((char *)mapped, bytes, format, again);
      length = write_all(fd, (char *)mapped, length);
      anp_syscall2(SYS_munmap, mapped, (long)bytes);
    }
  } else if (length > 0) {
    length = write_all(fd, text, length);
  }
  va_end(again);
  return length;
}

ANP_EXPORT int vdprintf(int fd, const char *format, va_list arguments) {
  if (!anp_fd_look_up(fd)) return ANP_REAL(vdprintf)(fd, format, arguments);
  return print_to_socket(fd, format, arguments);
}

ANP_EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list arguments) {
  if (!anp_fd_look_up(fd)) return ANP_REAL(__vdprintf_chk)(fd, flag, format, arguments);
  return print_to_socket(fd, format, arguments);
}

ANP_EXPORT int dprintf(int fd, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = vdprintf(fd, format, arguments);
  va_end(arguments);
  return result;
}

ANP_EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int result = __vdprintf_chk(fd, flag, format, arguments);
  va_end(arguments);
  return result;
}
