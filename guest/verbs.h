/* What programs may ask for, and who answers. */
#ifndef VERBS_H
#define VERBS_H

#include <jansson.h>
#include <stdbool.h>

/* Whether a call that a session's end cut off is asked again in the next one. */
enum again {
	AGAIN_NEVER,
	AGAIN_HERE, /* unless this is a clone by now: it was the parent's */
	AGAIN_ALWAYS, /* it only reads */
};

struct verb {
	const char *name;
	json_t *(*answer)(const json_t *identity); /* the result, from what the agent knows; NULL: the host answers */
	enum again again;
};

const struct verb *verb_named(const char *name); /* NULL: unknown */
void verbs_list(char *to, size_t room);		 /* their names, with commas */

#endif
