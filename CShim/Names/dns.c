// Owns: questions to servers of names, by c-ares: who is asked, how often, and what became of it. Which name is asked for is
// dns_search.c's. Read first: anp_dns.h; resolver(3) and resolv.conf(5) for what the options mean.
//
// The configuration is the resolver's state of libc (struct __res_state): res_ninit reads resolv.conf, LOCALDOMAIN and RES_OPTIONS
// without sending anything, and a program that changes its own state, or passes one to res_nquery, finds it respected. Only the
// servers come from elsewhere where ANP_DNS or the network names some (Sources/Preload/Names.swift), and the search list from a
// lease, unless the program put its own into its state.
//
// A channel lives for one look-up: threads share none, a forked child inherits none that is in use, a changed resolv.conf counts
// at once. All of c-ares' settings are given, so it reads neither files nor the environment. It asks each server once, with the
// same time-out for each; the attempts are counted here, as libc's resolver counts them.
//
// Sockets: the functions below call the names that this library exports, so a server on loopback is asked through the kernel and
// any other through the stack, as for every socket of the program. Memory: the library's own (allocator.c).
#define _GNU_SOURCE
#include "anp_dns.h"

#include <ares.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "anp_host.h"
#include "anp_support.h"

enum {
  /// What c-ares takes for a whole UDP answer without EDNS, and libc's resolver with it.
  EDNS_BYTES = 1200,
  HEADER_BYTES = 12,
};

// ---- The sockets of c-ares ------------------------------------------------------------------------------------------------

static ares_socket_t make_socket(int family, int type, int protocol, void *context) {
  struct anp_dns *dns = context;
  int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
  if (fd < 0) dns->system_error = errno;
  return fd;
}

static int close_socket(ares_socket_t fd, void *context) { return close(fd); }

static int connect_socket(ares_socket_t fd, const struct sockaddr *name, ares_socklen_t length, void *context) {
  struct anp_dns *dns = context;
  struct sockaddr_in6 scoped;
  if (name->sa_family == AF_INET6 && length == sizeof scoped) {
    // c-ares knows no interfaces: a link-local server needs its own.
    memcpy(&scoped, name, sizeof scoped);
    for (int i = 0; i < dns->server_count; i++)
      if (memcmp(dns->servers[i].address, &scoped.sin6_addr, 16) == 0) scoped.sin6_scope_id = dns->servers[i].scope;
    name = (const struct sockaddr *)&scoped;
  }
  int result = connect(fd, name, length);
  if (result < 0 && errno == ECONNREFUSED) dns->refused = 1;
  return result;
}

static ares_ssize_t receive(ares_socket_t fd, void *buffer, size_t room, int flags, struct sockaddr *name,
                            ares_socklen_t *length, void *context) {
  struct anp_dns *dns = context;
  ssize_t count = recvfrom(fd, buffer, room, flags, name, length);
  if (count < 0 && errno == ECONNREFUSED) dns->refused = 1;
  // c-ares goes on to the next server and, where none is left, does not tell why.
  if (name && count >= HEADER_BYTES && (((unsigned char *)buffer)[3] & 0xf) == ns_r_servfail) dns->server_failed = 1;
  return count;
}

static ares_ssize_t send_gathered(ares_socket_t fd, const struct iovec *vectors, int count, void *context) {
  struct anp_dns *dns = context;
  struct msghdr message = {.msg_iov = (struct iovec *)vectors, .msg_iovlen = (size_t)count};
  ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
  if (sent < 0 && errno == ECONNREFUSED) dns->refused = 1;
  return sent;
}

static const struct ares_socket_functions functions = {make_socket, close_socket, connect_socket, receive, send_gathered};

// ---- Configuration --------------------------------------------------------------------------------------------------------

static struct anp_name_server server_of(const struct __res_state *state, int i) {
  struct anp_name_server server = {.port = NS_DEFAULTPORT};
  const struct sockaddr_in6 *inet6 = state->_u._ext.nsaddrs[i];
  if (state->nsaddr_list[i].sin_family == 0 && inet6) {
    memcpy(server.address, &inet6->sin6_addr, 16);
    server.port = ntohs(inet6->sin6_port);
    server.scope = inet6->sin6_scope_id;
  } else {
    server.address[10] = server.address[11] = 0xff;
    memcpy(server.address + 12, &state->nsaddr_list[i].sin_addr, 4);
    server.port = ntohs(state->nsaddr_list[i].sin_port);
  }
  return server;
}

