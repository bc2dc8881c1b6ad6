/* Steps on the private network: away from the parent's addresses, then to this VM's own. */
#include "network.h"
#include "agent.h"
#include "connections.h"
#include "interface.h"
#include "netlink.h"
#include "replace.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PRIVATE = 3, PUBLIC_MOST = 32, ROUNDS = 64, NAME_MOST = 253 };

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyz0123456789.-"

struct network {
	struct interface interface;
	uint8_t mac[MAC_BYTES];
	struct address own[PRIVATE + PUBLIC_MOST]; /* of IPv4 first; of IPv6, then the link's own; then public ones */
	struct address gateways[2];
	size_t own_count, gateway_count;
};

/* What follows from the MAC, as every other system has it too (RFC 4291, appendix A). */
static struct address link_local(const uint8_t *mac)
{
	return (struct address){
		.family = AF_INET6,
		.prefix = 64,
		.bytes = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]},
	};
}

static bool read_mac(const char *text, uint8_t *mac)
{
	int end = 0;
	return text &&
	       sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
		      &mac[5], &end) == MAC_BYTES &&
	       !text[end];
}

static bool read_address(const json_t *net, const char *key, const char *prefix, uint8_t family, struct address *to)
{
	const char *text = json_text(net, key);
	int64_t bits = prefix ? json_number(net, prefix, 0) : 0;
	*to = (struct address){.family = family, .prefix = (uint8_t)bits};
	return text && inet_pton(family, text, to->bytes) == 1 && (!prefix || bits >= 1) &&
	       bits <= (int64_t)address_bytes(to) * 8;
}

/* Addresses that are the VM's own in the world, as its host routes them. */
static int read_public(const json_t *all, struct network *network)
{
	size_t i;
	json_t *one;
	json_array_foreach (all, i, one) {
		const char *text = json_string_value(one);
		if (!text || network->own_count == PRIVATE + PUBLIC_MOST)
			return EINVAL;
		struct address *to = &network->own[network->own_count++];
		*to = (struct address){.family = strchr(text, ':') ? AF_INET6 : AF_INET};
		to->prefix = (uint8_t)(address_bytes(to) * 8);
		if (inet_pton(to->family, text, to->bytes) != 1)
			return EINVAL;
	}
	return 0;
}

static int read_network(const json_t *net, struct network *network)
{
	*network = (struct network){0};
	const char *device = json_text(net, "device");
	if (!device || !*device || strlen(device) >= sizeof network->interface.name ||
	    !read_mac(json_text(net, "mac"), network->mac) ||
	    !read_address(net, "address", "prefix", AF_INET, &network->own[0]) ||
	    !read_address(net, "address6", "prefix6", AF_INET6, &network->own[1]))
		return EINVAL;
	strcpy(network->interface.name, device);
	network->own[2] = link_local(network->mac);
	static const struct {
		const char *key;
		uint8_t family;
	} ways[] = {{"gateway", AF_INET}, {"gateway6", AF_INET6}};
	for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
		if (json_text(net, ways[i].key) &&
		    !read_address(net, ways[i].key, NULL, ways[i].family, &network->gateways[network->gateway_count++]))
			return EINVAL;
	network->own_count = PRIVATE;
	return read_public(json_object_get(net, "public"), network);
}

static bool is_own(const struct network *network, const struct address *address)
{
	for (size_t i = 0; i < network->own_count; i++)
		if (address_same(address, &network->own[i]))
			return true;
	return false;
}

/* The card's addresses that are not this VM's; more: there may be others. */
static int find_foreign(int fd, const struct network *network, struct address *foreign, size_t *count, bool *more)
{
	size_t all, kept = 0;
	int error = interface_addresses(fd, &network->interface, foreign, &all);
	for (size_t i = 0; i < all && !error; i++)
		if (!is_own(network, &foreign[i]))
			foreign[kept++] = foreign[i];
	*count = kept;
	*more = kept && all == ADDRESSES_AT_ONCE;
	return error;
}

/* Nothing can leave from an address that is gone, nor without a route: not even what ends a connection. */
static int leave(int fd, const struct network *network, const struct address *foreign, size_t count)
{
	int error = interface_forget_routes(fd, &network->interface);
	for (size_t i = 0; i < count && !error; i++)
		error = interface_remove(fd, &network->interface, &foreign[i]);
	return error ? error : connections_end(foreign, count);
}

