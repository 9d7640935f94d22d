// Interfaces: getifaddrs, if_nameindex and their kin, and the ioctls of netdevice(7), before and after the stack has started.
// row: seconds=30
#include "probe.h"

#include <dlfcn.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <net/if_arp.h>

static const char *flag_names(unsigned flags) {
  static char text[200];
  const struct {
    unsigned bit;
    const char *name;
  } names[] = {{IFF_UP, "UP"},           {IFF_BROADCAST, "BROADCAST"}, {IFF_LOOPBACK, "LOOPBACK"},
               {IFF_RUNNING, "RUNNING"}, {IFF_MULTICAST, "MULTICAST"}, {IFF_POINTOPOINT, "POINTOPOINT"},
               {IFF_NOARP, "NOARP"},     {0x10000, "LOWER_UP"}};
  text[0] = 0;
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (flags & names[i].bit) {
      sprintf(text + strlen(text), " %s", names[i].name);
      flags &= ~names[i].bit;
    }
  if (flags)
    sprintf(text + strlen(text), " %#x", flags);
  return text;
}

/// A hardware address: of whom it is differs.
static const char *hardware_text(const unsigned char *bytes, int length) {
  static const unsigned char zeros[8], ones[8] = {255, 255, 255, 255, 255, 255, 255, 255};
  if (length != 6)
    return "of another length";
  if (memcmp(bytes, zeros, 6) == 0)
    return "zero";
  if (memcmp(bytes, ones, 6) == 0)
    return "broadcast";
  return bytes[0] & 1 ? "of a group" : "of a host";
}

static const char *any_text(const struct sockaddr *address) {
  static char texts[4][120];
  static int turn;
  char *text = texts[turn++ % 4];
  if (!address)
    return "none";
  const struct sockaddr_in6 *in6 = (const void *)address;
  if (address->sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr)) {
    // It follows from the hardware address.
    sprintf(text, "link-local, scope %s", in6->sin6_scope_id > 1 ? "> 1" : "0 or 1");
    return text;
  }
  if (address->sa_family == AF_INET6 && in6->sin6_scope_id != 0)
    return "with a scope";
  if (address->sa_family != AF_PACKET)
    return address_text(address);
  const struct sockaddr_ll *link = (const void *)address;
  sprintf(text, "link type %d, index %s, protocol %d, address %s", link->sll_hatype, link->sll_ifindex == 1 ? "1" : "> 1",
          link->sll_protocol, hardware_text(link->sll_addr, link->sll_halen));
  return text;
}

static void list(void) {
  struct ifaddrs *all = NULL;
  CALL(getifaddrs(&all));
  for (struct ifaddrs *at = all; at; at = at->ifa_next) {
    note("%s:%s", at->ifa_name, flag_names(at->ifa_flags));
    note("  %s", any_text(at->ifa_addr));
    note("  mask %s", any_text(at->ifa_netmask));
    note("  other %s", any_text(at->ifa_broadaddr));
    note("  statistics %d", at->ifa_data != NULL);
  }
  freeifaddrs(all);
}

static void names(void) {
  struct if_nameindex *all = if_nameindex();
  for (struct if_nameindex *at = all; at && at->if_name; at++) {
    char back[IF_NAMESIZE] = "?";
    note("%s: index %s, the same by name %d, back %s", at->if_name, at->if_index == 1 ? "1" : "> 1",
         if_nametoindex(at->if_name) == at->if_index, if_indextoname(at->if_index, back));
  }
  if_freenameindex(all);
  char name[IF_NAMESIZE];
  CALL(if_nametoindex("none") ? 0 : -1);
  CALL(if_indextoname(4711, name) ? 0 : -1);
  CALL(if_nametoindex("a-name-that-is-longer-than-any") ? 0 : -1);
}

/// libc frees what the list's maker allocated, whoever asks it to: a plugin that is linked with another copy of the names, a program
/// that looks its functions up itself.
static void mixed(void) {
  void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
  int (*get)(struct ifaddrs **) = (int (*)(struct ifaddrs **))dlsym(libc, "getifaddrs");
  void (*give_back)(struct ifaddrs *) = (void (*)(struct ifaddrs *))dlsym(libc, "freeifaddrs");
  struct if_nameindex *(*get_names)(void) = (struct if_nameindex * (*)(void)) dlsym(libc, "if_nameindex");
  void (*give_back_names)(struct if_nameindex *) = (void (*)(struct if_nameindex *))dlsym(libc, "if_freenameindex");
  for (int i = 0; i < 100; i++) {
    struct ifaddrs *list = NULL;
    MUST(get(&list));
    freeifaddrs(list);
    MUST(getifaddrs(&list));
    give_back(list);
    if_freenameindex(get_names());
    give_back_names(if_nameindex());
  }
  note("lists of one given back to the other");
}

static int ask(int fd, const char *name, unsigned long request, struct ifreq *answer) {
  memset(answer, 0, sizeof *answer);
  strncpy(answer->ifr_name, name, IFNAMSIZ - 1);
  errno = 0;
  int result = ioctl(fd, request, answer);
  return result == -1 ? errno : 0;
}

static void ask_address(int fd, const char *name, unsigned long request, const char *what) {
  struct ifreq answer;
  int error = ask(fd, name, request, &answer);
  note("%s %s: %s %s", name, what, error_name(error), error ? "" : address_text(&answer.ifr_addr));
}

