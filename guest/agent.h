/* What the parts of the agent know of each other: its options, and small helpers of all parts. */
#ifndef AGENT_H
#define AGENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct options {
	const char *port;    /* a character device or a Unix socket; NULL: find the virtio port */
	const char *socket;  /* where programs in the guest connect */
	const char *run_dir; /* identity and generation */
	const char *log_dir; /* output of hooks, and of commands that nobody reads any more */
	const char *conf_dir; /* the administrator's: hooks, and agent.conf */
	bool identity;	     /* make this machine the VM that the host says */
	const char *left_alone; /* without it: only these steps are not taken, with commas between; NULL: all */
};
extern struct options options;

int agent_main(int argc, char **argv);
int gc_main(int argc, char **argv);

/* json.c: members of a message from a peer: absent or of another type gives the default. */
void json_bound_memory(void);
const char *json_text(const json_t *object, const char *key);
int64_t json_number(const json_t *object, const char *key, int64_t absent);

/* base64.c. Decoding returns the number of bytes, -1 if it is not base64 or does not fit. */
ptrdiff_t base64_decode(const char *text, uint8_t *out, size_t room);
size_t base64_encode(const uint8_t *data, size_t length, char *out); /* 4 for every 3 begun, and a NUL */

#endif
