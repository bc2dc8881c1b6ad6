/* The process side of a command: pipes or a terminal, fork, exec. */
#ifndef SPAWN_H
#define SPAWN_H

#include <jansson.h>
#include <sys/types.h>

struct spawned {
	pid_t pid;
	int in, out, err; /* our ends, not blocking; with a terminal err is -1 and both others its master */
	int failure;	  /* becomes readable: at its end the program runs, an int in it is the errno of exec */
};

/* Starts what an exec message asks for; 0 or an errno. */
int spawn(const json_t *message, struct spawned *spawned);

/* Of a terminal's master. */
void terminal_resize(int fd, const json_t *size);

#endif
