// IPv6 datagrams: control data, the error queue, multicast groups.
// row: seconds=30
#include "probe.h"

#include <linux/errqueue.h>
#include <net/if.h>

static unsigned char data[3000], got[3000], control[512];

#define GROUP "ff15::77"

static int udp(int port) {
  int fd = socket(AF_INET6, SOCK_DGRAM, 0), one = 1;
  MUST(fd);
  MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
  if (port)
    MUST(bind(fd, in6("::", port), SIZE_IN6));
  return fd;
}

static void receive(int fd, int flags) {
  struct msghdr message;
  long count = take_message(fd, flags, "recvmsg", got, sizeof got, &message);
  if (count < 0)
    return;
  note("recvmsg: %ld from %s flags %#x", count, address_text(message.msg_name), message.msg_flags);
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(&message); entry; entry = CMSG_NXTHDR(&message, entry)) {
    size_t length = entry->cmsg_len - sizeof *entry;
    if (entry->cmsg_level == SOL_IPV6 && entry->cmsg_type == IPV6_PKTINFO) {
      struct in6_pktinfo *info = (void *)CMSG_DATA(entry);
      char text[INET6_ADDRSTRLEN], interface[IF_NAMESIZE] = "?";
      note("  IPV6_PKTINFO length %zu to %s on %s", length, inet_ntop(AF_INET6, &info->ipi6_addr, text, sizeof text),
           if_indextoname(info->ipi6_ifindex, interface));
    } else if (entry->cmsg_level == SOL_IPV6 && entry->cmsg_type == IPV6_RECVERR) {
      struct sock_extended_err *error = (void *)CMSG_DATA(entry);
      note("  IPV6_RECVERR %s origin %d type %d code %d from %s", error_name(error->ee_errno), error->ee_origin,
           error->ee_type, error->ee_code, address_text(SO_EE_OFFENDER(error)));
    } else
      note("  level %d type %d length %zu value %d", entry->cmsg_level, entry->cmsg_type, length, *(int *)CMSG_DATA(entry));
  }
}

static int member(int fd, int name, const char *group, int index) {
  struct ipv6_mreq request = {.ipv6mr_interface = index};
  inet_pton(AF_INET6, group, &request.ipv6mr_multiaddr);
  return setsockopt(fd, IPPROTO_IPV6, name, &request, sizeof request);
}

static long send_with(int fd, int type, const void *value, size_t length) {
  struct iovec vector = {data, 20};
  memset(control, 0, sizeof control);
  struct msghdr message = {.msg_name = in6(peer6(), 7350), .msg_namelen = SIZE_IN6, .msg_iov = &vector, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = CMSG_SPACE(length)};
  struct cmsghdr *entry = CMSG_FIRSTHDR(&message);
  *entry = (struct cmsghdr){.cmsg_level = IPPROTO_IPV6, .cmsg_type = type, .cmsg_len = CMSG_LEN(length)};
  memcpy(CMSG_DATA(entry), value, length);
  return sendmsg(fd, &message, 0);
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("family 6");
  peer("udp u 7350");

  section("what a datagram is told with");
  int fd = udp(7351);
  const int options[] = {IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_MULTICAST_HOPS};
  for (int i = 0; i < 4; i++)
    note("option %d: %d", options[i], option(fd, IPPROTO_IPV6, options[i]));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
  peer("udp-send u 7351 10");
  receive(fd, 0);

  section("sending with control data");
  int value = 9;
  CALL(send_with(fd, IPV6_HOPLIMIT, &value, sizeof value));
  peer("udp-receive u");
  value = 32;
  CALL(send_with(fd, IPV6_TCLASS, &value, sizeof value));
  peer("udp-receive u");
  struct in6_pktinfo info = {0};
  inet_pton(AF_INET6, host6(), &info.ipi6_addr);
  CALL(send_with(fd, IPV6_PKTINFO, &info, sizeof info));
  peer("udp-receive u");
  value = 300;
  CALL(send_with(fd, IPV6_HOPLIMIT, &value, sizeof value));
  CALL(send_with(fd, IPV6_TCLASS, &value, sizeof value));

  section("errors");
  set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 0);
  set_option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 0);
  set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 0);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1));
  CALL(sendto(fd, data, 33, 0, in6(peer6(), 7999), SIZE_IN6));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  receive(fd, MSG_DONTWAIT);
  receive(fd, MSG_ERRQUEUE);
  receive(fd, MSG_ERRQUEUE);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 0));

  section("multicast");
  // A kernel's route to groups comes with the news that the link is up, as much as a second later.
  sleep_ms(1200);
  int index = 0;
  for (struct if_nameindex *entry = if_nameindex(); entry && entry->if_index; entry++)
    if (strcmp(entry->if_name, "lo") != 0)
      index = entry->if_index;
  peer("udp-send-to u " GROUP " 7351 10");
  settle();
  receive(fd, MSG_DONTWAIT);
  CALL(member(fd, IPV6_ADD_MEMBERSHIP, GROUP, index));
  CALL(member(fd, IPV6_ADD_MEMBERSHIP, GROUP, index));
  peer("udp-send-to u " GROUP " 7351 11");
  settle();
  receive(fd, MSG_DONTWAIT);
  CALL(member(fd, IPV6_DROP_MEMBERSHIP, GROUP, index));
  CALL(member(fd, IPV6_DROP_MEMBERSHIP, GROUP, index));
  peer("udp-send-to u " GROUP " 7351 12");
  settle();
  receive(fd, MSG_DONTWAIT);
  CALL(member(fd, IPV6_ADD_MEMBERSHIP, "2001:db8::77", index));
  CALL(member(fd, IPV6_ADD_MEMBERSHIP, GROUP, 12345));
  close(fd);
  note("\nend");
}
