// Every socket option of SOL_SOCKET, IPPROTO_TCP and IPPROTO_IP: defaults, what is set, limits, lengths, errors.
// row: seconds=30
#include "probe.h"

struct named {
  int level, name;
  const char *text;
};
#define O(level, name) {level, name, #name}

static void set_and_get(int fd, const struct named *option, int value) {
  int result = setsockopt(fd, option->level, option->name, &value, sizeof value), error = errno;
  int got = -77;
  socklen_t length = sizeof got;
  printf("%s set %d: %s", option->text, value, result == 0 ? "ok" : strerrorname_np(error));
  if (getsockopt(fd, option->level, option->name, &got, &length) == 0)
    printf(", get %d length %u\n", got, length);
  else
    printf(", get %s\n", strerrorname_np(errno));
}

static void defaults(const char *what, int fd, const struct named *options, size_t count) {
  section(what);
  for (size_t i = 0; i < count; i++) {
    int value = -77;
    socklen_t length = sizeof value;
    errno = 0;
    if (getsockopt(fd, options[i].level, options[i].name, &value, &length) == 0)
      note("%s = %d length %u", options[i].text, value, length);
    else
      note("%s: %s", options[i].text, strerrorname_np(errno));
  }
}

#define COUNT(array) (sizeof(array) / sizeof *(array))

