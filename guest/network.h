/* What the host says of this VM's place on the private network: identity.net. */
#ifndef NETWORK_H
#define NETWORK_H

#include <jansson.h>
#include <stdint.h>

/* A step of a copy that is another VM: the card has no address any more that is not this VM's, and the connections that
 * had one are ended. `net` is identity.net; 0 or an errno, as in all of these. */
int network_leave(const json_t *net);

/* A step: the card is up, under this VM's MAC and addresses, without a check for doubles, and with its routes. */
int network_join(const json_t *net);

/* A step: names are asked for where the host says. */
int network_resolver(const json_t *net);

#endif
