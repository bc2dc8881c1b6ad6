/* Which pages of guest memory are this VM's own: present (or swapped out) and not a file's.
 *
 * PAGEMAP_SCAN (Linux 6.7) gives them as runs, in the time that the populated part takes; /proc/self/pagemap is read on older
 * kernels. Changes are tracked by asynchronous write protection through userfaultfd (Linux 6.7), where it is there.
 */
#include "layers.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* from Linux 6.7's include/uapi/linux/fs.h and userfaultfd.h: Debian 12's headers are older */
struct pm_scan {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct pm_region {
    uint64_t start, end, categories;
};
#define SCAN_PAGES _IOWR('f', 16, struct pm_scan)
#define SCAN_WP_MATCHING 1u
#define SCAN_CHECK_WPASYNC 2u
#define IS_WRITTEN (1u << 1)
#define IS_FILE (1u << 2)
#define IS_PRESENT (1u << 3)
#define IS_SWAPPED (1u << 4)
#define IS_ZERO_PAGE (1u << 5)
#define IS_HUGE (1u << 6)
#define NOT_OWN (IS_FILE | IS_ZERO_PAGE)
#define FEATURE_WP_UNPOPULATED (1u << 13)
#define FEATURE_WP_ASYNC (1u << 15)

#define MOST_REGIONS 1024

static int pagemap = -1, uffd = -1;
static struct pm_region regions[MOST_REGIONS];

static int open_pagemap(void) {
    if (pagemap < 0) pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    return pagemap < 0 ? errno : 0;
}

void *take_pages(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

void give_pages(void *at, size_t bytes) {
    if (at) munmap(at, bytes);
}

bool runs_add(struct runs *runs, uint64_t first, uint64_t count, uint64_t slot) {
    if (runs->count == runs->room) {
        size_t room = runs->room ? runs->room * 2 : 2 * PAGE / sizeof(struct run);
        struct run *at = take_pages(room * sizeof *at);
        if (!at) return false;
        if (runs->count) memcpy(at, runs->at, runs->count * sizeof *at);
        give_pages(runs->at, runs->room * sizeof *at);
        runs->at = at;
        runs->room = room;
    }
    runs->at[runs->count++] = (struct run){first, count, slot};
    return true;
}

void runs_free(struct runs *runs) {
    give_pages(runs->at, runs->room * sizeof *runs->at);
    *runs = (struct runs){0};
}

uint64_t runs_pages(const struct runs *runs) {
    uint64_t pages = 0;
    for (size_t i = 0; i < runs->count; i++) pages += runs->at[i].count;
    return pages;
}

static bool append(struct runs *own, uint64_t first, uint64_t count) {
    struct run *last = own->count ? &own->at[own->count - 1] : NULL;
    if (last && last->first + last->count == first) {
        last->count += count;
        return true;
    }
    return runs_add(own, first, count, 0);
}

/* Own pages in [base, end) that are one of `any`, all of `these` and none of `not_these`; their numbers count from `base`. */
static int scan_range(struct runs *own, uint64_t base, uint64_t end, uint64_t any, uint64_t these, uint64_t not_these) {
    not_these |= NOT_OWN;
    struct pm_scan scan = {.size = sizeof scan, .start = base, .end = end, .vec = (uintptr_t)regions, .vec_len = MOST_REGIONS,
                           .category_inverted = not_these, .category_mask = these | not_these,
                           .category_anyof_mask = any, .return_mask = IS_PRESENT};
    while (scan.start < end) {
        int got = ioctl(pagemap, SCAN_PAGES, &scan);
        if (got < 0) return errno;
        for (int i = 0; i < got; i++)
            if (!append(own, (regions[i].start - base) / PAGE, (regions[i].end - regions[i].start) / PAGE)) return ENOMEM;
        scan.start = scan.walk_end;
    }
    return 0;
}

static int scan_by_ioctl(struct runs *own, bool changed_only) {
    uint64_t base = (uintptr_t)ram;
    return scan_range(own, base, base + ram_bytes, IS_PRESENT | IS_SWAPPED, changed_only ? IS_WRITTEN : 0, 0);
}

/* Own pages of this process in [from, to), both multiples of PAGE, that are there and part of no huge page. */
int scan_small_pages(struct runs *own, uintptr_t from, uintptr_t to) {
    int error = open_pagemap();
    return error ? error : scan_range(own, from, to, IS_PRESENT, 0, IS_HUGE);
}

/* Whether no other process has any of these pages, at most 512, from this address on. */
bool pages_are_ours(uintptr_t from, size_t count) {
    uint64_t entries[512];
    if (count > 512 || pread(pagemap, entries, count * 8, (off_t)(from / PAGE * 8)) != (ssize_t)(count * 8)) return false;
    for (size_t i = 0; i < count; i++)
        if (!(entries[i] >> 56 & 1)) return false;
    return true;
}

static int scan_by_reading(struct runs *own) {
    static uint64_t entries[8192];
    uint64_t base = (uintptr_t)ram / PAGE, pages = ram_bytes / PAGE;
    for (uint64_t first = 0; first < pages;) {
        uint64_t want = pages - first < 8192 ? pages - first : 8192;
        ssize_t got = pread(pagemap, entries, want * 8, (off_t)((base + first) * 8));
        if (got < 8) return got < 0 ? errno : EIO;
        for (uint64_t i = 0; i < (uint64_t)got / 8; i++) {
            bool there = entries[i] >> 62 & 3, file = entries[i] >> 61 & 1;
            if (there && !file && !append(own, first + i, 1)) return ENOMEM;
        }
        first += (uint64_t)got / 8;
    }
    return 0;
}

int scan_own_pages(struct runs *own, bool changed_only) {
    static bool no_ioctl;
    int error = open_pagemap();
    if (error) return error;
    if (!no_ioctl) {
        error = scan_by_ioctl(own, changed_only);
        if (error != ENOTTY && error != EINVAL) return error;
        if (changed_only) return error;
        no_ioctl = true;
        own->count = 0;
    }
    return scan_by_reading(own);
}

void forget_process(void) {
    if (pagemap >= 0) close(pagemap);
    pagemap = -1;
    stop_tracking();
}

bool tracking(void) { return uffd >= 0; }

void stop_tracking(void) {
    if (uffd >= 0) close(uffd);
    uffd = -1;
}

/* Write-protects guest memory without anybody waiting for a fault: the kernel lifts it and remembers that it did. */
int track_changes(void) {
    stop_tracking();
    if (open_pagemap()) return errno;
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return errno;
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED};
    struct uffdio_register all = {.range = {.start = (uintptr_t)ram, .len = ram_bytes}, .mode = UFFDIO_REGISTER_MODE_WP};
    uint64_t base = (uintptr_t)ram, end = base + ram_bytes;
    /* only own pages are protected: a page that becomes own later is new, and has no slot yet */
    struct pm_scan scan = {.size = sizeof scan, .flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC, .start = base, .end = end,
                           .category_inverted = NOT_OWN, .category_mask = NOT_OWN,
                           .category_anyof_mask = IS_PRESENT | IS_SWAPPED, .return_mask = IS_PRESENT,
                           /* without room for an answer the kernel protects all pages, not just these */
                           .vec = (uintptr_t)regions, .vec_len = MOST_REGIONS};
    if (ioctl(fd, UFFDIO_API, &api) || ioctl(fd, UFFDIO_REGISTER, &all)) {
        int error = errno;
        close(fd);
        return error;
    }
    while (scan.start < end) {
        if (ioctl(pagemap, SCAN_PAGES, &scan) < 0) {
            int error = errno;
            close(fd);
            return error;
        }
        scan.start = scan.walk_end;
    }
    uffd = fd;
    return 0;
}
