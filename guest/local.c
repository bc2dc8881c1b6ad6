/* The socket, and the calls that wait for the host. */
#include "local.h"
#include "agent.h"
#include "channel.h"
#include "client.h"
#include "identity.h"
#include "turns.h"
#include "verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
	CLIENTS_MOST = 256,
	ARGS_KEPT = 1024,
	ARGS_LONG = 192 << 10, /* of all calls with more: a clone's last file */
};

static void listener_ready(struct source *source, uint32_t events);
static struct source listener = {.fd = -1, .ready = listener_ready};
static const char *listener_path;
static struct client *clients;
static size_t client_count;
static uint32_t last_call;
static size_t args_long;

void local_forget(struct client *client)
{
	size_t length = client->args ? strlen(client->args) : 0;
	if (length > ARGS_KEPT)
		args_long -= length;
	client->call = 0;
	free(client->args);
	client->args = NULL;
}

/* So that the call can be asked again. */
static void keep_args(struct client *client, const json_t *args, size_t length)
{
	if (length > ARGS_KEPT && length > ARGS_LONG - args_long)
		return;
	client->args = calloc(1, length + 1);
	if (!client->args)
		return;
	json_dumpb(args, client->args, length, JSON_COMPACT);
	if (length > ARGS_KEPT)
		args_long += strlen(client->args); /* it is text: a NUL is written as an escape */
}

static void gone(struct client *client)
{
	turns_gone(client);
	if (client->call)
		channel_send(json_pack("{s:s, s:I}", "type", "cancel", "call", (json_int_t)client->call));
	for (struct client **at = &clients; *at; at = &(*at)->next)
		if (*at == client) {
			*at = client->next;
			break;
		}
	local_forget(client);
	client_free(client);
	client_count--;
	loop_watch(&listener, EPOLLIN);
}

static uint32_t next_call(void)
{
	return ++last_call ? last_call : ++last_call;
}

