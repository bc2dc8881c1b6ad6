/* All threads of a process stand still, and stand up again in a copy of it.
 *
 * fork(2) copies the memory of all threads and runs one of them. The others' stacks, registers and locks are all there: each
 * thread that stands still in a signal handler has its registers in its frame, so a new kernel thread that takes its stack
 * and its thread pointer, and leaves the handler, is that thread. A system call that the signal interrupted is begun again
 * by the kernel's rules, which went into the frame. Whoever held a lock holds it still: glibc writes into a recursive lock
 * the number of the thread that has it, so a thread keeps the number that glibc knows it by, though the kernel has another
 * for it. The old one is its parent's, and nobody else's meanwhile. Whoever asks the kernel by it, as pthread_kill does,
 * would miss: QEMU does so with KVM alone.
 */
#include "layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_THREADS 256u
#define WAIT_NS 2000000000u
#define BELOW 8192u      /* bytes under a parked frame that a thread may use until it is back in it */
#define STRUCT_PTHREAD 2304u /* glibc's thread descriptor: the thread's number is somewhere in it */
#define TID_OFFSET 720u  /* here, in glibc of x86-64 since 2.4 */

struct parked {
    jmp_buf back;
    unsigned char *thread; /* its descriptor, and thread pointer */
    uintptr_t frame;
};

static struct parked parked[MOST_THREADS];
static _Atomic uint32_t taken, arrived, left, wanted, round_number;
static int number_offset = -1; /* of a thread's number in its descriptor */

static int park_signal(void) { return SIGRTMAX - 2; }

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *most) {
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, most, NULL, 0);
}

/* Asked in a process that is no copy, where the number is the kernel's. */
static int find_number(void) {
    unsigned char *thread = (unsigned char *)pthread_self();
    pid_t tid = (pid_t)syscall(SYS_gettid);
    if (*(int *)(void *)(thread + TID_OFFSET) == tid) return TID_OFFSET;
    for (unsigned at = 0; at < STRUCT_PTHREAD; at += sizeof(int))
        if (*(int *)(void *)(thread + at) == tid) return (int)at;
    return -1;
}

static int *number_in(unsigned char *thread) { return (int *)(void *)(thread + number_offset); }

static void on_park(int number, siginfo_t *info, void *context) {
    int before = errno;
    (void)number;
    (void)context;
    uint32_t this_round = atomic_load(&round_number);
    if (info->si_pid != getpid() || !atomic_load(&wanted)) return; /* nobody of ours asks */
    uint32_t slot = atomic_fetch_add(&taken, 1);
    if (slot < MOST_THREADS) {
        struct parked *me = &parked[slot];
        me->thread = (unsigned char *)pthread_self();
        me->frame = (uintptr_t)__builtin_frame_address(0);
        if (!_setjmp(me->back)) {
            atomic_fetch_add(&arrived, 1);
            futex(&arrived, FUTEX_WAKE, 1, NULL);
            while (atomic_load(&round_number) == this_round) futex(&round_number, FUTEX_WAIT, this_round, NULL);
            atomic_fetch_add(&left, 1);
        }
    }
    errno = before;
}

void park_prepare(void) {
    struct sigaction action = {.sa_sigaction = on_park, .sa_flags = SA_SIGINFO | SA_RESTART};
    number_offset = find_number();
    sigfillset(&action.sa_mask);
    sigaction(park_signal(), &action, NULL);
}

/* Nobody of QEMU's blocks the signal: its threads block all that they know. */
__attribute__((visibility("default"))) int pthread_sigmask(int how, const sigset_t *set, sigset_t *before) {
    sigset_t allowed;
    if (set) {
        allowed = *set;
        if (how != SIG_UNBLOCK) {
            sigdelset(&allowed, park_signal());
            /* glibc's own two, which its function keeps from being blocked */
            ((unsigned long *)(void *)&allowed)[0] &= ~(3ul << 31);
        }
    }
    return syscall(SYS_rt_sigprocmask, how, set ? &allowed : NULL, before, 8) ? errno : 0;
}

