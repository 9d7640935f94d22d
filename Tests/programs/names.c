// Names: what getaddrinfo, getnameinfo, gethostby…, res_… and getaddrinfo_a answer, to the last field. The servers, their zones
// and /etc are those of scripts/matrix/rows/names.py, which runs this natively and under the shim and compares.
//
//   names table      a large table of look-ups
//   names few        some look-ups, with settings of all kinds
//   names fails      servers that fail and refuse
//   names silence    servers that say nothing
//   names later      getaddrinfo_a
//   names threads    look-ups in several threads and in children; a cancelled one
//   names cancelled  threads cancelled in their wait for an answer: on standard error, what they left behind
//   names stale      a resolver's state from before resolv.conf became the file NEXT
//   names own        the same, then one that the program has changed
//   names given      addresses and services, for which nobody is asked; then one name
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <arpa/nameser.h>
#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <resolv.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *eai(int code) {
  static const struct {
    int code;
    const char *name;
  } names[] = {{0, "0"}, {EAI_BADFLAGS, "EAI_BADFLAGS"}, {EAI_NONAME, "EAI_NONAME"}, {EAI_AGAIN, "EAI_AGAIN"},
               {EAI_FAIL, "EAI_FAIL"}, {EAI_FAMILY, "EAI_FAMILY"}, {EAI_SOCKTYPE, "EAI_SOCKTYPE"},
               {EAI_SERVICE, "EAI_SERVICE"}, {EAI_MEMORY, "EAI_MEMORY"}, {EAI_SYSTEM, "EAI_SYSTEM"},
               {EAI_OVERFLOW, "EAI_OVERFLOW"}, {EAI_NODATA, "EAI_NODATA"}, {EAI_ADDRFAMILY, "EAI_ADDRFAMILY"},
               {EAI_INPROGRESS, "EAI_INPROGRESS"}, {EAI_CANCELED, "EAI_CANCELED"}, {EAI_NOTCANCELED, "EAI_NOTCANCELED"},
               {EAI_ALLDONE, "EAI_ALLDONE"}, {EAI_INTR, "EAI_INTR"}, {EAI_IDN_ENCODE, "EAI_IDN_ENCODE"}};
  static __thread char text[24];
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].code == code) return names[i].name;
  snprintf(text, sizeof text, "EAI %d", code);
  return text;
}

static const char *error_of_h(int code) {
  static const char *names[] = {"0", "HOST_NOT_FOUND", "TRY_AGAIN", "NO_RECOVERY", "NO_DATA"};
  return code == -1 ? "NETDB_INTERNAL" : code >= 0 && code <= 4 ? names[code] : "?";
}

static void print_address(const struct sockaddr *address) {
  char text[INET6_ADDRSTRLEN];
  if (address->sa_family == AF_INET) {
    const struct sockaddr_in *inet = (const void *)address;
    printf("%s:%d", inet_ntop(AF_INET, &inet->sin_addr, text, sizeof text), ntohs(inet->sin_port));
  } else {
    const struct sockaddr_in6 *inet6 = (const void *)address;
    printf("[%s]:%d", inet_ntop(AF_INET6, &inet6->sin6_addr, text, sizeof text), ntohs(inet6->sin6_port));
    if (inet6->sin6_scope_id) printf(" scope");
    if (inet6->sin6_flowinfo) printf(" flow %u", inet6->sin6_flowinfo);
  }
}

static void print_list(const struct addrinfo *list) {
  for (; list; list = list->ai_next) {
    printf("    flags %#x family %d type %d protocol %d length %d ", list->ai_flags, list->ai_family, list->ai_socktype,
           list->ai_protocol, (int)list->ai_addrlen);
    print_address(list->ai_addr);
    if (list->ai_canonname) printf(" canonical %s", list->ai_canonname);
    printf("\n");
  }
}

static const char *shown(const char *text) { return text ? text : "NULL"; }

static void ask(const char *name, const char *service, const struct addrinfo *hints) {
  struct addrinfo *list = (void *)1;
  printf("getaddrinfo %.80s %s ", shown(name), shown(service));
  if (hints)
    printf("flags %#x family %d type %d protocol %d", hints->ai_flags, hints->ai_family, hints->ai_socktype,
           hints->ai_protocol);
  errno = 0;  // what it was before shows through in libc's answers
  int result = getaddrinfo(name, service, hints, &list);
  printf(" = %s\n", eai(result));
  if (result == 0) {
    print_list(list);
    freeaddrinfo(list);
  }
}

