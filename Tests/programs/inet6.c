// AF_INET6 sockets: v4-mapped peers and clients, IPV6_V6ONLY, addresses that cannot be reached.
// row: seconds=30
#include "probe.h"

static char bytes[1000];

int main(void) {
  begin();
  char mapped[64];
  snprintf(mapped, sizeof mapped, "::ffff:%s", peer_address());
  peer("listen l 7240");
  peer("udp u 7241");

  section("a stream to a v4-mapped peer");
  int fd = OPEN(socket(AF_INET6, SOCK_STREAM, 0));
  note("domain %d v6only %d", option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
  show_names(fd);
  CALL(connect(fd, in6(mapped, 7240), SIZE_IN6));
  show_names(fd);
  peer("accept x l");
  CALL(send(fd, "hello", 5, 0));
  peer("receive x 5");
  peer("send x 5");
  CALL(recv(fd, bytes, 10, 0));
  CALL(set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
  CALL(connect(fd, in6(mapped, 7240), SIZE_IN6));
  close(fd);
  peer("close x");

  section("a refused one");
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  CALL(connect(fd, in6(mapped, 7999), SIZE_IN6));
  close(fd);

  section("IPV6_V6ONLY and a v4-mapped peer");
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
  note("v6only %d", option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
  CALL(connect(fd, in6(mapped, 7240), SIZE_IN6));
  CALL(bind(fd, in6(mapped, 7242), SIZE_IN6));
  close(fd);

  section("a listener on :: takes v4 clients");
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  CALL(set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1));
  CALL(bind(fd, in6("::", 7243), SIZE_IN6));
  show_names(fd);
  CALL(listen(fd, 4));
  peer("connect x 7243 7555");
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  int other = OPEN(accept(fd, (struct sockaddr *)&name, &length));
  note("from %s length %u", address_text(&name), length);
  note("domain %d", option(other, SOL_SOCKET, SO_DOMAIN));
  show_names(other);
  CALL(send(other, "hello", 5, 0));
  peer("receive x 5");
  close(other);
  note("the same port for AF_INET");
  other = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(other, ANY(7243)));
  close(other);
  close(fd);
  peer("receive x 1");
  peer("close x");
  note("with IPV6_V6ONLY");
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
  CALL(bind(fd, in6("::", 7244), SIZE_IN6));
  CALL(listen(fd, 4));
  other = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(other, ANY(7244)));
  close(other);
  peer("connect x 7244");
  close(fd);

  section("addresses of another family, or none");
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  CALL(connect(fd, PEER(7240)));
  CALL(connect(fd, in6(mapped, 7240), SIZE_IN));
  CALL(connect(fd, in6("2001:db8::1", 7240), SIZE_IN6));
  CALL(bind(fd, in6("2001:db8::2", 7245), SIZE_IN6));
  CALL(bind(fd, ANY(7245)));
  close(fd);

  section("datagrams");
  fd = socket(AF_INET6, SOCK_DGRAM, 0);
  CALL(bind(fd, in6("::", 7246), SIZE_IN6));
  CALL(sendto(fd, "hello", 5, 0, in6(mapped, 7241), SIZE_IN6));
  peer("udp-receive u");
  peer("udp-reply u 9");
  length = sizeof name;
  CALL(recvfrom(fd, bytes, 100, 0, (struct sockaddr *)&name, &length));
  note("from %s length %u", address_text(&name), length);
  CALL(sendto(fd, "hello", 5, 0, PEER(7241)));
  peer("udp-receive u");
  CALL(connect(fd, in6(mapped, 7241), SIZE_IN6));
  show_names(fd);
  CALL(send(fd, "hello", 5, 0));
  peer("udp-receive u");
  CALL(sendto(fd, "x", 1, 0, in6("2001:db8::1", 7241), SIZE_IN6));
  close(fd);

  section("options of IPPROTO_IPV6");
  fd = socket(AF_INET6, SOCK_STREAM, 0);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS, 33));
  note("%d", option(fd, IPPROTO_IPV6, IPV6_UNICAST_HOPS));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_TCLASS, 0x20));
  note("%d", option(fd, IPPROTO_IPV6, IPV6_TCLASS));
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0));
  note("%d", option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
  CALL(set_option(fd, IPPROTO_IPV6, 9999, 0));
  close(fd);
  fd = socket(AF_INET, SOCK_STREAM, 0);
  CALL(set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
  note("%d", option(fd, IPPROTO_IPV6, IPV6_V6ONLY));
  close(fd);
  note("\nend");
}
