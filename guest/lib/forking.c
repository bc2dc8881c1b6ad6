/* Who this VM is, room for clones, the fork, and the barrier. */
#include "call.h"
#include "error.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A number that the result holds, or -1. */
static int number_of(struct answer *answer, const char *verb, const char *key)
{
	int number;
	if (!member_int(answer->result, key, &number))
		return not_understood(answer, verb);
	free(answer->text);
	return number;
}

int gc_vmid(void)
{
	struct answer answer;
	return call(&answer, SIGNALS_RESTART, "vmid", "{}") ? number_of(&answer, "vmid", "vmid") : -1;
}

int gc_generation(void)
{
	struct answer answer;
	bool done = call(&answer, SIGNALS_RESTART, "generation", "{}");
	return done ? number_of(&answer, "generation", "generation") : -1;
}

int gc_ismaster(void)
{
	struct answer answer;
	struct json master;
	if (!call(&answer, SIGNALS_RESTART, "ismaster", "{}"))
		return -1;
	if (!value_member(answer.result, "master", &master))
		return not_understood(&answer, "ismaster");
	int is = *master.at == 't';
	free(answer.text);
	return is;
}

int gc_my_ip(char *ip, size_t size)
{
	char text[sizeof((gc_domain_info_t *)0)->ip];
	struct answer answer;
	if (!check_place("gc_my_ip", "ip", ip) || !call(&answer, SIGNALS_RESTART, "my-ip", "{}"))
		return -1;
	if (!member_text(answer.result, "ip", text, sizeof text))
		return not_understood(&answer, "my-ip");
	free(answer.text);
	if (strlen(text) >= size)
		return refuse("gc_my_ip: expected size to be %zu or more, got %zu", strlen(text) + 1, size);
	strcpy(ip, text);
	return 0;
}

int gc_request_ticket(int maxcpus, int minvms, int mincpuspervm, int timeout_ms, gc_uuid_t *ticket)
{
	static const char name[] = "gc_request_ticket", verb[] = "request-ticket";
	struct answer answer;
	gc_uuid_t got;
	if (!check_number(name, "maxcpus", maxcpus, 1, INT_MAX) || !check_number(name, "minvms", minvms, 1, INT_MAX) ||
	    !check_number(name, "mincpuspervm", mincpuspervm, 1, INT_MAX) ||
	    !check_number(name, "timeout_ms", timeout_ms, 0, INT_MAX) || !check_place(name, "ticket", ticket))
		return -1;
	if (!call(&answer, SIGNALS_INTERRUPT, verb,
		  "{\"maxcpus\":%d,\"minvms\":%d,\"mincpuspervm\":%d,\"timeout_ms\":%d}", maxcpus, minvms, mincpuspervm,
		  timeout_ms))
		return -1;
	if (!member_text(answer.result, "ticket", got.value, sizeof got.value))
		return not_understood(&answer, verb);
	free(answer.text);
	*ticket = got;
	return 0;
}

int gc_clone(gc_uuid_t ticket)
{
	struct answer answer;
	if (!check_ticket("gc_clone", &ticket) ||
	    !call(&answer, SIGNALS_RESTART, "clone", "{\"ticket\":\"%s\"}", ticket.value))
		return -1;
	return number_of(&answer, "clone", "vmid");
}

int gc_clone_count(int count)
{
	struct answer answer;
	if (!check_number("gc_clone_count", "count", count, 1, GC_CLONES_MAX) ||
	    !call(&answer, SIGNALS_RESTART, "clone", "{\"count\":%d}", count))
		return -1;
	return number_of(&answer, "clone", "vmid");
}

int gc_sync(gc_uuid_t ticket, int timeout_ms)
{
	if (!check_ticket("gc_sync", &ticket) || !check_number("gc_sync", "timeout_ms", timeout_ms, 0, INT_MAX))
		return -1;
	return call_done(SIGNALS_INTERRUPT, "sync", "{\"ticket\":\"%s\",\"timeout_ms\":%d}", ticket.value, timeout_ms);
}

int gc_sync_clone(void)
{
	return call_done(SIGNALS_INTERRUPT, "sync", "{}");
}