// Options with one integer whose value does not depend on the machine.
static const struct named common[] = {
    O(SOL_SOCKET, SO_REUSEADDR), O(SOL_SOCKET, SO_REUSEPORT), O(SOL_SOCKET, SO_KEEPALIVE), O(SOL_SOCKET, SO_BROADCAST),
    O(SOL_SOCKET, SO_OOBINLINE), O(SOL_SOCKET, SO_DONTROUTE), O(SOL_SOCKET, SO_RCVLOWAT),  O(SOL_SOCKET, SO_SNDLOWAT),
    O(SOL_SOCKET, SO_TYPE),      O(SOL_SOCKET, SO_DOMAIN),    O(SOL_SOCKET, SO_PROTOCOL),  O(SOL_SOCKET, SO_ACCEPTCONN),
    O(SOL_SOCKET, SO_ERROR),     O(SOL_SOCKET, SO_PRIORITY),  O(SOL_SOCKET, SO_TIMESTAMP), O(SOL_SOCKET, SO_MARK),
    O(IPPROTO_IP, IP_TOS),       O(IPPROTO_IP, IP_TTL),       O(IPPROTO_IP, IP_RECVERR),   O(IPPROTO_IP, IP_PKTINFO),
    O(IPPROTO_IP, IP_RECVTTL),   O(IPPROTO_IP, IP_RECVTOS),   O(IPPROTO_IP, IP_FREEBIND),  O(IPPROTO_IP, IP_MTU_DISCOVER),
    O(IPPROTO_IP, IP_MTU),       O(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
};
static const struct named stream[] = {
    O(IPPROTO_TCP, TCP_NODELAY),      O(IPPROTO_TCP, TCP_CORK),      O(IPPROTO_TCP, TCP_KEEPIDLE),
    O(IPPROTO_TCP, TCP_KEEPINTVL),    O(IPPROTO_TCP, TCP_KEEPCNT),   O(IPPROTO_TCP, TCP_SYNCNT),
    O(IPPROTO_TCP, TCP_LINGER2),      O(IPPROTO_TCP, TCP_DEFER_ACCEPT), O(IPPROTO_TCP, TCP_WINDOW_CLAMP),
    O(IPPROTO_TCP, TCP_QUICKACK),     O(IPPROTO_TCP, TCP_USER_TIMEOUT), O(IPPROTO_TCP, TCP_MAXSEG),
    O(IPPROTO_TCP, TCP_NOTSENT_LOWAT), O(IPPROTO_TCP, TCP_FASTOPEN),
};

static void integers(void) {
  int s = socket(AF_INET, SOCK_STREAM, 0), d = socket(AF_INET, SOCK_DGRAM, 0);
  defaults("defaults of a stream", s, common, COUNT(common));
  defaults("defaults of a stream, TCP", s, stream, COUNT(stream));
  defaults("defaults of a datagram socket", d, common, COUNT(common));
  defaults("TCP's options on a datagram socket", d, stream, COUNT(stream));
  const struct named udp = O(IPPROTO_TCP, TCP_NODELAY);
  set_and_get(d, &udp, 1);

  section("booleans");
  const struct named booleans[] = {
      O(SOL_SOCKET, SO_REUSEADDR), O(SOL_SOCKET, SO_REUSEPORT), O(SOL_SOCKET, SO_KEEPALIVE), O(SOL_SOCKET, SO_BROADCAST),
      O(SOL_SOCKET, SO_OOBINLINE), O(IPPROTO_TCP, TCP_NODELAY), O(IPPROTO_TCP, TCP_CORK),    O(IPPROTO_IP, IP_RECVERR),
      O(IPPROTO_IP, IP_PKTINFO),   O(IPPROTO_IP, IP_RECVTTL),   O(IPPROTO_IP, IP_RECVTOS),   O(IPPROTO_IP, IP_FREEBIND)};
  for (size_t i = 0; i < COUNT(booleans); i++)
    for (int turn = 0; turn < 4; turn++)
      set_and_get(s, &booleans[i], (int[]){1, 0, 5, -1}[turn]);

  section("read-only");
  const struct named fixed[] = {O(SOL_SOCKET, SO_TYPE), O(SOL_SOCKET, SO_DOMAIN), O(SOL_SOCKET, SO_PROTOCOL),
                                O(SOL_SOCKET, SO_ACCEPTCONN), O(SOL_SOCKET, SO_ERROR), O(IPPROTO_IP, IP_MTU),
                                O(IPPROTO_TCP, TCP_INFO)};
  for (size_t i = 0; i + 1 < COUNT(fixed); i++)
    set_and_get(s, &fixed[i], 1);
  CALL(set_option(s, IPPROTO_TCP, TCP_INFO, 1));

  section("ranges");
  const struct {
    struct named option;
    int count, values[8];
  } ranges[] = {
      {O(SOL_SOCKET, SO_RCVLOWAT), 5, {1, 100, 0, -1, 1000000}},
      {O(IPPROTO_TCP, TCP_KEEPIDLE), 6, {1, 600, 32767, 32768, 0, -1}},
      {O(IPPROTO_TCP, TCP_KEEPINTVL), 6, {1, 600, 32767, 32768, 0, -1}},
      {O(IPPROTO_TCP, TCP_KEEPCNT), 6, {1, 127, 128, 0, -1, 5}},
      {O(IPPROTO_TCP, TCP_SYNCNT), 6, {1, 127, 128, 0, -1, 3}},
      {O(IPPROTO_TCP, TCP_LINGER2), 6, {5, 60, 120, 121, 0, -1}},
      {O(IPPROTO_TCP, TCP_DEFER_ACCEPT), 7, {1, 3, 7, 15, 100, 0, -1}},
      {O(IPPROTO_TCP, TCP_USER_TIMEOUT), 5, {1, 1000, 100000, 0, -1}},
      {O(IPPROTO_TCP, TCP_MAXSEG), 8, {88, 87, 1, 536, 1460, 9000, 32767, 32768}},
      {O(IPPROTO_TCP, TCP_NOTSENT_LOWAT), 4, {1, 16384, 0, -1}},
      {O(IPPROTO_TCP, TCP_WINDOW_CLAMP), 4, {1, 4096, 65536, 0}},
      {O(IPPROTO_TCP, TCP_QUICKACK), 3, {0, 1, 5}},
      {O(IPPROTO_IP, IP_TOS), 7, {0, 0x10, 0xb8, 0x13, 255, 256, -1}},
      {O(IPPROTO_IP, IP_TTL), 7, {1, 64, 255, 256, 0, -1, -2}},
      {O(IPPROTO_IP, IP_MTU_DISCOVER), 8, {0, 1, 2, 3, 4, 5, 6, -1}},
  };
  for (size_t i = 0; i < COUNT(ranges); i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    for (int j = 0; j < ranges[i].count; j++)
      set_and_get(fd, &ranges[i].option, ranges[i].values[j]);
    close(fd);
  }
  close(s);
  close(d);
}

static void buffers(void) {
  section("buffer sizes");
  const struct named options[] = {O(SOL_SOCKET, SO_RCVBUF), O(SOL_SOCKET, SO_SNDBUF)};
  const int sizes[] = {4096, 65536, 100000, 200000, 1, 0, 2303};
  for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
    int fd = socket(AF_INET, type, 0);
    note("type %d: receive %d send %d", type, option(fd, SOL_SOCKET, SO_RCVBUF), option(fd, SOL_SOCKET, SO_SNDBUF));
    for (size_t i = 0; i < COUNT(options); i++)
      for (size_t j = 0; j < COUNT(sizes); j++)
        set_and_get(fd, &options[i], sizes[j]);
    close(fd);
  }
}

