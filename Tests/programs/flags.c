// Flags of send and recv: PEEK, DONTWAIT, WAITALL, TRUNC, NOSIGNAL and SIGPIPE, MORE, and odd ones.
// row: seconds=30
#include "probe.h"

static volatile sig_atomic_t pipe_signals;
static void on_sigpipe(int number) {
  (void)number;
  pipe_signals++;
}

static unsigned char data[100000], got[100000];

static void receiving(void) {
  int fd = pair_with_peer("x");
  section("nothing there");
  CALL(recv(fd, got, 10, MSG_DONTWAIT));
  CALL(recv(fd, got, 10, MSG_DONTWAIT | MSG_PEEK));
  CALL(recv(fd, got, 10, MSG_DONTWAIT | MSG_WAITALL));
  CALL(recv(fd, got, 0, MSG_DONTWAIT));
  CALL(recv(fd, got, 10, MSG_DONTWAIT | MSG_OOB));

  section("MSG_PEEK");
  peer("send x 100");
  settle();
  show_bytes("peek", got, CALL(recv(fd, got, 10, MSG_PEEK)));
  show_bytes("peek", got, CALL(recv(fd, got, 200, MSG_PEEK)));
  show_bytes("recv", got, CALL(recv(fd, got, 30, 0)));
  show_bytes("peek", got, CALL(recv(fd, got, 200, MSG_PEEK | MSG_DONTWAIT)));
  show_bytes("recv", got, CALL(recv(fd, got, 200, 0)));
  CALL(recv(fd, got, 200, MSG_PEEK | MSG_DONTWAIT));
  peer("send x 5");
  settle();
  peer("send x 5 5");
  settle();
  show_bytes("peek over two segments", got, CALL(recv(fd, got, 200, MSG_PEEK)));
  show_bytes("recv", got, CALL(recv(fd, got, 7, 0)));
  show_bytes("recv", got, CALL(recv(fd, got, 200, 0)));

  section("MSG_WAITALL");
  peer("later 100 send x 40");
  peer("send x 60 40");
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_WAITALL)));
  peer("wait later");
  peer("send x 60");
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_WAITALL | MSG_DONTWAIT)));
  peer("later 100 send x 50");
  show_bytes("peek", got, CALL(recv(fd, got, 50, MSG_WAITALL | MSG_PEEK)));
  peer("wait later");
  show_bytes("recv", got, CALL(recv(fd, got, 100, 0)));
  CALL(fcntl(fd, F_SETFL, O_NONBLOCK));
  peer("send x 60");
  settle();
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_WAITALL)));
  CALL(recv(fd, got, 100, MSG_WAITALL));
  CALL(fcntl(fd, F_SETFL, 0));

  section("MSG_TRUNC drops");
  peer("send x 1000");
  settle();
  memset(got, 0x55, sizeof got);
  CALL(recv(fd, got, 400, MSG_TRUNC));
  note("untouched %d", got[0] == 0x55);
  CALL(recv(fd, NULL, 100, MSG_TRUNC));
  show_bytes("the rest", got, CALL(recv(fd, got, 1000, 0)));

  section("several flags, unknown ones");
  peer("send x 10");
  settle();
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_PEEK | MSG_NOSIGNAL)));
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_CMSG_CLOEXEC | MSG_PEEK)));
  show_bytes("recv", got, CALL(recv(fd, got, 100, 0x08000000)));
  CALL(recv(fd, got, 100, MSG_ERRQUEUE));

  section("MSG_WAITALL and the end");
  peer("send x 30");
  peer("shutdown x w");
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_WAITALL)));
  CALL(recv(fd, got, 100, MSG_WAITALL));
  CALL(recv(fd, got, 100, MSG_PEEK));
  CALL(recv(fd, got, 100, MSG_DONTWAIT));
  close(fd);
  peer("close x");

  section("MSG_WAITALL and a reset");
  fd = pair_with_peer("x");
  peer("send x 30");
  peer("later 100 reset x");
  show_bytes("recv", got, CALL(recv(fd, got, 100, MSG_WAITALL)));
  CALL(recv(fd, got, 100, 0));
  CALL(recv(fd, got, 100, 0));
  peer("wait later");
  close(fd);
}

