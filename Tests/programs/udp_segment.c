// UDP_SEGMENT and UDP_GRO.
// row: seconds=30
#include "probe.h"

#include <netinet/udp.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif

static unsigned char data[70000], got[70000], control[512];

static int udp(int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(fd);
  if (port)
    MUST(bind(fd, ANY(port)));
  return fd;
}

static long send_segments(int fd, size_t count, int segment, size_t length) {
  struct iovec vector = {data, count};
  memset(control, 0, sizeof control);
  struct msghdr message = {.msg_name = in4(peer_address(), 7270), .msg_namelen = SIZE_IN, .msg_iov = &vector, .msg_iovlen = 1,
                           .msg_control = control, .msg_controllen = CMSG_SPACE(length)};
  struct cmsghdr *entry = CMSG_FIRSTHDR(&message);
  entry->cmsg_level = IPPROTO_UDP;
  entry->cmsg_type = UDP_SEGMENT;
  entry->cmsg_len = CMSG_LEN(length);
  memcpy(CMSG_DATA(entry), &segment, length);
  return sendmsg(fd, &message, 0);
}

/// How many datagrams of which size come, as far as they do.
static void count_received(int fd, const char *what) {
  long total = 0, count = 0, last = -1;
  uint32_t crc = 0;
  for (;;) {
    struct iovec vector = {got, sizeof got};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    long n = recvmsg(fd, &message, MSG_DONTWAIT);
    if (n < 0)
      break;
    struct cmsghdr *entry = CMSG_FIRSTHDR(&message);
    int segment = entry && entry->cmsg_type == UDP_GRO ? *(int *)CMSG_DATA(entry) : 0;
    if (entry && count == 0)
      note("level %d type %d length %zu", entry->cmsg_level, entry->cmsg_type, (size_t)entry->cmsg_len);
    if (n != last && last >= 0)
      note("then %ld", n);
    else if (last < 0)
      note("first %ld, segments of %d", n, segment);
    last = n;
    total += n;
    count++;
    crc = crc32(crc, got, n);
  }
  note("%s: %ld bytes crc %08x in %ld", what, total, crc, count);
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("udp u 7270");

  section("the option");
  int fd = udp(7271);
  note("%d %d", option(fd, IPPROTO_UDP, UDP_SEGMENT), option(fd, IPPROTO_UDP, UDP_GRO));
  CALL(set_option(fd, IPPROTO_UDP, UDP_SEGMENT, -1));
  CALL(set_option(fd, IPPROTO_UDP, UDP_SEGMENT, 65536));
  CALL(set_option(fd, IPPROTO_UDP, UDP_SEGMENT, 1000));
  note("%d", option(fd, IPPROTO_UDP, UDP_SEGMENT));
  CALL(sendto(fd, data, 2500, 0, PEER(7270)));
  for (int i = 0; i < 3; i++)
    peer("udp-receive u");
  CALL(sendto(fd, data, 1000, 0, PEER(7270)));
  peer("udp-receive u");
  CALL(sendto(fd, data, 10, 0, PEER(7270)));
  peer("udp-receive u");
  CALL(sendto(fd, data, 0, 0, PEER(7270)));
  peer("udp-receive u");
  CALL(sendto(fd, data, 2000, 0, PEER(7270)));
  peer("udp-receive u");
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_UDP, UDP_SEGMENT, 0));

  section("control data");
  CALL(send_segments(fd, 3000, 1400, 2));
  for (int i = 0; i < 3; i++)
    peer("udp-receive u");
  CALL(send_segments(fd, 65000, 1472, 2));
  for (int i = 0; i < 45; i++)
    peer_ask("udp-receive u");
  CALL(send_segments(fd, 1000, 1400, 2));
  peer("udp-receive u");

  section("what is refused");
  CALL(send_segments(fd, 3000, 1473, 2));
  CALL(send_segments(fd, 65508, 1472, 2));
  CALL(send_segments(fd, 1290, 10, 2));
  CALL(send_segments(fd, 3000, 1000, 4));
  CALL(send_segments(fd, 100, 0, 2));
  peer("udp-receive u");
  CALL(send_segments(fd, 1280, 10, 2));
  int received = 0;
  for (int i = 0; i < 128; i++)
    received += strncmp(peer_ask("udp-receive u"), "ok 10 bytes", 11) == 0;
  note("%d", received);
  CALL(set_option(fd, SOL_SOCKET, SO_NO_CHECK, 1));
  CALL(send_segments(fd, 3000, 1000, 2));
  CALL(sendto(fd, data, 44, 0, PEER(7270)));
  peer("udp-receive u");
  CALL(set_option(fd, SOL_SOCKET, SO_NO_CHECK, 0));

  section("to a port that is not open, connected");
  int other = udp(0);
  CALL(connect(other, PEER(7999)));
  CALL(set_option(other, IPPROTO_UDP, UDP_SEGMENT, 1000));
  CALL(send(other, data, 3000, 0));
  settle();
  show_error(other);
  close(other);

  section("receiving what was sent at once, one by one");
  peer("udp-gso u 7271 14000 1400");
  settle();
  count_received(fd, "without UDP_GRO");
  peer("udp-gso u 7271 5000 1400");
  settle();
  int value;
  CALL(ioctl(fd, FIONREAD, &value));
  note("FIONREAD %d", value);
  CALL(recv(fd, got, 100, MSG_PEEK | MSG_TRUNC));
  CALL(recv(fd, got, 100, MSG_TRUNC));
  show_poll(fd, POLLIN, 0);
  count_received(fd, "the rest");

  section("and whole");
  CALL(set_option(fd, IPPROTO_UDP, UDP_GRO, 1));
  note("%d", option(fd, IPPROTO_UDP, UDP_GRO));
  peer("udp-gso u 7271 14000 1400");
  settle();
  count_received(fd, "with UDP_GRO");
  peer("udp-gso u 7271 4500 1400");
  settle();
  CALL(ioctl(fd, FIONREAD, &value));
  count_received(fd, "an odd end");
  peer("udp-send u 7271 1400");
  settle();
  count_received(fd, "a single one");
  close(fd);

  section("to ourselves");
  fd = udp(7272);
  other = udp(0);
  CALL(set_option(fd, IPPROTO_UDP, UDP_GRO, 1));
  CALL(connect(other, HOST(7272)));
  CALL(set_option(other, IPPROTO_UDP, UDP_SEGMENT, 1000));
  CALL(send(other, data, 5500, 0));
  settle();
  count_received(fd, "with UDP_GRO");
  CALL(set_option(fd, IPPROTO_UDP, UDP_GRO, 0));
  CALL(send(other, data, 5500, 0));
  settle();
  count_received(fd, "without");
  close(other);
  close(fd);
  note("\nend");
}
