// Owns: making a TAP device and giving the kernel's end an address. Read tun/tap (Documentation/networking/tuntap.rst) first.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "anp_launcher.h"
#include "anp_version.h"

const char *anp_version(void) { return ANP_VERSION; }

// The library opens the device with exactly these; the kernel refuses others (EINVAL).
static const short tap_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE;

static int close_with(int fd, int result) {
  close(fd);
  return result;
}

static void set_name(struct ifreq *request, const char *name) {
  memset(request, 0, sizeof *request);
  strncpy(request->ifr_name, name, IFNAMSIZ - 1);
}

int anp_tap_make(const char *name, uid_t owner, char made[IFNAMSIZ]) {
  int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
  if (fd < 0) return -errno;
  struct ifreq request;
  set_name(&request, name);
  request.ifr_flags = (short)(tap_flags | IFF_TUN_EXCL);
  if (ioctl(fd, TUNSETIFF, &request) < 0) return close_with(fd, -errno);
  memcpy(made, request.ifr_name, IFNAMSIZ);
  set_name(&request, made);
  request.ifr_flags = IFF_DETACH_QUEUE;
  if (ioctl(fd, TUNSETOWNER, (unsigned long)owner) < 0 || ioctl(fd, TUNSETQUEUE, &request) < 0)
    return close_with(fd, -errno);
  return fd;
}

// One question, one answer: rtnetlink(7).
union netlink_reply {
  struct nlmsghdr header;
  char bytes[16384];
};

static ssize_t ask_netlink(const void *request, size_t length, union netlink_reply *reply) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
  if (fd < 0) return -errno;
  ssize_t received = send(fd, request, length, 0);
  if (received >= 0) received = recv(fd, reply, sizeof *reply, 0);
  if (received < 0) received = -errno;
  close(fd);
  return received;
}

static int set_address(int fd, const char *name, unsigned long what, uint32_t address) {
  struct ifreq request;
  set_name(&request, name);
  struct sockaddr_in *in = (struct sockaddr_in *)&request.ifr_addr;
  in->sin_family = AF_INET;
  in->sin_addr.s_addr = htonl(address);
  return ioctl(fd, what, &request);
}

// By netlink: SIOCSIFTXQLEN asks for CAP_NET_ADMIN over the initial user namespace, which nobody has in one of their own.
static int set_queue_length(const char *name, uint32_t length) {
  struct {
    struct nlmsghdr header;
    struct ifinfomsg message;
    struct rtattr attribute;
    uint32_t value;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_NEWLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
      .message = {.ifi_family = AF_UNSPEC, .ifi_index = (int)if_nametoindex(name)},
      .attribute = {.rta_type = IFLA_TXQLEN, .rta_len = RTA_LENGTH(sizeof length)},
      .value = length,
  };
  union netlink_reply reply;
  ssize_t received = ask_netlink(&request, sizeof request, &reply);
  if (received < 0) return (int)received;
  if (!NLMSG_OK(&reply.header, received) || reply.header.nlmsg_type != NLMSG_ERROR) return -EPROTO;
  return ((struct nlmsgerr *)NLMSG_DATA(&reply.header))->error;
}

int anp_interface_up(const char *name, uint32_t address, uint32_t mask, int mtu, int queue_length) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  struct ifreq request;
  if (mtu > 0) {
    set_name(&request, name);
    request.ifr_mtu = mtu;
    if (ioctl(fd, SIOCSIFMTU, &request) < 0) return close_with(fd, -errno);
  }
  if (queue_length > 0) {
    int result = set_queue_length(name, (uint32_t)queue_length);
    if (result < 0) return close_with(fd, result);
  }
  if (address && (set_address(fd, name, SIOCSIFADDR, address) < 0 || set_address(fd, name, SIOCSIFNETMASK, mask) < 0 ||
                  set_address(fd, name, SIOCSIFBRDADDR, address | ~mask) < 0))
    return close_with(fd, -errno);
  set_name(&request, name);
  if (ioctl(fd, SIOCGIFFLAGS, &request) < 0) return close_with(fd, -errno);
  request.ifr_flags |= IFF_UP;
  if (ioctl(fd, SIOCSIFFLAGS, &request) < 0) return close_with(fd, -errno);
  return close_with(fd, 0);
}

