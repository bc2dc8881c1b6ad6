/* NUMBER { "*" NUMBER } */
#include "calculator.h"

#include <stdlib.h>

int product(const char *text)
{
	char *end;
	int total = (int)strtol(text, &end, 10);
	while (*end == '*')
		total *= (int)strtol(end + 1, &end, 10);
	return total;
}
