// Owns: what programs are told about network interfaces: getifaddrs, if_nameindex and their kin, and the ioctls of netdevice(7)
// on a socket of ours. Read first: getifaddrs(3), netdevice(7); devinet_ioctl and dev_ifsioc in Linux for what is answered.
//
// A program sees where its sockets can be:
//
//   lo               the kernel's, with the addresses that stay with the kernel
//   the device       the stack's: its addresses, hardware address and MTU; the kernel's end of the cable has the same name and
//                    others of these, and is not shown
//   other interfaces of the kernel: those addresses that a bind would take to the kernel (ANP_BYPASS), nothing else
//
// So each address in the list can be bound, and a server that binds all it sees gets what it expects. Where ANP_FALLBACK gives
// the program to the kernel as a whole, the kernel's list is the list. Who asks for an interface by its name or number knows it
// already, and may have made it (a VPN's tun0): those questions, and requests to change what is not the stack's, go to the
// kernel. Netlink is the kernel's altogether: what asks through it (ip, ss) sees the kernel's interfaces.
//
// All of it comes from one list, made by the real getifaddrs and the stack together. What programs are given of it is in memory of
// their own allocator, in as many blocks as libc makes: libc's freeifaddrs and if_freenameindex may be given ours, and ours libc's.
#define _GNU_SOURCE
#include <errno.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "anp_interface.h"
#include "anp_tap.h"
#include "interpose.h"
#include "interpose_interfaces.h"
#include "program_memory.h"

// ---- The list ----------------------------------------------------------------------------------------------------------

/// A link-layer address may be longer than sockaddr_ll says.
enum { ADDRESS_ROOM = 64 };

/// One entry and all that it points to.
struct listed {
  struct ifaddrs entry;
  union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_ll link;
    char room[ADDRESS_ROOM];
  } address, netmask, other;
  struct rtnl_link_stats statistics;
  char name[IFNAMSIZ];
};

/// What a list is made of.
struct view {
  /// 0: the kernel's interfaces, all of them, and no other.
  int has_stack;
  struct anp_interface stack;
  /// The kernel's list; NULL where it has none to give.
  struct ifaddrs *kernel;
};

enum { NAMES_ALONE = 0, WITH_ADDRESSES = 1 };

static int open_view(struct view *view, int wants_addresses) {
  view->has_stack = (int)anp_entry_interface(&view->stack, wants_addresses);
  view->kernel = NULL;
  // Where netlink is forbidden there is still the stack's own.
  return ANP_REAL(getifaddrs)(&view->kernel) == 0 || view->has_stack ? 0 : -1;
}

static void close_view(struct view *view) {
  if (view->kernel) ANP_REAL(freeifaddrs)(view->kernel);
}

/// Whether an entry's name is `name`, a label like "eth0:1" counting as eth0.
static int is_named(const struct ifaddrs *entry, const char *name) {
  size_t length = strlen(name);
  return entry->ifa_name && strncmp(entry->ifa_name, name, length) == 0 &&
         (entry->ifa_name[length] == 0 || entry->ifa_name[length] == ':');
}

static int family_of(const struct ifaddrs *entry) { return entry->ifa_addr ? entry->ifa_addr->sa_family : AF_UNSPEC; }

static int is_kernel_address(const struct ifaddrs *entry) {
  switch (family_of(entry)) {
    case AF_INET: return anp_entry_is_kernel_address(AF_INET, &((struct sockaddr_in *)entry->ifa_addr)->sin_addr);
    case AF_INET6: return anp_entry_is_kernel_address(AF_INET6, &((struct sockaddr_in6 *)entry->ifa_addr)->sin6_addr);
    default: return 0;
  }
}

static int link_is_shown(const struct view *view, const char *name) {
  if (!view->has_stack || strcmp(name, "lo") == 0) return 1;
  if (strcmp(name, view->stack.name) == 0) return 0;
  for (const struct ifaddrs *at = view->kernel; at; at = at->ifa_next)
    if (is_named(at, name) && is_kernel_address(at)) return 1;
  return 0;
}

/// Whether an entry of the kernel's list is in ours.
static int is_shown(const struct view *view, const struct ifaddrs *entry) {
  if (!view->has_stack) return 1;
  if (!entry->ifa_name || is_named(entry, view->stack.name)) return 0;
  return family_of(entry) == AF_INET || family_of(entry) == AF_INET6 ? is_kernel_address(entry)
                                                                    : link_is_shown(view, entry->ifa_name);
}

