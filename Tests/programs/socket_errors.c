// Errors and corner cases of socket, bind, listen, accept, getsockname, getpeername.
// row: seconds=30
#include "probe.h"

static void creation(void) {
  section("socket");
  OPEN(socket(AF_INET, SOCK_STREAM, 0));
  OPEN(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP));
  OPEN(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP));
  OPEN(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP));
  OPEN(socket(AF_INET, SOCK_DGRAM, IPPROTO_TCP));
  OPEN(socket(AF_INET, SOCK_STREAM, 300));
  OPEN(socket(AF_INET, SOCK_STREAM, -1));
  OPEN(socket(AF_INET, 99, 0));
  OPEN(socket(AF_INET, SOCK_SEQPACKET, 0));
  OPEN(socket(9999, SOCK_STREAM, 0));
  OPEN(socket(AF_INET, SOCK_STREAM | 0x40000000, 0));
  int fd = OPEN(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  note("nonblock %d cloexec %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
  note("domain %d type %d protocol %d accepts %d", option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, SOL_SOCKET, SO_TYPE),
       option(fd, SOL_SOCKET, SO_PROTOCOL), option(fd, SOL_SOCKET, SO_ACCEPTCONN));
  close(fd);
  fd = socket(AF_INET, SOCK_DGRAM, 0);
  note("domain %d type %d protocol %d accepts %d", option(fd, SOL_SOCKET, SO_DOMAIN), option(fd, SOL_SOCKET, SO_TYPE),
       option(fd, SOL_SOCKET, SO_PROTOCOL), option(fd, SOL_SOCKET, SO_ACCEPTCONN));
  struct stat information;
  CALL(fstat(fd, &information));
  note("is a socket: %d", S_ISSOCK(information.st_mode));
  CALL(lseek(fd, 0, SEEK_CUR));
  close(fd);
}

static void binding(void) {
  section("bind");
  int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0);
  show_names(a);
  CALL(bind(a, in4(host(), 7100), 2));
  CALL(bind(a, in4(host(), 7100), SIZE_IN - 1));
  int fresh = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(fresh, in4(host(), 7100), -1));
  close(fresh);
  CALL(bind(a, in6("::", 7100), SIZE_IN6));
  CALL(bind(a, in4("198.18.0.77", 7100), SIZE_IN));
  CALL(bind(a, HOST(7100)));
  show_names(a);
  CALL(bind(a, HOST(7101)));
  CALL(bind(b, HOST(7100)));
  CALL(bind(b, ANY(7100)));
  CALL(bind(b, ANY(7101)));
  show_names(b);
  CALL(close(a));
  CALL(close(b));
  CALL(bind(a, HOST(7100)));
  CALL(bind(-1, HOST(7100)));
  CALL(bind(STDERR_FILENO, HOST(7100)));

  section("bind to a port of the system's choice");
  a = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(a, ANY(0)));
  show_names(a);
  close(a);
  a = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(a, HOST(0)));
  show_names(a);
  close(a);

  section("bind, address reuse");
  for (int reuse = 0; reuse < 4; reuse++) {
    a = socket(AF_INET, SOCK_STREAM, 0);
    b = socket(AF_INET, SOCK_STREAM, 0);
    set_option(a, SOL_SOCKET, SO_REUSEADDR, reuse & 1);
    set_option(b, SOL_SOCKET, SO_REUSEADDR, !!(reuse & 2));
    note("reuse %d %d", reuse & 1, !!(reuse & 2));
    CALL(bind(a, ANY(7102)));
    CALL(bind(b, ANY(7102)));
    CALL(listen(a, 1));
    CALL(listen(b, 1));
    close(a);
    close(b);
  }
  for (int reuse = 0; reuse < 4; reuse++) {
    a = socket(AF_INET, SOCK_STREAM, 0);
    b = socket(AF_INET, SOCK_STREAM, 0);
    set_option(a, SOL_SOCKET, SO_REUSEPORT, reuse & 1);
    set_option(b, SOL_SOCKET, SO_REUSEPORT, !!(reuse & 2));
    note("reuse port %d %d", reuse & 1, !!(reuse & 2));
    CALL(bind(a, ANY(7103)));
    CALL(listen(a, 1));
    CALL(bind(b, ANY(7103)));
    CALL(listen(b, 1));
    close(a);
    close(b);
  }
  section("bind, one port of two kinds");
  a = socket(AF_INET, SOCK_STREAM, 0);
  b = socket(AF_INET, SOCK_DGRAM, 0);
  CALL(bind(a, ANY(7104)));
  CALL(bind(b, ANY(7104)));
  close(a);
  close(b);
  section("bind, while a connection on the port waits in TIME-WAIT");
  int listener = listening(7105, 4);
  peer("connect x 7105");
  a = OPEN(accept(listener, NULL, NULL));
  CALL(close(a));
  peer("receive x 1");
  peer("close x");
  settle();
  close(listener);
  b = socket(AF_INET, SOCK_STREAM, 0);
  CALL(bind(b, ANY(7105)));
  CALL(set_option(b, SOL_SOCKET, SO_REUSEADDR, 1));
  CALL(bind(b, ANY(7105)));
  CALL(listen(b, 1));
  close(b);
}

