/* A turn is from the first hook before the fork to the last one after it: what one stops, another must not start. */
#include "turns.h"
#include "agent.h"
#include "channel.h"
#include "hook_list.h"
#include "hooks.h"
#include "identity.h"
#include "local.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum stage { QUEUED, BEFORE, TO_ASK, ASKED, AFTER };

struct turn {
	struct turn *next;
	struct client *client; /* NULL: it has gone away, or was answered */
	json_t *args, *result;
	struct hook_run *run;
	uint32_t call;
	enum stage stage;
};

static struct turn *turns; /* the first one has it */
static uint32_t bare;	    /* the last clone call that was made where no clone has hooks */

static void begin(struct turn *turn);

/* The next one begins from here. */
static void turn_over(struct turn *turn)
{
	bool first = turns == turn;
	for (struct turn **at = &turns; *at; at = &(*at)->next)
		if (*at == turn) {
			*at = turn->next;
			break;
		}
	json_decref(turn->args);
	json_decref(turn->result);
	free(turn);
	if (first && turns)
		begin(turns);
}

/* Answers the program, if it is still there; drops the reference to result. */
static void answer(struct turn *turn, int error, const char *message, json_t *result)
{
	struct client *client = turn->client;
	turn->client = NULL;
	if (!client) {
		json_decref(result);
		return;
	}
	client->in_turn = false;
	client_answer(client, error, message, result);
	client_continue(client);
}

static void ask(struct turn *turn)
{
	turn->stage = channel_roomy() ? ASKED : TO_ASK;
	if (turn->stage == ASKED)
		turn->call = local_ask(turn->client, verb_named("clone"), turn->args);
}

static void before_over(void *owner, json_t *failed, bool fatal)
{
	struct turn *turn = owner;
	char text[768], which[640];
	turn->run = NULL;
	if (fatal) {
		hooks_last(failed, which, sizeof which);
		snprintf(text, sizeof text, "clone: hook %s", which);
		answer(turn, EPERM, text, NULL);
	}
	if (turn->client)
		ask(turn);
	else
		turn_over(turn);
}

static void begin(struct turn *turn)
{
	const char *ticket = json_text(turn->args, "ticket");
	turn->stage = BEFORE;
	turn->run = hooks_run(HOOKS_BEFORE, hooks_environment(identity(), ticket, NULL), before_over, turn);
	if (!turn->run)
		ask(turn);
}

bool turns_take(struct client *client, json_t *args)
{
	if (!turns && !hook_list_any())
		return false;
	struct turn *turn = calloc(1, sizeof *turn), **at = &turns;
	if (!turn)
		return false;
	turn->client = client;
	turn->args = json_incref(args);
	client->in_turn = true;
	while (*at)
		at = &(*at)->next;
	*at = turn;
	if (turns == turn)
		begin(turn);
	return true;
}

void turns_passed(uint32_t call)
{
	struct hook *any = hook_list(HOOKS_IN_CLONE);
	hook_list_free(any);
	bare = any ? 0 : call;
}

bool turns_bare(uint32_t call)
{
	return call && call == bare;
}

static void after_over(void *owner, json_t *failed, bool fatal)
{
	(void)fatal;
	struct turn *turn = owner;
	turn->run = NULL;
	if (failed)
		json_object_set(turn->result, "hooks", failed);
	answer(turn, 0, NULL, json_incref(turn->result));
	turn_over(turn);
}

bool turns_reply(uint32_t call, const json_t *reply)
{
	struct turn *turn = turns;
	if (!turn || turn->stage != ASKED || turn->call != call)
		return false;
	int error = (int)json_number(reply, "errno", EIO);
	if (turn->client)
		local_forget(turn->client);
	if (error) {
		answer(turn, error, json_text(reply, "message"), NULL);
		turn_over(turn);
		return true;
	}
	const char *ticket = json_text(json_object_get(reply, "result"), "ticket");
	turn->result = json_incref(json_object_get(reply, "result"));
	if (!turn->result)
		turn->result = json_object();
	turn->stage = AFTER;
	json_t *environment = hooks_environment(identity(), ticket ? ticket : json_text(turn->args, "ticket"),
						json_object_get(turn->result, "vmids"));
	turn->run = hooks_run(HOOKS_IN_CALLER, environment, after_over, turn);
	if (!turn->run)
		after_over(turn, NULL, false);
	return true;
}

void turns_gone(struct client *client)
{
	for (struct turn *turn = turns; turn; turn = turn->next) {
		if (turn->client != client)
			continue;
		turn->client = NULL;
		if (turn->stage == ASKED)
			local_forget(client); /* the fork was asked for: its end is waited for, and the hooks after it run */
		else if (turn->stage == BEFORE)
			hooks_stop(turn->run);
		else if (turn->stage != AFTER)
			turn_over(turn);
		return;
	}
}

void turns_session(uint32_t call, bool is_clone)
{
	for (struct turn *turn = turns, *next; turn; turn = next) {
		next = turn->next;
		if (turn->stage == ASKED && (turn->call != call || !is_clone)) {
			if (turn->client)
				turn->client->in_turn = false; /* it is told with all whose calls were cut off */
			turn->client = NULL;
			turn->stage = AFTER;
		} else if (is_clone && turn->stage != ASKED) {
			if (turn->run)
				hooks_stop(turn->run);
			answer(turn, EIO, "the host side was cut off; nothing is known of it", NULL);
		}
	}
	/* at the end, so that none begins that is over */
	for (struct turn **at = &turns; *at;) {
		struct turn *turn = *at;
		if (turn->client || turn->run || turn->stage == ASKED) {
			at = &turn->next;
			continue;
		}
		*at = turn->next;
		json_decref(turn->args);
		json_decref(turn->result);
		free(turn);
	}
	if (turns && turns->stage == QUEUED)
		begin(turns);
}

void turns_made(uint32_t call)
{
	struct turn *turn = turns;
	if (!turn || turn->stage != ASKED || turn->call != call)
		return;
	if (turn->client)
		turn->client->in_turn = false; /* it is answered as one whose call this was */
	turn_over(turn);
}

void turns_resume(void)
{
	if (turns && turns->stage == TO_ASK)
		ask(turns);
}
