// The calls that a fortified program makes: __read_chk, __recv_chk, __recvfrom_chk, __poll_chk, __ppoll_chk, and stdio.
// row: seconds=30
#undef _FORTIFY_SOURCE
#define _FORTIFY_SOURCE 2
#include "probe.h"

// Lengths that the compiler cannot know make it emit the checked twins.
static volatile size_t length = 40;
static volatile nfds_t one = 1;

int main(void) {
  begin();
  char bytes[64];
  int fd = pair_with_peer("x");
  peer("send x 100");
  settle();
  show_bytes("read", bytes, CALL(read(fd, bytes, length)));
  length = 20;
  show_bytes("recv", bytes, CALL(recv(fd, bytes, length, 0)));
  struct sockaddr_storage name;
  socklen_t room = sizeof name;
  show_bytes("recvfrom", bytes, CALL(recvfrom(fd, bytes, length, 0, (struct sockaddr *)&name, &room)));
  struct pollfd entries[2] = {{.fd = fd, .events = POLLIN | POLLOUT}};
  CALL(poll(entries, one, 100));
  note("%s", poll_names((unsigned short)entries[0].revents));
  CALL(ppoll(entries, one, &(struct timespec){0, 1000000}, NULL));
  note("%s", poll_names((unsigned short)entries[0].revents));
  fd_set set;
  FD_ZERO(&set);
  volatile int number = fd;
  FD_SET(number, &set);
  CALL(select(number + 1, &set, NULL, NULL, &(struct timeval){0, 0}));
  note("%d", !!FD_ISSET(number, &set));
  show_bytes("the rest", bytes, CALL(recv(fd, bytes, sizeof bytes, 0)));
  CALL(recv(fd, bytes, length, MSG_DONTWAIT));
  CALL(dprintf(fd, "%s %d", "formatted", 42));
  peer("receive x 12");
  close(fd);
  peer("close x");
  note("a read that would overflow ends the program");
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    length = 1000;
    read(STDIN_FILENO, bytes, length);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  note("aborted %d", WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  note("\nend");
}