static void listening_states(void) {
  section("listen");
  int a = socket(AF_INET, SOCK_STREAM, 0), d = socket(AF_INET, SOCK_DGRAM, 0);
  CALL(listen(d, 1));
  CALL(listen(-1, 1));
  CALL(listen(STDERR_FILENO, 1));
  CALL(listen(a, 5));
  note("accepts %d", option(a, SOL_SOCKET, SO_ACCEPTCONN));
  show_names(a);
  CALL(listen(a, 10));
  CALL(listen(a, -1));
  CALL(connect(a, PEER(7999)));
  CALL(bind(a, ANY(7106)));
  char byte;
  CALL(recv(a, &byte, 1, MSG_DONTWAIT));
  CALL(send(a, &byte, 1, MSG_NOSIGNAL));
  CALL(read(a, &byte, 1));
  close(a);
  int c = pair_with_peer("x");
  CALL(listen(c, 1));
  CALL(bind(c, ANY(7107)));
  CALL(connect(c, PEER(7999)));
  close(c);
  peer("close x");

  section("accept");
  a = socket(AF_INET, SOCK_STREAM, 0);
  CALL(accept(a, NULL, NULL));
  CALL(accept(d, NULL, NULL));
  CALL(accept(-1, NULL, NULL));
  CALL(accept(STDERR_FILENO, NULL, NULL));
  int listener = listening(7108, 4);
  nonblocking(listener);
  CALL(accept(listener, NULL, NULL));
  CALL(accept4(listener, NULL, NULL, 0x12345));
  peer("connect x 7108 7555");
  show_poll(listener, POLLIN, 1000);
  struct sockaddr_storage name;
  memset(&name, 0, sizeof name);
  socklen_t length = sizeof name;
  int fd = OPEN(accept(listener, (struct sockaddr *)&name, &length));
  note("from %s length %u nonblock %d", address_text(&name), length, !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
  show_names(fd);
  close(fd);
  peer("receive x 1");
  peer("close x");
  section("accept with little room for the address");
  peer("connect x 7108");
  show_poll(listener, POLLIN, 1000);
  memset(&name, 0x55, sizeof name);
  length = 4;
  fd = OPEN(accept(listener, (struct sockaddr *)&name, &length));
  note("length %u, byte beyond %#x", length, ((unsigned char *)&name)[4]);
  close(fd);
  peer("close x");
  peer("connect x 7108");
  show_poll(listener, POLLIN, 1000);
  length = -1;
  OPEN(accept(listener, (struct sockaddr *)&name, &length));
  peer("close x");
  section("accept takes a connection that was reset meanwhile");
  while (accept(listener, NULL, NULL) >= 0)
    ;
  peer("connect x 7108");
  show_poll(listener, POLLIN, 1000);
  peer("reset x");
  settle();
  fd = OPEN(accept(listener, NULL, NULL));
  char bytes[8];
  CALL(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
  CALL(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
  close(fd);
  section("data and end that came before accept");
  peer("connect x 7108");
  peer("send x 5");
  peer("close x");
  settle();
  fd = OPEN(accept(listener, NULL, NULL));
  CALL(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
  CALL(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
  show_names(fd);
  close(fd);
  section("closing a listener resets what waits in its queue");
  peer("connect x 7108");
  settle();
  close(listener);
  peer("receive x 1");
  peer("connect y 7108");
  close(a);
  close(d);
}

static void names(void) {
  section("names with little room");
  int fd = pair_with_peer("x");
  struct sockaddr_storage name;
  for (socklen_t room = 0; room <= 20; room += 5) {
    memset(&name, 0x55, sizeof name);
    socklen_t length = room;
    CALL(getpeername(fd, (struct sockaddr *)&name, &length));
    note("  room %u: length %u, byte beyond %#x", room, length, ((unsigned char *)&name)[room]);
  }
  socklen_t length = -1;
  CALL(getsockname(fd, (struct sockaddr *)&name, &length));
  CALL(getpeername(fd, (struct sockaddr *)&name, &length));
  show_names(-1);
  show_names(STDERR_FILENO);
  close(fd);
  peer("close x");
}

static void unconnected(void) {
  section("calls on a socket that is not connected");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  char bytes[8] = "";
  CALL(recv(fd, bytes, 8, 0));
  CALL(read(fd, bytes, 8));
  CALL(send(fd, bytes, 8, MSG_NOSIGNAL));
  CALL(sendto(fd, bytes, 8, MSG_NOSIGNAL, PEER(7999)));
  CALL(recv(fd, bytes, 0, 0));
  CALL(send(fd, bytes, 0, MSG_NOSIGNAL));
  CALL(shutdown(fd, SHUT_RD));
  CALL(shutdown(fd, SHUT_WR));
  CALL(shutdown(fd, SHUT_RDWR));
  CALL(shutdown(fd, 7));
  show_error(fd);
  close(fd);
  section("calls on what is no socket");
  int pipes[2];
  MUST(pipe(pipes));
  CALL(recv(pipes[0], bytes, 8, 0));
  CALL(send(pipes[1], bytes, 8, 0));
  CALL(shutdown(pipes[0], SHUT_RD));
  CALL(option(pipes[0], SOL_SOCKET, SO_TYPE) == -ENOTSOCK);
  CALL(connect(pipes[0], PEER(7999)));
  section("calls on what is not open");
  CALL(recv(99, bytes, 8, 0));
  CALL(send(99, bytes, 8, 0));
  CALL(read(99, bytes, 8));
  CALL(write(99, bytes, 8));
  CALL(shutdown(99, SHUT_RD));
  CALL(connect(99, PEER(7999)));
  CALL(close(99));
  CALL(dup(99));
  CALL(fcntl(99, F_GETFL));
  fd = socket(AF_INET, SOCK_STREAM, 0);
  CALL(close(fd));
  CALL(close(fd));
  CALL(recv(fd, bytes, 8, 0));
}

int main(void) {
  begin();
  creation();
  binding();
  listening_states();
  names();
  unconnected();
  note("\nend");
}
