/* A port whose far end comes and goes. Without a host, poll reports a hang-up that never ends: a
 * level-triggered wait would spin, so the port is then watched for changes, and looked at now and then. */
#include "port.h"
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { LOOK_SOON_MS = 20, LOOK_LATER_MS = 250, SOON = 10 /* looks of the first kind */ };

static const char *given_path;
static void (*call_readable)(void);
static bool connected, is_socket;
static int looks;

static void port_ready(struct source *source, uint32_t events);
static void look(struct timer *timer);
static struct source port = {.fd = -1, .ready = port_ready};
static struct timer looking = {.due = look};

int port_connected(void)
{
	return connected;
}

static void look_again(void)
{
	timer_set(&looking, looks < SOON ? LOOK_SOON_MS : LOOK_LATER_MS);
	if (looks < SOON)
		looks++;
}

static void lost(bool gone)
{
	connected = false;
	looks = 0;
	if (gone || is_socket)
		loop_close(&port);
	else
		loop_watch(&port, EPOLLIN | EPOLLOUT | EPOLLET);
	look_again();
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof address.sun_path)
		return -1;
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* /sys/class/virtio-ports/vport0p1/name holds the name that QEMU was given; the device has the same name in /dev. */
static bool find(char *path, size_t room)
{
	glob_t found;
	bool here = false;
	if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &found))
		return false;
	for (size_t i = 0; i < found.gl_pathc && !here; i++) {
		char name[64] = "";
		int fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		ssize_t got = read(fd, name, sizeof name - 1);
		close(fd);
		if (got <= 0)
			continue;
		name[strcspn(name, "\n")] = 0;
		char *device = found.gl_pathv[i] + strlen("/sys/class/virtio-ports/");
		device[strcspn(device, "/")] = 0;
		here = !strcmp(name, "org.copper.agent") &&
		       snprintf(path, room, "/dev/%s", device) < (int)room;
	}
	globfree(&found);
	return here;
}

static int open_port(void)
{
	char path[128];
	struct stat status;
	if (!given_path && !find(path, sizeof path))
		return -1;
	const char *at = given_path ? given_path : path;
	if (stat(at, &status))
		return -1;
	is_socket = S_ISSOCK(status.st_mode);
	return is_socket ? connect_to(at) : open(at, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

static void look(struct timer *timer)
{
	(void)timer;
	if (port.fd < 0 && (port.fd = open_port()) < 0) {
		look_again();
		return;
	}
	struct pollfd state = {.fd = port.fd, .events = POLLIN | POLLOUT};
	if (poll(&state, 1, 0) >= 0 && !(state.revents & (POLLHUP | POLLERR | POLLNVAL))) {
		timer_stop(&looking);
		connected = true;
		return; /* the loop asks for the events it wants before it waits */
	}
	if (is_socket || state.revents & (POLLERR | POLLNVAL))
		loop_close(&port);
	else
		loop_watch(&port, EPOLLIN | EPOLLOUT | EPOLLET);
	look_again();
}

static void port_ready(struct source *source, uint32_t events)
{
	(void)source;
	if (!connected)
		look(NULL);
	else if (events & EPOLLIN)
		call_readable();
	else if (events & (EPOLLHUP | EPOLLERR))
		lost(events & EPOLLERR);
}

ssize_t port_read(uint8_t *to, size_t room)
{
	ssize_t got = connected ? read(port.fd, to, room) : -1;
	if (got == 0)
		lost(false);
	else if (got < 0 && connected && errno != EAGAIN && errno != EINTR)
		lost(true);
	return got;
}

ssize_t port_write(const uint8_t *from, size_t length)
{
	if (!connected)
		return -1;
	ssize_t wrote = is_socket ? send(port.fd, from, length, MSG_NOSIGNAL) : write(port.fd, from, length);
	if (wrote < 0 && errno != EAGAIN && errno != EINTR && errno != EPIPE)
		lost(true);
	return wrote;
}

void port_want(uint32_t events)
{
	if (connected)
		loop_watch(&port, events);
}

void port_open(const char *path, void (*readable)(void))
{
	given_path = path;
	call_readable = readable;
	look(NULL);
}
