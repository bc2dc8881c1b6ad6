/* Commands that the host runs in the guest. */
#ifndef EXEC_H
#define EXEC_H

#include <jansson.h>
#include <stdint.h>

void exec_open(uint32_t id, const json_t *message);

/* Nobody is told how the commands end that no session has: this VM's memory is a clone's. */
void exec_disown(void);

/* Collects every child that ended. */
void exec_reap(void);

#endif
