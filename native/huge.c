/* Huge pages, where they cost nothing.
 *
 * QEMU asks the kernel for huge pages in guest memory and in the code that it translates. A process with this library has
 * none on its own (PR_SET_THP_DISABLE): a clone that wrote a byte would get 2 MiB. What it has wholly written, and alone,
 * is as large in one huge page as in 512 small ones, and found faster by the processor: that is what MADV_COLLAPSE (Linux
 * 6.1) makes of it. Memory over which layers lie has several mappings, and stays as it is.
 */
#include "layers.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define HUGE_PAGE ((uintptr_t)2 << 20)
#define IN_HUGE (HUGE_PAGE / PAGE)
#define MOST_AREAS 8u
#define MOST_NS 1000000u /* of one request: a fork that comes meanwhile waits for it */

static struct area { /* whole huge pages */
    uintptr_t from, to;
    unsigned char *never; /* a byte for each: its memory is in several mappings */
} areas[MOST_AREAS];
static unsigned area_count;

void huge_wanted(void *at, size_t bytes) {
    uintptr_t from = ((uintptr_t)at + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1), to = ((uintptr_t)at + bytes) & ~(HUGE_PAGE - 1);
    if (to <= from || area_count == MOST_AREAS) return;
    unsigned char *never = take_pages((to - from) / HUGE_PAGE);
    if (never) areas[area_count++] = (struct area){from, to, never};
}

void huge_laid(const void *at, size_t bytes, bool laid) {
    for (unsigned i = 0; i < area_count; i++) {
        uintptr_t from = (uintptr_t)at, to = from + bytes;
        if (from < areas[i].from) from = areas[i].from;
        if (to > areas[i].to) to = areas[i].to;
        if (from >= to) continue;
        size_t first = (from - areas[i].from) / HUGE_PAGE, last = (to - 1 - areas[i].from) / HUGE_PAGE;
        memset(areas[i].never + first, laid, last - first + 1);
    }
}

static int collapse(uintptr_t at) {
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0);
    int error = syscall(SYS_madvise, at, HUGE_PAGE, MADV_COLLAPSE) ? errno : 0;
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
    return error;
}

/* Of one area from this address on, until the time is up; where it stopped. */
static int collapse_in(const struct area *area, uintptr_t *from, uint64_t until, struct reply *reply) {
    struct runs small = {0};
    bool tried = false; /* one at least, however late it is: else nobody would go on */
    int error = scan_small_pages(&small, *from, area->to);
    uintptr_t base = *from;
    *from = area->to;
    for (size_t i = 0; i < small.count && !error; i++) {
        uintptr_t at = (base + small.at[i].first * PAGE + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        uintptr_t end = base + (small.at[i].first + small.at[i].count) * PAGE;
        for (; at + HUGE_PAGE <= end; at += HUGE_PAGE) {
            unsigned char *never = &area->never[(at - area->from) / HUGE_PAGE];
            if (*never || !pages_are_ours(at, IN_HUGE)) continue;
            if (tried && now_ns() > until) {
                *from = at;
                runs_free(&small);
                return 0;
            }
            tried = true;
            error = collapse(at);
            if (!error) reply->pages += IN_HUGE;
            if (error == EINVAL) *never = 1;
            if (error == ENOMEM) break; /* the kernel has none to give */
            error = 0;
        }
    }
    runs_free(&small);
    return error;
}

/* From this offset on in all areas, one after another; `extents` is where the next request is to go on, 0 at the end. */
int huge_collapse(uint64_t offset, struct reply *reply) {
    uint64_t until = now_ns() + MOST_NS, before = 0;
    if (tracking()) return 0;
    for (unsigned i = 0; i < area_count; i++) {
        uint64_t bytes = areas[i].to - areas[i].from;
        if (offset < before + bytes) {
            uintptr_t from = areas[i].from + (offset > before ? offset - before : 0);
            int error = from % HUGE_PAGE ? EINVAL : collapse_in(&areas[i], &from, until, reply);
            if (error) return error == ENOTTY ? 0 : error; /* a kernel that does not say which pages are small */
            if (from < areas[i].to) {
                reply->extents = before + (from - areas[i].from);
                return 0;
            }
        }
        before += bytes;
    }
    return 0;
}
