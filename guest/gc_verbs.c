/* The verbs of gc: their arguments, checked here so that a mistake costs nothing and is named. */
#include "gc.h"
#include "agent.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { COUNT_MOST = 1024, FILE_MOST = 48 << 10 /* in base64 it fits a request's line */ };

static bool uuid(const char *verb, const char *text)
{
	if (gc_is_uuid(text))
		return true;
	gc_complain("%s: expected a ticket's UUID, got '%s'", verb, text);
	return false;
}

static json_t *request_clone(int argc, char **argv, const char **sent)
{
	char *end;
	if (!gc_count_args(*sent, argc, 1, 1))
		return NULL;
	if (gc_is_uuid(argv[0]))
		return json_pack("{s:s}", "ticket", argv[0]);
	errno = 0;
	long count = strtol(argv[0], &end, 10);
	if (gc_is_number(argv[0]) && !errno && count >= 1 && count <= COUNT_MOST)
		return json_pack("{s:I}", "count", (json_int_t)count);
	gc_complain("clone: expected a count from 1 to %d or a ticket, got '%s'", COUNT_MOST, argv[0]);
	return NULL;
}

static json_t *request_nothing(int argc, char **argv, const char **sent)
{
	(void)argv;
	return gc_count_args(*sent, argc, 0, 0) ? json_object() : NULL;
}

static json_t *request_ticket(int argc, char **argv, const char **sent)
{
	static const char *const what[] = {"MAXCPUS", "MINVMS", "MINCPUSPERVM", "TIMEOUT_MS"};
	int64_t number[4];
	if (!gc_count_args(*sent, argc, 4, 4))
		return NULL;
	for (int i = 0; i < 4; i++)
		if (!gc_number(*sent, what[i], argv[i], i < 3, INT_MAX, &number[i]))
			return NULL;
	return json_pack("{s:I, s:I, s:I, s:I}", "maxcpus", (json_int_t)number[0], "minvms", (json_int_t)number[1],
			 "mincpuspervm", (json_int_t)number[2], "timeout_ms", (json_int_t)number[3]);
}

static json_t *request_domains(int argc, char **argv, const char **sent)
{
	if (!gc_count_args(*sent, argc, 1, 1) || !uuid(*sent, argv[0]))
		return NULL;
	return json_pack("{s:s}", "ticket", argv[0]);
}

static json_t *request_sync(int argc, char **argv, const char **sent)
{
	int64_t timeout;
	if (!argc)
		return json_object();
	if (!gc_count_args(*sent, argc, 2, 2) || !uuid(*sent, argv[0]) ||
	    !gc_number(*sent, "TIMEOUT_MS", argv[1], 0, INT_MAX, &timeout))
		return NULL;
	return json_pack("{s:s, s:I}", "ticket", argv[0], "timeout_ms", (json_int_t)timeout);
}

/* The bytes of a file in base64; NULL after a complaint. The caller frees it. */
static char *file_in_base64(const char *path)
{
	static uint8_t bytes[FILE_MOST + 1];
	FILE *file = fopen(path, "re");
	size_t length = file ? fread(bytes, 1, sizeof bytes, file) : 0;
	bool broken = !file || ferror(file);
	if (broken)
		gc_complain("join: --file: %s: %s", path, strerror(errno));
	else if (length > FILE_MOST)
		gc_complain("join: --file: expected at most %d bytes, %s has more", FILE_MOST, path);
	if (file)
		fclose(file);
	char *text = broken || length > FILE_MOST ? NULL : malloc(length * 4 / 3 + 8);
	if (text)
		base64_encode(bytes, length, text);
	return text;
}

/* Takes an option and its value out of the arguments; NULL: it is not there. */
static const char *take_option(const char *option, int *argc, char **argv)
{
	const char *value = NULL;
	int kept = 0;
	for (int i = 0; i < *argc; i++)
		if (!strcmp(argv[i], option) && i + 1 < *argc)
			value = argv[++i];
		else
			argv[kept++] = argv[i];
	*argc = kept;
	return value;
}

static json_t *join_wait(int argc, char **argv, const char **sent, const char *folder)
{
	int64_t timeout = 0;
	if (!gc_count_args(*sent, argc, 1, 2) || !uuid(*sent, argv[0]) ||
	    (argc == 2 && !gc_number(*sent, "TIMEOUT_MS", argv[1], 0, INT_MAX, &timeout)))
		return NULL;
	struct stat status;
	if (folder && (stat(folder, &status) || !S_ISDIR(status.st_mode) || access(folder, W_OK | X_OK))) {
		gc_complain("join: --files: expected a directory to write to, got '%s'", folder);
		return NULL;
	}
	show_joined_folder = folder;
	*sent = "join-wait";
	json_t *args = json_pack("{s:s}", "ticket", argv[0]);
	if (argc == 2)
		json_object_set_new(args, "timeout_ms", json_integer(timeout));
	return args;
}

