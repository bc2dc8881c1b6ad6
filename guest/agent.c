/* The agent: options, signals, sessions, and which part takes which message. */
#include "agent.h"
#include "channel.h"
#include "exec.h"
#include "hook_list.h"
#include "hooks.h"
#include "host_keys.h"
#include "identity.h"
#include "local.h"
#include "loop.h"
#include "streams.h"
#include "turns.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

struct options options = {
	.socket = "/run/gridcentric/agent.sock",
	.run_dir = "/run/gridcentric",
	.log_dir = "/var/log/gridcentric",
	.conf_dir = "/etc/gridcentric",
	.identity = true,
};

static void say_hello(struct timer *timer);
static struct timer hello = {.due = say_hello};

static void read_text(const char *path, char *to, size_t room)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, to, room - 1);
	to[got > 0 ? got : 0] = 0;
	to[strcspn(to, "\n")] = 0;
	if (fd >= 0)
		close(fd);
}

static void say_hello(struct timer *timer)
{
	char boot_id[64];
	if (channel_session())
		return;
	read_text("/proc/sys/kernel/random/boot_id", boot_id, sizeof boot_id);
	if (channel_idle()) /* without a host they would pile up */
		channel_send(json_pack("{s:s, s:s, s:s}", "type", "hello", "agent", VERSION, "boot_id", boot_id));
	timer_set(timer, 1000);
}

static void say_ready(uint32_t session)
{
	struct sysinfo info = {0};
	sysinfo(&info); /* not /proc: a clone runs this before anything else, and every path is new to it */
	const char *key = host_keys_public();
	const json_t *public = json_object_get(json_object_get(identity(), "net"), "public");
	channel_send(json_pack("{s:s, s:I, s:s, s:I, s:I, s:I, s:s*}", "type", "ready", "session", (json_int_t)session, "agent",
			       VERSION, "uptime_ms", (json_int_t)(monotonic_ns() / 1000000), "load",
			       (json_int_t)(info.loads[0] * 100 >> SI_LOAD_SHIFT), "public",
			       (json_int_t)json_array_size(public), "ssh_host_key",
			       *key ? key : NULL));
}

/* A session in which this VM is not ready yet: hooks run, or it could not be what it was to be. */
static struct {
	struct hook_run *hooks;
	uint32_t call;
	bool is_clone, failed;
} becoming;

static void tell_failed(const char *step, const char *message)
{
	becoming.failed = true;
	channel_send(json_pack("{s:s, s:I, s:s, s:s}", "type", "failed", "session", (json_int_t)channel_session(),
			       "step", step, "message", message));
}

static void become(json_t *hooks_failed)
{
	say_ready(channel_session());
	channel_flush(); /* the host goes on while the programs here wake up */
	local_session(becoming.call, becoming.is_clone, hooks_failed);
}

static void clone_hooks_over(void *owner, json_t *failed, bool fatal)
{
	(void)owner;
	char which[640], message[656];
	const char *name = json_text(identity(), "name");
	becoming.hooks = NULL;
	if (!fatal) {
		become(failed);
		return;
	}
	hooks_last(failed, which, sizeof which);
	snprintf(message, sizeof message, "hook %s", which);
	tell_failed(name ? name : "?", message);
}

/* Each clone's hooks run before it is handed out; how long they may take is told. */
static void run_clone_hooks(uint32_t session)
{
	if (turns_bare(becoming.call)) /* as most guests have it */
		return;
	struct hook *any = hook_list(HOOKS_IN_CLONE);
	hook_list_free(any);
	if (!any)
		return;
	json_t *environment = hooks_environment(identity(), json_text(identity(), "ticket"), NULL);
	becoming.hooks = hooks_run(HOOKS_IN_CLONE, environment, clone_hooks_over, NULL);
	if (becoming.hooks)
		channel_send(json_pack("{s:s, s:I, s:I}", "type", "working", "session", (json_int_t)session, "ms",
				       (json_int_t)hooks_most_ms(becoming.hooks)));
}

