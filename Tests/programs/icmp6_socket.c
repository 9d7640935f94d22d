// Ping and raw sockets of IPv6: echoes, ICMPv6 with its filter, checksums that are made and checked, errors, what is refused.
// row: seconds=30
#include "probe.h"

#include <linux/errqueue.h>
#include <net/if.h>
#include <netinet/icmp6.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>

#ifndef IPV6_HDRINCL
#define IPV6_HDRINCL 36
#endif

#define SOL_ICMPV6 58

static unsigned char packet[4000], got[4000];


/// The peer sends it back: no route.
#define NOWHERE "2001:db8:7::1"

static void receive_message(int fd, int flags) {
  struct msghdr message;
  long count = take_message(fd, flags, "recvmsg", got, sizeof got, &message);
  if (count < 0)
    return;
  struct icmp6_hdr *icmp = (void *)got;
  // The flow label of the packet that an error quotes is any.
  if (icmp->icmp6_type < ICMP6_ECHO_REQUEST && count >= 12)
    memset(got + 9, 0, 3);
  note("recvmsg: %ld from %s length %u flags %#x: type %d code %d sequence %d, rest crc %08x", count, address_text(message.msg_name),
       message.msg_namelen, message.msg_flags, icmp->icmp6_type, icmp->icmp6_code, ntohs(icmp->icmp6_seq),
       crc32(0, got + 8, count > 8 ? count - 8 : 0));
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(&message); entry; entry = CMSG_NXTHDR(&message, entry)) {
    size_t length = entry->cmsg_len - sizeof *entry;
    if (entry->cmsg_level == SOL_IPV6 && entry->cmsg_type == IPV6_RECVERR) {
      struct sock_extended_err *error = (void *)CMSG_DATA(entry);
      note("  IPV6_RECVERR %s origin %d type %d code %d info %u from %s", error_name(error->ee_errno), error->ee_origin,
           error->ee_type, error->ee_code, error->ee_info, address_text(SO_EE_OFFENDER(error)));
    } else if (entry->cmsg_level == SOL_IPV6 && (entry->cmsg_type == IPV6_PKTINFO || entry->cmsg_type == 2)) {
      struct in6_pktinfo *info = (void *)CMSG_DATA(entry);
      char text[INET6_ADDRSTRLEN], interface[IF_NAMESIZE] = "?";
      note("  type %d length %zu to %s on %s", entry->cmsg_type, length,
           inet_ntop(AF_INET6, &info->ipi6_addr, text, sizeof text), if_indextoname(info->ipi6_ifindex, interface));
    } else
      note("  level %d type %d length %zu value %d", entry->cmsg_level, entry->cmsg_type, length, *(int *)CMSG_DATA(entry));
  }
}

static void make_echo(int type, int sequence, size_t count) {
  struct icmp6_hdr *icmp = (void *)packet;
  pattern(packet, count, 0);
  memset(packet, 0, 8);
  icmp->icmp6_type = type;
  icmp->icmp6_id = htons(4711);
  icmp->icmp6_seq = htons(sequence);
  // A wrong one, which is put right.
  icmp->icmp6_cksum = 0x1234;
}

static long echo(int fd, int sequence, size_t count, const char *address) {
  make_echo(ICMP6_ECHO_REQUEST, sequence, count > 8 ? count : 8);
  return sendto(fd, packet, count, 0, in6(address, 0), SIZE_IN6);
}

static int same_id(int fd) {
  struct sockaddr_in6 name;
  socklen_t length = sizeof name;
  getsockname(fd, (struct sockaddr *)&name, &length);
  return name.sin6_port == ((struct icmp6_hdr *)got)->icmp6_id;
}

