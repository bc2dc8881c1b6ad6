/* Why a call failed, in words; what arguments and answers must be like. */
#ifndef LIB_ERROR_H
#define LIB_ERROR_H

#include "call.h"

/* Writes gc_error() of this thread; returns the error. */
__attribute__((format(printf, 2, 3))) int say(int error, const char *format, ...);

/* The same, for an argument: sets errno to EINVAL and returns -1. */
__attribute__((format(printf, 1, 2))) int refuse(const char *format, ...);

/* The agent's answer is not what it should be: frees it (NULL: there is nothing to free), sets errno to EIO and returns -1. */
int not_understood(struct answer *answer, const char *verb);

/* False after refuse(), which names the call, the argument and what was expected. */
bool check_number(const char *name, const char *what, long long number, long long least, long long most);
bool check_ticket(const char *name, const gc_uuid_t *ticket);
bool check_place(const char *name, const char *what, const void *place);

/* A member of an object; false if it is not there, or does not fit. */
bool member_number(struct json object, const char *key, long long least, long long most, long long *number);
bool member_int(struct json object, const char *key, int *number); /* 0 or more */
bool member_text(struct json object, const char *key, char *to, size_t room);

#endif
