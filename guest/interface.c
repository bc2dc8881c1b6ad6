/* The private network's card, by rtnetlink and ioctl: no program is run, nothing is waited for. */
#include "interface.h"
#include "netlink.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>

size_t address_bytes(const struct address *address)
{
	return address->family == AF_INET ? 4 : 16;
}

bool address_same(const struct address *one, const struct address *other)
{
	return one->family == other->family && !memcmp(one->bytes, other->bytes, address_bytes(one));
}

/* Not by rtnetlink: a clone has run nothing of its code for cards, and would have to, once, which takes milliseconds. */
static int ask_card(int fd, const struct interface *interface, unsigned long what, struct ifreq *request)
{
	memcpy(request->ifr_name, interface->name, sizeof request->ifr_name);
	return ioctl(fd, what, request) ? errno : 0;
}

int interface_find(int fd, struct interface *interface)
{
	struct ifreq request = {0};
	int error = ask_card(fd, interface, SIOCGIFINDEX, &request);
	interface->index = request.ifr_ifindex;
	if (!error && !(error = ask_card(fd, interface, SIOCGIFFLAGS, &request)))
		interface->up = request.ifr_flags & IFF_UP;
	if (!error && !(error = ask_card(fd, interface, SIOCGIFHWADDR, &request)))
		memcpy(interface->mac, request.ifr_hwaddr.sa_data, MAC_BYTES);
	return error;
}

static int set_mac(int fd, const struct interface *interface, const uint8_t *mac)
{
	struct ifreq request = {.ifr_hwaddr.sa_family = ARPHRD_ETHER};
	memcpy(request.ifr_hwaddr.sa_data, mac, MAC_BYTES);
	return ask_card(fd, interface, SIOCSIFHWADDR, &request);
}

static int set_up(int fd, const struct interface *interface, bool up)
{
	struct ifreq request = {0};
	int error = ask_card(fd, interface, SIOCGIFFLAGS, &request);
	if (error)
		return error;
	request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
	return ask_card(fd, interface, SIOCSIFFLAGS, &request);
}

/* The kernel's own link-local address would be checked for doubles first: a second in which it cannot be used. */
static void make_no_address(int fd, const struct interface *interface)
{
	struct netlink_request request;
	struct ifinfomsg link = {.ifi_index = interface->index};
	const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
	netlink_begin(&request, RTM_NEWLINK, 0, &link, sizeof link);
	size_t families = netlink_nest(&request, IFLA_AF_SPEC), family = netlink_nest(&request, AF_INET6);
	netlink_add(&request, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof none);
	netlink_nest_end(&request, family);
	netlink_nest_end(&request, families);
	netlink_ask(fd, &request, NULL, NULL); /* a kernel without IPv6 makes none anyway */
}

int interface_start(int fd, struct interface *interface, const uint8_t mac[MAC_BYTES])
{
	int error = 0;
	if (memcmp(interface->mac, mac, MAC_BYTES) != 0) {
		error = set_mac(fd, interface, mac);
		if (error == EBUSY) { /* a driver that changes it only while the card is down */
			error = set_up(fd, interface, false);
			interface->up = false;
			if (!error)
				error = set_mac(fd, interface, mac);
		}
	}
	if (!error && !interface->up) {
		make_no_address(fd, interface);
		error = set_up(fd, interface, true);
	}
	return error;
}

struct found {
	const struct interface *interface;
	struct address *addresses;
	size_t count;
};

static void take_address(void *owner, const struct nlmsghdr *answer)
{
	struct found *found = owner;
	const struct ifaddrmsg *told = NLMSG_DATA(answer);
	if (answer->nlmsg_type != RTM_NEWADDR || answer->nlmsg_len < NLMSG_LENGTH(sizeof *told) ||
	    (int)told->ifa_index != found->interface->index || found->count == ADDRESSES_AT_ONCE ||
	    (told->ifa_family != AF_INET && told->ifa_family != AF_INET6))
		return;
	struct address *address = &found->addresses[found->count];
	*address = (struct address){.family = told->ifa_family, .prefix = told->ifa_prefixlen};
	/* IFA_ADDRESS is the far end's where there is one, IFA_LOCAL not everywhere in IPv6 */
	const void *bytes = netlink_attribute(answer, sizeof *told, IFA_LOCAL, address_bytes(address));
	if (!bytes)
		bytes = netlink_attribute(answer, sizeof *told, IFA_ADDRESS, address_bytes(address));
	if (!bytes)
		return;
	memcpy(address->bytes, bytes, address_bytes(address));
	found->count++;
}

int interface_addresses(int fd, const struct interface *interface, struct address *addresses, size_t *count)
{
	struct netlink_request request;
	struct found found = {interface, addresses, 0};
	netlink_begin(&request, RTM_GETADDR, NLM_F_DUMP, &(struct ifaddrmsg){.ifa_family = AF_UNSPEC},
		      sizeof(struct ifaddrmsg));
	int error = netlink_ask(fd, &request, take_address, &found);
	*count = found.count;
	return error;
}

