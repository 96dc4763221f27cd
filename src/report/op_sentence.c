/* op_sentence.c - what an analysis says of ops: whose fault, why, what came of it; in both
 * languages, side by side, as in sentence.c.
 */
#include "report/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SAY(en, es) (l == LANG_ES ? (es) : (en))

/* Sentences of (who, stage, phrase). */
static const struct {
    const char *en, *es;
} of_cause[CAUSE_COUNT] = {
    [CAUSE_NONE] = {"%s computes %s otherwise than the model says (%s)",
                    "%s calcula %s de otro modo que el del modelo (%s)"},
    [CAUSE_INPUT_SELECTION] = {"%s reads for %s another row than its producer wrote (%s)",
                               "%s lee para %s otra fila que la de su productor (%s)"},
    [CAUSE_NORM_STATS] = {"%s computes %s with a wrong number (%s)",
                          "%s calcula %s con un número equivocado (%s)"},
    [CAUSE_WEIGHT_LAYOUT] = {"%s reads for %s other weights than the model file holds (%s)",
                             "%s lee para %s otros pesos que los del fichero del modelo (%s)"},
    [CAUSE_KERNEL_MATH] = {"%s computes %s by another formula (%s)",
                           "%s calcula %s con otra fórmula (%s)"},
    [CAUSE_POSITION] = {"%s turns %s by other angles (%s)", "%s gira %s con otros ángulos (%s)"},
    [CAUSE_KV_STATE] = {"%s has for %s another state of the cache than was stored (%s)",
                        "%s tiene para %s otro estado de la caché que el guardado (%s)"},
    [CAUSE_MASK] = {"%s lets %s see other positions (%s)",
                    "%s deja que %s vea otras posiciones (%s)"},
    [CAUSE_SCALE] = {"%s scales %s otherwise (%s)", "%s escala %s de otro modo (%s)"},
    [CAUSE_STRUCTURE] = {"%s makes %s of other parts (%s)", "%s forma %s con otras partes (%s)"},
    [CAUSE_PRECISION_POLICY] = {"%s keeps %s in another precision (%s)",
                                "%s guarda %s con otra precisión (%s)"},
    [CAUSE_ROUNDING] = {"%s rounds %s in another order (%s)", "%s redondea %s en otro orden (%s)"},
    [CAUSE_TOKENS] = {"%s has other tokens at %s (%s)", "%s tiene otros tokens en %s (%s)"},
    [CAUSE_WEIGHTS_DIFFER] = {"%s runs %s with another model file (%s)",
                              "%s ejecuta %s con otro fichero de modelo (%s)"},
    [CAUSE_NONFINITE_ORIGIN] = {"%s makes non-finite values in %s (%s)",
                                "%s produce valores no finitos en %s (%s)"},
};

void say_op(text *t, lang l, const op_line *op)
{
    const finding *f = &op->found;
    const char *name = stage_name(op->name);
    char quoted[PHRASE_MAX];
    say_phrase_of(l, op->naming, f->phrase, quoted);
    if (op->is_accused && f->cause == CAUSE_INPUT_SELECTION && f->source.is_found) {
        text_format(t, SAY("%s reads %s's input from %s", "%s lee la entrada de %s de %s"),
                    side_names(l, op->naming, f->sides), name, stage_name(f->source.name));
        if (f->source.layer >= 0 && f->source.layer != op->layer) {
            text_format(t, SAY(" of layer %" PRId32, " de la capa %" PRId32), f->source.layer);
        }
        text_format(t, SAY(" of position %" PRId32, " de la posición %" PRId32),
                    f->source.position);
    } else if (op->is_accused && f->cause == CAUSE_WEIGHTS_DIFFER && f->sides == SIDES_NONE) {
        text_format(t,
                    SAY("the two models have other weights for %s (%s)",
                        "los dos modelos tienen otros pesos para %s (%s)"),
                    name, quoted);
    } else if (op->is_accused) {
        const cause c = (unsigned)f->cause < CAUSE_COUNT ? f->cause : CAUSE_NONE;
        /* one format of three strings, chosen by cause and language */
        const char *form = l == LANG_ES ? of_cause[c].es : of_cause[c].en;
        const char *part[3] = {side_names(l, op->naming, f->sides), name, quoted};
        for (int i = 0; *form; form++) {
            if (form[0] == '%' && form[1] == 's') {
                text_string(t, part[i++]);
                form++;
            } else {
                text_format(t, "%c", *form);
            }
        }
    } else if (op->is_rounding) {
        text_format(t,
                    SAY("%s is rounded otherwise, and no more than that (%s)",
                        "%s se redondea de otro modo, y nada más (%s)"),
                    name, quoted);
    } else if (op->is_policy && f->is_hidden) {
        text_format(
            t, SAY("%s keeps %s in another precision (%s)", "%s guarda %s con otra precisión (%s)"),
            side_names(l, op->naming, f->sides), name, quoted);
    } else if (op->is_policy) {
        text_format(t,
                    op->terms.has_weights
                        ? SAY("the types of the weights make another %s of the same operands (%s)",
                              "los tipos de los pesos hacen otro %s de los mismos operandos (%s)")
                        : SAY("the contracts make another %s of the same operands (%s)",
                              "los contratos hacen otro %s de los mismos operandos (%s)"),
                    name, quoted);
    } else if (f->changed_no_bit) {
        text_format(
            t,
            SAY("%s has a wrong operand in %s (%s)", "%s tiene un operando equivocado en %s (%s)"),
            side_names(l, op->naming, f->sides), name, quoted);
    } else if (f->state == VERDICT_INHERITED) {
        text_format(t,
                    SAY("the two sides differ first in %s, and neither introduced it there (%s)",
                        "los dos lados difieren primero en %s, y ninguno lo introdujo ahí (%s)"),
                    name, quoted);
    } else {
        text_format(t, SAY("%s is not decided: %s", "%s queda sin decidir: %s"), name, quoted);
    }
}

