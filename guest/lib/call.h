/* One call: a connection of its own to the agent, a line there, a line back. */
#ifndef LIB_CALL_H
#define LIB_CALL_H

#include "gridcentric/gc-guest.h"
#include "json.h"

#include <stdbool.h>

/* What the agent answered; text is to be freed, and result lies in it. */
struct answer {
	char *text;
	struct json result;
};

/* What a signal's handler does to a call that waits: see gc-guest(7). */
enum signals {
	SIGNALS_RESTART,   /* it waits on, as fork(2) */
	SIGNALS_INTERRUPT, /* EINTR, unless the handler has SA_RESTART, as waitpid(2) */
};

/* Asks; args is a format of a JSON object. On failure errno and gc_error() are set, and nothing is to be freed. */
__attribute__((format(printf, 4, 5))) bool call(struct answer *answer, enum signals signals, const char *verb,
						 const char *args, ...);

/* The same where nothing of the result is of interest: 0 or -1. */
__attribute__((format(printf, 3, 4))) int call_done(enum signals signals, const char *verb, const char *args, ...);

#endif