static void sending(void) {
  section("SIGPIPE");
  signal(SIGPIPE, on_sigpipe);
  int fd = pair_with_peer("x");
  CALL(shutdown(fd, SHUT_WR));
  CALL(send(fd, data, 10, 0));
  note("signals %d", pipe_signals);
  CALL(send(fd, data, 10, MSG_NOSIGNAL));
  note("signals %d", pipe_signals);
  CALL(write(fd, data, 10));
  note("signals %d", pipe_signals);
  CALL(writev(fd, (struct iovec[]){{data, 10}}, 1));
  note("signals %d", pipe_signals);
  CALL(sendmsg(fd, &(struct msghdr){.msg_iov = &(struct iovec){data, 10}, .msg_iovlen = 1}, 0));
  note("signals %d", pipe_signals);
  CALL(send(fd, data, 0, 0));
  note("signals %d", pipe_signals);
  close(fd);
  peer("close x");
  pipe_signals = 0;
  fd = pair_with_peer("x");
  peer("close x");
  settle();
  CALL(send(fd, data, 10, 0));
  settle();
  note("signals %d", pipe_signals);
  CALL(send(fd, data, 10, 0));
  note("signals %d", pipe_signals);
  CALL(send(fd, data, 10, 0));
  note("signals %d", pipe_signals);
  close(fd);
  signal(SIGPIPE, SIG_DFL);
  section("SIGPIPE ends a program");
  pid_t child = fork();
  if (child == 0) {
    int own = socket(AF_INET, SOCK_STREAM, 0);
    send(own, data, 10, 0);
    _exit(9);
  }
  int status = 0;
  waitpid(child, &status, 0);
  note("signalled %d by SIGPIPE %d, code %d", WIFSIGNALED(status), WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE,
       WIFEXITED(status) ? WEXITSTATUS(status) : -1);

  section("a full buffer");
  fd = pair_with_peer("x");
  MUST(set_option(fd, SOL_SOCKET, SO_SNDBUF, 20000));
  long total = fill(fd);
  note("more than 20000: %d", total > 20000);
  CALL(send(fd, data, 1, MSG_DONTWAIT));
  CALL(send(fd, data, 0, MSG_DONTWAIT));
  show_poll(fd, POLLOUT, 0);
  char command[64];
  snprintf(command, sizeof command, "receive x %ld", total);
  note("all arrives: %d", strtol(peer_ask(command) + 3, NULL, 10) == total);
  show_poll(fd, POLLOUT, 1000);

  section("MSG_MORE");
  int listener = listening(7130, 1);
  peer("connect y 7130");
  int other = accept(listener, NULL, NULL);
  set_option(other, IPPROTO_TCP, TCP_NODELAY, 1);
  CALL(send(other, data, 100, MSG_MORE));
  CALL(send(other, data, 100, MSG_MORE));
  peer("quiet y 100");
  CALL(send(other, data, 100, 0));
  peer("segments y 300");
  note("TCP_CORK");
  CALL(set_option(other, IPPROTO_TCP, TCP_CORK, 1));
  CALL(send(other, data, 100, 0));
  CALL(write(other, data, 100));
  peer("quiet y 100");
  CALL(set_option(other, IPPROTO_TCP, TCP_CORK, 0));
  peer("segments y 200");
  note("a cork gives way after 200 ms");
  CALL(set_option(other, IPPROTO_TCP, TCP_CORK, 1));
  CALL(send(other, data, 100, 0));
  peer("quiet y 120");
  peer("receive y 100");
  CALL(set_option(other, IPPROTO_TCP, TCP_CORK, 0));
  note("MSG_MORE and end");
  CALL(send(other, data, 100, MSG_MORE));
  CALL(shutdown(other, SHUT_WR));
  peer("receive y 200");
  close(other);
  close(listener);
  close(fd);
  peer("close x y");
}

int main(void) {
  begin();
  pattern(data, sizeof data, 0);
  receiving();
  sending();
  note("\nend");
}