static void ping_sockets(void) {
  section("an echo and its reply");
  int fd = socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
  MUST(fd);
  note("type %d protocol %d domain %d", option(fd, SOL_SOCKET, SO_TYPE), option(fd, SOL_SOCKET, SO_PROTOCOL),
       option(fd, SOL_SOCKET, SO_DOMAIN));
  show_names(fd);
  CALL(echo(fd, 1, 64, peer6()));
  show_poll(fd, POLLIN, 5000);
  receive_message(fd, 0);
  note("its identifier is the socket's own: %d", same_id(fd));
  receive_message(fd, MSG_DONTWAIT);
  CALL(echo(fd, 2, 8, peer6()));
  receive_message(fd, 0);
  CALL(echo(fd, 3, 3000, peer6()));
  receive_message(fd, 0);
  CALL(echo(fd, 4, 64, host6()));
  receive_message(fd, 0);

  section("what is told of it");
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1));
  CALL(set_option(fd, IPPROTO_IPV6, 2 /* IPV6_2292PKTINFO */, 1));
  CALL(set_option(fd, IPPROTO_IPV6, 8 /* IPV6_2292HOPLIMIT */, 1));
  note("%d %d", option(fd, IPPROTO_IPV6, 2), option(fd, IPPROTO_IPV6, 8));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_TCLASS, 32));
  CALL(echo(fd, 5, 64, peer6()));
  receive_message(fd, 0);

  section("what is refused");
  CALL(echo(fd, 4, 7, peer6()));
  make_echo(ICMP6_ECHO_REPLY, 1, 64);
  CALL(sendto(fd, packet, 64, 0, in6(peer6(), 0), SIZE_IN6));
  make_echo(ICMP6_ECHO_REQUEST, 1, 64);
  packet[1] = 1;
  CALL(sendto(fd, packet, 64, 0, in6(peer6(), 0), SIZE_IN6));
  packet[1] = 0;
  CALL(send(fd, packet, 64, 0));
  CALL(sendto(fd, packet, 64, 0, PEER(0)));
  CALL(sendto(fd, packet, 64, 0, in6("::ffff:198.18.0.5", 0), SIZE_IN6));
  CALL(listen(fd, 1));
  CALL(bind(fd, in6("::", 77), SIZE_IN6));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_CHECKSUM, 2));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_HDRINCL, 1));
  CALL(set_option(fd, SOL_ICMPV6, ICMP6_FILTER, 1));

  section("bound to an identifier, and connected");
  int other = socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
  CALL(bind(other, in6(host6(), 7777), SIZE_IN6));
  show_names(other);
  CALL(connect(other, in6(peer6(), 5), SIZE_IN6));
  show_names(other);
  CALL(send(other, packet, 0, 0));
  make_echo(ICMP6_ECHO_REQUEST, 6, 20);
  CALL(send(other, packet, 20, 0));
  receive_message(other, 0);
  int third = socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
  CALL(bind(third, in6(host6(), 7777), SIZE_IN6));
  CALL(bind(third, in6("2001:db8::77", 7777), SIZE_IN6));
  close(third);
  third = socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMPV6);
  CALL(bind(third, in6("::ffff:198.18.0.4", 7778), SIZE_IN6));
  show_names(third);
  close(third);
  note("an IPv4 socket of the same number");
  third = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  CALL(bind(third, HOST(7777)));
  make_echo(ICMP6_ECHO_REQUEST, 7, 20);
  CALL(send(other, packet, 20, 0));
  receive_message(other, 0);
  CALL(recv(third, got, 100, MSG_DONTWAIT));
  close(third);
  close(other);

  section("errors");
  CALL(echo(fd, 5, 64, NOWHERE));
  settle();
  show_error(fd);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1));
  CALL(echo(fd, 6, 64, NOWHERE));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  show_error(fd);
  receive_message(fd, MSG_ERRQUEUE);
  receive_message(fd, MSG_ERRQUEUE);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO));
  CALL(echo(fd, 7, 1452 + 8, peer6()));
  receive_message(fd, 0);
  CALL(echo(fd, 7, 1453 + 8, peer6()));
  receive_message(fd, MSG_ERRQUEUE | MSG_DONTWAIT);
  receive_message(fd, MSG_DONTWAIT);
  close(fd);
}

