/* A file, since writing one never waits for a reader; what cannot be written is dropped. */
#include "hook_log.h"
#include "agent.h"
#include "identity.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOG_MOST = 1 << 20, OUTPUT_MOST = 64 << 10 /* of one hook */ };

static void say(const struct hook_log *log, const char *name, const char *what)
{
	char when[32], line[512];
	struct timespec now;
	struct tm parts;
	clock_gettime(CLOCK_REALTIME, &now);
	strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now.tv_sec, &parts));
	int length = snprintf(line, sizeof line, "%s vmid %d: %s: %s\n", when, (int)json_number(identity(), "vmid", 0),
			      name, what);
	if (length >= (int)sizeof line)
		length = sizeof line - 1;
	if (log->fd >= 0 && write(log->fd, line, (size_t)length) < 0)
		return;
}

void hook_log_begin(struct hook_log *log, const char *name)
{
	char path[256], former[264];
	struct stat status;
	log->written = 0;
	if (snprintf(path, sizeof path, "%s/hooks.log", options.log_dir) >= (int)sizeof path)
		return;
	snprintf(former, sizeof former, "%s.1", path);
	if (!stat(path, &status) && status.st_size > LOG_MOST)
		rename(path, former);
	log->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	say(log, name, "begins");
}

void hook_log_write(struct hook_log *log, const char *data, size_t length)
{
	size_t room = OUTPUT_MOST - log->written;
	if (length > room)
		length = room;
	log->written += length;
	if (log->fd < 0 || !length || write(log->fd, data, length) < 0)
		return;
	if (log->written == OUTPUT_MOST && write(log->fd, "\n(more is dropped)\n", 19) < 0)
		return;
}

void hook_log_end(struct hook_log *log, const char *name, const char *how, int64_t took_ms)
{
	char what[128];
	snprintf(what, sizeof what, "%s, after %lld ms", how, (long long)took_ms);
	say(log, name, what);
	if (log->fd >= 0)
		close(log->fd);
	log->fd = -1;
}