static void about(int fd, const char *name) {
  struct ifreq answer;
  ask_address(fd, name, SIOCGIFADDR, "address");
  ask_address(fd, name, SIOCGIFNETMASK, "mask");
  ask_address(fd, name, SIOCGIFBRDADDR, "broadcast");
  ask_address(fd, name, SIOCGIFDSTADDR, "destination");
  int error = ask(fd, name, SIOCGIFFLAGS, &answer);
  note("%s flags: %s%s", name, error_name(error), error ? "" : flag_names((unsigned short)answer.ifr_flags));
  error = ask(fd, name, SIOCGIFMTU, &answer);
  note("%s MTU: %s %d", name, error_name(error), error ? 0 : answer.ifr_mtu);
  error = ask(fd, name, SIOCGIFMETRIC, &answer);
  note("%s metric: %s %d", name, error_name(error), error ? 0 : answer.ifr_metric);
  error = ask(fd, name, SIOCGIFTXQLEN, &answer);
  note("%s queue: %s %d", name, error_name(error), error ? 0 : answer.ifr_qlen > 0);
  error = ask(fd, name, SIOCGIFMAP, &answer);
  note("%s map: %s %d", name, error_name(error), error ? 0 : answer.ifr_map.irq);
  error = ask(fd, name, SIOCGIFHWADDR, &answer);
  note("%s hardware: %s", name, error_name(error));
  if (!error)
    note("  type %d, %s", answer.ifr_hwaddr.sa_family, hardware_text((unsigned char *)answer.ifr_hwaddr.sa_data, 6));
  error = ask(fd, name, SIOCGIFINDEX, &answer);
  note("%s index: %s, as by name %d", name, error_name(error), !error && answer.ifr_ifindex == (int)if_nametoindex(name));
  if (!error) {
    struct ifreq back = {.ifr_ifindex = answer.ifr_ifindex};
    CALL(ioctl(fd, SIOCGIFNAME, &back));
    note("  %s", back.ifr_name);
  }
}

static void configuration(int fd) {
  struct ifreq answers[8];
  struct ifconf request = {.ifc_len = 0, .ifc_req = NULL};
  CALL(ioctl(fd, SIOCGIFCONF, &request));
  note("needs %zu", request.ifc_len / sizeof *answers);
  request = (struct ifconf){.ifc_len = sizeof answers, .ifc_req = answers};
  CALL(ioctl(fd, SIOCGIFCONF, &request));
  for (size_t i = 0; i < request.ifc_len / sizeof *answers; i++) {
    note("%s %s", answers[i].ifr_name, address_text(&answers[i].ifr_addr));
    // The entry as it stands is the question about its own address.
    CALL(ioctl(fd, SIOCGIFNETMASK, &answers[i]));
    note("  mask %s", address_text(&answers[i].ifr_addr));
  }
  request = (struct ifconf){.ifc_len = sizeof *answers + 10, .ifc_req = answers};
  CALL(ioctl(fd, SIOCGIFCONF, &request));
  note("one fits: %zu, %s", request.ifc_len / sizeof *answers, answers[0].ifr_name);
  request = (struct ifconf){.ifc_len = 10, .ifc_req = answers};
  CALL(ioctl(fd, SIOCGIFCONF, &request));
  note("none fits: %d", request.ifc_len);
  CALL(ioctl(fd, SIOCGIFCONF, NULL));
}

static void everything(void) {
  section("getifaddrs");
  list();
  section("if_nameindex");
  names();
  mixed();

  section("ioctl");
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  configuration(fd);
  about(fd, "lo");
  about(fd, "anp0");
  about(fd, "anp0:1");
  about(fd, "none");
  about(fd, "");
  CALL(ioctl(fd, SIOCGIFADDR, NULL));
  struct ifreq unknown = {.ifr_ifindex = 4711};
  CALL(ioctl(fd, SIOCGIFNAME, &unknown));
  close(fd);
}

int main(void) {
  begin();
  everything();

  section("a stream socket, an IPv6 socket");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  ask_address(fd, "anp0", SIOCGIFADDR, "address");
  close(fd);
  fd = socket(AF_INET6, SOCK_DGRAM, 0);
  struct ifreq answer;
  ask_address(fd, "anp0", SIOCGIFADDR, "address");
  int error = ask(fd, "anp0", SIOCGIFFLAGS, &answer);
  note("flags %s%s", error_name(error), flag_names((unsigned short)answer.ifr_flags));
  struct ifconf request = {.ifc_len = 0, .ifc_req = NULL};
  CALL(ioctl(fd, SIOCGIFCONF, &request));
  note("needs %zu", request.ifc_len / sizeof answer);
  close(fd);

  section("each address can be bound");
  struct ifaddrs *all = NULL;
  MUST(getifaddrs(&all));
  for (struct ifaddrs *at = all; at; at = at->ifa_next) {
    if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET)
      continue;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    note("%s", address_text(at->ifa_addr));
    CALL(bind(fd, at->ifa_addr, SIZE_IN));
    CALL(listen(fd, 1));
    close(fd);
  }
  freeifaddrs(all);

  section("a connection");
  fd = pair_with_peer("x");
  show_names(fd);
  ask_address(fd, "anp0", SIOCGIFADDR, "address");
  close(fd);
  peer("close x");
  everything();

  note("\nend");
}