/* ---- What it stands on ----------------------------------------------------------------------- */

static void say_fits(text *t, lang l, const finding *f)
{
    char quoted[PHRASE_MAX];
    for (cause c = CAUSE_NONE; c < CAUSE_COUNT; c++) {
        for (int32_t i = 0, n = 0; i < f->n_fit; i++) {
            if (f->fit[i]->cause == c && n++ == 0) {
                text_format(t, SAY(" Fits: %s (%s).", " Encaja: %s (%s)."), cause_name(c),
                            say_phrase(l, f->fit[i]->phrase, quoted));
            }
        }
    }
}

static void say_terms(text *t, lang l, const op_line *op)
{
    const op_terms *terms = &op->terms;
    char size[5][NUMBER_MAX];
    if (!terms->is_measured) {
        return;
    }
    static const term shown[5] = {TERM_DIFFERENCE, TERM_INTRODUCED_A, TERM_INTRODUCED_B,
                                  TERM_POLICY, TERM_INHERITED};
    for (int i = 0; i < 5; i++) {
        number_scientific(terms->largest[shown[i]], 2, size[i]);
    }
    text_format(
        t,
        SAY(" Of the difference (at most %s), %s introduces %s, %s %s, policy makes %s, and "
            "%s is inherited.",
            " De la diferencia (a lo sumo %s), %s introduce %s, %s %s, la política causa "
            "%s, y %s es heredado."),
        size[0], side_names(l, op->naming, SIDES_A), size[1], side_names(l, op->naming, SIDES_B),
        size[2], size[3], size[4]);
    if (terms->has_weights) {
        text_format(t,
                    SAY(" Of what policy makes, the weights alone make %s (on one row, in "
                        "binary64), the rest %s.",
                        " De lo que causa la política, los pesos solos causan %s (sobre una "
                        "misma fila, en binary64), lo demás %s."),
                    number_scientific(terms->largest[TERM_POLICY_WEIGHTS], 2, size[0]),
                    number_scientific(terms->largest[TERM_POLICY_CONTRACT], 2, size[1]));
    }
}

static void say_patch(text *t, lang l, const patch *p)
{
    if (p->state == PATCH_REMOVES) {
        text_format(t,
                    SAY(" With its healthy row on the edge, all %" PRId32
                        " differing ops that depend on no later fault agree.",
                        " Con su fila sana en la arista, coinciden las %" PRId32
                        " operaciones que difieren y no dependen de un fallo posterior."),
                    p->n_removed);
    } else if (p->state == PATCH_DOES_NOT) {
        text_format(t,
                    SAY(" With its healthy row on the edge, %" PRId32 " of %" PRId32
                        " differing ops still differ.",
                        " Con su fila sana en la arista, %" PRId32 " de %" PRId32
                        " operaciones siguen difiriendo."),
                    p->n_differ - p->n_removed, p->n_differ);
    }
    if (p->state != PATCH_UNKNOWN && p->n_next > 0) {
        text_format(t,
                    SAY(" %" PRId32 " more differ because of a later fault.",
                        " Otras %" PRId32 " difieren por un fallo posterior."),
                    p->n_next);
    }
}

