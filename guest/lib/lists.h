/* Lists in answers, made into arrays that a program frees at once. */
#ifndef LIB_LISTS_H
#define LIB_LISTS_H

#include "call.h"

/* Fills one entry, which is zeros; false if the item is not what it should be. */
typedef bool take_item(struct json item, void *entry);

/* The entries of the result's list of this name: how many, or -1. Frees the answer. */
int list_of(struct answer *answer, const char *verb, const char *name, size_t size, take_item *take, void **entries);

#endif
