// IPv6: streams and datagrams to and from the peer, dual-stack listeners, sizes and fragments, options, addresses that do not go.
// row: seconds=60
#include "probe.h"

#include <net/if.h>

static unsigned char data[70000], got[70000];


static long receive_from(int fd, size_t room, int flags) {
  struct sockaddr_in6 name;
  memset(&name, 0x55, sizeof name);
  socklen_t length = sizeof name;
  errno = 0;
  long count = recvfrom(fd, got, room, flags, (struct sockaddr *)&name, &length);
  if (count < 0)
    note("recvfrom: %s", error_name(errno));
  else
    note("recvfrom: %ld from %s length %u flow %u scope %u crc %08x", count, address_text(&name), length,
         name.sin6_flowinfo, name.sin6_scope_id, crc32(0, got, count < (long)room ? count : (long)room));
  return count;
}

static int streaming(void) {
  int fd = socket(AF_INET6, SOCK_STREAM, 0);
  MUST(fd);
  return fd;
}

static int udp(int port) {
  int fd = socket(AF_INET6, SOCK_DGRAM, 0);
  MUST(fd);
  if (port)
    MUST(bind(fd, in6("::", port), SIZE_IN6));
  return fd;
}

static void streams(void) {
  section("a stream");
  peer("listen l 7740");
  int fd = OPEN(socket(AF_INET6, SOCK_STREAM, 0));
  CALL(connect(fd, PEER_6(7740)));
  show_names(fd);
  note("domain %d hops %d", option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS));
  note("MTU %d", option(fd, IPPROTO_IPV6, IPV6_MTU));
  note("MSS at least 1400: %d", option(fd, IPPROTO_TCP, TCP_MAXSEG) >= 1400);
  peer("accept x l");
  CALL(send(fd, data, 60000, 0));
  peer("receive x 60000");
  peer("send x 50000 3");
  show_bytes("received", got, receive_all(fd, got, 50000));
  CALL(shutdown(fd, SHUT_WR));
  peer("receive x 1");
  peer("close x");
  CALL(recv(fd, got, 1, 0));
  close(fd);

  section("refused");
  fd = streaming();
  CALL(connect(fd, PEER_6(7799)));
  close(fd);

  section("bound to our address and a port");
  fd = streaming();
  CALL(set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1));
  CALL(bind(fd, HOST_6(7741)));
  show_names(fd);
  CALL(connect(fd, PEER_6(7740)));
  show_names(fd);
  peer("accept x l");
  note("one family's address reaches no other");
  int other = streaming();
  CALL(bind(other, HOST_6(0)));
  char mapped[64];
  snprintf(mapped, sizeof mapped, "::ffff:%s", peer_address());
  CALL(connect(other, in6(mapped, 7240), SIZE_IN6));
  close(other);
  close(fd);
  peer("close x");
}

