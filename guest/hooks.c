/* A hook is the agent's child, in a process group of its own, which ends with it. */
#include "hooks.h"
#include "agent.h"
#include "hook_log.h"
#include "identity.h"
#include "loop.h"
#include "spawn.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
	TAIL = 400,	     /* bytes of standard error that a message tells */
	DRAIN_MOST = 1 << 18, /* bytes read after the end: a pipe holds less */
	GRACE_MS = 2000,     /* for a process that was killed to be gone */
};

struct hook_run {
	struct hook_run *next;
	struct hook *hooks; /* the first is the one that runs, when pid is not 0 */
	json_t *environment, *failed;
	hooks_over *over;
	void *owner;
	struct timer timer; /* to begin the next hook, to end one, to give one up */
	pid_t pid;
	struct source out, err;
	int failure, limit_ms;
	bool late, fatal, stopped;
	int64_t began_ns;
	struct hook_log log;
	size_t tail_length;
	char tail[TAIL + 1];
	bool tail_cut;
};

static struct hook_run *runs;

static void begin_next(struct timer *timer);

static void run_free(struct hook_run *run)
{
	for (struct hook_run **at = &runs; *at; at = &(*at)->next)
		if (*at == run) {
			*at = run->next;
			break;
		}
	timer_stop(&run->timer);
	hook_list_free(run->hooks);
	json_decref(run->environment);
	json_decref(run->failed);
	free(run);
}

static void run_over(struct hook_run *run)
{
	run->over(run->owner, run->failed, run->fatal);
	run_free(run);
}

static void keep_tail(struct hook_run *run, const char *data, size_t length)
{
	if (length >= TAIL) {
		run->tail_cut = run->tail_cut || run->tail_length || length > TAIL;
		data += length - TAIL;
		length = TAIL;
		run->tail_length = 0;
	} else if (run->tail_length + length > TAIL) {
		size_t cut = run->tail_length + length - TAIL;
		memmove(run->tail, run->tail + cut, run->tail_length - cut);
		run->tail_length -= cut;
		run->tail_cut = true;
	}
	memcpy(run->tail + run->tail_length, data, length);
	run->tail_length += length;
}

/* One read of what the hook wrote; how many bytes, 0 or less: none now. */
static ssize_t take_output(struct source *source)
{
	static char bytes[16 << 10];
	struct hook_run *run = source->owner;
	ssize_t got = read(source->fd, bytes, sizeof bytes);
	if (got > 0) {
		hook_log_write(&run->log, bytes, (size_t)got);
		if (source == &run->err)
			keep_tail(run, bytes, (size_t)got);
	} else if (got == 0) {
		loop_close(source);
	}
	return got;
}

static void output_ready(struct source *source, uint32_t events)
{
	(void)events;
	take_output(source);
}

/* What is left in the pipe. Who still holds its other end has left the hook's process group, and may write for ever. */
static void drain(struct source *source)
{
	ssize_t got;
	for (size_t taken = 0; source->fd >= 0 && taken < DRAIN_MOST; taken += (size_t)got)
		if ((got = take_output(source)) <= 0)
			break;
	loop_close(source);
}

/* What went wrong, and the end of what the hook said of it: one line of UTF-8. */
static json_t *message_of(struct hook_run *run, const char *what)
{
	char text[64 + TAIL];
	char *tail = run->tail;
	run->tail[run->tail_length] = 0;
	while (run->tail_cut && (*tail & 0xc0) == 0x80)
		tail++; /* what is left of a character that was cut */
	for (char *c = tail; c < run->tail + run->tail_length; c++)
		if (iscntrl((unsigned char)*c))
			*c = ' ';
	for (char *end = run->tail + run->tail_length; end > tail && end[-1] == ' ';)
		*--end = 0;
	snprintf(text, sizeof text, "%s%s%s", what, *tail ? ": " : "", tail);
	json_t *message = json_string(text);
	if (message)
		return message;
	for (char *c = text; *c; c++)
		if (*c & 0x80)
			*c = '?';
	return json_string(text);
}

static void note_failure(struct hook_run *run, const char *what)
{
	const struct hook *hook = run->hooks;
	json_t *failure = json_pack("{s:s, s:o}", "name", hook->name, "message", message_of(run, what));
	if (!run->failed)
		run->failed = json_array();
	json_array_append_new(run->failed, failure); /* without memory it is in the log only */
	run->fatal = hook->fatal;
	run->stopped = run->stopped || hook->fatal;
}

/* One hook is done: what is NULL when it did well. */
static void hook_over(struct hook_run *run, const char *what)
{
	struct hook *hook = run->hooks;
	hook_log_end(&run->log, hook->name, what ? what : "done", (monotonic_ns() - run->began_ns) / 1000000);
	if (what)
		note_failure(run, what);
	run->hooks = hook->next;
	free(hook);
	timer_set(&run->timer, 0);
	run->timer.due = begin_next;
}

static void kill_group(pid_t pid)
{
	if (killpg(pid, SIGKILL))
		kill(pid, SIGKILL); /* forked, and not yet the leader of its group */
}

