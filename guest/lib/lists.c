/* What lists: tickets, clones on a ticket, VMs and their memory. */
#include "lists.h"
#include "error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int list_of(struct answer *answer, const char *verb, const char *name, size_t size, take_item *take, void **entries)
{
	struct json list, items, item;
	size_t count = 0, taken = 0;
	if (!value_member(answer->result, name, &list) || !value_items(list, &items))
		return not_understood(answer, verb);
	for (struct json rest = items; value_next(&rest, &item);)
		count++;
	char *array = calloc(count + 1, size); /* never nothing: NULL would look like a failure */
	while (array && taken < count && value_next(&items, &item) && take(item, array + taken * size))
		taken++;
	if (array && taken < count) {
		free(array);
		return not_understood(answer, verb);
	}
	free(answer->text);
	if (!array) {
		errno = say(ENOMEM, "%s: %s", verb, strerror(ENOMEM));
		return -1;
	}
	*entries = array;
	return (int)count;
}

static const char *const status_words[] = {"unknown", "granted", "used"};
enum { STATUSES = sizeof status_words / sizeof *status_words };

const char *gc_ticket_status_string(gc_ticket_status_t status)
{
	return status_words[(unsigned)status < STATUSES ? status : GC_TICKET_UNKNOWN];
}

static bool take_ticket(struct json item, void *entry)
{
	gc_ticket_info_t *ticket = entry;
	char word[32];
	if (member_text(item, "status", word, sizeof word))
		for (int i = 0; i < STATUSES; i++)
			if (!strcmp(word, status_words[i]))
				ticket->status = (gc_ticket_status_t)i;
	return member_text(item, "id", ticket->id.value, sizeof ticket->id.value) &&
	       member_int(item, "cpus", &ticket->cpus) && member_int(item, "vms", &ticket->vms) &&
	       member_int(item, "mincpuspervm", &ticket->mincpuspervm);
}

int gc_list_tickets(gc_ticket_info_t **tickets)
{
	static const char verb[] = "list-tickets";
	struct answer answer;
	void *entries;
	if (!check_place("gc_list_tickets", "tickets", tickets) || !call(&answer, SIGNALS_RESTART, verb, "{}"))
		return -1;
	int count = list_of(&answer, verb, "tickets", sizeof **tickets, take_ticket, &entries);
	if (count >= 0)
		*tickets = entries;
	return count;
}

static bool take_domain(struct json item, void *entry)
{
	gc_domain_info_t *domain = entry;
	return member_int(item, "vmid", &domain->vmid) && member_text(item, "ip", domain->ip, sizeof domain->ip) &&
	       member_text(item, "state", domain->state, sizeof domain->state);
}

int gc_list_ticket_domains(gc_uuid_t ticket, gc_domain_info_t **domains)
{
	static const char name[] = "gc_list_ticket_domains", verb[] = "list-ticket-domains";
	struct answer answer;
	void *entries;
	if (!check_ticket(name, &ticket) || !check_place(name, "domains", domains) ||
	    !call(&answer, SIGNALS_RESTART, verb, "{\"ticket\":\"%s\"}", ticket.value))
		return -1;
	int count = list_of(&answer, verb, "clones", sizeof **domains, take_domain, &entries);
	if (count >= 0)
		*domains = entries;
	return count;
}

static bool take_vm(struct json item, void *entry)
{
	gc_vm_info_t *vm = entry;
	if (!member_int(item, "parent", &vm->parent))
		vm->parent = -1;
	return member_int(item, "vmid", &vm->vmid) && member_text(item, "address", vm->address, sizeof vm->address) &&
	       member_int(item, "generation", &vm->generation) &&
	       member_text(item, "state", vm->state, sizeof vm->state) &&
	       member_text(item, "host", vm->host, sizeof vm->host);
}

int gc_list(gc_vm_info_t **vms)
{
	struct answer answer;
	void *entries;
	if (!check_place("gc_list", "vms", vms) || !call(&answer, SIGNALS_RESTART, "list", "{}"))
		return -1;
	int count = list_of(&answer, "list", "vms", sizeof **vms, take_vm, &entries);
	if (count >= 0)
		*vms = entries;
	return count;
}

static bool take_bytes(struct json item, const char *key, uint64_t *bytes)
{
	long long found = 0;
	bool there = member_number(item, key, 0, INT64_MAX, &found);
	*bytes = (uint64_t)found;
	return there;
}

static bool take_memory(struct json item, void *entry)
{
	gc_memory_info_t *vm = entry;
	return member_int(item, "vmid", &vm->vmid) && take_bytes(item, "nominal", &vm->nominal) &&
	       take_bytes(item, "shared", &vm->shared) && take_bytes(item, "own", &vm->own);
}

int gc_stat(gc_memory_info_t **vms)
{
	struct answer answer;
	void *entries;
	if (!check_place("gc_stat", "vms", vms) || !call(&answer, SIGNALS_RESTART, "stat", "{}"))
		return -1;
	int count = list_of(&answer, "stat", "vms", sizeof **vms, take_memory, &entries);
	if (count >= 0)
		*vms = entries;
	return count;
}
