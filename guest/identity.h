/* Who this VM is: told by the host at the beginning of every session. */
#ifndef IDENTITY_H
#define IDENTITY_H

#include <jansson.h>

/* Becomes what a session message says. On failure *step names what failed; 0 or an errno. */
int identity_take(const json_t *session, int64_t received_ns, const char **step);

/* The VMs of the virtual cluster have changed: a hosts message. */
void identity_hosts(const json_t *message);

/* The address on the private network of an identity, "" if it has none. */
const char *identity_address(const json_t *of);

/* What this VM is; NULL before the first session. */
const json_t *identity(void);

#endif
