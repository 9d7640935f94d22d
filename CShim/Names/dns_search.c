// Owns: which names are asked for when a program asks for one: aliases of the user's own, the search list, and what the failures
// along it add up to. Read first: resolv.conf(5) (search, ndots), hostname(7) (HOSTALIASES), res_search in resolver(3).
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "anp_dns.h"

enum { NAME_ROOM = NS_MAXDNAME + 1 };

int anp_dns_query_domain(struct anp_dns *dns, const char *name, const char *domain, int dns_class, int type, int second) {
  char whole[2 * NAME_ROOM];
  size_t length = strlen(name), more = domain ? strlen(domain) : 0;
  errno = 0;
  if ((length == 0 && !domain) || length + more + 1 >= NS_MAXDNAME) return NO_RECOVERY;
  memcpy(whole, name, length + 1);
  if (domain) {
    whole[length] = '.';
    memcpy(whole + length + 1, domain, more + 1);
  } else if (length > 0 && whole[length - 1] == '.') {
    whole[length - 1] = 0;
  }
  return anp_dns_query(dns, whole, dns_class, type, second);
}

int anp_dns_alias(const struct anp_dns *dns, const char *name, char *target, size_t room) {
  if (strchr(name, '.') || dns->state->options & RES_NOALIASES) return 0;
  const char *path = getenv("HOSTALIASES");
  FILE *file = path ? fopen(path, "re") : NULL;
  if (!file) return 0;
  char line[2 * NAME_ROOM];
  int found = 0;
  while (!found && fgets(line, sizeof line, file)) {
    char *rest, *alias = strtok_r(line, " \t\n", &rest), *host = alias ? strtok_r(NULL, " \t\n", &rest) : NULL;
    if (!host || strcasecmp(alias, name) != 0 || strlen(host) >= room) continue;
    strcpy(target, host);
    found = 1;
  }
  fclose(file);
  return found;
}

int anp_dns_search(struct anp_dns *dns, const char *name, int dns_class, int type, int second) {
  char alias[NAME_ROOM];
  int dots = 0;
  for (const char *at = name; *at; at++) dots += *at == '.';
  int is_whole = name[0] && name[strlen(name) - 1] == '.';
  if (anp_dns_alias(dns, name, alias, sizeof alias)) return anp_dns_query(dns, alias, dns_class, type, second);

  int as_it_is = -1, no_data = 0, server_failed = 0, searched = 0, root_searched = 0, last = HOST_NOT_FOUND;
  if (dots >= (int)dns->state->ndots || is_whole) {
    as_it_is = anp_dns_query_domain(dns, name, NULL, dns_class, type, second);
    if (as_it_is == 0 || as_it_is == NETDB_INTERNAL || is_whole) return as_it_is;
  }
  unsigned long wanted = dots == 0 ? RES_DEFNAMES : RES_DNSRCH;
  if (dns->state->options & wanted) {
    for (int i = 0; dns->domains[i]; i++) {
      const char *domain = dns->domains[i];
      if (*domain == '.') domain++;
      searched = 1;
      root_searched |= *domain == 0;
      int result = anp_dns_query_domain(dns, name, domain, dns_class, type, second);
      if (result == 0 || result == NETDB_INTERNAL) return result;
      if (result == TRY_AGAIN && errno == ECONNREFUSED) return TRY_AGAIN;
      last = result;
      no_data |= result == NO_DATA;
      int goes_on = result == NO_DATA || result == HOST_NOT_FOUND;
      // A server that fails for one name may know the next; silence ends the search.
      if (result == TRY_AGAIN && dns->server_failed) goes_on = server_failed = 1;
      if (!goes_on || !(dns->state->options & RES_DNSRCH)) break;
    }
  }
  if (as_it_is < 0 && !root_searched && (dots || !searched || !(dns->state->options & RES_NOTLDQUERY))) {
    last = anp_dns_query_domain(dns, name, NULL, dns_class, type, second);
    if (last == 0) return 0;
  }
  // The name as it was given tells most; else what any name of the list told.
  if (as_it_is >= 0) last = as_it_is;
  if (as_it_is < 0 && server_failed) last = TRY_AGAIN;
  if (as_it_is < 0 && no_data) last = NO_DATA;
  if (last != TRY_AGAIN && last != NETDB_INTERNAL) errno = 0;
  return last;
}
