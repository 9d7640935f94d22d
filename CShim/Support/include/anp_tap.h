// The TAP device as the kernel shows it: ioctls, virtio_net_hdr, vectored reads and writes. Decides nothing:
// Sources/Host/TAPDevice.swift does. Read first: Documentation/networking/tuntap.rst, virtio 1.2 §5.1.6.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

/// struct virtio_net_hdr, host byte order (what TUNSETVNETLE/BE leave alone means). num_buffers of the 12-byte form is not
/// used: the header size is set to 10.
struct anp_vnet_header {
  uint8_t flags;
  uint8_t segmentation_type;
  uint16_t header_length;
  uint16_t segment_size;
  uint16_t checksum_start;
  uint16_t checksum_offset;
};
enum {
  ANP_VNET_NEEDS_CHECKSUM = 1,
  ANP_VNET_DATA_VALID = 2,
  ANP_VNET_ECN = 0x80,
  ANP_VNET_HEADER_SIZE = 10,
};

/// What TUNSETIFF may be asked for, and TUNSETOFFLOAD.
enum {
  ANP_TAP_MULTI_QUEUE = 1,
  ANP_TAP_VNET_HEADER = 2,
  /// A TUN device: IP packets without an Ethernet header.
  ANP_TAP_LAYER3 = 4,
};
enum {
  ANP_OFFLOAD_CHECKSUM = 1,
  ANP_OFFLOAD_TSO4 = 2,
  ANP_OFFLOAD_TSO6 = 4,
  ANP_OFFLOAD_ECN = 8,
  /// UDP super-frames of both families; Linux 6.2.
  ANP_OFFLOAD_USO = 16,
};

/// A socket to ask about interfaces with, or -errno.
int anp_interface_socket(void);
/// The interface's index (> 0), or -errno (-ENODEV: no such interface).
int anp_interface_index(int socket, const char *name);
/// Opens /dev/net/tun; a raised, non-blocking, close-on-exec descriptor or -errno.
int anp_tap_open(void);
/// TUNSETIFF for a TAP without packet information; 0 or -errno.
int anp_tap_attach(int fd, const char *name, unsigned flags);
/// The flags the device has now (ANP_TAP_…), or -errno.
int anp_tap_flags(int fd);
int anp_tap_set_header_size(int fd, int bytes);
int anp_tap_set_offloads(int fd, unsigned offloads);
/// Queues attached to the interface now, by anybody; -errno where the kernel does not tell.
int anp_interface_queues(int socket, const char *name);
/// ETHTOOL_GLINK: makes the kernel bring its idea of the carrier up to date. 1 up, 0 down, -errno.
int anp_interface_link(int socket, const char *name);
/// 1 where the interface is administratively up.
int anp_interface_is_up(int socket, const char *name);
int anp_interface_mtu(int socket, const char *name);
/// 0 and six bytes, or -errno.
int anp_interface_hardware_address(int socket, const char *name, uint8_t address[6]);
/// ARPHRD_ETHER for a TAP, ARPHRD_NONE for a TUN device, or -errno.
int anp_interface_hardware_type(int socket, const char *name);
/// The kernel's own IPv4 address on the interface, host byte order; 0 where it has none.
uint32_t anp_interface_address(int socket, const char *name);

/// The IPv6 addresses of the interface with this index, 16 bytes each in network order, as /proc/net/if_inet6 has them; their
/// number, at most `most`.
int anp_interface_addresses6(unsigned index, void *addresses, int most);

/// An empty buffer to receive into: a small area with room for a virtio_net_hdr in front of it, then a large one.
struct anp_receive_buffer {
  void *small_area;
  void *large_area;
  void *packet;
};
struct anp_received {
  struct anp_vnet_header header;
  uint32_t length;
};

/// Reads frames into buffers top[0], top[-1], … until `count` frames, `most_bytes` bytes, or nothing is left.
/// Returns how many; *error is 0 where a limit ended it, EAGAIN where the device ran empty, else what went wrong.
int anp_tap_read(int fd, int header_size, const struct anp_receive_buffer *top, size_t small_size, size_t large_size,
                 int count, size_t most_bytes, struct anp_received *results, int *error);
