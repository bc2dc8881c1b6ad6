/* The public key of an Ed25519 key pair (RFC 8032), for the SSH host key of a clone: no program is run for it. */
#ifndef ED25519_H
#define ED25519_H

#include <stddef.h>
#include <stdint.h>

enum { ED25519_BYTES = 32 };

/* What belongs to these 32 random bytes, which are the private key. */
void ed25519_public(const uint8_t secret[ED25519_BYTES], uint8_t public[ED25519_BYTES]);

/* sha512.c: of at most 111 bytes. */
void sha512_short(const uint8_t *text, size_t length, uint8_t hash[64]);

#endif
