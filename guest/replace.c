/* Small files, read and replaced whole. */
#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *read_file(const char *path, size_t most, size_t *length)
{
	char *text = NULL;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat status;
	if (fd < 0)
		return NULL;
	int failed = fstat(fd, &status);
	if (!failed && status.st_size > (off_t)most)
		errno = EFBIG;
	else if (!failed && (text = malloc((size_t)status.st_size + 1))) {
		ssize_t got = read(fd, text, (size_t)status.st_size);
		*length = got > 0 ? (size_t)got : 0;
		text[*length] = 0;
	}
	int error = errno;
	close(fd);
	errno = error;
	return text;
}

static int write_all(int fd, const char *text, size_t length)
{
	for (size_t at = 0; at < length;) {
		ssize_t wrote = write(fd, text + at, length - at);
		if (wrote < 0 && errno != EINTR)
			return errno;
		at += wrote > 0 ? (size_t)wrote : 0;
	}
	return 0;
}

static int write_file(const char *path, int flags, const char *text, size_t length, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags, mode);
	if (fd < 0)
		return errno;
	int error = write_all(fd, text, length);
	if (!error && flags & O_CREAT && mode & 022 && fchmod(fd, mode)) /* which the umask took away */
		error = errno;
	if (close(fd) && !error)
		error = errno;
	return error;
}

static bool has_already(const char *path, const char *text, size_t length)
{
	size_t there;
	char *now = read_file(path, length, &there);
	bool same = now && there == length && !memcmp(now, text, length);
	free(now);
	return same;
}

int replace_file(const char *path, const char *text, size_t length, mode_t mode)
{
	char target[PATH_MAX], new[PATH_MAX + 8];
	struct stat status;
	if (has_already(path, text, length))
		return 0;
	if (!stat(path, &status)) {
		mode = status.st_mode & 07777;
		if (realpath(path, target)) /* what a link leads to is replaced, not the link */
			path = target;
	}
	if (snprintf(new, sizeof new, "%s.new", path) >= (int)sizeof new)
		return ENAMETOOLONG;
	int error = write_file(new, O_CREAT | O_TRUNC, text, length, mode);
	if (!error && rename(new, path)) {
		error = errno;
		if (error == EBUSY)
			error = write_file(path, O_TRUNC, text, length, mode);
		unlink(new);
	} else if (error) {
		unlink(new);
	}
	return error;
}
