// readv, writev, sendmsg, recvmsg, sendmmsg, recvmmsg, sendfile.
// row: seconds=30
#include "probe.h"

#include <limits.h>
#include <pthread.h>
#include <sys/sendfile.h>

static unsigned char data[300000], got[300000];

// Hidden from the compiler, which would refuse.
static volatile int negative = -1, too_many = IOV_MAX + 1;

static void vectors(void) {
  section("writev and readv");
  int fd = pair_with_peer("x");
  struct iovec out[] = {{data, 10}, {data + 10, 0}, {data + 10, 1000}, {data + 1010, 1}, {NULL, 0}, {data + 1011, 5000}};
  CALL(writev(fd, out, 6));
  peer("receive x 6011");
  CALL(writev(fd, out, 0));
  CALL(writev(fd, out, negative));
  CALL(writev(fd, out, too_many));
  CALL(writev(fd, (struct iovec[]){{NULL, 0}}, 1));
  peer("send x 6011");
  settle();
  memset(got, 0, sizeof got);
  struct iovec in[] = {{got, 3}, {got + 3, 0}, {got + 3, 5000}, {got + 5003, 5000}};
  show_bytes("readv", got, CALL(readv(fd, in, 4)));
  note("beyond untouched %d", got[6011] == 0);
  peer("send x 10");
  settle();
  show_bytes("readv", got, CALL(readv(fd, in, 4)));
  CALL(readv(fd, in, 0));
  CALL(readv(fd, in, negative));
  CALL(readv(fd, in, too_many));
  struct iovec many[1024];
  for (int i = 0; i < 1024; i++)
    many[i] = (struct iovec){data + i * 7, 7};
  CALL(writev(fd, many, 1024));
  peer("receive x 7168");
  peer("send x 7168");
  settle();
  for (int i = 0; i < 1024; i++)
    many[i].iov_base = got + i * 7;
  show_bytes("readv", got, CALL(readv(fd, many, 1024)));
  close(fd);
  peer("close x");
}

static void messages(void) {
  section("sendmsg and recvmsg on a stream");
  int fd = pair_with_peer("x");
  struct iovec out[] = {{data, 100}, {data + 100, 200}};
  struct msghdr message = {.msg_iov = out, .msg_iovlen = 2};
  CALL(sendmsg(fd, &message, MSG_NOSIGNAL));
  peer("receive x 300");
  message.msg_iovlen = 0;
  CALL(sendmsg(fd, &message, 0));
  message.msg_iovlen = IOV_MAX + 1;
  CALL(sendmsg(fd, &message, 0));
  message.msg_iovlen = 2;
  message.msg_name = in4(peer_address(), 7999);
  message.msg_namelen = SIZE_IN;
  CALL(sendmsg(fd, &message, 0));
  peer("receive x 300");
  CALL(sendto(fd, data, 10, 0, PEER(7999)));
  peer("receive x 10");
  peer("send x 500");
  settle();
  struct sockaddr_storage name;
  memset(&name, 0x55, sizeof name);
  char control[200];
  struct iovec in[] = {{got, 50}, {got + 50, 100}};
  message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2, .msg_name = &name, .msg_namelen = sizeof name,
                            .msg_control = control, .msg_controllen = sizeof control, .msg_flags = 0x777};
  show_bytes("recvmsg", got, CALL(recvmsg(fd, &message, 0)));
  note("flags %#x name length %u untouched %d control length %zu", message.msg_flags, message.msg_namelen,
       ((unsigned char *)&name)[0] == 0x55, message.msg_controllen);
  show_bytes("recvmsg", got, CALL(recvmsg(fd, &message, MSG_PEEK)));
  note("flags %#x", message.msg_flags);
  show_bytes("recvmsg", got, CALL(recvmsg(fd, &message, MSG_WAITALL)));
  CALL(recvmsg(fd, &message, MSG_TRUNC));
  note("flags %#x", message.msg_flags);
  socklen_t length = sizeof name;
  CALL(recvfrom(fd, got, 10, 0, (struct sockaddr *)&name, &length));
  note("name length %u", length);
  message.msg_iovlen = 0;
  CALL(recvmsg(fd, &message, MSG_DONTWAIT));
  close(fd);
  peer("close x");

  section("sendmmsg and recvmmsg on a stream");
  fd = pair_with_peer("x");
  struct mmsghdr messages[3] = {{.msg_hdr = {.msg_iov = &out[0], .msg_iovlen = 1}},
                                {.msg_hdr = {.msg_iov = &out[1], .msg_iovlen = 1}},
                                {.msg_hdr = {.msg_iov = out, .msg_iovlen = 2}}};
  CALL(sendmmsg(fd, messages, 3, 0));
  note("%u %u %u", messages[0].msg_len, messages[1].msg_len, messages[2].msg_len);
  peer("receive x 600");
  peer("send x 60");
  settle();
  messages[0].msg_hdr.msg_iov = &in[0];
  messages[1].msg_hdr.msg_iov = &in[1];
  CALL(recvmmsg(fd, messages, 2, MSG_DONTWAIT, NULL));
  note("%u %u", messages[0].msg_len, messages[1].msg_len);
  CALL(recvmmsg(fd, messages, 2, MSG_DONTWAIT, NULL));
  close(fd);
  peer("close x");
}

