/* NUMBER { ("+" | "-") NUMBER }, where a number may be a product. */
#include "calculator.h"

#include <string.h>

int sum(const char *text)
{
	int total = product(text);
	for (const char *at = text; (at = strpbrk(at + 1, "+-"));)
		total += *at == '-' ? -product(at + 1) : product(at + 1);
	return total;
}
