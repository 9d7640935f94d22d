// Raw sockets: ICMP with its filter, headers of one's own, copies of what comes, errors.
// row: seconds=30
#include "probe.h"

#include <linux/errqueue.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <netinet/udp.h>

#ifndef ICMP_FILTER
#define ICMP_FILTER 1
#endif

static unsigned char packet[4000], got[4000];

static uint16_t checksum(const void *bytes, size_t count) {
  const uint16_t *word = bytes;
  uint32_t sum = 0;
  for (; count > 1; count -= 2)
    sum += *word++;
  if (count)
    sum += *(const uint8_t *)word;
  sum = (sum >> 16) + (sum & 0xffff);
  return ~(sum + (sum >> 16));
}

static size_t make_echo(unsigned char *at, int sequence, size_t count) {
  struct icmphdr *icmp = (void *)at;
  pattern(at, count, 0);
  *icmp = (struct icmphdr){.type = ICMP_ECHO, .un.echo = {.id = htons(4711), .sequence = htons(sequence)}};
  icmp->checksum = checksum(at, count);
  return count;
}

static void receive(int fd, int flags) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  memset(&name, 0, sizeof name);
  errno = 0;
  long count = recvfrom(fd, got, sizeof got, flags, (struct sockaddr *)&name, &length);
  if (count < 0) {
    note("recvfrom: %s", error_name(errno));
    return;
  }
  struct iphdr *ip = (void *)got;
  struct icmphdr *icmp = (void *)(got + ip->ihl * 4);
  note("recvfrom: %ld from %s length %u", count, address_text(&name), length);
  note("  version %d header %d tos %d length %d ttl %d protocol %d checksum right %d", ip->version, ip->ihl * 4, ip->tos,
       ntohs(ip->tot_len), ip->ttl, ip->protocol, checksum(got, ip->ihl * 4) == 0);
  if (ip->protocol == IPPROTO_ICMP)
    note("  type %d code %d sequence %d", icmp->type, icmp->code, ntohs(icmp->un.echo.sequence));
  else
    note("  crc %08x", crc32(0, got + ip->ihl * 4 + 8, count - ip->ihl * 4 - 8));
}

static void show_queue(int fd) {
  struct msghdr message;
  long count = take_message(fd, MSG_ERRQUEUE, "error queue", got, sizeof got, &message);
  if (count < 0)
    return;
  note("error queue: %ld bytes about %s flags %#x", count, address_text(message.msg_name), message.msg_flags);
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(&message); entry; entry = CMSG_NXTHDR(&message, entry))
    if (entry->cmsg_level == SOL_IP && entry->cmsg_type == IP_RECVERR) {
      struct sock_extended_err *error = (void *)CMSG_DATA(entry);
      note("  %s origin %d type %d code %d from %s", error_name(error->ee_errno), error->ee_origin, error->ee_type,
           error->ee_code, address_text(SO_EE_OFFENDER(error)));
    }
}

