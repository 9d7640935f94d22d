// Owns: what the service "resolve" knows without asking anybody. Read first: systemd-resolved.service(8), "Synthetic records";
// RFC 6761 §6.3 (localhost).
//
// nsswitch.conf often lets the search end with that service ("resolve [!UNAVAIL=return]"): it knows /etc/hosts, the own host name
// and localhost by itself, and sends no question about them. So here, with libc's code for /etc/hosts and the module myhostname
// where that is installed; host_found.c asks the DNS for the rest.
#define _GNU_SOURCE
#include <string.h>

#include "host_found.h"

/// "localhost" in one of its forms, or a name below it.
static int is_localhost(const char *name) {
  static const char *const forms[] = {"localhost", "localhost.localdomain"};
  size_t length = strlen(name);
  if (length > 0 && name[length - 1] == '.') length--;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
    size_t tail = strlen(forms[i]);
    if (length < tail || strncasecmp(name + length - tail, forms[i], tail) != 0) continue;
    if (length == tail || name[length - tail - 1] == '.') return 1;
  }
  return 0;
}

static int is_loopback(const uint8_t *address, int family) {
  static const uint8_t inet6[16] = {[15] = 1};
  return family == AF_INET ? address[0] == 127 : memcmp(address, inet6, sizeof inet6) == 0;
}

static const char *const files_first[] = {"files", "myhostname"};

enum nss_status anp_resolved_host_by_name(const char *name, int wants, struct anp_host_found *found) {
  for (size_t i = 0; i < sizeof files_first / sizeof *files_first; i++)
    if (anp_module_host_by_name(files_first[i], name, wants, found) == NSS_STATUS_SUCCESS) return NSS_STATUS_SUCCESS;
  if (!is_localhost(name)) return NSS_STATUS_NOTFOUND;
  if (!found->name) anp_found_name(found, name);
  if (wants & ANP_WANTS_INET6) anp_found_address(found, AF_INET6, (const uint8_t[16]){[15] = 1}, 0);
  if (wants & ANP_WANTS_INET) anp_found_address(found, AF_INET, (const uint8_t[4]){127, 0, 0, 1}, 0);
  found->error = 0;
  return NSS_STATUS_SUCCESS;
}

enum nss_status anp_resolved_host_by_address(const void *address, int family, struct anp_host_found *found) {
  for (size_t i = 0; i < sizeof files_first / sizeof *files_first; i++)
    if (anp_module_host_by_address(files_first[i], address, family, found) == NSS_STATUS_SUCCESS) return NSS_STATUS_SUCCESS;
  if (!is_loopback(address, family)) return NSS_STATUS_NOTFOUND;
  anp_found_name(found, "localhost");
  anp_found_address(found, family, address, 0);
  found->error = 0;
  return NSS_STATUS_SUCCESS;
}