static void structures(void) {
  section("SO_LINGER");
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct linger linger = {7, 7};
  socklen_t length = sizeof linger;
  CALL(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
  note("  on %d seconds %d length %u", linger.l_onoff, linger.l_linger, length);
  const struct linger values[] = {{1, 0}, {1, 10}, {0, 3}, {5, 5}, {1, 100000}};
  for (size_t i = 0; i < COUNT(values); i++) {
    note("set on %d seconds %d", values[i].l_onoff, values[i].l_linger);
    CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &values[i], sizeof values[i]));
    length = sizeof linger;
    CALL(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
    note("  on %d seconds %d length %u", linger.l_onoff, linger.l_linger, length);
  }
  CALL(setsockopt(fd, SOL_SOCKET, SO_LINGER, &values[0], 4));
  linger.l_linger = 77;
  length = 4;
  CALL(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
  note("  seconds untouched %d length %u", linger.l_linger == 77, length);

  section("time-outs");
  for (int name = SO_RCVTIMEO; name <= SO_SNDTIMEO; name++) {
    struct timeval value = {7, 7};
    length = sizeof value;
    CALL(getsockopt(fd, SOL_SOCKET, name, &value, &length));
    note("  %ld s %ld us length %u", (long)value.tv_sec, (long)value.tv_usec, length);
    const struct timeval times[] = {{1, 500000}, {0, 100000}, {3, 1000000}, {3, -1}, {-1, 0}, {0, 0}, {0, 1}};
    for (size_t i = 0; i < COUNT(times); i++) {
      note("set %ld s %ld us", (long)times[i].tv_sec, (long)times[i].tv_usec);
      CALL(setsockopt(fd, SOL_SOCKET, name, &times[i], sizeof times[i]));
      length = sizeof value;
      CALL(getsockopt(fd, SOL_SOCKET, name, &value, &length));
      // The last depends on the kernel's tick.
      if (i + 1 < COUNT(times))
        note("  %ld s %ld us length %u", (long)value.tv_sec, (long)value.tv_usec, length);
    }
    CALL(setsockopt(fd, SOL_SOCKET, name, &times[0], 8));
  }

  section("lengths");
  int value = 1;
  CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 3));
  CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 0));
  CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 100));
  CALL(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, -1));
  CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, 3));
  CALL(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, 1));
  CALL(setsockopt(fd, IPPROTO_IP, IP_TOS, (char[]){0x20}, 1));
  note("IP_TOS %d", option(fd, IPPROTO_IP, IP_TOS));
  CALL(setsockopt(fd, IPPROTO_IP, IP_TTL, (char[]){33}, 1));
  note("IP_TTL %d", option(fd, IPPROTO_IP, IP_TTL));
  CALL(setsockopt(fd, IPPROTO_IP, IP_TOS, &value, 0));
  for (int room = 0; room <= 8; room += 2) {
    struct {
      unsigned char bytes[8];
    } answer;
    const struct named names[] = {O(SOL_SOCKET, SO_KEEPALIVE), O(IPPROTO_TCP, TCP_NODELAY), O(IPPROTO_IP, IP_TTL)};
    for (size_t i = 0; i < COUNT(names); i++) {
      memset(&answer, 0x55, sizeof answer);
      length = room;
      int result = getsockopt(fd, names[i].level, names[i].name, &answer, &length);
      printf("%s room %d: %d length %u bytes", names[i].text, room, result, length);
      for (int j = 0; j < 8; j++)
        printf(" %02x", answer.bytes[j]);
      putchar('\n');
    }
  }
  length = -1;
  CALL(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length));
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length));
  CALL(getsockopt(fd, IPPROTO_IP, IP_TTL, &value, &length));

  section("unknown options and levels");
  length = sizeof value;
  CALL(getsockopt(fd, SOL_SOCKET, 9999, &value, &length));
  CALL(setsockopt(fd, SOL_SOCKET, 9999, &value, sizeof value));
  CALL(getsockopt(fd, IPPROTO_TCP, 9999, &value, &length));
  CALL(setsockopt(fd, IPPROTO_TCP, 9999, &value, sizeof value));
  CALL(getsockopt(fd, IPPROTO_IP, 9999, &value, &length));
  CALL(setsockopt(fd, IPPROTO_IP, 9999, &value, sizeof value));
  CALL(getsockopt(fd, 9999, 1, &value, &length));
  CALL(setsockopt(fd, 9999, 1, &value, sizeof value));
  CALL(getsockopt(-1, SOL_SOCKET, SO_TYPE, &value, &length));
  CALL(setsockopt(-1, SOL_SOCKET, SO_KEEPALIVE, &value, sizeof value));
  CALL(getsockopt(STDERR_FILENO, SOL_SOCKET, SO_TYPE, &value, &length));

  section("TCP_CONGESTION");
  char name[32];
  const char *algorithms[] = {"reno", "cubic", "nosuch", ""};
  for (size_t i = 0; i < COUNT(algorithms); i++) {
    note("set '%s'", algorithms[i]);
    CALL(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, algorithms[i], strlen(algorithms[i])));
    memset(name, 0x55, sizeof name);
    length = sizeof name;
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length));
    note("  '%.*s' length %u", (int)strnlen(name, length), name, length);
  }
  memset(name, 0x55, sizeof name);
  length = 3;
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length));
  note("  '%.*s' length %u byte beyond %#x", 3, name, length, name[3]);
  close(fd);
}

