// Owns: asking the services of names that libc has: /etc/hosts, whose code is inside libc, and the modules libnss_NAME.so.2.
// Read first: nss.h, and "NSS Module Functions" in the manual of the GNU C Library.
//
// Never asked here: libc's own "dns", which sends through the kernel.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host_found.h"

enum { SCRATCH_BYTES = 4096, SCRATCH_MOST = 4 << 20 };

typedef enum nss_status (*ByName4)(const char *, struct gaih_addrtuple **, char *, size_t, int *, int *, int32_t *);
typedef enum nss_status (*ByName3)(const char *, int, struct hostent *, char *, size_t, int *, int *, int32_t *, char **);
typedef enum nss_status (*ByName2)(const char *, int, struct hostent *, char *, size_t, int *, int *);
typedef enum nss_status (*ByAddress2)(const void *, socklen_t, int, struct hostent *, char *, size_t, int *, int *, int32_t *);
typedef enum nss_status (*ByAddress)(const void *, socklen_t, int, struct hostent *, char *, size_t, int *, int *);

/// What one service offers; NULL for what it does not.
static void *function_of(const char *service, const char *function) {
  char name[128], file[64];
  snprintf(name, sizeof name, "_nss_%s_%s", service, function);
  void *found = dlsym(RTLD_DEFAULT, name);
  if (!found) {
    snprintf(file, sizeof file, "libnss_%s.so.2", service);
    void *module = dlopen(file, RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
    if (module) found = dlsym(module, name);
  }
  // The program is not to find an error of ours.
  dlerror();
  return found;
}

/// Calls `ask`, with more and more memory as long as the service says that it has too little.
struct call {
  const void *key;
  int family;
  void *function;
  int errors[2];
  struct anp_host_found *found;
};

static enum nss_status with_scratch(struct call *call, enum nss_status (*ask)(struct call *, char *, size_t)) {
  char small[SCRATCH_BYTES] __attribute__((aligned(16)));
  enum nss_status status = ask(call, small, sizeof small);
  for (size_t room = 4 * SCRATCH_BYTES; room <= SCRATCH_MOST; room *= 4) {
    if (status != NSS_STATUS_TRYAGAIN || call->errors[0] != ERANGE) break;
    char *large = malloc(room);
    if (!large) {
      call->found->is_short_of_memory = 1;
      break;
    }
    // A service may wait for an answer, and the thread be cancelled there.
    pthread_cleanup_push(free, large);
    status = ask(call, large, room);
    pthread_cleanup_pop(1);
  }
  call->found->error = status == NSS_STATUS_SUCCESS ? 0 : call->errors[1];
  call->found->system_error = call->errors[0];
  return status;
}

static void take_host(struct anp_host_found *found, const struct hostent *host) {
  if (!found->name && host->h_name) {
    anp_found_name(found, host->h_name);
    for (char **alias = host->h_aliases; alias && *alias; alias++) anp_found_alias(found, *alias);
  }
  for (char **address = host->h_addr_list; address && *address; address++)
    anp_found_address(found, host->h_addrtype, *address, 0);
}

static enum nss_status ask_by_name4(struct call *call, char *scratch, size_t room) {
  struct gaih_addrtuple *tuples = NULL;
  enum nss_status status =
      ((ByName4)call->function)(call->key, &tuples, scratch, room, &call->errors[0], &call->errors[1], NULL);
  if (status != NSS_STATUS_SUCCESS) return status;
  for (const struct gaih_addrtuple *tuple = tuples; tuple; tuple = tuple->next) {
    if (!call->found->name && tuple->name) anp_found_name(call->found, tuple->name);
    anp_found_address(call->found, tuple->family, tuple->addr, tuple->scopeid);
  }
  return status;
}

static enum nss_status ask_by_name3(struct call *call, char *scratch, size_t room) {
  struct hostent host;
  char *canonical = NULL;
  enum nss_status status = ((ByName3)call->function)(call->key, call->family, &host, scratch, room, &call->errors[0],
                                                     &call->errors[1], NULL, &canonical);
  if (status == NSS_STATUS_SUCCESS) take_host(call->found, &host);
  return status;
}

static enum nss_status ask_by_name2(struct call *call, char *scratch, size_t room) {
  struct hostent host;
  enum nss_status status = ((ByName2)call->function)(call->key, call->family, &host, scratch, room, &call->errors[0],
                                                     &call->errors[1]);
  if (status == NSS_STATUS_SUCCESS) take_host(call->found, &host);
  return status;
}

static enum nss_status by_name_of_family(const char *service, const char *name, int family, struct anp_host_found *found) {
  struct call call = {.key = name, .family = family, .found = found};
  if ((call.function = function_of(service, "gethostbyname3_r"))) return with_scratch(&call, ask_by_name3);
  if ((call.function = function_of(service, "gethostbyname2_r"))) return with_scratch(&call, ask_by_name2);
  return NSS_STATUS_UNAVAIL;
}

enum nss_status anp_module_host_by_name(const char *service, const char *name, int wants, struct anp_host_found *found) {
  found->error = HOST_NOT_FOUND;
  if (wants == ANP_WANTS_INET || wants == ANP_WANTS_INET6)
    return by_name_of_family(service, name, wants == ANP_WANTS_INET ? AF_INET : AF_INET6, found);
  struct call call = {.key = name, .found = found, .function = function_of(service, "gethostbyname4_r")};
  if (call.function) return with_scratch(&call, ask_by_name4);
  enum nss_status status = by_name_of_family(service, name, AF_INET6, found);
  enum nss_status other = by_name_of_family(service, name, AF_INET, found);
  if (status == NSS_STATUS_SUCCESS) found->error = 0;
  return status == NSS_STATUS_SUCCESS ? status : other;
}

static enum nss_status ask_by_address2(struct call *call, char *scratch, size_t room) {
  struct hostent host;
  enum nss_status status =
      ((ByAddress2)call->function)(call->key, call->family == AF_INET ? 4 : 16, call->family, &host, scratch, room,
                                   &call->errors[0], &call->errors[1], NULL);
  if (status == NSS_STATUS_SUCCESS) take_host(call->found, &host);
  return status;
}

static enum nss_status ask_by_address(struct call *call, char *scratch, size_t room) {
  struct hostent host;
  enum nss_status status = ((ByAddress)call->function)(call->key, call->family == AF_INET ? 4 : 16, call->family, &host,
                                                       scratch, room, &call->errors[0], &call->errors[1]);
  if (status == NSS_STATUS_SUCCESS) take_host(call->found, &host);
  return status;
}

enum nss_status anp_module_host_by_address(const char *service, const void *address, int family,
                                           struct anp_host_found *found) {
  found->error = HOST_NOT_FOUND;
  struct call call = {.key = address, .family = family, .found = found};
  if ((call.function = function_of(service, "gethostbyaddr2_r"))) return with_scratch(&call, ask_by_address2);
  if ((call.function = function_of(service, "gethostbyaddr_r"))) return with_scratch(&call, ask_by_address);
  return NSS_STATUS_UNAVAIL;
}
