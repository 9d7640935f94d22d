// A UDP socket that speaks with the network and with loopback, each datagram as its address says.
// row: seconds=30
#include "probe.h"

static unsigned char data[3000], got[3000];

static int udp(const char *address, int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(fd);
  if (port)
    MUST(bind(fd, in4(address, port), SIZE_IN));
  return fd;
}

static void receive(int fd, int flags) {
  struct sockaddr_storage name;
  socklen_t length = sizeof name;
  memset(&name, 0, sizeof name);
  errno = 0;
  long count = recvfrom(fd, got, sizeof got, flags, (struct sockaddr *)&name, &length);
  if (count < 0)
    note("recvfrom: %s", error_name(errno));
  else
    note("recvfrom: %ld from %s", count, address_text(&name));
}

#define LOOP(port) in4("127.0.0.1", port), SIZE_IN

static void *send_later(void *socket) {
  sleep_ms(100);
  sendto(*(int *)socket, data, 7, 0, LOOP(7240));
  return NULL;
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("udp u 7245");
  int local = udp("127.0.0.1", 7241);

  section("a server on the wildcard hears both");
  int fd = udp("0.0.0.0", 7240);
  CALL(sendto(local, data, 1, 0, LOOP(7240)));
  show_poll(fd, POLLIN, 1000);
  receive(fd, 0);
  receive(fd, MSG_DONTWAIT);
  peer("udp-send u 7240 2");
  show_poll(fd, POLLIN, 1000);
  receive(fd, 0);
  note("and answers both");
  CALL(sendto(fd, data, 3, 0, LOOP(7241)));
  receive(local, 0);
  CALL(sendto(fd, data, 4, 0, PEER(7245)));
  peer("udp-receive u");
  note("what waits at both comes, sooner or later");
  for (int i = 0; i < 3; i++) {
    CALL(sendto(local, data, 100, 0, LOOP(7240)));
    peer("udp-send u 7240 200");
  }
  settle();
  int sizes = 0;
  for (int i = 0; i < 6; i++)
    sizes += recv(fd, got, sizeof got, MSG_DONTWAIT);
  note("%d", sizes);
  receive(fd, MSG_DONTWAIT);
  show_poll(fd, POLLIN, 0);

  section("waiting");
  pthread_t thread;
  pthread_create(&thread, NULL, send_later, &local);
  receive(fd, 0);
  pthread_join(thread, NULL);
  int set = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN | EPOLLET};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_wait(set, &event, 1, 50));
  CALL(sendto(local, data, 8, 0, LOOP(7240)));
  CALL(epoll_wait(set, &event, 1, 1000));
  CALL(epoll_wait(set, &event, 1, 50));
  peer("udp-send u 7240 9");
  CALL(epoll_wait(set, &event, 1, 1000));
  settle();
  sizes = 0;
  for (int i = 0; i < 2; i++)
    sizes += recv(fd, got, sizeof got, MSG_DONTWAIT);
  note("%d", sizes);
  receive(fd, MSG_DONTWAIT);
  close(set);

  section("connected to one side, nobody is heard from the other");
  struct sockaddr nobody = {.sa_family = AF_UNSPEC};
  int one = udp("0.0.0.0", 7242);
  CALL(connect(one, PEER(7245)));
  CALL(sendto(local, data, 9, 0, LOOP(7242)));
  settle();
  receive(one, MSG_DONTWAIT);
  peer("udp-send u 7242 2");
  show_poll(one, POLLIN, 1000);
  receive(one, MSG_DONTWAIT);
  note("undone");
  CALL(connect(one, &nobody, sizeof nobody));
  CALL(sendto(local, data, 9, 0, LOOP(7242)));
  show_poll(one, POLLIN, 1000);
  receive(one, MSG_DONTWAIT);
  note("to loopback");
  CALL(connect(one, LOOP(7241)));
  peer("udp-send u 7242 2");
  settle();
  receive(one, MSG_DONTWAIT);
  CALL(sendto(local, data, 6, 0, LOOP(7242)));
  show_poll(one, POLLIN, 1000);
  receive(one, MSG_DONTWAIT);
  note("undone");
  CALL(connect(one, &nobody, sizeof nobody));
  peer("udp-send u 7242 3");
  show_poll(one, POLLIN, 1000);
  receive(one, MSG_DONTWAIT);
  CALL(sendto(local, data, 8, 0, LOOP(7242)));
  show_poll(one, POLLIN, 1000);
  receive(one, MSG_DONTWAIT);
  close(one);

  section("a client that begins with loopback");
  int client = udp(NULL, 0);
  CALL(sendto(client, data, 10, 0, LOOP(7241)));
  struct sockaddr_in from;
  socklen_t length = sizeof from;
  CALL(recvfrom(local, got, sizeof got, 0, (struct sockaddr *)&from, &length));
  int first = from.sin_port;
  CALL(sendto(local, data, 11, 0, (struct sockaddr *)&from, length));
  show_poll(client, POLLIN, 1000);
  receive(client, 0);
  note("and goes on with the network, from the same port");
  CALL(sendto(client, data, 12, 0, PEER(7245)));
  peer("udp-receive u");
  peer("udp-reply u 13");
  receive(client, 0);
  CALL(getsockname(client, (struct sockaddr *)&from, &length));
  note("%d", from.sin_port == first);
  CALL(sendto(client, data, 14, 0, LOOP(7241)));
  CALL(recvfrom(local, got, sizeof got, 0, (struct sockaddr *)&from, &length));
  note("%d", from.sin_port == first);
  CALL(sendto(local, data, 15, 0, (struct sockaddr *)&from, length));
  receive(client, 0);
  close(client);

  section("a client that begins with the network");
  client = udp(NULL, 0);
  CALL(sendto(client, data, 20, 0, PEER(7245)));
  peer("udp-receive u");
  CALL(sendto(client, data, 21, 0, LOOP(7241)));
  CALL(recvfrom(local, got, sizeof got, 0, (struct sockaddr *)&from, &length));
  CALL(sendto(local, data, 22, 0, (struct sockaddr *)&from, length));
  peer("udp-reply u 23");
  sizes = recv(client, got, sizeof got, 0);
  sizes += recv(client, got, sizeof got, 0);
  note("%d", sizes);
  close(client);

  section("connected to the one and then to the other");
  client = udp(NULL, 0);
  CALL(connect(client, PEER(7245)));
  CALL(send(client, data, 30, 0));
  peer("udp-receive u");
  CALL(connect(client, LOOP(7241)));
  getpeername(client, (struct sockaddr *)&from, &length);
  note("%s", address_text(&from));
  CALL(send(client, data, 31, 0));
  CALL(recvfrom(local, got, sizeof got, 0, (struct sockaddr *)&from, &length));
  CALL(sendto(local, data, 32, 0, (struct sockaddr *)&from, length));
  receive(client, 0);
  CALL(connect(client, PEER(7245)));
  getpeername(client, (struct sockaddr *)&from, &length);
  note("%s", address_text(&from));
  CALL(send(client, data, 33, 0));
  peer("udp-receive u");
  close(client);

  section("many at once, to both");
  client = udp(NULL, 0);
  struct iovec vectors[3] = {{data, 40}, {data, 41}, {data, 42}};
  struct mmsghdr messages[3];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < 3; i++)
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1,
                                          .msg_name = i == 1 ? in4(peer_address(), 7245) : in4("127.0.0.1", 7241), .msg_namelen = SIZE_IN};
  CALL(sendmmsg(client, messages, 3, 0));
  receive(local, 0);
  receive(local, 0);
  peer("udp-receive u");
  close(client);
  close(fd);
  close(local);
  note("\nend");
}
