// UDP: sendto, recvfrom, connect, truncation, errors by ICMP, addresses, fragments.
// row: seconds=30
#include "probe.h"

static unsigned char data[70000], got[70000];

static int udp(int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(fd);
  if (port)
    MUST(bind(fd, ANY(port)));
  return fd;
}

static long receive_from(int fd, size_t room, int flags) {
  struct sockaddr_storage name;
  memset(&name, 0x55, sizeof name);
  socklen_t length = sizeof name;
  errno = 0;
  long count = recvfrom(fd, got, room, flags, (struct sockaddr *)&name, &length);
  if (count < 0)
    note("recvfrom: %s", error_name(errno));
  else
    note("recvfrom: %ld from %s length %u crc %08x", count, address_text(&name), length,
         crc32(0, got, count < (long)room ? count : (long)room));
  return count;
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("udp u 7230");

  section("sendto and recvfrom");
  int fd = udp(7231);
  show_names(fd);
  CALL(sendto(fd, data, 100, 0, PEER(7230)));
  peer("udp-receive u");
  peer("udp-reply u 200");
  receive_from(fd, 1000, 0);
  receive_from(fd, 1000, MSG_DONTWAIT);
  CALL(sendto(fd, data, 0, 0, PEER(7230)));
  peer("udp-receive u");
  peer("udp-reply u 0");
  receive_from(fd, 1000, 0);
  note("a socket that was not bound gets a port by sending");
  int other = udp(0);
  show_names(other);
  CALL(sendto(other, data, 3, 0, PEER(7230)));
  struct sockaddr_in name;
  socklen_t length = sizeof name;
  CALL(getsockname(other, (struct sockaddr *)&name, &length));
  note("%s", address_text(&name));
  peer("udp-receive u");
  peer("udp-reply u 20");
  receive_from(other, 1000, 0);
  close(other);

  section("truncation and peeking");
  peer("udp-send u 7231 500");
  peer("udp-send u 7231 600 1");
  settle();
  receive_from(fd, 100, MSG_PEEK);
  receive_from(fd, 100, MSG_PEEK | MSG_TRUNC);
  receive_from(fd, 100, 0);
  receive_from(fd, 100, MSG_TRUNC);
  peer("udp-send u 7231 50");
  settle();
  struct iovec vector[] = {{got, 10}, {got + 10, 20}};
  char control[100];
  struct msghdr message = {.msg_iov = vector, .msg_iovlen = 2, .msg_name = &name, .msg_namelen = sizeof name,
                           .msg_control = control, .msg_controllen = sizeof control};
  CALL(recvmsg(fd, &message, 0));
  note("flags %#x name %s length %u control %zu", message.msg_flags, address_text(&name), message.msg_namelen,
       message.msg_controllen);
  CALL(read(fd, got, 0) == -1 || 1);

  section("sizes");
  const int sizes[] = {1, 1472, 1473, 5000, 20000, 65507};
  for (int i = 0; i < 6; i++) {
    errno = 0;
    long count = sendto(fd, data, sizes[i], 0, PEER(7230));
    note("sent %ld of %d", count, sizes[i]);
    peer("udp-receive u");
    peer("udp-reply u %d 9", sizes[i]);
    receive_from(fd, sizeof got, 0);
  }
  CALL(sendto(fd, data, 65508, 0, PEER(7230)));
  CALL(sendto(fd, data, 70000, 0, PEER(7230)));
  CALL(set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
  CALL(sendto(fd, data, 1472, 0, PEER(7230)));
  peer("udp-receive u");
  CALL(sendto(fd, data, 1473, 0, PEER(7230)));
  CALL(set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_WANT));

  section("errors");
  CALL(send(fd, data, 10, 0));
  CALL(write(fd, data, 10));
  CALL(sendto(fd, data, 10, 0, in4(peer_address(), 7230), 3));
  CALL(sendto(fd, data, 10, 0, in6("::1", 7230), SIZE_IN6));
  CALL(sendto(fd, data, 10, 0, PEER(0)));
  CALL(sendto(fd, data, 10, 0, in4("255.255.255.255", 7230), SIZE_IN));
  CALL(sendto(fd, data, 10, MSG_OOB, PEER(7230)));
  CALL(recv(fd, got, 10, MSG_OOB | MSG_DONTWAIT));
  CALL(listen(fd, 1));
  OPEN(accept(fd, NULL, NULL));
  other = udp(0);
  CALL(shutdown(other, SHUT_RD));
  CALL(bind(other, ANY(7231)));
  CALL(bind(other, ANY(7232)));
  CALL(bind(other, ANY(7233)));
  close(other);
  note("nobody listens, not connected: no error is told");
  CALL(sendto(fd, data, 10, 0, PEER(7999)));
  settle();
  CALL(sendto(fd, data, 10, 0, PEER(7230)));
  peer("udp-receive u");
  show_error(fd);
  receive_from(fd, 10, MSG_DONTWAIT);

  section("connected");
  CALL(connect(fd, PEER(7230)));
  show_names(fd);
  CALL(send(fd, data, 10, 0));
  peer("udp-receive u");
  CALL(write(fd, data, 11));
  peer("udp-receive u");
  CALL(sendto(fd, data, 12, 0, PEER(7230)));
  peer("udp-receive u");
  peer("udp v 7234");
  CALL(sendto(fd, data, 13, 0, PEER(7234)));
  peer("udp-receive v");
  peer("udp-send v 7231 77");
  peer("udp-send u 7231 78");
  settle();
  receive_from(fd, 100, MSG_DONTWAIT);
  receive_from(fd, 100, MSG_DONTWAIT);
  CALL(connect(fd, PEER(7234)));
  CALL(send(fd, data, 14, 0));
  peer("udp-receive v");
  struct sockaddr none = {.sa_family = AF_UNSPEC};
  CALL(connect(fd, &none, sizeof none));
  show_names(fd);
  CALL(send(fd, data, 10, 0));
  close(fd);

  section("port unreachable reaches a connected socket");
  fd = udp(0);
  CALL(connect(fd, PEER(7999)));
  CALL(send(fd, data, 10, 0));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  CALL(send(fd, data, 10, 0));
  settle();
  CALL(send(fd, data, 10, 0));
  settle();
  show_error(fd);
  show_error(fd);
  note("a blocking recv ends");
  CALL(send(fd, data, 10, 0));
  CALL(recv(fd, got, 10, 0));
  close(fd);

  section("host unreachable, no error for those who do not ask");
  fd = udp(0);
  CALL(connect(fd, in4("198.19.1.1", 7230), SIZE_IN));
  CALL(send(fd, data, 10, 0));
  settle();
  show_error(fd);
  close(fd);

  section("shutdown of a socket that is not connected: an error, and yet reading ends, though not for what comes");
  fd = udp(7239);
  CALL(shutdown(fd, SHUT_RD));
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  CALL(recv(fd, got, 10, 0));
  peer("udp-send u 7239 5");
  settle();
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  close(fd);

  section("shutdown");
  fd = udp(7235);
  CALL(connect(fd, PEER(7230)));
  CALL(shutdown(fd, SHUT_WR));
  CALL(send(fd, data, 10, MSG_NOSIGNAL));
  CALL(shutdown(fd, SHUT_RD));
  CALL(recv(fd, got, 10, 0));
  show_poll(fd, ALL_EVENTS, 0);
  close(fd);

  section("a full receive buffer drops");
  fd = udp(7236);
  set_option(fd, SOL_SOCKET, SO_RCVBUF, 10000);
  for (int i = 0; i < 30; i++)
    peer_ask("udp-send u 7236 1000");
  settle();
  int count = 0;
  while (recv(fd, got, 2000, MSG_DONTWAIT) == 1000)
    count++;
  note("some arrive %d, some do not %d", count > 0, count < 30);
  close(fd);

  section("sendmmsg and recvmmsg");
  fd = udp(7237);
  struct iovec out[3] = {{data, 10}, {data, 20}, {data, 30}};
  struct mmsghdr messages[3];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < 3; i++)
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &out[i], .msg_iovlen = 1, .msg_name = in4(peer_address(), 7230),
                                          .msg_namelen = SIZE_IN};
  CALL(sendmmsg(fd, messages, 3, 0));
  for (int i = 0; i < 3; i++) {
    peer("udp-receive u");
    peer("udp-reply u %d", 40 + i);
  }
  settle();
  struct iovec in[3] = {{got, 100}, {got + 100, 100}, {got + 200, 100}};
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < 3; i++)
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &in[i], .msg_iovlen = 1};
  CALL(recvmmsg(fd, messages, 3, 0, NULL));
  note("%u %u %u", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len);
  CALL(recvmmsg(fd, messages, 3, MSG_DONTWAIT, NULL));
  close(fd);

  section("what a datagram's control data tell");
  fd = udp(7238);
  set_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
  set_option(fd, IPPROTO_IP, IP_RECVTTL, 1);
  set_option(fd, IPPROTO_IP, IP_RECVTOS, 1);
  peer("udp-send u 7238 10");
  settle();
  message = (struct msghdr){.msg_iov = in, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  CALL(recvmsg(fd, &message, 0));
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(&message); entry; entry = CMSG_NXTHDR(&message, entry)) {
    if (entry->cmsg_type == IP_PKTINFO) {
      struct in_pktinfo *info = (void *)CMSG_DATA(entry);
      char text[20];
      note("level %d IP_PKTINFO length %zu to %s", entry->cmsg_level, entry->cmsg_len,
           inet_ntop(AF_INET, &info->ipi_addr, text, sizeof text));
    } else
      note("level %d type %d length %zu value %d", entry->cmsg_level, entry->cmsg_type, entry->cmsg_len,
           *CMSG_DATA(entry));
  }
  close(fd);
  note("\nend");
}
