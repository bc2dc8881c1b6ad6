/* SSH host keys: two machines with the same one are the same machine to everybody who knows it. */
#ifndef HOST_KEYS_H
#define HOST_KEYS_H

/* A step: a new Ed25519 key in /etc/ssh, and none of another kind, where the image asks for it by a file
 * renew-ssh-host-keys in the administrator's folder. sshd reads it for each connection. 0 or an errno. */
int host_keys_renew(void);

/* The public key of the last one that was made, as in known_hosts: "ssh-ed25519 AAAA…"; "" if none was. */
const char *host_keys_public(void);

#endif