__attribute__((visibility("default"))) int sigprocmask(int how, const sigset_t *set, sigset_t *before) {
    int error = pthread_sigmask(how, set, before);
    if (error) errno = error;
    return error ? -1 : 0;
}

struct entry { /* of getdents64(2) */
    uint64_t inode;
    int64_t offset;
    unsigned short bytes;
    unsigned char type;
    char name[];
};

static bool is_known(const pid_t *known, uint32_t count, pid_t tid) {
    for (uint32_t i = 0; i < count; i++)
        if (known[i] == tid) return true;
    return false;
}

/* Asks the threads that were not asked yet; how many there were. No allocation: a parked thread may be in the middle of one. */
static int ask_new(pid_t *known, uint32_t *count, uint32_t *asked) {
    static _Alignas(8) char room[4096];
    pid_t self = (pid_t)syscall(SYS_gettid), process = getpid();
    int folder = open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC), fresh = 0;
    if (folder < 0) return -errno;
    for (;;) {
        long got = syscall(SYS_getdents64, folder, room, sizeof room);
        if (got <= 0) break;
        for (long at = 0; at < got;) {
            struct entry *entry = (void *)(room + at);
            at += entry->bytes;
            pid_t tid = atoi(entry->name);
            if (tid <= 0 || tid == self || is_known(known, *count, tid)) continue;
            if (*count == MOST_THREADS) {
                close(folder);
                return -EAGAIN;
            }
            known[(*count)++] = tid;
            fresh++;
            if (!syscall(SYS_tgkill, process, tid, park_signal())) ++*asked;
        }
    }
    close(folder);
    return fresh;
}

int park_threads(void) {
    static pid_t known[MOST_THREADS];
    uint32_t count = 0, asked = 0;
    uint64_t until = now_ns() + WAIT_NS;
    if (number_offset < 0) return ENOTSUP;
    while (atomic_load(&left) != atomic_load(&arrived)) /* the last time's are on their way out */
        if (now_ns() > until) return ETIMEDOUT;
    atomic_store(&taken, 0);
    atomic_store(&arrived, 0);
    atomic_store(&left, 0);
    atomic_store(&wanted, 1);
    int fresh = 1;
    while (fresh > 0) { /* a thread may have been made by one that is parked now */
        fresh = ask_new(known, &count, &asked);
        for (uint32_t here; fresh >= 0 && (here = atomic_load(&arrived)) < asked;) {
            struct timespec slice = {0, 20000000};
            if (futex(&arrived, FUTEX_WAIT, here, &slice) && errno == ETIMEDOUT && now_ns() > until) fresh = -ETIMEDOUT;
        }
    }
    atomic_store(&wanted, 0);
    if (fresh < 0) unpark_threads();
    return -fresh;
}

void unpark_threads(void) {
    atomic_fetch_add(&round_number, 1);
    futex(&round_number, FUTEX_WAKE, MOST_THREADS, NULL);
}

pid_t copy_process(void) {
    int *number = number_in((unsigned char *)pthread_self());
    /* whoever started this process is to hear of the copy's end as well */
    return (pid_t)syscall(SYS_clone, CLONE_PARENT | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID, NULL, NULL, number, NULL);
}

static int go_back(void *slot) {
    _longjmp(((struct parked *)slot)->back, 1);
}

int revive_threads(void) {
    const int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                      CLONE_CHILD_CLEARTID;
    uint32_t count = atomic_load(&arrived);
    /* their counts are those of a round that is over */
    atomic_store(&arrived, 0);
    atomic_store(&left, 0);
    atomic_fetch_add(&round_number, 1);
    for (uint32_t i = 0; i < count; i++) {
        struct parked *p = &parked[i];
        void *stack = (void *)((p->frame - BELOW) & ~(uintptr_t)63);
        if (clone(go_back, stack, flags, p, NULL, p->thread, number_in(p->thread)) < 0) return errno;
    }
    return 0;
}
