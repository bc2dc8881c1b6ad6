/* One program under several names: the agent, and the command gc. */
#include "agent.h"

#include <string.h>

int main(int argc, char **argv)
{
	const char *slash = argc ? strrchr(argv[0], '/') : NULL;
	const char *name = slash ? slash + 1 : argc ? argv[0] : "gc";
	return strcmp(name, "gridcentric-agent") ? gc_main(argc, argv) : agent_main(argc, argv);
}
