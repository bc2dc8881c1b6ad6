/* The verbs of the local socket. A new one is a row here. */
#include "verbs.h"
#include "agent.h"
#include "identity.h"

#include <stdio.h>
#include <string.h>

static json_t *number_of(const json_t *identity, const char *key)
{
	return json_pack("{s:I}", key, (json_int_t)json_number(identity, key, 0));
}

static json_t *vmid(const json_t *identity)
{
	return number_of(identity, "vmid");
}

static json_t *generation(const json_t *identity)
{
	return number_of(identity, "generation");
}

static json_t *ismaster(const json_t *identity)
{
	return json_pack("{s:b}", "master", json_number(identity, "vmid", 0) == 0);
}

static json_t *my_ip(const json_t *identity)
{
	return json_pack("{s:s}", "ip", identity_address(identity));
}

static json_t *version(const json_t *identity)
{
	(void)identity;
	return json_pack("{s:s}", "agent", VERSION);
}

static const struct verb verbs[] = {
	{"clone", NULL, AGAIN_NEVER},
	{"generation", generation, AGAIN_ALWAYS},
	{"ismaster", ismaster, AGAIN_ALWAYS},
	{"join", NULL, AGAIN_HERE},
	{"join-wait", NULL, AGAIN_HERE},
	{"kill", NULL, AGAIN_NEVER},
	{"kill-generation", NULL, AGAIN_NEVER},
	{"killall", NULL, AGAIN_NEVER},
	{"known-hosts", NULL, AGAIN_ALWAYS},
	{"list", NULL, AGAIN_ALWAYS},
	{"list-ticket-domains", NULL, AGAIN_ALWAYS},
	{"list-tickets", NULL, AGAIN_ALWAYS},
	{"my-ip", my_ip, AGAIN_ALWAYS},
	{"request-ticket", NULL, AGAIN_NEVER},
	{"stat", NULL, AGAIN_ALWAYS},
	{"sync", NULL, AGAIN_HERE},
	{"version", version, AGAIN_ALWAYS},
	{"vmid", vmid, AGAIN_ALWAYS},
};

const struct verb *verb_named(const char *name)
{
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	return NULL;
}

void verbs_list(char *to, size_t room)
{
	size_t length = 0;
	for (size_t i = 0; i < sizeof verbs / sizeof *verbs && length < room; i++)
		length += (size_t)snprintf(to + length, room - length, "%s%s", i ? ", " : "", verbs[i].name);
}
