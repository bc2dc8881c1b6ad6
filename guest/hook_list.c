/* Names are letters, digits, _ and -, as run-parts has it: no hook is a package manager's or an editor's copy. */
#include "hook_list.h"
#include "agent.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOOKS_MOST = 256 /* in a folder */, LIMIT_S = 60, LIMIT_S_MOST = 3600 };

static const struct {
	enum hook_stage stage;
	const char *name;
	bool folder, fatal;
} places[] = {
	{HOOKS_BEFORE, "pre-clone", false, true},
	{HOOKS_BEFORE, "pre-clone.d", true, true},
	{HOOKS_IN_CLONE, "post-clone", false, false},
	{HOOKS_IN_CLONE, "post-clone.d", true, false},
	{HOOKS_IN_CLONE, "post-clone-on-clone.d", true, true},
	{HOOKS_IN_CALLER, "post-clone", false, false},
	{HOOKS_IN_CALLER, "post-clone.d", true, false},
	{HOOKS_IN_CALLER, "post-clone-on-master.d", true, false},
};

/* The file that is one hook has no folder. */
static struct hook **append(struct hook **at, const char *folder, const char *name, bool fatal, int error)
{
	size_t room = strlen(folder) + strlen(name) + 2;
	struct hook *hook = calloc(1, sizeof *hook + room);
	if (!hook)
		return at;
	snprintf(hook->name, room, "%s%s%s", folder, *name ? "/" : "", name);
	hook->fatal = fatal;
	hook->error = error;
	*at = hook;
	return &hook->next;
}

static bool is_hook(int folder, const char *name)
{
	struct stat status;
	return !fstatat(folder, name, &status, 0) && S_ISREG(status.st_mode) && !faccessat(folder, name, X_OK, 0);
}

static bool is_name(const char *name)
{
	return *name && !name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")];
}

static int by_name(const void *one, const void *other)
{
	return strcmp(*(char *const *)one, *(char *const *)other);
}

/* The hooks of a folder, or an entry that says why they cannot be known: an administrator wanted them to run. */
static struct hook **append_folder(struct hook **at, int base, const char *folder, bool fatal)
{
	char *names[HOOKS_MOST];
	size_t count = 0;
	int fd = openat(base, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *opened = fd < 0 ? NULL : fdopendir(fd);
	int error = opened || errno == ENOENT ? 0 : errno;
	if (!opened && fd >= 0)
		close(fd);
	for (const struct dirent *entry; opened && !error && (entry = readdir(opened));) {
		if (!is_name(entry->d_name) || !is_hook(fd, entry->d_name))
			continue;
		if (count == HOOKS_MOST)
			error = E2BIG;
		else if (!(names[count++] = strdup(entry->d_name)))
			error = ENOMEM;
	}
	if (opened)
		closedir(opened);
	if (error)
		at = append(at, folder, "", fatal, error);
	else
		qsort(names, count, sizeof *names, by_name);
	for (size_t i = 0; i < count; i++) {
		if (!error)
			at = append(at, folder, names[i], fatal, 0);
		free(names[i]);
	}
	return at;
}

struct hook *hook_list(enum hook_stage stage)
{
	struct hook *list = NULL, **at = &list;
	int base = open(options.conf_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (base < 0)
		return NULL;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
		if (places[i].stage != stage)
			continue;
		if (places[i].folder)
			at = append_folder(at, base, places[i].name, places[i].fatal);
		else if (is_hook(base, places[i].name))
			at = append(at, places[i].name, "", places[i].fatal, 0);
	}
	close(base);
	return list;
}

void hook_list_free(struct hook *list)
{
	while (list) {
		struct hook *next = list->next;
		free(list);
		list = next;
	}
}

bool hook_list_any(void)
{
	struct hook *before = hook_list(HOOKS_BEFORE), *after = before ? NULL : hook_list(HOOKS_IN_CALLER);
	bool any = before || after;
	hook_list_free(before);
	hook_list_free(after);
	return any;
}

int hook_limit_ms(void)
{
	char path[256], line[256], value[32];
	int limit_s = LIMIT_S;
	if (snprintf(path, sizeof path, "%s/agent.conf", options.conf_dir) >= (int)sizeof path)
		return limit_s * 1000;
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file)) {
		if (sscanf(line, " hook_timeout_s = %31s", value) != 1)
			continue;
		char *end;
		long number = strtol(value, &end, 10);
		if (!*end && number >= 1 && number <= LIMIT_S_MOST)
			limit_s = (int)number;
		else
			fprintf(stderr, "gridcentric-agent: %s: hook_timeout_s: expected 1 to %d, got %s\n", path,
				LIMIT_S_MOST, value);
	}
	if (file)
		fclose(file);
	return limit_s * 1000;
}
