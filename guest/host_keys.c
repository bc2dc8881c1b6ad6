/* The key pair as OpenSSH writes it (its PROTOCOL.key), without a program that costs a clone a tenth of a second. */
#include "host_keys.h"
#include "agent.h"
#include "ed25519.h"
#include "replace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

enum { BLOB_MOST = 256, LINE = 70 };

static const char kind[] = "ssh-ed25519";
static char public_line[96]; /* 80 and a NUL: the kind, a space, 51 bytes in base64 */

/* Texts with their lengths ahead, one after the other. */
struct blob {
	uint8_t bytes[BLOB_MOST];
	size_t length;
};

static void put_bytes(struct blob *blob, const void *bytes, size_t length)
{
	memcpy(blob->bytes + blob->length, bytes, length);
	blob->length += length;
}

static void put_number(struct blob *blob, uint32_t number)
{
	put_bytes(blob, (uint8_t[]){number >> 24 & 255, number >> 16 & 255, number >> 8 & 255, number & 255}, 4);
}

static void put(struct blob *blob, const void *text, size_t length)
{
	put_number(blob, (uint32_t)length);
	put_bytes(blob, text, length);
}

static void put_public(struct blob *blob, const uint8_t *public)
{
	put(blob, kind, sizeof kind - 1);
	put(blob, public, ED25519_BYTES);
}

static void put_private(struct blob *blob, const uint8_t *secret, const uint8_t *public)
{
	uint8_t both[2 * ED25519_BYTES];
	memcpy(both, secret, ED25519_BYTES);
	memcpy(both + ED25519_BYTES, public, ED25519_BYTES);
	/* twice the same number, by which a wrong passphrase is noticed: there is none */
	put_number(blob, 0);
	put_number(blob, 0);
	put_public(blob, public);
	put(blob, both, sizeof both);
	put(blob, "", 0); /* no comment */
	for (uint8_t pad = 1; blob->length % 8; pad++)
		put_bytes(blob, &pad, 1);
	explicit_bzero(both, sizeof both);
}

/* The file of the private key; its length. */
static size_t format_private(char *text, size_t room, const uint8_t *secret, const uint8_t *public)
{
	struct blob file = {.length = 0}, of_public = {.length = 0}, of_private = {.length = 0};
	char base64[BLOB_MOST * 4 / 3 + 8];
	put_public(&of_public, public);
	put_private(&of_private, secret, public);
	put_bytes(&file, "openssh-key-v1", 15);
	put(&file, "none", 4); /* cipher */
	put(&file, "none", 4); /* how its key is made */
	put(&file, "", 0);
	put_number(&file, 1); /* keys */
	put(&file, of_public.bytes, of_public.length);
	put(&file, of_private.bytes, of_private.length);
	size_t all = base64_encode(file.bytes, file.length, base64);
	size_t length = (size_t)snprintf(text, room, "-----BEGIN OPENSSH PRIVATE KEY-----\n");
	for (size_t at = 0; at < all; at += LINE)
		length += (size_t)snprintf(text + length, room - length, "%.*s\n", LINE, base64 + at);
	length += (size_t)snprintf(text + length, room - length, "-----END OPENSSH PRIVATE KEY-----\n");
	explicit_bzero(&file, sizeof file);
	explicit_bzero(&of_private, sizeof of_private);
	explicit_bzero(base64, sizeof base64);
	return length;
}

static void format_public(const uint8_t *public)
{
	struct blob blob = {.length = 0};
	put_public(&blob, public);
	size_t length = (size_t)snprintf(public_line, sizeof public_line, "%s ", kind);
	base64_encode(blob.bytes, blob.length, public_line + length);
}

/* Keys of other kinds would stay the parent's. */
static int remove_others(void)
{
	static const char *const others[] = {
		"/etc/ssh/ssh_host_rsa_key",	   "/etc/ssh/ssh_host_rsa_key.pub", "/etc/ssh/ssh_host_ecdsa_key",
		"/etc/ssh/ssh_host_ecdsa_key.pub", "/etc/ssh/ssh_host_dsa_key",	    "/etc/ssh/ssh_host_dsa_key.pub",
	};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (unlink(others[i]) && errno != ENOENT)
			return errno;
	return 0;
}

static bool is_asked_for(void)
{
	char marker[256];
	return snprintf(marker, sizeof marker, "%s/renew-ssh-host-keys", options.conf_dir) < (int)sizeof marker &&
	       !access(marker, F_OK);
}

int host_keys_renew(void)
{
	uint8_t secret[ED25519_BYTES], public[ED25519_BYTES];
	char text[1024], line[sizeof public_line + 1];
	public_line[0] = 0; /* the parent's */
	if (!is_asked_for())
		return 0;
	if (getrandom(secret, sizeof secret, GRND_NONBLOCK) != sizeof secret)
		return errno;
	ed25519_public(secret, public);
	size_t length = format_private(text, sizeof text, secret, public);
	int error = remove_others();
	if (!error)
		error = replace_file("/etc/ssh/ssh_host_ed25519_key", text, length, 0600);
	explicit_bzero(secret, sizeof secret);
	explicit_bzero(text, sizeof text);
	if (error)
		return error;
	format_public(public);
	length = (size_t)snprintf(line, sizeof line, "%s\n", public_line);
	return replace_file("/etc/ssh/ssh_host_ed25519_key.pub", line, length, 0644);
}

const char *host_keys_public(void)
{
	return public_line;
}
