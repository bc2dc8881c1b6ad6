/* A seed: a copy of a stopped VM's QEMU that does nothing but make copies of itself, each of which is that VM.
 *
 * What such a copy has and a QEMU that loads a state has not: the guest code that its parent translated, and QEMU's own
 * memory, shared until it is written. A process that is copied shares its open files with the copy, so each copy is given
 * its own where two would disturb each other (enum role, and QEMU's eventfds), under the numbers that QEMU knows. Between
 * the copy and its threads' return nothing is allocated: a parked thread may hold that lock.
 */
#include "layers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST_EVENTS 256u
#define MOST_SET 8u
#define STAND_BACK_MS 20

static char *unit; /* in this process's command line, which is how it is found */
static int at[ROLES];
static struct event {
    int fd;
    uint64_t count;
    bool nonblocking;
} events[MOST_EVENTS];
static unsigned event_count;
static struct {
    unsigned long request;
    long argument;
} tap_set[MOST_SET]; /* what QEMU told its tap: the next one is told the same */

void seed_prepare(int argc, char **argv) {
    for (int i = 0; i + 1 < argc; i++)
        if (!strcmp(argv[i], "-name") && !strncmp(argv[i + 1], "copper-", 7) && strlen(argv[i + 1]) == 7 + UNIT_BYTES)
            unit = argv[i + 1] + 7;
}

/* A copy needs all of guest memory and of QEMU's: nothing is kept from it. And huge pages are given later (huge.c). */
__attribute__((visibility("default"))) int madvise(void *from, size_t bytes, int advice) {
    if (advice == MADV_DONTFORK) return 0;
    if (advice == MADV_HUGEPAGE) {
        huge_wanted(from, bytes);
        return 0;
    }
    return (int)syscall(SYS_madvise, from, bytes, advice);
}

__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    long argument = va_arg(rest, long);
    va_end(rest);
    int result = (int)syscall(SYS_ioctl, fd, request, argument);
    if (!result && request == TUNSETOFFLOAD && tap >= 0 && fd == tap)
        for (unsigned i = 0; i < MOST_SET; i++)
            if (!tap_set[i].request || tap_set[i].request == request) {
                tap_set[i].request = request;
                tap_set[i].argument = argument;
                break;
            }
    return result;
}

static int set_tap(void) {
    for (unsigned i = 0; i < MOST_SET && tap_set[i].request; i++)
        if (syscall(SYS_ioctl, tap, tap_set[i].request, tap_set[i].argument)) return errno;
    return 0;
}

static bool ends_with(const char *text, const char *end) {
    size_t length = strlen(text), most = strlen(end);
    return length >= most && !strcmp(text + length - most, end);
}

/* Which of QEMU's sockets this is: by the path that it is bound to, or was accepted at. */
static int note_socket(int fd) {
    static const char *const names[] = {"/qmp.sock", "/port.sock", "/console.sock", "/layers.sock"};
    struct sockaddr_un address = {0};
    socklen_t size = sizeof address - 1, whole = sizeof(int);
    int listens = 0;
    if (getsockname(fd, (void *)&address, &size) || address.sun_family != AF_UNIX ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &whole))
        return ENOTSUP;
    for (int i = 0; i < 4; i++)
        if (ends_with(address.sun_path, names[i])) {
            int *place = &at[2 * i + (listens ? 0 : 1)];
            if (*place >= 0) return ENOTSUP; /* two of them: which is in use? */
            *place = fd;
            return 0;
        }
    return ENOTSUP;
}

/* What each open file of this process is: one that a copy may share, one of its own, or one that forbids a copy. */
static int note_file(int fd, const char *link) {
    if (!strncmp(link, "socket:", 7)) return note_socket(fd);
    if (!strcmp(link, "anon_inode:[eventfd]")) {
        if (event_count == MOST_EVENTS) return EMFILE;
        events[event_count++].fd = fd;
        return 0;
    }
    /* the set of signals is read by whoever reads; epoll is empty, for QEMU has fewer files than it wants for it */
    if (!strcmp(link, "anon_inode:[signalfd]") || !strcmp(link, "anon_inode:[eventpoll]")) return 0;
    return link[0] == '/' ? 0 : ENOTSUP;
}

static int note_files(int connection) {
    char path[64], link[256];
    event_count = 0;
    for (int i = 0; i < ROLES; i++) at[i] = -1;
    at[STDERR] = STDERR_FILENO;
    at[TAP] = tap;
    int error = 0;
    for (int fd = 0, missing = 0; missing < 64 && !error; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(path, link, sizeof link - 1);
        if (length < 0) {
            missing++;
            continue;
        }
        missing = 0;
        link[length] = 0;
        if (fd == connection) continue;
        error = note_file(fd, link);
    }
    for (int i = 0; i < ROLES && !error; i++)
        if (at[i] < 0) error = ENOTCONN;
    return error;
}