static void ask_with(const char *name, const char *service, int flags, int family, int type, int protocol) {
  struct addrinfo hints = {.ai_flags = flags, .ai_family = family, .ai_socktype = type, .ai_protocol = protocol};
  ask(name, service, &hints);
}

static void print_host(const struct hostent *host) {
  printf("    name %s type %d length %d\n", host->h_name, host->h_addrtype, host->h_length);
  for (char **alias = host->h_aliases; *alias; alias++) printf("    alias %s\n", *alias);
  for (char **address = host->h_addr_list; *address; address++) {
    char text[INET6_ADDRSTRLEN];
    printf("    address %s\n", inet_ntop(host->h_addrtype, *address, text, sizeof text));
  }
}

static void host_by_name(const char *name, int family) {
  struct hostent host, *result = NULL;
  char buffer[8192];
  int error = 0;
  printf("gethostbyname2 %.80s %d", name, family);
  errno = h_errno = 0;
  struct hostent *found = gethostbyname2(name, family);
  if (found) {
    printf(" found\n");
    print_host(found);
  } else {
    printf(" %s\n", error_of_h(h_errno));
  }
  errno = 0;
  int code = gethostbyname2_r(name, family, &host, buffer, sizeof buffer, &result, &error);
  printf("gethostbyname2_r = %d %s %s\n", code, result ? "found" : "none", result ? "" : error_of_h(error));
  if (result) print_host(result);
  // A buffer that is too small.
  result = NULL;
  errno = 0;
  code = gethostbyname2_r(name, family, &host, buffer, 16, &result, &error);
  printf("gethostbyname2_r with 16 bytes = %d %s\n", code, result ? "found" : "none");
}

static void host_by_address(const char *text, int family) {
  unsigned char address[16];
  inet_pton(family, text, address);
  struct hostent host, *result = NULL;
  char buffer[8192];
  int error = 0;
  errno = h_errno = 0;
  struct hostent *found = gethostbyaddr(address, family == AF_INET ? 4 : 16, family);
  printf("gethostbyaddr %s %s\n", text, found ? "found" : error_of_h(h_errno));
  if (found) print_host(found);
  errno = 0;
  int code = gethostbyaddr_r(address, family == AF_INET ? 4 : 16, family, &host, buffer, sizeof buffer, &result, &error);
  printf("gethostbyaddr_r = %d %s %s\n", code, result ? "found" : "none", result ? "" : error_of_h(error));
}

static void name_of(const char *text, int port, int flags, socklen_t host_room, socklen_t service_room) {
  struct sockaddr_storage storage = {0};
  socklen_t length = sizeof(struct sockaddr_in);
  if (strchr(text, ':')) {
    struct sockaddr_in6 *inet6 = (void *)&storage;
    inet6->sin6_family = AF_INET6;
    inet6->sin6_port = htons(port);
    inet_pton(AF_INET6, text, &inet6->sin6_addr);
    length = sizeof *inet6;
  } else {
    struct sockaddr_in *inet = (void *)&storage;
    inet->sin_family = AF_INET;
    inet->sin_port = htons(port);
    inet_pton(AF_INET, text, &inet->sin_addr);
  }
  char host[NI_MAXHOST] = "", service[NI_MAXSERV] = "";
  errno = 0;
  int result = getnameinfo((void *)&storage, length, host_room ? host : NULL, host_room, service_room ? service : NULL,
                           service_room, flags);
  printf("getnameinfo %s %d flags %#x rooms %d %d = %s", text, port, flags, (int)host_room, (int)service_room, eai(result));
  if (result == 0) printf(" host '%s' service '%s'", host, service);
  printf("\n");
}

static void print_message(const unsigned char *bytes, int length) {
  // What a caller looks at: flags, counts, and the records without their times to live.
  if (length < 12) return;
  printf("    flags %02x%02x counts %d %d\n", bytes[2] & 0xf9, bytes[3] & 0x0f, bytes[4] << 8 | bytes[5], bytes[6] << 8 | bytes[7]);
  const unsigned char *at = bytes + 12, *end = bytes + length;
  char name[NS_MAXDNAME];
  for (int i = bytes[4] << 8 | bytes[5]; i > 0; i--) at += dn_expand(bytes, end, at, name, sizeof name) + 4;
  for (int i = bytes[6] << 8 | bytes[7]; i > 0 && at < end; i--) {
    int taken = dn_expand(bytes, end, at, name, sizeof name);
    if (taken < 0) return;
    at += taken;
    int size = at[8] << 8 | at[9];
    printf("    %s type %d %d bytes\n", name, at[0] << 8 | at[1], size);
    at += 10 + size;
  }
}

