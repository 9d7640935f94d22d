// The border between the names in C (CShim/Names, the exported functions of CShim/Interpose) and the policy in Swift
// (Sources/Preload/Names.swift, AddressOrder.swift): which servers are asked, which services in which order, in what order
// addresses are returned, and which addresses the stack has.
#pragma once

#include <stdint.h>

enum {
  ANP_NAME_SERVERS = 8,
  ANP_NAME_SERVICES = 12,
  ANP_NAME_SERVICE_LENGTH = 32,
};

/// A server of names; the address in the IPv4-mapped form where it is one of IPv4, network byte order.
struct anp_name_server {
  uint8_t address[16];
  uint16_t port;
  /// The interface of a link-local address, 0 where there is none.
  uint32_t scope;
};

/// What a service's answer leads to, a bit for each status: set where the search ends there (nsswitch.conf(5)).
enum {
  ANP_ENDS_ON_SUCCESS = 1,
  ANP_ENDS_ON_NOTFOUND = 2,
  ANP_ENDS_ON_UNAVAIL = 4,
  ANP_ENDS_ON_TRYAGAIN = 8,
};

struct anp_name_service {
  char name[ANP_NAME_SERVICE_LENGTH];
  uint32_t ends;
};

/// An address that a name has. As above; `is_inet6` tells a mapped address that was asked for as such from one of IPv4.
struct anp_name_address {
  uint8_t address[16];
  uint32_t scope;
  uint32_t is_inet6;
};

// ---- What Swift provides ------------------------------------------------------------------------------------------------

/// The servers that ANP_DNS names, else those learned from the network; their count. 0: those of resolv.conf are to be asked.
/// -1: the settings cannot be used, which has been said.
long anp_entry_name_servers(struct anp_name_server *servers, long room);
/// The search domains that came with a lease, with spaces between them; their length, 0 for none.
long anp_entry_search_domains(char *text, long room);
/// Reads nsswitch.conf's line about hosts; the count of services.
long anp_entry_name_services(const char *text, long length, struct anp_name_service *services, long room);
/// Puts addresses into the order in which they should be tried (RFC 6724).
void anp_entry_order_addresses(struct anp_name_address *addresses, long count);
/// Whether the stack has an address of that family, other than loopback (AI_ADDRCONFIG).
int anp_entry_has_address(int family);

// ---- What Support provides ----------------------------------------------------------------------------------------------

/// The address from which the kernel would send to `destination` (16 bytes each, IPv4 in the mapped form); 0, or -errno where
/// it has no way there. Sends nothing.
int anp_kernel_source_address(const uint8_t *destination, uint32_t scope, uint8_t *source);
