/* Output of a command whose reader is gone: kept in exec-PID.log, 1 MiB of it. */
#ifndef LEFTOVER_H
#define LEFTOVER_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct leftover {
	int fd; /* -1: no output yet, or nowhere to keep it */
	size_t written;
};

void leftover_write(struct leftover *leftover, pid_t pid, const uint8_t *data, size_t length);
void leftover_close(struct leftover *leftover);

#endif
