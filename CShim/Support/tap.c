// Owns: the device's system calls. Decides nothing, prints nothing, allocates nothing.

#include "anp_tap.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <linux/virtio_net.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "anp_host.h"

// Headers older than Linux 6.2 lack them.
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

_Static_assert(sizeof(struct anp_vnet_header) == ANP_VNET_HEADER_SIZE, "virtio_net_hdr is 10 bytes");
_Static_assert(sizeof(struct anp_vnet_header) == sizeof(struct virtio_net_hdr), "virtio_net_hdr");
_Static_assert(offsetof(struct anp_vnet_header, segment_size) == offsetof(struct virtio_net_hdr, gso_size), "gso_size");
_Static_assert(offsetof(struct anp_vnet_header, checksum_start) == offsetof(struct virtio_net_hdr, csum_start),
               "csum_start");
_Static_assert(ANP_VNET_NEEDS_CHECKSUM == VIRTIO_NET_HDR_F_NEEDS_CSUM, "NEEDS_CSUM");
_Static_assert(ANP_VNET_DATA_VALID == VIRTIO_NET_HDR_F_DATA_VALID, "DATA_VALID");

static long control(int fd, unsigned long request, void *argument) {
  return anp_host_call(SYS_ioctl, fd, (long)request, (long)argument, 0, 0, 0);
}

static void set_name(struct ifreq *request, const char *name) {
  memset(request, 0, sizeof *request);
  size_t length = strnlen(name, IFNAMSIZ - 1);
  memcpy(request->ifr_name, name, length);
}

int anp_interface_socket(void) {
  return (int)anp_host_call(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0, 0);
}

static long interface_control(int fd, const char *name, unsigned long command, struct ifreq *request) {
  memcpy(request->ifr_name, name, strnlen(name, IFNAMSIZ - 1));
  return control(fd, command, request);
}

static long ethtool(int fd, const char *name, void *command) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_data = command;
  return interface_control(fd, name, SIOCETHTOOL, &request);
}

int anp_interface_index(int fd, const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  long result = interface_control(fd, name, SIOCGIFINDEX, &request);
  return result < 0 ? (int)result : request.ifr_ifindex;
}

int anp_tap_open(void) {
  return anp_open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
}

int anp_tap_attach(int fd, const char *name, unsigned flags) {
  struct ifreq request;
  set_name(&request, name);
  request.ifr_flags = (short)(((flags & ANP_TAP_LAYER3) ? IFF_TUN : IFF_TAP) | IFF_NO_PI |
                              ((flags & ANP_TAP_MULTI_QUEUE) ? IFF_MULTI_QUEUE : 0) |
                              ((flags & ANP_TAP_VNET_HEADER) ? IFF_VNET_HDR : 0));
  return (int)control(fd, TUNSETIFF, &request);
}

int anp_tap_flags(int fd) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  long result = control(fd, TUNGETIFF, &request);
  if (result < 0) return (int)result;
  return ((request.ifr_flags & IFF_MULTI_QUEUE) ? ANP_TAP_MULTI_QUEUE : 0) |
         ((request.ifr_flags & IFF_VNET_HDR) ? ANP_TAP_VNET_HEADER : 0) |
         ((request.ifr_flags & IFF_TUN) ? ANP_TAP_LAYER3 : 0);
}

int anp_tap_set_header_size(int fd, int bytes) { return (int)control(fd, TUNSETVNETHDRSZ, &bytes); }

int anp_tap_set_offloads(int fd, unsigned offloads) {
  unsigned long features = ((offloads & ANP_OFFLOAD_CHECKSUM) ? TUN_F_CSUM : 0) |
                           ((offloads & ANP_OFFLOAD_TSO4) ? TUN_F_TSO4 : 0) |
                           ((offloads & ANP_OFFLOAD_TSO6) ? TUN_F_TSO6 : 0) |
                           ((offloads & ANP_OFFLOAD_ECN) ? TUN_F_TSO_ECN : 0) |
                           ((offloads & ANP_OFFLOAD_USO) ? TUN_F_USO4 | TUN_F_USO6 : 0);
  return (int)control(fd, TUNSETOFFLOAD, (void *)features);
}

