/* The Unix socket where programs in the guest ask: a line of JSON in, a line of JSON out. */
#ifndef LOCAL_H
#define LOCAL_H

#include "client.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Listens; exits with a message when that cannot be. */
void local_open(const char *path);
void local_close(void);

/* The host's answer to a call. */
void local_reply(const json_t *reply);

/* A new session began: of the calls of former ones, the one named is answered with this VM's vmid (and hooks, an
 * array of those that failed, or NULL), others are asked again as their verbs say, and all else fails. */
void local_session(uint32_t call, bool is_clone, json_t *hooks);

/* Asks the host for a client; returns the call. There must be room in the channel. */
uint32_t local_ask(struct client *client, const struct verb *verb, json_t *args);
void local_forget(struct client *client);

/* There is room again for calls to the host. */
void local_resume(void);

#endif