static void raw_icmp(void) {
  section("ICMPv6 raw");
  int fd = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
  MUST(fd);
  note("type %d protocol %d domain %d IPV6_CHECKSUM %d", option(fd, SOL_SOCKET, SO_TYPE),
       option(fd, SOL_SOCKET, SO_PROTOCOL), option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, IPPROTO_IPV6, IPV6_CHECKSUM));
  show_names(fd);
  struct icmp6_filter filter;
  ICMP6_FILTER_SETBLOCKALL(&filter);
  ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
  ICMP6_FILTER_SETPASS(ICMP6_DST_UNREACH, &filter);
  CALL(setsockopt(fd, SOL_ICMPV6, ICMP6_FILTER, &filter, sizeof filter));
  memset(&filter, 0, sizeof filter);
  socklen_t length = sizeof filter;
  CALL(getsockopt(fd, SOL_ICMPV6, ICMP6_FILTER, &filter, &length));
  note("filter length %u crc %08x", length, crc32(0, (void *)&filter, sizeof filter));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1));
  CALL(echo(fd, 1, 64, peer6()));
  show_poll(fd, POLLIN, 5000);
  receive_message(fd, 0);
  show_names(fd);
  CALL(echo(fd, 2, 3000, peer6()));
  receive_message(fd, 0);
  note("to ourselves: the request is filtered");
  CALL(echo(fd, 3, 64, host6()));
  receive_message(fd, 0);
  settle();
  receive_message(fd, MSG_DONTWAIT);

  note("no replies");
  ICMP6_FILTER_SETBLOCK(ICMP6_ECHO_REPLY, &filter);
  CALL(setsockopt(fd, SOL_ICMPV6, ICMP6_FILTER, &filter, sizeof filter));
  CALL(echo(fd, 4, 64, peer6()));
  settle();
  receive_message(fd, MSG_DONTWAIT);
  note("a part of the filter");
  memset(&filter, 0, sizeof filter);
  CALL(setsockopt(fd, SOL_ICMPV6, ICMP6_FILTER, &filter, 20));
  length = sizeof filter;
  CALL(getsockopt(fd, SOL_ICMPV6, ICMP6_FILTER, &filter, &length));
  note("filter length %u crc %08x", length, crc32(0, (void *)&filter, sizeof filter));
  length = 5;
  CALL(getsockopt(fd, SOL_ICMPV6, ICMP6_FILTER, &filter, &length));
  note("length %u", length);
  CALL(echo(fd, 5, 64, peer6()));
  receive_message(fd, 0);

  section("ICMPv6 raw: what is refused");
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_CHECKSUM, 2));
  CALL(set_option(fd, SOL_RAW, IPV6_CHECKSUM, 2));
  CALL(set_option(fd, SOL_RAW, IPV6_CHECKSUM, 3));
  note("IPV6_CHECKSUM %d", option(fd, SOL_RAW, IPV6_CHECKSUM));
  CALL(echo(fd, 6, 3, peer6()));
  CALL(sendto(fd, packet, 64, 0, in6(peer6(), IPPROTO_UDP), SIZE_IN6));
  CALL(sendto(fd, packet, 64, 0, in6(peer6(), 300), SIZE_IN6));
  CALL(sendto(fd, packet, 64, 0, PEER(0)));
  CALL(send(fd, packet, 64, 0));
  CALL(bind(fd, in6("::ffff:198.18.0.4", 0), SIZE_IN6));
  CALL(bind(fd, in6("2001:db8::77", 0), SIZE_IN6));
  note("the protocol in the place of the port");
  CALL(sendto(fd, packet, 64, 0, in6(peer6(), IPPROTO_ICMPV6), SIZE_IN6));
  receive_message(fd, 0);

  section("ICMPv6 raw: errors");
  CALL(echo(fd, 7, 64, NOWHERE));
  settle();
  note("the message itself comes, as to every raw socket");
  receive_message(fd, MSG_DONTWAIT);
  show_error(fd);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_RECVERR, 1));
  CALL(echo(fd, 8, 64, NOWHERE));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  show_error(fd);
  receive_message(fd, MSG_DONTWAIT);
  receive_message(fd, MSG_ERRQUEUE);
  receive_message(fd, MSG_ERRQUEUE);
  close(fd);

  section("ICMPv6 raw: bound and connected");
  fd = socket(AF_INET6, SOCK_RAW, IPPROTO_ICMPV6);
  CALL(bind(fd, in6(host6(), 0), SIZE_IN6));
  CALL(connect(fd, in6(peer6(), 0), SIZE_IN6));
  show_names(fd);
  make_echo(ICMP6_ECHO_REQUEST, 9, 64);
  CALL(send(fd, packet, 64, 0));
  receive_message(fd, 0);
  close(fd);
}