static void query(const char *name, int type) {
  unsigned char answer[65536];
  errno = 0;
  int length = res_query(name, C_IN, type, answer, sizeof answer);
  printf("res_query %s %d = %s %s\n", name, type, length < 0 ? "-1" : "answer", length < 0 ? error_of_h(h_errno) : "");
  print_message(answer, length);
  errno = 0;
  length = res_search(name, C_IN, type, answer, sizeof answer);
  printf("res_search %s %d = %s %s\n", name, type, length < 0 ? "-1" : "answer", length < 0 ? error_of_h(h_errno) : "");
  print_message(answer, length);
}

static const struct {
  int flags, family, type, protocol;
} hints_list[] = {
    {0, AF_UNSPEC, SOCK_STREAM, 0},
    {0, AF_INET, SOCK_STREAM, 0},
    {0, AF_INET6, SOCK_STREAM, 0},
    {AI_CANONNAME, AF_UNSPEC, SOCK_DGRAM, 0},
    {AI_CANONNAME, AF_INET, SOCK_DGRAM, 0},
    {AI_V4MAPPED, AF_INET6, SOCK_STREAM, 0},
    {AI_V4MAPPED | AI_ALL, AF_INET6, SOCK_STREAM, 0},
    {AI_V4MAPPED, AF_UNSPEC, SOCK_STREAM, 0},
    {AI_ADDRCONFIG, AF_UNSPEC, SOCK_STREAM, 0},
    {AI_ADDRCONFIG | AI_V4MAPPED, AF_INET6, SOCK_STREAM, 0},
    {AI_ADDRCONFIG | AI_CANONNAME, AF_UNSPEC, 0, 0},
    {AI_NUMERICHOST, AF_UNSPEC, SOCK_STREAM, 0},
    {AI_PASSIVE, AF_UNSPEC, SOCK_STREAM, 0},
};
enum { HINTS = sizeof hints_list / sizeof *hints_list };

static void with_all_hints(const char *name, const char *service) {
  for (int i = 0; i < HINTS; i++)
    ask_with(name, service, hints_list[i].flags, hints_list[i].family, hints_list[i].type, hints_list[i].protocol);
  ask(name, service, NULL);
}

static char long_label[80], long_name[400];

