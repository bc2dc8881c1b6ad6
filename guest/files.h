/* Files that the host puts into the guest and takes from it. */
#ifndef FILES_H
#define FILES_H

#include <jansson.h>
#include <stdint.h>

void push_open(uint32_t id, const json_t *message);
void pull_open(uint32_t id, const json_t *message);

#endif
