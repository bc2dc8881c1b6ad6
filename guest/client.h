/* One connection of a program in the guest: its lines in, its answers out. */
#ifndef CLIENT_H
#define CLIENT_H

#include "loop.h"
#include "verbs.h"

#include <stddef.h>

struct client {
	struct source source;
	struct client *next;
	char *in, *out;
	size_t in_length, in_room, out_start, out_end;
	uint32_t call; /* asked of the host, and not yet answered; 0: none */
	uint32_t session; /* in which it was asked */
	const struct verb *verb;
	char *args;    /* of a call that may be asked again */
	bool ends, stalled;
	bool in_turn; /* its clone waits for others, or for hooks: see turns.h */
};

/* Takes the next request out of what was read: client.c calls it whenever nothing is under way. */
typedef void client_line(struct client *client, const char *line, size_t length);
/* The program has gone away: forget the client's call, then client_free it. */
typedef void client_gone(struct client *client);

struct client *client_new(int fd, client_line *line, client_gone *gone);
void client_free(struct client *client);

/* Queues {"errno", "result"} or {"errno", "message"} and drops the reference to result. */
void client_answer(struct client *client, int error, const char *message, json_t *result);

/* Reads on, or goes on with what was read. May free the client. */
void client_continue(struct client *client);

#endif
