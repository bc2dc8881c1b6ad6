/* gc VERB …: asks the agent. Standard output has the answer only; the exit status is an errno. */
#include "gc.h"
#include "agent.h"

#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ANSWER_MOST = 4 << 20 };

void gc_complain(const char *format, ...)
{
	char line[2048];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof line, format, args);
	va_end(args);
	for (char *c = line; *c; c++)
		if (iscntrl((unsigned char)*c))
			*c = ' '; /* one line, whatever an argument or the host puts in */
	fprintf(stderr, "gc: %s\n", line);
}

bool gc_count_args(const char *verb, int argc, int least, int most)
{
	if (argc >= least && argc <= most)
		return true;
	for (int i = 0; i < gc_verb_count; i++)
		if (!strcmp(gc_verbs[i].name, verb))
			gc_complain("%s: expected: gc %s%s%s%s", verb, verb, *gc_verbs[i].usage ? " " : "",
				    gc_verbs[i].usage, gc_verbs[i].takes_json ? " [--json]" : "");
	return false;
}

bool gc_is_number(const char *text)
{
	return *text && text[strspn(text, "0123456789")] == 0;
}

bool gc_number(const char *verb, const char *what, const char *text, int64_t least, int64_t most, int64_t *number)
{
	errno = 0;
	*number = strtoll(text, NULL, 10);
	if (gc_is_number(text) && !errno && *number >= least && *number <= most)
		return true;
	gc_complain("%s: expected %s from %lld to %lld, got '%s'", verb, what, (long long)least, (long long)most,
		    text);
	return false;
}

bool gc_is_uuid(const char *text)
{
	static const char shape[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
	for (size_t i = 0; i < sizeof shape; i++)
		if (shape[i] == 'x' ? !isxdigit((unsigned char)text[i]) : text[i] != shape[i])
			return false;
	return true;
}

static const struct gc_verb *named(const char *name)
{
	for (int i = 0; i < gc_verb_count; i++)
		if (!strcmp(gc_verbs[i].name, name) ||
		    (gc_verbs[i].short_name && !strcmp(gc_verbs[i].short_name, name)))
			return &gc_verbs[i];
	return NULL;
}

static void usage(FILE *to)
{
	fputs("usage: gc VERB [ARGUMENT]…\n", to);
	for (int i = 0; i < gc_verb_count; i++) {
		const struct gc_verb *verb = &gc_verbs[i];
		fprintf(to, "  %s%s%s%s\n      %s\n", verb->short_name ? verb->short_name : verb->name,
			*verb->usage ? " " : "", verb->usage, verb->takes_json ? " [--json]" : "", verb->help);
	}
	fputs("  help [VERB]\n      says this\nThe exit status is 0 or an errno number.\n", to);
}

static int help(int argc, char **argv)
{
	const struct gc_verb *verb = argc ? named(argv[0]) : NULL;
	if (!argc) {
		usage(stdout);
		return 0;
	}
	if (!verb) {
		gc_complain("help: there is no verb '%s': gc help lists them", argv[0]);
		return EINVAL;
	}
	printf("usage: gc %s%s%s%s\n%s\n", verb->name, *verb->usage ? " " : "", verb->usage,
	       verb->takes_json ? " [--json]" : "", verb->help);
	if (verb->short_name)
		printf("also: gc %s\n", verb->short_name);
	return 0;
}

static int reach_agent(void)
{
	const char *path = getenv("GRIDCENTRIC_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (!path || !*path)
		path = options.socket;
	if (strlen(path) >= sizeof address.sun_path) {
		errno = ENAMETOOLONG;
	} else {
		strcpy(address.sun_path, path);
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (fd >= 0 && !connect(fd, (struct sockaddr *)&address, sizeof address))
			return fd;
	}
	if (errno == EACCES || errno == EPERM) {
		gc_complain("no permission to use %s (an administrator opens it to all: chmod og+rw)", path);
		exit(EACCES);
	}
	gc_complain("the agent is not running: %s: %s", path, strerror(errno));
	exit(ECONNREFUSED);
}

static bool send_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);
		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0)
			return false;
		text += sent;
		length -= (size_t)sent;
	}
	return true;
}

/* The answer's line, parsed; exits when the agent goes away. The caller owns it. */
static json_t *read_answer(int fd)
{
	char *line = NULL;
	size_t length = 0, room = 0;
	for (;;) {
		if (length == room && !(line = realloc(line, room = room ? room * 2 : 4096)))
			abort();
		ssize_t got = length > ANSWER_MOST ? 0 : read(fd, line + length, room - length);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			gc_complain("the agent went away before it answered");
			exit(ECONNREFUSED);
		}
		length += (size_t)got;
		if (line[length - 1] == '\n')
			break;
	}
	json_t *answer = json_loadb(line, length, 0, NULL);
	free(line);
	if (!json_is_object(answer)) {
		gc_complain("the agent's answer is not a JSON object");
		exit(EIO);
	}
	return answer;
}

/* One request and its answer: the exit status. *next becomes where a long answer goes on; NULL: it is whole. */
static int ask_once(int fd, const struct gc_verb *verb, const char *sent, json_t *args, bool as_json, json_t **next)
{
	json_t *request = json_pack("{s:s, s:O}", "verb", sent, "args", args);
	char *text = json_dumps(request, JSON_COMPACT);
	if (text && send_all(fd, text, strlen(text)))
		send_all(fd, "\n", 1);
	json_t *answer = read_answer(fd), *result = json_object_get(answer, "result");
	int status = (int)json_number(answer, "errno", EIO);
	if (status) {
		const char *message = json_text(answer, "message");
		bool named = message && !strncmp(message, verb->name, strlen(verb->name));
		gc_complain("%s%s%s", named ? "" : verb->name, named ? "" : ": ", message ? message : strerror(status));
		status = status > 0 && status < 256 ? status : EIO;
	} else {
		status = verb->show(result, as_json);
	}
	*next = json_incref(json_object_get(result, "next"));
	json_decref(answer);
	json_decref(request);
	free(text);
	return status;
}

static int ask(const struct gc_verb *verb, const char *sent, json_t *args, bool as_json)
{
	int status, fd = reach_agent();
	json_t *next;
	do {
		status = ask_once(fd, verb, sent, args, as_json, &next);
		if (next)
			json_object_set_new(args, "after", next);
	} while (!status && next);
	json_decref(args);
	close(fd);
	return status;
}

/* Takes --json out of the arguments. */
static bool take_json_option(int *argc, char **argv)
{
	bool found = false;
	int kept = 0;
	for (int i = 0; i < *argc; i++)
		if (strcmp(argv[i], "--json"))
			argv[kept++] = argv[i];
		else
			found = true;
	*argc = kept;
	return found;
}

static int run(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "";
	const struct gc_verb *verb = named(name);
	argc -= 2;
	argv += 2;
	if (!strcmp(name, "--version")) {
		printf("gc %s\n", VERSION);
		return 0;
	}
	if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h"))
		return help(argc, argv);
	if (!verb) {
		if (*name)
			gc_complain("there is no verb '%s': gc help lists them", name);
		else
			usage(stderr);
		return EINVAL;
	}
	bool as_json = verb->takes_json && take_json_option(&argc, argv);
	const char *sent = verb->name;
	json_t *args = verb->request(argc, argv, &sent);
	return args ? ask(verb, sent, args, as_json) : EINVAL;
}

int gc_main(int argc, char **argv)
{
	int status = run(argc, argv);
	if (fflush(stdout) || ferror(stdout)) {
		gc_complain("standard output: %s", strerror(errno));
		return EIO;
	}
	return status;
}
