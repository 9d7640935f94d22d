// Owns: what this process may do, and the namespace in which it may. Read capabilities(7) and user_namespaces(7) first.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/wait.h>
#include <unistd.h>

#include "anp_launcher.h"
#include "privilege.h"

static bool raised;
static bool in_user_namespace;
static uint64_t bounding_before;

static bool has(cap_value_t capability, cap_flag_t set) {
  cap_t mine = cap_get_proc();
  if (!mine) return false;
  cap_flag_value_t value = CAP_CLEAR;
  cap_get_flag(mine, capability, set, &value);
  cap_free(mine);
  return value == CAP_SET;
}

static bool set_effective(cap_value_t capability, cap_flag_value_t value) {
  cap_t mine = cap_get_proc();
  if (!mine) return false;
  bool done = cap_set_flag(mine, CAP_EFFECTIVE, 1, &capability, value) == 0 && cap_set_proc(mine) == 0;
  cap_free(mine);
  return done;
}

bool anp_privilege_has(void) { return has(CAP_NET_ADMIN, CAP_PERMITTED); }

bool anp_privilege_take(void) {
  if (has(CAP_NET_ADMIN, CAP_EFFECTIVE)) return true;
  if (!has(CAP_NET_ADMIN, CAP_PERMITTED) || !set_effective(CAP_NET_ADMIN, CAP_SET)) return false;
  raised = true;
  return true;
}

void anp_privilege_drop(void) {
  if (raised) set_effective(CAP_NET_ADMIN, CAP_CLEAR);
  raised = false;
}

bool anp_privilege_of_file(const char *path) {
  cap_t its = cap_get_file(path);
  if (its) cap_free(its);
  return its;
}

static int write_file(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return -errno;
  int result = write(fd, text, strlen(text)) < 0 ? -errno : 0;
  close(fd);
  return result;
}

int anp_namespace_enter(void) {
  uid_t uid = geteuid();
  gid_t gid = getegid();
  for (cap_value_t at = 0; at <= CAP_LAST_CAP; at++)
    if (cap_get_bound(at) == 1) bounding_before |= 1ull << at;
  if (has(CAP_SYS_ADMIN, CAP_EFFECTIVE) && has(CAP_NET_ADMIN, CAP_EFFECTIVE)) {
    if (unshare(CLONE_NEWNET) < 0) return -errno;
  } else {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) return -errno;
    in_user_namespace = true;
    // user_namespaces(7): without privilege in the parent namespace one id may be mapped, and only once setgroups is off.
    char line[64];
    int result = write_file("/proc/self/setgroups", "deny");
    if (result < 0 && result != -ENOENT) return result;
    snprintf(line, sizeof line, "%u %u 1", uid, uid);
    if ((result = write_file("/proc/self/uid_map", line)) < 0) return result;
    snprintf(line, sizeof line, "%u %u 1", gid, gid);
    if ((result = write_file("/proc/self/gid_map", line)) < 0) return result;
  }
  return anp_interface_up("lo", 0, 0, 0, 0);
}

int anp_namespace_try(void) {
  pid_t child = fork();
  if (child < 0) return -errno;
  if (child == 0) {
    char name[IFNAMSIZ];
    int result = anp_namespace_enter();
    if (result == 0) result = anp_tap_make("anp0", geteuid(), name);
    _exit(result < 0 ? -result : 0);
  }
  int status;
  if (waitpid(child, &status, 0) < 0) return -errno;
  return WIFEXITED(status) ? -WEXITSTATUS(status) : -EPERM;
}

bool anp_namespace_is_user(void) { return in_user_namespace; }

// A new user namespace comes with a full bounding set, and what it holds is what execve gives uid 0. The program is to have no
// more than it would have had outside.
void anp_privilege_as_before(void) {
  if (!in_user_namespace) return;
  for (cap_value_t at = 0; at <= CAP_LAST_CAP; at++)
    if (!(bounding_before & 1ull << at)) cap_drop_bound(at);
}

// Ambient capabilities survive the execve of an ordinary program. (Root keeps its own without.)
void anp_privilege_hand_on(void) {
  if (geteuid() == 0) return;
  cap_t mine = cap_get_proc();
  if (!mine) return;
  for (cap_value_t at = 0; at <= CAP_LAST_CAP; at++) {
    if (!has(at, CAP_PERMITTED)) continue;
    cap_set_flag(mine, CAP_INHERITABLE, 1, &at, CAP_SET);
  }
  if (cap_set_proc(mine) == 0)
    for (cap_value_t at = 0; at <= CAP_LAST_CAP; at++)
      if (has(at, CAP_PERMITTED)) cap_set_ambient(at, CAP_SET);
  cap_free(mine);
}
