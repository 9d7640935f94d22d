// What is known of a host: its names and addresses, from whichever service of nsswitch.conf knows it.
#pragma once

#include <netdb.h>
#include <stddef.h>
#include <stdint.h>

#include "anp_names.h"

/// Which addresses are wanted. MAPPED with INET6: those of IPv4 in the mapped form where there are none of IPv6; ALL with both:
/// also beside them.
enum { ANP_WANTS_INET = 1, ANP_WANTS_INET6 = 2, ANP_WANTS_MAPPED = 4, ANP_WANTS_ALL = 8 };

/// Memory of the library's own (allocator.c): what a program gets is copied out of it.
struct anp_host_found {
  /// An h_errno value; 0: found. `system_error` is the errno that libc's functions return beside it, 0 where the host is simply
  /// not known.
  int error;
  int system_error;
  /// The canonical name, and the others in order.
  char *name;
  char **aliases;
  size_t alias_count;
  struct anp_name_address *addresses;
  size_t address_count;
  int is_short_of_memory;
};

/// Looks a name up in the services of nsswitch.conf, in their order. To be given back with anp_host_forget, also after an error; not
/// where the thread is cancelled in here.
void anp_host_by_name(const char *name, int wants, struct anp_host_found *found);
/// Looks up the names of an address of `family` (AF_INET: 4 bytes, AF_INET6: 16).
void anp_host_by_address(const void *address, int family, struct anp_host_found *found);
void anp_host_forget(struct anp_host_found *found);

/// IPv4's four bytes in the mapped form.
void anp_map_address(uint8_t *mapped, const void *inet);
int anp_is_mapped(const uint8_t *address);
