#pragma once
#include <stdint.h>
int anp_probe(int fd);
