// Owns: getaddrinfo, freeaddrinfo, getnameinfo. Read first: getaddrinfo(3), getnameinfo(3), RFC 3493 §6; docs/NAMES.md.
//
// What needs no network is left to libc's own functions: numeric addresses with their scopes, services (/etc/services), the
// combinations of socket type and protocol, and every check of the arguments. Here a name is turned into addresses
// (anp_host_names.h), and these are combined with the sockets that libc offers for a numeric address. libc's functions are never
// handed a name, nor AI_ADDRCONFIG, for which they would ask the kernel for its addresses instead of the stack.
//
// Lists are made in the program's own memory, one block for each entry as libc makes them, so that there is one kind of list.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "anp_host_names.h"
#include "interpose.h"
#include "program_memory.h"

// ---- The program's memory -------------------------------------------------------------------------------------------------

static void *program_function(const char *name, void *_Atomic *known) {
  void *found = atomic_load_explicit(known, memory_order_relaxed);
  if (!found) {
    // The first in the order in which the program itself looks: an allocator of its own, or libc's. Ours is hidden.
    found = dlsym(RTLD_DEFAULT, name);
    atomic_store_explicit(known, found, memory_order_relaxed);
  }
  return found;
}

void *anp_program_malloc(size_t bytes) {
  static void *_Atomic known;
  return ((void *(*)(size_t))program_function("malloc", &known))(bytes);
}

void anp_program_free(void *block) {
  static void *_Atomic known;
  if (block) ((void (*)(void *))program_function("free", &known))(block);
}

char *anp_program_strdup(const char *text) {
  size_t length = strlen(text) + 1;
  char *copy = anp_program_malloc(length);
  return copy ? memcpy(copy, text, length) : NULL;
}

ANP_EXPORT void freeaddrinfo(struct addrinfo *list) {
  while (list) {
    struct addrinfo *next = list->ai_next;
    anp_program_free(list->ai_canonname);
    anp_program_free(list);
    list = next;
  }
}

// ---- Internationalized names ----------------------------------------------------------------------------------------------

// As libc: by libidn2, where that is installed.
static void *idn_function(const char *name) {
  void *library = dlopen("libidn2.so.0", RTLD_LAZY | RTLD_LOCAL | RTLD_NODELETE);
  void *found = library ? dlsym(library, name) : NULL;
  dlerror();
  return found;
}

static int is_ascii(const char *text) {
  for (; *text; text++)
    if (*text & 0x80) return 0;
  return 1;
}

/// The form of `name` for the DNS, from the program's memory; 0 or EAI_*.
static int encode(const char *name, char **encoded) {
  int (*look_up)(const char *, char **, int) = idn_function("idn2_lookup_ul");
  void (*release)(void *) = idn_function("idn2_free");
  char *text;
  if (!look_up || !release) return EAI_IDN_ENCODE;
  int result = look_up(name, &text, 0);
  if (result != 0) return result == -100 /* IDN2_MALLOC */ ? EAI_MEMORY : EAI_IDN_ENCODE;
  *encoded = anp_program_strdup(text);
  release(text);
  return *encoded ? 0 : EAI_MEMORY;
}

/// The readable form of a canonical name; `name` itself where there is none.
static char *decode(const char *name) {
  int (*to_unicode)(const char *, char **, int) = strstr(name, "xn--") ? idn_function("idn2_to_unicode_lzlz") : NULL;
  void (*release)(void *) = to_unicode ? idn_function("idn2_free") : NULL;
  char *text;
  if (!release || to_unicode(name, &text, 0) != 0) return anp_program_strdup(name);
  char *copy = anp_program_strdup(text);
  release(text);
  return copy;
}

// ---- A name's addresses ---------------------------------------------------------------------------------------------------

