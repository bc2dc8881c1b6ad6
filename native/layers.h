/* Guest memory as a stack of layers, inside an unmodified QEMU.
 *
 * A layer is a file: one header page, the pages it holds back to back, and an index of extents. It is laid over guest
 * memory by private mappings, so every VM on the host shares its pages until it writes to them. docs/reference/layers.md
 * describes the file and the control socket; src/copper/vmm/layers.py is the other end.
 */
#ifndef COPPER_LAYERS_H
#define COPPER_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define LAYER_MAGIC "COPPERL1"
#define LAYER_VERSION 1u
#define PAGE 4096u
#define MOST_FDS 64u
#define UNIT_BYTES 12u /* the name of a unit, by which its process is found: hexadecimal digits */
#define MOST_PAYLOAD (192u * 1024u)

struct layer_header {
    char magic[8];
    uint32_t version;
    uint32_t page_size;
    uint64_t ram_bytes;
    uint64_t extents;
    uint64_t index_offset;
    uint64_t pages;
};

struct extent {
    uint64_t ram_offset; /* bytes from the start of guest memory */
    uint64_t bytes;
    uint64_t file_offset;
};

enum verb {
    VERB_LAY = 1,     /* descriptors: layers, lowest first; flags: FLAG_RESET drops what was there */
    VERB_PRECOPY = 2, /* descriptor: an empty layer; payload: extents (offset, bytes) to copy while the guest runs */
    VERB_SAVE = 3,    /* descriptor: that layer, or an empty one; argument: most pages; writes, maps and keeps it */
    VERB_ABORT = 4,   /* forget a PRECOPY */
    VERB_STAT = 5,    /* own pages, layers; mappings; of a seed its process id */
    VERB_TAP = 6,     /* descriptor: the tap that this QEMU's card is on from now on */
    VERB_SEED = 7,    /* descriptor: a connection; payload: a unit's name; with the VM stopped: a copy that waits for SAVE, FORK */
    VERB_FORK = 8,    /* to a seed; descriptors by enum role; payload: the new unit's name; a copy of the VM, stopped */
    VERB_COLLAPSE = 9, /* huge pages for what is wholly its own; argument: 0, or `extents` of the last answer, to go on there */
};

/* What a copy of a QEMU must have of its own, in the order of FORK's descriptors. */
enum role {
    QMP_LISTENS, QMP, PORT_LISTENS, PORT, CONSOLE_LISTENS, CONSOLE, LAYERS_LISTENS, LAYERS, STDERR, TAP, ROLES
};

#define FLAG_RESET 1u      /* LAY: guest memory is nothing but these layers */
#define FLAG_SKIP_ZERO 2u  /* SAVE: leave out pages that are all zero (lowest layer only) */
#define FLAG_MAPPINGS 8u   /* STAT: count mappings too, which takes longer than all else */
#define FLAG_FLATTEN 4u    /* SAVE: the layers above the lowest are in this one now; let go of them */

struct request {
    uint32_t verb;
    uint32_t flags;
    uint64_t argument;
    uint64_t payload; /* bytes that follow */
};

struct reply {
    int32_t error; /* 0 or an errno */
    uint32_t step; /* where it failed, for the message */
    uint64_t pages; /* SEED, FORK, a seed's STAT: the copy's process id */
    uint64_t extents, scan_ns, copy_ns, map_ns, mappings, tracked;
};

struct run { /* pages [first, first + count) of guest memory, at page `slot` of a layer file */
    uint64_t first, count, slot;
};

struct runs { /* on pages of its own: in a seed nothing is allocated */
    struct run *at;
    size_t count, room;
};

extern unsigned char *ram;
extern size_t ram_bytes;

void *take_pages(size_t bytes); /* NULL: there is no memory */
void give_pages(void *at, size_t bytes);
bool runs_add(struct runs *runs, uint64_t first, uint64_t count, uint64_t slot);
void runs_free(struct runs *runs);
uint64_t runs_pages(const struct runs *runs);

/* scan.c */
int scan_own_pages(struct runs *own, bool changed_only);
int scan_small_pages(struct runs *own, uintptr_t from, uintptr_t to);
bool pages_are_ours(uintptr_t from, size_t count);
int track_changes(void);   /* 0: from now on scan_own_pages(.., true) gives what is written after this */
void stop_tracking(void);
bool tracking(void);
void forget_process(void); /* in a copy: what was opened is about the process that it was copied from */

/* save.c */
int save_precopy(int fd, const struct extent *wanted, size_t count, struct reply *reply);
int save_finish(int fd, uint32_t flags, uint64_t most_pages, struct reply *reply);
void save_abort(void);

/* huge.c */
void huge_wanted(void *at, size_t bytes); /* QEMU asks for huge pages there */
void huge_laid(const void *at, size_t bytes, bool laid); /* a layer is mapped there, or none is any more */
int huge_collapse(uint64_t offset, struct reply *reply);

/* park.c */
void park_prepare(void);
int park_threads(void);  /* all but the caller stand still, each in a handler of its own; errno */
void unpark_threads(void);
pid_t copy_process(void);   /* fork(2), but without what it does to the threads that are not there any more */
int revive_threads(void);  /* in a copy: the parked threads are there again, and go on */

/* seed.c */
void seed_prepare(int argc, char **argv);
int seed_make(int connection, const unsigned char *unit, struct reply *reply); /* does not return in the seed until its connection ends */

/* layers.c */
typedef int answer(const struct request *, const unsigned char *payload, int *fds, size_t fd_count, struct reply *);
void serve(int connection, answer *how);
extern void (*answered)(void); /* to be called once, when the answer is sent */
_Noreturn void begin_again(void); /* in a copy: the control thread serves `connected` */
extern int connected, tap;
int layer_map(const struct extent *extents, size_t count, int fd);
int layer_save(int fd, uint32_t flags, uint64_t most_pages, struct reply *reply);
uint64_t now_ns(void);

#endif
