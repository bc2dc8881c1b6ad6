/* The Unix socket where programs in the guest ask: a line of JSON in, a line of JSON out. */
#ifndef LOCAL_H
#define LOCAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Listens; exits with a message when that cannot be. */
void local_open(const char *path);
void local_close(void);

/* The host's answer to a call. */
void local_reply(const json_t *reply);

/* A new session began: the call named is answered with this VM's vmid, what only reads is asked again,
 * and all else fails. */
void local_session(uint32_t call);

/* There is room again for calls to the host. */
void local_resume(void);

#endif
