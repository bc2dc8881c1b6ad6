/* Old connections, found and ended by sock_diag as `ss --kill` does. */
#include "connections.h"
#include "netlink.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

/* In TIME_WAIT there is no socket any more, only a memory of one. */
enum { TCP_STATES = ~(1 << TCP_LISTEN | 1 << TCP_TIME_WAIT | 1 << TCP_CLOSE), TRIES = 3 };

struct ending {
	const struct address *addresses;
	size_t count;
	int fd, error; /* of those that could not be ended, the last one's */
	uint8_t protocol;
};

static bool is_old(const struct ending *ending, const struct inet_diag_msg *socket)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff}; /* IPv4 in a socket of IPv6 */
	struct address own = {.family = socket->idiag_family};
	memcpy(own.bytes, socket->id.idiag_src, sizeof own.bytes);
	if (own.family == AF_INET6 && !memcmp(own.bytes, mapped, sizeof mapped)) {
		own.family = AF_INET;
		memmove(own.bytes, own.bytes + sizeof mapped, 4);
	}
	for (size_t i = 0; i < ending->count; i++)
		if (address_same(&own, &ending->addresses[i]))
			return true;
	return false;
}

static void take_socket(void *owner, const struct nlmsghdr *answer)
{
	struct ending *ending = owner;
	const struct inet_diag_msg *socket = NLMSG_DATA(answer);
	if (answer->nlmsg_type != SOCK_DIAG_BY_FAMILY || answer->nlmsg_len < NLMSG_LENGTH(sizeof *socket) ||
	    !is_old(ending, socket))
		return;
	struct netlink_request request;
	struct inet_diag_req_v2 which = {
		.sdiag_family = socket->idiag_family,
		.sdiag_protocol = ending->protocol,
		.idiag_states = UINT32_MAX,
		.id = socket->id,
	};
	netlink_begin(&request, SOCK_DESTROY, 0, &which, sizeof which);
	int error = netlink_ask(ending->fd, &request, NULL, NULL);
	if (error && error != ENOENT)
		ending->error = error;
}

static int end_all(int fd, struct ending *ending, uint8_t family)
{
	struct netlink_request request;
	struct inet_diag_req_v2 which = {
		.sdiag_family = family,
		.sdiag_protocol = ending->protocol,
		.idiag_states = ending->protocol == IPPROTO_TCP ? (uint32_t)TCP_STATES : UINT32_MAX,
	};
	int error, tries = TRIES;
	do { /* again, for one that went into TIME_WAIT meanwhile */
		ending->error = 0;
		netlink_begin(&request, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &which, sizeof which);
		error = netlink_ask(fd, &request, take_socket, ending);
	} while (!error && ending->error && --tries);
	error = error ? error : ending->error;
	return error == ENOENT || error == EOPNOTSUPP ? EPROTONOSUPPORT : error;
}

int connections_end(const struct address *addresses, size_t count)
{
	static const uint8_t families[] = {AF_INET, AF_INET6}, protocols[] = {IPPROTO_TCP, IPPROTO_UDP};
	int fd = netlink_open(NETLINK_SOCK_DIAG), error = fd < 0 ? errno : 0;
	/* one is read to its end while the other one ends what was read */
	struct ending ending = {.addresses = addresses, .count = count, .fd = netlink_open(NETLINK_SOCK_DIAG)};
	if (ending.fd < 0)
		error = errno;
	for (size_t i = 0; i < 4 && !error; i++) {
		ending.protocol = protocols[i / 2];
		error = end_all(fd, &ending, families[i % 2]);
	}
	if (fd >= 0)
		close(fd);
	if (ending.fd >= 0)
		close(ending.fd);
	return error;
}
