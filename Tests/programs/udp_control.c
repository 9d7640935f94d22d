// Control data of datagrams in both directions, and the calls that are particular to UDP: corking, peeking, sharing a port.
// row: seconds=30
#include "probe.h"

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <net/if.h>
#include <netinet/udp.h>

static unsigned char data[70000], got[70000], control[512];
static struct sockaddr_storage name;

static int udp(int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(fd);
  if (port)
    MUST(bind(fd, ANY(port)));
  return fd;
}

static const char *text_of(struct in_addr address) {
  static char texts[4][20];
  static int turn;
  return inet_ntop(AF_INET, &address, texts[turn++ % 4], 20);
}

static void show_control(struct msghdr *message) {
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(message); entry; entry = CMSG_NXTHDR(message, entry)) {
    size_t length = entry->cmsg_len - sizeof *entry;
    int value = 0;
    memcpy(&value, CMSG_DATA(entry), length < sizeof value ? length : sizeof value);
    if (entry->cmsg_level == SOL_IP && entry->cmsg_type == IP_PKTINFO && length == sizeof(struct in_pktinfo)) {
      struct in_pktinfo *info = (void *)CMSG_DATA(entry);
      char interface[IF_NAMESIZE] = "?";
      if_indextoname(info->ipi_ifindex, interface);
      note("  IP_PKTINFO on %s local %s to %s", interface, text_of(info->ipi_spec_dst), text_of(info->ipi_addr));
    } else if (entry->cmsg_level == SOL_IP && entry->cmsg_type == IP_ORIGDSTADDR && length == sizeof(struct sockaddr_in)) {
      note("  IP_ORIGDSTADDR %s", address_text(CMSG_DATA(entry)));
    } else if (entry->cmsg_level == SOL_SOCKET && entry->cmsg_type != SO_RXQ_OVFL) {
      struct timespec now, *time = (void *)CMSG_DATA(entry);
      clock_gettime(CLOCK_REALTIME, &now);
      long age = now.tv_sec - time->tv_sec;
      note("  time stamp of type %d, %zu bytes, is recent: %d, fraction in range: %d", entry->cmsg_type, length,
           age >= 0 && age < 5, time->tv_nsec < (length == 16 && (entry->cmsg_type == 29 || entry->cmsg_type == 63) ? 1000000 : 1000000000));
    } else
      note("  level %d type %d length %zu value %d", entry->cmsg_level, entry->cmsg_type, length, value);
  }
}

static long receive(int fd, size_t room, size_t control_room, int flags) {
  struct iovec vector = {got, room};
  memset(&name, 0, sizeof name);
  memset(control, 0x55, sizeof control);
  struct msghdr message = {.msg_name = &name, .msg_namelen = sizeof name, .msg_iov = &vector, .msg_iovlen = 1,
                           .msg_control = control_room ? control : NULL, .msg_controllen = control_room};
  errno = 0;
  long count = recvmsg(fd, &message, flags);
  if (count < 0) {
    note("recvmsg: %s", error_name(errno));
    return count;
  }
  note("recvmsg: %ld from %s flags %#x control %zu", count, address_text(&name), message.msg_flags,
       (size_t)message.msg_controllen);
  show_control(&message);
  return count;
}