static void table(void) {
  memset(long_label, 'a', 70);
  for (int i = 0; i < 300; i++) long_name[i] = i % 10 == 9 ? '.' : 'b';
  // Names of the DNS: both families, one of them, several addresses, chains of aliases, and in the search list.
  static const char *const names[] = {
      "both.example.test", "four.example.test", "six.example.test", "many.example.test", "alias.example.test",
      "chain.example.test", "FOUR.Example.Test", "four.example.test.", "four", "both", "alias", "four.sub", "nothing",
      "nothing.example.test", "nothing.example.test.", "elsewhere.test", "local", "fromhosts", "fromhosts.hosts.test",
      "twice.hosts.test", "sixhosts.hosts.test", "alias1", "localhost", "big.example.test", "under_score.example.test",
      "dash-.example.test", "", ".", "..", "a..b", "text.example.test"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    with_all_hints(names[i], "80");
    host_by_name(names[i], AF_INET);
    host_by_name(names[i], AF_INET6);
    struct hostent *found = gethostbyname(names[i]);
    printf("gethostbyname %s\n", found ? found->h_name : "none");
  }
  // libc asks for such a name only where one family and the canonical name are wanted: not here.
  ask_with("bad name", "80", 0, AF_UNSPEC, SOCK_STREAM, 0);
  host_by_name("bad name", AF_INET);
  with_all_hints(long_label, "80");
  with_all_hints(long_name, "80");
  host_by_name(long_name, AF_INET);
  host_by_name("four.example.test", AF_UNIX);

  static const char *const services[] = {"80", "http", "domain", "ssh", "nosuchservice", "0", "65535", "65536", "-1", "", " 80",
                                         "80x", "*", NULL};
  for (size_t i = 0; i < sizeof services / sizeof *services; i++) {
    ask(("four.example.test"), services[i], NULL);
    ask_with("four.example.test", services[i], AI_NUMERICSERV, AF_INET, SOCK_STREAM, 0);
    ask_with("four.example.test", services[i], 0, AF_INET, 0, 0);
    ask_with("four.example.test", services[i], 0, AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    ask_with("four.example.test", services[i], 0, AF_INET, SOCK_STREAM, IPPROTO_UDP);
    ask_with("four.example.test", services[i], 0, AF_INET, SOCK_RAW, 0);
    ask_with("four.example.test", services[i], 0, AF_INET, SOCK_SEQPACKET, 0);
    ask_with("four.example.test", services[i], 0, AF_INET, 77, 0);
    ask_with("four.example.test", services[i], 0, AF_INET, 0, IPPROTO_TCP);
    ask_with("four.example.test", services[i], 0, AF_INET, 0, 77);
    ask_with("nothing.example.test", services[i], 0, AF_INET, SOCK_RAW, 0);
  }
  ask_with("four.example.test", "80", 0x10000, AF_INET, SOCK_STREAM, 0);
  ask_with("four.example.test", "80", 0, AF_UNIX, SOCK_STREAM, 0);
  ask_with("four.example.test", "80", AI_ADDRCONFIG, AF_UNIX, SOCK_STREAM, 0);
  ask_with("nothing.example.test", "nosuchservice", 0, AF_INET, SOCK_STREAM, 0);

  printf("\n== names of addresses\n");
  static const char *const addresses[] = {"198.18.7.1", "198.18.7.2", "198.18.7.3", "198.18.7.77", "198.18.7.99", "127.0.0.1",
                                          "2001:db8::1", "2001:db8::99", "::1", "198.18.8.1", "0.0.0.0", "255.255.255.255"};
  for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
    static const int flags[] = {0, NI_NUMERICHOST, NI_NUMERICSERV, NI_NAMEREQD, NI_NOFQDN, NI_DGRAM, NI_NAMEREQD | NI_NUMERICHOST,
                                0x10000};
    for (size_t j = 0; j < sizeof flags / sizeof *flags; j++) name_of(addresses[i], 512, flags[j], NI_MAXHOST, NI_MAXSERV);
    name_of(addresses[i], 80, 0, 4, NI_MAXSERV);
    name_of(addresses[i], 80, 0, NI_MAXHOST, 2);
    name_of(addresses[i], 80, 0, 0, NI_MAXSERV);
    name_of(addresses[i], 80, 0, NI_MAXHOST, 0);
    name_of(addresses[i], 80, 0, 0, 0);
    name_of(addresses[i], 80, NI_NAMEREQD, NI_MAXHOST, 0);
    host_by_address(addresses[i], strchr(addresses[i], ':') ? AF_INET6 : AF_INET);
  }
  host_by_address("::ffff:198.18.7.1", AF_INET6);
  name_of("::ffff:198.18.7.1", 80, NI_NAMEREQD, NI_MAXHOST, NI_MAXSERV);
  char wrong[4] = {1, 2, 3, 4};
  printf("gethostbyaddr of a wrong length %s\n", gethostbyaddr(wrong, 3, AF_INET) ? "found" : error_of_h(h_errno));

  printf("\n== queries\n");
  static const struct {
    const char *name;
    int type;
  } queries[] = {{"four.example.test", T_A},      {"four.example.test", T_AAAA},  {"alias.example.test", T_A},
                 {"text.example.test", T_TXT},    {"_sip._tcp.example.test", 33}, {"mail.example.test", T_MX},
                 {"nothing.example.test", T_A},   {"four", T_A},                  {"big.example.test", T_A},
                 {"1.7.18.198.in-addr.arpa", T_PTR}, {"four.example.test.", T_A}, {"bad..name", T_A}};
  for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) query(queries[i].name, queries[i].type);
  unsigned char message[512], answer[65536];
  int length = res_mkquery(ns_o_query, "four.example.test", C_IN, T_A, NULL, 0, NULL, message, sizeof message);
  length = res_send(message, length, answer, sizeof answer);
  printf("res_send = %s\n", length > 0 ? "answer" : "none");
  print_message(answer, length);
  printf("id is the query's: %d\n", length > 0 && memcmp(message, answer, 2) == 0);
  length = res_querydomain("four", "example.test", C_IN, T_A, answer, sizeof answer);
  printf("res_querydomain = %s\n", length > 0 ? "answer" : "none");
  struct __res_state state;
  memset(&state, 0, sizeof state);
  printf("res_ninit = %d\n", res_ninit(&state));
  state.options &= ~(unsigned long)(RES_DEFNAMES | RES_DNSRCH);
  length = res_nsearch(&state, "four", C_IN, T_A, answer, sizeof answer);
  printf("res_nsearch without a search list = %s\n", length < 0 ? error_of_h(state.res_h_errno) : "answer");
  length = res_nquery(&state, "four.example.test", C_IN, T_A, answer, sizeof answer);
  printf("res_nquery = %s\n", length < 0 ? "-1" : "answer");
  print_message(answer, length);
  state.options |= RES_USEVC;
  length = res_nquery(&state, "both.example.test", C_IN, T_A, answer, sizeof answer);
  printf("res_nquery over TCP = %s\n", length < 0 ? "-1" : "answer");
  res_nclose(&state);
}

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void fails(void) {
  // names.py's second server answers names by what they say.
  static const char *const names[] = {"servfail.odd.test", "refused.odd.test", "notimp.odd.test", "formerr.odd.test",
                                      "nodata.odd.test",   "loop.odd.test",    "dangling.odd.test", "otheraddress.odd.test",
                                      "servfailsix.odd.test", "nxsix.odd.test", "badname.odd.test", "truncated.odd.test"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    ask_with(names[i], "80", 0, AF_UNSPEC, SOCK_STREAM, 0);
    ask_with(names[i], "80", 0, AF_INET, SOCK_STREAM, 0);
    ask_with(names[i], "80", AI_CANONNAME, AF_INET, SOCK_STREAM, 0);
    ask_with(names[i], "80", 0, AF_INET6, SOCK_STREAM, 0);
    host_by_name(names[i], AF_INET);
    query(names[i], T_A);
  }
  host_by_address("198.18.9.1", AF_INET);
  name_of("198.18.9.1", 80, 0, NI_MAXHOST, NI_MAXSERV);
  name_of("198.18.9.1", 80, NI_NAMEREQD, NI_MAXHOST, NI_MAXSERV);

  printf("\n== no descriptor left\n");
  struct rlimit none = {3, 3};
  setrlimit(RLIMIT_NOFILE, &none);
  ask_with("plain.odd.test", "80", 0, AF_UNSPEC, SOCK_STREAM, 0);
  printf("%s\n", strerrorname_np(errno));
  ask_with("plain.odd.test", "80", 0, AF_INET, SOCK_STREAM, 0);
  printf("%s\n", strerrorname_np(errno));
  struct hostent *found = gethostbyname("plain.odd.test");
  printf("gethostbyname %s\n", found ? "found" : error_of_h(h_errno));
  ask_with("127.0.0.1", "80", 0, AF_INET, SOCK_STREAM, 0);
}

