/* What makes this machine another one than its parent for the programs that run in it: names and ids. */
#ifndef MACHINE_H
#define MACHINE_H

#include <jansson.h>

/* Steps; 0 or an errno. */

/* /etc/machine-id, and D-Bus' where that is a file of its own. */
int machine_take_id(const json_t *identity);

/* A new /proc/sys/kernel/random/boot_id; and the machine's id as the UUID that its firmware tells, where there is one. */
int machine_take_boot_id(const json_t *identity);

/* The host name, and /etc/hostname. */
int machine_take_name(const json_t *identity);

/* Gives /etc/hosts these lines, between two marks; the rest of it stays. */
int machine_take_hosts(const char *lines);

#endif
