/* Connections that the VM took over from the one that it was copied from. */
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include "interface.h"

/* Ends all TCP and UDP sockets with one of these addresses as theirs; whoever uses one gets ECONNABORTED. Sockets that
 * listen live. Nothing can be sent from an address that the VM has no more, so take the addresses away first.
 * 0 or an errno; EPROTONOSUPPORT: this kernel cannot. */
int connections_end(const struct address *addresses, size_t count);

#endif
