// Owns: the functions of libc's resolver that send: res_query, res_search, res_send and their kin. Read first: resolver(3).
// Those that only read or write (res_init, res_mkquery, dn_expand …) remain libc's.
//
// The forms with an n are given a state by the program, the others take the thread's: see CShim/Names/dns.c.
#define _GNU_SOURCE
#include <arpa/nameser.h>
#include <netdb.h>
#include <resolv.h>
#include <string.h>

#include "anp_dns.h"
#include "interpose.h"

#define ANP_ALSO(name, function) \
  ANP_EXPORT __typeof__(function) name __attribute__((alias(#function)))

/// Copies the answer to the caller, also one that says that there is none. Its length, or -1 with h_errno.
static int deliver(struct anp_dns *dns, int error, struct __res_state *state, unsigned char *buffer, int room) {
  const struct anp_dns_answer *answer = &dns->answers[0];
  int length = answer->bytes ? answer->length : 0;
  if (length > 0 && room > 0) {
    memcpy(buffer, answer->bytes, (size_t)(length < room ? length : room));
    // TC: not all of it is there.
    if (length > room && room > 2) buffer[2] |= 0x02;
  }
  int saved = errno;
  anp_dns_end(dns);
  errno = saved;
  if (error) {
    h_errno = error;
    if (state) state->res_h_errno = error;
    return -1;
  }
  return length;
}

static int query(struct __res_state *state, const char *name, int dns_class, int type, unsigned char *buffer, int room) {
  struct anp_dns dns;
  anp_dns_begin(&dns, state);
  return deliver(&dns, anp_dns_query(&dns, name, dns_class, type, 0), state, buffer, room);
}

static int search(struct __res_state *state, const char *name, int dns_class, int type, unsigned char *buffer, int room) {
  struct anp_dns dns;
  anp_dns_begin(&dns, state);
  return deliver(&dns, anp_dns_search(&dns, name, dns_class, type, 0), state, buffer, room);
}

static int query_domain(struct __res_state *state, const char *name, const char *domain, int dns_class, int type,
                        unsigned char *buffer, int room) {
  struct anp_dns dns;
  anp_dns_begin(&dns, state);
  return deliver(&dns, anp_dns_query_domain(&dns, name, domain, dns_class, type, 0), state, buffer, room);
}

static int send_made(struct __res_state *state, const unsigned char *message, int length, unsigned char *buffer, int room) {
  if (room < NS_HFIXEDSZ) {
    errno = EINVAL;
    return -1;
  }
  struct anp_dns dns;
  anp_dns_begin(&dns, state);
  int error = anp_dns_send(&dns, message, length);
  // Here errno tells, not h_errno.
  int before = h_errno, result = deliver(&dns, error, NULL, buffer, room);
  h_errno = before;
  return result;
}

ANP_EXPORT int res_query(const char *name, int dns_class, int type, unsigned char *buffer, int room) {
  return query(NULL, name, dns_class, type, buffer, room);
}
ANP_EXPORT int res_nquery(res_state state, const char *name, int dns_class, int type, unsigned char *buffer, int room) {
  return query(state, name, dns_class, type, buffer, room);
}
ANP_EXPORT int res_search(const char *name, int dns_class, int type, unsigned char *buffer, int room) {
  return search(NULL, name, dns_class, type, buffer, room);
}
ANP_EXPORT int res_nsearch(res_state state, const char *name, int dns_class, int type, unsigned char *buffer, int room) {
  return search(state, name, dns_class, type, buffer, room);
}
ANP_EXPORT int res_querydomain(const char *name, const char *domain, int dns_class, int type, unsigned char *buffer,
                               int room) {
  return query_domain(NULL, name, domain, dns_class, type, buffer, room);
}
ANP_EXPORT int res_nquerydomain(res_state state, const char *name, const char *domain, int dns_class, int type,
                                unsigned char *buffer, int room) {
  return query_domain(state, name, domain, dns_class, type, buffer, room);
}
ANP_EXPORT int res_send(const unsigned char *message, int length, unsigned char *buffer, int room) {
  return send_made(NULL, message, length, buffer, room);
}
ANP_EXPORT int res_nsend(res_state state, const unsigned char *message, int length, unsigned char *buffer, int room) {
  return send_made(state, message, length, buffer, room);
}

// The names that programs linked before glibc 2.34 import from libresolv.
ANP_ALSO(__res_query, res_query);
ANP_ALSO(__res_nquery, res_nquery);
ANP_ALSO(__res_search, res_search);
ANP_ALSO(__res_nsearch, res_nsearch);
ANP_ALSO(__res_querydomain, res_querydomain);
ANP_ALSO(__res_nquerydomain, res_nquerydomain);
ANP_ALSO(__res_send, res_send);
ANP_ALSO(__res_nsend, res_nsend);
