/* JSON that is looked at where it lies: nothing is copied, and nothing outside of it is read. */
#ifndef LIB_JSON_H
#define LIB_JSON_H

#include <stdbool.h>
#include <stddef.h>

/* The text of one value. */
struct json {
	const char *at, *end;
};

/* The member of an object, or false. */
bool value_member(struct json object, const char *key, struct json *value);

/* Takes the first item off an array, false at its end. Begin with value_items(). */
bool value_next(struct json *items, struct json *item);
bool value_items(struct json array, struct json *items);

/* False for a value of another kind, or one that does not fit. */
bool value_integer(struct json value, long long *number);
bool value_string(struct json value, char *to, size_t room);

#endif