/// EAI_* for a name that no service gave an address for. `is_simple`: for IPv4 alone, without its canonical name; there libc asks
/// in another way and does not tell some failures from a name without addresses.
static int failure(const struct anp_host_found *found, int is_simple) {
  switch (found->error) {
    case NETDB_INTERNAL:
      errno = found->system_error;
      return found->system_error == ENOMEM ? EAI_MEMORY : EAI_SYSTEM;
    case TRY_AGAIN: return is_simple && !found->system_error ? EAI_NONAME : EAI_AGAIN;
    case NO_DATA: return EAI_NODATA;
    default: return is_simple && found->system_error ? EAI_NODATA : EAI_NONAME;
  }
}

/// The addresses that `family` and `flags` ask for. 0 or EAI_*.
static int look_up(const char *name, int family, int flags, struct anp_host_found *found) {
  int wants = family == AF_UNSPEC ? ANP_WANTS_INET | ANP_WANTS_INET6 : family == AF_INET ? ANP_WANTS_INET : ANP_WANTS_INET6;
  if (family == AF_INET6 && flags & AI_V4MAPPED) wants |= flags & AI_ALL ? ANP_WANTS_MAPPED | ANP_WANTS_ALL : ANP_WANTS_MAPPED;
  anp_host_by_name(name, wants, found);
  return found->error ? failure(found, family == AF_INET && !(flags & AI_CANONNAME)) : 0;
}

// ---- The list -------------------------------------------------------------------------------------------------------------

static struct addrinfo *make_entry(const struct anp_name_address *address, const struct addrinfo *socket, int flags) {
  size_t size = address->is_inet6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
  struct addrinfo *entry = anp_program_malloc(sizeof *entry + size);
  if (!entry) return NULL;
  memset(entry, 0, sizeof *entry + size);
  entry->ai_flags = flags;
  entry->ai_family = address->is_inet6 ? AF_INET6 : AF_INET;
  entry->ai_socktype = socket->ai_socktype;
  entry->ai_protocol = socket->ai_protocol;
  entry->ai_addrlen = (socklen_t)size;
  entry->ai_addr = (struct sockaddr *)(entry + 1);
  // The port is at the same place for both families.
  in_port_t port = ((const struct sockaddr_in *)socket->ai_addr)->sin_port;
  if (address->is_inet6) {
    struct sockaddr_in6 *inet6 = (struct sockaddr_in6 *)entry->ai_addr;
    inet6->sin6_family = AF_INET6;
    inet6->sin6_port = port;
    inet6->sin6_scope_id = address->scope;
    memcpy(&inet6->sin6_addr, address->address, 16);
  } else {
    struct sockaddr_in *inet = (struct sockaddr_in *)entry->ai_addr;
    inet->sin_family = AF_INET;
    inet->sin_port = port;
    memcpy(&inet->sin_addr, address->address + 12, 4);
  }
  return entry;
}

/// Each address with each socket of `sockets`.
static int make_list(const struct anp_host_found *found, const struct addrinfo *sockets, int flags, const char *name,
                     struct addrinfo **list) {
  struct addrinfo *first = NULL, **end = &first;
  for (size_t i = 0; i < found->address_count; i++) {
    for (const struct addrinfo *socket = sockets; socket; socket = socket->ai_next) {
      *end = make_entry(&found->addresses[i], socket, flags);
      if (!*end) goto failed;
      end = &(*end)->ai_next;
    }
  }
  if (!first) return EAI_NONAME;
  if (flags & AI_CANONNAME) {
    const char *canonical = found->name ? found->name : name;
    first->ai_canonname = flags & AI_CANONIDN ? decode(canonical) : anp_program_strdup(canonical);
    if (!first->ai_canonname) goto failed;
  }
  *list = first;
  return 0;
failed:
  freeaddrinfo(first);
  return EAI_MEMORY;
}

// ---- getaddrinfo ----------------------------------------------------------------------------------------------------------