static int servers_of(const struct __res_state *state, struct anp_name_server *servers) {
  int count = state->nscount < MAXNS ? state->nscount : MAXNS;
  for (int i = 0; i < count; i++) servers[i] = server_of(state, i);
  return count;
}

static int are_same(const struct anp_name_server *a, int count_a, const struct anp_name_server *b, int count_b) {
  if (count_a != count_b) return 0;
  for (int i = 0; i < count_a; i++)
    if (memcmp(a[i].address, b[i].address, 16) != 0 || a[i].port != b[i].port || a[i].scope != b[i].scope) return 0;
  return 1;
}

static void set_servers(struct anp_dns *dns) {
  struct anp_name_server named[ANP_NAME_SERVERS];
  long found = anp_entry_name_servers(named, ANP_NAME_SERVERS);
  if (found == 0) return;
  dns->server_count = found > 0 ? (int)found : 0;
  memcpy(dns->servers, named, sizeof *named * (size_t)dns->server_count);
}

/// The state's search list, or the one that came with a lease, unless the program or its user gave one.
static void set_domains(struct anp_dns *dns, const struct __res_state *given) {
  int is_own = getenv("LOCALDOMAIN") != NULL;
  for (int i = 0; i < MAXDNSRCH; i++) {
    const char *domain = dns->domains[i] = dns->state->dnsrch[i], *of_file = dns->fresh.dnsrch[i];
    if (given && (!domain != !of_file || (domain && strcmp(domain, of_file) != 0))) is_own = 1;
    if (!domain) break;
  }
  long length = is_own ? 0 : anp_entry_search_domains(dns->domain_text, sizeof dns->domain_text - 1);
  if (length <= 0) return;
  dns->domain_text[length] = 0;
  int count = 0;
  char *rest, *domain = strtok_r(dns->domain_text, " ", &rest);
  for (; domain && count < MAXDNSRCH; domain = strtok_r(NULL, " ", &rest)) dns->domains[count++] = domain;
  dns->domains[count] = NULL;
}

/// Has libc read resolv.conf again into the thread's state, if the file has changed since and the program left the state alone; any
/// function of libc's resolver begins with that, and this one sends nothing.
static void reload(void) {
  unsigned char message[NS_PACKETSZ];
  res_mkquery(QUERY, ".", C_IN, T_A, NULL, 0, NULL, message, sizeof message);
}

void anp_dns_begin(struct anp_dns *dns, struct __res_state *state) {
  memset(dns, 0, offsetof(struct anp_dns, fresh));
  memset(&dns->is_fresh, 0, sizeof *dns - offsetof(struct anp_dns, is_fresh));
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &dns->cancel_state);
  memset(&dns->fresh, 0, sizeof dns->fresh);
  if (!state && __res_state()->options & RES_INIT) {
    state = __res_state();
    reload();
  }
  dns->is_fresh = res_ninit(&dns->fresh) == 0;
  if (state && !(state->options & RES_INIT) && res_ninit(state) != 0) state = NULL;
  dns->state = state ? state : &dns->fresh;

  dns->server_count = servers_of(dns->state, dns->servers);
  struct anp_name_server of_file[MAXNS];
  int count = servers_of(&dns->fresh, of_file);
  // Servers that the program wrote into its state are the program's wish.
  if (!state || are_same(dns->servers, dns->server_count, of_file, count)) set_servers(dns);
  set_domains(dns, state);
}

static void forget_answers(struct anp_dns *dns) {
  for (int i = 0; i < 2; i++) free(dns->answers[i].bytes);
  memset(dns->answers, 0, sizeof dns->answers);
}

static void forget_questions(struct anp_dns *dns) {
  for (int i = 0; i < 2; i++) ares_free_string(dns->questions[i]);
  dns->questions[0] = dns->questions[1] = NULL;
}

static void release(void *context) {
  struct anp_dns *dns = context;
  // Whoever still waits for an answer is told that there is none (ARES_EDESTRUCTION).
  if (dns->channel) ares_destroy(dns->channel);
  dns->channel = NULL;
  forget_questions(dns);
  forget_answers(dns);
  if (dns->is_fresh) res_nclose(&dns->fresh);
  dns->is_fresh = 0;
}

void anp_dns_end(struct anp_dns *dns) {
  release(dns);
  pthread_setcancelstate(dns->cancel_state, NULL);
}

