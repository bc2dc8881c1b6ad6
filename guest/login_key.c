/* Two files of our own: what root has in ~/.ssh is root's. */
#include "login_key.h"
#include "agent.h"
#include "replace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static int put(const char *name, const char *text, mode_t mode)
{
	char path[256];
	if (snprintf(path, sizeof path, "%s/ssh/%s", options.conf_dir, name) >= (int)sizeof path)
		return ENAMETOOLONG;
	return replace_file(path, text, strlen(text), mode);
}

int login_key_take(const json_t *key)
{
	char folder[256], line[512];
	const char *private_key = json_text(key, "private_key"), *public_key = json_text(key, "public_key");
	if (!private_key || !public_key ||
	    snprintf(line, sizeof line, "%s\n", public_key) >= (int)sizeof line)
		return EINVAL;
	if (snprintf(folder, sizeof folder, "%s/ssh", options.conf_dir) >= (int)sizeof folder)
		return ENAMETOOLONG;
	if (mkdir(folder, 0755) && errno != EEXIST)
		return errno;
	int error = put("id_ed25519", private_key, 0600);
	return error ? error : put("authorized_keys", line, 0644);
}