int main(void) {
  begin();

  section("ICMP");
  int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
  MUST(fd);
  note("type %d protocol %d domain %d IP_HDRINCL %d", option(fd, SOL_SOCKET, SO_TYPE), option(fd, SOL_SOCKET, SO_PROTOCOL),
       option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, IPPROTO_IP, IP_HDRINCL));
  show_names(fd);
  size_t count = make_echo(packet, 1, 64);
  CALL(sendto(fd, packet, count, 0, PEER(0)));
  show_poll(fd, POLLIN, 1000);
  receive(fd, 0);
  receive(fd, MSG_DONTWAIT);
  show_names(fd);
  note("the filter");
  unsigned filter = 1 << ICMP_ECHOREPLY;
  CALL(setsockopt(fd, SOL_RAW, ICMP_FILTER, &filter, sizeof filter));
  socklen_t length = sizeof filter;
  CALL(getsockopt(fd, SOL_RAW, ICMP_FILTER, &filter, &length));
  note("%#x length %u", filter, length);
  CALL(sendto(fd, packet, count, 0, PEER(0)));
  settle();
  receive(fd, MSG_DONTWAIT);
  filter = 0;
  CALL(setsockopt(fd, SOL_RAW, ICMP_FILTER, &filter, sizeof filter));
  CALL(sendto(fd, packet, 2000, 0, PEER(0)));
  settle();
  note("not an echo: nobody answers");
  receive(fd, MSG_DONTWAIT);
  count = make_echo(packet, 2, 3000);
  CALL(sendto(fd, packet, count, 0, PEER(0)));
  receive(fd, 0);
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, 9));
  CALL(set_option(fd, IPPROTO_IP, IP_TOS, 32));
  count = make_echo(packet, 3, 64);
  CALL(sendto(fd, packet, count, 0, PEER(0)));
  receive(fd, 0);
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, 64));

  section("errors");
  CALL(sendto(fd, packet, count, 0, in4("198.19.1.1", 0), SIZE_IN));
  settle();
  note("the message itself comes, as to every raw socket");
  receive(fd, MSG_DONTWAIT);
  show_error(fd);
  CALL(set_option(fd, IPPROTO_IP, IP_RECVERR, 1));
  CALL(sendto(fd, packet, count, 0, in4("198.19.1.1", 0), SIZE_IN));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  show_error(fd);
  receive(fd, MSG_DONTWAIT);
  show_queue(fd);
  CALL(send(fd, packet, count, 0));
  close(fd);

  section("bound and connected");
  fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
  CALL(bind(fd, HOST(0)));
  CALL(connect(fd, PEER(0)));
  show_names(fd);
  count = make_echo(packet, 4, 64);
  CALL(send(fd, packet, count, 0));
  receive(fd, 0);
  close(fd);

  section("headers of one's own");
  peer("udp u 7260");
  fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
  MUST(fd);
  note("protocol %d IP_HDRINCL %d", option(fd, SOL_SOCKET, SO_PROTOCOL), option(fd, IPPROTO_IP, IP_HDRINCL));
  struct iphdr *ip = (void *)packet;
  struct udphdr *udp = (void *)(packet + 20);
  memset(packet, 0, sizeof packet);
  *ip = (struct iphdr){.version = 4, .ihl = 5, .tos = 16, .ttl = 33, .protocol = IPPROTO_UDP};
  inet_pton(AF_INET, peer_address(), &ip->daddr);
  *udp = (struct udphdr){.source = htons(7261), .dest = htons(7260), .len = htons(18)};
  pattern(packet + 28, 10, 5);
  CALL(sendto(fd, packet, 38, 0, PEER(0)));
  peer("udp-receive u");
  CALL(sendto(fd, packet, 19, 0, PEER(0)));
  CALL(sendto(fd, packet, 1501, 0, PEER(0)));
  CALL(recv(fd, got, 100, MSG_DONTWAIT));
  close(fd);

  section("UDP to look at");
  fd = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
  int other = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(bind(other, ANY(7262)));
  CALL(recv(fd, got, 100, MSG_DONTWAIT));
  peer("udp-send u 7262 100");
  settle();
  receive(fd, MSG_DONTWAIT);
  CALL(recv(other, got, 1000, MSG_DONTWAIT));
  note("and to send");
  *udp = (struct udphdr){.source = htons(7262), .dest = htons(7260), .len = htons(18)};
  CALL(sendto(fd, udp, 18, 0, PEER(7260)));
  peer("udp-receive u");
  CALL(set_option(other, IPPROTO_IP, IP_HDRINCL, 1));
  close(other);
  close(fd);

  section("a protocol of which nobody knows");
  fd = socket(AF_INET, SOCK_RAW, 253);
  CALL(sendto(fd, packet, 40, 0, HOST(0)));
  receive(fd, 0);
  close(fd);
  OPEN(socket(AF_INET, SOCK_RAW, 0));
  note("\nend");
}
