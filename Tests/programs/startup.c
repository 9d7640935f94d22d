// What does preloading a library add to the start of a program? Runs PROGRAM in turn under BASELINE and under LIBRARY and
// compares the medians of the times from posix_spawn to its end. In turn, because the machine's pace drifts.
// usage: startup BASELINE.so LIBRARY.so RUNS PROGRAM [ARGUMENT ...]
#define _GNU_SOURCE
#include <errno.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double microseconds(const char *library, char **argv) {
  char preload[4096];
  snprintf(preload, sizeof preload, "LD_PRELOAD=%s", library);
  char *environment[] = {preload, "PATH=/usr/bin:/bin", NULL};
  struct timespec before, after;
  pid_t child;
  int status;
  clock_gettime(CLOCK_MONOTONIC, &before);
  int error = posix_spawn(&child, argv[0], NULL, NULL, argv, environment);
  if (error) {
    fprintf(stderr, "startup: %s: %s\n", argv[0], strerror(error));
    exit(2);
  }
  waitpid(child, &status, 0);
  clock_gettime(CLOCK_MONOTONIC, &after);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    fprintf(stderr, "startup: %s under %s ended with status 0x%x\n", argv[0], library, status);
    exit(2);
  }
  return (after.tv_sec - before.tv_sec) * 1e6 + (after.tv_nsec - before.tv_nsec) / 1e3;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *times, int count) {
  qsort(times, count, sizeof *times, ascending);
  return count % 2 ? times[count / 2] : (times[count / 2 - 1] + times[count / 2]) / 2;
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: startup BASELINE.so LIBRARY.so RUNS PROGRAM [ARGUMENT ...]\n");
    return 2;
  }
  int runs = atoi(argv[3]);
  double *baseline = calloc(runs, sizeof *baseline), *library = calloc(runs, sizeof *library);
  for (int warm_up = 0; warm_up < 5; warm_up++) microseconds(argv[1], argv + 4), microseconds(argv[2], argv + 4);
  for (int run = 0; run < runs; run++) {
    baseline[run] = microseconds(argv[1], argv + 4);
    library[run] = microseconds(argv[2], argv + 4);
  }
  double without = median(baseline, runs), with = median(library, runs), ratio = with / without;
  printf("%s, median of %d: %.0f us with an empty library, %.0f us with %s, ratio %.3f\n", argv[4], runs, without, with,
         strrchr(argv[2], '/') ? strrchr(argv[2], '/') + 1 : argv[2], ratio);
  return 0;
}