/* With the threads parked: what their eventfds hold now goes into the copies' own. */
static int note_events(void) {
    char path[64], text[256];
    for (unsigned i = 0; i < event_count; i++) {
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", events[i].fd);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return errno;
        ssize_t got = read(fd, text, sizeof text - 1);
        close(fd);
        if (got < 0) return errno;
        text[got] = 0;
        const char *count = strstr(text, "eventfd-count:"), *flags = strstr(text, "flags:");
        if (!count || !flags) return ENOTSUP;
        events[i].count = strtoull(count + 14, NULL, 16);
        events[i].nonblocking = strtoul(flags + 6, NULL, 8) & O_NONBLOCK;
    }
    return 0;
}

static int own_events(void) {
    for (unsigned i = 0; i < event_count; i++) {
        int fresh = eventfd(0, EFD_CLOEXEC | (events[i].nonblocking ? EFD_NONBLOCK : 0));
        if (fresh < 0) return errno;
        if (events[i].count && write(fresh, &events[i].count, 8) != 8) return errno;
        if (dup3(fresh, events[i].fd, O_CLOEXEC) < 0) return errno;
        close(fresh);
    }
    return 0;
}

/* A seed keeps nothing open that is its parent's: a peer shall see its end, a tap shall go, a disk shall not be written. */
static int let_go_of_files(int connection) {
    char path[64];
    int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0) return errno;
    for (int i = 0; i < ROLES; i++)
        if (dup3(nothing, at[i], O_CLOEXEC) < 0) return errno;
    close(nothing);
    for (int fd = 0, missing = 0; missing < 64; fd++) {
        struct stat file;
        if (fstat(fd, &file)) {
            missing++;
            continue;
        }
        missing = 0;
        int mode = fcntl(fd, F_GETFL);
        if (fd == connection || !S_ISREG(file.st_mode) || (mode & O_ACCMODE) != O_RDWR || fcntl(fd, F_GET_SEALS) >= 0) continue;
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd); /* a disk that its parent writes to */
        int reader = open(path, O_RDONLY | O_CLOEXEC);
        if (reader < 0 || dup3(reader, fd, O_CLOEXEC) < 0) return errno;
        close(reader);
    }
    return 0;
}

/* In the copy that becomes a VM: its own files, its own name, its own threads. */
static int become(const int *fds, const unsigned char *name) {
    for (int i = 0; i < ROLES; i++)
        if (dup3(fds[i], at[i], i == STDERR ? 0 : O_CLOEXEC) < 0) return errno;
    for (int i = 0; i < ROLES; i++) close(fds[i]);
    int error = set_tap();
    if (!error) error = own_events();
    memcpy(unit, name, UNIT_BYTES);
    if (!error) error = revive_threads();
    return error;
}

static int fork_one(const struct request *request, const unsigned char *payload, int *fds, size_t fd_count,
                    struct reply *reply) {
    if (fd_count != ROLES || request->payload != UNIT_BYTES) return EINVAL;
    pid_t copy = copy_process();
    if (copy < 0) return errno;
    if (copy > 0) {
        reply->pages = (uint64_t)copy;
        return 0;
    }
    struct reply here = {.pages = (uint64_t)getpid()};
    close(connected); /* the seed's */
    here.error = become(fds, payload);
    connected = at[LAYERS];
    forget_process();
    if (send(connected, &here, sizeof here, MSG_NOSIGNAL) != (ssize_t)sizeof here || here.error) _exit(1);
    begin_again();
}

static int serve_seed(const struct request *request, const unsigned char *payload, int *fds, size_t fd_count,
                      struct reply *reply) {
    switch (request->verb) {
    case VERB_SAVE: /* what the VM had written when it stood still, while it runs on */
        return fd_count == 1 ? layer_save(fds[0], request->flags, request->argument, reply) : EINVAL;
    case VERB_FORK: return fork_one(request, payload, fds, fd_count, reply);
    case VERB_STAT: reply->pages = (uint64_t)getpid(); return 0;
    default: return EINVAL;
    }
}

int seed_make(int connection, const unsigned char *name, struct reply *reply) {
    static bool failed; /* threads that did not stand still in time may do so later: not tried again */
    if (failed || !unit || tap < 0) return ENOTSUP;
    int error = note_files(connection);
    if (error) return error;
    uint64_t started = now_ns();
    error = park_threads();
    failed = error == ETIMEDOUT;
    if (error) return error;
    error = note_events();
    reply->scan_ns = now_ns() - started;
    started = now_ns();
    pid_t seed = error ? -1 : copy_process();
    if (seed < 0 && !error) error = errno;
    if (seed) answered = unpark_threads; /* the order to go on is on its way meanwhile */
    reply->copy_ns = now_ns() - started;
    if (seed > 0) reply->pages = (uint64_t)seed;
    if (seed) return error;
    answered = NULL;
    memcpy(unit, name, UNIT_BYTES);
    /* The VM goes on first: what follows would take the processor from it. */
    struct pollfd first = {.fd = connection, .events = POLLIN};
    poll(&first, 1, STAND_BACK_MS);
    int here = fcntl(connection, F_DUPFD_CLOEXEC, 0);
    if (here < 0 || let_go_of_files(here)) _exit(1);
    close(connection);
    connected = here;
    forget_process();
    serve(here, serve_seed);
    _exit(0);
}