static void information(void) {
  section("TCP_INFO");
  struct tcp_info info;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  memset(&info, 0x55, sizeof info);
  socklen_t length = sizeof info;
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state %d length at least that of Linux 5.5: %d", info.tcpi_state, length >= 232);
  CALL(listen(fd, 7));
  length = sizeof info;
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state %d queued %u backlog %u", info.tcpi_state, info.tcpi_unacked, info.tcpi_sacked);
  close(fd);
  fd = pair_with_peer("x");
  unsigned char data[5000];
  pattern(data, sizeof data, 0);
  CALL(send(fd, data, sizeof data, 0));
  peer("receive x 5000");
  peer("send x 3000");
  CALL(recv(fd, data, 3000, MSG_WAITALL));
  settle();
  memset(&info, 0x55, sizeof info);
  length = sizeof info;
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state %d ca_state %d retransmits %d probes %d backoff %d", info.tcpi_state, info.tcpi_ca_state,
       info.tcpi_retransmits, info.tcpi_probes, info.tcpi_backoff);
  note("  timestamps %d sack %d wscale %d, scales above 0: %d %d", !!(info.tcpi_options & TCPI_OPT_TIMESTAMPS),
       !!(info.tcpi_options & TCPI_OPT_SACK), !!(info.tcpi_options & TCPI_OPT_WSCALE), info.tcpi_snd_wscale > 0,
       info.tcpi_rcv_wscale > 0);
  note("  rto sane %d snd_mss %u advmss %u pmtu %u", info.tcpi_rto >= 200000 && info.tcpi_rto < 3000000,
       info.tcpi_snd_mss, info.tcpi_advmss, info.tcpi_pmtu);
  note("  unacked %u sacked %u lost %u retrans %u total %u", info.tcpi_unacked, info.tcpi_sacked, info.tcpi_lost,
       info.tcpi_retrans, info.tcpi_total_retrans);
  note("  rtt sane %d rttvar sane %d min_rtt sane %d", info.tcpi_rtt > 0 && info.tcpi_rtt < 1000000,
       info.tcpi_rttvar > 0 && info.tcpi_rttvar < 1000000, info.tcpi_min_rtt > 0 && info.tcpi_min_rtt < 1000000);
  note("  cwnd at least 10: %d, ssthresh large %d, reordering %u", info.tcpi_snd_cwnd >= 10,
       info.tcpi_snd_ssthresh >= 0x7fffffff, info.tcpi_reordering);
  // Linux counts the SYN among the acknowledged.
  note("  bytes acked %llu received %llu sent %llu retransmitted %llu", (unsigned long long)info.tcpi_bytes_acked,
       (unsigned long long)info.tcpi_bytes_received, (unsigned long long)info.tcpi_bytes_sent,
       (unsigned long long)info.tcpi_bytes_retrans);
  note("  notsent %u, segments out %d in %d, data out %d in %d", info.tcpi_notsent_bytes, info.tcpi_segs_out > 2,
       info.tcpi_segs_in > 1, info.tcpi_data_segs_out > 0, info.tcpi_data_segs_in > 0);
  note("  idle: data sent %d ms received %d ms, above 50", info.tcpi_last_data_sent >= 50, info.tcpi_last_data_recv >= 50);
  note("  rcv_space above 0: %d, snd_wnd above 0: %d", info.tcpi_rcv_space > 0, info.tcpi_snd_wnd > 0);
  for (int room = 0; room <= 104; room += 26) {
    memset(&info, 0x55, sizeof info);
    length = room;
    CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
    note("  room %d: length %u byte beyond %#x", room, length, ((unsigned char *)&info)[room]);
  }
  peer("shutdown x w");
  settle();
  length = sizeof info;
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state after the peer's FIN %d", info.tcpi_state);
  CALL(shutdown(fd, SHUT_WR));
  settle();
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state after both %d", info.tcpi_state);
  close(fd);
  peer("close x");
  fd = pair_with_peer("x");
  CALL(shutdown(fd, SHUT_WR));
  settle();
  length = sizeof info;
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state after our FIN %d", info.tcpi_state);
  peer("reset x");
  settle();
  CALL(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length));
  note("  state after RST %d", info.tcpi_state);
  close(fd);
}