static volatile int is_shrinking;

static void *shrink(void *argument) {
  int file = *(int *)argument;
  for (int i = 0; i < 300; i++) {
    MUST(ftruncate(file, 0));
    MUST(pwrite(file, data, sizeof data, 0));
  }
  is_shrinking = 0;
  return NULL;
}

// Whatever is sent then: the program must live.
static void shrinking_file(void) {
  section("sendfile of a file that becomes shorter meanwhile");
  char name[] = "sendfile-XXXXXX";
  int file = mkstemp(name);
  unlink(name);
  MUST(pwrite(file, data, sizeof data, 0));
  int fd = pair_with_peer("x");
  peer("sink x");
  pthread_t thread;
  is_shrinking = 1;
  MUST(pthread_create(&thread, NULL, shrink, &file));
  while (is_shrinking) {
    off_t offset = 0;
    if (sendfile(fd, file, &offset, sizeof data) < 0) note("%s", error_name(errno));
  }
  pthread_join(thread, NULL);
  CALL(shutdown(fd, SHUT_WR));
  close(fd);
  close(file);
}

static void files(void) {
  section("sendfile");
  signal(SIGPIPE, SIG_IGN);
  char name[] = "sendfile-XXXXXX";
  int file = mkstemp(name);
  unlink(name);
  MUST(write(file, data, sizeof data));
  int fd = pair_with_peer("x");
  off_t offset = 1000;
  CALL(sendfile(fd, file, &offset, 5000));
  note("offset %ld position %ld", (long)offset, (long)lseek(file, 0, SEEK_CUR));
  peer("receive x 5000");
  lseek(file, 200, SEEK_SET);
  CALL(sendfile(fd, file, NULL, 3000));
  note("position %ld", (long)lseek(file, 0, SEEK_CUR));
  peer("receive x 3000");
  offset = sizeof data - 10;
  CALL(sendfile(fd, file, &offset, 5000));
  peer("receive x 10");
  CALL(sendfile(fd, file, &offset, 5000));
  CALL(sendfile(fd, file, &offset, 0));
  offset = -1;
  CALL(sendfile(fd, file, &offset, 10));
  peer("sink x");
  offset = 0;
  long total = 0, count;
  while ((count = sendfile(fd, file, &offset, sizeof data - total)) > 0)
    total += count;
  note("%ld", total);
  note("from the middle of a page");
  total = 0;
  offset = 4099;
  while ((count = sendfile(fd, file, &offset, sizeof data)) > 0) total += count;
  note("%ld", total);
  CALL(shutdown(fd, SHUT_WR));
  peer("wait x");
  CALL(sendfile(fd, file, NULL, 10) == -1);
  CALL(sendfile(file, fd, NULL, 10));
  close(fd);
  peer("close x");
  note("non-blocking");
  fd = pair_with_peer("x");
  nonblocking(fd);
  set_option(fd, SOL_SOCKET, SO_SNDBUF, 20000);
  total = 0;
  for (int i = 0; i < 3; i++, settle())
    for (offset = 0; (count = sendfile(fd, file, &offset, sizeof data)) > 0;)
      total += count, offset = offset >= (off_t)sizeof data ? 0 : offset;
  note("until full: %d, %ld %s", total > 20000, count, error_name(errno));
  close(fd);
  peer("close x");
  note("to a socket that is not connected");
  fd = socket(AF_INET, SOCK_STREAM, 0);
  offset = 0;
  CALL(sendfile(fd, file, &offset, 10));
  close(fd);
  CALL(sendfile(99, file, &offset, 10));
  close(file);
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  vectors();
  messages();
  files();
  shrinking_file();
  note("\nend");
}
