/* Writes this VM's own pages into a layer, lays that layer under the VM, and so makes an image of its memory.
 *
 * PRECOPY copies while the guest runs; SAVE, with the guest stopped, copies what changed since, or everything if nothing was
 * copied ahead. A page that was copied ahead keeps its slot in the file.
 */
#include "layers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Pages: runs closer than this become one extent, to keep mappings few, which every copy of the process pays for. */
#define GAP 4u         /* what lies between is copied with them */
#define GAP_LOWEST 16u /* what lies between is zero, and there once for all VMs of a template */

static struct runs ahead; /* what PRECOPY has written, by guest page */
static uint64_t next_slot = 1; /* page 0 of the file is the header */
static uint64_t ahead_inode;

void save_abort(void) {
    runs_free(&ahead);
    next_slot = 1;
    ahead_inode = 0;
    stop_tracking();
}

static int write_pages(int fd, uint64_t first, uint64_t count, uint64_t slot) {
    const unsigned char *from = ram + first * PAGE;
    size_t left = count * PAGE;
    off_t at = (off_t)(slot * PAGE);
    while (left) {
        ssize_t n = pwrite(fd, from, left, at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return n ? errno : ENOSPC;
        from += n;
        at += n;
        left -= (size_t)n;
    }
    return 0;
}

static bool is_zero(uint64_t page) {
    const unsigned char *p = ram + page * PAGE;
    return !p[0] && !memcmp(p, p + 1, PAGE - 1);
}

/* Runs with the small gaps between them closed. */
static int close_gaps(const struct runs *own, uint64_t gap, struct runs *out) {
    for (size_t i = 0; i < own->count; i++) {
        const struct run *r = &own->at[i];
        struct run *last = out->count ? &out->at[out->count - 1] : NULL;
        if (last && r->first <= last->first + last->count + gap) {
            uint64_t end = r->first + r->count;
            if (end > last->first + last->count) last->count = end - last->first;
        } else if (!runs_add(out, r->first, r->count, 0)) {
            return ENOMEM;
        }
    }
    return 0;
}

/* Runs of pages that are not zero, but for those in small gaps. */
static int without_zeros(const struct runs *own, struct runs *out) {
    struct runs some = {0};
    int error = 0;
    for (size_t i = 0; i < own->count; i++) {
        uint64_t end = own->at[i].first + own->at[i].count, start = end;
        for (uint64_t page = own->at[i].first; page <= end; page++) {
            bool wanted = page < end && !is_zero(page);
            if (wanted && start == end) start = page;
            if (!wanted && start != end) {
                if (!runs_add(&some, start, page - start, 0)) error = ENOMEM;
                start = end;
            }
        }
    }
    if (!error) error = close_gaps(&some, GAP_LOWEST, out);
    runs_free(&some);
    return error;
}

static int by_page(const void *a, const void *b) {
    const struct run *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Writes `wanted` (sorted): pages that PRECOPY wrote go to their slots, others get new ones and are added to `fresh`. */
static int write_runs(int fd, const struct runs *wanted, struct runs *fresh) {
    size_t a = 0;
    for (size_t i = 0; i < wanted->count; i++) {
        uint64_t page = wanted->at[i].first, end = page + wanted->at[i].count;
        while (page < end) {
            while (a < ahead.count && ahead.at[a].first + ahead.at[a].count <= page) a++;
            const struct run *r = a < ahead.count ? &ahead.at[a] : NULL;
            bool again = r && r->first <= page;
            uint64_t stop = r && again ? r->first + r->count : r && r->first < end ? r->first : end;
            uint64_t count = (stop < end ? stop : end) - page;
            uint64_t slot = again ? r->slot + (page - r->first) : next_slot;
            int error = write_pages(fd, page, count, slot);
            if (error) return error;
            if (!again) {
                if (!runs_add(fresh, page, count, slot)) return ENOMEM;
                next_slot += count;
            }
            page += count;
        }
    }
    return 0;
}

static uint64_t inode_of(int fd) {
    struct stat file;
    return fstat(fd, &file) ? 0 : (uint64_t)file.st_ino;
}

int save_precopy(int fd, const struct extent *wanted, size_t count, struct reply *reply) {
    struct runs own = {0}, all = {0}, closed = {0};
    uint64_t started = now_ns();
    int error = 0;
    save_abort();
    for (size_t i = 0; i < count && !error; i++) {
        if (wanted[i].ram_offset > ram_bytes || wanted[i].bytes > ram_bytes - wanted[i].ram_offset) error = EINVAL;
        else if (!runs_add(&all, wanted[i].ram_offset / PAGE, wanted[i].bytes / PAGE, 0)) error = ENOMEM;
    }
    if (!error && !track_changes()) { /* without tracking, own pages are all for the pause */
        reply->tracked = 1;
        error = scan_own_pages(&own, false);
        for (size_t i = 0; i < own.count && !error; i++)
            if (!runs_add(&all, own.at[i].first, own.at[i].count, 0)) error = ENOMEM;
    }
    if (all.count) qsort(all.at, all.count, sizeof *all.at, by_page);
    if (!error) error = close_gaps(&all, GAP, &closed);
    reply->scan_ns = now_ns() - started;
    started = now_ns();
    if (!error) {
        struct runs fresh = {0};
        error = write_runs(fd, &closed, &fresh);
        ahead = fresh;
        ahead_inode = inode_of(fd);
    }
    reply->copy_ns = now_ns() - started;
    reply->pages = runs_pages(&ahead);
    runs_free(&own);
    runs_free(&all);
    runs_free(&closed);
    if (error) save_abort();
    return error;
}

/* `index` has room for as many extents as there are runs. */
static int write_index(int fd, struct runs *held, struct reply *reply, struct extent *index) {
    struct layer_header header = {.version = LAYER_VERSION, .page_size = PAGE, .ram_bytes = ram_bytes,
                                  .index_offset = next_slot * PAGE, .pages = runs_pages(held)};
    memcpy(header.magic, LAYER_MAGIC, 8);
    if (ahead.count) qsort(held->at, held->count, sizeof *held->at, by_page); /* else they are in order */
    size_t n = 0;
    for (size_t i = 0; i < held->count; i++) {
        const struct run *r = &held->at[i];
        struct extent *last = n ? &index[n - 1] : NULL;
        if (last && last->ram_offset + last->bytes == r->first * PAGE && last->file_offset + last->bytes == r->slot * PAGE)
            last->bytes += r->count * PAGE;
        else
            index[n++] = (struct extent){r->first * PAGE, r->count * PAGE, r->slot * PAGE};
    }
    header.extents = n;
    reply->extents = n;
    reply->pages = header.pages;
    ssize_t bytes = (ssize_t)(n * sizeof *index);
    if (pwrite(fd, index, (size_t)bytes, (off_t)header.index_offset) != bytes ||
        pwrite(fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
        return errno ? errno : ENOSPC;
    return 0;
}

int save_finish(int fd, uint32_t flags, uint64_t most_pages, struct reply *reply) {
    struct runs own = {0}, wanted = {0}, held = {0};
    struct extent *extents = NULL;
    size_t extents_bytes = 0;
    uint64_t started = now_ns();
    bool went_ahead = ahead_inode && ahead_inode == inode_of(fd);
    if (!went_ahead) save_abort();
    bool changed_only = went_ahead && tracking();
    int error = scan_own_pages(&own, false);
    if (!error && changed_only) {
        /* own now, and either written since PRECOPY or without a slot: unprotected pages count as written */
        own.count = 0;
        error = scan_own_pages(&own, true);
    }
    if (!error) error = flags & FLAG_SKIP_ZERO ? without_zeros(&own, &wanted) : close_gaps(&own, GAP, &wanted);
    reply->scan_ns = now_ns() - started;
    reply->tracked = changed_only;
    if (!error && runs_pages(&wanted) + next_slot > most_pages) {
        reply->pages = runs_pages(&wanted);
        error = ENOSPC; /* refused before anything changed */
    }
    started = now_ns();
    if (!error) error = write_runs(fd, &wanted, &held);
    for (size_t i = 0; i < ahead.count && !error; i++)
        if (!runs_add(&held, ahead.at[i].first, ahead.at[i].count, ahead.at[i].slot)) error = ENOMEM;
    if (!error) {
        extents_bytes = (held.count + 1) * sizeof *extents;
        extents = take_pages(extents_bytes);
        error = extents ? write_index(fd, &held, reply, extents) : ENOMEM;
    }
    reply->copy_ns = now_ns() - started;
    started = now_ns();
    stop_tracking();
    if (!error) error = layer_map(extents, reply->extents, fd);
    reply->map_ns = now_ns() - started;
    give_pages(extents, extents_bytes);
    runs_free(&own);
    runs_free(&wanted);
    runs_free(&held);
    save_abort();
    return error;
}
