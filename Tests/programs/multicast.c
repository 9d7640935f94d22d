// Multicast: joining, sending, what is heard from whom, and what the calls refuse.
// row: seconds=30
#include "probe.h"

static unsigned char data[3000], got[3000];

static int udp(int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0), one = 1;
  MUST(fd);
  MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
  if (port)
    MUST(bind(fd, ANY(port)));
  return fd;
}

static int member(int fd, int name, const char *group) {
  struct ip_mreqn request = {0};
  inet_pton(AF_INET, group, &request.imr_multiaddr);
  inet_pton(AF_INET, host(), &request.imr_address);
  return setsockopt(fd, IPPROTO_IP, name, &request, sizeof request);
}

static int member_source(int fd, int name, const char *group, const char *source) {
  struct ip_mreq_source request = {0};
  inet_pton(AF_INET, group, &request.imr_multiaddr);
  inet_pton(AF_INET, host(), &request.imr_interface);
  inet_pton(AF_INET, source, &request.imr_sourceaddr);
  return setsockopt(fd, IPPROTO_IP, name, &request, sizeof request);
}

static int group_request(int fd, int name, const char *group) {
  struct group_req request = {0};
  struct sockaddr_in *address = (void *)&request.gr_group;
  address->sin_family = AF_INET;
  inet_pton(AF_INET, group, &address->sin_addr);
  return setsockopt(fd, IPPROTO_IP, name, &request, sizeof request);
}

static void receive(int fd) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  settle();
  for (;;) {
    errno = 0;
    long count = recvfrom(fd, got, sizeof got, MSG_DONTWAIT, (struct sockaddr *)&name, &length);
    if (count < 0) {
      note("recvfrom: %s", error_name(errno));
      return;
    }
    note("recvfrom: %ld from %s", count, address_text(&name));
  }
}

