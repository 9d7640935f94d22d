// The border between the exported C symbols and the socket layer in Swift (Sources/Preload): each anp_entry_x is defined
// there with @c. They return >= 0, a negative errno, or ANP_PASS: "not ours after all, make the real call".
// `entry` is what anp_fd_look_up(fd) gave, never 0.
#pragma once

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define ANP_PASS LONG_MIN

/// Added to a call's MSG_ flags: it is read, readv, write or writev.
enum { ANP_PLAIN_IO = 0x01000000 };
/// Added to a receiving call's: a pending error is told and stays for the next call.
enum { ANP_KEEP_ERROR = 0x02000000 };

/// `stands_in`: `fd` is a UDP socket in place of one that the kernel refused.
long anp_entry_socket_created(int fd, int family, int type, int protocol, int stands_in);
long anp_entry_close(int fd, uint64_t entry);
long anp_entry_close_range(unsigned first, unsigned last, int flags);
long anp_entry_duplicated(uint64_t entry, int duplicate);
long anp_entry_dup3(int old, int new_fd, int flags);
void anp_entry_set_nonblocking(uint64_t entry, int on);
long anp_entry_permit(int fd, uint64_t entry);

long anp_entry_bind(int fd, uint64_t entry, const void *address, uint32_t length);
long anp_entry_connect(int fd, uint64_t entry, const void *address, uint32_t length);
long anp_entry_listen(int fd, uint64_t entry, int backlog);
long anp_entry_accept(int fd, uint64_t entry, void *address, uint32_t *length, int flags);
long anp_entry_shutdown(int fd, uint64_t entry, int how);
long anp_entry_name(int fd, uint64_t entry, int is_peer, void *address, uint32_t *length);

long anp_entry_receive(int fd, uint64_t entry, const struct iovec *vectors, long count, int flags, struct msghdr *message);
/// `message` is sendmsg's where it has control data, else NULL.
long anp_entry_send(int fd, uint64_t entry, const struct iovec *vectors, long count, int flags, const void *name,
                    uint32_t name_length, const struct msghdr *message);
long anp_entry_sendfile(int fd, uint64_t entry, int input, int64_t *offset, long count, void *stretch, long stretch_size);
long anp_entry_ioctl(int fd, uint64_t entry, unsigned long request, void *argument);

/// The stack's interface. 0 where the program is left to the kernel as a whole, which then tells of its own. Addresses may have to be
/// waited for (ANP_ADDR=dhcp): they are there for certain only where they are asked for.
struct anp_interface;
long anp_entry_interface(struct anp_interface *interface, int wants_addresses);
/// Whether a socket bound to the address (4 or 16 bytes, network order) would be the kernel's.
int anp_entry_is_kernel_address(int family, const void *bytes);
/// A request to change the stack's interface: -EPERM.
long anp_entry_interface_refused(long request);

long anp_entry_setsockopt(int fd, uint64_t entry, int level, int name, const void *value, uint32_t length);
long anp_entry_getsockopt(int fd, uint64_t entry, int level, int name, void *value, uint32_t *length);

long anp_entry_poll(struct pollfd *fds, long count, int64_t timeout_ns, const sigset_t *mask, struct pollfd *scratch);
long anp_entry_epoll_created(int epfd);
void anp_entry_epoll_kernel_changed(int epfd, uint64_t entry, int operation);
long anp_entry_epoll_control(int epfd, int operation, int fd, uint64_t entry, struct epoll_event *event);
long anp_entry_epoll_wait(int epfd, uint64_t entry, struct epoll_event *events, int maximum, int64_t timeout_ns,
                          const sigset_t *mask);

// What fork and the end of the process ask for is in anp_process.h.
