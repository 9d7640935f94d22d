// A program that uses descriptors of many kinds, in threads and children too, but no internet socket, and says what is in its process afterwards: threads,
// children, descriptors. Under libanp.so it must say the same as without. With the argument `internet` it also connects a
// TCP socket to 198.18.0.5 (without waiting for an answer), which must show.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <linux/netlink.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void must(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

static void use_kernel_descriptors(void) {
  int pair[2], pipes[2];
  char byte = 'x';
  must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  must(pipe(pipes) == 0, "pipe");
  must(write(pair[0], &byte, 1) == 1 && write(pipes[1], &byte, 1) == 1, "write");
  int set = epoll_create1(EPOLL_CLOEXEC);
  must(set >= 0, "epoll_create1");
  struct epoll_event event = {.events = EPOLLIN};
  must(epoll_ctl(set, EPOLL_CTL_ADD, pair[1], &event) == 0 && epoll_wait(set, &event, 1, 1000) == 1, "epoll");
  struct pollfd entry = {.fd = pipes[0], .events = POLLIN};
  must(poll(&entry, 1, 1000) == 1, "poll");
  must(recv(pair[1], &byte, 1, 0) == 1 && read(pipes[0], &byte, 1) == 1, "read");
  int copy = dup(pair[0]);
  must(copy >= 0 && shutdown(copy, SHUT_WR) == 0, "dup");
  int unix_socket = socket(AF_UNIX, SOCK_DGRAM, 0), netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  must(unix_socket >= 0 && netlink >= 0, "socket");
  struct sockaddr_un name = {.sun_family = AF_UNIX};
  snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "quiet-%d", getpid());
  must(bind(unix_socket, (struct sockaddr *)&name, sizeof name) == 0, "bind");
  int all[] = {pair[0], pair[1], pipes[0], pipes[1], set, copy, unix_socket, netlink};
  for (size_t at = 0; at < sizeof all / sizeof *all; at++) close(all[at]);
}

static void *use_them_in_a_thread(void *nothing) {
  use_kernel_descriptors();
  return nothing;
}

static void *fork_in_a_thread(void *nothing) {
  pid_t child = fork();
  must(child >= 0, "fork");
  // The child ends with its one thread, not with main's end.
  if (child == 0) pthread_exit(NULL);
  int status = -1;
  must(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child");
  return nothing;
}

static void in_threads(void *(*body)(void *)) {
  pthread_t thread;
  must(pthread_create(&thread, NULL, body, NULL) == 0 && pthread_join(thread, NULL) == 0, "a thread");
}

static void use_the_internet(void) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(9)};
  inet_pton(AF_INET, "198.18.0.5", &peer.sin_addr);
  connect(fd, (struct sockaddr *)&peer, sizeof peer);
}

static void list(const char *folder, int links) {
  DIR *open_folder = opendir(folder);
  must(open_folder != NULL, folder);
  int own = dirfd(open_folder), count = 0;
  for (struct dirent *entry; (entry = readdir(open_folder));) {
    if (entry->d_name[0] == '.' || (links && atoi(entry->d_name) == own)) continue;
    count++;
    char target[256] = "";
    if (links && readlinkat(own, entry->d_name, target, sizeof target - 1) > 0 && strcmp(target, "/dev/net/tun") == 0)
      puts("a TAP device is open");
  }
  printf("%s: %d\n", links ? "descriptors" : "threads", count);
  closedir(open_folder);
}

// Also those without an exit signal, which wait(2) does not see.
static void count_children(void) {
  DIR *all = opendir("/proc");
  must(all != NULL, "/proc");
  int count = 0;
  for (struct dirent *entry; (entry = readdir(all));) {
    if (atoi(entry->d_name) <= 0) continue;
    char path[300], line[256];
    snprintf(path, sizeof path, "/proc/%s/status", entry->d_name);
    FILE *status = fopen(path, "re");
    if (!status) continue;
    while (fgets(line, sizeof line, status))
      if (strncmp(line, "PPid:", 5) == 0 && atoi(line + 5) == getpid()) count++;
    fclose(status);
  }
  closedir(all);
  printf("children: %d\n", count);
}

int main(int argc, char **argv) {
  in_threads(use_them_in_a_thread);
  in_threads(fork_in_a_thread);
  use_kernel_descriptors();
  if (argc > 1 && strcmp(argv[1], "internet") == 0) use_the_internet();
  list("/proc/self/task", 0);
  count_children();
  list("/proc/self/fd", 1);
  return 0;
}