static void take_session(const json_t *message, uint32_t session, int64_t received_ns)
{
	const char *event = json_text(message, "event"), *step;
	bool is_clone = event && !strcmp(event, "clone");
	uint32_t call = (uint32_t)json_number(message, "call", 0);
	if (!session || json_number(message, "session", 0) != session)
		return;
	if (session == channel_session()) { /* the same message twice has one effect */
		if (!becoming.hooks && !becoming.failed)
			say_ready(session);
		return;
	}
	channel_begin(session);
	streams_detach(is_clone ? HEIR_NOBODY : HEIR_NEXT_SESSION);
	if (is_clone)
		exec_disown();
	turns_session(call, is_clone);
	becoming.failed = false;
	int error = identity_take(message, received_ns, &step);
	if (error) {
		tell_failed(step, strerror(error));
		return;
	}
	if (becoming.hooks && !is_clone)
		return; /* a new host waits for the same hooks */
	becoming.call = call;
	becoming.is_clone = is_clone;
	if (is_clone && !becoming.hooks)
		run_clone_hooks(session);
	if (!becoming.hooks)
		become(NULL);
}

static void take_message(const json_t *message, uint32_t session, int64_t received_ns)
{
	const char *type = json_text(message, "type");
	if (!strcmp(type, "session"))
		take_session(message, session, received_ns);
	else if (!strcmp(type, "hosts") && !becoming.failed && identity())
		identity_hosts(message);
	else if (!strcmp(type, "reply"))
		local_reply(message);
	else if (!strcmp(type, "ping"))
		channel_send(json_pack("{s:s, s:I}", "type", "pong", "id", (json_int_t)json_number(message, "id", 0)));
	else
		streams_message(type, message);
}

static void drained(void)
{
	local_resume();
	streams_resume();
}

static bool before_wait(void)
{
	bool more = streams_pump();
	channel_flush();
	return more;
}

static void signal_ready(struct source *source, uint32_t events)
{
	(void)events;
	struct signalfd_siginfo told;
	if (read(source->fd, &told, sizeof told) != sizeof told)
		return;
	if (told.ssi_signo == SIGCHLD)
		exec_reap();
	else
		loop_stop();
}

static void open_signals(void)
{
	static struct source signals = {.ready = signal_ready};
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	loop_watch(&signals, EPOLLIN);
}

static void make_directory(const char *path)
{
	char part[256];
	for (const char *slash = path; (slash = strchr(slash + 1, '/'));)
		if (snprintf(part, sizeof part, "%.*s", (int)(slash - path), path) < (int)sizeof part)
			mkdir(part, 0755);
	mkdir(path, 0755);
}

static _Noreturn void usage(FILE *to, int status)
{
	fputs("usage: gridcentric-agent [OPTION]…\n"
	      "  --port PATH     the channel: a virtio port's device, or a Unix socket to connect to\n"
	      "  --socket PATH   where programs connect (/run/gridcentric/agent.sock)\n"
	      "  --run-dir DIR   identity and generation (/run/gridcentric)\n"
	      "  --log-dir DIR   output of hooks, and of commands that nobody reads any more (/var/log/gridcentric)\n"
	      "  --conf-dir DIR  hooks, and agent.conf (/etc/gridcentric)\n"
	      "  --no-identity[=STEP,…]  change nothing of this machine; or take all steps but these\n"
	      "  --version, --help\n",
	      to);
	exit(status);
}

static void read_options(int argc, char **argv)
{
	static const struct option known[] = {
		{"port", required_argument, NULL, 'p'},	   {"socket", required_argument, NULL, 's'},
		{"run-dir", required_argument, NULL, 'r'}, {"log-dir", required_argument, NULL, 'l'},
		{"conf-dir", required_argument, NULL, 'c'}, {"no-identity", optional_argument, NULL, 'n'},
		{"version", no_argument, NULL, 'v'},	   {"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int option;
	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1)
		switch (option) {
		case 'p': options.port = optarg; break;
		case 's': options.socket = optarg; break;
		case 'r': options.run_dir = optarg; break;
		case 'l': options.log_dir = optarg; break;
		case 'c': options.conf_dir = optarg; break;
		case 'n': options.identity = false, options.left_alone = optarg; break;
		case 'v': puts(VERSION); exit(0);
		case 'h': usage(stdout, 0);
		default: usage(stderr, 2);
		}
	if (optind != argc)
		usage(stderr, 2);
}

int agent_main(int argc, char **argv)
{
	static const struct channel_owner owner = {take_message, streams_data, drained};
	read_options(argc, argv);
	json_bound_memory();
	int fd;
	while ((fd = open("/dev/null", O_RDWR)) >= 0 && fd <= 2)
		; /* so that commands' pipes are never 0, 1 or 2 */
	close(fd);
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max < 8192 ? files.rlim_max : 8192;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	make_directory(options.run_dir);
	make_directory(options.log_dir);
	open_signals();
	local_open(options.socket);
	channel_open(options.port, &owner);
	say_hello(&hello);
	loop_run(before_wait);
	local_close();
	return 0;
}