static int leave_all(int fd, const struct network *network)
{
	struct address foreign[ADDRESSES_AT_ONCE];
	size_t count;
	bool more = true;
	int error = 0, rounds = ROUNDS;
	while (!error && more && rounds--) {
		error = find_foreign(fd, network, foreign, &count, &more);
		if (!error && count)
			error = leave(fd, network, foreign, count);
		else if (!error)
			connections_end(foreign, 0); /* a master's: the kernel loads what clones will need, if it has it */
	}
	return error ? error : more ? E2BIG : 0;
}

int network_leave(const json_t *net)
{
	struct network network;
	int error = read_network(net, &network);
	int fd = error ? -1 : netlink_open(NETLINK_ROUTE);
	if (fd < 0)
		return error ? error : errno;
	error = interface_find(fd, &network.interface);
	if (error == ENODEV) /* the next step says so */
		error = 0;
	else if (!error)
		error = leave_all(fd, &network);
	close(fd);
	return error;
}

/* An address whose network grew is there twice for a moment: connections do not notice. */
static int drop_former_prefixes(int fd, const struct network *network)
{
	struct address now[ADDRESSES_AT_ONCE];
	size_t count;
	int error = interface_addresses(fd, &network->interface, now, &count);
	for (size_t i = 0; i < count && !error; i++)
		for (size_t own = 0; own < network->own_count && !error; own++)
			if (address_same(&now[i], &network->own[own]) && now[i].prefix != network->own[own].prefix)
				error = interface_remove(fd, &network->interface, &now[i]);
	return error;
}

/* What it sends to the world is from its first public address of this family; NULL: from its private one. */
static const struct address *source_for(const struct network *network, uint8_t family)
{
	for (size_t i = PRIVATE; i < network->own_count; i++)
		if (network->own[i].family == family)
			return &network->own[i];
	return NULL;
}

static int join(int fd, struct network *network)
{
	bool no_ipv6 = false;
	int error = interface_find(fd, &network->interface);
	if (!error)
		error = interface_start(fd, &network->interface, network->mac);
	for (size_t i = 0; i < network->own_count && !error; i++) {
		error = interface_add(fd, &network->interface, &network->own[i]);
		if (network->own[i].family == AF_INET6 &&
		    (error == EACCES || error == EAFNOSUPPORT || error == EOPNOTSUPP)) {
			no_ipv6 = true; /* its administrator turned it off */
			error = 0;
		}
	}
	if (!error)
		error = drop_former_prefixes(fd, network);
	for (size_t i = 0; i < network->gateway_count && !error; i++) {
		const struct address *gateway = &network->gateways[i];
		if (gateway->family == AF_INET || !no_ipv6)
			error = interface_route(fd, &network->interface, gateway, source_for(network, gateway->family));
	}
	return error;
}

int network_join(const json_t *net)
{
	struct network network;
	int error = read_network(net, &network);
	int fd = error ? -1 : netlink_open(NETLINK_ROUTE);
	if (fd < 0)
		return error ? error : errno;
	error = join(fd, &network);
	close(fd);
	return error;
}

/* A link is another program's, which writes what it leads to; unless that is beside our own files. */
static bool is_anothers(const char *path)
{
	char to[256];
	ssize_t length = readlink(path, to, sizeof to);
	size_t own = strlen(options.run_dir);
	return length >= 0 && !((size_t)length > own && !strncmp(to, options.run_dir, own) && to[own] == '/');
}

int network_resolver(const json_t *net)
{
	struct in6_addr address;
	char text[352];
	const char *resolver = json_text(net, "resolver"), *search = json_text(net, "search");
	const char *path = "/etc/resolv.conf";
	if (!resolver || is_anothers(path))
		return 0;
	if (inet_pton(AF_INET, resolver, &address) != 1 && inet_pton(AF_INET6, resolver, &address) != 1)
		return EINVAL;
	if (search && (!*search || strlen(search) > NAME_MOST || strspn(search, NAME_CHARACTERS) != strlen(search)))
		return EINVAL;
	int length = snprintf(text, sizeof text, "nameserver %s\n%s%s%s", resolver, search ? "search " : "",
			      search ? search : "", search ? "\n" : "");
	return replace_file(path, text, (size_t)length, 0644);
}
