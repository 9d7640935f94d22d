// A module of libc's name service, for scripts/matrix/rows/names.py: knows hosts below ".module", and 198.18.7.60 as one of them.
// What it is asked goes to the file NSS_MODULE_LOG names.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <nss.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const unsigned char address[4] = {198, 18, 7, 60};

static void note(const char *what) {
  const char *path = getenv("NSS_MODULE_LOG");
  int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
  if (fd < 0) return;
  dprintf(fd, "%s\n", what);
  close(fd);
}

static int is_ours(const char *name) {
  size_t length = strlen(name);
  return length > 7 && strcmp(name + length - 7, ".module") == 0;
}

static enum nss_status missing(int *error, int *herror) {
  *error = ENOENT;
  *herror = HOST_NOT_FOUND;
  return NSS_STATUS_NOTFOUND;
}

static enum nss_status fill(const char *name, struct hostent *host, char *buffer, size_t room, int *error, int *herror) {
  size_t length = strlen(name) + 1;
  if (room < 8 * sizeof(char *) + 4 + length) {
    *error = ERANGE;
    *herror = NETDB_INTERNAL;
    return NSS_STATUS_TRYAGAIN;
  }
  char **pointers = (char **)buffer, *text = (char *)(pointers + 4);
  memcpy(text, address, 4);
  memcpy(text + 4, name, length);
  pointers[0] = text;
  pointers[1] = pointers[2] = NULL;
  *host = (struct hostent){text + 4, pointers + 2, AF_INET, 4, pointers};
  return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_anptest_gethostbyname2_r(const char *name, int family, struct hostent *host, char *buffer, size_t room,
                                              int *error, int *herror) {
  note(name);
  if (!is_ours(name) || family != AF_INET) return missing(error, herror);
  return fill(name, host, buffer, room, error, herror);
}

enum nss_status _nss_anptest_gethostbyaddr_r(const void *bytes, socklen_t length, int family, struct hostent *host,
                                             char *buffer, size_t room, int *error, int *herror) {
  note("an address");
  if (family != AF_INET || length != 4 || memcmp(bytes, address, 4) != 0) return missing(error, herror);
  return fill("host.module", host, buffer, room, error, herror);
}
