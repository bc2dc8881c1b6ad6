/* A command's life: spawned, fed, read, ended; or left behind by its host and written to a log. */
#include "exec.h"
#include "agent.h"
#include "channel.h"
#include "hooks.h"
#include "leftover.h"
#include "loop.h"
#include "spawn.h"
#include "streams.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SILENCE_MS = 1000, COMMANDS_MOST = 1024 };

struct command {
	struct stream stream; /* first: the table of streams holds it */
	struct command *next;
	struct source failure, in, out[3]; /* out[0] is not used: numbered as channels */
	struct timer silence;
	struct leftover leftover;
	uint8_t *input; /* what the command has not read yet: CREDIT_IN at most */
	size_t input_start, input_end;
	pid_t pid;
	int status;
	bool input_ends, terminal, started, ended, detached, tells_exit;
};

static struct command *commands;
static const struct stream_kind exec_kind;

static void finish_if_done(struct command *command);

static void input_forget(struct command *command)
{
	free(command->input);
	command->input = NULL;
	command->input_start = command->input_end = 0;
}

static void command_free(struct command *command)
{
	for (struct command **at = &commands; *at; at = &(*at)->next)
		if (*at == command) {
			*at = command->next;
			break;
		}
	stream_remove(&command->stream);
	timer_stop(&command->silence);
	loop_close(&command->failure);
	loop_close(&command->in);
	for (int channel = 0; channel < 3; channel++)
		loop_close(&command->out[channel]);
	leftover_close(&command->leftover);
	free(command->input);
	free(command);
}

static bool outputs_closed(const struct command *command)
{
	return command->out[1].fd < 0 && command->out[2].fd < 0;
}

static void tell_exit(const struct command *command)
{
	json_t *exit = stream_message(command->stream.id, "exit");
	if (WIFSIGNALED(command->status))
		json_object_set_new(exit, "signal", json_integer(WTERMSIG(command->status)));
	else
		json_object_set_new(exit, "code", json_integer(WEXITSTATUS(command->status)));
	json_object_set_new(exit, "errno", json_integer(0));
	channel_send(exit);
}

/* The host hears no more of it; what it still writes goes to the log, so that nobody blocks or dies. */
static void leave_behind(struct command *command, bool tells_exit)
{
	stream_remove(&command->stream);
	command->detached = true;
	command->tells_exit = tells_exit;
	input_forget(command); /* its standard input stays open and silent */
	loop_unwatch(&command->in);
	if (!command->started)
		return; /* its outputs are watched once it runs */
	for (int channel = 1; channel < 3; channel++)
		if (command->out[channel].fd >= 0)
			loop_watch(&command->out[channel], EPOLLIN);
	finish_if_done(command);
}

/* A command is over when it ended and its outputs are closed, or silent for a second: a background
 * child may hold them for ever, as with ssh, and go on into the log. */
static void finish_if_done(struct command *command)
{
	if (!command->started || !command->ended)
		return;
	if (outputs_closed(command)) {
		if (!command->detached || command->tells_exit)
			tell_exit(command);
		command_free(command);
	} else if (!command->detached) {
		timer_set(&command->silence, SILENCE_MS);
	} else if (command->tells_exit) {
		tell_exit(command);
		command->tells_exit = false;
	}
}

static void silence_due(struct timer *timer)
{
	struct command *command = timer->owner;
	if (command->detached)
		return;
	for (int channel = 1; channel < 3; channel++)
		if (command->out[channel].fd >= 0 && !command->out[channel].events) {
			timer_set(timer, SILENCE_MS); /* it is the host that does not read */
			return;
		}
	tell_exit(command);
	leave_behind(command, false);
}

static void output_over(struct command *command, int channel)
{
	loop_close(&command->out[channel]);
	if (!command->detached)
		stream_send_end(&command->stream, channel);
	finish_if_done(command);
}

static void output_ready(struct source *source, uint32_t events)
{
	(void)events;
	static uint8_t bytes[CHUNK];
	struct command *command = source->owner;
	int channel = source == &command->out[2] ? 2 : 1;
	size_t room = command->detached ? CHUNK : stream_may_send(&command->stream, channel);
	if (!room) {
		loop_unwatch(source); /* until there is credit or room */
		return;
	}
	ssize_t got = read(source->fd, bytes, room);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) {
		output_over(command, channel); /* a terminal ends with EIO */
		return;
	}
	if (command->detached)
		leftover_write(&command->leftover, command->pid, bytes, (size_t)got);
	else
		stream_send(&command->stream, channel, bytes, (size_t)got);
	if (command->silence.armed)
		timer_set(&command->silence, SILENCE_MS);
}

static void input_close(struct command *command)
{
	loop_close(&command->in);
	if (!command->detached) /* the host's sender must not wait for a command that reads no more */
		stream_passed_on(&command->stream, command->input_end - command->input_start);
	input_forget(command);
}

static void input_flush(struct command *command)
{
	while (command->input_start < command->input_end) {
		ssize_t wrote = write(command->in.fd, command->input + command->input_start,
				      command->input_end - command->input_start);
		if (wrote < 0 && (errno == EAGAIN || errno == EINTR)) {
			loop_watch(&command->in, EPOLLOUT);
			return;
		}
		if (wrote < 0) {
			input_close(command);
			return;
		}
		command->input_start += (size_t)wrote;
		if (!command->detached)
			stream_passed_on(&command->stream, (size_t)wrote);
	}
	loop_unwatch(&command->in);
	command->input_start = command->input_end = 0;
	if (command->input_ends && !command->terminal)
		input_close(command);
}

