/* What hooks did and wrote: hooks.log, and hooks.log.1, which was before it; 1 MiB each. */
#ifndef HOOK_LOG_H
#define HOOK_LOG_H

#include <stddef.h>
#include <stdint.h>

struct hook_log {
	int fd;
	size_t written; /* by this hook */
};

void hook_log_begin(struct hook_log *log, const char *name);
void hook_log_write(struct hook_log *log, const char *data, size_t length);
void hook_log_end(struct hook_log *log, const char *name, const char *how, int64_t took_ms);

#endif
