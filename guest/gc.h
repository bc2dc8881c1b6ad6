/* The command gc: one row a verb. */
#ifndef GC_H
#define GC_H

#include <jansson.h>
#include <stdbool.h>

/* What a verb sends, once its arguments are checked, and how it shows the result. */
struct gc_verb {
	const char *name, *short_name; /* short_name: NULL, or what people type */
	const char *usage;	       /* the arguments */
	const char *help;	       /* one line */
	/* The verb to send and its args; NULL after gc_complain. */
	json_t *(*request)(int argc, char **argv, const char **sent);
	/* Prints; returns the exit status. */
	int (*show)(const json_t *result, bool as_json);
	bool takes_json; /* --json */
};

extern const struct gc_verb gc_verbs[];
extern const int gc_verb_count;

/* One line on standard error, with the command's name before it. */
__attribute__((format(printf, 1, 2))) void gc_complain(const char *format, ...);

/* Arguments, checked. They complain, naming the verb and what was expected, and return false. */
bool gc_count_args(const char *verb, int argc, int least, int most);
bool gc_number(const char *verb, const char *what, const char *text, int64_t least, int64_t most, int64_t *number);
bool gc_is_number(const char *text);
bool gc_is_uuid(const char *text);

/* gc_show.c */
int show_nothing(const json_t *result, bool as_json);
int show_vmid(const json_t *result, bool as_json);
int show_cloned(const json_t *result, bool as_json);
int show_ip(const json_t *result, bool as_json);
int show_master(const json_t *result, bool as_json);
int show_generation(const json_t *result, bool as_json);
int show_ticket(const json_t *result, bool as_json);
int show_tickets(const json_t *result, bool as_json);
int show_domains(const json_t *result, bool as_json);
int show_joined(const json_t *result, bool as_json);
extern const char *show_joined_folder; /* where the clones' files go, each by its vmid; NULL: nowhere */
int show_lines(const json_t *result, bool as_json);
int show_list(const json_t *result, bool as_json);
int show_stat(const json_t *result, bool as_json);

#endif