static void input_ready(struct source *source, uint32_t events)
{
	(void)events;
	input_flush(source->owner);
}

static void exec_data(struct stream *stream, const uint8_t *data, size_t length, bool end)
{
	static const uint8_t end_of_transmission = 4;
	struct command *command = (struct command *)stream;
	if (command->in.fd < 0) {
		stream_passed_on(stream, length);
		return;
	}
	if (end && command->terminal && !command->input_ends && !length) {
		data = &end_of_transmission; /* what a person types to end input: control-D */
		length = 1;
	}
	if (!command->input && !(command->input = malloc(CREDIT_IN + 1)))
		return;
	if (command->input_start && command->input_end + length > CREDIT_IN + 1) {
		memmove(command->input, command->input + command->input_start,
			command->input_end - command->input_start);
		command->input_end -= command->input_start;
		command->input_start = 0;
	}
	if (length > CREDIT_IN + 1 - command->input_end)
		length = CREDIT_IN + 1 - command->input_end;
	if (length)
		memcpy(command->input + command->input_end, data, length);
	command->input_end += length;
	command->input_ends = command->input_ends || end;
	if (command->started)
		input_flush(command);
}

/* The pipe of the fork: at its end the program runs. */
static void failure_ready(struct source *source, uint32_t events)
{
	(void)events;
	struct command *command = source->owner;
	int error = 0;
	ssize_t got = read(source->fd, &error, sizeof error);
	if (got < 0)
		return;
	if (got == sizeof error) {
		if (!command->detached)
			stream_send_failure(command->stream.id, error, strerror(error));
		command_free(command);
		return;
	}
	loop_close(&command->failure);
	command->started = true;
	if (!command->detached) {
		json_t *started = stream_message(command->stream.id, "started");
		json_object_set_new(started, "pid", json_integer(command->pid));
		channel_send(started);
	}
	for (int channel = 1; channel < 3; channel++)
		if (command->out[channel].fd >= 0)
			loop_watch(&command->out[channel], EPOLLIN);
	if (command->input)
		input_flush(command);
	finish_if_done(command);
}

static void command_signal(const struct command *command, int number)
{
	if (command->ended)
		return; /* the process id may be another's by now */
	if (killpg(command->pid, number))
		kill(command->pid, number); /* forked, and not yet the leader of its group */
}

static void exec_message(struct stream *stream, const char *type, const json_t *message)
{
	struct command *command = (struct command *)stream;
	int64_t number = json_number(message, "signal", 0);
	if (!strcmp(type, "resize") && command->terminal && command->in.fd >= 0)
		terminal_resize(command->in.fd, message);
	else if (!strcmp(type, "signal") && number > 0 && number < NSIG)
		command_signal(command, (int)number);
}

static void exec_resume(struct stream *stream)
{
	struct command *command = (struct command *)stream;
	for (int channel = 1; channel < 3; channel++)
		if (command->started && command->out[channel].fd >= 0 && stream_may_send(stream, channel))
			loop_watch(&command->out[channel], EPOLLIN);
}

static void exec_detach(struct stream *stream, enum heir heir)
{
	leave_behind((struct command *)stream, heir == HEIR_NEXT_SESSION);
}

static void exec_close(struct stream *stream)
{
	struct command *command = (struct command *)stream;
	command_signal(command, SIGHUP);
	command_free(command);
}

static const struct stream_kind exec_kind = {
	.data = exec_data,
	.message = exec_message,
	.resume = exec_resume,
	.detach = exec_detach,
	.close = exec_close,
};

void exec_open(uint32_t id, const json_t *message)
{
	struct spawned spawned;
	size_t running = 0;
	for (struct command *command = commands; command; command = command->next)
		running++;
	struct command *command = running < COMMANDS_MOST ? calloc(1, sizeof *command) : NULL;
	int error = command ? spawn(message, &spawned) : EAGAIN;
	if (error) {
		stream_send_failure(id, error, error == EINVAL ? "argv is not a list of strings" : strerror(error));
		free(command);
		return;
	}
	command->pid = spawned.pid;
	command->terminal = json_is_object(json_object_get(message, "tty"));
	command->failure = (struct source){.fd = spawned.failure, .ready = failure_ready, .owner = command};
	command->in = (struct source){.fd = spawned.in, .ready = input_ready, .owner = command};
	command->out[0].fd = -1;
	command->out[1] = (struct source){.fd = spawned.out, .ready = output_ready, .owner = command};
	command->out[2] = (struct source){.fd = spawned.err, .ready = output_ready, .owner = command};
	command->silence = (struct timer){.due = silence_due, .owner = command};
	command->leftover.fd = -1;
	command->next = commands;
	commands = command;
	stream_add(&command->stream, &exec_kind, id, CREDIT_IN);
	loop_watch(&command->failure, EPOLLIN);
}

void exec_disown(void)
{
	for (struct command *command = commands; command; command = command->next)
		command->tells_exit = false;
}

void exec_reap(void)
{
	siginfo_t told = {0};
	while (!waitid(P_ALL, 0, &told, WEXITED | WNOHANG | WNOWAIT) && told.si_pid) {
		int status;
		pid_t pid = told.si_pid;
		told.si_pid = 0;
		hooks_ending(pid);
		if (waitpid(pid, &status, WNOHANG) != pid)
			break;
		hooks_ended(pid, status);
		for (struct command *command = commands; command; command = command->next)
			if (command->pid == pid && !command->ended) {
				command->ended = true;
				command->status = status;
				finish_if_done(command);
				break;
			}
	}
}