/// Few look-ups, for many settings.
static void few(void) {
  static const char *const names[] = {"four", "four.sub", "both.example.test", "alias", "nick", "nothing"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    ask_with(names[i], "80", 0, AF_UNSPEC, SOCK_STREAM, 0);
    ask_with(names[i], "80", AI_CANONNAME, AF_INET, SOCK_STREAM, 0);
    ask_with(names[i], "80", 0, AF_INET6, SOCK_STREAM, 0);
    query(names[i], T_A);
    query(names[i], T_AAAA);
  }
  // What a program does to its own state.
  unsigned char answer[65536];
  res_init();
  _res.options |= RES_USE_DNSSEC;
  int length = res_query("four.example.test", C_IN, T_A, answer, sizeof answer);
  printf("with DNSSEC %s\n", length < 0 ? "-1" : "answer");
  _res.options &= ~(unsigned long)RES_USE_DNSSEC;
  _res.nsaddr_list[0].sin_port = htons(5300);
  errno = 0;
  ask_with("plain.odd.test", "80", 0, AF_INET, SOCK_STREAM, 0);
}

static volatile sig_atomic_t ticks;
static void on_tick(int number) {
  (void)number;
  ticks++;
}

static void silence(void) {
  // Handlers run during the wait; it goes on and lasts no longer.
  struct sigaction action = {.sa_handler = on_tick};
  sigaction(SIGALRM, &action, NULL);
  struct itimerval often = {{0, 70000}, {0, 70000}};
  setitimer(ITIMER_REAL, &often, NULL);
  double start = seconds();
  ask_with("four.example.test", "80", 0, AF_INET, SOCK_STREAM, 0);
  printf("one family: %.0f s\n", seconds() - start);
  start = seconds();
  ask_with("four.example.test", "80", 0, AF_UNSPEC, SOCK_STREAM, 0);
  printf("both: %.0f s\n", seconds() - start);
  printf("handlers ran %d\n", ticks > 20);
  setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
  unsigned char answer[512];
  errno = 0;
  int length = res_query("four.example.test", C_IN, T_A, answer, sizeof answer);
  printf("res_query = %d %s %s\n", length, error_of_h(h_errno), strerrorname_np(errno));
  host_by_address("198.18.7.1", AF_INET);
}

