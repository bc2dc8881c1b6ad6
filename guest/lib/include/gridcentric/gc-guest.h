/*
 * The guest API in C: forks the virtual machine that the program runs in. Link with -lgridcentric.
 *
 * Every call returns a negative number and sets errno when it fails; gc_error() has the reason in words.
 * Errnos: EPERM not allowed, ENOENT no such ticket or VM, EIO the host side failed, EACCES no permission on
 * the agent's socket, EBUSY no resources, EINVAL a wrong argument, ETIMEDOUT, ECONNREFUSED no agent runs.
 * Calls may be made from any thread at any time; one that waits holds up nobody else. Each has a page in man(3).
 */
#ifndef GRIDCENTRIC_GC_GUEST_H
#define GRIDCENTRIC_GC_GUEST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GC_CLONES_MAX 1024	 /* of one gc_clone_count() */
#define GC_JOIN_DATA_MAX 49152 /* bytes that a clone may leave with gc_join() */
#define GC_FOREVER (-1)	 /* gc_join_wait() without a limit */

/* A ticket: room for clones that was promised. */
typedef struct gc_uuid {
	char value[37]; /* a C string */
} gc_uuid_t;

typedef enum gc_ticket_status {
	GC_TICKET_UNKNOWN = 0, /* of a host that is newer than this library */
	GC_TICKET_GRANTED = 1, /* nothing was cloned on it yet */
	GC_TICKET_USED = 2,
} gc_ticket_status_t;

typedef struct gc_ticket_info {
	gc_uuid_t id;
	gc_ticket_status_t status;
	int cpus, vms, mincpuspervm;
} gc_ticket_info_t;

/* A clone that was made on a ticket. */
typedef struct gc_domain_info {
	int vmid;
	char ip[46];
	char state[32];
} gc_domain_info_t;

typedef struct gc_vm_info {
	int vmid;
	char address[46];
	int generation;
	int parent; /* a vmid; -1: the master has none */
	char state[32];
	char host[256];
} gc_vm_info_t;

/* A VM's memory in bytes. */
typedef struct gc_memory_info {
	int vmid;
	uint64_t nominal, shared, own;
} gc_memory_info_t;

/* How a clone ended. */
typedef struct gc_joined {
	int vmid;
	int status;	  /* what it gave to gc_join(); -1: it died without */
	const void *data; /* what it left; NULL: nothing */
	size_t size;
} gc_joined_t;

#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

/* Who this VM is. */
int gc_vmid(void);		       /* 0 in the master, 1, 2, 3 … in clones */
int gc_ismaster(void);		       /* 1 or 0 */
int gc_generation(void);	       /* the number of the clone call that made this VM; 0 in the master */
int gc_my_ip(char *ip, size_t size); /* 46 bytes hold any address */

/* Room for clones, waited for up to timeout_ms. */
int gc_request_ticket(int maxcpus, int minvms, int mincpuspervm, int timeout_ms, gc_uuid_t *ticket);

/* Forks this VM. Returns in the caller with 0 and in every clone with its vmid. */
int gc_clone(gc_uuid_t ticket);
int gc_clone_count(int count); /* ticket and fork in one: as many clones or none */

/* Lists: the number of entries; the array is the caller's to free(). */
int gc_list_tickets(gc_ticket_info_t **tickets);
int gc_list_ticket_domains(gc_uuid_t ticket, gc_domain_info_t **domains);
int gc_list(gc_vm_info_t **vms);
int gc_stat(gc_memory_info_t **vms);
const char *gc_ticket_status_string(gc_ticket_status_t status);

/* A barrier on a ticket: gc_sync() in the VM that cloned, gc_sync_clone() in the clones. */
int gc_sync(gc_uuid_t ticket, int timeout_ms);
int gc_sync_clone(void);

/* The ends of clones. gc_join() and gc_join_noreport() end this clone and return only if they fail. */
int gc_join(int status, const void *data, size_t size);
int gc_join_noreport(void);
int gc_join_wait(gc_uuid_t ticket, int timeout_ms, gc_joined_t **joined);
int gc_kill(const int *vmids, size_t count);
int gc_kill_generation(int vmid);
int gc_killall(void);

/* Why this thread's last call that failed did: one line, until its next call. */
const char *gc_error(void);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif

#endif
