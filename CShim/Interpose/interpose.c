#include "anp_support.h"
int anp_probe_swift(int);
__attribute__((visibility("default"))) int anp_testsym(int fd) { return anp_probe_swift(fd); }