static bool is_link_local(const struct address *address)
{
	return address->family == AF_INET6 && address->bytes[0] == 0xfe && (address->bytes[1] & 0xc0) == 0x80;
}

static int change_address(int fd, uint16_t type, uint16_t flags, const struct interface *interface,
			  const struct address *address)
{
	struct netlink_request request;
	struct ifaddrmsg told = {
		.ifa_family = address->family,
		.ifa_prefixlen = address->prefix,
		.ifa_flags = address->family == AF_INET6 ? IFA_F_NODAD : 0,
		.ifa_scope = is_link_local(address) ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
		.ifa_index = (uint32_t)interface->index,
	};
	netlink_begin(&request, type, flags, &told, sizeof told);
	netlink_add(&request, IFA_LOCAL, address->bytes, address_bytes(address));
	netlink_add(&request, IFA_ADDRESS, address->bytes, address_bytes(address));
	if (address->family == AF_INET && address->prefix < 31) {
		struct in_addr all;
		memcpy(&all, address->bytes, sizeof all);
		all.s_addr |= htonl(UINT32_MAX >> address->prefix);
		netlink_add(&request, IFA_BROADCAST, &all, sizeof all);
	}
	return netlink_ask(fd, &request, NULL, NULL);
}

int interface_add(int fd, const struct interface *interface, const struct address *address)
{
	int error = change_address(fd, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, interface, address);
	return error == EEXIST ? 0 : error;
}

int interface_remove(int fd, const struct interface *interface, const struct address *address)
{
	int error = change_address(fd, RTM_DELADDR, 0, interface, address);
	return error == EADDRNOTAVAIL ? 0 : error;
}

int interface_route(int fd, const struct interface *interface, const struct address *gateway,
		    const struct address *source)
{
	struct netlink_request request;
	struct rtmsg route = {
		.rtm_family = gateway->family,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = RTPROT_STATIC,
		.rtm_scope = RT_SCOPE_UNIVERSE,
		.rtm_type = RTN_UNICAST,
	};
	netlink_begin(&request, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route, sizeof route);
	netlink_add(&request, RTA_GATEWAY, gateway->bytes, address_bytes(gateway));
	netlink_add(&request, RTA_OIF, &interface->index, sizeof interface->index);
	if (source)
		netlink_add(&request, RTA_PREFSRC, source->bytes, address_bytes(source));
	return netlink_ask(fd, &request, NULL, NULL);
}

/* A route that is to go: the kernel's list is read to its end before anything is taken out of it. */
struct routes {
	const struct interface *interface;
	struct netlink_request requests[4];
	size_t count;
};

static void take_route(void *owner, const struct nlmsghdr *answer)
{
	struct routes *routes = owner;
	const struct rtmsg *route = NLMSG_DATA(answer);
	if (answer->nlmsg_type != RTM_NEWROUTE || answer->nlmsg_len < NLMSG_LENGTH(sizeof *route) ||
	    route->rtm_table != RT_TABLE_MAIN || route->rtm_family != AF_INET6 || route->rtm_flags & RTM_F_CLONED ||
	    routes->count == sizeof routes->requests / sizeof *routes->requests)
		return;
	const int *index = netlink_attribute(answer, sizeof *route, RTA_OIF, sizeof *index);
	if (!index || *index != routes->interface->index)
		return;
	struct netlink_request *request = &routes->requests[routes->count++];
	netlink_begin(request, RTM_DELROUTE, 0, route, sizeof *route);
	static const struct {
		uint16_t type;
		size_t length;
	} parts[] = {{RTA_DST, 16}, {RTA_GATEWAY, 16}, {RTA_PRIORITY, 4}, {RTA_OIF, 4}};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		const void *part = netlink_attribute(answer, sizeof *route, parts[i].type, parts[i].length);
		if (part)
			netlink_add(request, parts[i].type, part, parts[i].length);
	}
}

int interface_forget_routes(int fd, const struct interface *interface)
{
	struct netlink_request request;
	struct routes routes = {.interface = interface};
	int rounds = 64, error;
	do {
		routes.count = 0;
		netlink_begin(&request, RTM_GETROUTE, NLM_F_DUMP, &(struct rtmsg){.rtm_family = AF_INET6},
			      sizeof(struct rtmsg));
		error = netlink_ask(fd, &request, take_route, &routes);
		for (size_t i = 0; i < routes.count && !error; i++) {
			error = netlink_ask(fd, &routes.requests[i], NULL, NULL);
			if (error == ESRCH) /* gone with another */
				error = 0;
		}
	} while (!error && routes.count && --rounds);
	return error == EAFNOSUPPORT || error == EOPNOTSUPP ? 0 : error; /* no IPv6, none of its routes */
}
