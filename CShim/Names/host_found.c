// Owns: the look-up of a host along the services of nsswitch.conf, and what is found. Read first: nsswitch.conf(5).
//
//   files            libc's own code for /etc/hosts
//   dns              dns_host.c
//   resolve          resolved.c, then dns_host.c: systemd-resolved would be the kernel's side asking in our place
//   any other        libc's module of that name (libnss_NAME.so.2): mdns4_minimal, myhostname, nis …
//
// Where "dns" and "resolve" are both named, the servers are asked once: what they failed with the first time holds for the second.
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "anp_host.h"
#include "host_found.h"

enum { CONFIGURATION_ROOM = 8192 };

// ---- What is found --------------------------------------------------------------------------------------------------------

static const uint8_t mapped_prefix[12] = {[10] = 0xff, [11] = 0xff};

void anp_map_address(uint8_t *mapped, const void *inet) {
  memcpy(mapped, mapped_prefix, sizeof mapped_prefix);
  memcpy(mapped + sizeof mapped_prefix, inet, 4);
}

int anp_is_mapped(const uint8_t *address) { return memcmp(address, mapped_prefix, sizeof mapped_prefix) == 0; }

static char *copied(struct anp_host_found *found, const char *text) {
  size_t length = strlen(text) + 1;
  char *copy = malloc(length);
  if (copy) {
    memcpy(copy, text, length);
  } else {
    found->is_short_of_memory = 1;
  }
  return copy;
}

/// Room for one more element: the capacity is the next power of two.
static void *grown(struct anp_host_found *found, void *array, size_t count, size_t element) {
  if (count & (count - 1)) return array;
  void *larger = realloc(array, (count ? 2 * count : 1) * element);
  if (!larger) found->is_short_of_memory = 1;
  return larger;
}

void anp_found_name(struct anp_host_found *found, const char *name) {
  free(found->name);
  found->name = copied(found, name);
}

void anp_found_alias(struct anp_host_found *found, const char *alias) {
  char **larger = grown(found, found->aliases, found->alias_count, sizeof *larger);
  if (!larger) return;
  found->aliases = larger;
  char *copy = copied(found, alias);
  if (copy) found->aliases[found->alias_count++] = copy;
}

void anp_found_address(struct anp_host_found *found, int family, const void *bytes, uint32_t scope) {
  struct anp_name_address *larger = grown(found, found->addresses, found->address_count, sizeof *larger);
  if (!larger) return;
  found->addresses = larger;
  struct anp_name_address *address = &larger[found->address_count++];
  *address = (struct anp_name_address){.scope = scope, .is_inet6 = family == AF_INET6};
  if (family == AF_INET6) {
    memcpy(address->address, bytes, 16);
  } else {
    anp_map_address(address->address, bytes);
  }
}

void anp_found_nothing(struct anp_host_found *found) {
  free(found->name);
  for (size_t i = 0; i < found->alias_count; i++) free(found->aliases[i]);
  free(found->aliases);
  free(found->addresses);
  found->name = NULL;
  found->aliases = NULL;
  found->addresses = NULL;
  found->alias_count = found->address_count = 0;
}

void anp_host_forget(struct anp_host_found *found) { anp_found_nothing(found); }

/// Where the thread is cancelled while a service waits: nobody will look at what was found.
static void cancelled(void *found) { anp_found_nothing(found); }

// ---- Along the services ---------------------------------------------------------------------------------------------------

/// How the DNS failed.
struct failure {
  int is_known;
  enum nss_status status;
  int error, system_error;
};

struct services {
  struct anp_name_service list[ANP_NAME_SERVICES];
  int count, next;
  /// IPv6 addresses may have been asked for by themselves, before those of IPv4.
  struct failure of_inet6, of_other;
};

static void begin(struct services *services, struct anp_host_found *found) {
  char text[CONFIGURATION_ROOM];
  long length = anp_read_file("/etc/nsswitch.conf", text, sizeof text);
  *services = (struct services){0};
  services->count = (int)anp_entry_name_services(text, length, services->list, ANP_NAME_SERVICES);
  *found = (struct anp_host_found){.error = HOST_NOT_FOUND};
}

/// The service to ask next, NULL where there is none.
static const char *next(struct services *services) {
  return services->next < services->count ? services->list[services->next++].name : NULL;
}

static int ends(const struct services *services, enum nss_status status) {
  uint32_t bits = services->list[services->next - 1].ends;
  switch (status) {
    case NSS_STATUS_SUCCESS: return (bits & ANP_ENDS_ON_SUCCESS) != 0;
    case NSS_STATUS_NOTFOUND: return (bits & ANP_ENDS_ON_NOTFOUND) != 0;
    case NSS_STATUS_UNAVAIL: return (bits & ANP_ENDS_ON_UNAVAIL) != 0;
    case NSS_STATUS_TRYAGAIN: return (bits & ANP_ENDS_ON_TRYAGAIN) != 0;
    default: return 1;
  }
}

