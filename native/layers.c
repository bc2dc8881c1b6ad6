/* The hook and the control thread. Loaded by LD_PRELOAD into QEMU with two inherited descriptors:
 *
 *   COPPER_LAYERS_RAM     an empty file as large as guest memory: QEMU's memory backend names it, which is how the mapping
 *                         of guest memory is told from all others. It stays empty: memory is anonymous, then layers.
 *   COPPER_LAYERS_LISTEN  a listening SOCK_SEQPACKET socket for layers.h's requests
 *   COPPER_LAYERS_TAP     the tap that its network card is on; not there for a QEMU without one
 *   COPPER_LAYERS_COPIES  there: this QEMU may be copied (seed.c)
 *   COPPER_LAYERS_MERGE   there: the kernel may keep equal pages of this process and of others once, where it does that
 */
#include "layers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

unsigned char *ram;
size_t ram_bytes;

int connected = -1, tap = -1; /* whom the control thread serves; the tap that the network card is on */
void (*answered)(void);
static jmp_buf beginning; /* of the control thread */
static int ram_fd = -1, listen_fd = -1;
static int kept[4096]; /* layers in use, lowest first: a host agent that restarts finds them in /proc/PID/fd */
static size_t kept_count;

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void *real_mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
    return (void *)syscall(SYS_mmap, at, length, prot, flags, fd, offset);
}

static bool is_ram(int fd) {
    struct stat this, wanted;
    return fd >= 0 && ram_fd >= 0 && !ram && !fstat(fd, &this) && !fstat(ram_fd, &wanted) &&
           this.st_ino == wanted.st_ino && this.st_dev == wanted.st_dev;
}

__attribute__((visibility("default"))) void *mmap64(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
    if (!is_ram(fd)) return real_mmap(at, length, prot, flags, fd, offset);
    int fixed = flags & MAP_FIXED;
    void *got = real_mmap(at, length, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
    if (got == MAP_FAILED) return got;
    ram = got;
    ram_bytes = length;
    return got;
}

__attribute__((visibility("default"))) void *mmap(void *at, size_t length, int prot, int flags, int fd, off_t offset) {
    return mmap64(at, length, prot, flags, fd, offset);
}

/* Maps extents of one layer over guest memory. What was there before is let go. */
int layer_map(const struct extent *extents, size_t count, int fd) {
    for (size_t i = 0; i < count; i++) {
        const struct extent *e = &extents[i];
        if (real_mmap(ram + e->ram_offset, e->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
                      (off_t)e->file_offset) == MAP_FAILED)
            return errno;
        huge_laid(ram + e->ram_offset, e->bytes, true);
    }
    return 0;
}

/* Checks every number of a layer's header and index before any of it is used: a wrong one would map over QEMU itself. */
static int layer_lay(int fd) {
    struct layer_header header;
    struct stat file;
    if (pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header || fstat(fd, &file)) return EBADMSG;
    uint64_t size = (uint64_t)file.st_size;
    if (memcmp(header.magic, LAYER_MAGIC, 8) || header.version != LAYER_VERSION || header.page_size != PAGE ||
        header.ram_bytes != ram_bytes || header.index_offset > size ||
        header.extents > (size - header.index_offset) / sizeof(struct extent))
        return EBADMSG;
    size_t bytes = header.extents * sizeof(struct extent);
    struct extent *index = malloc(bytes ? bytes : 1);
    if (!index) return ENOMEM;
    int error = pread(fd, index, bytes, (off_t)header.index_offset) == (ssize_t)bytes ? 0 : EBADMSG;
    for (size_t i = 0; i < header.extents && !error; i++) {
        const struct extent *e = &index[i];
        if (e->ram_offset % PAGE || e->bytes % PAGE || e->file_offset % PAGE || !e->bytes || e->ram_offset > ram_bytes ||
            e->bytes > ram_bytes - e->ram_offset || e->file_offset > size || e->bytes > size - e->file_offset)
            error = EBADMSG;
    }
    if (!error) error = layer_map(index, header.extents, fd);
    free(index);
    return error;
}

static int lay(const int *fds, size_t count, uint32_t flags) {
    if (flags & FLAG_RESET) {
        if (real_mmap(ram, ram_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
                      0) == MAP_FAILED)
            return errno;
        huge_laid(ram, ram_bytes, false);
        while (kept_count) close(kept[--kept_count]);
    }
    if (kept_count + count > sizeof kept / sizeof *kept) return EMFILE;
    for (size_t i = 0; i < count; i++) {
        int error = layer_lay(fds[i]);
        if (error) return error;
        kept[kept_count++] = dup(fds[i]);
    }
    return 0;
}

int layer_save(int fd, uint32_t flags, uint64_t most_pages, struct reply *reply) {
    if (kept_count == sizeof kept / sizeof *kept) return EINVAL;
    int error = save_finish(fd, flags, most_pages, reply);
    if (error) return error;
    if (flags & FLAG_FLATTEN)
        while (kept_count > 1) close(kept[--kept_count]);
    kept[kept_count++] = dup(fd);
    return 0;
}

/* A QEMU that waits is on a tap that leads nowhere: which network it will be on is known when it becomes a VM. Its number
 * stays, so that QEMU, whose loop looks at numbers anew each time, goes on with the other one. */
static int take_tap(int fd) {
    return dup3(fd, tap, O_CLOEXEC) < 0 ? errno : 0;
}

static void count_own(struct reply *reply) {
    struct runs own = {0};
    if (!scan_own_pages(&own, false)) reply->pages = runs_pages(&own);
    reply->extents = kept_count;
    runs_free(&own);
}

static void count_mappings(struct reply *reply) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char *line = NULL;
    size_t room = 0;
    while (maps && getline(&line, &room, maps) > 0) {
        uintptr_t from = strtoul(line, NULL, 16);
        reply->mappings += from >= (uintptr_t)ram && from < (uintptr_t)ram + ram_bytes;
    }
    free(line);
    if (maps) fclose(maps);
}

