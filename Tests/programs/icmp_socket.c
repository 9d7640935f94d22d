// ICMP datagram sockets ("ping sockets") and what they refuse.
// row: seconds=30
#include "probe.h"

#include <linux/errqueue.h>
#include <netinet/ip_icmp.h>

static unsigned char packet[4000], got[4000];

static void show_queue(int fd) {
  struct msghdr message;
  long count = take_message(fd, MSG_ERRQUEUE, "error queue", got, sizeof got, &message);
  if (count < 0)
    return;
  note("error queue: %ld bytes, type %d, about %s flags %#x", count, got[0], address_text(message.msg_name), message.msg_flags);
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(&message); entry; entry = CMSG_NXTHDR(&message, entry))
    if (entry->cmsg_level == SOL_IP && entry->cmsg_type == IP_RECVERR) {
      struct sock_extended_err *error = (void *)CMSG_DATA(entry);
      note("  %s origin %d type %d code %d from %s", error_name(error->ee_errno), error->ee_origin, error->ee_type,
           error->ee_code, address_text(SO_EE_OFFENDER(error)));
    }
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
  struct icmphdr *icmp = (void *)got;
  note("recvfrom: %ld from %s length %u: type %d code %d sequence %d, rest crc %08x", count, address_text(&name), length,
       icmp->type, icmp->code, ntohs(icmp->un.echo.sequence), crc32(0, got + 8, count - 8));
}

static int same_id(int fd) {
  struct sockaddr_in name;
  socklen_t length = sizeof name;
  getsockname(fd, (struct sockaddr *)&name, &length);
  return name.sin_port == ((struct icmphdr *)got)->un.echo.id;
}

static long echo(int fd, int sequence, size_t count, const char *address) {
  struct icmphdr *icmp = (void *)packet;
  pattern(packet, sizeof packet, 0);
  *icmp = (struct icmphdr){.type = ICMP_ECHO, .un.echo = {.id = htons(4711), .sequence = htons(sequence)}};
  return sendto(fd, packet, count, 0, in4(address, 0), SIZE_IN);
}

int main(void) {
  begin();
  peer("sleep 1");

  section("an echo and its reply");
  int fd = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  MUST(fd);
  note("type %d protocol %d domain %d", option(fd, SOL_SOCKET, SO_TYPE), option(fd, SOL_SOCKET, SO_PROTOCOL),
       option(fd, SOL_SOCKET, SO_DOMAIN));
  show_names(fd);
  CALL(echo(fd, 1, 64, peer_address()));
  show_poll(fd, POLLIN, 1000);
  receive(fd, 0);
  note("its identifier is the socket's own: %d", same_id(fd));
  receive(fd, MSG_DONTWAIT);
  CALL(echo(fd, 2, 8, peer_address()));
  receive(fd, 0);
  CALL(echo(fd, 3, 3000, peer_address()));
  receive(fd, 0);
  CALL(echo(fd, 4, 64, host()));
  receive(fd, 0);

  section("what is refused");
  CALL(echo(fd, 4, 7, peer_address()));
  packet[0] = ICMP_ECHOREPLY;
  CALL(sendto(fd, packet, 64, 0, PEER(0)));
  packet[0] = ICMP_ECHO;
  packet[1] = 1;
  CALL(sendto(fd, packet, 64, 0, PEER(0)));
  CALL(send(fd, packet, 64, 0));
  CALL(listen(fd, 1));
  CALL(bind(fd, ANY(77)));

  section("bound to an identifier, and connected");
  int other = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  CALL(bind(other, HOST(7777)));
  show_names(other);
  CALL(connect(other, PEER(5)));
  show_names(other);
  CALL(send(other, packet, 0, 0));
  packet[1] = 0;
  CALL(send(other, packet, 20, 0));
  receive(other, 0);
  int third = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP);
  CALL(bind(third, HOST(7777)));
  CALL(bind(third, in4("198.18.0.77", 7777), SIZE_IN));
  close(third);
  close(other);

  section("errors");
  CALL(echo(fd, 5, 64, "198.19.1.1"));
  settle();
  show_error(fd);
  CALL(set_option(fd, IPPROTO_IP, IP_RECVERR, 1));
  CALL(echo(fd, 6, 64, "198.19.1.1"));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  show_error(fd);
  show_queue(fd);
  show_queue(fd);
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, 1));
  CALL(echo(fd, 7, 64, "198.19.1.1"));
  settle();
  show_queue(fd);
  receive(fd, MSG_DONTWAIT);
  close(fd);
  note("\nend");
}
