/* The steps that make a copy of a machine a machine of its own, in order; one that fails ends them. */
#include "identity.h"
#include "agent.h"
#include "host_keys.h"
#include "login_key.h"
#include "loop.h"
#include "machine.h"
#include "network.h"
#include "replace.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
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

static const json_t *told(const json_t *session)
{
	return json_object_get(session, "identity");
}

static int take_machine_id(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	return machine_take_id(told(session));
}

static int take_boot_id(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	return machine_take_boot_id(told(session));
}

/* A place that it leaves at once, before its link is up: an emulator has then translated what the copies of this machine
 * do with theirs. Only time is lost where that fails. */
static int take_rehearsal(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	const json_t *net = json_object_get(session, "rehearsal");
	int error = net ? network_join(net) : 0;
	if (error)
		fprintf(stderr, "gridcentric-agent: the rehearsal: %s\n", strerror(error));
	return 0;
}

/* What was written goes to the disk. Otherwise it would some seconds later, in every copy that is made until then, and for
 * each of them an emulator would translate that for the first time. By a process of its own, for a disk may be slow. */
static int take_disk(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	if (!json_object_get(session, "rehearsal"))
		return 0;
	pid_t child = fork();
	if (!child) {
		if (fork())
			_exit(0); /* nobody's child any more */
		close_range(STDERR_FILENO + 1, ~0u, 0);
		int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		_exit(root < 0 || syncfs(root));
	}
	if (child > 0)
		waitpid(child, NULL, 0);
	return 0;
}

/* A VM without a network card has no net. */
static int take_old_addresses(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	const json_t *net = json_object_get(told(session), "net");
	return net ? network_leave(net) : 0;
}

static int take_network(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	const json_t *net = json_object_get(told(session), "net");
	return net ? network_join(net) : 0;
}

static int take_resolver(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	return network_resolver(json_object_get(told(session), "net"));
}

static int take_name(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	return machine_take_name(told(session));
}

static int take_hosts(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	const char *lines = json_text(session, "hosts");
	return lines ? machine_take_hosts(lines) : 0;
}

static int take_host_keys(const json_t *session, int64_t received_ns)
{
	(void)session, (void)received_ns;
	return host_keys_renew();
}

static int take_login_key(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	const json_t *key = json_object_get(session, "login_key");
	return key ? login_key_take(key) : 0;
}

static int keep_file(const char *name, const char *text, size_t length)
{
	char path[256];
	if (snprintf(path, sizeof path, "%s/%s", options.run_dir, name) >= (int)sizeof path)
		return ENAMETOOLONG;
	return replace_file(path, text, length, 0644);
}

/* The generation last: who waits for it finds all else done. */
static int keep(const json_t *identity)
{
	static char text[64 << 10]; /* 1,024 vmids are 6 kB */
	size_t length = json_dumpb(identity, text, sizeof text - 1, JSON_COMPACT);
	if (!length || length >= sizeof text)
		return E2BIG;
	text[length++] = '\n';
	int error = keep_file("identity", text, length);
	if (error)
		return error;
	length = (size_t)snprintf(text, sizeof text, "%lld\n", (long long)json_number(identity, "generation", 0));
	return keep_file("generation", text, length);
}

static int take_files(const json_t *session, int64_t received_ns)
{
	(void)received_ns;
	return keep(told(session));
}

/* When a step is taken: in a VM that is another one from now on, in one that stood still, or in one that has only a new
 * host agent. */
enum { NEW = 1, STOOD = 2, SAME = 4, ALWAYS = NEW | STOOD | SAME };

static const struct {
	const char *name;
	int (*take)(const json_t *session, int64_t received_ns);
	int when;
	bool changes_machine;
} steps[] = {
	{"seed", take_seed, ALWAYS, true},
	{"clock", take_clock, ALWAYS, true},
	{"machine-id", take_machine_id, NEW, true},
	{"boot-id", take_boot_id, NEW, true},
	{"rehearsal", take_rehearsal, NEW, true},
	{"connections", take_old_addresses, NEW, true},
	{"net", take_network, NEW | STOOD, true},
	{"resolver", take_resolver, NEW, true},
	{"name", take_name, NEW | STOOD, true},
	{"hosts", take_hosts, ALWAYS, true},
	{"ssh-host-keys", take_host_keys, NEW, true},
	{"ssh-login-key", take_login_key, NEW, true},
	{"files", take_files, ALWAYS, false},
	{"disk", take_disk, NEW, true},
};

enum { STEPS = sizeof steps / sizeof *steps };

static size_t step_named(const char *name)
{
	size_t i = 0;
	while (i < STEPS && strcmp(steps[i].name, name))
		i++;
	return i;
}

static bool is_left_alone(size_t step)
{
	const char *at = options.left_alone;
	if (!steps[step].changes_machine || options.identity)
		return false;
	if (!at)
		return true;
	size_t length = strlen(steps[step].name);
	for (; (at = strstr(at, steps[step].name)); at += length)
		if ((at == options.left_alone || at[-1] == ',') && (!at[length] || at[length] == ','))
			return true;
	return false;
}

static int when_of(const char *event)
{
	if (event && !strcmp(event, "adopt"))
		return SAME;
	return event && !strcmp(event, "resume") ? STOOD : NEW;
}

int identity_take(const json_t *session, int64_t received_ns, const char **step)
{
	json_t *new = json_object_get(session, "identity");
	int when = when_of(json_text(session, "event"));
	*step = "identity";
	if (!json_is_object(new) || json_number(new, "vmid", -1) < 0)
		return EINVAL;
	for (size_t i = 0; i < STEPS; i++) {
		if (!(steps[i].when & when) || is_left_alone(i))
			continue;
		*step = steps[i].name;
		int error = steps[i].take(session, received_ns);
		if (error)
			return error;
	}
	json_t *former = known;
	known = json_incref(new);
	json_decref(former);
	return 0;
}

/* All VMs are told before one comes that is outside the network as it was. */
static int take_prefix(const json_t *message)
{
	json_t *net = json_object_get(known, "net"), *prefix = json_object_get(message, "prefix");
	if (!net || !json_is_integer(prefix) || json_equal(prefix, json_object_get(net, "prefix")))
		return 0;
	json_t *wider = json_copy(net);
	if (!wider || json_object_set(wider, "prefix", prefix)) {
		json_decref(wider);
		return ENOMEM;
	}
	int error = is_left_alone(step_named("net")) ? 0 : network_join(wider);
	if (!error && !json_object_set(known, "net", wider))
		error = keep(known);
	json_decref(wider);
	return error;
}

void identity_hosts(const json_t *message)
{
	const char *lines = json_text(message, "text");
	int error = !lines || is_left_alone(step_named("hosts")) ? 0 : machine_take_hosts(lines);
	if (error)
		fprintf(stderr, "gridcentric-agent: /etc/hosts: %s\n", strerror(error));
	if ((error = take_prefix(message)))
		fprintf(stderr, "gridcentric-agent: the network's size: %s\n", strerror(error));
}

const char *identity_address(const json_t *of)
{
	const char *address = json_text(json_object_get(of, "net"), "address");
	return address ? address : "";
}