static void show_copy(int fd, int flags) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  memset(&name, 0, sizeof name);
  long count = recvfrom(fd, got, sizeof got, flags, (struct sockaddr *)&name, &length);
  if (count < 0)
    note("recvfrom: %s", error_name(errno));
  else
    note("recvfrom: %ld from %s, behind the first 8 crc %08x", count, address_text(&name), crc32(0, got + 8, count - 8));
}

static void other_raw(void) {
  section("UDP to look at");
  peer("family 6");
  peer("udp u 7260");
  int fd = socket(AF_INET6, SOCK_RAW, IPPROTO_UDP);
  MUST(fd);
  int other = socket(AF_INET6, SOCK_DGRAM, 0);
  MUST(bind(other, in6("::", 7262), SIZE_IN6));
  note("IPV6_CHECKSUM %d", option(fd, IPPROTO_IPV6, IPV6_CHECKSUM));
  CALL(recv(fd, got, 100, MSG_DONTWAIT));
  peer("udp-send u 7262 100");
  settle();
  show_copy(fd, MSG_DONTWAIT);
  CALL(recv(other, got, 1000, MSG_DONTWAIT));

  section("UDP to send, the checksum ours");
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_CHECKSUM, 6));
  note("IPV6_CHECKSUM %d", option(fd, IPPROTO_IPV6, IPV6_CHECKSUM));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_CHECKSUM, 5));
  struct udphdr *udp = (void *)packet;
  *udp = (struct udphdr){.source = htons(7262), .dest = htons(7260), .len = htons(18)};
  pattern(packet + 8, 10, 5);
  CALL(sendto(fd, packet, 18, 0, in6(peer6(), 0), SIZE_IN6));
  peer("udp-receive u");
  CALL(sendto(fd, packet, 7, 0, in6(peer6(), 0), SIZE_IN6));
  note("large");
  udp->len = htons(3000);
  pattern(packet + 8, 2992, 6);
  CALL(sendto(fd, packet, 3000, 0, in6(peer6(), 0), SIZE_IN6));
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_CHECKSUM, -1));
  note("IPV6_CHECKSUM %d", option(fd, IPPROTO_IPV6, IPV6_CHECKSUM));
  CALL(set_option(fd, SOL_ICMPV6, ICMP6_FILTER, 1));
  close(other);
  close(fd);

  section("headers of one's own");
  fd = socket(AF_INET6, SOCK_RAW, IPPROTO_RAW);
  MUST(fd);
  note("IPV6_HDRINCL %d", option(fd, IPPROTO_IPV6, IPV6_HDRINCL));
  struct ip6_hdr *ip = (void *)packet;
  memset(packet, 0, sizeof packet);
  ip->ip6_flow = htonl(6u << 28);
  ip->ip6_plen = htons(10);
  ip->ip6_nxt = 59;
  ip->ip6_hlim = 33;
  inet_pton(AF_INET6, host6(), &ip->ip6_src);
  inet_pton(AF_INET6, peer6(), &ip->ip6_dst);
  CALL(sendto(fd, packet, 50, 0, in6(peer6(), 0), SIZE_IN6));
  CALL(sendto(fd, packet, 39, 0, in6(peer6(), 0), SIZE_IN6));
  CALL(sendto(fd, packet, 1501, 0, in6(peer6(), 0), SIZE_IN6));
  CALL(recv(fd, got, 100, MSG_DONTWAIT));
  close(fd);

  section("a protocol of which nobody knows");
  fd = socket(AF_INET6, SOCK_RAW, 253);
  CALL(sendto(fd, packet, 40, 0, in6(host6(), 0), SIZE_IN6));
  show_copy(fd, 0);
  note("a checksum that is checked");
  CALL(sendto(fd, packet, 40, 0, in6(host6(), 0), SIZE_IN6));
  show_copy(fd, 0);
  close(fd);
  OPEN(socket(AF_INET6, SOCK_RAW, 0));
  OPEN(socket(AF_INET6, SOCK_DGRAM, IPPROTO_ICMP));
  OPEN(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMPV6));
}

int main(void) {
  begin();
  peer("sleep 1");
  ping_sockets();
  raw_icmp();
  other_raw();
  note("\nend");
}