// Goes through getifaddrs' list: `visit` returns true to stop.
static bool each_ipv4(bool (*visit)(const char *name, uint32_t address, uint32_t mask, void *context), void *context) {
  struct ifaddrs *list;
  if (getifaddrs(&list) < 0) return false;
  bool stopped = false;
  for (struct ifaddrs *at = list; at && !stopped; at = at->ifa_next) {
    if (!at->ifa_addr || at->ifa_addr->sa_family != AF_INET || !at->ifa_netmask) continue;
    stopped = visit(at->ifa_name, ntohl(((struct sockaddr_in *)at->ifa_addr)->sin_addr.s_addr),
                    ntohl(((struct sockaddr_in *)at->ifa_netmask)->sin_addr.s_addr), context);
  }
  freeifaddrs(list);
  return stopped;
}

static bool overlaps(const char *name, uint32_t address, uint32_t mask, void *context) {
  const uint32_t *wanted = context;  // network, mask
  uint32_t common = mask & wanted[1];
  return (address & common) == (wanted[0] & common);
}

int anp_network_in_use(uint32_t network, uint32_t mask) {
  uint32_t wanted[2] = {network, mask};
  return each_ipv4(overlaps, wanted);
}

struct first_address {
  const char *name;
  struct anp_interface *interface;
};

static bool take_first(const char *name, uint32_t address, uint32_t mask, void *context) {
  struct first_address *wanted = context;
  if (strcmp(name, wanted->name) != 0) return false;
  wanted->interface->address = address;
  wanted->interface->mask = mask;
  return true;
}

// --- what the kernel says about an interface; not by /sys/class/net, which may show another namespace ---

static uint32_t value32(struct rtattr *attribute) {
  uint32_t value = 0;
  memcpy(&value, RTA_DATA(attribute), RTA_PAYLOAD(attribute) < sizeof value ? RTA_PAYLOAD(attribute) : sizeof value);
  return value;
}
static bool value8(struct rtattr *attribute) { return *(uint8_t *)RTA_DATA(attribute); }

static void read_tun(struct rtattr *at, int length, struct anp_interface *interface) {
  for (; RTA_OK(at, length); at = RTA_NEXT(at, length)) switch (at->rta_type) {
      case IFLA_TUN_TYPE: interface->is_tap = *(uint8_t *)RTA_DATA(at) == IFF_TAP; break;
      case IFLA_TUN_OWNER: interface->owner = value32(at); break;
      case IFLA_TUN_PI: interface->packet_info = value8(at); break;
      case IFLA_TUN_VNET_HDR: interface->vnet_hdr = value8(at); break;
      case IFLA_TUN_PERSIST: interface->persistent = value8(at); break;
      case IFLA_TUN_MULTI_QUEUE: interface->multi_queue = value8(at); break;
      case IFLA_TUN_NUM_QUEUES: interface->queues = (int)value32(at); break;
    }
}

static void read_link_info(struct rtattr *at, int length, struct anp_interface *interface) {
  bool is_tun = false;
  for (; RTA_OK(at, length); at = RTA_NEXT(at, length)) {
    if (at->rta_type == IFLA_INFO_KIND) is_tun = strcmp(RTA_DATA(at), "tun") == 0;
    if (at->rta_type == IFLA_INFO_DATA && is_tun) read_tun(RTA_DATA(at), RTA_PAYLOAD(at), interface);
  }
}

int anp_interface_describe(const char *name, struct anp_interface *interface) {
  memset(interface, 0, sizeof *interface);
  interface->owner = ANP_NO_OWNER;
  unsigned index = if_nametoindex(name);
  if (index == 0) return -ENODEV;
  struct {
    struct nlmsghdr header;
    struct ifinfomsg message;
  } request = {
      .header = {.nlmsg_len = sizeof request, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
      .message = {.ifi_family = AF_UNSPEC, .ifi_index = (int)index},
  };
  union netlink_reply reply;
  ssize_t length = ask_netlink(&request, sizeof request, &reply);
  if (length < 0) return (int)length;
  if (!NLMSG_OK(&reply.header, length) || reply.header.nlmsg_type != RTM_NEWLINK) return -ENODEV;
  struct ifinfomsg *message = NLMSG_DATA(&reply.header);
  interface->up = message->ifi_flags & IFF_UP;
  int rest = IFLA_PAYLOAD(&reply.header);
  for (struct rtattr *at = IFLA_RTA(message); RTA_OK(at, rest); at = RTA_NEXT(at, rest)) switch (at->rta_type) {
      case IFLA_MTU: interface->mtu = (int)value32(at); break;
      case IFLA_IFALIAS: strncpy(interface->alias, RTA_DATA(at), sizeof interface->alias - 1); break;
      case IFLA_LINKINFO: read_link_info(RTA_DATA(at), RTA_PAYLOAD(at), interface); break;
    }
  struct first_address wanted = {name, interface};
  each_ipv4(take_first, &wanted);
  return 0;
}
