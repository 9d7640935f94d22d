// Owns: gethostbyname, gethostbyaddr and their kin; gethostid, which looks the machine's own name up. Read first: gethostbyname(3); getXXbyYY_r in libc for what the reentrant forms
// return: 0 also where there is no such host, ERANGE where the caller's memory does not suffice.
//
// Texts that are addresses are libc's own business: they are never looked up.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "anp_host.h"
#include "anp_host_names.h"
#include "interpose.h"

/// As libc: nothing but digits and dots, or hexadecimal digits with a colon among them.
static int looks_numeric(const char *name) {
  size_t length = strlen(name);
  if (isdigit((unsigned char)*name) && name[strspn(name, "0123456789.")] == 0 && name[length - 1] != '.') return 1;
  if ((isxdigit((unsigned char)*name) && strchr(name, ':')) || *name == ':')
    return name[strspn(name, "0123456789abcdefABCDEF:.")] == 0 && name[length - 1] != '.';
  return 0;
}

// ---- A hostent in the caller's memory -------------------------------------------------------------------------------------

struct room {
  char *at;
  size_t left;
};

static void *take(struct room *room, size_t bytes, size_t alignment) {
  size_t gap = -(uintptr_t)room->at & (alignment - 1);
  if (room->left < gap || room->left - gap < bytes) return NULL;
  char *taken = room->at + gap;
  room->at = taken + bytes;
  room->left -= gap + bytes;
  return taken;
}

static char *take_text(struct room *room, const char *text) {
  size_t length = strlen(text) + 1;
  char *copy = take(room, length, 1);
  return copy ? memcpy(copy, text, length) : NULL;
}

/// 0, or ERANGE.
static int fill(const struct anp_host_found *found, const char *name, int family, struct hostent *host, char *buffer,
                size_t length) {
  struct room room = {buffer, length};
  size_t size = family == AF_INET ? 4 : 16, count = 0;
  char **addresses = take(&room, (found->address_count + 1) * sizeof *addresses, sizeof *addresses);
  char **aliases = take(&room, (found->alias_count + 1) * sizeof *aliases, sizeof *aliases);
  if (!addresses || !aliases) return ERANGE;
  for (size_t i = 0; i < found->address_count; i++) {
    if (found->addresses[i].is_inet6 != (family == AF_INET6)) continue;
    char *bytes = take(&room, size, 4);
    if (!bytes) return ERANGE;
    memcpy(bytes, found->addresses[i].address + 16 - size, size);
    addresses[count++] = bytes;
  }
  addresses[count] = NULL;
  for (size_t i = 0; i < found->alias_count; i++)
    if (!(aliases[i] = take_text(&room, found->aliases[i]))) return ERANGE;
  aliases[found->alias_count] = NULL;
  host->h_name = take_text(&room, found->name ? found->name : name);
  if (!host->h_name) return ERANGE;
  host->h_aliases = aliases;
  host->h_addrtype = family;
  host->h_length = (int)size;
  host->h_addr_list = addresses;
  return 0;
}

/// libc's first service wants room for a host of one address, and says so before anybody is asked.
enum { LEAST_ROOM = 34 };

/// What the reentrant functions return for what was found; gives `found` back.
static int deliver(struct anp_host_found *found, const char *name, int family, struct hostent *host, char *buffer,
                   size_t length, struct hostent **result, int *error) {
  int code = 0;
  *result = NULL;
  if (found->error == 0) {
    code = fill(found, name, family, host, buffer, length);
    if (code == 0) {
      *result = host;
    } else {
      *error = NETDB_INTERNAL;
    }
  } else {
    *error = found->error;
    code = found->system_error;
  }
  anp_host_forget(found);
  errno = code;
  return code;
}

static int too_little_room(struct hostent **result, int *error) {
  *result = NULL;
  *error = NETDB_INTERNAL;
  return errno = ERANGE;
}

ANP_EXPORT int gethostbyname2_r(const char *name, int family, struct hostent *host, char *buffer, size_t length,
                                struct hostent **result, int *error) {
  if (looks_numeric(name) || (family != AF_INET && family != AF_INET6))
    return ANP_REAL(gethostbyname2_r)(name, family, host, buffer, length, result, error);
  if (length < LEAST_ROOM) return too_little_room(result, error);
  struct anp_host_found found;
  anp_host_by_name(name, family == AF_INET ? ANP_WANTS_INET : ANP_WANTS_INET6, &found);
  return deliver(&found, name, family, host, buffer, length, result, error);
}

ANP_EXPORT int gethostbyname_r(const char *name, struct hostent *host, char *buffer, size_t length, struct hostent **result,
                               int *error) {
  return gethostbyname2_r(name, AF_INET, host, buffer, length, result, error);
}

