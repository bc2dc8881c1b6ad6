/* push: to a file beside the destination, renamed when it is whole. pull: a regular file, read as credit comes. */
#include "files.h"
#include "agent.h"
#include "channel.h"
#include "streams.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PUSH_CREDIT = 256 << 10 }; /* files are written at once: nothing is held here */

struct transfer {
	struct stream stream; /* first: the table of streams holds it */
	int fd;
	mode_t mode;
	int64_t mtime_ns; /* -1: now */
	char *path, *temporary; /* of a push */
};

static void transfer_free(struct transfer *transfer)
{
	stream_remove(&transfer->stream);
	if (transfer->fd >= 0)
		close(transfer->fd);
	if (transfer->temporary)
		unlink(transfer->temporary);
	free(transfer->temporary);
	free(transfer->path);
	free(transfer);
}

static void transfer_end(struct transfer *transfer, int error, const char *message)
{
	json_t *exit = stream_message(transfer->stream.id, "exit");
	json_object_set_new(exit, "code", json_integer(error ? 1 : 0));
	json_object_set_new(exit, "errno", json_integer(error));
	if (error)
		json_object_set_new(exit, "message", json_string(message ? message : strerror(error)));
	channel_send(exit);
	transfer_free(transfer);
}

static void transfer_detach(struct stream *stream, enum heir heir)
{
	(void)heir; /* half a file is of no use to anybody */
	transfer_free((struct transfer *)stream);
}

static void transfer_close(struct stream *stream)
{
	transfer_free((struct transfer *)stream);
}

static void tell_started(uint32_t id, const char *path, const struct stat *status)
{
	json_t *started = stream_message(id, "started");
	json_object_set_new(started, "path", json_string(path));
	if (status) {
		int64_t mtime_ns = status->st_mtim.tv_sec * INT64_C(1000000000) + status->st_mtim.tv_nsec;
		json_object_set_new(started, "size", json_integer(status->st_size));
		json_object_set_new(started, "mode", json_integer(status->st_mode & 07777));
		json_object_set_new(started, "mtime_ns", json_integer(mtime_ns));
	}
	channel_send(started);
}

/* Gives the file its owner, mode, time and name; 0 or an errno. */
static int push_finish(struct transfer *transfer)
{
	struct stat replaced;
	struct timespec times[2] = {
		{.tv_nsec = UTIME_NOW},
		{.tv_sec = transfer->mtime_ns / 1000000000, .tv_nsec = transfer->mtime_ns % 1000000000},
	};
	/* the owner stays, as when the file is written in place; before the mode, since it clears set-id bits */
	if (!stat(transfer->path, &replaced) && fchown(transfer->fd, replaced.st_uid, replaced.st_gid))
		return errno;
	if (fchmod(transfer->fd, transfer->mode))
		return errno;
	if (transfer->mtime_ns >= 0 && futimens(transfer->fd, times))
		return errno;
	int fd = transfer->fd;
	transfer->fd = -1;
	if (close(fd) || rename(transfer->temporary, transfer->path))
		return errno;
	free(transfer->temporary);
	transfer->temporary = NULL;
	return 0;
}

static void push_data(struct stream *stream, const uint8_t *data, size_t length, bool end)
{
	struct transfer *transfer = (struct transfer *)stream;
	for (size_t at = 0; at < length;) {
		ssize_t wrote = write(transfer->fd, data + at, length - at);
		if (wrote < 0 && errno != EINTR) {
			transfer_end(transfer, errno, NULL);
			return;
		}
		at += wrote > 0 ? (size_t)wrote : 0;
	}
	if (end)
		transfer_end(transfer, push_finish(transfer), NULL);
	else
		stream_passed_on(stream, length);
}

