// The stack's network interface as programs see it: filled by Sources/Preload/Interfaces.swift, turned into libc's and the
// kernel's forms by Interpose/interpose_interfaces.c.
#pragma once

#include <stdint.h>
#include <string.h>

struct anp_interface_address {
  uint8_t is_ipv6;
  uint8_t prefix_length;
  /// Network order; IPv4 in the first four.
  uint8_t bytes[16];
};

enum {
  ANP_INTERFACE_ADDRESSES = 32,
  /// ARPHRD_ETHER, ARPHRD_NONE
  ANP_HARDWARE_ETHERNET = 1,
  ANP_HARDWARE_NONE = 0xfffe,
  /// IFF_BROADCAST | IFF_MULTICAST
  ANP_FLAGS_ETHERNET = 0x1002,
  /// IFF_POINTOPOINT | IFF_NOARP | IFF_MULTICAST
  ANP_FLAGS_POINT_TO_POINT = 0x1090,
  /// IFF_UP | IFF_RUNNING | IFF_LOWER_UP
  ANP_FLAGS_UP = 0x10041,
};

struct anp_interface {
  /// The device's.
  const char *name;
  int32_t index;
  /// IFF_…, as netlink tells them.
  uint32_t flags;
  /// ARPHRD_…
  uint16_t hardware_type;
  uint8_t hardware[6];
  int32_t mtu;
  uint64_t received_packets, received_bytes, sent_packets, sent_bytes;
  int32_t address_count;
  struct anp_interface_address addresses[ANP_INTERFACE_ADDRESSES];
};

/// Adds an address in the form that Wire's IPAddress has: two words in host order, IPv4 in the low half of the second.
static inline void anp_interface_add(struct anp_interface *interface, uint64_t high, uint64_t low, int is_ipv6,
                                     int prefix_length) {
  if (interface->address_count >= ANP_INTERFACE_ADDRESSES) return;
  struct anp_interface_address *added = &interface->addresses[interface->address_count++];
  memset(added, 0, sizeof *added);
  added->is_ipv6 = (uint8_t)is_ipv6;
  added->prefix_length = (uint8_t)prefix_length;
  for (int i = 0; i < 8; i++) added->bytes[i] = (uint8_t)(high >> (56 - 8 * i));
  for (int i = 0; i < 8; i++) added->bytes[8 + i] = (uint8_t)(low >> (56 - 8 * i));
  if (!is_ipv6) memmove(added->bytes, added->bytes + 12, 4);
}
