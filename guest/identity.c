/* The steps that make a copy of a machine a machine of its own, in order; one that fails ends them. */
#include "identity.h"
#include "agent.h"
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SEED_BYTES = 64 };

static json_t *known;

const json_t *identity(void)
{
	return known;
}

/* Without the reseed, clones would go on with the parent's generator for up to a minute. */
static int take_seed(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	struct {
		int entropy_bits, bytes;
		uint8_t seed[SEED_BYTES];
	} pool = {.entropy_bits = SEED_BYTES * 8, .bytes = SEED_BYTES};
	const char *seed = json_text(session, "seed");
	if (!seed || base64_decode(seed, pool.seed, sizeof pool.seed) != SEED_BYTES)
		return EINVAL;
	static int fd = -1; /* kept: a clone has no time to look up a path */
	if (fd < 0 && (fd = open("/dev/urandom", O_RDWR | O_CLOEXEC)) < 0)
		return errno;
	int error = ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG) ? errno : 0;
	explicit_bzero(&pool, sizeof pool);
	return error;
}

static int take_clock(const json_t *session, int64_t received_ns)
{
	int64_t realtime_ns = json_number(session, "realtime_ns", 0);
	if (realtime_ns <= 0)
		return EINVAL;
	realtime_ns += monotonic_ns() - received_ns;
	struct timespec now = {realtime_ns / 1000000000, realtime_ns % 1000000000};
	return clock_settime(CLOCK_REALTIME, &now) ? errno : 0;
}

static int take_name(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	const char *name = json_text(json_object_get(session, "identity"), "name");
	return name && *name && sethostname(name, strlen(name)) ? errno : 0;
}

static int write_file(const char *name, const char *text, size_t length)
{
	char path[256], new[264];
	if (snprintf(path, sizeof path, "%s/%s", options.run_dir, name) >= (int)sizeof path)
		return ENAMETOOLONG;
	snprintf(new, sizeof new, "%s.new", path);
	int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return errno;
	ssize_t wrote = write(fd, text, length);
	int error = wrote == (ssize_t)length ? 0 : wrote < 0 ? errno : ENOSPC;
	if (close(fd) && !error)
		error = errno;
	if (!error && rename(new, path))
		error = errno;
	return error;
}

static int take_files(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	static char text[64 << 10]; /* 1,024 vmids are 6 kB */
	const json_t *told = json_object_get(session, "identity");
	size_t length = json_dumpb(told, text, sizeof text - 1, JSON_COMPACT);
	if (!length || length >= sizeof text)
		return E2BIG;
	text[length++] = '\n';
	int error = write_file("identity", text, length);
	if (error)
		return error;
	length = (size_t)snprintf(text, sizeof text, "%lld\n", (long long)json_number(told, "generation", 0));
	return write_file("generation", text, length);
}

static const struct {
	const char *name;
	int (*take)(const json_t *session, int64_t received_ns);
	bool changes_machine;
} steps[] = {
	{"seed", take_seed, true},
	{"clock", take_clock, true},
	{"name", take_name, true},
	{"files", take_files, false},
};

int identity_take(const json_t *session, int64_t received_ns, const char **step)
{
	json_t *told = json_object_get(session, "identity");
	*step = "identity";
	if (!json_is_object(told) || json_number(told, "vmid", -1) < 0)
		return EINVAL;
	for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
		if (steps[i].changes_machine && !options.identity)
			continue;
		*step = steps[i].name;
		int error = steps[i].take(session, received_ns);
		if (error)
			return error;
	}
	json_t *former = known;
	known = json_incref(told);
	json_decref(former);
	return 0;
}