static int open_channel(struct anp_dns *dns) {
  if (dns->channel) return 0;
  unsigned long options = dns->state->options;
  int retrans = dns->state->retrans > 0 ? dns->state->retrans : RES_TIMEOUT;
  struct ares_options settings = {
      // Attempts: see `ask`. One server that says SERVFAIL is passed over, as in libc.
      .flags = ARES_FLAG_STAYOPEN | ARES_FLAG_NOSEARCH | ARES_FLAG_NOALIASES | (options & RES_USEVC ? ARES_FLAG_USEVC : 0) |
               (options & RES_IGNTC ? ARES_FLAG_IGNTC : 0) |
               // Over TCP libc's resolver takes what the first server says for an answer.
               (options & RES_USEVC ? ARES_FLAG_NOCHECKRESP : 0) |
               (options & (RES_USE_EDNS0 | RES_USE_DNSSEC) ? ARES_FLAG_EDNS : 0),
      .timeout = retrans * 1000,
      .tries = 1,
      .ndots = 1,
      .ednspsz = EDNS_BYTES,
      .lookups = "b",
  };
  int given = ARES_OPT_FLAGS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_NDOTS | ARES_OPT_EDNSPSZ | ARES_OPT_LOOKUPS |
              ARES_OPT_SERVERS | ARES_OPT_DOMAINS | ARES_OPT_SORTLIST | ARES_OPT_UDP_PORT | ARES_OPT_TCP_PORT |
              ARES_OPT_NOROTATE;
  ares_channel channel;
  if (ares_init_options(&channel, &settings, given) != ARES_SUCCESS) return ENOMEM;
  struct ares_addr_port_node nodes[ANP_NAME_SERVERS];
  memset(nodes, 0, sizeof nodes);
  int first = 0;
  if (options & RES_ROTATE && dns->server_count > 1) {
    uint32_t chance = 0;
    anp_entropy(&chance, sizeof chance);
    first = (int)(chance % (uint32_t)dns->server_count);
  }
  for (int i = 0; i < dns->server_count; i++) {
    const struct anp_name_server *server = &dns->servers[(first + i) % dns->server_count];
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
    int is_inet = memcmp(server->address, mapped, sizeof mapped) == 0;
    nodes[i].family = is_inet ? AF_INET : AF_INET6;
    if (is_inet) {
      memcpy(&nodes[i].addr.addr4, server->address + 12, 4);
    } else {
      memcpy(&nodes[i].addr.addr6, server->address, 16);
    }
    nodes[i].udp_port = nodes[i].tcp_port = server->port;
    nodes[i].next = i + 1 < dns->server_count ? &nodes[i + 1] : NULL;
  }
  if (dns->server_count > 0 && ares_set_servers_ports(channel, nodes) != ARES_SUCCESS) {
    ares_destroy(channel);
    return ENOMEM;
  }
  ares_set_socket_functions(channel, &functions, dns);
  dns->channel = channel;
  return 0;
}

// ---- Asking ---------------------------------------------------------------------------------------------------------------

struct question {
  struct anp_dns *dns;
  int index;
  unsigned char *bytes;
  int length;
};

static void answered(void *context, int status, int timeouts, unsigned char *bytes, int length) {
  struct question *question = context;
  struct anp_dns *dns = question->dns;
  dns->pending--;
  if (status == ARES_ETIMEOUT) dns->timed_out = 1;
  if (status == ARES_ENOMEM) dns->system_error = ENOMEM;
  if (status != ARES_SUCCESS || length < HEADER_BYTES) return;
  unsigned char *copy = malloc((size_t)length);
  if (!copy) {
    dns->system_error = ENOMEM;
    return;
  }
  memcpy(copy, bytes, (size_t)length);
  free(dns->answers[question->index].bytes);
  dns->answers[question->index] = (struct anp_dns_answer){copy, length};
}

/// Sleeps until a socket is ready or the next time-out is due. The only place where the thread may be cancelled.
static int sleep_once(struct anp_dns *dns, struct pollfd *fds, int count, int milliseconds) {
  int result;
  pthread_cleanup_push(release, dns);
  int ignored;
  pthread_setcancelstate(dns->cancel_state, &ignored);
  result = poll(fds, (nfds_t)count, milliseconds);
  pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &ignored);
  pthread_cleanup_pop(0);
  return result;
}

