// ICMP errors at UDP sockets: as errno, and in the error queue with IP_RECVERR.
// row: seconds=30
#include "probe.h"

#include <linux/errqueue.h>
#include <netinet/ip_icmp.h>

static unsigned char data[3000], got[3000];

static int udp(int port) {
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  MUST(fd);
  if (port)
    MUST(bind(fd, ANY(port)));
  return fd;
}

static void show_queue(int fd, size_t room) {
  struct msghdr message;
  long count = take_message(fd, MSG_ERRQUEUE, "error queue", got, room, &message);
  if (count < 0)
    return;
  note("error queue: %ld bytes crc %08x about %s length %u flags %#x", count, crc32(0, got, count), address_text(message.msg_name),
       message.msg_namelen, message.msg_flags);
  for (struct cmsghdr *entry = CMSG_FIRSTHDR(&message); entry; entry = CMSG_NXTHDR(&message, entry)) {
    if (entry->cmsg_level != SOL_IP || entry->cmsg_type != IP_RECVERR) {
      note("  level %d type %d length %zu", entry->cmsg_level, entry->cmsg_type, entry->cmsg_len);
      continue;
    }
    struct sock_extended_err *error = (void *)CMSG_DATA(entry);
    note("  %s origin %d type %d code %d info %u data %u length %zu", error_name(error->ee_errno), error->ee_origin,
         error->ee_type, error->ee_code, error->ee_info, error->ee_data, entry->cmsg_len);
    note("  offender %s", address_text(SO_EE_OFFENDER(error)));
  }
}

static void *refused_later(void *socket) {
  sleep_ms(200);
  sendto(*(int *)socket, data, 10, 0, PEER(7999));
  return NULL;
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  peer("udp u 7290");

  section("a closed port, asked for and not connected");
  int fd = udp(7291);
  CALL(set_option(fd, IPPROTO_IP, IP_RECVERR, 1));
  show_queue(fd, 1000);
  CALL(sendto(fd, data, 100, 0, PEER(7999)));
  settle();
  show_poll(fd, ALL_EVENTS, 500);
  CALL(recv(fd, got, 100, MSG_DONTWAIT));
  show_poll(fd, ALL_EVENTS, 0);
  show_queue(fd, 1000);
  show_poll(fd, ALL_EVENTS, 0);
  show_queue(fd, 1000);
  show_error(fd);

  section("several wait");
  CALL(sendto(fd, data, 10, 0, PEER(7998)));
  settle();
  CALL(sendto(fd, data, 20, 0, PEER(7997)));
  CALL(sendto(fd, data, 20, 0, PEER(7997)));
  settle();
  show_queue(fd, 5);
  show_error(fd);
  show_queue(fd, 1000);
  show_error(fd);
  show_queue(fd, 1000);

  section("what routers say");
  const char *addresses[] = {"198.19.1.1", "198.19.2.1"};
  for (int i = 0; i < 2; i++) {
    CALL(sendto(fd, data, 30, 0, in4(addresses[i], 7000), SIZE_IN));
    settle();
    show_error(fd);
    show_queue(fd, 1000);
  }
  note("time exceeded");
  CALL(set_option(fd, IPPROTO_IP, IP_RECVTTL, 1));
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, 1));
  CALL(sendto(fd, data, 40, 0, in4("198.19.1.1", 7000), SIZE_IN));
  settle();
  show_queue(fd, 1000);
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, 64));
  CALL(set_option(fd, IPPROTO_IP, IP_RECVTTL, 0));

  section("too large, said by ourselves");
  CALL(set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
  CALL(sendto(fd, data, 2000, 0, PEER(7290)));
  show_poll(fd, ALL_EVENTS, 0);
  show_error(fd);
  show_queue(fd, 1000);
  show_poll(fd, ALL_EVENTS, 0);
  show_queue(fd, 1000);

  section("switched off it is forgotten");
  CALL(sendto(fd, data, 10, 0, PEER(7999)));
  settle();
  CALL(set_option(fd, IPPROTO_IP, IP_RECVERR, 0));
  note("IP_RECVERR %d", option(fd, IPPROTO_IP, IP_RECVERR));
  show_queue(fd, 1000);
  show_error(fd);
  close(fd);

  section("nobody has that address");
  fd = udp(0);
  CALL(set_option(fd, IPPROTO_IP, IP_RECVERR, 1));
  CALL(sendto(fd, data, 10, 0, in4("198.18.0.99", 7000), SIZE_IN));
  show_poll(fd, POLLIN, 5000);
  show_error(fd);
  show_queue(fd, 1000);
  close(fd);

  section("connected, a hard error and a soft one");
  fd = udp(0);
  CALL(connect(fd, PEER(7999)));
  CALL(send(fd, data, 10, 0));
  settle();
  CALL(send(fd, data, 10, 0));
  settle();
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  CALL(connect(fd, in4("198.19.1.1", 7000), SIZE_IN));
  CALL(send(fd, data, 10, 0));
  settle();
  show_error(fd);
  CALL(connect(fd, in4("198.19.2.1", 7000), SIZE_IN));
  CALL(send(fd, data, 10, 0));
  settle();
  show_error(fd);
  close(fd);

  section("an epoll set hears of it");
  fd = udp(7292);
  set_option(fd, IPPROTO_IP, IP_RECVERR, 1);
  int set = epoll_create1(0);
  struct epoll_event event = {.events = EPOLLIN};
  MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
  CALL(epoll_wait(set, &event, 1, 0));
  CALL(sendto(fd, data, 10, 0, PEER(7999)));
  CALL(epoll_wait(set, &event, 1, 1000));
  note("%s", poll_names(event.events));
  show_queue(fd, 1000);
  CALL(epoll_wait(set, &event, 1, 0));
  close(fd);
  close(set);

  section("recvmmsg: an error behind the first datagram is the next call's");
  fd = udp(7293);
  set_option(fd, IPPROTO_IP, IP_RECVERR, 1);
  peer("udp-send u 7293 5");
  settle();
  pthread_t thread;
  pthread_create(&thread, NULL, refused_later, &fd);
  struct iovec vectors[2] = {{got, 1000}, {got + 1000, 1000}};
  struct mmsghdr messages[2];
  memset(messages, 0, sizeof messages);
  for (int i = 0; i < 2; i++)
    messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
  CALL(recvmmsg(fd, messages, 2, 0, NULL));
  note("%u", messages[0].msg_len);
  pthread_join(thread, NULL);
  show_error(fd);
  show_queue(fd, 1000);
  close(fd);
  note("\nend");
}
