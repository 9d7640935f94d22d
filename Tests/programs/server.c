// The program as a server: accept4, many connections, wildcard and own address, threads, orderly ends.
// row: seconds=40
#include "probe.h"

static void *echo(void *argument) {
  int fd = (int)(intptr_t)argument;
  char bytes[4096];
  long count, total = 0;
  while ((count = recv(fd, bytes, sizeof bytes, 0)) > 0) {
    for (long sent = 0, n; sent < count; sent += n)
      if ((n = send(fd, bytes + sent, count - sent, MSG_NOSIGNAL)) <= 0)
        break;
    total += count;
  }
  close(fd);
  return (void *)(intptr_t)total;
}

static void flags(void) {
  section("accept4");
  int listener = listening(7210, 8);
  for (int i = 0; i < 4; i++) {
    peer("connect c 7210");
    int fd = OPEN(accept4(listener, NULL, NULL, (i & 1 ? SOCK_NONBLOCK : 0) | (i & 2 ? SOCK_CLOEXEC : 0)));
    note("nonblock %d cloexec %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK), fcntl(fd, F_GETFD));
    close(fd);
    peer("close c");
  }
  note("O_NONBLOCK of the listener is not inherited");
  nonblocking(listener);
  peer("connect c 7210");
  settle();
  int fd = OPEN(accept(listener, NULL, NULL));
  note("nonblock %d", !!(fcntl(fd, F_GETFL) & O_NONBLOCK));
  close(fd);
  close(listener);
  peer("close c");
}

static void addresses(void) {
  section("wildcard and own address");
  int any = socket(AF_INET, SOCK_STREAM, 0), own = socket(AF_INET, SOCK_STREAM, 0);
  set_option(any, SOL_SOCKET, SO_REUSEADDR, 1);
  set_option(own, SOL_SOCKET, SO_REUSEADDR, 1);
  CALL(bind(own, HOST(7211)));
  CALL(listen(own, 4));
  CALL(bind(any, ANY(7211)));
  CALL(listen(any, 4));
  close(any);
  peer("connect c 7211");
  int fd = OPEN(accept(own, NULL, NULL));
  show_names(fd);
  close(fd);
  close(own);
  peer("close c");

  section("listen without bind");
  own = socket(AF_INET, SOCK_STREAM, 0);
  CALL(listen(own, 4));
  struct sockaddr_in name;
  socklen_t length = sizeof name;
  CALL(getsockname(own, (struct sockaddr *)&name, &length));
  char command[64];
  snprintf(command, sizeof command, "connect c %d", ntohs(name.sin_port));
  note("%s", peer_ask(command));
  fd = OPEN(accept(own, NULL, NULL));
  close(fd);
  close(own);
  peer("close c");

  section("SO_REUSEPORT shares connections");
  int a = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), b = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  set_option(a, SOL_SOCKET, SO_REUSEPORT, 1);
  set_option(b, SOL_SOCKET, SO_REUSEPORT, 1);
  CALL(bind(a, ANY(7212)));
  CALL(bind(b, ANY(7212)));
  CALL(listen(a, 64));
  CALL(listen(b, 64));
  for (int i = 0; i < 32; i++) {
    snprintf(command, sizeof command, "connect c%d 7212", i);
    peer_ask(command);
  }
  settle();
  int at_a = 0, at_b = 0;
  while ((fd = accept(a, NULL, NULL)) >= 0)
    at_a++, close(fd);
  while ((fd = accept(b, NULL, NULL)) >= 0)
    at_b++, close(fd);
  note("%d in all, each has some %d", at_a + at_b, at_a > 0 && at_b > 0);
  close(a);
  peer("connect d 7212");
  settle();
  OPEN(accept(b, NULL, NULL));
  close(b);
}

static void concurrent(void) {
  section("a thread for each of 20 connections");
  int listener = listening(7213, 32);
  pthread_t threads[20];
  char command[64];
  for (int i = 0; i < 20; i++) {
    snprintf(command, sizeof command, "connect e%d 7213", i);
    peer_ask(command);
    pthread_create(&threads[i], NULL, echo, (void *)(intptr_t)accept(listener, NULL, NULL));
  }
  int right = 0;
  for (int i = 0; i < 20; i++) {
    snprintf(command, sizeof command, "pump e%d %d %d", i, 10000 + i * 1000, i);
    peer_ask(command);
    snprintf(command, sizeof command, "sink e%d", i);
    peer_ask(command);
  }
  for (int i = 0; i < 20; i++) {
    snprintf(command, sizeof command, "wait e%d", i);
    const char *reply = peer_ask(command);
    right += strtol(reply + 3, NULL, 10) == 10000 + i * 1000 && strstr(reply, "eof");
    if (i == 7)
      note("%s", reply);
  }
  long total = 0;
  for (int i = 0; i < 20; i++) {
    void *count;
    pthread_join(threads[i], &count);
    total += (intptr_t)count;
  }
  note("%d of 20 echoed whole, %ld bytes", right, total);
  close(listener);

  section("200 connections, one after the other");
  listener = listening(7214, 8);
  long served = 0;
  for (int i = 0; i < 200; i++) {
    peer_ask("connect s 7214");
    int fd = accept(listener, NULL, NULL);
    char bytes[64];
    peer_ask("send s 20");
    if (recv(fd, bytes, 20, MSG_WAITALL) == 20 && send(fd, bytes, 20, 0) == 20)
      served++;
    close(fd);
    served += strstr(peer_ask("receive s 30"), "20 bytes") != NULL;
    peer_ask("close s");
  }
  note("%ld", served);
  close(listener);

  section("200 connections of ours, one after the other");
  peer("listen l 7215");
  served = 0;
  for (int i = 0; i < 200; i++) {
    int fd = connected(7215);
    peer_ask("accept s l");
    send(fd, "hello", 5, 0);
    served += strstr(peer_ask("receive s 5"), "5 bytes") != NULL;
    close(fd);
    peer_ask("close s");
  }
  note("%ld", served);

  section("300 connections at once");
  static int fds[300];
  served = 0;
  for (int i = 0; i < 300; i++) {
    fds[i] = connected(7215);
    snprintf(command, sizeof command, "accept m%d l", i);
    peer_ask(command);
  }
  for (int i = 0; i < 300; i++) {
    char text[8];
    snprintf(text, sizeof text, "%05d", i);
    send(fds[299 - i], text, 5, 0);
  }
  struct pollfd entries[300];
  for (int i = 0; i < 300; i++) {
    snprintf(command, sizeof command, "receive m%d 5", i);
    served += strstr(peer_ask(command), "5 bytes") != NULL;
    snprintf(command, sizeof command, "send m%d 9 %d", i, i);
    peer_ask(command);
    entries[i] = (struct pollfd){.fd = fds[i], .events = POLLIN};
  }
  settle();
  note("%ld sent, poll %d", served, poll(entries, 300, 0));
  served = 0;
  for (int i = 0; i < 300; i++) {
    unsigned char got[16], expected[9];
    pattern(expected, 9, i);
    served += recv(fds[i], got, 16, 0) == 9 && memcmp(got, expected, 9) == 0;
    close(fds[i]);
  }
  note("%ld received", served);
}

int main(void) {
  begin();
  flags();
  addresses();
  concurrent();
  note("\nend");
}
