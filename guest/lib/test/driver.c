/*
 * Does what each line of its input says through the C library, and answers with a line of JSON: {"value": …}, or
 * {"errno": …, "message": …}. The drivers of all bindings take the same lines: tests/unit/test_binding_calls.py.
 */
#include <gridcentric/gc-guest.h>

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { WORDS_MOST = 1100, VALUE_MOST = 1 << 20, BEAT_NS = 5000000 };

/* A line's words, and the value that they came to. */
struct line {
	char *words[WORDS_MOST];
	int count, error;
	char *value;
	size_t length;
};

__attribute__((format(printf, 2, 3))) static void put(struct line *line, const char *format, ...)
{
	va_list values;
	va_start(values, format);
	line->length += (size_t)vsnprintf(line->value + line->length, VALUE_MOST - line->length, format, values);
	va_end(values);
}

static void put_text(struct line *line, const char *text)
{
	put(line, "\"");
	for (; *text; text++)
		if (*text == '"' || *text == '\\' || (unsigned char)*text < ' ')
			put(line, "\\u%04x", *text);
		else
			put(line, "%c", *text);
	put(line, "\"");
}

static int number(const struct line *line, int at)
{
	return at < line->count ? atoi(line->words[at]) : 0;
}

static gc_uuid_t ticket(const struct line *line, int at)
{
	gc_uuid_t uuid = {""};
	if (at < line->count)
		snprintf(uuid.value, sizeof uuid.value, "%s", line->words[at]);
	return uuid;
}

static int is(const struct line *line, const char *verb)
{
	return !strcmp(line->words[0], verb);
}

static int lists(struct line *line)
{
	gc_ticket_info_t *tickets;
	gc_domain_info_t *domains;
	gc_vm_info_t *vms;
	gc_memory_info_t *memory;
	gc_joined_t *joined;
	int count;
	put(line, "[");
	if (is(line, "list_tickets")) {
		if ((count = gc_list_tickets(&tickets)) < 0)
			return -1;
		for (int i = 0; i < count; i++) {
			put(line, "%s{\"id\":", i ? "," : "");
			put_text(line, tickets[i].id.value);
			put(line, ",\"status\":\"%s\",\"cpus\":%d,\"vms\":%d,\"mincpuspervm\":%d}",
			    gc_ticket_status_string(tickets[i].status), tickets[i].cpus, tickets[i].vms,
			    tickets[i].mincpuspervm);
		}
		free(tickets);
	} else if (is(line, "list_ticket_domains")) {
		if ((count = gc_list_ticket_domains(ticket(line, 1), &domains)) < 0)
			return -1;
		for (int i = 0; i < count; i++) {
			put(line, "%s{\"vmid\":%d,\"ip\":", i ? "," : "", domains[i].vmid);
			put_text(line, domains[i].ip);
			put(line, ",\"state\":");
			put_text(line, domains[i].state);
			put(line, "}");
		}
		free(domains);
	} else if (is(line, "list")) {
		if ((count = gc_list(&vms)) < 0)
			return -1;
		for (int i = 0; i < count; i++) {
			put(line, "%s{\"vmid\":%d,\"generation\":%d,\"address\":", i ? "," : "", vms[i].vmid,
			    vms[i].generation);
			put_text(line, vms[i].address);
			put(line, ",\"state\":");
			put_text(line, vms[i].state);
			put(line, ",\"host\":");
			put_text(line, vms[i].host);
			put(line, vms[i].parent < 0 ? ",\"parent\":null}" : ",\"parent\":%d}", vms[i].parent);
		}
		free(vms);
	} else if (is(line, "stat")) {
		if ((count = gc_stat(&memory)) < 0)
			return -1;
		for (int i = 0; i < count; i++)
			put(line,
			    "%s{\"vmid\":%d,\"nominal\":%" PRIu64 ",\"shared\":%" PRIu64 ",\"own\":%" PRIu64 "}",
			    i ? "," : "", memory[i].vmid, memory[i].nominal, memory[i].shared, memory[i].own);
		free(memory);
	} else {
		int limit = line->count > 2 ? number(line, 2) : GC_FOREVER;
		if ((count = gc_join_wait(ticket(line, 1), limit, &joined)) < 0)
			return -1;
		for (int i = 0; i < count; i++) {
			put(line, "%s{\"vmid\":%d,\"status\":%d,", i ? "," : "", joined[i].vmid, joined[i].status);
			put(line, joined[i].data ? "\"file\":\"%.*s\"}" : "\"file\":null}", (int)joined[i].size,
			    (const char *)joined[i].data);
		}
		free(joined);
	}
	put(line, "]");
	return 0;
}

static int kill_these(const struct line *line)
{
	int vmids[WORDS_MOST];
	for (int i = 1; i < line->count; i++)
		vmids[i - 1] = number(line, i);
	return gc_kill(vmids, (size_t)line->count - 1);
}

/* What gives a number, or nothing. */
static int numbers(struct line *line)
{
	const char *first = line->count > 1 ? line->words[1] : "";
	if (is(line, "vmid"))
		return gc_vmid();
	if (is(line, "generation"))
		return gc_generation();
	if (is(line, "clone"))
		return first[strspn(first, "-0123456789")] ? gc_clone(ticket(line, 1)) : gc_clone_count(number(line, 1));
	if (is(line, "sync"))
		return line->count > 1 ? gc_sync(ticket(line, 1), number(line, 2)) : gc_sync_clone();
	if (is(line, "join"))
		return gc_join(number(line, 1), line->count > 2 ? line->words[2] : NULL,
			       line->count > 2 ? strlen(line->words[2]) : 0);
	if (is(line, "join_noreport"))
		return gc_join_noreport();
	if (is(line, "kill"))
		return kill_these(line);
	if (is(line, "kill_generation"))
		return gc_kill_generation(number(line, 1));
	if (is(line, "killall"))
		return gc_killall();
	fprintf(stderr, "no such line: %s\n", line->words[0]);
	exit(2);
}