/// libc knows by itself that other families, other lengths and the unspecified address have no names.
static int is_looked_up(const void *address, socklen_t size, int family) {
  if (family == AF_INET) return size == 4;
  return family == AF_INET6 && size == 16 && !IN6_IS_ADDR_UNSPECIFIED((const struct in6_addr *)address);
}

/// The DNS tells of a mapped address as one of IPv4.
static int family_found(const struct anp_host_found *found, int family) {
  return found->address_count > 0 && !found->addresses[0].is_inet6 ? AF_INET : family;
}

ANP_EXPORT int gethostbyaddr_r(const void *address, socklen_t size, int family, struct hostent *host, char *buffer,
                               size_t length, struct hostent **result, int *error) {
  if (!is_looked_up(address, size, family))
    return ANP_REAL(gethostbyaddr_r)(address, size, family, host, buffer, length, result, error);
  if (length < LEAST_ROOM) return too_little_room(result, error);
  struct anp_host_found found;
  anp_host_by_address(address, family, &found);
  return deliver(&found, "", family_found(&found, family), host, buffer, length, result, error);
}

// ---- The forms with memory of their own -----------------------------------------------------------------------------------

// One for each function, for the whole process, as in libc: the next call overwrites it. The lock is held for the copying only.
struct kept {
  pthread_mutex_t lock;
  struct hostent host;
  char *memory;
  size_t size;
};

static struct kept of_names = {.lock = PTHREAD_MUTEX_INITIALIZER}, of_names2 = {.lock = PTHREAD_MUTEX_INITIALIZER},
                   of_addresses = {.lock = PTHREAD_MUTEX_INITIALIZER};

/// Twice the memory there was; 0, or ENOMEM.
static int enlarge(struct kept *kept) {
  size_t size = kept->size ? 2 * kept->size : 1024;
  char *larger = realloc(kept->memory, size);
  if (!larger) return ENOMEM;
  kept->memory = larger;
  kept->size = size;
  return 0;
}

/// Keeps what was found; gives `found` back.
static struct hostent *keep(struct kept *kept, struct anp_host_found *found, const char *name, int family) {
  struct hostent *result = NULL;
  int error = found->error, code = found->system_error;
  if (error == 0) {
    pthread_mutex_lock(&kept->lock);
    code = kept->size ? 0 : enlarge(kept);
    while (code == 0 && (code = fill(found, name, family, &kept->host, kept->memory, kept->size)) == ERANGE)
      code = enlarge(kept);
    pthread_mutex_unlock(&kept->lock);
    if (code == 0) {
      result = &kept->host;
    } else {
      error = NETDB_INTERNAL;
    }
  }
  anp_host_forget(found);
  if (error) h_errno = error;
  errno = code;
  return result;
}

static struct hostent *kept_by_name(struct kept *kept, const char *name, int family) {
  struct anp_host_found found;
  anp_host_by_name(name, family == AF_INET ? ANP_WANTS_INET : ANP_WANTS_INET6, &found);
  return keep(kept, &found, name, family);
}

ANP_EXPORT struct hostent *gethostbyname(const char *name) {
  if (looks_numeric(name)) return ANP_REAL(gethostbyname)(name);
  return kept_by_name(&of_names, name, AF_INET);
}

ANP_EXPORT struct hostent *gethostbyname2(const char *name, int family) {
  if (looks_numeric(name) || (family != AF_INET && family != AF_INET6)) return ANP_REAL(gethostbyname2)(name, family);
  return kept_by_name(&of_names2, name, family);
}

ANP_EXPORT struct hostent *gethostbyaddr(const void *address, socklen_t size, int family) {
  if (!is_looked_up(address, size, family)) return ANP_REAL(gethostbyaddr)(address, size, family);
  struct anp_host_found found;
  anp_host_by_address(address, family, &found);
  return keep(&of_addresses, &found, "", family_found(&found, family));
}

// ---- gethostid ------------------------------------------------------------------------------------------------------------

/// As libc: what sethostid left, else made of the first address of the machine's own name, which libc would look up by itself.
ANP_EXPORT long gethostid(void) {
  int32_t identity;
  if (anp_read_file("/etc/hostid", &identity, sizeof identity) == sizeof identity) return identity;
  char name[256] = "";
  struct anp_host_found found;
  uint32_t address = 0;
  if (gethostname(name, sizeof name - 1) != 0 || !name[0]) return 0;
  anp_host_by_name(name, ANP_WANTS_INET, &found);
  if (found.error == 0 && found.address_count > 0) memcpy(&address, found.addresses[0].address + 12, sizeof address);
  anp_host_forget(&found);
  return (int32_t)(address << 16 | address >> 16);
}