static long send_with(int fd, struct sockaddr *to, int level, int type, const void *value, size_t length) {
  struct iovec vector = {data, 20};
  memset(control, 0, sizeof control);
  struct msghdr message = {.msg_name = to, .msg_namelen = to ? SIZE_IN : 0, .msg_iov = &vector, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = CMSG_SPACE(length)};
  struct cmsghdr *entry = CMSG_FIRSTHDR(&message);
  entry->cmsg_level = level;
  entry->cmsg_type = type;
  entry->cmsg_len = CMSG_LEN(length);
  memcpy(CMSG_DATA(entry), value, length);
  return sendmsg(fd, &message, 0);
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("udp u 7280");

  section("what a datagram is told with");
  int fd = udp(7281);
  CALL(set_option(fd, IPPROTO_IP, IP_PKTINFO, 1));
  CALL(set_option(fd, IPPROTO_IP, IP_RECVTTL, 1));
  CALL(set_option(fd, IPPROTO_IP, IP_RECVTOS, 1));
  CALL(set_option(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 1));
  const int options[] = {IP_PKTINFO, IP_RECVTTL, IP_RECVTOS, IP_RECVORIGDSTADDR, IP_MULTICAST_TTL, IP_MULTICAST_LOOP, IP_MULTICAST_ALL};
  for (int i = 0; i < 7; i++)
    note("option %d: %d", options[i], option(fd, IPPROTO_IP, options[i]));
  peer("udp-send u 7281 10");
  receive(fd, 100, sizeof control, 0);
  note("too little room");
  for (size_t room = 0; room < 80; room += 12) {
    peer_ask("udp-send u 7281 10");
    receive(fd, 100, room, 0);
  }
  set_option(fd, IPPROTO_IP, IP_PKTINFO, 0);
  set_option(fd, IPPROTO_IP, IP_RECVTTL, 0);
  set_option(fd, IPPROTO_IP, IP_RECVTOS, 0);
  set_option(fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 0);

  section("time stamps");
  const int stamps[] = {29, 35, 63, 64};
  for (int i = 0; i < 4; i++) {
    note("option %d", stamps[i]);
    CALL(set_option(fd, SOL_SOCKET, stamps[i], 1));
    for (int j = 0; j < 4; j++)
      note("  option %d is %d", stamps[j], option(fd, SOL_SOCKET, stamps[j]));
    peer_ask("udp-send u 7281 10");
    receive(fd, 100, sizeof control, 0);
  }
  CALL(set_option(fd, SOL_SOCKET, 64, 0));
  CALL(set_option(fd, SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE));
  peer_ask("udp-send u 7281 10");
  receive(fd, 100, sizeof control, 0);
  CALL(set_option(fd, SOL_SOCKET, SO_TIMESTAMPING, 0));
  peer_ask("udp-send u 7281 10");
  receive(fd, 100, sizeof control, 0);

  section("lengths that are asked for");
  peer("udp-send u 7281 500");
  peer("udp-send u 7281 0");
  peer("udp-send u 7281 30");
  settle();
  int value = -1;
  CALL(ioctl(fd, FIONREAD, &value));
  note("FIONREAD %d", value);
  receive(fd, 10, 0, MSG_PEEK);
  receive(fd, 10, 0, MSG_PEEK | MSG_TRUNC);
  receive(fd, 10, 0, MSG_TRUNC);
  CALL(ioctl(fd, FIONREAD, &value));
  note("FIONREAD %d", value);
  receive(fd, 10, 0, 0);
  CALL(ioctl(fd, FIONREAD, &value));
  note("FIONREAD %d", value);
  receive(fd, 100, 0, 0);
  CALL(ioctl(fd, SIOCOUTQ, &value));
  note("SIOCOUTQ %d", value);

  section("sending with control data");
  value = 7;
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_TTL, &value, 4));
  peer("udp-receive u");
  value = 0x20;
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_TOS, &value, 4));
  peer("udp-receive u");
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_TOS, &value, 1));
  peer("udp-receive u");
  struct in_pktinfo info = {0};
  inet_pton(AF_INET, host(), &info.ipi_spec_dst);
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_PKTINFO, &info, sizeof info));
  peer("udp-receive u");
  info.ipi_ifindex = 12345;
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_PKTINFO, &info, sizeof info));
  info.ipi_ifindex = 0;
  inet_pton(AF_INET, "198.19.77.1", &info.ipi_spec_dst);
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_PKTINFO, &info, sizeof info));
  note("what is refused");
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_PKTINFO, &info, 8));
  value = 0;
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_TTL, &value, 4));
  value = 256;
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_TTL, &value, 4));
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, IP_TTL, &value, 1));
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_IP, 99, &value, 4));
  CALL(send_with(fd, in4(peer_address(), 7280), IPPROTO_UDP, 99, &value, 4));
  CALL(send_with(fd, in4(peer_address(), 7280), SOL_SOCKET, 99, &value, 4));
  note("of a level that nobody knows");
  CALL(send_with(fd, in4(peer_address(), 7280), 99, 99, &value, 4));
  peer("udp-receive u");

  section("put together from several calls");
  CALL(sendto(fd, data, 100, MSG_MORE, PEER(7280)));
  CALL(sendto(fd, data + 100, 50, MSG_MORE, PEER(7999)));
  CALL(sendto(fd, data + 150, 10, 0, PEER(7280)));
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_UDP, UDP_CORK, 1));
  note("UDP_CORK %d", option(fd, IPPROTO_UDP, UDP_CORK));
  CALL(sendto(fd, data, 1000, 0, PEER(7280)));
  CALL(sendto(fd, data + 1000, 2000, 0, PEER(7280)));
  peer("quiet u 100");
  CALL(set_option(fd, IPPROTO_UDP, UDP_CORK, 0));
  peer("udp-receive u");
  CALL(sendto(fd, data, 60000, MSG_MORE, PEER(7280)));
  CALL(sendto(fd, data, 10000, 0, PEER(7280)));
  CALL(sendto(fd, data, 3, 0, PEER(7280)));
  peer("udp-receive u");
  CALL(sendto(fd, data, 0, MSG_MORE, PEER(7280)));
  CALL(sendto(fd, data, 0, 0, PEER(7280)));
  peer("udp-receive u");
  close(fd);

  section("broadcast");
  fd = udp(7282);
  CALL(sendto(fd, data, 10, 0, in4("198.18.0.255", 7280), SIZE_IN));
  CALL(set_option(fd, SOL_SOCKET, SO_BROADCAST, 1));
  CALL(sendto(fd, data, 10, 0, in4("198.18.0.255", 7289), SIZE_IN));
  CALL(sendto(fd, data, 10, 0, in4("198.18.0.255", 7282), SIZE_IN));
  settle();
  receive(fd, 100, 0, MSG_DONTWAIT);
  receive(fd, 100, 0, MSG_DONTWAIT);
  close(fd);

  section("two sockets on one port");
  int one = socket(AF_INET, SOCK_DGRAM, 0), two = socket(AF_INET, SOCK_DGRAM, 0), three = socket(AF_INET, SOCK_DGRAM, 0);
  CALL(set_option(one, SOL_SOCKET, SO_REUSEADDR, 1));
  CALL(set_option(two, SOL_SOCKET, SO_REUSEADDR, 1));
  CALL(bind(one, ANY(7283)));
  CALL(bind(two, ANY(7283)));
  CALL(bind(three, ANY(7283)));
  peer("udp-send u 7283 11");
  settle();
  note("the one that came last gets it");
  receive(one, 100, 0, MSG_DONTWAIT);
  receive(two, 100, 0, MSG_DONTWAIT);
  close(one);
  close(two);
  close(three);

  section("a SO_REUSEPORT group");
  int group[4], counts[4] = {0}, total = 0, members = 0;
  for (int i = 0; i < 4; i++) {
    group[i] = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    MUST(set_option(group[i], SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(bind(group[i], ANY(7284)));
  }
  for (int i = 0; i < 60; i++) {
    char command[60];
    snprintf(command, sizeof command, "udp s%d %d", i, 7300 + i);
    peer_ask(command);
    snprintf(command, sizeof command, "udp-send s%d 7284 10", i);
    peer_ask(command);
    peer_ask(command);
  }
  settle();
  for (int i = 0; i < 4; i++) {
    while (recv(group[i], got, 100, 0) == 10)
      counts[i]++;
    total += counts[i];
    members += counts[i] > 0 && counts[i] % 2 == 0;
    close(group[i]);
  }
  note("%d datagrams, members with some, and with all of each sender: %d", total, members);

  section("how many were dropped");
  fd = udp(7285);
  CALL(set_option(fd, SOL_SOCKET, SO_RXQ_OVFL, 1));
  set_option(fd, SOL_SOCKET, SO_RCVBUF, 10000);
  for (int i = 0; i < 30; i++)
    peer_ask("udp-send u 7285 1000");
  settle();
  while (recv(fd, got, 2000, MSG_DONTWAIT) == 1000)
    ;
  peer_ask("udp-send u 7285 1");
  struct iovec vector = {got, 100};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  CALL(recvmsg(fd, &message, 0));
  struct cmsghdr *entry = CMSG_FIRSTHDR(&message);
  if (entry)
    note("level %d type %d, some were %d", entry->cmsg_level, entry->cmsg_type, *(unsigned *)CMSG_DATA(entry) > 0);
  close(fd);

  section("in many at once, with time-outs");
  fd = udp(7286);
  struct iovec in[3] = {{got, 100}, {got + 100, 100}, {got + 200, 100}};
  struct mmsghdr messages[3];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < 3; i++)
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &in[i], .msg_iovlen = 1};
  peer("udp-send u 7286 1");
  peer("udp-send u 7286 2");
  settle();
  CALL(recvmmsg(fd, messages, 3, MSG_WAITFORONE, NULL));
  CALL(recvmmsg(fd, messages, 3, MSG_DONTWAIT, NULL));
  struct timeval limit = {0, 100000};
  CALL(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
  long start = now_ms();
  CALL(recvmmsg(fd, messages, 3, 0, NULL));
  took(start, 95, 400);
  messages[0].msg_hdr = (struct msghdr){.msg_iov = &in[0], .msg_iovlen = 1, .msg_name = in4(peer_address(), 7280), .msg_namelen = SIZE_IN};
  messages[1].msg_hdr = (struct msghdr){.msg_iov = &in[1], .msg_iovlen = 1, .msg_name = in4(peer_address(), 0), .msg_namelen = SIZE_IN};
  messages[2] = messages[0];
  note("an error in the midst ends it");
  CALL(sendmmsg(fd, messages, 3, 0));
  CALL(sendmmsg(fd, messages + 1, 2, 0));
  peer("udp-receive u");
  close(fd);

  section("the path's MTU");
  fd = udp(0);
  CALL(connect(fd, PEER(7280)));
  note("IP_MTU %d", option(fd, IPPROTO_IP, IP_MTU));
  CALL(set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
  CALL(send(fd, data, 1473, 0));
  close(fd);
  note("\nend");
}