/// libc's own, with numbers only.
static int numeric(const char *host, const char *service, const struct addrinfo *hints, int flags, struct addrinfo **list) {
  struct addrinfo changed = *hints;
  changed.ai_flags = flags;
  return ANP_REAL(getaddrinfo)(host, service, &changed, list);
}

/// An IPv6 address with a scope that there is none: not a name.
static int is_address_with_scope(const char *name) {
  char text[INET6_ADDRSTRLEN];
  struct in6_addr address;
  const char *sign = strchr(name, '%');
  if (!sign || (size_t)(sign - name) >= sizeof text) return 0;
  memcpy(text, name, (size_t)(sign - name));
  text[sign - name] = 0;
  return inet_pton(AF_INET6, text, &address) == 1;
}

/// What a look-up holds of the program's memory, to be given back also where the thread is cancelled in the wait.
struct held {
  struct addrinfo *sockets;
  char *encoded;
};

static void give_back(void *context) {
  struct held *held = context;
  anp_program_free(held->encoded);
  ANP_REAL(freeaddrinfo)(held->sockets);
}

static int by_name(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
  struct held held = {0};
  // Which sockets there are does not depend on the address.
  int flags = (hints->ai_flags & (AI_NUMERICSERV | AI_PASSIVE)) | AI_NUMERICHOST;
  int result = numeric(hints->ai_family == AF_INET6 ? "::" : "0.0.0.0", service, hints, flags, &held.sockets);
  if (result != 0) return result;
  pthread_cleanup_push(give_back, &held);
  if (is_address_with_scope(name)) {
    result = EAI_NONAME;
  } else if (hints->ai_flags & AI_IDN && !is_ascii(name)) {
    result = encode(name, &held.encoded);
  }
  if (result == 0) {
    struct anp_host_found found;
    const char *asked = held.encoded ? held.encoded : name;
    result = look_up(asked, hints->ai_family, hints->ai_flags, &found);
    if (result == 0 && found.address_count > 1) anp_entry_order_addresses(found.addresses, (long)found.address_count);
    if (result == 0) result = make_list(&found, held.sockets, hints->ai_flags, asked, list);
    anp_host_forget(&found);
  }
  pthread_cleanup_pop(1);
  return result;
}

ANP_EXPORT int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
  static const struct addrinfo defaults = {.ai_flags = AI_V4MAPPED | AI_ADDRCONFIG, .ai_family = AF_UNSPEC};
  struct addrinfo narrowed = hints ? *hints : defaults;
  int flags = narrowed.ai_flags;
  if (name && strcmp(name, "*") == 0) name = NULL;
  int is_family = narrowed.ai_family == AF_UNSPEC || narrowed.ai_family == AF_INET || narrowed.ai_family == AF_INET6;
  if (flags & AI_ADDRCONFIG && is_family && (name || service)) {
    int has_inet = anp_entry_has_address(AF_INET), has_inet6 = anp_entry_has_address(AF_INET6);
    if (narrowed.ai_family == AF_UNSPEC && has_inet != has_inet6) {
      narrowed.ai_family = has_inet ? AF_INET : AF_INET6;
    } else if ((narrowed.ai_family == AF_INET && !has_inet) || (narrowed.ai_family == AF_INET6 && !has_inet6)) {
      // Wrong arguments come first.
      struct addrinfo *ignored;
      int result = numeric(NULL, service ? service : "0", &narrowed, flags & ~(AI_ADDRCONFIG | AI_CANONNAME), &ignored);
      if (result == 0) ANP_REAL(freeaddrinfo)(ignored);
      return result == EAI_BADFLAGS || (flags & AI_CANONNAME && !name) ? EAI_BADFLAGS : EAI_NONAME;
    }
  }
  int result = numeric(name, service, &narrowed, (flags & ~AI_ADDRCONFIG) | (name ? AI_NUMERICHOST : 0), list);
  if (result == 0)
    for (struct addrinfo *entry = *list; entry; entry = entry->ai_next) entry->ai_flags = flags;
  if (result != EAI_NONAME || !name || flags & AI_NUMERICHOST) return result;
  return by_name(name, service, &narrowed, list);
}

