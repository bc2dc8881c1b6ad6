/* The network card of the private network: what it has, and what it is given. */
#ifndef INTERFACE_H
#define INTERFACE_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ADDRESSES_AT_ONCE = 64, MAC_BYTES = 6 };

/* An address with its network's size; family is AF_INET or AF_INET6. */
struct address {
	uint8_t family, prefix, bytes[16];
};

struct interface {
	char name[IF_NAMESIZE];
	int index;
	uint8_t mac[MAC_BYTES];
	bool up;
};

/* All of these return 0 or an errno; fd is a socket of NETLINK_ROUTE. */

/* Finds the card of interface->name. ENODEV: there is none. */
int interface_find(int fd, struct interface *interface);

/* Has the card up and under this MAC, without taking it down where the driver can do that: its neighbours are forgotten. */
int interface_start(int fd, struct interface *interface, const uint8_t mac[MAC_BYTES]);

/* Some of the card's addresses: *count becomes how many, at most ADDRESSES_AT_ONCE. */
int interface_addresses(int fd, const struct interface *interface, struct address *addresses, size_t *count);

/* Gives or takes an address: one that is there already, or not there any more, is no failure. */
int interface_add(int fd, const struct interface *interface, const struct address *address);
int interface_remove(int fd, const struct interface *interface, const struct address *address);

/* The way out by this gateway, instead of any other of its family; source: the card's address that it is used with, or NULL. */
int interface_route(int fd, const struct interface *interface, const struct address *gateway,
		    const struct address *source);

/* Forgets IPv6 routes over the card; those of IPv4 go with its last address. */
int interface_forget_routes(int fd, const struct interface *interface);

size_t address_bytes(const struct address *address);
bool address_same(const struct address *one, const struct address *other); /* whatever their prefixes */

#endif
