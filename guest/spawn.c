/* Forks a command in a session of its own. A missing program is told apart from one that fails. */
#include "spawn.h"
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

static const char *const default_environment[][2] = {
	{"PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	{"HOME", "/root"},
	{"USER", "root"},
	{"LOGNAME", "root"},
	{"SHELL", "/bin/sh"},
};

void terminal_resize(int fd, const json_t *size)
{
	struct winsize window = {
		.ws_row = (unsigned short)json_number(size, "rows", 24),
		.ws_col = (unsigned short)json_number(size, "cols", 80),
	};
	ioctl(fd, TIOCSWINSZ, &window);
}

static int open_pipe(int *ours, int *theirs, bool we_write)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC))
		return errno;
	*ours = ends[we_write];
	*theirs = ends[!we_write];
	fcntl(*ours, F_SETFL, O_NONBLOCK | (we_write ? O_WRONLY : O_RDONLY));
	return 0;
}

static int open_terminal(struct spawned *spawned, int theirs[3], const json_t *size)
{
	char path[64];
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	spawned->in = master;
	if (master < 0 || grantpt(master) || unlockpt(master) || ptsname_r(master, path, sizeof path))
		return errno;
	terminal_resize(master, size);
	theirs[0] = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
	spawned->out = fcntl(master, F_DUPFD_CLOEXEC, 0); /* watched for reading and writing apart */
	return theirs[0] < 0 || spawned->out < 0 ? errno : 0;
}

/* An array of strings that point into the message; NULL if it is not one. */
static char **argv_of(const json_t *message)
{
	const json_t *array = json_object_get(message, "argv");
	size_t count = json_array_size(array);
	char **argv = count ? calloc(count + 1, sizeof *argv) : NULL;
	for (size_t i = 0; argv && i < count; i++)
		if (!(argv[i] = (char *)(uintptr_t)json_string_value(json_array_get(array, i)))) {
			free(argv);
			return NULL;
		}
	return argv;
}

static void set_environment(const json_t *message)
{
	const char *key, *term = json_text(json_object_get(message, "tty"), "term");
	json_t *value, *env = json_object_get(message, "env");
	clearenv();
	for (size_t i = 0; i < sizeof default_environment / sizeof *default_environment; i++)
		setenv(default_environment[i][0], default_environment[i][1], 1);
	if (json_is_object(json_object_get(message, "tty")))
		setenv("TERM", term ? term : "linux", 1);
	json_object_foreach(env, key, value)
		if (json_is_string(value))
			setenv(key, json_string_value(value), 1);
}

_Noreturn static void become(const json_t *message, char **argv, const int theirs[3], bool terminal, int failure)
{
	sigset_t none;
	sigemptyset(&none);
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	umask(022);
	struct rlimit files;
	if (!getrlimit(RLIMIT_NOFILE, &files)) { /* the agent's own is larger: select() cannot count so far */
		files.rlim_cur = files.rlim_max < 1024 ? files.rlim_max : 1024;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	if (terminal)
		ioctl(theirs[0], TIOCSCTTY, 0);
	const char *cwd = json_text(message, "cwd");
	for (int fd = 0; fd < 3; fd++)
		if (dup2(theirs[terminal ? 0 : fd], fd) < 0)
			goto failed;
	if (chdir(cwd && *cwd ? cwd : "/"))
		goto failed;
	set_environment(message);
	execvp(argv[0], argv);
failed:;
	int error = errno;
	ssize_t wrote = write(failure, &error, sizeof error);
	_exit(wrote == sizeof error ? 127 : 126);
}

static void close_all(int *fds, int count)
{
	for (int i = 0; i < count; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static int open_ends(struct spawned *spawned, int theirs[3], int *report, const json_t *tty)
{
	int error = open_pipe(&spawned->failure, report, false);
	if (error)
		return error;
	if (json_is_object(tty))
		return open_terminal(spawned, theirs, tty);
	if (!(error = open_pipe(&spawned->in, &theirs[0], true)) &&
	    !(error = open_pipe(&spawned->out, &theirs[1], false)))
		error = open_pipe(&spawned->err, &theirs[2], false);
	return error;
}

int spawn(const json_t *message, struct spawned *spawned)
{
	*spawned = (struct spawned){-1, -1, -1, -1, -1};
	char **argv = argv_of(message);
	if (!argv)
		return EINVAL;
	const json_t *tty = json_object_get(message, "tty");
	int theirs[4] = {-1, -1, -1, -1};
	int error = open_ends(spawned, theirs, &theirs[3], tty);
	/* a signal of the host's that comes before the child has its own dispositions must wait, not be ignored */
	sigset_t all, former;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &former);
	if (!error && (spawned->pid = fork()) < 0)
		error = errno;
	if (!error && spawned->pid == 0)
		become(message, argv, theirs, json_is_object(tty), theirs[3]);
	sigprocmask(SIG_SETMASK, &former, NULL);
	close_all(theirs, 4);
	if (error)
		close_all((int[]){spawned->in, spawned->out, spawned->err, spawned->failure}, 4);
	free(argv);
	return error;
}