/* What the engine gave when the op was put right. */
static void say_patch_run(text *t, lang l, const patch_run *r)
{
    if (!r->is_run) {
        return;
    }
    text_string(t, SAY(" Decoded once more with this op, and the faults before it, put right, ",
                       " Decodificado otra vez con esta operación, y los fallos anteriores, "
                       "corregidos, "));
    if (r->first == STAGE_NONE) {
        text_string(t, SAY("every op has prefill_last's bits",
                           "cada operación tiene los bits de prefill_last"));
    } else {
        text_format(t,
                    SAY("%" PRId32 " ops still differ, first %s",
                        "%" PRId32 " operaciones siguen difiriendo, la primera %s"),
                    r->n_differ, stage_name(r->first));
        if (r->first_layer >= 0) {
            text_format(t, SAY(", layer %" PRId32, ", capa %" PRId32), r->first_layer);
        }
        text_string(t, r->is_next ? SAY(", the next fault", ", el siguiente fallo")
                                  : SAY(", which no fault explains", ", que ningún fallo explica"));
    }
    if (r->top == r->before) {
        text_format(t,
                    SAY("; the next token stays %" PRId32 ".",
                        "; el siguiente token sigue siendo %" PRId32 "."),
                    r->top);
    } else {
        text_format(t,
                    SAY("; the next token is %" PRId32 " instead of %" PRId32 ".",
                        "; el siguiente token es %" PRId32 " en vez de %" PRId32 "."),
                    r->top, r->before);
    }
}

/* The arbiter: binary64 from the stored weights, and the op's rounding bound. */
static void say_arbiter(text *t, lang l, const op_line *op)
{
    for (int s = 0; s < SIDE_COUNT; s++) {
        const op_evidence *e = &op->evidence[s];
        char recorded[NUMBER_MAX], healthy[NUMBER_MAX];
        if (!op->is_accused || !(op->found.sides & 1u << s) || isnan(e->f64_ratio_recorded)) {
            continue;
        }
        bool is_far = isinf(e->f64_ratio_recorded);
        number_scientific(is_far ? 0 : e->f64_ratio_recorded, 2, recorded);
        number_scientific(isinf(e->f64_ratio) ? 0 : e->f64_ratio, 2, healthy);
        text_format(t,
                    SAY(" Against binary64, the row of %s is %s%s times its rounding bound away, "
                        "the healthy replay %s times.",
                        " Frente a binary64, la fila de %s está a %s%s veces su cota de redondeo, "
                        "el recálculo sano a %s veces."),
                    side_names(l, op->naming, 1u << s),
                    is_far ? SAY("more than any ", "más de ") : "", is_far ? "" : recorded,
                    healthy);
    }
}

void say_op_details(text *t, lang l, const op_line *op)
{
    say_arbiter(t, l, op);
    say_terms(t, l, op);
    say_patch(t, l, &op->patch);
    say_patch_run(t, l, &op->patch.run);
}

