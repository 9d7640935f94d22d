// The keeper: a helper process that finishes a program's connections after the program has ended, however it ended.
// keeper.c explains how. Nothing here knows what a connection is.
#pragma once

#include <stdint.h>

/// How the program ended.
enum anp_end {
  /// No hook ran: a signal, abort, a raw system call. Whether the stack's state can be trusted, its locks tell: with the
  /// program all its threads are gone, so a lock that is held was held by a thread that died inside.
  ANP_END_KILLED = 0,
  /// exit, _exit, return from main: the ending thread took the stack's locks and left them to the keeper.
  ANP_END_EXIT = 1,
  /// execve and its relatives, likewise. The descriptors without close-on-exec live on in the new program as placeholders.
  ANP_END_EXEC = 2,
};

/// Starts the keeper of this process. `device_fds` (at most 8, one for each queue) stay open in it, as do the descriptors announced by anp_keeper_keep; all
/// others are closed there. `drain` runs in the keeper once the program has ended, in the same memory, with no other thread
/// left: it sends what is unsent and returns when nothing is unfinished. It may use anp_call, poll, read, write, futex, the
/// clock and memory; nothing of libc that takes a lock. It is killed at its bound, 2 s after the end.
/// 0 or -errno: without a keeper everything works, but connections end in silence.
/// The stack counts as running in this process from here on, also where no keeper can be made.
int anp_keeper_start(const int *device_fds, int count, void (*drain)(int how));
/// Before anp_keeper_start: one more descriptor to keep (a log, a capture file). At most 8.
void anp_keeper_keep(int fd);

/// In the keeper: the number of the descriptor of one of the device's queues there. The program may have moved its own since.
int anp_keeper_device(int queue);
/// In drain: another bound, counted from now, at most 60 s (SO_LINGER).
void anp_keeper_set_bound(uint32_t milliseconds);

/// The program's end of the pipe whose closing tells the keeper; -1 where there is none.
int anp_keeper_descriptor(void);

/// True in the process in which anp_keeper_start was called last; false in its children.
int anp_keeper_is_mine(void);
/// What the keeper is to be told about the end, should it come now. By the thread that is ending the program.
void anp_keeper_announce(int how);
/// Before the init process of a pid namespace ends, and the kernel with it all others there: lets the keeper finish first.
/// Does nothing in all other processes.
void anp_keeper_let_finish(void);
/// In a forked child: the parent's keeper is the parent's.
void anp_keeper_fork_child(void);
