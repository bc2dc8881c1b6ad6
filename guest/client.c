/* Lines from programs, within bounds: on one line, and on what all clients together hold. */
#include "client.h"
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
	LINE_MOST = 66560, /* a file of 49,152 bytes in base64, and the request around it */
	LINE_USUAL = 1024,
	HELD_MOST = 1536 << 10, /* by all clients, lines and answers */
};

static size_t held;
static client_line *take_line;
static client_gone *tell_gone;

static void client_ready(struct source *source, uint32_t events);

/* realloc within the bound on all clients. */
static bool resize(char **buffer, size_t from, size_t to)
{
	if (to > from && to - from > HELD_MOST - held)
		return false;
	char *new = to ? realloc(*buffer, to) : NULL;
	if (to && !new)
		return false;
	if (!to)
		free(*buffer);
	*buffer = new;
	held = held - from + to;
	return true;
}

struct client *client_new(int fd, client_line *line, client_gone *gone)
{
	struct client *client = calloc(1, sizeof *client);
	if (!client)
		return NULL;
	take_line = line;
	tell_gone = gone;
	client->source = (struct source){.fd = fd, .ready = client_ready, .owner = client};
	loop_watch(&client->source, EPOLLIN);
	return client;
}

void client_free(struct client *client)
{
	loop_close(&client->source);
	resize(&client->in, client->in_room, 0);
	resize(&client->out, client->out_end, 0);
	free(client->args);
	free(client);
}

static void flush(struct client *client)
{
	while (client->out_start < client->out_end) {
		ssize_t sent = send(client->source.fd, client->out + client->out_start,
				    client->out_end - client->out_start, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (sent < 0 && errno == EAGAIN)
			return;
		if (sent < 0) {
			client->ends = true;
			break;
		}
		client->out_start += (size_t)sent;
	}
	resize(&client->out, client->out_end, 0);
	client->out_start = client->out_end = 0;
}

void client_answer(struct client *client, int error, const char *message, json_t *result)
{
	json_t *answer = json_pack("{s:i}", "errno", error);
	if (error)
		json_object_set_new(answer, "message", json_string(message ? message : strerror(error)));
	else
		json_object_set_new(answer, "result", result ? json_incref(result) : json_object());
	json_decref(result);
	size_t length = answer ? json_dumpb(answer, NULL, 0, JSON_COMPACT) : 0;
	if (!length || client->out || !resize(&client->out, 0, length + 1)) {
		client->ends = true; /* nothing else can be told without memory */
	} else {
		json_dumpb(answer, client->out, length, JSON_COMPACT);
		client->out[length] = '\n';
		client->out_end = length + 1;
		flush(client);
	}
	json_decref(answer);
}

/* Makes room to read into: a line and its newline at most. Too many long ones at once are refused. */
static bool make_room(struct client *client)
{
	if (client->in_length < client->in_room)
		return true;
	size_t room = client->in_room ? client->in_room * 2 : LINE_USUAL;
	if (room > LINE_MOST)
		room = LINE_MOST + 1;
	if (resize(&client->in, client->in_room, room)) {
		client->in_room = room;
		return true;
	}
	client_answer(client, EBUSY, "too many long requests at once", NULL);
	client->ends = true;
	return false;
}

static bool client_is_busy(const struct client *client)
{
	return client->call || client->stalled || client->in_turn;
}

/* Handles the lines that are there, one at a time, until one waits for the host or for its reader. */
static void take_lines(struct client *client)
{
	while (!client->ends && !client_is_busy(client) && !client->out && client->in) {
		char *newline = memchr(client->in, '\n', client->in_length);
		if (!newline)
			break;
		size_t length = (size_t)(newline - client->in);
		take_line(client, client->in, length);
		if (client->stalled)
			break; /* the same line again, when there is room */
		client->in_length -= length + 1;
		memmove(client->in, newline + 1, client->in_length);
	}
	if (client->in && !client->in_length) { /* idle programs hold nothing */
		resize(&client->in, client->in_room, 0);
		client->in_room = 0;
	}
}

void client_continue(struct client *client)
{
	flush(client);
	take_lines(client);
	if (client->ends && !client->out) {
		tell_gone(client);
		return;
	}
	if (client->out)
		loop_watch(&client->source, EPOLLOUT);
	else if (client_is_busy(client))
		loop_watch(&client->source, EPOLLET); /* only hang-ups and errors, which are always told */
	else
		loop_watch(&client->source, EPOLLIN);
}

static void client_ready(struct source *source, uint32_t events)
{
	struct client *client = source->owner;
	if (events & (EPOLLHUP | EPOLLERR) && !(events & EPOLLIN && source->events & EPOLLIN)) {
		tell_gone(client);
		return;
	}
	if (events & EPOLLIN && make_room(client)) {
		ssize_t got = recv(source->fd, client->in + client->in_length,
				   client->in_room - client->in_length, MSG_DONTWAIT);
		if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
			tell_gone(client);
			return;
		}
		client->in_length += got > 0 ? (size_t)got : 0;
		if (client->in_length > LINE_MOST && !memchr(client->in, '\n', client->in_length)) {
			client_answer(client, EINVAL, "a request is at most 66560 bytes", NULL);
			client->ends = true;
		}
	}
	client_continue(client);
}