// ---- Addresses and services: nobody is asked ------------------------------------------------------------------------------

static void given(void) {
  static const char *const names[] = {
      "127.0.0.1", "198.18.0.5", "127.1", "0x7f.1", "127.0.1", "2130706433", "0177.0.0.1", "1.2.3.4.", "1.2.3.4.5", "256.1.1.1",
      "1.2.3.4 ", "::1", "::", "2001:db8::1", "::ffff:198.18.0.5", "fe80::1", "fe80::1%lo", "fe80::1%1", "fe80::1%nosuch",
      "2001:db8::1%lo", "::1%lo", "fe80::1%", "1::2::3", "[::1]", NULL, "*"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    // Those are names as well, for the DNS to refuse: only as addresses.
    int is_name = names[i] && (!strcmp(names[i], "1.2.3.4.") || !strcmp(names[i], "1.2.3.4.5") || !strcmp(names[i], "256.1.1.1") ||
                               !strcmp(names[i], "1.2.3.4 ") || !strcmp(names[i], "1::2::3") || !strcmp(names[i], "[::1]"));
    int more = is_name ? AI_NUMERICHOST : 0;
    for (int j = 0; j < HINTS; j++)
      ask_with(names[i], "80", hints_list[j].flags | more, hints_list[j].family, hints_list[j].type, hints_list[j].protocol);
    ask_with(names[i], NULL, more, AF_UNSPEC, 0, 0);
    ask_with(names[i], "http", AI_PASSIVE | more, AF_INET, 0, 0);
    if (!is_name) ask(names[i], "ssh", NULL);
    if (names[i] && !is_name && !strchr(names[i], '%') && !strchr(names[i], 'x') && *names[i] != '*') {
      host_by_name(names[i], AF_INET);
      host_by_name(names[i], AF_INET6);
    }
  }
  ask(NULL, NULL, NULL);
  ask_with(NULL, "80", AI_CANONNAME, AF_UNSPEC, 0, 0);
  ask_with(NULL, "80", 0x10000, AF_UNSPEC, 0, 0);
  ask_with(NULL, "80", 0, AF_UNIX, 0, 0);
  ask_with(NULL, "80", AI_NUMERICHOST | AI_PASSIVE, AF_INET, SOCK_STREAM, 0);
  for (int flags = 0; flags < 32; flags++) name_of("198.18.7.1", 80, flags | NI_NUMERICHOST, NI_MAXHOST, NI_MAXSERV);
  struct sockaddr_un local = {.sun_family = AF_UNIX, .sun_path = "/tmp/x"};
  char host[NI_MAXHOST], service[NI_MAXSERV];
  int result = getnameinfo((void *)&local, sizeof local, host, sizeof host, service, sizeof service, 0);
  printf("getnameinfo of a unix socket = %s\n", eai(result));
  struct sockaddr_in inet = {.sin_family = AF_INET};
  printf("of too short an address = %s\n", eai(getnameinfo((void *)&inet, 8, host, sizeof host, service, sizeof service, 0)));
  // A list may be taken apart: each entry is one block.
  struct addrinfo *list = NULL;
  if (getaddrinfo("127.0.0.1", "80", NULL, &list) == 0) {
    struct addrinfo *rest = list->ai_next;
    list->ai_next = NULL;
    freeaddrinfo(list);
    freeaddrinfo(rest);
  }
  freeaddrinfo(NULL);
  ask_with("four.example.test", "80", 0, AF_INET, SOCK_STREAM, 0);
}

