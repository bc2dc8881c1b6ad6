/* Prints what its first argument comes to. */
#include "calculator.h"

#include <stdio.h>

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s 1+2*3\n", argv[0]);
		return 1;
	}
	printf("%d\n", sum(argv[1]));
	return 0;
}