/* Where a push to this path goes: into a directory under the name, through symbolic links; NULL and errno. */
static char *destination(const char *path, const char *name)
{
	char *inside = NULL, *resolved;
	struct stat status;
	if (!stat(path, &status) && S_ISDIR(status.st_mode)) {
		if (!name || !*name || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, "..")) {
			errno = EISDIR;
			return NULL;
		}
		if (asprintf(&inside, "%s/%s", path, name) < 0)
			return NULL;
		path = inside;
	}
	if (stat(path, &status)) {
		resolved = strdup(path);
	} else if (S_ISREG(status.st_mode)) {
		resolved = realpath(path, NULL);
	} else {
		errno = S_ISDIR(status.st_mode) ? EISDIR : EINVAL; /* a device must not be replaced by a file */
		resolved = NULL;
	}
	int error = errno;
	free(inside);
	errno = error;
	return resolved;
}

static void no_resume(struct stream *stream)
{
	(void)stream;
}

static const struct stream_kind push_kind = {
	.data = push_data,
	.resume = no_resume,
	.detach = transfer_detach,
	.close = transfer_close,
};

static char *temporary_beside(const char *path)
{
	char *copy = strdup(path), *temporary = NULL;
	if (copy && asprintf(&temporary, "%s/.copper-push-XXXXXX", dirname(copy)) < 0)
		temporary = NULL;
	free(copy);
	return temporary;
}

void push_open(uint32_t id, const json_t *message)
{
	const char *path = json_text(message, "path");
	struct transfer *transfer = calloc(1, sizeof *transfer);
	if (!transfer || !path || !*path) {
		stream_send_failure(id, EINVAL, "push: no path");
		free(transfer);
		return;
	}
	transfer->fd = -1;
	transfer->mode = (mode_t)json_number(message, "mode", 0644) & 07777;
	transfer->mtime_ns = json_number(message, "mtime_ns", -1);
	stream_add(&transfer->stream, &push_kind, id, CREDIT_IN);
	transfer->path = destination(path, json_text(message, "name"));
	char *template = transfer->path ? temporary_beside(transfer->path) : NULL;
	if (template && (transfer->fd = mkostemp(template, O_CLOEXEC)) >= 0) {
		transfer->temporary = template;
		tell_started(id, transfer->path, NULL);
		stream_give_credit(&transfer->stream, PUSH_CREDIT - CREDIT_IN);
		return;
	}
	int error = errno;
	free(template);
	transfer_end(transfer, error, NULL);
}

static void no_data(struct stream *stream, const uint8_t *data, size_t length, bool end)
{
	(void)stream, (void)data, (void)length, (void)end;
}

static bool pull_pump(struct stream *stream)
{
	static uint8_t bytes[CHUNK];
	struct transfer *transfer = (struct transfer *)stream;
	size_t room = stream_may_send(stream, 1);
	if (!room)
		return false;
	ssize_t got = read(transfer->fd, bytes, room);
	if (got > 0) {
		stream_send(stream, 1, bytes, (size_t)got);
		return true;
	}
	int error = got < 0 ? errno : 0;
	if (!error)
		stream_send_end(stream, 1);
	transfer_end(transfer, error, NULL);
	return false;
}

static const struct stream_kind pull_kind = {
	.data = no_data,
	.resume = no_resume,
	.pump = pull_pump,
	.detach = transfer_detach,
	.close = transfer_close,
};

void pull_open(uint32_t id, const json_t *message)
{
	const char *path = json_text(message, "path");
	struct transfer *transfer = calloc(1, sizeof *transfer);
	if (!transfer || !path || !*path) {
		stream_send_failure(id, EINVAL, "pull: no path");
		free(transfer);
		return;
	}
	struct stat status;
	stream_add(&transfer->stream, &pull_kind, id, 0);
	/* not blocking: opening a pipe would wait for its writer */
	transfer->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (transfer->fd < 0 || fstat(transfer->fd, &status))
		transfer_end(transfer, errno, NULL);
	else if (!S_ISREG(status.st_mode))
		transfer_end(transfer, S_ISDIR(status.st_mode) ? EISDIR : EINVAL,
			     S_ISDIR(status.st_mode) ? NULL : "not a regular file");
	else
		tell_started(id, path, &status);
}