#define GROUP "239.77.1.1"
#define OTHER "239.77.1.2"

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("udp-any u 7250");

  section("joining and hearing");
  int fd = udp(7251);
  peer("udp-send-to u " GROUP " 7251 10");
  receive(fd);
  CALL(member(fd, IP_ADD_MEMBERSHIP, GROUP));
  CALL(member(fd, IP_ADD_MEMBERSHIP, GROUP));
  peer("udp-send-to u " GROUP " 7251 11");
  peer("udp-send-to u " OTHER " 7251 12");
  receive(fd);
  note("another socket hears it as well, if it does not mind");
  int other = udp(7251);
  peer("udp-send-to u " GROUP " 7251 13");
  receive(fd);
  receive(other);
  CALL(set_option(other, IPPROTO_IP, IP_MULTICAST_ALL, 0));
  peer("udp-send-to u " GROUP " 7251 14");
  receive(fd);
  receive(other);
  close(other);
  CALL(member(fd, IP_DROP_MEMBERSHIP, GROUP));
  CALL(member(fd, IP_DROP_MEMBERSHIP, GROUP));
  peer("udp-send-to u " GROUP " 7251 15");
  receive(fd);
  CALL(group_request(fd, MCAST_JOIN_GROUP, OTHER));
  peer("udp-send-to u " OTHER " 7251 16");
  receive(fd);
  CALL(group_request(fd, MCAST_LEAVE_GROUP, OTHER));

  section("bound to a group");
  other = socket(AF_INET, SOCK_DGRAM, 0);
  set_option(other, SOL_SOCKET, SO_REUSEADDR, 1);
  CALL(bind(other, in4(GROUP, 7252), SIZE_IN));
  show_names(other);
  CALL(member(other, IP_ADD_MEMBERSHIP, GROUP));
  CALL(member(other, IP_ADD_MEMBERSHIP, OTHER));
  peer("udp-send-to u " GROUP " 7252 20");
  peer("udp-send-to u " OTHER " 7252 21");
  receive(other);
  CALL(sendto(other, data, 5, 0, PEER(7250)));
  peer("udp-receive u");
  close(other);

  section("sources");
  CALL(member_source(fd, IP_ADD_SOURCE_MEMBERSHIP, GROUP, "198.18.0.77"));
  peer("udp-send-to u " GROUP " 7251 30");
  receive(fd);
  CALL(member_source(fd, IP_ADD_SOURCE_MEMBERSHIP, GROUP, peer_address()));
  CALL(member_source(fd, IP_ADD_SOURCE_MEMBERSHIP, GROUP, peer_address()));
  CALL(member_source(fd, IP_BLOCK_SOURCE, GROUP, peer_address()));
  peer("udp-send-to u " GROUP " 7251 31");
  receive(fd);
  CALL(member_source(fd, IP_DROP_SOURCE_MEMBERSHIP, GROUP, peer_address()));
  CALL(member_source(fd, IP_DROP_SOURCE_MEMBERSHIP, GROUP, peer_address()));
  peer("udp-send-to u " GROUP " 7251 32");
  receive(fd);
  CALL(member_source(fd, IP_DROP_SOURCE_MEMBERSHIP, GROUP, "198.18.0.77"));
  CALL(member(fd, IP_DROP_MEMBERSHIP, GROUP));
  CALL(member(fd, IP_ADD_MEMBERSHIP, GROUP));
  CALL(member_source(fd, IP_BLOCK_SOURCE, GROUP, peer_address()));
  peer("udp-send-to u " GROUP " 7251 33");
  receive(fd);
  CALL(member_source(fd, IP_UNBLOCK_SOURCE, GROUP, peer_address()));
  CALL(member_source(fd, IP_UNBLOCK_SOURCE, GROUP, peer_address()));
  peer("udp-send-to u " GROUP " 7251 34");
  receive(fd);
  CALL(member_source(fd, IP_BLOCK_SOURCE, OTHER, peer_address()));

  section("sending");
  peer("udp-join u " OTHER);
  CALL(sendto(fd, data, 40, 0, in4(OTHER, 7250), SIZE_IN));
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 5));
  note("%d", option(fd, IPPROTO_IP, IP_MULTICAST_TTL));
  CALL(sendto(fd, data, 41, 0, in4(OTHER, 7250), SIZE_IN));
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 256));
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, -1));
  note("%d", option(fd, IPPROTO_IP, IP_MULTICAST_TTL));
  note("and to ourselves");
  CALL(sendto(fd, data, 42, 0, in4(GROUP, 7251), SIZE_IN));
  receive(fd);
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 0));
  CALL(sendto(fd, data, 43, 0, in4(GROUP, 7251), SIZE_IN));
  receive(fd);
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_LOOP, 1));
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 0));
  CALL(sendto(fd, data, 44, 0, in4(GROUP, 7251), SIZE_IN));
  receive(fd);
  CALL(set_option(fd, IPPROTO_IP, IP_MULTICAST_TTL, 1));
  CALL(connect(fd, in4(OTHER, 7250), SIZE_IN));
  show_names(fd);
  CALL(send(fd, data, 45, 0));
  peer("udp-receive u");

  section("what is refused");
  CALL(member(fd, IP_ADD_MEMBERSHIP, "198.18.0.77"));
  struct ip_mreqn request = {.imr_ifindex = 12345};
  inet_pton(AF_INET, OTHER, &request.imr_multiaddr);
  CALL(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request));
  CALL(setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, 4));
  struct in_addr interface;
  inet_pton(AF_INET, host(), &interface);
  CALL(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface));
  socklen_t length = sizeof interface;
  memset(&interface, 0, sizeof interface);
  CALL(getsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, &length));
  note("%s", inet_ntoa(interface));
  inet_pton(AF_INET, "198.18.0.77", &interface);
  CALL(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &interface, sizeof interface));
  int joined = 0;
  for (int i = 0; i < 25; i++) {
    char group[20];
    snprintf(group, sizeof group, "239.77.2.%d", i);
    joined += member(fd, IP_ADD_MEMBERSHIP, group) == 0;
  }
  note("joined %d, then %s", joined, error_name(errno));
  int stream = socket(AF_INET, SOCK_STREAM, 0);
  CALL(member(stream, IP_ADD_MEMBERSHIP, GROUP));
  close(stream);
  close(fd);
  note("\nend");
}