static void run(struct line *line)
{
	static const char *const listing[] = {"list_tickets", "list_ticket_domains", "list", "stat", "join_wait"};
	static const char *const silent[] = {"sync", "kill", "kill_generation", "killall"};
	gc_uuid_t uuid;
	char ip[46];
	int result;
	line->length = 0;
	errno = 0;
	for (size_t i = 0; i < sizeof listing / sizeof *listing; i++)
		if (is(line, listing[i])) {
			line->error = lists(line) ? errno : 0;
			return;
		}
	if (is(line, "request_ticket")) {
		result = gc_request_ticket(number(line, 1), number(line, 2), number(line, 3), number(line, 4), &uuid);
		put_text(line, result ? "" : uuid.value);
	} else if (is(line, "my_ip")) {
		result = gc_my_ip(ip, sizeof ip);
		put_text(line, result ? "" : ip);
	} else if (is(line, "ismaster")) {
		result = gc_ismaster();
		put(line, result ? "true" : "false");
	} else {
		result = numbers(line);
		put(line, "%d", result);
		for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
			if (is(line, silent[i])) {
				line->length = 0;
				put(line, "null");
			}
	}
	line->error = result < 0 ? errno : 0;
}

static char thread_error[1200];
static volatile int ended;

static void *run_in_thread(void *line)
{
	run(line);
	snprintf(thread_error, sizeof thread_error, "%s", gc_error());
	ended = 1;
	return NULL;
}

static void beat(void)
{
	nanosleep(&(struct timespec){.tv_nsec = BEAT_NS}, NULL);
}

static void answer(struct line *line, const char *message, int beats)
{
	if (!line->error) {
		printf("{\"value\":%.*s,\"beats\":%d}\n", (int)line->length, line->value, beats);
	} else {
		line->length = 0;
		put_text(line, message);
		printf("{\"errno\":%d,\"beats\":%d,\"message\":%s}\n", line->error, beats, line->value);
	}
	fflush(stdout);
}

static int beside(struct line *line)
{
	pthread_t thread;
	int beats = 0;
	ended = 0;
	pthread_create(&thread, NULL, run_in_thread, line);
	for (; !ended; beats++)
		beat();
	pthread_join(thread, NULL);
	return beats;
}

/* Gives a call up while it waits. */
static void cancel(struct line *line)
{
	pthread_t thread;
	pthread_create(&thread, NULL, run_in_thread, line);
	for (int beats = 0; beats < 40; beats++)
		beat();
	pthread_cancel(thread);
	pthread_join(thread, NULL);
	puts("{\"value\":\"cancelled\"}");
	fflush(stdout);
}

static void timed(struct line *line, int calls)
{
	struct timespec from, to;
	clock_gettime(CLOCK_MONOTONIC, &from);
	for (int i = 0; i < calls; i++)
		run(line);
	clock_gettime(CLOCK_MONOTONIC, &to);
	line->length = 0;
	double ms = (double)(to.tv_sec - from.tv_sec) * 1e3 + (double)(to.tv_nsec - from.tv_nsec) / 1e6;
	put(line, "%.3f", ms / calls);
}

static void noticed(int number)
{
	(void)number;
}

static void on_signal(const char *what)
{
	struct sigaction action = {.sa_handler = noticed};
	action.sa_flags = strcmp(what, "goes_on") ? 0 : SA_RESTART;
	sigaction(SIGUSR1, &action, NULL);
	puts("{\"value\":null}");
	fflush(stdout);
}

/* A signal that ends no call ends no reading either. */
static int next_line(char **text, size_t *room)
{
	for (;;) {
		errno = 0;
		if (getline(text, room, stdin) > 0)
			return 1;
		if (errno != EINTR)
			return 0;
		clearerr(stdin);
	}
}

int main(void)
{
	char *text = NULL;
	size_t room = 0;
	struct line line = {.value = malloc(VALUE_MOST)};
	while (next_line(&text, &room)) {
		line.count = 0;
		for (char *word = strtok(text, " \n"); word && line.count < WORDS_MOST; word = strtok(NULL, " \n"))
			line.words[line.count++] = word;
		const char *first = line.words[0];
		int skip = !strcmp(first, "beside") || !strcmp(first, "cancel") ? 1 : !strcmp(first, "timed") ? 2 : 0;
		int calls = number(&line, 1);
		if (!strcmp(first, "on_signal")) {
			on_signal(line.words[1]);
			continue;
		}
		line.count -= skip;
		memmove(line.words, line.words + skip, (size_t)line.count * sizeof *line.words);
		if (!strcmp(first, "cancel")) {
			cancel(&line);
			continue;
		}
		int beats = 0;
		thread_error[0] = 0;
		if (!strcmp(first, "beside"))
			beats = beside(&line);
		else if (!strcmp(first, "timed"))
			timed(&line, calls);
		else
			run(&line);
		answer(&line, *thread_error ? thread_error : gc_error(), beats);
	}
	free(text);
	free(line.value);
	return 0;
}
