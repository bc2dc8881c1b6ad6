/* Requests, their attributes, and answers up to the one that ends them. */
#include "netlink.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

enum { ANSWERS = 8192 /* as much as the kernel puts into one part of a list */ };

int netlink_open(int protocol)
{
	/* the kernel answers before send returns; should it ever not, the agent must not stand still */
	struct timeval second = {.tv_sec = 1};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
	return fd;
}

static void *grow(struct netlink_request *request, size_t length)
{
	size_t at = request->length;
	if (at + NLMSG_ALIGN(length) > sizeof request->bytes) {
		request->length = sizeof request->bytes + 1;
		return NULL;
	}
	request->length += NLMSG_ALIGN(length);
	return request->bytes + at;
}

void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t length)
{
	*request = (struct netlink_request){.length = NLMSG_HDRLEN};
	struct nlmsghdr *message = (struct nlmsghdr *)request->bytes;
	message->nlmsg_type = type;
	message->nlmsg_flags = NLM_F_REQUEST | flags;
	void *to = grow(request, length);
	if (to)
		memcpy(to, header, length);
}

void netlink_add(struct netlink_request *request, uint16_t type, const void *data, size_t length)
{
	struct rtattr *attribute = grow(request, RTA_LENGTH(length));
	if (!attribute)
		return;
	attribute->rta_type = type;
	attribute->rta_len = (uint16_t)RTA_LENGTH(length);
	if (length)
		memcpy(RTA_DATA(attribute), data, length);
}

size_t netlink_nest(struct netlink_request *request, uint16_t type)
{
	size_t at = request->length;
	netlink_add(request, type | NLA_F_NESTED, NULL, 0);
	return at;
}

void netlink_nest_end(struct netlink_request *request, size_t nest)
{
	if (request->length <= sizeof request->bytes)
		((struct rtattr *)(request->bytes + nest))->rta_len = (uint16_t)(request->length - nest);
}

/* Reads answers to one request; 0 with *over, or an errno. */
static int read_answers(int fd, uint32_t sequence, netlink_take *take, void *owner, int *over)
{
	_Alignas(NLMSG_ALIGNTO) uint8_t bytes[ANSWERS];
	ssize_t got = recv(fd, bytes, sizeof bytes, 0);
	if (got < 0)
		return errno == EINTR ? 0 : errno;
	size_t left = (size_t)got;
	for (const struct nlmsghdr *at = (void *)bytes; NLMSG_OK(at, left); at = NLMSG_NEXT(at, left)) {
		if (at->nlmsg_seq != sequence)
			continue;
		if (at->nlmsg_type == NLMSG_DONE || at->nlmsg_type == NLMSG_ERROR) {
			int error = 0;
			if (at->nlmsg_len >= NLMSG_LENGTH(sizeof error))
				memcpy(&error, NLMSG_DATA(at), sizeof error);
			*over = 1;
			return error < 0 ? -error : 0;
		}
		if (take)
			take(owner, at);
	}
	return 0;
}

int netlink_ask(int fd, struct netlink_request *request, netlink_take *take, void *owner)
{
	static uint32_t sequence;
	if (request->length > sizeof request->bytes)
		return EMSGSIZE;
	struct nlmsghdr *message = (struct nlmsghdr *)request->bytes;
	message->nlmsg_len = (uint32_t)request->length;
	message->nlmsg_seq = ++sequence;
	if ((message->nlmsg_flags & NLM_F_DUMP) != NLM_F_DUMP)
		message->nlmsg_flags |= NLM_F_ACK; /* a list has an end of its own */
	uint32_t mine = sequence;
	if (send(fd, request->bytes, request->length, 0) < 0)
		return errno;
	int error = 0, over = 0;
	while (!error && !over)
		error = read_answers(fd, mine, take, owner, &over);
	return error;
}

const void *netlink_attribute(const struct nlmsghdr *answer, size_t header, uint16_t type, size_t least)
{
	size_t begin = NLMSG_LENGTH(NLMSG_ALIGN(header));
	if (answer->nlmsg_len < begin)
		return NULL;
	size_t left = answer->nlmsg_len - begin;
	const struct rtattr *at = (const void *)((const uint8_t *)answer + begin);
	for (; RTA_OK(at, left); at = RTA_NEXT(at, left))
		if ((at->rta_type & NLA_TYPE_MASK) == type)
			return RTA_PAYLOAD(at) >= least ? RTA_DATA(at) : NULL;
	return NULL;
}
