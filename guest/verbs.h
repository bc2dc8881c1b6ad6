/* What programs may ask for, and who answers. */
#ifndef VERBS_H
#define VERBS_H

#include <jansson.h>
#include <stdbool.h>

struct verb {
	const char *name;
	json_t *(*answer)(const json_t *identity); /* the result, from what the agent knows; NULL: the host answers */
	bool only_reads;			   /* may be asked again when a session is cut off */
};

const struct verb *verb_named(const char *name); /* NULL: unknown */
void verbs_list(char *to, size_t room);		 /* their names, with commas */

#endif
