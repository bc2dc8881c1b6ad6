/* Ids and names, in the files where programs look for them. */
#include "machine.h"
#include "agent.h"
#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ID_DIGITS = 32, UUID_TEXT = 36, HOSTS_MOST = 192 << 10 /* of each: /etc/hosts, and the host's lines */ };

static const char begin_mark[] = "# copper: begin", end_mark[] = "# copper: end";

/* NULL if there is none; "" if it is not what it should be. */
static const char *machine_id(const json_t *identity)
{
	const char *id = json_text(identity, "machine_id");
	if (!id)
		return json_object_get(identity, "machine_id") ? "" : NULL;
	return strlen(id) == ID_DIGITS && strspn(id, "0123456789abcdef") == ID_DIGITS ? id : "";
}

/* Has a file read as this text: one of ours, in memory, is mounted over it. A copy of this machine has the mount already
 * and only writes to ours: for a file of the kernel's there is no other way, and the first write of a clone to a disk
 * takes 50 ms under emulation. Nothing is done where there is no such file. */
static int cover(const char *path, const char *name, const char *text, size_t length, mode_t mode)
{
	char ours[256];
	struct stat there, own;
	if (stat(path, &there))
		return errno == ENOENT ? 0 : errno;
	if (snprintf(ours, sizeof ours, "%s/%s", options.run_dir, name) >= (int)sizeof ours)
		return ENAMETOOLONG;
	int fd = open(ours, O_WRONLY | O_CREAT | O_CLOEXEC, mode);
	if (fd < 0)
		return errno;
	int error = pwrite(fd, text, length, 0) == (ssize_t)length ? 0 : errno ? errno : EIO;
	if (!error && fstat(fd, &own))
		error = errno;
	close(fd);
	if (error || (own.st_dev == there.st_dev && own.st_ino == there.st_ino))
		return error;
	return mount(ours, path, NULL, MS_BIND, NULL) ? errno : 0;
}

int machine_take_id(const json_t *identity)
{
	static const char path[] = "/etc/machine-id", dbus[] = "/var/lib/dbus/machine-id";
	const char *id = machine_id(identity);
	char line[ID_DIGITS + 2];
	struct stat status;
	if (!id)
		return 0;
	if (!*id)
		return EINVAL;
	snprintf(line, sizeof line, "%s\n", id);
	int error = 0;
	if (stat(path, &status) && errno == ENOENT)
		error = replace_file(path, line, ID_DIGITS + 1, 0444);
	if (!error)
		error = cover(path, "machine-id", line, ID_DIGITS + 1, 0444);
	if (!error && !lstat(dbus, &status) && S_ISREG(status.st_mode))
		error = cover(dbus, "machine-id", line, ID_DIGITS + 1, 0444);
	return error;
}

static void format_uuid(const char *digits, char *uuid)
{
	snprintf(uuid, UUID_TEXT + 2, "%.8s-%.4s-%.4s-%.4s-%.12s\n", digits, digits + 8, digits + 12, digits + 16,
		 digits + 20);
}

int machine_take_boot_id(const json_t *identity)
{
	const char *id = machine_id(identity);
	char text[UUID_TEXT + 2], digits[ID_DIGITS + 1];
	uint8_t bytes[ID_DIGITS / 2];
	if (!id)
		return 0;
	if (!*id)
		return EINVAL;
	if (getrandom(bytes, sizeof bytes, GRND_NONBLOCK) != sizeof bytes)
		return errno;
	bytes[6] = (bytes[6] & 0x0f) | 0x40; /* a UUID of random numbers, as the kernel's are */
	bytes[8] = (bytes[8] & 0x3f) | 0x80;
	for (size_t i = 0; i < sizeof bytes; i++)
		snprintf(digits + 2 * i, 3, "%02x", bytes[i]);
	format_uuid(digits, text);
	int error = cover("/proc/sys/kernel/random/boot_id", "boot_id", text, UUID_TEXT + 1, 0444);
	if (error)
		return error;
	format_uuid(id, text);
	return cover("/sys/class/dmi/id/product_uuid", "product_uuid", text, UUID_TEXT + 1, 0400);
}

int machine_take_name(const json_t *identity)
{
	char line[80];
	const char *name = json_text(identity, "name");
	if (!name || !*name)
		return 0;
	int length = snprintf(line, sizeof line, "%s\n", name);
	if (length >= (int)sizeof line || strchr(name, '\n'))
		return EINVAL;
	if (sethostname(name, strlen(name)))
		return errno;
	return replace_file("/etc/hostname", line, (size_t)length, 0644);
}

/* The line that is this mark, from here on; NULL: there is none. */
static char *find_line(char *text, const char *mark)
{
	size_t length = strlen(mark);
	for (char *at = text; (at = strstr(at, mark)); at += length)
		if ((at == text || at[-1] == '\n') && (!at[length] || at[length] == '\n'))
			return at;
	return NULL;
}

int machine_take_hosts(const char *lines)
{
	static const char path[] = "/etc/hosts";
	size_t length = 0, added = strlen(lines);
	if (added > HOSTS_MOST || strstr(lines, begin_mark) || strstr(lines, end_mark))
		return EINVAL;
	char *now = read_file(path, HOSTS_MOST, &length), *new = NULL;
	if (!now && errno != ENOENT)
		return errno;
	char *begin = now ? find_line(now, begin_mark) : NULL, *end = begin ? find_line(begin, end_mark) : NULL;
	/* an end that is missing was taken away by hand: what is there stays, and ours comes after it */
	size_t before = end ? (size_t)(begin - now) : length;
	const char *after = end ? end + strlen(end_mark) : "\n";
	const char *gap = before && now[before - 1] != '\n' ? "\n" : "";
	const char *newline = added && lines[added - 1] != '\n' ? "\n" : "";
	int wrote = asprintf(&new, "%.*s%s%s\n%s%s%s%s", (int)before, now ? now : "", gap, begin_mark, lines, newline,
			     end_mark, after);
	int error = wrote < 0 ? ENOMEM : replace_file(path, new, (size_t)wrote, 0644);
	if (wrote >= 0)
		free(new);
	free(now);
	return error;
}
