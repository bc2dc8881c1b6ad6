/* What gc prints: lines and fields that scripts cut, nothing else. */
#include "gc.h"
#include "agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COLUMNS = 6 };

static const char *text_of(const json_t *object, const char *key)
{
	static char numbers[COLUMNS][24];
	static int next;
	const json_t *value = json_object_get(object, key);
	if (json_is_string(value))
		return json_string_value(value);
	if (!json_is_integer(value))
		return "-";
	char *to = numbers[next = (next + 1) % COLUMNS];
	snprintf(to, sizeof numbers[0], "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	return to;
}

static int print(const json_t *result, const char *key)
{
	printf("%s\n", text_of(result, key));
	return 0;
}

int show_nothing(const json_t *result, bool as_json)
{
	(void)result, (void)as_json;
	return 0;
}

int show_vmid(const json_t *result, bool as_json)
{
	(void)as_json;
	return print(result, "vmid");
}

int show_cloned(const json_t *result, bool as_json)
{
	size_t i;
	const json_t *hook;
	json_array_foreach(json_object_get(result, "hooks"), i, hook)
		gc_complain("clone: hook %s failed: %s", text_of(hook, "name"), text_of(hook, "message"));
	return show_vmid(result, as_json);
}

int show_ip(const json_t *result, bool as_json)
{
	(void)as_json;
	return print(result, "ip");
}

int show_generation(const json_t *result, bool as_json)
{
	(void)as_json;
	return print(result, "generation");
}

int show_master(const json_t *result, bool as_json)
{
	(void)as_json;
	return json_is_true(json_object_get(result, "master")) ? 0 : 1;
}

int show_ticket(const json_t *result, bool as_json)
{
	(void)as_json;
	printf("ticket %s\n", text_of(result, "ticket"));
	return 0;
}

int show_tickets(const json_t *result, bool as_json)
{
	(void)as_json;
	size_t i;
	const json_t *ticket;
	json_array_foreach(json_object_get(result, "tickets"), i, ticket) {
		printf("ticket %s\n", text_of(ticket, "id"));
		printf("  status %s\n  cpus %s\n  vms %s\n  mincpuspervm %s\n", text_of(ticket, "status"),
		       text_of(ticket, "cpus"), text_of(ticket, "vms"), text_of(ticket, "mincpuspervm"));
	}
	return 0;
}

int show_domains(const json_t *result, bool as_json)
{
	(void)as_json;
	size_t i;
	const json_t *clone;
	json_array_foreach(json_object_get(result, "clones"), i, clone)
		printf("vmid %s\nip %s\nstate %s\n", text_of(clone, "vmid"), text_of(clone, "ip"),
		       text_of(clone, "state"));
	return 0;
}

int show_lines(const json_t *result, bool as_json)
{
	(void)as_json;
	size_t i;
	const json_t *line;
	json_array_foreach(json_object_get(result, "lines"), i, line)
		if (json_is_string(line))
			puts(json_string_value(line));
	return 0;
}

const char *show_joined_folder;

static bool write_all(FILE *file, const uint8_t *bytes, size_t length)
{
	bool whole = file && fwrite(bytes, 1, length, file) == length;
	return (file && !fclose(file)) && whole;
}

/* A clone's file becomes FOLDER/VMID. */
static int keep_file(const json_t *clone)
{
	char path[4096];
	const char *text = json_text(clone, "file");
	if (!text || !show_joined_folder)
		return 0;
	size_t room = strlen(text) + 1;
	uint8_t *bytes = malloc(room);
	ptrdiff_t length = bytes ? base64_decode(text, bytes, room) : -1;
	errno = length < 0 ? EIO : 0;
	if (snprintf(path, sizeof path, "%s/%s", show_joined_folder, text_of(clone, "vmid")) >= (int)sizeof path)
		errno = ENAMETOOLONG;
	bool kept = !errno && write_all(fopen(path, "we"), bytes, (size_t)length);
	if (!kept)
		gc_complain("join: --files: %s: %s", path, strerror(errno));
	free(bytes);
	return kept ? 0 : EIO;
}

int show_joined(const json_t *result, bool as_json)
{
	(void)as_json;
	size_t i;
	int status = 0;
	const json_t *clone, *clones = json_object_get(result, "clones");
	if (!clones) /* this clone ends: its processor stops somewhere in here */
		for (;;)
			pause();
	json_array_foreach(clones, i, clone) {
		printf("%s %s\n", text_of(clone, "vmid"), text_of(clone, "status"));
		if (keep_file(clone))
			status = EIO;
	}
	return status;
}

/* A table with a head line; every column as wide as its widest cell, the last one as it is. */
static void table(const json_t *rows, const char *const *keys, int columns)
{
	int width[COLUMNS] = {0};
	size_t i;
	const json_t *row;
	for (int c = 0; c < columns; c++) {
		width[c] = (int)strlen(keys[c]);
		json_array_foreach(rows, i, row)
			if ((int)strlen(text_of(row, keys[c])) > width[c])
				width[c] = (int)strlen(text_of(row, keys[c]));
	}
	for (int c = 0; c < columns; c++)
		printf("%-*s%s", c + 1 < columns ? width[c] : 0, keys[c], c + 1 < columns ? "  " : "\n");
	json_array_foreach(rows, i, row)
		for (int c = 0; c < columns; c++)
			printf("%-*s%s", c + 1 < columns ? width[c] : 0, text_of(row, keys[c]),
			       c + 1 < columns ? "  " : "\n");
}

static int show_table(const json_t *result, bool as_json, const char *const *keys, int columns)
{
	const json_t *rows = json_object_get(result, "vms");
	if (!as_json) {
		table(rows, keys, columns);
	} else {
		json_dumpf(rows, stdout, JSON_INDENT(2));
		putchar('\n');
	}
	return 0;
}

int show_list(const json_t *result, bool as_json)
{
	static const char *const keys[] = {"vmid", "address", "generation", "parent", "state", "host"};
	return show_table(result, as_json, keys, 6);
}

int show_stat(const json_t *result, bool as_json)
{
	static const char *const keys[] = {"vmid", "nominal", "shared", "own"};
	return show_table(result, as_json, keys, 4);
}