static void listeners(void) {
  section("a listener on :: takes both families");
  int fd = streaming();
  CALL(set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1));
  CALL(bind(fd, in6("::", 7743), SIZE_IN6));
  CALL(listen(fd, 4));
  for (int family = 6; family >= 4; family -= 2) {
    peer("family %d", family);
    peer("connect x 7743");
    struct sockaddr_in6 name;
    socklen_t length = sizeof name;
    int one = OPEN(accept(fd, (struct sockaddr *)&name, &length));
    note("from %s length %u scope %u", address_text(&name), length, name.sin6_scope_id);
    peer("send x 2000");
    show_bytes("received", got, receive_all(one, got, 2000));
    CALL(send(one, data, 3000, 0));
    peer("receive x 3000");
    close(one);
    peer("close x");
  }
  peer("family 6");

  section("who may share a port");
  const struct {
    const char *first, *second;
    int only_first, only_second;
  } pairs[] = {{"::", "::", 0, 0},           {"::", "::", 1, 0},       {"::", "0.0.0.0", 0, 0}, {"::", "0.0.0.0", 1, 0},
               {"0.0.0.0", "::", 0, 0},      {"0.0.0.0", "::", 0, 1},  {"HOST6", "::", 0, 0},   {"HOST6", "::", 0, 1},
               {"HOST6", "0.0.0.0", 0, 0},   {"HOST4", "::", 0, 0},    {"HOST4", "::", 0, 1},   {"HOST4", "HOST6", 0, 0},
               {"::", "HOST4", 0, 0},        {"::", "HOST4", 1, 0},    {"::", "HOST6", 0, 0},   {"HOST6", "HOST6", 0, 0}};
  for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++)
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
      int sockets[2];
      const char *results[2];
      for (int j = 0; j < 2; j++) {
        const char *text = j ? pairs[i].second : pairs[i].first;
        if (strcmp(text, "HOST6") == 0) text = host6();
        if (strcmp(text, "HOST4") == 0) text = host();
        int is6 = strchr(text, ':') != NULL;
        sockets[j] = socket(is6 ? AF_INET6 : AF_INET, kind, 0);
        if (is6) set_option(sockets[j], IPPROTO_IPV6, IPV6_V6ONLY, j ? pairs[i].only_second : pairs[i].only_first);
        int port = 7900 + (int)i;
        int result = is6 ? bind(sockets[j], in6(text, port), SIZE_IN6) : bind(sockets[j], in4(text, port), SIZE_IN);
        results[j] = error_name(result ? errno : 0);
      }
      note("%s %s%s then %s%s: %s %s", kind == SOCK_STREAM ? "stream" : "datagram", pairs[i].first,
           pairs[i].only_first ? " only" : "", pairs[i].second, pairs[i].only_second ? " only" : "", results[0],
           results[1]);
      close(sockets[0]);
      close(sockets[1]);
    }
  close(fd);
}

static void datagrams(void) {
  section("datagrams");
  peer("udp u 7750");
  int fd = udp(7751);
  show_names(fd);
  const int sizes[] = {0, 1, 1232, 1452, 1453, 5000, 20000, 65507, 65527};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    errno = 0;
    long count = sendto(fd, data, sizes[i], 0, PEER_6(7750));
    note("sent %ld of %d %s", count, sizes[i], error_name(errno));
    peer("udp-receive u");
    peer("udp-reply u %d 9", sizes[i]);
    receive_from(fd, sizeof got, 0);
  }
  CALL(sendto(fd, data, 65528, 0, PEER_6(7750)));
  CALL(sendto(fd, data, 70000, 0, PEER_6(7750)));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO));
  CALL(sendto(fd, data, 1452, 0, PEER_6(7750)));
  peer("udp-receive u");
  CALL(sendto(fd, data, 1453, 0, PEER_6(7750)));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 7));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x48));
  CALL(sendto(fd, data, 10, 0, PEER_6(7750)));
  peer("udp-receive u");
  note("IPv4 from the same socket");
  char mapped[64];
  snprintf(mapped, sizeof mapped, "::ffff:%s", peer_address());
  peer("family 4");
  peer("udp v 7752");
  CALL(sendto(fd, data, 20, 0, in6(mapped, 7752), SIZE_IN6));
  peer("udp-receive v");
  peer("udp-reply v 30");
  receive_from(fd, 1000, 0);
  peer("family 6");
  close(fd);

  section("a connected one, and a closed port");
  fd = udp(0);
  CALL(connect(fd, PEER_6(7750)));
  show_names(fd);
  CALL(send(fd, data, 5, 0));
  peer("udp-receive u");
  peer("udp-reply u 6");
  receive_from(fd, 100, 0);
  CALL(connect(fd, PEER_6(7799)));
  CALL(send(fd, data, 5, 0));
  settle();
  receive_from(fd, 100, MSG_DONTWAIT);
  receive_from(fd, 100, MSG_DONTWAIT);
  struct sockaddr nothing = {.sa_family = AF_UNSPEC};
  CALL(connect(fd, &nothing, sizeof nothing));
  show_names(fd);
  close(fd);

  section("IPV6_V6ONLY");
  fd = udp(0);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
  CALL(sendto(fd, data, 5, 0, in6(mapped, 7752), SIZE_IN6));
  CALL(sendto(fd, data, 5, 0, PEER_6(7750)));
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
  close(fd);
}

