// How the services add to what is known of a host. Internal to CShim/Names.
#pragma once

#include <nss.h>

#include "anp_host_names.h"

void anp_found_name(struct anp_host_found *found, const char *name);
void anp_found_alias(struct anp_host_found *found, const char *alias);
/// `bytes`: 4 or 16 of them, as the family says.
void anp_found_address(struct anp_host_found *found, int family, const void *bytes, uint32_t scope);
/// Forgets names and addresses, keeps the errors.
void anp_found_nothing(struct anp_host_found *found);

// What a service answers with: a status, and an h_errno value with the errno to it in `found`.
enum nss_status anp_dns_host_by_name(const char *name, int wants, struct anp_host_found *found);
enum nss_status anp_dns_host_by_address(const void *address, int family, struct anp_host_found *found);
/// NSS_STATUS_NOTFOUND: the DNS is to be asked.
enum nss_status anp_resolved_host_by_name(const char *name, int wants, struct anp_host_found *found);
enum nss_status anp_resolved_host_by_address(const void *address, int family, struct anp_host_found *found);
enum nss_status anp_module_host_by_name(const char *service, const char *name, int wants, struct anp_host_found *found);
enum nss_status anp_module_host_by_address(const char *service, const void *address, int family,
                                           struct anp_host_found *found);
