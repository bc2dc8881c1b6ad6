/* Forks the machine that it runs in; each machine says who it is. */
#include <gridcentric/gc-guest.h>
#include <stdio.h>

int main(void)
{
	gc_uuid_t ticket;
	if (gc_request_ticket(2, 2, 1, 1000, &ticket) < 0) {
		fprintf(stderr, "no room: %s\n", gc_error());
		return 1;
	}
	int vmid = gc_clone(ticket);
	if (vmid < 0) {
		fprintf(stderr, "no fork: %s\n", gc_error());
		return 1;
	}
	printf("hello from C, vmid %d\n", vmid);
	return 0;
}
