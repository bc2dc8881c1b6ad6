/* A job that fails, as some do. */
#include "calculator.h"

int broken(void)
{
	return difference("1-1");
}
