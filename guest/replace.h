/* Files that are replaced as a whole: who reads one finds the old text or the new one. */
#ifndef REPLACE_H
#define REPLACE_H

#include <stddef.h>
#include <sys/types.h>

/* Gives a file this text, by a rename in its folder; nothing is written if it has it already. A file that is mounted
 * over is written in place. mode: of a file that is not there yet. 0 or an errno. */
int replace_file(const char *path, const char *text, size_t length, mode_t mode);

/* The text of a file of at most `most` bytes, and a NUL: the caller frees it. NULL and errno; EFBIG: it is longer. */
char *read_file(const char *path, size_t most, size_t *length);

#endif