static int index_of(const struct view *view, const struct ifaddrs *entry) {
  for (const struct ifaddrs *at = view->kernel; at; at = at->ifa_next)
    if (family_of(at) == AF_PACKET && at->ifa_name && is_named(entry, at->ifa_name))
      return ((struct sockaddr_ll *)at->ifa_addr)->sll_ifindex;
  return 0;
}

static void copy_address(const struct sockaddr *from, void *room, struct sockaddr **to) {
  if (!from) return;
  size_t length = from->sa_family == AF_INET    ? sizeof(struct sockaddr_in)
                  : from->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                                : sizeof(struct sockaddr_ll);
  if (from->sa_family == AF_PACKET) {
    size_t whole = offsetof(struct sockaddr_ll, sll_addr) + ((const struct sockaddr_ll *)from)->sll_halen;
    if (whole > length) length = whole < ADDRESS_ROOM ? whole : ADDRESS_ROOM;
  }
  memcpy(room, from, length);
  *to = room;
}

static void fill_from_kernel(struct listed *listed, const struct ifaddrs *entry) {
  strncpy(listed->name, entry->ifa_name ? entry->ifa_name : "", IFNAMSIZ - 1);
  listed->entry.ifa_flags = entry->ifa_flags;
  copy_address(entry->ifa_addr, &listed->address, &listed->entry.ifa_addr);
  copy_address(entry->ifa_netmask, &listed->netmask, &listed->entry.ifa_netmask);
  copy_address(entry->ifa_broadaddr, &listed->other, &listed->entry.ifa_broadaddr);
  if (entry->ifa_data && family_of(entry) == AF_PACKET) {
    memcpy(&listed->statistics, entry->ifa_data, sizeof listed->statistics);
    listed->entry.ifa_data = &listed->statistics;
  }
}

static void fill_link(struct listed *listed, const struct anp_interface *stack) {
  listed->address.link = (struct sockaddr_ll){
      .sll_family = AF_PACKET, .sll_ifindex = stack->index, .sll_hatype = stack->hardware_type};
  if (stack->hardware_type == ARPHRD_ETHER) {
    listed->address.link.sll_halen = 6;
    listed->other.link = listed->address.link;
    memcpy(listed->address.link.sll_addr, stack->hardware, 6);
    memset(listed->other.link.sll_addr, 0xff, 6);
    listed->entry.ifa_broadaddr = &listed->other.any;
  }
  listed->entry.ifa_addr = &listed->address.any;
  listed->statistics.rx_packets = (uint32_t)stack->received_packets;
  listed->statistics.rx_bytes = (uint32_t)stack->received_bytes;
  listed->statistics.tx_packets = (uint32_t)stack->sent_packets;
  listed->statistics.tx_bytes = (uint32_t)stack->sent_bytes;
  listed->entry.ifa_data = &listed->statistics;
}

static uint32_t ipv4_mask(int prefix_length) { return prefix_length == 0 ? 0 : htonl(~0u << (32 - prefix_length)); }

static uint32_t ipv4_of(const struct anp_interface_address *address) {
  uint32_t bits;
  memcpy(&bits, address->bytes, sizeof bits);
  return bits;
}

/// 0 where the network has none (RFC 3021) or the interface cannot broadcast.
static uint32_t broadcast_of(const struct anp_interface *stack, const struct anp_interface_address *address) {
  if (!(stack->flags & IFF_BROADCAST) || address->prefix_length > 30) return 0;
  return ipv4_of(address) | ~ipv4_mask(address->prefix_length);
}

