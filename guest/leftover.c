/* Opened at the first byte; what does not fit, or cannot be written, is dropped. */
#include "leftover.h"
#include "agent.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

enum { LEFTOVER_MOST = 1 << 20 };

void leftover_write(struct leftover *leftover, pid_t pid, const uint8_t *data, size_t length)
{
	size_t room = LEFTOVER_MOST - leftover->written;
	if (leftover->fd < 0 && leftover->written == 0) {
		char path[256];
		if (snprintf(path, sizeof path, "%s/exec-%d.log", options.log_dir, (int)pid) < (int)sizeof path)
			leftover->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	}
	if (length > room)
		length = room;
	leftover->written += length; /* also what could not be kept: the bound is on effort too */
	if (leftover->fd >= 0 && length && write(leftover->fd, data, length) < 0)
		leftover_close(leftover);
	if (leftover->written == LEFTOVER_MOST)
		leftover_close(leftover);
}

void leftover_close(struct leftover *leftover)
{
	if (leftover->fd >= 0)
		close(leftover->fd);
	leftover->fd = -1;
}
