/* The virtio-serial port to the host, or a Unix socket in its place: found, opened, lost, found again. */
#ifndef PORT_H
#define PORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* path NULL: the virtio port named org.copper.agent. readable is called when there may be bytes. */
void port_open(const char *path, void (*readable)(void));

/* Bytes read or written; 0 or less: none now. */
ssize_t port_read(uint8_t *to, size_t room);
ssize_t port_write(const uint8_t *from, size_t length);

/* EPOLLIN: call readable; EPOLLOUT: wake the loop when the port takes bytes. */
void port_want(uint32_t events);

int port_connected(void);

#endif
