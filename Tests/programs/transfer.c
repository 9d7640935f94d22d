// Large transfers, both directions at once in two threads, by each pair of calls; sums at both ends.
// row: seconds=120 alone
#include "probe.h"

static long amount;

struct direction {
  int fd, way;
  long bytes;
  uint32_t crc;
};

enum { PLAIN, VECTORS, POLLED, WAITALL };

static void *sending(void *argument) {
  struct direction *direction = argument;
  // A period of 251 in a block that is a multiple of it: the pattern goes on from block to block.
  static unsigned char block[251 * 400];
  pattern(block, sizeof block, 7);
  long left = amount;
  size_t at = 0;
  while (left > 0) {
    size_t piece = sizeof block - at < (size_t)left ? sizeof block - at : (size_t)left;
    ssize_t count = -1;
    if (direction->way == VECTORS) {
      size_t half = piece / 2;
      struct iovec parts[] = {{block + at, half}, {block + at + half, piece - half}};
      count = writev(direction->fd, parts, 2);
    } else if (direction->way == POLLED) {
      struct pollfd entry = {.fd = direction->fd, .events = POLLOUT};
      poll(&entry, 1, -1);
      count = send(direction->fd, block + at, piece, MSG_DONTWAIT);
      if (count < 0 && errno == EAGAIN)
        continue;
    } else
      count = send(direction->fd, block + at, piece, MSG_NOSIGNAL);
    if (count <= 0)
      break;
    left -= count;
    at = (at + count) % sizeof block;
  }
  shutdown(direction->fd, SHUT_WR);
  direction->bytes = amount - left;
  return NULL;
}

static void *receiving(void *argument) {
  struct direction *direction = argument;
  unsigned char *block = malloc(1 << 18);
  while (true) {
    ssize_t count;
    if (direction->way == VECTORS) {
      struct iovec parts[] = {{block, 1000}, {block + 1000, 30000}, {block + 31000, 100000}};
      count = readv(direction->fd, parts, 3);
    } else if (direction->way == POLLED) {
      struct pollfd entry = {.fd = direction->fd, .events = POLLIN};
      poll(&entry, 1, -1);
      count = recv(direction->fd, block, 1 << 18, MSG_DONTWAIT);
      if (count < 0 && errno == EAGAIN)
        continue;
    } else
      count = recv(direction->fd, block, direction->way == WAITALL ? 100000 : 1 << 18, direction->way == WAITALL ? MSG_WAITALL : 0);
    if (count <= 0)
      break;
    direction->crc = crc32(direction->crc, block, count);
    direction->bytes += count;
  }
  free(block);
  return NULL;
}

int main(void) {
  begin();
  const char *ways[] = {"send and recv", "writev and readv", "poll, send and recv without waiting", "send and recv with WAITALL"};
  const char *total = getenv("TRANSFER_BYTES");
  amount = (total ? atol(total) : 1 << 24) / 4;
  for (int way = 0; way < 4; way++) {
    section(ways[way]);
    int fd = way % 2 ? accepted_from_peer("x") : pair_with_peer("x");
    peer("pump x %ld %d", amount, way);
    peer("sink x");
    struct direction out = {.fd = fd, .way = way}, in = {.fd = fd, .way = way};
    pthread_t sender, receiver;
    pthread_create(&sender, NULL, sending, &out);
    pthread_create(&receiver, NULL, receiving, &in);
    pthread_join(sender, NULL);
    pthread_join(receiver, NULL);
    note("sent %ld, received %ld crc %08x", out.bytes, in.bytes, in.crc);
    peer("wait x");
    peer("wait x.pump");
    close(fd);
    peer("close x");
  }
  section("small writes");
  int fd = pair_with_peer("x");
  peer("sink x");
  unsigned char bytes[251];
  pattern(bytes, sizeof bytes, 0);
  for (int i = 0; i < 5000; i++)
    for (int at = 0, piece = 1 + i % 100; at < 251; at += piece)
      if (send(fd, bytes + at, at + piece > 251 ? 251 - at : piece, 0) < 0)
        break;
  shutdown(fd, SHUT_WR);
  peer("wait x");
  close(fd);
  peer("close x");
  note("\nend");
}
