/* Programs that a fork of their machine would break, and what they do about it, as docs/how-to/connections.md has it.
 *
 *     forked token FILE               keeps a secret number of its own in FILE, renewed when its machine is a copy
 *     forked store PORT LOG           accepts what the first who came writes, and refuses all others
 *     forked hold ADDRESS PORT FILE   writes there as long as it may; says in FILE when it may not
 */
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define FOLDER "/run/gridcentric"

enum { PEERS = 64, LINE = 128 };

/* Who this machine is: two clones of one call have the same generation, and no two machines the same pair. */
struct who {
	long generation, vmid;
};

static _Noreturn void fail(const char *what)
{
	perror(what);
	exit(1);
}

static long member(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

static struct who who(void)
{
	char text[65536];
	FILE *file = fopen(FOLDER "/identity", "r");
	if (!file)
		fail("identity");
	text[fread(text, 1, sizeof text - 1, file)] = 0;
	fclose(file);
	return (struct who){member(text, "\"generation\":"), member(text, "\"vmid\":")};
}

static void say(const char *path, const char *text)
{
	char new[256];
	snprintf(new, sizeof new, "%s.new", path);
	FILE *file = fopen(new, "w");
	if (!file || fputs(text, file) < 0 || fclose(file) || rename(new, path))
		fail(path);
}

static void renew(const char *path, long generation)
{
	unsigned long long half[2];
	char text[LINE];
	if (getrandom(half, sizeof half, 0) != sizeof half)
		fail("getrandom");
	snprintf(text, sizeof text, "%ld %016llx%016llx\n", generation, half[0], half[1]);
	say(path, text);
}

static _Noreturn void token(const char *path)
{
	_Alignas(struct inotify_event) char events[4096];
	int fd = inotify_init1(IN_CLOEXEC);
	/* the agent renames its files into place, this one last: who learns of it finds all else done */
	if (fd < 0 || inotify_add_watch(fd, FOLDER, IN_MOVED_TO) < 0)
		fail("inotify");
	long generation = who().generation;
	for (renew(path, generation);;) {
		ssize_t length = read(fd, events, sizeof events);
		if (length <= 0)
			fail("read");
		if (who().generation != generation)
			renew(path, generation = who().generation);
	}
}

static int tcp(const char *address, int port, struct sockaddr_in *to)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	if (fd < 0 || inet_pton(AF_INET, address, &to->sin_addr) != 1)
		fail(address);
	return fd;
}

static void take(FILE *log, int fd, const char *line, struct who *owner)
{
	struct sockaddr_in peer;
	socklen_t length = sizeof peer;
	struct who from;
	long number;
	if (sscanf(line, "%ld %ld %ld", &from.generation, &from.vmid, &number) != 3 ||
	    getpeername(fd, (struct sockaddr *)&peer, &length))
		return;
	if (owner->vmid < 0)
		*owner = from;
	bool may = owner->generation == from.generation && owner->vmid == from.vmid;
	fprintf(log, "%s %s %ld %ld %ld\n", may ? "accepted" : "fenced", inet_ntoa(peer.sin_addr), from.generation,
		from.vmid, number);
	fflush(log);
	if (dprintf(fd, may ? "ok\n" : "fenced\n") < 0)
		perror("a client has gone");
}

static _Noreturn void store(int port, const char *path)
{
	struct sockaddr_in at;
	struct pollfd fds[PEERS] = {{.fd = tcp("0.0.0.0", port, &at), .events = POLLIN}};
	struct who owner = {-1, -1};
	FILE *log = fopen(path, "w");
	if (!log || bind(fds[0].fd, (struct sockaddr *)&at, sizeof at) || listen(fds[0].fd, PEERS))
		fail("listen");
	for (nfds_t count = 1;;) {
		if (poll(fds, count, -1) < 0)
			fail("poll");
		for (nfds_t i = count; i-- > 1;) {
			char line[LINE] = "";
			if (!fds[i].revents)
				continue;
			if (read(fds[i].fd, line, sizeof line - 1) > 0) { /* a client waits for each answer */
				take(log, fds[i].fd, line, &owner);
				continue;
			}
			close(fds[i].fd);
			fds[i] = fds[--count];
		}
		if (fds[0].revents && count < PEERS)
			fds[count++] = (struct pollfd){.fd = accept(fds[0].fd, NULL, NULL), .events = POLLIN};
	}
}

static int hold(const char *address, int port, const char *path)
{
	for (long number = 1;;) {
		struct sockaddr_in to;
		int fd = tcp(address, port, &to);
		char answer[LINE] = "", text[LINE];
		/* in this order: a connection ends when its machine becomes another, so what is read after it was made
		 * is right for as long as it lives */
		bool open = !connect(fd, (struct sockaddr *)&to, sizeof to);
		struct who me = who();
		while (open && dprintf(fd, "%ld %ld %ld\n", me.generation, me.vmid, number) > 0 &&
		       read(fd, answer, sizeof answer - 1) > 0) {
			if (*answer == 'f') {
				snprintf(text, sizeof text, "%ld %ld\n", me.generation, me.vmid);
				say(path, text);
				return 0;
			}
			number++;
			usleep(20000);
		}
		close(fd);
		usleep(20000);
	}
}

int main(int count, char **words)
{
	signal(SIGPIPE, SIG_IGN);
	if (count == 3 && !strcmp(words[1], "token"))
		token(words[2]);
	if (count == 4 && !strcmp(words[1], "store"))
		store(atoi(words[2]), words[3]);
	if (count == 5 && !strcmp(words[1], "hold"))
		return hold(words[2], atoi(words[3]), words[4]);
	fprintf(stderr, "usage: forked token FILE | store PORT LOG | hold ADDRESS PORT FILE\n");
	return 2;
}
