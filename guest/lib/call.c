/* The way to the agent. All that a call has is on its own stack: threads share nothing. */
#include "call.h"
#include "error.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MOST = 4 << 20, CUT_OFF = -1 };

static const char usual_path[] = "/run/gridcentric/agent.sock";

/* A call on its way. */
struct way {
	int fd;
	char *request, *line;
	size_t length; /* of line */
};

static int connect_to(const char *path, int fd, enum signals signals)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		return ENAMETOOLONG;
	strcpy(address.sun_path, path);
	while (connect(fd, (struct sockaddr *)&address, sizeof address))
		if (errno != EINTR || signals == SIGNALS_INTERRUPT)
			return errno;
	return 0;
}

static int send_request(struct way *way, enum signals signals)
{
	size_t sent = 0, length = strlen(way->request);
	while (sent < length) {
		ssize_t took = send(way->fd, way->request + sent, length - sent, MSG_NOSIGNAL);
		if (took < 0 && (errno != EINTR || signals == SIGNALS_INTERRUPT))
			return errno == EPIPE || errno == ECONNRESET ? CUT_OFF : errno;
		sent += took > 0 ? (size_t)took : 0;
	}
	return 0;
}

static int read_line(struct way *way, enum signals signals)
{
	for (size_t room = 0;;) {
		if (way->length == room) {
			char *more = realloc(way->line, room = room ? room * 2 : 4096);
			if (!more)
				return ENOMEM;
			way->line = more;
		}
		ssize_t got = recv(way->fd, way->line + way->length, room - way->length, 0);
		if (got < 0 && errno == EINTR && signals == SIGNALS_RESTART)
			continue;
		if (got < 0 && errno != ECONNRESET)
			return errno;
		if (got <= 0 || way->length > ANSWER_MOST)
			return CUT_OFF;
		way->length += (size_t)got;
		if (way->line[way->length - 1] == '\n')
			return 0;
	}
}

/* Asks and waits: 0 or an errno. Where gc_error() is still empty then, the errno says it all. */
static int exchange(struct way *way, enum signals signals)
{
	const char *told = secure_getenv("GRIDCENTRIC_SOCKET"), *path = told && *told ? told : usual_path;
	way->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int error = way->fd < 0 ? errno : connect_to(path, way->fd, signals);
	if (error == EACCES || error == EPERM)
		return say(EACCES, "no permission to use %s (an administrator opens it to all: chmod og+rw)", path);
	if (error == ENOENT || error == ECONNREFUSED || error == ENAMETOOLONG || error == ENOTDIR)
		return say(ECONNREFUSED, "the agent is not running: %s: %s", path, strerror(error));
	if (!error)
		error = send_request(way, signals);
	if (!error)
		error = read_line(way, signals);
	return error == CUT_OFF ? say(ECONNREFUSED, "the agent went away before it answered") : error;
}

/* Also when the thread is cancelled while it waits: closing is what gives a call up. */
static void leave(void *of)
{
	struct way *way = of;
	if (way->fd >= 0)
		close(way->fd);
	free(way->request);
	free(way->line);
}

/* What the line says: 0 and the result, or an errno. */
static int judge(const char *verb, struct json line, struct json *result)
{
	char message[1024];
	long long error;
	if (!member_number(line, "errno", 0, 4095, &error))
		return say(EIO, "%s: the agent's answer is not understood", verb);
	if (!error) {
		if (!value_member(line, "result", result))
			*result = (struct json){line.end, line.end};
		return 0;
	}
	const char *shown = member_text(line, "message", message, sizeof message) ? message : strerror((int)error);
	bool named = !strncmp(shown, verb, strlen(verb));
	return say((int)error, "%s%s%s", named ? "" : verb, named ? "" : ": ", shown);
}

/* Takes over the request. */
static bool ask(struct answer *answer, enum signals signals, const char *verb, char *request)
{
	struct way way = {.fd = -1, .request = request};
	int before = errno, error = request ? 0 : ENOMEM;
	say(0, "%s", "");
	pthread_cleanup_push(leave, &way);
	if (!error && !(error = exchange(&way, signals)))
		error = judge(verb, (struct json){way.line, way.line + way.length}, &answer->result);
	if (!error) {
		answer->text = way.line;
		way.line = NULL;
	}
	pthread_cleanup_pop(1);
	if (error && !*gc_error())
		say(error, "%s: %s", verb, strerror(error));
	errno = error ? error : before;
	return !error;
}

static char *request_of(const char *verb, const char *args, va_list values)
{
	char *filled, *request;
	if (vasprintf(&filled, args, values) < 0)
		return NULL;
	if (asprintf(&request, "{\"verb\":\"%s\",\"args\":%s}\n", verb, filled) < 0)
		request = NULL;
	free(filled);
	return request;
}

bool call(struct answer *answer, enum signals signals, const char *verb, const char *args, ...)
{
	va_list values;
	va_start(values, args);
	char *request = request_of(verb, args, values);
	va_end(values);
	return ask(answer, signals, verb, request);
}

int call_done(enum signals signals, const char *verb, const char *args, ...)
{
	struct answer answer;
	va_list values;
	va_start(values, args);
	char *request = request_of(verb, args, values);
	va_end(values);
	if (!ask(&answer, signals, verb, request))
		return -1;
	free(answer.text);
	return 0;
}