static void on_connections(void) {
  section("options of a connection");
  int fd = pair_with_peer("x");
  note("TCP_MAXSEG %d IP_MTU %d", option(fd, IPPROTO_TCP, TCP_MAXSEG), option(fd, IPPROTO_IP, IP_MTU));
  note("setting TCP_MAXSEG: %d", set_option(fd, IPPROTO_TCP, TCP_MAXSEG, 600));
  note("TCP_MAXSEG %d", option(fd, IPPROTO_TCP, TCP_MAXSEG));
  note("TCP_QUICKACK %d", option(fd, IPPROTO_TCP, TCP_QUICKACK));
  close(fd);
  peer("close x");

  section("TCP_MAXSEG set before");
  peer("listen l 7120");
  fd = socket(AF_INET, SOCK_STREAM, 0);
  CALL(set_option(fd, IPPROTO_TCP, TCP_MAXSEG, 600));
  CALL(connect(fd, PEER(7120)));
  peer("accept x l");
  note("TCP_MAXSEG %d", option(fd, IPPROTO_TCP, TCP_MAXSEG));
  close(fd);
  peer("close x");

  section("what an accepted socket inherits");
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  const struct named names[] = {O(SOL_SOCKET, SO_REUSEADDR),   O(SOL_SOCKET, SO_KEEPALIVE),  O(SOL_SOCKET, SO_RCVBUF),
                                O(SOL_SOCKET, SO_SNDBUF),      O(SOL_SOCKET, SO_RCVLOWAT),   O(IPPROTO_TCP, TCP_NODELAY),
                                O(IPPROTO_TCP, TCP_KEEPIDLE),  O(IPPROTO_TCP, TCP_KEEPCNT),  O(IPPROTO_TCP, TCP_KEEPINTVL),
                                O(IPPROTO_TCP, TCP_USER_TIMEOUT), O(IPPROTO_IP, IP_TOS),      O(IPPROTO_IP, IP_TTL),
                                O(IPPROTO_TCP, TCP_LINGER2),   O(IPPROTO_TCP, TCP_SYNCNT)};
  const int values[] = {1, 1, 20000, 30000, 10, 1, 111, 5, 22, 5000, 0x10, 77, 9, 3};
  for (size_t i = 0; i < COUNT(names); i++)
    set_and_get(listener, &names[i], values[i]);
  struct linger linger = {1, 5};
  struct timeval timeout = {2, 0};
  CALL(setsockopt(listener, SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
  CALL(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
  CALL(bind(listener, ANY(7121)));
  CALL(listen(listener, 3));
  peer("connect x 7121");
  fd = OPEN(accept(listener, NULL, NULL));
  for (size_t i = 0; i < COUNT(names); i++)
    note("%s = %d", names[i].text, option(fd, names[i].level, names[i].name));
  socklen_t length = sizeof linger;
  CALL(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
  note("  on %d seconds %d", linger.l_onoff, linger.l_linger);
  length = sizeof timeout;
  CALL(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length));
  note("  %ld s %ld us", (long)timeout.tv_sec, (long)timeout.tv_usec);
  note("accepts %d", option(fd, SOL_SOCKET, SO_ACCEPTCONN));
  linger.l_onoff = 0;
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
  close(fd);
  close(listener);
  peer("close x");

  section("SO_ERROR is told once");
  fd = pair_with_peer("x");
  peer("reset x");
  settle();
  show_error(fd);
  show_error(fd);
  char byte;
  CALL(recv(fd, &byte, 1, MSG_DONTWAIT));
  close(fd);
  fd = pair_with_peer("x");
  peer("reset x");
  settle();
  CALL(recv(fd, &byte, 1, MSG_DONTWAIT));
  CALL(recv(fd, &byte, 1, MSG_DONTWAIT));
  show_error(fd);
  close(fd);
}

static void on_the_wire(void) {
  section("IP_TOS and IP_TTL reach the wire");
  peer("udp u 7122");
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  CALL(set_option(fd, IPPROTO_IP, IP_TOS, 0xb8));
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, 9));
  CALL(sendto(fd, "hello", 5, 0, PEER(7122)));
  peer("udp-receive u");
  CALL(set_option(fd, IPPROTO_IP, IP_TTL, -1));
  CALL(set_option(fd, IPPROTO_IP, IP_TOS, 0));
  CALL(sendto(fd, "hello", 5, 0, PEER(7122)));
  peer("udp-receive u");
  close(fd);
}

int main(void) {
  begin();
  integers();
  buffers();
  structures();
  information();
  on_connections();
  on_the_wire();
  note("\nend");
}