void say_op_evidence(text *t, lang l, const op_line *op)
{
    const finding *f = &op->found;
    const bool is_bounded = op->evidence[SIDE_A].is_bounded || op->evidence[SIDE_B].is_bounded;
    if (op->is_rounding) {
        text_string(t,
                    SAY(" The operands are the same to the last bit, and each row lies within "
                        "what rounding of its kind can do with them.",
                        " Los operandos son iguales hasta el último bit, y cada fila está dentro "
                        "de lo que su redondeo puede hacer con ellos."));
    } else if (op->is_policy && f->is_hidden) {
        text_string(t,
                    SAY(" The run claims neither our bits nor a class of rounding; this precision "
                        "explains its row.",
                        " La ejecución no promete nuestros bits ni una clase de redondeo; esta "
                        "precisión explica su fila."));
    } else if (op->is_accused && f->cause == CAUSE_WEIGHTS_DIFFER) {
        text_string(t,
                    SAY(" Each side's row is what its own model gives; the files do not hold the "
                        "same weights in two types.",
                        " La fila de cada lado es la que da su propio modelo; los ficheros no "
                        "guardan los mismos pesos en dos tipos."));
    } else if (op->is_policy) {
        text_string(t,
                    SAY(" Each side's row is what its own contract gives on its own operands; on "
                        "the same operands the contracts give two rows.",
                        " La fila de cada lado es la que da su contrato con sus operandos; con "
                        "los mismos operandos los contratos dan dos filas."));
    } else if (f->state == VERDICT_CONFIRMED && is_bounded) {
        text_format(
            t,
            SAY(" Replayed with this change alone (%s), %s lies within twice its calibrated "
                "bound of the record; the healthy op is outside its sound one, and no "
                "hypothesis of another cause fits.",
                " Recalculado solo con este cambio (%s), %s está a menos de dos cotas "
                "calibradas del registro; la operación sana está fuera de su cota segura, "
                "y ninguna hipótesis de otra causa encaja."),
            f->replay_kernel, stage_name(op->name));
    } else if (f->state == VERDICT_CONFIRMED) {
        text_format(t,
                    SAY(" Replayed with this change alone (%s), %s gives the recorded bits; the "
                        "healthy replay does not, and no hypothesis of another cause does.",
                        " Recalculado solo con este cambio (%s), %s da los bits registrados; el "
                        "recálculo sano no los da, ni hipótesis alguna de otra causa."),
                    f->replay_kernel, stage_name(op->name));
    } else if (f->state == VERDICT_SUSPECTED) {
        say_fits(t, l, f);
    }
    say_op_details(t, l, op);
}

/* ---- The whole ------------------------------------------------------------------------------- */

static void say_flip(text *t, lang l, const logit_effect *e)
{
    char gap[NUMBER_MAX], bounds[NUMBER_MAX], largest[NUMBER_MAX], kl[NUMBER_MAX];
    bool is_bounded = isfinite(e->gap_in_bounds[SIDE_A]);
    number_scientific(e->gap[SIDE_A], 2, gap);
    number_scientific(is_bounded ? e->gap_in_bounds[SIDE_A] : 0, 2, bounds);
    number_scientific(e->largest, 2, largest);
    number_scientific(fabs(e->kl), 2, kl);
    if (e->top[SIDE_A] == e->top[SIDE_B]) {
        text_format(t,
                    SAY("The next token stays %" PRId32 " (position %" PRId32
                        "; logits differ by at most %s, its lead is %s, KL %s).",
                        "El siguiente token sigue siendo %" PRId32 " (posición %" PRId32
                        "; los logits difieren a lo sumo en %s, su ventaja es %s, KL %s)."),
                    e->top[SIDE_A], e->position, largest, gap, kl);
        return;
    }
    text_format(t,
                SAY("The next token changes from %" PRId32 " to %" PRId32 " at position %" PRId32
                    ": a %s flip (logits differ by at most %s, the lead was %s%s%s, KL %s).",
                    "El siguiente token cambia de %" PRId32 " a %" PRId32 " en la posición %" PRId32
                    ": un cambio %s (los logits difieren a lo sumo en %s, la ventaja era %s%s%s, "
                    "KL %s)."),
                e->top[SIDE_A], e->top[SIDE_B], e->position,
                effect_is_tie(e) ? SAY("tie", "por empate") : SAY("confident", "con margen"),
                largest, gap,
                is_bounded ? SAY(" or, in bounds of rounding, ", " o, en cotas, ") : "",
                is_bounded ? bounds : "", kl);
}

static void say_origin(text *t, lang l, const logit_effect *e)
{
    if (e->n > 1) {
        text_format(t,
                    SAY(" Of %" PRId32 " tokens whose logits differ, %" PRId32
                        " change the most likely one.",
                        " De %" PRId32 " tokens con logits distintos, %" PRId32
                        " cambian el más probable."),
                    e->n, e->n_changed);
    }
    if (e->has_origin) {
        text_format(t,
                    SAY(" Back from its logits over %" PRId32 " ops that differ, it comes from %s",
                        " Hacia atrás desde sus logits, por %" PRId32
                        " operaciones que difieren, viene de %s"),
                    e->n_on_way, stage_name(e->origin));
        if (e->origin_layer >= 0) {
            text_format(t, SAY(", layer %" PRId32, ", capa %" PRId32), e->origin_layer);
        }
        text_string(t, ".");
    } else if (e->has_earlier) {
        text_string(t, SAY(" Back from its logits, it comes from cache rows of earlier tokens.",
                           " Hacia atrás desde sus logits, viene de filas de la caché de tokens "
                           "anteriores."));
    }
}

