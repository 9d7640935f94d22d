// Between privilege.c and spawn.c: what a child does to its capabilities before execve.
#pragma once
void anp_privilege_as_before(void);
void anp_privilege_hand_on(void);
