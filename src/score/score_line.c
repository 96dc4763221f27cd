/* score_line.c - a case and all answers as one line of JSON: docs/commands.md describes the
 * members. */
#include "score/score.h"

#include <jansson.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *place_json(score_place place)
{
    return place.name == STAGE_NONE
               ? json_null()
               : json_pack("{s:s, s:o}", "stage", stage_name(place.name), "layer",
                           place.layer < 0 ? json_null() : json_integer(place.layer));
}

static json_t *whole_json(int64_t value, int64_t none)
{
    return value == none ? json_null() : json_integer(value);
}

static json_t *opinions_json(const score_answer *a)
{
    json_t *all = json_object();
    for (score_method m = 0; all && m < SCORE_METHODS; m++) {
        const score_opinion *o = &a->opinion[m];
        json_object_set_new(all, score_method_name(m),
                            json_pack("{s:b, s:o, s:o, s:s}", "alarm", (int)o->alarm, "place",
                                      o->alarm ? place_json(o->place) : json_null(), "rank",
                                      whole_json(o->rank, 0), "cause", cause_name(o->cause)));
    }
    return all;
}

static json_t *planted_json(const score_case *c)
{
    cause expected = c->control      ? c->control->cause
                     : c->foreign[0] ? CAUSE_ROUNDING
                     : c->real       ? c->real->cause
                     : c->kind       ? c->kind->cause
                                     : CAUSE_NONE;
    const char *variant = c->control ? c->control->name : c->foreign[0] ? "foreign" : "";
    bool is_late = (c->kind && c->kind->is_late) || (c->kind_next && c->kind_next->is_late);
    return json_pack("{s:s, s:s, s:o, s:s, s:b, s:b}", "order", c->order, "variant", variant,
                     "place", place_json(c->place), "cause", cause_name(expected), "is_random",
                     c->kind ? (int)c->kind->is_random : 0, "is_late", (int)is_late);
}

static json_t *referee_json(const score_answer *a)
{
    const char *verdict = a->verdict == GRETA_OK      ? "aligned"
                          : a->verdict == GRETA_FAULT ? "fault"
                                                      : "no verdict";
    score_place first = a->n_ranked > 0 ? a->ranked[0] : (score_place){STAGE_NONE, -1};
    return json_pack("{s:s, s:s, s:s, s:o, s:o, s:i, s:o, s:s}", "verdict", verdict, "state",
                     a->state, "bucket", a->bucket, "place", place_json(first), "position",
                     whole_json(a->position, -1), "accused", (int)a->n_accused, "rank",
                     whole_json(a->rank, 0), "why", a->why);
}

/* Which half of the cases one belongs to: rules may be tuned on half 0 only. */
static int half_of(const char *id)
{
    uint64_t z = 0xcbf29ce484222325u;
    for (const char *at = id; *at; at++) {
        z = (z ^ (uint8_t)*at) * 0x100000001b3u;
    }
    return (int)(z >> 40 & 1);
}

greta_status score_line(const score_case *c, const char *model, const char *prompt,
                        const score_answer *a, text *out, greta_error *err)
{
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:i, s:s, s:s, s:i, s:o, s:b, s:b, s:o, s:i, s:o, s:o, s:f, s:I}", "case",
        c->id, "model", model, "prompt", prompt, "tokens", (int)c->n_token, "mode",
        score_mode_name(c->mode), "sort", score_sort_name(c->sort), "half", half_of(c->id),
        "planted", planted_json(c), "refused", (int)a->is_refused, "differs", (int)a->differs,
        "position", whole_json(a->position_true, -1), "places", (int)a->n_place, "referee",
        referee_json(a), "methods", opinions_json(a), "seconds", a->seconds, "bytes",
        (json_int_t)a->bytes);
    char *dump = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!dump) {
        return error_memory(err, "a line of the exam", 0);
    }
    text_format(out, "%s\n", dump);
    free(dump);
    return GRETA_OK;
}
