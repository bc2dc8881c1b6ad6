/* The ends of clones: joining, waiting for those that join, killing. */
#include "../agent.h"
#include "call.h"
#include "error.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nothing that runs on after this call is in its program's plan: the VM ends any moment. */
static int end_here(int told)
{
	while (told == 0)
		pause();
	return told;
}

int gc_join(int status, const void *data, size_t size)
{
	if (!check_number("gc_join", "status", status, 0, 255) || (size && !check_place("gc_join", "data", data)))
		return -1;
	if (size > GC_JOIN_DATA_MAX)
		return refuse("gc_join: expected size to be at most %d, got %zu", GC_JOIN_DATA_MAX, size);
	if (!data)
		return end_here(call_done(SIGNALS_RESTART, "join", "{\"status\":%d,\"report\":true}", status));
	char *text = malloc(size * 4 / 3 + 8);
	if (!text) {
		errno = say(ENOMEM, "gc_join: %s", strerror(ENOMEM));
		return -1;
	}
	base64_encode(data, size, text);
	int told = call_done(SIGNALS_RESTART, "join", "{\"status\":%d,\"report\":true,\"file\":\"%s\"}", status, text);
	free(text);
	return end_here(told);
}

int gc_join_noreport(void)
{
	return end_here(call_done(SIGNALS_RESTART, "join", "{\"status\":0,\"report\":false}"));
}

/* One clone's end; its data goes to *room, which moves on. Text as long as the answer fits its own bytes. */
static bool take_joined(struct json item, gc_joined_t *joined, char **room, size_t left)
{
	struct json file;
	long long status;
	if (!member_int(item, "vmid", &joined->vmid) || !member_number(item, "status", -1, 255, &status))
		return false;
	joined->status = (int)status;
	if (!value_member(item, "file", &file) || *file.at != '"')
		return true; /* null, or not there */
	char *text = malloc((size_t)(file.end - file.at));
	ptrdiff_t size = text && value_string(file, text, (size_t)(file.end - file.at)) ?
				 base64_decode(text, (uint8_t *)*room, left) :
				 -1;
	free(text);
	if (size < 0)
		return false;
	joined->data = *room;
	joined->size = (size_t)size;
	*room += size;
	return true;
}

/* What clones left, as the agent answered it: in pages, if it is long. */
struct pages {
	struct answer *page;
	size_t count;
};

/* Also when the thread is cancelled while it waits for a further one. */
static void free_pages(void *of)
{
	struct pages *pages = of;
	for (size_t i = 0; i < pages->count; i++)
		free(pages->page[i].text);
	free(pages->page);
}

static bool first_item(const struct answer *page, struct json *items)
{
	struct json list;
	return value_member(page->result, "clones", &list) && value_items(list, items);
}

/* The array and all data in one block; as much room for data as the text had that it comes from. */
static int joined_of(const struct pages *pages, gc_joined_t **joined)
{
	struct json items, item;
	size_t count = 0, taken = 0, size = 0;
	for (size_t i = 0; i < pages->count; i++) {
		if (!first_item(&pages->page[i], &items))
			return not_understood(NULL, "join-wait");
		for (size += (size_t)(items.end - items.at); value_next(&items, &item);)
			count++;
	}
	size_t head = (count + 1) * sizeof **joined;
	char *block = calloc(1, head + size), *room = block + head;
	gc_joined_t *array = (gc_joined_t *)block;
	for (size_t i = 0; block && i < pages->count; i++)
		for (first_item(&pages->page[i], &items); taken < count && value_next(&items, &item); taken++)
			if (!take_joined(item, &array[taken], &room, head + size - (size_t)(room - block)))
				goto wrong;
	if (!block) {
		errno = say(ENOMEM, "join-wait: %s", strerror(ENOMEM));
		return -1;
	}
	*joined = array;
	return (int)count;
wrong:
	free(block);
	return not_understood(NULL, "join-wait");
}

/* Asks for the page after the last one; false if it failed. Sets *more if it is not the last. */
static bool ask_page(struct pages *pages, const gc_uuid_t *ticket, const char *limit, bool *more)
{
	struct json next = {"", ""};
	struct answer *grown = realloc(pages->page, (pages->count + 1) * sizeof *grown);
	if (!grown) {
		errno = say(ENOMEM, "join-wait: %s", strerror(ENOMEM));
		return false;
	}
	pages->page = grown;
	if (pages->count)
		value_member(grown[pages->count - 1].result, "next", &next);
	if (!call(&grown[pages->count], SIGNALS_INTERRUPT, "join-wait", "{\"ticket\":\"%s\"%s%s%.*s}", ticket->value,
		  limit, pages->count ? ",\"after\":" : "", (int)(next.end - next.at), next.at))
		return false;
	*more = value_member(grown[pages->count++].result, "next", &next) && *next.at != 'n';
	return true;
}

int gc_join_wait(gc_uuid_t ticket, int timeout_ms, gc_joined_t **joined)
{
	static const char name[] = "gc_join_wait";
	char limit[40] = "";
	struct pages pages = {0};
	int count = -1;
	bool more = true;
	if (!check_ticket(name, &ticket) || !check_number(name, "timeout_ms", timeout_ms, GC_FOREVER, INT_MAX) ||
	    !check_place(name, "joined", joined))
		return -1;
	if (timeout_ms != GC_FOREVER)
		snprintf(limit, sizeof limit, ",\"timeout_ms\":%d", timeout_ms);
	pthread_cleanup_push(free_pages, &pages);
	while (more && ask_page(&pages, &ticket, limit, &more))
		;
	if (!more)
		count = joined_of(&pages, joined);
	pthread_cleanup_pop(1);
	return count;
}

int gc_kill(const int *vmids, size_t count)
{
	char list[GC_CLONES_MAX * 12];
	size_t length = 0;
	if (!check_number("gc_kill", "count", count > INT_MAX ? INT_MAX : (int)count, 1, GC_CLONES_MAX) ||
	    !check_place("gc_kill", "vmids", vmids))
		return -1;
	for (size_t i = 0; i < count; i++) {
		if (!check_number("gc_kill", "each of vmids", vmids[i], 0, INT_MAX))
			return -1;
		length += (size_t)snprintf(list + length, sizeof list - length, "%s%d", i ? "," : "", vmids[i]);
	}
	return call_done(SIGNALS_RESTART, "kill", "{\"vmids\":[%s]}", list);
}

int gc_kill_generation(int vmid)
{
	if (!check_number("gc_kill_generation", "vmid", vmid, 0, INT_MAX))
		return -1;
	return call_done(SIGNALS_RESTART, "kill-generation", "{\"vmid\":%d}", vmid);
}

int gc_killall(void)
{
	return call_done(SIGNALS_RESTART, "killall", "{}");
}
