// One look-up in the DNS, by c-ares, over sockets that go where any other socket of the program goes.
//
//   struct anp_dns dns;
//   anp_dns_begin(&dns, NULL);
//   error = anp_dns_search(&dns, name, C_IN, T_A, T_AAAA);    an h_errno value, or 0; then dns.answers[0] and [1]
//   anp_dns_end(&dns);
//
// Between begin and end the thread is not cancelled, except in the wait for an answer; then all that is in here is given back.
#pragma once

#include <netdb.h>
#include <resolv.h>
#include <stddef.h>
#include <stdint.h>

#include "anp_names.h"

/// What became of one query.
struct anp_dns_answer {
  /// The whole answer, from c-ares' memory (the library's own); NULL where there is none.
  unsigned char *bytes;
  int length;
};

struct anp_dns {
  /// The resolver's state that counts: the thread's, the caller's, or `fresh`.
  struct __res_state *state;
  struct __res_state fresh;
  int is_fresh;
  struct anp_name_server servers[ANP_NAME_SERVERS];
  int server_count;
  /// The search list, up to a NULL.
  const char *domains[MAXDNSRCH + 1];
  char domain_text[256];
  /// c-ares' channel; NULL before the first query.
  void *channel;
  /// errno of a failure of our own: no memory, no descriptor.
  int system_error;
  /// A server said SERVFAIL: the next name of the search list may fare better.
  int server_failed;
  int refused, timed_out;
  /// The messages asked with, from c-ares' memory, while they are under way.
  unsigned char *questions[2];
  struct anp_dns_answer answers[2];
  int pending;
  int cancel_state;
};

/// `state` is the resolver's state that the program passes to res_nquery and its like; NULL: the thread's.
void anp_dns_begin(struct anp_dns *dns, struct __res_state *state);
void anp_dns_end(struct anp_dns *dns);

/// A name that a host may have: labels of letters, digits, '-' and '_', no '-' in front (res_hnok). Other names are not asked for,
/// and kept from programs where a server tells of them.
int anp_is_host_name(const char *name);

/// Asks for `name` as it is: two questions at once where `second` is a type, not 0. An h_errno value, 0 where at least one has
/// an answer; one that was of no use stays there. errno is 0 where a server has answered, else why none has.
int anp_dns_query(struct anp_dns *dns, const char *name, int dns_class, int type, int second);
/// The same along the search list (resolv.conf(5): search, ndots).
int anp_dns_search(struct anp_dns *dns, const char *name, int dns_class, int type, int second);
/// The name that the file of HOSTALIASES gives for one without dots, "alias  name.of.the.host" a line; false where it gives none.
int anp_dns_alias(const struct anp_dns *dns, const char *name, char *target, size_t room);
/// `name` below `domain`, or as it is where that is NULL.
int anp_dns_query_domain(struct anp_dns *dns, const char *name, const char *domain, int dns_class, int type, int second);
/// A message that the program made. 0, or an h_errno value.
int anp_dns_send(struct anp_dns *dns, const unsigned char *message, int length);

/// The name at `at` in a message as text; the bytes it takes there, or -1. Names of hosts only where `is_host`.
int anp_dns_name(const struct anp_dns_answer *message, int at, int is_host, char *text, size_t room);