static void process_over(struct hook_run *run, int status)
{
	char what[64] = "";
	int error = 0;
	timer_stop(&run->timer);
	run->pid = 0;
	if (read(run->failure, &error, sizeof error) != sizeof error)
		error = 0;
	close(run->failure);
	drain(&run->out);
	drain(&run->err);
	if (run->late)
		snprintf(what, sizeof what, "not done within %d s", run->limit_ms / 1000);
	else if (error)
		snprintf(what, sizeof what, "cannot be run: %s", strerror(error));
	else if (WIFSIGNALED(status))
		snprintf(what, sizeof what, "killed by signal %d", WTERMSIG(status));
	else if (WEXITSTATUS(status))
		snprintf(what, sizeof what, "exit status %d", WEXITSTATUS(status));
	hook_over(run, *what ? what : NULL);
}

static void give_up(struct timer *timer)
{
	process_over(timer->owner, 0); /* it hangs in the kernel; what becomes of it is not waited for */
}

static void limit_reached(struct timer *timer)
{
	struct hook_run *run = timer->owner;
	run->late = true;
	kill_group(run->pid);
	timer->due = give_up;
	timer_set(timer, GRACE_MS);
}

static void start(struct hook_run *run)
{
	struct spawned spawned;
	char path[512];
	const struct hook *hook = run->hooks;
	if (snprintf(path, sizeof path, "%s/%s", options.conf_dir, hook->name) >= (int)sizeof path) {
		hook_over(run, "its path is too long");
		return;
	}
	json_t *message = json_pack("{s:[s], s:O}", "argv", path, "env", run->environment);
	int error = message ? spawn(message, &spawned) : ENOMEM;
	json_decref(message);
	if (error) {
		char what[64];
		snprintf(what, sizeof what, "cannot be run: %s", strerror(error));
		hook_over(run, what);
		return;
	}
	close(spawned.in); /* its standard input ends at once */
	run->pid = spawned.pid;
	run->failure = spawned.failure;
	run->out = (struct source){.fd = spawned.out, .ready = output_ready, .owner = run};
	run->err = (struct source){.fd = spawned.err, .ready = output_ready, .owner = run};
	loop_watch(&run->out, EPOLLIN);
	loop_watch(&run->err, EPOLLIN);
	run->timer.due = limit_reached;
	timer_set(&run->timer, run->limit_ms);
}

static void begin_next(struct timer *timer)
{
	struct hook_run *run = timer->owner;
	if (!run->hooks || run->stopped) {
		run_over(run);
		return;
	}
	run->late = run->tail_cut = false;
	run->tail_length = 0;
	run->began_ns = monotonic_ns();
	hook_log_begin(&run->log, run->hooks->name);
	if (run->hooks->error)
		hook_over(run, strerror(run->hooks->error));
	else
		start(run);
}

struct hook_run *hooks_run(enum hook_stage stage, json_t *environment, hooks_over *over, void *owner)
{
	struct hook *hooks = hook_list(stage);
	struct hook_run *run = hooks ? calloc(1, sizeof *run) : NULL;
	if (!run) {
		hook_list_free(hooks);
		json_decref(environment);
		return NULL;
	}
	run->hooks = hooks;
	run->environment = environment;
	run->over = over;
	run->owner = owner;
	run->limit_ms = hook_limit_ms();
	run->log.fd = run->out.fd = run->err.fd = -1;
	run->timer = (struct timer){.due = begin_next, .owner = run};
	timer_set(&run->timer, 0);
	run->next = runs;
	runs = run;
	return run;
}

void hooks_stop(struct hook_run *run)
{
	run->stopped = true;
}

int64_t hooks_most_ms(const struct hook_run *run)
{
	int64_t most = 0;
	for (const struct hook *hook = run->hooks; hook; hook = hook->next)
		most += run->limit_ms + GRACE_MS;
	return most;
}

void hooks_last(const json_t *failed, char *text, size_t room)
{
	const json_t *last = json_array_get(failed, json_array_size(failed) - 1);
	const char *name = json_text(last, "name"), *message = json_text(last, "message");
	snprintf(text, room, "%s: %s", name ? name : "a hook", message ? message : "it failed; hooks.log says how");
}

void hooks_ending(pid_t pid)
{
	for (const struct hook_run *run = runs; run; run = run->next)
		if (run->pid == pid)
			kill_group(pid); /* while its number is nobody else's */
}

void hooks_ended(pid_t pid, int status)
{
	for (struct hook_run *run = runs; run; run = run->next)
		if (run->pid == pid) {
			process_over(run, status);
			return;
		}
}

static void set_number(json_t *environment, const char *name, const json_t *number)
{
	char text[24] = "";
	if (json_is_integer(number))
		snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(number));
	json_object_set_new(environment, name, json_string(text));
}

static void set_vmids(json_t *environment, const json_t *vmids)
{
	size_t i, room = 1 + 12 * json_array_size(vmids), length = 0;
	const json_t *vmid;
	char *text = calloc(1, room);
	if (!text)
		return;
	json_array_foreach(vmids, i, vmid)
		length += (size_t)snprintf(text + length, room - length, "%s%d", i ? " " : "",
					   (int)json_integer_value(vmid));
	json_object_set_new(environment, "GC_VMIDS", json_string(text));
	free(text);
}

json_t *hooks_environment(const json_t *identity, const char *ticket, const json_t *vmids)
{
	json_t *environment =
		json_pack("{s:s, s:s}", "GC_TICKET", ticket ? ticket : "", "GC_IP", identity_address(identity));
	set_number(environment, "GC_VMID", json_object_get(identity, "vmid"));
	set_number(environment, "GC_PARENT", json_object_get(identity, "parent"));
	if (vmids)
		set_vmids(environment, vmids);
	return environment;
}
