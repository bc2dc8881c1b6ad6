/* JSON from peers: a bound on the memory that all of it takes, and members read without trust. */
#include "agent.h"

#include <stdlib.h>

enum { JSON_MEMORY = 3 << 20 };

static size_t used;

union block {
	size_t size;
	max_align_t align;
};

/* Text of 64 kB can parse to megabytes; past the bound, parsing fails as if memory were full. */
static void *bounded_malloc(size_t size)
{
	if (size > JSON_MEMORY - used)
		return NULL;
	union block *block = malloc(sizeof *block + size);
	if (!block)
		return NULL;
	block->size = size;
	used += size;
	return block + 1;
}

static void bounded_free(void *memory)
{
	if (!memory)
		return;
	union block *block = (union block *)memory - 1;
	used -= block->size;
	free(block);
}

void json_bound_memory(void)
{
	json_set_alloc_funcs(bounded_malloc, bounded_free);
}

const char *json_text(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

int64_t json_number(const json_t *object, const char *key, int64_t absent)
{
	const json_t *value = json_object_get(object, key);
	return json_is_integer(value) ? json_integer_value(value) : absent;
}
