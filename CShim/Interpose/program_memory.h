// The program's own allocator, whichever it is: what programs are given and give back (lists of addresses) comes from there, so
// that they may take such a list apart as they may libc's. Never for anything of the library's own.
#pragma once

#include <stddef.h>

void *anp_program_malloc(size_t bytes);
void anp_program_free(void *block);
char *anp_program_strdup(const char *text);