static void wait_for_answers(struct anp_dns *dns) {
  while (dns->pending > 0) {
    ares_socket_t sockets[ARES_GETSOCK_MAXNUM];
    struct pollfd fds[ARES_GETSOCK_MAXNUM];
    int bits = ares_getsock(dns->channel, sockets, ARES_GETSOCK_MAXNUM), count = 0;
    for (int i = 0; i < ARES_GETSOCK_MAXNUM; i++) {
      int events = (ARES_GETSOCK_READABLE(bits, i) ? POLLIN : 0) | (ARES_GETSOCK_WRITABLE(bits, i) ? POLLOUT : 0);
      if (events) fds[count++] = (struct pollfd){.fd = sockets[i], .events = (short)events};
    }
    struct timeval longest = {60, 0}, memory;
    const struct timeval *left = ares_timeout(dns->channel, &longest, &memory);
    // Rounded up, or the last millisecond would be spent asking again and again.
    long milliseconds = left->tv_sec * 1000 + (left->tv_usec + 999) / 1000;
    int ready = sleep_once(dns, fds, count, (int)milliseconds);
    // Ready, timed out, or interrupted by a handler: c-ares looks at the clock by itself.
    if (ready <= 0) {
      ares_process_fd(dns->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
      continue;
    }
    for (int i = 0; i < count && dns->pending > 0; i++) {
      int broken = fds[i].revents & (POLLERR | POLLHUP | POLLNVAL);
      int readable = fds[i].revents & POLLIN || (broken && fds[i].events & POLLIN);
      int writable = fds[i].revents & POLLOUT || (broken && fds[i].events & POLLOUT);
      if (!readable && !writable) continue;
      ares_process_fd(dns->channel, readable ? fds[i].fd : ARES_SOCKET_BAD, writable ? fds[i].fd : ARES_SOCKET_BAD);
    }
  }
}

/// Asks the servers, as often as the state says, until each question has an answer or one has and the other got a refusal.
static int ask(struct anp_dns *dns, struct question *questions, int count) {
  int one_at_a_time = count > 1 && dns->state->options & (RES_SNGLKUP | RES_SNGLKUPREOP);
  int attempts = dns->state->retry > 0 ? dns->state->retry : 1;
  if (dns->server_count == 0) return ECONNREFUSED;
  for (int attempt = 0; attempt < attempts; attempt++) {
    int error = open_channel(dns);
    if (error) return error;
    dns->timed_out = 0;
    int missing = 0;
    for (int i = 0; i < count; i++) {
      if (dns->answers[questions[i].index].bytes) continue;
      dns->pending++;
      ares_send(dns->channel, questions[i].bytes, questions[i].length, answered, &questions[i]);
      if (!one_at_a_time) continue;
      wait_for_answers(dns);
      // Where the first is not answered, the second waits for the next attempt.
      if (!dns->answers[questions[i].index].bytes) break;
    }
    wait_for_answers(dns);
    for (int i = 0; i < count; i++) missing += !dns->answers[questions[i].index].bytes;
    if (missing == 0) return 0;
    // No server would answer this half: with the other in hand that is good enough. Silence may be a lost packet.
    if (missing < count && !dns->timed_out) return 0;
    if (dns->system_error) return dns->system_error;
  }
  for (int i = 0; i < count; i++)
    if (dns->answers[questions[i].index].bytes) return 0;
  return dns->refused && !dns->timed_out ? ECONNREFUSED : ETIMEDOUT;
}

static int rcode(const struct anp_dns_answer *answer) { return answer->bytes[3] & 0xf; }
static int records(const struct anp_dns_answer *answer) { return answer->bytes[6] << 8 | answer->bytes[7]; }

/// What libc's resolver makes of the answers to a pair of questions, or of one and the same answer twice.
static int verdict(const struct anp_dns_answer *first, const struct anp_dns_answer *second) {
  int codes[2] = {rcode(first), rcode(second)};
  if ((codes[0] == ns_r_noerror && records(first) > 0) || (codes[1] == ns_r_noerror && records(second) > 0)) return 0;
  switch (codes[0] == ns_r_noerror ? codes[1] : codes[0]) {
    case ns_r_nxdomain: return HOST_NOT_FOUND;
    case ns_r_servfail: return TRY_AGAIN;
    case ns_r_noerror: return NO_DATA;
    default: return NO_RECOVERY;
  }
}

static int result_of(struct anp_dns *dns, int error) {
  if (error == ENOMEM || error == EMFILE || error == ENFILE) {
    errno = error;
    return NETDB_INTERNAL;
  }
  errno = error;
  return TRY_AGAIN;
}

static int query(struct anp_dns *dns, const char *name, int dns_class, int type, int second) {
  forget_answers(dns);
  dns->system_error = dns->server_failed = dns->refused = 0;
  struct question questions[2];
  int types[2] = {type, second}, count = second ? 2 : 1, failed = 0;
  uint16_t identifiers[2] = {0, 0};
  anp_entropy(identifiers, sizeof identifiers);
  if (identifiers[0] == identifiers[1]) identifiers[1]++;
  unsigned long options = dns->state->options;
  int extended = (options & (RES_USE_EDNS0 | RES_USE_DNSSEC)) != 0;
  for (int i = 0; i < count; i++) {
    questions[i] = (struct question){.dns = dns, .index = i};
    if (ares_create_query(name, dns_class, types[i], identifiers[i], (options & RES_RECURSE) != 0, &dns->questions[i],
                          &questions[i].length, extended ? EDNS_BYTES : 0) != ARES_SUCCESS) {
      // Not a name that a message can hold.
      failed = 1;
      count = i;
      break;
    }
    unsigned char *bytes = questions[i].bytes = dns->questions[i];
    if (options & RES_TRUSTAD) bytes[3] |= 0x20;
    // The last two octets but two of the OPT record are its flags, DO the first of them (RFC 6891 §6.1.3).
    if (options & RES_USE_DNSSEC) bytes[questions[i].length - 4] |= 0x80;
  }
  int error = failed ? 0 : ask(dns, questions, count);
  forget_questions(dns);
  if (failed || error) return failed ? NO_RECOVERY : result_of(dns, error);
  errno = 0;
  const struct anp_dns_answer *a = &dns->answers[0], *b = &dns->answers[second ? 1 : 0];
  return verdict(a->bytes ? a : b, b->bytes ? b : a);
}

/// "no-aaaa": the A record has been asked for in place of the AAAA record, to learn whether the name exists. Turns the answer into
/// one without records.
static void empty(struct anp_dns_answer *answer) {
  char name[NS_MAXDNAME];
  int taken = anp_dns_name(answer, HEADER_BYTES, 0, name, sizeof name), end = HEADER_BYTES + taken + 4;
  if (taken < 0 || end > answer->length) return;
  memset(answer->bytes + 6, 0, 6);
  answer->bytes[end - 3] = T_AAAA;
  answer->length = end;
}

int anp_dns_query(struct anp_dns *dns, const char *name, int dns_class, int type, int second) {
  if (dns->state->options & RES_NOAAAA) {
    if (second == T_AAAA) second = 0;
    if (type == T_AAAA && !second) {
      int result = query(dns, name, dns_class, T_A, 0);
      if (dns->answers[0].bytes) empty(&dns->answers[0]);
      return result == 0 ? NO_DATA : result;
    }
  }
  return query(dns, name, dns_class, type, second);
}

int anp_dns_send(struct anp_dns *dns, const unsigned char *message, int length) {
  forget_answers(dns);
  dns->system_error = dns->server_failed = dns->refused = 0;
  struct question question = {dns, 0, (unsigned char *)message, length};
  int error = ask(dns, &question, 1);
  return error ? result_of(dns, error) : 0;
}

// ---- Names in messages ----------------------------------------------------------------------------------------------------

int anp_is_host_name(const char *name) {
  int label = 0, total = 0;
  if (*name == '-') return 0;
  for (const char *at = name; *at; at++) {
    char c = *at;
    if (c == '.') {
      // The root alone, or a label before each dot.
      if (label == 0 && (at != name || at[1])) return 0;
      label = 0;
    } else {
      if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '-' && c != '_') return 0;
      if (++label > NS_MAXLABEL) return 0;
    }
    if (++total >= NS_MAXCDNAME) return 0;
  }
  return 1;
}

int anp_dns_name(const struct anp_dns_answer *message, int at, int is_host, char *text, size_t room) {
  char *name;
  long taken;
  if (at < 0 || at >= message->length) return -1;
  if (ares_expand_name(message->bytes + at, message->bytes, message->length, &name, &taken) != ARES_SUCCESS) return -1;
  size_t length = strlen(name);
  int result = length < room && (!is_host || anp_is_host_name(name)) ? (int)taken : -1;
  if (result >= 0) memcpy(text, name, length + 1);
  ares_free_string(name);
  return result;
}
