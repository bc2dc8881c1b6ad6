/* The key pair that the VMs of a virtual cluster log in to each other with: theirs all, so clones have it already. */
#ifndef LOGIN_KEY_H
#define LOGIN_KEY_H

#include <jansson.h>

/* A step: writes a session's login_key, {"private_key", "public_key"}, as id_ed25519 and authorized_keys into the folder
 * ssh of the administrator's. The image's sshd and ssh look there. 0 or an errno. */
int login_key_take(const json_t *key);

#endif