static int serve_one(const struct request *request, const unsigned char *payload, int *fds, size_t fd_count,
                     struct reply *reply) {
    if (!ram) return EAGAIN;
    switch (request->verb) {
    case VERB_LAY: return lay(fds, fd_count, request->flags);
    case VERB_PRECOPY:
        if (fd_count != 1 || request->payload % sizeof(struct extent)) return EINVAL;
        return save_precopy(fds[0], (const void *)payload, request->payload / sizeof(struct extent), reply);
    case VERB_SAVE: return fd_count == 1 ? layer_save(fds[0], request->flags, request->argument, reply) : EINVAL;
    case VERB_ABORT: save_abort(); return 0;
    case VERB_STAT:
        count_own(reply);
        if (request->flags & FLAG_MAPPINGS) count_mappings(reply);
        return 0;
    case VERB_TAP: return fd_count == 1 && tap >= 0 ? take_tap(fds[0]) : EINVAL;
    case VERB_SEED:
        return fd_count == 1 && request->payload == UNIT_BYTES ? seed_make(fds[0], payload, reply) : EINVAL;
    case VERB_COLLAPSE: return huge_collapse(request->argument, reply);
    default: return EINVAL;
    }
}

void serve(int connection, answer *how) {
    static _Alignas(8) unsigned char message[sizeof(struct request) + MOST_PAYLOAD];
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int) * MOST_FDS)];
    } control;
    for (;;) {
        struct iovec part = {message, sizeof message};
        struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t got = recvmsg(connection, &m, MSG_CMSG_CLOEXEC);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return;
        int fds[MOST_FDS];
        size_t fd_count = 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
            if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
            fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(c), fd_count * sizeof(int));
        }
        struct request request;
        struct reply reply = {0};
        if ((size_t)got < sizeof request || m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
            reply.error = EINVAL;
        } else {
            memcpy(&request, message, sizeof request);
            if (request.payload != (size_t)got - sizeof request) reply.error = EINVAL;
            else reply.error = how(&request, message + sizeof request, fds, fd_count, &reply);
        }
        for (size_t i = 0; i < fd_count; i++) close(fds[i]);
        bool sent = send(connection, &reply, sizeof reply, MSG_NOSIGNAL) == (ssize_t)sizeof reply;
        if (answered) answered();
        answered = NULL;
        if (!sent) return;
    }
}

static void *control_thread(void *unused) {
    (void)unused;
    _setjmp(beginning); /* a copy of this process begins here, and is connected */
    for (;;) {
        if (connected < 0) connected = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (connected < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
        if (connected < 0) break;
        serve(connected, serve_one); /* one host agent at a time; the next one waits in the backlog */
        close(connected);
        connected = -1;
        save_abort();
    }
    while (pause() < 0) continue; /* it is the first thread of a copy, and a process without that one looks ended */
    return NULL;
}

void begin_again(void) { _longjmp(beginning, 1); }

/* A QEMU that may copy itself is one that its own sandbox lets start processes: no other program, all the same. */
static void forbid_programs(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execve, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_execveat, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof rules / sizeof *rules, rules};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("copper: no programs can be forbidden");
        _exit(1);
    }
}

static int inherited(const char *name) {
    const char *value = getenv(name);
    int fd = value ? atoi(value) : -1;
    unsetenv(name);
    if (fd >= 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
    return fd;
}

__attribute__((constructor)) static void start(int argc, char **argv) {
    pthread_t thread;
    sigset_t all, before;
    ram_fd = inherited("COPPER_LAYERS_RAM");
    listen_fd = inherited("COPPER_LAYERS_LISTEN");
    tap = inherited("COPPER_LAYERS_TAP");
    unsetenv("LD_PRELOAD");
    if (getenv("COPPER_LAYERS_COPIES")) {
        unsetenv("COPPER_LAYERS_COPIES");
        seed_prepare(argc, argv);
        forbid_programs();
    }
    park_prepare();
    if (ram_fd < 0 || listen_fd < 0) return;
    /* a huge page for every written byte would make clones heavy: guest memory, translated code and heap alike (huge.c) */
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    if (getenv("COPPER_LAYERS_MERGE")) {
        unsetenv("COPPER_LAYERS_MERGE");
        prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0); /* and its copies'; a kernel before 6.4 does not */
    }
    sigfillset(&all); /* QEMU's signals are for QEMU's threads */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (pthread_create(&thread, NULL, control_thread, NULL) == 0) pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