// ---- getaddrinfo_a --------------------------------------------------------------------------------------------------------

static volatile sig_atomic_t signalled, signal_code, signal_value;
static void on_signal(int number, siginfo_t *info, void *context) {
  (void)number, (void)context;
  signal_code = info->si_code;
  signal_value = info->si_value.sival_int;
  signalled = 1;
}

static int notified;
static pthread_mutex_t notice_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t notice = PTHREAD_COND_INITIALIZER;
static void on_notice(union sigval value) {
  pthread_mutex_lock(&notice_lock);
  notified = value.sival_int;
  pthread_cond_signal(&notice);
  pthread_mutex_unlock(&notice_lock);
}

static void print_request(struct gaicb *request) {
  int state = gai_error(request);
  printf("%s: %s\n", request->ar_name, eai(state));
  if (state == 0) {
    print_list(request->ar_result);
    freeaddrinfo(request->ar_result);
  }
}

static void later(void) {
  const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
  struct gaicb requests[4], *list[5];
  const char *names[] = {"four.example.test", "alias.example.test", "nothing.example.test", "127.0.0.1"};
  for (int i = 0; i < 4; i++) requests[i] = (struct gaicb){.ar_name = names[i], .ar_service = "80", .ar_request = &hints};
  list[0] = &requests[0], list[1] = NULL, list[2] = &requests[1], list[3] = &requests[2], list[4] = &requests[3];
  printf("GAI_WAIT = %s\n", eai(getaddrinfo_a(GAI_WAIT, list, 5, NULL)));
  for (int i = 0; i < 4; i++) print_request(&requests[i]);
  printf("gai_cancel of what is done = %s\n", eai(gai_cancel(&requests[0])));
  printf("gai_suspend of what is done = %s\n", eai(gai_suspend((const struct gaicb *const *)list, 5, NULL)));
  printf("a mode there is not = %s %s\n", eai(getaddrinfo_a(7, list, 5, NULL)), strerrorname_np(errno));

  for (int i = 0; i < 4; i++) requests[i] = (struct gaicb){.ar_name = names[i], .ar_service = "80", .ar_request = &hints};
  printf("GAI_NOWAIT = %s\n", eai(getaddrinfo_a(GAI_NOWAIT, list, 5, NULL)));
  for (int i = 0; i < 4; i++)
    while (gai_error(&requests[i]) == EAI_INPROGRESS) gai_suspend((const struct gaicb *const *)list, 5, NULL);
  for (int i = 0; i < 4; i++) print_request(&requests[i]);

  struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
  sigaction(SIGUSR1, &action, NULL);
  struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 42};
  requests[0] = (struct gaicb){.ar_name = names[0], .ar_service = "80", .ar_request = &hints};
  printf("with a signal = %s\n", eai(getaddrinfo_a(GAI_NOWAIT, list, 1, &event)));
  for (int i = 0; i < 500 && !signalled; i++) usleep(10000);
  printf("signalled %d code %d value %d\n", signalled, signal_code, signal_value);
  print_request(&requests[0]);

  event = (struct sigevent){.sigev_notify = SIGEV_THREAD, .sigev_notify_function = on_notice, .sigev_value.sival_int = 43};
  requests[0] = (struct gaicb){.ar_name = names[0], .ar_service = "80", .ar_request = &hints};
  pthread_mutex_lock(&notice_lock);
  printf("with a thread = %s\n", eai(getaddrinfo_a(GAI_NOWAIT, list, 1, &event)));
  while (!notified) pthread_cond_wait(&notice, &notice_lock);
  pthread_mutex_unlock(&notice_lock);
  printf("notified %d\n", notified);
  print_request(&requests[0]);

  struct gaicb slow = {.ar_name = "silent.odd.test", .ar_service = "80", .ar_request = &hints};
  list[0] = &slow;
  printf("a slow one = %s\n", eai(getaddrinfo_a(GAI_NOWAIT, list, 1, NULL)));
  struct timespec little = {0, 50000000};
  printf("gai_suspend for 50 ms = %s\n", eai(gai_suspend((const struct gaicb *const *)list, 1, &little)));
  printf("gai_cancel of what is looked up = %s\n", eai(gai_cancel(&slow)));
  printf("%s\n", eai(gai_error(&slow)));
}

