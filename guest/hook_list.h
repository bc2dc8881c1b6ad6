/* Which hooks there are around a fork: executable files of the administrator's, by the rules of run-parts. */
#ifndef HOOK_LIST_H
#define HOOK_LIST_H

#include <stdbool.h>
#include <stddef.h>

enum hook_stage {
	HOOKS_BEFORE,	 /* in the VM that clones, before the fork */
	HOOKS_IN_CLONE,	 /* in each clone, once its identity is its own */
	HOOKS_IN_CALLER, /* in the VM that cloned, after the fork */
};

struct hook {
	struct hook *next;
	bool fatal; /* when it fails, no other of its stage runs, and what it is for does not happen */
	int error;  /* an errno: it is none, but a folder that cannot be read */
	char name[]; /* as pre-clone.d/10-flush */
};

/* Those of a stage, in the order that they run in; NULL: none. The caller frees each. */
struct hook *hook_list(enum hook_stage stage);
void hook_list_free(struct hook *list);

/* Whether there are any, of any stage, for the VM that clones. */
bool hook_list_any(void);

/* How long a hook may take: hook_timeout_s of agent.conf. */
int hook_limit_ms(void);

#endif
