/* Clone calls in a VM that has hooks: one after the other, each with its hooks before and after the fork. */
#ifndef TURNS_H
#define TURNS_H

#include "client.h"

/* Takes a clone call, with a reference to args; false: there are no hooks, and nobody's turn. */
bool turns_take(struct client *client, json_t *args);

/* A clone call that is no turn's goes to the host. It is looked here whether clones have hooks: reading folders as
   the first thing in a clone costs it a megabyte under emulation, for code that nothing else runs there. */
void turns_passed(uint32_t call);

/* Whether no clone of this call has hooks. */
bool turns_bare(uint32_t call);

/* The program has gone away. What its call began goes on to where others can begin. */
void turns_gone(struct client *client);

/* The host's answer to a clone call; false: it is no turn's. */
bool turns_reply(uint32_t call, const json_t *reply);

/* A new session began: in a clone, the parent's calls are over but for the one that made it; else those that were asked. */
void turns_session(uint32_t call, bool is_clone);

/* The clone that this call made is ready. */
void turns_made(uint32_t call);

/* There is room again for calls to the host. */
void turns_resume(void);

#endif
