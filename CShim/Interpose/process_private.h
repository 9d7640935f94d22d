// What signals.c and process.c know of each other.
#pragma once

#define ANP_EXPORT __attribute__((visibility("default")))

// A handler that interrupts a thread which has left the stack to the keeper takes it back for its own duration:
// anp_process_resume and anp_process_end of anp_process.h.

// Around fork: the table of actions must not be in the middle of a change in the child.
// Around fork, likewise for the allocator (allocator.c).
void anp_allocator_fork_prepare(void) __attribute__((weak));
void anp_allocator_fork_parent(void) __attribute__((weak));
void anp_allocator_fork_child(void) __attribute__((weak));
/// In a process in which no other thread is left: frees the lock from one that is no more.
void anp_allocator_keeper(void) __attribute__((weak));

void anp_signals_fork_prepare(void);
void anp_signals_fork_parent(void);
void anp_signals_fork_child(void);
/// In the child of a fork that was not prepared for.
void anp_signals_fork_forget(void);
