// Owns: what answers of the DNS say about a host. Read first: RFC 1035 §4.1 (messages), RFC 3596 (AAAA, ip6.arpa).
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "anp_dns.h"
#include "host_found.h"

enum { HEADER_BYTES = 12, QUESTION_BYTES = 4, RECORD_BYTES = 10, NAME_ROOM = NS_MAXDNAME + 1 };

static int get16(const unsigned char *at) { return at[0] << 8 | at[1]; }

struct record {
  char name[NAME_ROOM];
  int type, dns_class;
  /// Where its data is in the message, and how much.
  int data, length;
};

/// The record at `at`; where the next one is, or -1.
static int read_record(const struct anp_dns_answer *message, int at, struct record *record) {
  int taken = anp_dns_name(message, at, 0, record->name, sizeof record->name);
  if (taken < 0 || at + taken + RECORD_BYTES > message->length) return -1;
  const unsigned char *fixed = message->bytes + at + taken;
  record->type = get16(fixed);
  record->dns_class = get16(fixed + 2);
  record->length = get16(fixed + 8);
  record->data = at + taken + RECORD_BYTES;
  return record->data + record->length <= message->length ? record->data + record->length : -1;
}

/// Where the answers begin, or -1; the name that was asked for.
static int skip_question(const struct anp_dns_answer *message, char *name, size_t room) {
  if (get16(message->bytes + 4) != 1) return -1;
  int taken = anp_dns_name(message, HEADER_BYTES, 0, name, room);
  int at = HEADER_BYTES + taken + QUESTION_BYTES;
  return taken < 0 || at > message->length ? -1 : at;
}

/// Follows the chain of aliases to the records of `type`; takes over what they say. Addresses found. What is no name of a host is
/// followed, but not shown to programs.
static int take_addresses(const struct anp_dns_answer *message, int type, struct anp_host_found *found) {
  char wanted[NAME_ROOM], name[NAME_ROOM], target[NAME_ROOM];
  struct record record;
  int count = 0, at = skip_question(message, wanted, sizeof wanted);
  int size = type == T_A ? 4 : 16;
  int is_first = !found->name;
  memcpy(name, wanted, sizeof name);
  for (int left = get16(message->bytes + 6); left > 0 && at >= 0; left--) {
    at = read_record(message, at, &record);
    if (at < 0 || record.dns_class != C_IN || strcasecmp(record.name, wanted) != 0) continue;
    if (record.type == T_CNAME) {
      if (anp_dns_name(message, record.data, 0, target, sizeof target) < 0) continue;
      memcpy(wanted, target, sizeof wanted);
      if (anp_dns_name(message, record.data, 1, target, sizeof target) < 0) continue;
      if (is_first) anp_found_alias(found, name);
      memcpy(name, target, sizeof name);
    } else if (record.type == type && record.length == size) {
      if (!found->name) anp_found_name(found, name);
      anp_found_address(found, type == T_A ? AF_INET : AF_INET6, message->bytes + record.data, 0);
      count++;
    }
  }
  return count;
}

/// What libc's functions make of it: with no server's answer the DNS is out of reach, else the host is not known.
static enum nss_status failed(struct anp_host_found *found, int error, int reason) {
  found->error = error;
  found->system_error = error == TRY_AGAIN && reason ? EAGAIN : reason;
  return reason ? NSS_STATUS_UNAVAIL : NSS_STATUS_NOTFOUND;
}

enum nss_status anp_dns_host_by_name(const char *name, int wants, struct anp_host_found *found) {
  if (!anp_is_host_name(name)) return failed(found, HOST_NOT_FOUND, 0);
  struct anp_dns dns;
  anp_dns_begin(&dns, NULL);
  int first = wants & ANP_WANTS_INET ? T_A : T_AAAA, second = wants == (ANP_WANTS_INET | ANP_WANTS_INET6) ? T_AAAA : 0;
  // libc looks for a host's alias along the search list, too; res_search does not.
  char alias[NAME_ROOM];
  if (anp_dns_alias(&dns, name, alias, sizeof alias)) name = alias;
  int error = anp_dns_search(&dns, name, C_IN, first, second);
  int count = 0;
  if (error == 0) {
    if (dns.answers[0].bytes) count += take_addresses(&dns.answers[0], first, found);
    if (second && dns.answers[1].bytes) count += take_addresses(&dns.answers[1], second, found);
  }
  enum nss_status status = error ? failed(found, error, errno) : NSS_STATUS_SUCCESS;
  if (error == 0 && count == 0) {
    // There was an answer, but of another kind than was asked for: a chain of aliases that leads nowhere. So says libc:
    found->error = NO_RECOVERY;
    found->system_error = EAGAIN;
    status = NSS_STATUS_TRYAGAIN;
  }
  anp_dns_end(&dns);
  return status;
}

/// 4.3.2.1.in-addr.arpa, and sixteen octets as 32 digits below ip6.arpa.
static void reverse_name(const uint8_t *address, int family, char *name) {
  if (family == AF_INET) {
    sprintf(name, "%u.%u.%u.%u.in-addr.arpa", address[3], address[2], address[1], address[0]);
    return;
  }
  for (int i = 15; i >= 0; i--) name += sprintf(name, "%x.%x.", address[i] & 0xf, address[i] >> 4);
  strcpy(name, "ip6.arpa");
}

enum nss_status anp_dns_host_by_address(const void *address, int family, struct anp_host_found *found) {
  struct anp_dns dns;
  anp_dns_begin(&dns, NULL);
  char asked[80], wanted[NAME_ROOM], target[NAME_ROOM];
  // A mapped address is one of IPv4.
  int is_inet = family == AF_INET || anp_is_mapped(address);
  reverse_name((const uint8_t *)address + (is_inet && family == AF_INET6 ? 12 : 0), is_inet ? AF_INET : AF_INET6, asked);
  int error = anp_dns_query(&dns, asked, C_IN, T_PTR, 0);
  if (error == 0) {
    struct record record;
    const struct anp_dns_answer *message = &dns.answers[0];
    int at = skip_question(message, wanted, sizeof wanted);
    for (int left = get16(message->bytes + 6); left > 0 && at >= 0; left--) {
      at = read_record(message, at, &record);
      if (at < 0 || record.dns_class != C_IN || strcasecmp(record.name, wanted) != 0) continue;
      if (record.type == T_CNAME && anp_dns_name(message, record.data, 0, target, sizeof target) >= 0) {
        memcpy(wanted, target, sizeof wanted);
      } else if (record.type == T_PTR && anp_dns_name(message, record.data, 1, target, sizeof target) >= 0) {
        // Of several names the first is the host's.
        if (found->name) {
          anp_found_alias(found, target);
        } else {
          anp_found_name(found, target);
        }
      }
    }
    if (found->name) {
      anp_found_address(found, is_inet ? AF_INET : AF_INET6, (const uint8_t *)address + (is_inet && family == AF_INET6 ? 12 : 0), 0);
    } else {
      error = NO_DATA;
    }
  }
  // libc counts a server that does not answer among those that do not know.
  enum nss_status status = error ? failed(found, error, errno) : NSS_STATUS_SUCCESS;
  if (error == TRY_AGAIN) status = NSS_STATUS_NOTFOUND;
  anp_dns_end(&dns);
  return status;
}
