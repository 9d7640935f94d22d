#include "anp_support.h"
int anp_probe(int fd) { return fd; }
