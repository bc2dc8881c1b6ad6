/* Asks the kernel by netlink: one request, its answers, and how it ended. Nothing of it waits for anybody but the kernel. */
#ifndef NETLINK_H
#define NETLINK_H

#include <linux/netlink.h>
#include <stddef.h>
#include <stdint.h>

enum { NETLINK_REQUEST_MOST = 512 };

/* A request that grows by its attributes; too many make netlink_ask answer EMSGSIZE. */
struct netlink_request {
	_Alignas(NLMSG_ALIGNTO) uint8_t bytes[NETLINK_REQUEST_MOST];
	size_t length;
};

typedef void netlink_take(void *owner, const struct nlmsghdr *answer);

/* A socket of this protocol (NETLINK_…), the caller's to close; -1 and errno. */
int netlink_open(int protocol);

/* Begins a request with the header that its type wants; flags besides those that every request has. */
void netlink_begin(struct netlink_request *request, uint16_t type, uint16_t flags, const void *header, size_t length);
void netlink_add(struct netlink_request *request, uint16_t type, const void *data, size_t length);

/* Returns where a nest's length goes: give it to netlink_nest_end. */
size_t netlink_nest(struct netlink_request *request, uint16_t type);
void netlink_nest_end(struct netlink_request *request, size_t nest);

/* 0 or an errno, once the kernel is done. take, which may be NULL, gets each answer. */
int netlink_ask(int fd, struct netlink_request *request, netlink_take *take, void *owner);

/* The attribute of this type behind an answer's header of so many bytes, at least `least` bytes; NULL: not there. */
const void *netlink_attribute(const struct nlmsghdr *answer, size_t header, uint16_t type, size_t least);

#endif