// ---- Threads and children -------------------------------------------------------------------------------------------------

static void *look_up_many(void *context) {
  const char *name = context;
  const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_CANONNAME};
  long wrong = 0;
  for (int i = 0; i < 50; i++) {
    struct addrinfo *list;
    if (getaddrinfo(name, "80", &hints, &list) != 0) {
      wrong++;
      continue;
    }
    if (!list->ai_canonname) wrong++;
    freeaddrinfo(list);
  }
  return (void *)wrong;
}

static void *wait_in_vain(void *context) {
  struct addrinfo *list;
  getaddrinfo(context, "80", NULL, &list);
  return NULL;
}

static void threads(void) {
  pthread_t running[4];
  static char *const names[] = {"four.example.test", "both.example.test", "alias.example.test", "fromhosts"};
  for (int i = 0; i < 4; i++) pthread_create(&running[i], NULL, look_up_many, names[i]);
  for (int i = 0; i < 4; i++) {
    void *wrong;
    pthread_join(running[i], &wrong);
    printf("%s: wrong %ld\n", names[i], (long)wrong);
  }
  pthread_t vain;
  void *result = NULL;
  pthread_create(&vain, NULL, wait_in_vain, "silent.odd.test");
  usleep(200000);
  pthread_cancel(vain);
  double start = seconds();
  pthread_join(vain, &result);
  printf("cancelled %d at once %d\n", result == PTHREAD_CANCELED, seconds() - start < 0.5);
  ask_with("four.example.test", "80", 0, AF_INET, SOCK_STREAM, 0);
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    ask_with("fromhosts", "80", 0, AF_INET, SOCK_STREAM, 0);
    ask_with("four.example.test", "80", 0, AF_INET, SOCK_STREAM, 0);
    fflush(stdout);
    _exit(0);
  }
  int status;
  waitpid(child, &status, 0);
  printf("child %d\n", WEXITSTATUS(status));
  ask_with("both.example.test", "80", 0, AF_INET, SOCK_STREAM, 0);
}

static void cancel_some(int count) {
  for (int i = 0; i < count; i++) {
    pthread_t vain;
    void *result;
    pthread_create(&vain, NULL, wait_in_vain, "silent.odd.test");
    usleep(10000);
    pthread_cancel(vain);
    pthread_join(vain, &result);
    if (result != PTHREAD_CANCELED) printf("not cancelled\n");
  }
}

static void cancelled(void) {
  cancel_some(20);
  size_t before = mallinfo2().uordblks;
  cancel_some(100);
  long left = (long)(mallinfo2().uordblks - before);
  fprintf(stderr, "left behind %ld\n", left / 100);
}

static void stale(int then_own) {
  char text[512];
  FILE *next = fopen(getenv("NEXT"), "r"), *file;
  size_t length = fread(text, 1, sizeof text, next);
  fclose(next);
  printf("res_init = %d\n", res_init());
  file = fopen("/etc/resolv.conf", "w");
  fwrite(text, 1, length, file);
  fclose(file);
  ask_with("four.example.test", "80", 0, AF_INET, SOCK_STREAM, 0);
  ask_with("one", "80", 0, AF_INET, SOCK_STREAM, 0);
  unsigned char answer[512];
  printf("res_query %d\n", res_query("four.example.test", C_IN, T_A, answer, sizeof answer));
  if (!then_own) return;
  // A state that the program changed is not read again.
  _res.retrans = 2;
  file = fopen("/etc/resolv.conf", "w");
  fputs("nameserver 198.18.0.99\noptions timeout:1 attempts:1\n", file);
  fclose(file);
  ask_with("one", "80", 0, AF_INET, SOCK_STREAM, 0);
}

int main(int count, char **words) {
  const char *what = count > 1 ? words[1] : "";
  if (!strcmp(what, "table")) table();
  else if (!strcmp(what, "fails")) fails();
  else if (!strcmp(what, "few")) few();
  else if (!strcmp(what, "silence")) silence();
  else if (!strcmp(what, "later")) later();
  else if (!strcmp(what, "threads")) threads();
  else if (!strcmp(what, "cancelled")) cancelled();
  else if (!strcmp(what, "stale")) stale(0);
  else if (!strcmp(what, "own")) stale(1);
  else if (!strcmp(what, "given")) given();
  else return 2;
  return 0;
}