static void send_call(struct client *client, json_t *args)
{
	struct ucred peer = {.pid = 0, .uid = (uid_t)-1};
	socklen_t length = sizeof peer;
	getsockopt(client->source.fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
	client->session = channel_session();
	channel_send(json_pack("{s:s, s:I, s:s, s:o, s:i, s:I}", "type", "call", "call", (json_int_t)client->call,
			       "verb", client->verb->name, "args", args, "pid", (int)peer.pid, "uid",
			       (json_int_t)peer.uid));
}

uint32_t local_ask(struct client *client, const struct verb *verb, json_t *args)
{
	client->call = next_call();
	client->verb = verb;
	send_call(client, json_incref(args));
	return client->call;
}

static void ask_host(struct client *client, const struct verb *verb, json_t *args)
{
	size_t length = json_dumpb(args, NULL, 0, JSON_COMPACT);
	if (!channel_roomy()) {
		client->stalled = true;
		return;
	}
	if (length > (verb->again == AGAIN_ALWAYS ? ARGS_KEPT : 96 << 10)) {
		client_answer(client, EINVAL, "the arguments are too long", NULL);
		return;
	}
	bool is_clone = !strcmp(verb->name, "clone");
	if (is_clone && turns_take(client, args))
		return;
	if (verb->again != AGAIN_NEVER)
		keep_args(client, args, length);
	uint32_t call = local_ask(client, verb, args);
	if (is_clone)
		turns_passed(call);
}

/* What the host kept for the program until it has it. */
static void tell_collected(const struct client *client, const json_t *result)
{
	json_t *args = client->args ? json_loads(client->args, 0, NULL) : NULL;
	json_t *ticket = json_object_get(args, "ticket");
	if (ticket && !strcmp(client->verb->name, "join-wait") && !json_object_get(result, "next"))
		channel_send(json_pack("{s:s, s:I, s:s, s:{s:O}}", "type", "call", "call", (json_int_t)next_call(),
				       "verb", "join-collected", "args", "ticket", ticket));
	json_decref(args);
}

static void take_line(struct client *client, const char *line, size_t length)
{
	char text[512];
	json_error_t error;
	json_t *request = json_loadb(line, length, 0, &error);
	const char *name = json_text(request, "verb");
	const struct verb *verb = name ? verb_named(name) : NULL;
	json_t *args = json_object_get(request, "args");
	if (!request) {
		snprintf(text, sizeof text, "not JSON: %s", error.text);
		client_answer(client, EINVAL, text, NULL);
	} else if (!name) {
		client_answer(client, EINVAL, "expected an object with a verb, such as {\"verb\": \"vmid\"}", NULL);
	} else if (!verb) {
		size_t shown = (size_t)snprintf(text, sizeof text, "%.40s: not a verb; there are ", name);
		verbs_list(text + shown, sizeof text - shown);
		client_answer(client, EINVAL, text, NULL);
	} else if (args && !json_is_null(args) && !json_is_object(args)) {
		client_answer(client, EINVAL, "args: expected an object", NULL);
	} else if (!identity() && strcmp(verb->name, "version")) {
		client_answer(client, EIO, "the host has not told this VM who it is", NULL);
	} else if (verb->answer) {
		client_answer(client, 0, NULL, verb->answer(identity()));
	} else {
		args = json_is_object(args) ? json_incref(args) : json_object();
		ask_host(client, verb, args);
		json_decref(args);
	}
	json_decref(request);
}

void local_reply(const json_t *reply)
{
	int64_t call = json_number(reply, "call", 0);
	if (turns_reply((uint32_t)call, reply))
		return;
	struct client *client = clients;
	while (client && (client->call == 0 || client->call != call))
		client = client->next;
	if (!client)
		return; /* its program has gone away */
	json_t *result = json_object_get(reply, "result");
	int error = (int)json_number(reply, "errno", EIO);
	if (!error)
		tell_collected(client, result);
	local_forget(client);
	client_answer(client, error, json_text(reply, "message"), json_incref(result));
	client_continue(client);
}

static json_t *made(json_t *hooks)
{
	json_t *result = verb_named("vmid")->answer(identity());
	if (hooks)
		json_object_set(result, "hooks", hooks);
	return result;
}

void local_session(uint32_t call, bool is_clone, json_t *hooks)
{
	turns_made(call);
	for (struct client *client = clients, *next; client; client = next) {
		next = client->next;
		if (!client->call || client->session == channel_session())
			continue;
		bool again = client->verb->again == AGAIN_ALWAYS || (client->verb->again == AGAIN_HERE && !is_clone);
		json_t *args = client->args && again ? json_loads(client->args, 0, NULL) : NULL;
		if (args) {
			send_call(client, args);
			continue;
		}
		bool ours = client->call == call;
		local_forget(client);
		client_answer(client, ours ? 0 : EIO, ours ? NULL : "the host side was cut off; nothing is known of it",
			      ours ? made(hooks) : NULL);
		client_continue(client);
	}
}

void local_resume(void)
{
	turns_resume();
	for (struct client *client = clients, *next; client; client = next) {
		next = client->next;
		if (client->stalled && channel_roomy()) {
			client->stalled = false;
			client_continue(client);
		}
	}
}

static void listener_ready(struct source *source, uint32_t events)
{
	(void)events;
	int fd = accept4(source->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct client *client = fd < 0 ? NULL : client_new(fd, take_line, gone);
	if (!client) {
		if (fd >= 0)
			close(fd);
		return;
	}
	client->next = clients;
	clients = client;
	if (++client_count == CLIENTS_MOST)
		loop_unwatch(&listener); /* the next one waits in the backlog */
}

static _Noreturn void refuse(const char *path, const char *why)
{
	fprintf(stderr, "gridcentric-agent: %s: %s\n", path, why);
	exit(1);
}

void local_open(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		refuse(path, "too long for a socket's path");
	strcpy(address.sun_path, path);
	int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (probe >= 0 && !connect(probe, (struct sockaddr *)&address, sizeof address))
		refuse(path, "another agent answers here");
	close(probe);
	unlink(path);
	listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask = umask(0177);
	if (listener.fd < 0 || bind(listener.fd, (struct sockaddr *)&address, sizeof address) ||
	    listen(listener.fd, 512))
		refuse(path, strerror(errno));
	umask(mask);
	listener_path = path;
	/* not the number of a call that a former agent of this VM made: the host tells calls apart by it */
	if (getrandom(&last_call, sizeof last_call, GRND_NONBLOCK) < 0)
		last_call = (uint32_t)monotonic_ns();
	loop_watch(&listener, EPOLLIN);
}

void local_close(void)
{
	unlink(listener_path);
}