void say_effect(text *t, lang l, const op_findings *f)
{
    if (f->effect.is_measured) {
        say_flip(t, l, &f->effect);
        say_origin(t, l, &f->effect);
    }
    say_growth(t, l, f);
}

void say_growth(text *t, lang l, const op_findings *f)
{
    for (int i = 0; i < f->n_growth; i++) {
        const op_growth *g = &f->growth[i];
        char before[NUMBER_MAX], after[NUMBER_MAX], condition[NUMBER_MAX];
        text_format(t, "%s%s",
                    i == 0 ? SAY(" What differs grows most in ", " Lo que difiere crece "
                                                                 "más en ")
                           : SAY(", then in ", "; después en "),
                    stage_name(g->name));
        if (g->layer >= 0) {
            text_format(t, SAY(", layer %" PRId32, ", capa %" PRId32), g->layer);
        }
        text_format(t,
                    SAY(", from %s to %s of the row (channel %" PRId64 " holds %d %%",
                        ", de %s a %s de la fila (el canal %" PRId64 " tiene el %d %%"),
                    number_scientific(g->before, 2, before), number_scientific(g->after, 2, after),
                    g->channel, (int)(100 * g->channel_share + 0.5));
        if (isfinite(g->condition)) {
            text_format(t, SAY("; a sum of condition %s", "; una suma de condición %s"),
                        number_scientific(g->condition, 2, condition));
        }
        if (g->n_head > 0) {
            text_format(
                t,
                SAY("; %" PRId32 " of %" PRId32 " heads", "; %" PRId32 " de %" PRId32 " cabezas"),
                g->n_head_hit, g->n_head);
        }
        text_string(t, i + 1 == f->n_growth ? ")." : ")");
    }
}

static void say_stages(text *t, const op_canaries *c, canary_state state)
{
    const char *separator = "";
    for (stage s = 0; s < STAGE_COUNT; s++) {
        if (c->of[s].state == state && (state != CANARY_ABSENT || c->is_recorded[s])) {
            text_format(t, "%s%s", separator, stage_name(s));
            separator = ", ";
        }
    }
}

void say_canaries(text *t, lang l, const op_canaries *c, bool is_of_rows)
{
    int n[3] = {0, 0, 0}, n_none = 0;
    for (stage s = 0; s < STAGE_COUNT; s++) {
        n[c->of[s].state]++;
        n_none += c->of[s].state == CANARY_ABSENT && c->is_recorded[s];
    }
    text_format(t,
                SAY("Canaries, one wrong value in a copy of one record of a stage: %d planted, "
                    "%d found.",
                    "Canarios, un valor equivocado en una copia de un registro de una etapa: %d "
                    "plantados, %d encontrados."),
                n[CANARY_FOUND] + n[CANARY_MISSED], n[CANARY_FOUND]);
    if (n[CANARY_MISSED] > 0) {
        text_string(t, SAY(" Missed: ", " Inadvertidos: "));
        say_stages(t, c, CANARY_MISSED);
        text_string(t, ".");
    }
    if (n_none > 0) {
        text_string(t, SAY(" None in ", " Ninguno en "));
        say_stages(t, c, CANARY_ABSENT);
        text_string(t, is_of_rows
                           ? SAY(" (all of its pairs differ).", " (difieren todos sus pares).")
                           : SAY(" (not replayed).", " (sin recalcular)."));
    }
}

void say_judged(text *t, lang l, const analysis_prompt *p)
{
    const op_coverage *c = &p->ops.judged;
    if (!c->is_judged) {
        text_string(t, SAY("No model was given: only norms were replayed.",
                           "No se dio modelo: solo se recalcularon las normas."));
        return;
    }
    text_format(t,
                SAY("%" PRId32 " of %" PRId32
                    " op records of both sides were replayed by builds of the definition: %" PRId32
                    " are as recorded (%" PRId32 " of all are held to bounds, the rest to every "
                    "bit); %" PRId32 " read something else than was written.",
                    "%" PRId32 " de %" PRId32
                    " registros de operaciones de ambos lados se recalcularon con compilaciones de "
                    "la definición: %" PRId32 " son como se registraron (%" PRId32
                    " de todos se miden con cotas, los demás bit a bit); %" PRId32
                    " leyeron algo distinto de lo escrito."),
                c->n_replayed, c->n_op, c->n_healthy, c->n_bounded, c->n_broken);
}