static void settle(struct anp_host_found *found, enum nss_status status) {
  if (found->is_short_of_memory) {
    found->error = NETDB_INTERNAL;
    found->system_error = ENOMEM;
  } else if (status == NSS_STATUS_SUCCESS) {
    found->error = 0;
  } else {
    if (found->error == 0) found->error = HOST_NOT_FOUND;
    // Not known is no error, and no errno goes with it.
    if (status == NSS_STATUS_NOTFOUND && found->error != NETDB_INTERNAL) found->system_error = 0;
  }
  if (found->error) anp_found_nothing(found);
}

static enum nss_status recall(const struct failure *failure, struct anp_host_found *found) {
  found->error = failure->error;
  found->system_error = failure->system_error;
  return failure->status;
}

/// Keeps the failure, if it is one.
static enum nss_status keep(struct failure *failure, enum nss_status status, const struct anp_host_found *found) {
  *failure = (struct failure){status != NSS_STATUS_SUCCESS, status, found->error, found->system_error};
  return status;
}

static enum nss_status ask(struct services *services, const char *service, const char *name, int wants,
                           struct anp_host_found *found) {
  int is_resolve = strcmp(service, "resolve") == 0;
  if (!is_resolve && strcmp(service, "dns") != 0) return anp_module_host_by_name(service, name, wants, found);
  if (is_resolve && anp_resolved_host_by_name(name, wants, found) == NSS_STATUS_SUCCESS) return NSS_STATUS_SUCCESS;
  struct failure *failure = wants == ANP_WANTS_INET6 ? &services->of_inet6 : &services->of_other;
  if (failure->is_known) return recall(failure, found);
  return keep(failure, anp_dns_host_by_name(name, wants, found), found);
}

static enum nss_status ask_by_address(struct services *services, const char *service, const void *address, int family,
                                      struct anp_host_found *found) {
  int is_resolve = strcmp(service, "resolve") == 0;
  if (!is_resolve && strcmp(service, "dns") != 0) return anp_module_host_by_address(service, address, family, found);
  if (is_resolve && anp_resolved_host_by_address(address, family, found) == NSS_STATUS_SUCCESS) return NSS_STATUS_SUCCESS;
  struct failure *failure = &services->of_other;
  if (failure->is_known) return recall(failure, found);
  return keep(failure, anp_dns_host_by_address(address, family, found), found);
}

/// Two failures to find addresses, of IPv6 and then IPv4, in one: known in one of the families is known.
static int combined(int first, int second) {
  if (first == NETDB_INTERNAL || second == NETDB_INTERNAL) return NETDB_INTERNAL;
  int is_known = (first == TRY_AGAIN || first == NO_DATA) && (second == TRY_AGAIN || second == NO_DATA);
  if (!is_known) return HOST_NOT_FOUND;
  return first == TRY_AGAIN && second == TRY_AGAIN ? TRY_AGAIN : NO_DATA;
}

/// IPv6 addresses, with those of IPv4 in their place or beside them; service by service.
static enum nss_status ask_mapped(struct services *services, const char *service, const char *name, int wants,
                                  struct anp_host_found *found) {
  enum nss_status status = ask(services, service, name, ANP_WANTS_INET6, found);
  if (status == NSS_STATUS_SUCCESS && !(wants & ANP_WANTS_ALL)) return status;
  size_t before = found->address_count;
  int error = found->error;
  enum nss_status mapped = ask(services, service, name, ANP_WANTS_INET, found);
  for (size_t i = before; i < found->address_count; i++) found->addresses[i].is_inet6 = 1;
  if (status == NSS_STATUS_SUCCESS || mapped == NSS_STATUS_SUCCESS) return NSS_STATUS_SUCCESS;
  found->error = combined(error, found->error);
  return mapped;
}

void anp_host_by_name(const char *name, int wants, struct anp_host_found *found) {
  struct services services;
  begin(&services, found);
  enum nss_status status = NSS_STATUS_NOTFOUND;
  pthread_cleanup_push(cancelled, found);
  for (const char *service; (service = next(&services));) {
    anp_found_nothing(found);
    status = wants & ANP_WANTS_MAPPED ? ask_mapped(&services, service, name, wants, found)
                                      : ask(&services, service, name, wants, found);
    if (found->is_short_of_memory || ends(&services, status)) break;
  }
  pthread_cleanup_pop(0);
  settle(found, status);
}

void anp_host_by_address(const void *address, int family, struct anp_host_found *found) {
  struct services services;
  begin(&services, found);
  enum nss_status status = NSS_STATUS_NOTFOUND;
  pthread_cleanup_push(cancelled, found);
  for (const char *service; (service = next(&services));) {
    anp_found_nothing(found);
    status = ask_by_address(&services, service, address, family, found);
    if (found->is_short_of_memory || ends(&services, status)) break;
  }
  pthread_cleanup_pop(0);
  settle(found, status);
}