// Linux's inet6_bind: IPV6_V6ONLY is set by an address of IPv6.
static void bound_to_one(void) {
  char mapped[64];
  snprintf(mapped, sizeof mapped, "::ffff:%s", peer_address());
  for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++) {
    section(kind == SOCK_STREAM ? "stream bound to an address of IPv6" : "datagrams bound to an address of IPv6");
    int fd = socket(AF_INET6, kind, 0), only = -1;
    MUST(fd);
    CALL(bind(fd, in6(host6(), 7770), SIZE_IN6));
    CALL(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &(socklen_t){sizeof only}));
    note("IPV6_V6ONLY %d", only);
    CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
    CALL(connect(fd, in6(mapped, 7771), SIZE_IN6));
    if (kind == SOCK_DGRAM) {
      CALL(sendto(fd, "x", 1, 0, in6(mapped, 7771), SIZE_IN6));
      CALL(sendto(fd, "x", 1, 0, in4(peer_address(), 7771), SIZE_IN));
    }
    close(fd);
    fd = socket(AF_INET6, kind, 0);
    CALL(bind(fd, in6("::", 7772), SIZE_IN6));
    CALL(getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &(socklen_t){sizeof only}));
    note("IPV6_V6ONLY %d", only);
    close(fd);
  }
}

static void bound_to_device(void) {
  section("a device stands for a scope");
  char name[IF_NAMESIZE] = "";
  for (struct if_nameindex *entry = if_nameindex(); entry && entry->if_index; entry++)
    if (strcmp(entry->if_name, "lo") != 0) strcpy(name, entry->if_name);
  int fd = udp(0);
  CALL(connect(fd, in6("fe80::1", 7780), SIZE_IN6));
  CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)));
  CALL(connect(fd, in6("fe80::1", 7780), SIZE_IN6));
  close(fd);
  fd = streaming();
  CALL(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, (socklen_t)strlen(name)));
  CALL(fcntl(fd, F_SETFL, O_NONBLOCK));
  CALL(connect(fd, in6("fe80::1", 7780), SIZE_IN6));
  close(fd);
}

static void unusual(void) {
  section("addresses that do not go");
  int fd = streaming();
  CALL(bind(fd, in6("2001:db8::99", 7760), SIZE_IN6));
  CALL(bind(fd, in6("fe80::1", 7760), SIZE_IN6));
  CALL(connect(fd, in6("fe80::1", 7760), SIZE_IN6));
  CALL(connect(fd, in6("ff02::1", 7760), SIZE_IN6));
  CALL(connect(fd, in6(peer6(), 7740), 20));
  CALL(bind(fd, in4(host(), 7760), SIZE_IN));
  CALL(bind(fd, in6(host6(), 7761), 24));
  close(fd);
  fd = socket(AF_INET, SOCK_STREAM, 0);
  CALL(connect(fd, PEER_6(7740)));
  close(fd);

  section("options");
  fd = streaming();
  const int values[] = {-2, -1, 0, 1, 255, 256};
  for (int i = 0; i < 6; i++) {
    note("hops %d: %s -> %d", values[i], error_name(set_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, values[i]) ? errno : 0),
         option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS));
    note("class %d: %s -> %d", values[i], error_name(set_option(fd, IPPROTO_IPV6, IPV6_TCLASS, values[i]) ? errno : 0),
         option(fd, IPPROTO_IPV6, IPV6_TCLASS));
  }
  note("MTU without a connection: %d", option(fd, IPPROTO_IPV6, IPV6_MTU));
  close(fd);
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("family 6");
  streams();
  listeners();
  datagrams();
  bound_to_one();
  bound_to_device();
  unusual();
  note("\nend");
}
