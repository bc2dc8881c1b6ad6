/* Runs hooks, one after the other, beside everything else that the agent does. */
#ifndef HOOKS_H
#define HOOKS_H

#include "hook_list.h"

#include <jansson.h>
#include <sys/types.h>

struct hook_run;

/* failed: an array of {"name", "message"}, the run's; NULL: none. fatal: the last of them was. */
typedef void hooks_over(void *owner, json_t *failed, bool fatal);

/* Begins those of a stage, with these variables (an object, whose reference it takes). over is called once, later.
 * NULL: there are none, and it never is. */
struct hook_run *hooks_run(enum hook_stage stage, json_t *environment, hooks_over *over, void *owner);

/* The hook that runs goes on to its end, no further one begins; then over is called all the same. */
void hooks_stop(struct hook_run *run);

/* Within so many milliseconds it is over, whatever the hooks do. */
int64_t hooks_most_ms(const struct hook_run *run);

/* A child is about to be reaped, and was. */
void hooks_ending(pid_t pid);
void hooks_ended(pid_t pid, int status);

/* What the last of these failures says: "pre-clone.d/10-flush: exit status 1: disk full". */
void hooks_last(const json_t *failed, char *text, size_t room);

/* The variables that a hook gets, as a new object. vmids NULL: GC_VMIDS is not there. */
json_t *hooks_environment(const json_t *identity, const char *ticket, const json_t *vmids);

#endif