static json_t *request_join(int argc, char **argv, const char **sent)
{
	int64_t status = 0;
	const char *file = take_option("--file", &argc, argv), *folder = take_option("--files", &argc, argv);
	if (folder || (argc && gc_is_uuid(argv[0]) && !file))
		return join_wait(argc, argv, sent, folder);
	if (!gc_count_args(*sent, argc, 0, 1))
		return NULL;
	bool report = !argc || strcmp(argv[0], "noreport");
	if (argc && report && !gc_number(*sent, "a status", argv[0], 0, 255, &status))
		return NULL;
	json_t *args = json_pack("{s:I, s:b}", "status", (json_int_t)status, "report", report);
	char *text = file ? file_in_base64(file) : NULL;
	if (text)
		json_object_set_new(args, "file", json_string(text));
	free(text);
	if (!file || text)
		return args;
	json_decref(args);
	return NULL;
}

static json_t *request_kill(int argc, char **argv, const char **sent)
{
	int64_t vmid;
	if (!gc_count_args(*sent, argc, 1, COUNT_MOST))
		return NULL;
	json_t *vmids = json_array();
	for (int i = 0; i < argc; i++) {
		if (!gc_number(*sent, "a vmid", argv[i], 0, INT_MAX, &vmid)) {
			json_decref(vmids);
			return NULL;
		}
		json_array_append_new(vmids, json_integer(vmid));
	}
	return json_pack("{s:o}", "vmids", vmids);
}

static json_t *request_kill_generation(int argc, char **argv, const char **sent)
{
	int64_t vmid;
	if (!gc_count_args(*sent, argc, 1, 1) || !gc_number(*sent, "a vmid", argv[0], 0, INT_MAX, &vmid))
		return NULL;
	return json_pack("{s:I}", "vmid", (json_int_t)vmid);
}

const struct gc_verb gc_verbs[] = {
	{"clone", NULL, "COUNT|TICKET", "forks this VM; prints the vmid of the VM that it returns in, 0 in the caller",
	 request_clone, show_cloned, false},
	{"vmid", NULL, "", "prints this VM's number: 0 in the master", request_nothing, show_vmid, false},
	{"ismaster", NULL, "", "exits with 0 in the master, with 1 in a clone", request_nothing, show_master, false},
	{"my-ip", NULL, "", "prints this VM's address on the private network", request_nothing, show_ip, false},
	{"generation", NULL, "", "prints the number of the clone call that made this VM; it only grows", request_nothing,
	 show_generation, false},
	{"list", NULL, "", "shows every live VM of this virtual cluster", request_nothing, show_list, true},
	{"known-hosts", NULL, "", "shows the SSH host keys of the live VMs, as ssh's KnownHostsCommand",
	 request_nothing, show_lines, false},
	{"request-ticket", "rt", "MAXCPUS MINVMS MINCPUSPERVM TIMEOUT_MS",
	 "reserves room for clones; prints the ticket", request_ticket, show_ticket, false},
	{"list-tickets", "lt", "", "shows the tickets that this VM holds", request_nothing, show_tickets, false},
	{"list-ticket-domains", "ltd", "TICKET", "shows the clones made on a ticket", request_domains, show_domains,
	 false},
	{"sync", NULL, "[TICKET TIMEOUT_MS]", "waits until the caller and all live clones of a ticket are here",
	 request_sync, show_nothing, false},
	{"join", NULL, "[STATUS|noreport] [--file FILE] | TICKET [TIMEOUT_MS] [--files DIRECTORY]",
	 "ends this clone and reports; or waits until every clone of a ticket ended", request_join, show_joined, false},
	{"kill", NULL, "VMID…", "ends these clones", request_kill, show_nothing, false},
	{"kill-generation", NULL, "VMID", "ends all clones that were made together with this one",
	 request_kill_generation, show_nothing, false},
	{"killall", NULL, "", "ends all clones of this VM, and theirs", request_nothing, show_nothing, false},
	{"stat", NULL, "", "shows this VM's and its generation's memory", request_nothing, show_stat, true},
};
const int gc_verb_count = sizeof gc_verbs / sizeof *gc_verbs;