int anp_interface_queues(int fd, const char *name) {
  struct ethtool_channels channels;
  memset(&channels, 0, sizeof channels);
  channels.cmd = ETHTOOL_GCHANNELS;
  long result = ethtool(fd, name, &channels);
  return result < 0 ? (int)result : (int)channels.combined_count;
}

int anp_interface_link(int fd, const char *name) {
  struct ethtool_value value = {.cmd = ETHTOOL_GLINK};
  long result = ethtool(fd, name, &value);
  return result < 0 ? (int)result : value.data != 0;
}

int anp_interface_is_up(int fd, const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  return interface_control(fd, name, SIOCGIFFLAGS, &request) == 0 && (request.ifr_flags & IFF_UP);
}

int anp_interface_mtu(int fd, const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  long result = interface_control(fd, name, SIOCGIFMTU, &request);
  return result < 0 ? (int)result : request.ifr_mtu;
}

int anp_interface_hardware_address(int fd, const char *name, uint8_t address[6]) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  long result = interface_control(fd, name, SIOCGIFHWADDR, &request);
  if (result < 0) return (int)result;
  memcpy(address, request.ifr_hwaddr.sa_data, 6);
  return 0;
}

int anp_interface_hardware_type(int fd, const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  long result = interface_control(fd, name, SIOCGIFHWADDR, &request);
  return result < 0 ? (int)result : request.ifr_hwaddr.sa_family;
}

uint32_t anp_interface_address(int fd, const char *name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  request.ifr_addr.sa_family = AF_INET;
  if (interface_control(fd, name, SIOCGIFADDR, &request) < 0) return 0;
  struct sockaddr_in address;
  memcpy(&address, &request.ifr_addr, sizeof address);
  return ntohl(address.sin_addr.s_addr);
}

static int hex(const char *text, int digits, unsigned *value) {
  *value = 0;
  for (int i = 0; i < digits; i++) {
    char c = text[i];
    unsigned digit = c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10) : 16;
    if (digit == 16) return 0;
    *value = *value << 4 | digit;
  }
  return 1;
}

// A line: 32 digits of address, index, prefix length, scope and flags in hexadecimal of two digits or more, the name.
int anp_interface_addresses6(unsigned index, void *addresses, int most) {
  char text[8192];
  long length = anp_read_file("/proc/net/if_inet6", text, sizeof text);
  int count = 0;
  const char *line = text, *end = text + (length > 0 ? length : 0);
  while (count < most && end - line > 36) {
    unsigned found = 0, digit;
    const char *at = line + 33;
    while (at < end && hex(at, 1, &digit)) {
      found = found << 4 | digit;
      at++;
    }
    if (found == index) {
      uint8_t *address = (uint8_t *)addresses + 16 * count;
      int whole = 1;
      for (int i = 0; whole && i < 16; i++) {
        unsigned octet;
        whole = hex(line + 2 * i, 2, &octet);
        address[i] = (uint8_t)octet;
      }
      count += whole;
    }
    line = memchr(line, '\n', (size_t)(end - line));
    if (line == NULL) break;
    line++;
  }
  return count;
}

int anp_tap_read(int fd, int header_size, const struct anp_receive_buffer *top, size_t small_size, size_t large_size,
                 int count, size_t most_bytes, struct anp_received *results, int *error) {
  size_t bytes = 0;
  *error = 0;
  for (int i = 0; i < count; i++) {
    const struct anp_receive_buffer *buffer = top - i;
    // The header goes in front of the frame: a third vector costs 0.17 us.
    uint8_t *start = (uint8_t *)buffer->small_area - header_size;
    struct iovec vectors[2] = {{start, (size_t)header_size + small_size}, {buffer->large_area, large_size}};
    long n = anp_host_call(SYS_readv, fd, (long)vectors, 2, 0, 0, 0);
    if (n < 0) {
      if (n == -EINTR) {
        i--;
        continue;
      }
      *error = (int)-n;
      return i;
    }
    if (n < header_size) {
      results[i].length = 0;
      continue;
    }
    if (header_size == 0) memset(&results[i].header, 0, sizeof results[i].header);
    else memcpy(&results[i].header, start, sizeof results[i].header);
    results[i].length = (uint32_t)(n - header_size);
    bytes += (size_t)n;
    if (bytes >= most_bytes) return i + 1;
  }
  return count;
}
