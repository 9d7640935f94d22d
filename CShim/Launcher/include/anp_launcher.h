// What the `anp` command needs from Linux and Swift cannot say well: a TAP device of its own, namespaces, capabilities, and a
// child whose signals and end it passes on. Every call returns 0 (or what its comment says), or -errno. The process must have
// one thread only (unshare(2) insists, fork(2) is simpler to reason about).
#pragma once

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

const char *anp_version(void);

// --- TAP devices (tap.c) ---

/// Makes the TAP device `name` ("anp%d" = the first free number) with the flags ANP opens it with, usable by `owner`.
/// Returns a descriptor that keeps it alive: its queue is detached, so that the kernel hands no frame to it, and the
/// device goes with its last descriptor, however the holder ends. Writes the name to `made`.
int anp_tap_make(const char *name, uid_t owner, char made[IFNAMSIZ]);

/// The kernel's end: address and mask in host byte order, both 0 for none. mtu and queue length 0 = leave.
int anp_interface_up(const char *name, uint32_t address, uint32_t mask, int mtu, int queue_length);

enum { ANP_NO_OWNER = 0xffffffff };

struct anp_interface {
  bool is_tap, multi_queue, vnet_hdr, packet_info, persistent, up;
  int queues;      // attached
  uint32_t owner;  // uid or ANP_NO_OWNER
  int mtu;
  uint32_t address, mask;  // first IPv4 address of the kernel's end, host byte order, 0 = none
  char alias[256];
};
/// -ENODEV: no such interface in this namespace.
int anp_interface_describe(const char *name, struct anp_interface *interface);
/// Does an interface have an address in this network (host byte order)? 1 or 0.
int anp_network_in_use(uint32_t network, uint32_t mask);

// --- namespaces and capabilities (privilege.c) ---

/// CAP_NET_ADMIN is there to be used; raises it to effective where it is only permitted (anp_privilege_drop undoes that).
bool anp_privilege_take(void);
void anp_privilege_drop(void);
/// The same, asked without changing anything.
bool anp_privilege_has(void);

/// Does this file carry capabilities?
bool anp_privilege_of_file(const char *path);

/// A new network namespace; where CAP_SYS_ADMIN is missing inside a new user namespace in which the ids stay what they are.
/// Loopback is up in it.
int anp_namespace_enter(void);
/// Would anp_namespace_enter succeed, and a TAP device in there? Tries in a child.
int anp_namespace_try(void);
/// Was a user namespace needed? Then set-id bits have no force inside: the ids they name do not exist there.
bool anp_namespace_is_user(void);

// --- programs (spawn.c) ---

enum {
  /// Of the kernel's side: keeps the namespace's capabilities (to open low ports, to capture), leads a process group of its
  /// own, and gets SIGTERM when this process dies.
  ANP_SPAWN_SERVANT = 1,
  /// The same rights in the foreground: a shell on the kernel's side.
  ANP_SPAWN_ADMINISTRATOR = 2,
};
/// Blocks every signal here, for anp_supervise to pick up; call once, before the first anp_spawn.
void anp_supervise_begin(void);
/// Returns the child's pid, or -errno where `path` could not be executed.
pid_t anp_spawn(const char *path, char *const argv[], char *const environment[], unsigned flags);
/// Waits until `child` ends and returns its wait status. Meanwhile passes on signals sent to this process (not those the
/// terminal sends to the whole group, the child has them already) and stops and continues together with the child.
int anp_supervise(pid_t child);
/// Ends a servant's process group: SIGTERM, SIGKILL after a second.
void anp_dismiss(pid_t servant);
/// Ends this process as a child with this status ended: the same exit code, or by the same signal.
_Noreturn void anp_end_like(int status);