static void fill_address(struct listed *listed, const struct anp_interface *stack,
                         const struct anp_interface_address *address) {
  listed->entry.ifa_addr = &listed->address.any;
  listed->entry.ifa_netmask = &listed->netmask.any;
  if (address->is_ipv6) {
    listed->address.in6.sin6_family = listed->netmask.in6.sin6_family = AF_INET6;
    memcpy(&listed->address.in6.sin6_addr, address->bytes, 16);
    if (IN6_IS_ADDR_LINKLOCAL(&listed->address.in6.sin6_addr)) listed->address.in6.sin6_scope_id = (uint32_t)stack->index;
    for (int bit = 0; bit < address->prefix_length; bit++)
      listed->netmask.in6.sin6_addr.s6_addr[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
    return;
  }
  listed->address.in.sin_family = listed->netmask.in.sin_family = listed->other.in.sin_family = AF_INET;
  listed->address.in.sin_addr.s_addr = ipv4_of(address);
  listed->netmask.in.sin_addr.s_addr = ipv4_mask(address->prefix_length);
  uint32_t broadcast = broadcast_of(stack, address);
  // Without one the kernel's answer is the other end's address, which is our own.
  listed->other.in.sin_addr.s_addr = broadcast ? broadcast : ipv4_of(address);
  listed->entry.ifa_broadaddr = &listed->other.any;
}

/// Entries of the stack's of one family, behind what is in the list already; how many. Without a list it only counts.
static int append_stack(const struct view *view, int family, struct listed *list, int at) {
  const struct anp_interface *stack = &view->stack;
  int added = 0;
  int most = family == AF_PACKET ? 1 : stack->address_count;
  for (int i = 0; i < most; i++) {
    if (family != AF_PACKET && stack->addresses[i].is_ipv6 != (family == AF_INET6)) continue;
    if (list) {
      struct listed *listed = &list[at + added];
      strncpy(listed->name, stack->name, IFNAMSIZ - 1);
      listed->entry.ifa_flags = stack->flags;
      if (family == AF_PACKET)
        fill_link(listed, stack);
      else
        fill_address(listed, stack, &stack->addresses[i]);
    }
    added++;
  }
  return added;
}

/// Fills the list, or only counts where it is NULL. In libc's order: the links, then IPv4 addresses, then IPv6 addresses, each by the
/// interface's index.
static int fill(const struct view *view, struct listed *list) {
  static const int families[] = {AF_PACKET, AF_INET, AF_INET6};
  int count = 0;
  for (int f = 0; f < 3; f++) {
    int stack_is_in = !view->has_stack;
    for (const struct ifaddrs *entry = view->kernel; entry; entry = entry->ifa_next) {
      if (family_of(entry) != families[f] || !is_shown(view, entry)) continue;
      if (!stack_is_in && index_of(view, entry) > view->stack.index) {
        count += append_stack(view, families[f], list, count);
        stack_is_in = 1;
      }
      if (list) fill_from_kernel(&list[count], entry);
      count++;
    }
    if (!stack_is_in) count += append_stack(view, families[f], list, count);
  }
  return count;
}

/// The whole list, at least one entry's memory, from `allocate`; NULL and errno where there is none.
static struct listed *make_list(const struct view *view, int *count, void *(*allocate)(size_t)) {
  *count = fill(view, NULL);
  size_t size = ((size_t)*count + 1) * sizeof(struct listed);
  struct listed *list = allocate(size);
  if (!list) {
    errno = ENOMEM;
    return NULL;
  }
  memset(list, 0, size);
  fill(view, list);
  for (int i = 0; i < *count; i++) {
    list[i].entry.ifa_name = list[i].name;
    list[i].entry.ifa_next = i + 1 < *count ? &list[i + 1].entry : NULL;
  }
  return list;
}

// ---- libc's functions --------------------------------------------------------------------------------------------------

ANP_EXPORT int getifaddrs(struct ifaddrs **result) {
  struct view view;
  if (open_view(&view, WITH_ADDRESSES) != 0) return -1;
  int count;
  struct listed *list = make_list(&view, &count, anp_program_malloc);
  close_view(&view);
  if (!list) return -1;
  if (count == 0) {
    anp_program_free(list);
    *result = NULL;
    return 0;
  }
  *result = &list->entry;
  return 0;
}

ANP_EXPORT void freeifaddrs(struct ifaddrs *list) { anp_program_free(list); }

ANP_EXPORT void if_freenameindex(struct if_nameindex *list) {
  for (struct if_nameindex *at = list; at && at->if_name; at++) anp_program_free(at->if_name);
  anp_program_free(list);
}

ANP_EXPORT struct if_nameindex *if_nameindex(void) {
  struct view view;
  if (open_view(&view, NAMES_ALONE) != 0) return NULL;
  int count, links = 0;
  struct listed *list = make_list(&view, &count, malloc);
  close_view(&view);
  if (!list) return NULL;
  while (links < count && list[links].address.any.sa_family == AF_PACKET) links++;
  size_t size = ((size_t)links + 1) * sizeof(struct if_nameindex);
  struct if_nameindex *result = anp_program_malloc(size);
  if (result) memset(result, 0, size);
  for (int i = 0; result && i < links; i++) {
    result[i].if_index = (unsigned)list[i].address.link.sll_ifindex;
    result[i].if_name = anp_program_strdup(list[i].name);
    if (result[i].if_name) continue;
    if_freenameindex(result);
    result = NULL;
  }
  free(list);
  if (!result) errno = ENOBUFS;
  return result;
}

/// The name without a label's ":1".
static void take_name(char name[IFNAMSIZ], const char *from) {
  size_t length = strnlen(from, IFNAMSIZ - 1);
  memset(name, 0, IFNAMSIZ);
  memcpy(name, from, length);
  char *colon = strchr(name, ':');
  if (colon) memset(colon, 0, (size_t)(name + IFNAMSIZ - colon));
}

static int index_by_name(const char *given) {
  char name[IFNAMSIZ];
  if (strlen(given) >= IFNAMSIZ) return -ENODEV;
  take_name(name, given);
  struct anp_interface stack;
  if (anp_entry_interface(&stack, NAMES_ALONE) && strcmp(name, stack.name) == 0) return stack.index;
  int asking = anp_interface_socket();
  if (asking < 0) return asking;
  int index = anp_interface_index(asking, name);
  anp_kernel_close(asking);
  return index;
}

/// 0 or -errno (-ENODEV: no such interface).
static int name_by_index(int index, char name[IFNAMSIZ]) {
  struct anp_interface stack;
  if (anp_entry_interface(&stack, NAMES_ALONE) && index == stack.index) {
    take_name(name, stack.name);
    return 0;
  }
  int asking = anp_interface_socket();
  if (asking < 0) return asking;
  struct ifreq request = {.ifr_ifindex = index};
  int result = (int)anp_syscall3(SYS_ioctl, asking, SIOCGIFNAME, (long)&request);
  anp_kernel_close(asking);
  if (result < 0) return result;
  take_name(name, request.ifr_name);
  return 0;
}

ANP_EXPORT unsigned if_nametoindex(const char *name) {
  int index = index_by_name(name);
  if (index >= 0) return (unsigned)index;
  errno = -index;
  return 0;
}

ANP_EXPORT char *if_indextoname(unsigned index, char *name) {
  char found[IFNAMSIZ];
  int result = name_by_index((int)index, found);
  if (result == 0) return memcpy(name, found, IFNAMSIZ);
  errno = result == -ENODEV ? ENXIO : -result;
  return NULL;
}

// ---- ioctl -------------------------------------------------------------------------------------------------------------

/// Requests of inet_ioctl: IPv4's, about one of an interface's addresses.
static int asks_for_ipv4(unsigned long request) {
  return request == SIOCGIFADDR || request == SIOCGIFNETMASK || request == SIOCGIFBRDADDR || request == SIOCGIFDSTADDR;
}

static int changes(unsigned long request) {
  switch (request) {
    case SIOCSIFLINK:
    case SIOCSIFFLAGS:
    case SIOCSIFADDR:
    case SIOCSIFDSTADDR:
    case SIOCSIFBRDADDR:
    case SIOCSIFNETMASK:
    case SIOCSIFMETRIC:
    case SIOCSIFMEM:
    case SIOCSIFMTU:
    case SIOCSIFNAME:
    case SIOCSIFHWADDR:
    case SIOCSIFHWBROADCAST:
    case SIOCSIFPFLAGS:
    case SIOCDIFADDR:
    case SIOCSIFMAP:
    case SIOCADDMULTI:
    case SIOCDELMULTI:
    case SIOCSIFTXQLEN: return 1;
    default: return 0;
  }
}

static int asks(unsigned long request) {
  switch (request) {
    case SIOCGIFNAME:
    case SIOCGIFCONF:
    case SIOCGIFINDEX:
    case SIOCGIFFLAGS:
    case SIOCGIFMTU:
    case SIOCGIFHWADDR:
    case SIOCGIFMETRIC:
    case SIOCGIFTXQLEN:
    case SIOCGIFMAP: return 1;
    default: return asks_for_ipv4(request);
  }
}

int anp_is_interface_request(unsigned long request) { return asks(request) || changes(request); }

/// SIOCGIFCONF: an ifreq for each IPv4 address, as many as fit; without room, how much is needed.
static long configuration_list(struct ifconf *request) {
  struct view view;
  if (anp_is_nowhere(request)) return -EFAULT;
  if (open_view(&view, WITH_ADDRESSES) != 0) return -errno;
  int count, room = request->ifc_len, used = 0;
  struct listed *list = make_list(&view, &count, malloc);
  close_view(&view);
  if (!list) return -ENOMEM;
  if (request->ifc_req && anp_is_nowhere(request->ifc_req)) {
    free(list);
    return -EFAULT;
  }
  for (int i = 0; i < count; i++) {
    if (list[i].address.any.sa_family != AF_INET) continue;
    if (request->ifc_req) {
      if (room - used < (int)sizeof(struct ifreq)) break;
      struct ifreq one;
      memset(&one, 0, sizeof one);
      memcpy(one.ifr_name, list[i].name, IFNAMSIZ);
      memcpy(&one.ifr_addr, &list[i].address.in, sizeof list[i].address.in);
      memcpy((char *)request->ifc_req + used, &one, sizeof one);
    }
    used += (int)sizeof(struct ifreq);
  }
  free(list);
  request->ifc_len = used;
  return 0;
}

/// devinet_ioctl: the address that the caller names beside the interface, else the first.
static long ipv4_answer(unsigned long request, const char *label, const struct anp_interface *stack, struct ifreq *answer) {
  const struct anp_interface_address *found = NULL;
  struct sockaddr_in wanted;
  memcpy(&wanted, &answer->ifr_addr, sizeof wanted);
  // A label is a name of an address, and ours have none.
  for (int i = 0; i < stack->address_count && !strchr(label, ':'); i++) {
    const struct anp_interface_address *address = &stack->addresses[i];
    if (address->is_ipv6) continue;
    if (!found) found = address;
    if (wanted.sin_family == AF_INET && wanted.sin_addr.s_addr == ipv4_of(address)) {
      found = address;
      break;
    }
  }
  if (!found) return -EADDRNOTAVAIL;
  struct sockaddr_in result = {.sin_family = AF_INET};
  switch (request) {
    case SIOCGIFNETMASK: result.sin_addr.s_addr = ipv4_mask(found->prefix_length); break;
    case SIOCGIFBRDADDR: result.sin_addr.s_addr = broadcast_of(stack, found); break;
    default: result.sin_addr.s_addr = ipv4_of(found);
  }
  memcpy(&answer->ifr_addr, &result, sizeof result);
  return 0;
}

/// About the stack's interface. ANP_PASS: as the kernel says of the device.
static long stack_answer(unsigned long request, const struct anp_interface *stack, struct ifreq *answer) {
  if (asks_for_ipv4(request)) return ipv4_answer(request, answer->ifr_name, stack, answer);
  switch (request) {
    case SIOCGIFINDEX: answer->ifr_ifindex = stack->index; return 0;
    case SIOCGIFFLAGS: answer->ifr_flags = (short)stack->flags; return 0;
    case SIOCGIFMTU: answer->ifr_mtu = stack->mtu; return 0;
    case SIOCGIFHWADDR:
      memset(&answer->ifr_hwaddr, 0, sizeof answer->ifr_hwaddr);
      answer->ifr_hwaddr.sa_family = stack->hardware_type;
      memcpy(answer->ifr_hwaddr.sa_data, stack->hardware, 6);
      return 0;
    default: return ANP_PASS;
  }
}

long anp_interface_request(int fd, unsigned long request, void *argument) {
  struct anp_interface stack;
  if (!anp_entry_interface(&stack, NAMES_ALONE)) return ANP_PASS;
  if (request == SIOCGIFCONF) return configuration_list(argument);
  struct ifreq *answer = argument;
  if (anp_is_nowhere(answer)) return -EFAULT;
  if (request == SIOCGIFNAME) {
    char name[IFNAMSIZ];
    int result = name_by_index(answer->ifr_ifindex, name);
    if (result == 0) memcpy(answer->ifr_name, name, IFNAMSIZ);
    return result;
  }
  if (asks_for_ipv4(request)) {
    int family = AF_INET;
    uint32_t length = sizeof family;
    anp_kernel_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length);
    // An IPv6 socket has no such request.
    if (family != AF_INET) return ANP_PASS;
  }
  answer->ifr_name[IFNAMSIZ - 1] = 0;
  char name[IFNAMSIZ];
  take_name(name, answer->ifr_name);
  if (strcmp(name, stack.name) != 0) return ANP_PASS;
  if (asks_for_ipv4(request) && !anp_entry_interface(&stack, WITH_ADDRESSES)) return ANP_PASS;
  // As without CAP_NET_ADMIN.
  return changes(request) ? anp_entry_interface_refused((long)request) : stack_answer(request, &stack, answer);
}