// ---- getnameinfo ----------------------------------------------------------------------------------------------------------

/// The part of the machine's own name behind its first dot, which NI_NOFQDN takes off others; "" where it has none. Looked up
/// once in the life of the program, as libc does.
static const char *own_domain(void) {
  static char *_Atomic known;
  char *domain = atomic_load_explicit(&known, memory_order_acquire);
  if (domain) return domain;
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  const char *dot = strchr(name, '.');
  struct anp_host_found found = {0};
  if (!dot) {
    anp_host_by_name(name, ANP_WANTS_INET, &found);
    dot = found.error == 0 && found.name ? strchr(found.name, '.') : NULL;
  }
  dot = dot ? dot + 1 : "";
  domain = malloc(strlen(dot) + 1);
  if (domain) {
    strcpy(domain, dot);
    char *none = NULL;
    if (!atomic_compare_exchange_strong(&known, &none, domain)) {
      free(domain);
      domain = none;
    }
  }
  anp_host_forget(&found);
  return domain ? domain : "";
}

/// Cuts the own domain off `name`.
static void shorten(char *name) {
  const char *domain = own_domain();
  size_t length = strlen(name), tail = strlen(domain);
  if (tail > 0 && length > tail + 1 && name[length - tail - 1] == '.' && strcasecmp(name + length - tail, domain) == 0)
    name[length - tail - 1] = 0;
}

ANP_EXPORT int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t host_room, char *service,
                           socklen_t service_room, int flags) {
  const int known = NI_NUMERICHOST | NI_NUMERICSERV | NI_NOFQDN | NI_NAMEREQD | NI_DGRAM | NI_IDN;
  int is_inet = address && length >= sizeof(struct sockaddr_in) && address->sa_family == AF_INET;
  int is_inet6 = address && length >= sizeof(struct sockaddr_in6) && address->sa_family == AF_INET6;
  int wants_name = host && host_room > 0 && !(flags & NI_NUMERICHOST) && !(flags & ~(known | 0xc0));
  if (!wants_name || (!is_inet && !is_inet6))
    return ANP_REAL(getnameinfo)(address, length, host, host_room, service, service_room, flags);

  struct anp_host_found found;
  if (is_inet6) {
    anp_host_by_address(&((const struct sockaddr_in6 *)address)->sin6_addr, AF_INET6, &found);
  } else {
    anp_host_by_address(&((const struct sockaddr_in *)address)->sin_addr, AF_INET, &found);
  }
  int result = 0;
  if (found.error == NETDB_INTERNAL) {
    errno = found.system_error;
    result = EAI_SYSTEM;
  } else if (found.error == TRY_AGAIN) {
    result = EAI_AGAIN;
  } else if (found.error || !found.name) {
    // No name: the number, unless a name was insisted on.
    anp_host_forget(&found);
    if (flags & NI_NAMEREQD) return EAI_NONAME;
    return ANP_REAL(getnameinfo)(address, length, host, host_room, service, service_room, flags | NI_NUMERICHOST);
  }
  if (result == 0) {
    if (flags & NI_NOFQDN) shorten(found.name);
    char *name = flags & NI_IDN ? decode(found.name) : anp_program_strdup(found.name);
    if (!name) {
      result = EAI_MEMORY;
    } else if (strlen(name) >= host_room) {
      result = EAI_OVERFLOW;
    } else {
      strcpy(host, name);
    }
    anp_program_free(name);
  }
  anp_host_forget(&found);
  if (result != 0 || !service || service_room == 0) return result;
  return ANP_REAL(getnameinfo)(address, length, NULL, 0, service, service_room, (flags & ~NI_NAMEREQD) | NI_NUMERICHOST);
}
