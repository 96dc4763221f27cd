/* sentence.c - what an analysis says, as sentences in English and Spanish.
 *
 * Every sentence is built from fields of the analysis; none is kept ready for an expected
 * outcome. The two languages stand side by side in one expression with the same arguments in the
 * same order, so that they cannot come to say different things. Names of stages, tensors, causes
 * and states are GRETA's vocabulary and stay as they are; phrases of the replay are translated
 * where a translation is known and quoted where not.
 */
#include "report/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SAY(en, es)     (l == LANG_ES ? (es) : (en))
#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

static const char *safe(const char *string, char out[ESCAPED_MAX])
{
    return escape(string, strlen(string), out);
}

const char *layer_text(int32_t layer, char out[LAYER_MAX])
{
    if (layer < 0) {
        return "-";
    }
    snprintf(out, LAYER_MAX, "%" PRId32, layer);
    return out;
}

static const char *who(lang l, unsigned sides)
{
    switch (sides) {
    case SIDES_A:
        return "prefill_last";
    case SIDES_B:
        return "decode0";
    case SIDES_BOTH:
        return SAY("both prefill_last and decode0", "prefill_last y decode0, ambos");
    default:
        return SAY("one side", "uno de los lados");
    }
}

/* "", or " of layer 3" where the layer is another than the reader's. */
static void say_layer_of(text *t, lang l, int32_t layer, int32_t reader)
{
    if (layer >= 0 && layer != reader) {
        text_format(t, SAY(" of layer %" PRId32, " de la capa %" PRId32), layer);
    }
}

/* ---- One norm -------------------------------------------------------------------------------- */

static void say_input_selection(text *t, lang l, const norm_line *norm)
{
    const finding *f = &norm->found;
    const finding_source *s = &f->source;
    const char *reader = stage_name(norm->name);
    if (!s->is_found) {
        text_format(t,
                    SAY("%s reads another row as %s's input than its producer wrote, and no "
                        "captured row equals it",
                        "%s lee como entrada de %s una fila que no es la de su productor, y "
                        "ninguna fila capturada la iguala"),
                    who(l, f->sides), reader);
        return;
    }
    text_format(t, SAY("%s reads %s's input from %s", "%s lee la entrada de %s de %s"),
                who(l, f->sides), reader, stage_name(s->name));
    say_layer_of(t, l, s->layer, norm->layer);
    text_format(t, SAY(" of position %" PRId32, " de la posición %" PRId32), s->position);
}

static void say_numbers(text *t, lang l, const norm_line *norm)
{
    const finding *f = &norm->found;
    char used[NUMBER_MAX], healthy[NUMBER_MAX], quoted[PHRASE_MAX];
    number_f32((float)f->number_used, used);
    number_f32((float)f->number_healthy, healthy);
    text_format(t, SAY("%s computes %s with ", "%s calcula %s con "), who(l, f->sides),
                stage_name(norm->name));
    if (f->number == EVIDENCE_NUMBER_EPS) {
        text_format(t, SAY("eps %s instead of %s", "eps %s en vez de %s"), used, healthy);
    } else if (f->number == EVIDENCE_NUMBER_COUNT) {
        text_format(
            t,
            SAY("a mean over %s values instead of %s", "una media sobre %s valores en vez de %s"),
            used, healthy);
    } else {
        text_format(t, SAY("a wrong number (%s)", "un número equivocado (%s)"),
                    say_phrase(l, f->phrase, quoted));
    }
}

static void say_weights(text *t, lang l, const norm_line *norm)
{
    const finding *f = &norm->found;
    char name[PHRASE_MAX];
    text_format(t, SAY("%s reads for %s ", "%s lee para %s "), who(l, f->sides),
                stage_name(norm->name));
    if (f->weight.kind[0]) {
        text_format(t, SAY("its weights rearranged (%s)", "sus pesos reordenados (%s)"),
                    say_phrase(l, f->weight.kind, name));
    } else if (f->weight.is_other_tensor) {
        text_format(t, SAY("the weights %s instead of its own", "los pesos %s en vez de los suyos"),
                    safe(f->weight.tensor, name));
    } else if (f->weight.is_permutation) {
        text_string(t, SAY("its weights in another order", "sus pesos en otro orden"));
    } else {
        text_string(t, SAY("other weights than the model file holds",
                           "otros pesos que los del fichero del modelo"));
    }
}

void say_norm(text *t, lang l, const norm_line *norm)
{
    const finding *f = &norm->found;
    const char *op = stage_name(norm->name);
    char quoted[PHRASE_MAX];
    bool is_named = f->state == VERDICT_CONFIRMED || f->state == VERDICT_SUSPECTED;
    if (is_named && f->cause == CAUSE_INPUT_SELECTION) {
        say_input_selection(t, l, norm);
    } else if (is_named && f->cause == CAUSE_NORM_STATS) {
        say_numbers(t, l, norm);
    } else if (is_named && f->cause == CAUSE_WEIGHT_LAYOUT) {
        say_weights(t, l, norm);
    } else if (is_named && f->cause == CAUSE_KERNEL_MATH) {
        text_format(
            t, SAY("%s computes %s by another formula (%s)", "%s calcula %s con otra fórmula (%s)"),
            who(l, f->sides), op, say_phrase(l, f->phrase, quoted));
    } else if (is_named && f->cause == CAUSE_ROUNDING) {
        text_format(t,
                    SAY("%s rounds %s in another order (%s)", "%s redondea %s en otro orden (%s)"),
                    who(l, f->sides), op, say_phrase(l, f->phrase, quoted));
    } else if (f->state == VERDICT_EQUAL && f->changed_no_bit) {
        text_format(t,
                    SAY("%s has a wrong operand or number in %s (%s)",
                        "%s tiene un operando o número equivocado en %s (%s)"),
                    who(l, f->sides), op, say_phrase(l, f->phrase, quoted));
    } else if (f->state == VERDICT_EQUAL) {
        text_format(t,
                    SAY("prefill_last and decode0 agree bit for bit in %s (%s)",
                        "prefill_last y decode0 coinciden bit a bit en %s (%s)"),
                    op, say_phrase(l, f->phrase, quoted));
    } else if (f->state == VERDICT_INHERITED) {
        text_format(t,
                    SAY("%s differs only because its input does (%s)",
                        "%s difiere solo porque difiere su entrada (%s)"),
                    op, say_phrase(l, f->phrase, quoted));
    } else {
        text_format(t, SAY("%s is not decided: %s", "%s queda sin decidir: %s"), op,
                    say_phrase(l, f->phrase, quoted));
    }
}

static const char *same_or_not(lang l, double distance)
{
    return distance == 0.0 ? SAY("equal", "iguales") : SAY("different", "distintos");
}

/* What the two sides gave the norm, by the table's numbers: where they part, and where they do
 * not. */
static void say_operands(text *t, lang l, const finding *f)
{
    const norm_numbers *n = &f->numbers;
    char mae[NUMBER_MAX];
    if (isnan(n->input_mae) || n->eps_match < 0 || n->weight_hash_match < 0) {
        return;
    }
    text_format(t,
                SAY(" Between the sides, the inputs are %s",
                    " Entre los lados, los datos de entrada "
                    "son %s"),
                same_or_not(l, n->input_mae));
    if (n->input_mae != 0.0) {
        text_format(t, " (MAE %s)", number_scientific(n->input_mae, 3, mae));
    }
    text_format(t,
                SAY(", the weights read are %s, and the eps given are %s.",
                    ", los pesos leídos son %s, y los eps dados son %s."),
                same_or_not(l, !n->weight_hash_match), same_or_not(l, !n->eps_match));
}

static void say_eps(text *t, lang l, const finding *f)
{
    char low[NUMBER_MAX], high[NUMBER_MAX];
    if (f->eps_min > f->eps_max || f->number != EVIDENCE_NUMBER_EPS) {
        return;
    }
    number_f32((float)f->eps_min, low);
    number_f32((float)f->eps_max, high);
    text_format(t,
                SAY(" Solved from the recorded inverse rms, eps lies between %s and %s.",
                    " Resuelto a partir del rms inverso registrado, eps está entre %s y %s."),
                low, high);
}

static void say_source(text *t, lang l, const norm_line *norm)
{
    const finding_source *s = &norm->found.source;
    if (norm->found.cause != CAUSE_INPUT_SELECTION || !s->is_found) {
        return;
    }
    text_format(t,
                SAY(" The row was captured in pass %" PRId64 " (%s, row %" PRId32 ").",
                    " La fila se capturó en la pasada %" PRId64 " (%s, fila %" PRId32 ")."),
                s->pass, s->phase == GRETA_PHASE_DECODE ? "decode" : "prefill", s->row);
    if (s->in_other_trace) {
        text_string(t, SAY(" It is only in the trace of the other side.",
                           " Está solo en la traza del otro lado."));
    }
    if (s->n_match > 1) {
        text_format(t,
                    SAY(" %" PRId32 " captured rows have this content.",
                        " %" PRId32 " filas capturadas tienen este contenido."),
                    s->n_match);
    }
}

/* The first hypothesis of each cause that gives the recorded bits, and how many more. */
static void say_fits(text *t, lang l, const finding *f)
{
    char quoted[PHRASE_MAX];
    for (cause c = CAUSE_NONE; c < CAUSE_COUNT; c++) {
        const evidence *first = NULL;
        int32_t n = 0;
        for (int32_t i = 0; i < f->n_fit; i++) {
            if (f->fit[i]->cause == c) {
                first = first ? first : f->fit[i];
                n++;
            }
        }
        if (first) {
            text_format(t, SAY(" Fits: %s (%s", " Encaja: %s (%s"), cause_name(c),
                        say_phrase(l, first->phrase, quoted));
            if (n > 1) {
                text_format(t, SAY("; and %" PRId32 " more", "; y %" PRId32 " más"), n - 1);
            }
            text_string(t, ").");
        }
    }
}

void say_norm_details(text *t, lang l, const norm_line *norm)
{
    const finding *f = &norm->found;
    if (f->state == VERDICT_CONFIRMED) {
        text_format(t,
                    SAY(" Replayed with this change alone (%s), %s gives the recorded bits; the "
                        "healthy replay does not, and no hypothesis of another cause does.",
                        " Recalculado solo con este cambio (%s), %s da los bits registrados; el "
                        "recálculo sano no los da, ni hipótesis alguna de otra causa."),
                    f->replay_kernel, stage_name(norm->name));
    }
    if (f->state == VERDICT_SUSPECTED) {
        say_fits(t, l, f);
    }
    say_operands(t, l, f);
    say_source(t, l, norm);
    if (f->is_hidden && f->cause == CAUSE_NORM_STATS) {
        text_string(t,
                    SAY(" The record holds the right number: the kernel used another one than it "
                        "was given.",
                        " El registro tiene el número correcto: el kernel usó otro que el que "
                        "recibió."));
    }
    say_eps(t, l, f);
    if (f->is_inherited_too) {
        text_string(t, SAY(" Beside this, the rows that the two sides should have read differ.",
                           " Además, difieren las filas que los dos lados debían leer."));
    }
}

/* ---- One prompt ------------------------------------------------------------------------------ */

static void say_mismatch(text *t, lang l, const analysis_prompt *p)
{
    char a[ESCAPED_MAX], b[ESCAPED_MAX];
    text_string(
        t, SAY("prefill_last and decode0 are no pair: ", "prefill_last y decode0 no son un par: "));
    for (int i = 0; i < p->n_mismatch; i++) {
        const finding_mismatch *m = &p->mismatch[i];
        text_format(t, SAY("%s%s %s against %s", "%s%s %s frente a %s"), i ? ", " : "", m->field,
                    safe(m->value[SIDE_A], a), safe(m->value[SIDE_B], b));
    }
}

static void say_why(text *t, lang l, const analysis_prompt *p)
{
    switch (p->why) {
    case REASON_ONE_TOKEN:
        text_string(t, SAY("the prompt has one token: no prefill stands before the token to decode "
                           "(2 tokens or more)",
                           "el prompt tiene un solo token: ningún prefill precede al token que se "
                           "decodifica (2 tokens o más)"));
        break;
    case REASON_CHUNK_OF_ONE:
        text_format(t,
                    SAY("with chunks of %" PRId64 " the prefill pass of the last of %" PRId64
                        " tokens has one row, as decode has: one path, nothing is compared "
                        "(2 rows or more; choose another chunk)",
                        "con trozos de %" PRId64 " la pasada de prefill del último de %" PRId64
                        " tokens tiene una fila, como decode: un solo camino, nada se compara "
                        "(2 filas o más; elija otro tamaño de trozo)"),
                    p->n_chunk, p->n_token);
        break;
    case REASON_PLANT_ROWS:
        text_format(
            t,
            SAY("with chunks of %" PRId64 " the last prefill pass before decode, of %" PRId64
                " tokens, has too few rows for the fault that was asked for (2 rows or "
                "more)",
                "con trozos de %" PRId64 " la última pasada de prefill antes de decode, de %" PRId64
                " tokens, tiene muy pocas filas para el fallo pedido (2 filas o "
                "más)"),
            p->n_chunk, p->n_token);
        break;
    case REASON_NO_PREFILL:
        text_string(t,
                    SAY("the traces hold no prefill row", "las trazas no tienen fila de prefill"));
        break;
    case REASON_NO_DECODE:
        text_string(t, SAY("the traces hold no decode row", "las trazas no tienen fila de decode"));
        break;
    case REASON_INCOMPLETE:
        text_string(t, SAY("a trace ended early, and what was measured agrees",
                           "una traza terminó antes de tiempo, y lo medido coincide"));
        break;
    case REASON_UNMEASURED:
        text_format(t,
                    SAY("%zu stages were not measured on both sides",
                        "%zu etapas no se midieron en ambos lados"),
                    p->n_unmeasured);
        break;
    case REASON_TRACING:
        text_string(t, SAY("decode0's logits with tracing on are not those with tracing off",
                           "los logits de decode0 con traza no son los que da sin traza"));
        break;
    case REASON_CANARY:
        text_string(t, SAY("a difference of 1 ulp, planted in a copy of the records, was not found",
                           "no se encontró una diferencia de 1 ulp plantada en una copia de los "
                           "registros"));
        break;
    default:
        say_mismatch(t, l, p);
    }
}

/* "layer 0, position 12" */
static void say_place(text *t, lang l, int32_t layer, int32_t position)
{
    if (layer >= 0) {
        text_format(t, SAY("layer %" PRId32 ", ", "capa %" PRId32 ", "), layer);
    }
    text_format(t, SAY("position %" PRId32, "posición %" PRId32), position);
}

static void say_relation(text *t, lang l, const analysis_prompt *p, const finding *f)
{
    bool is_found = f->cause == CAUSE_INPUT_SELECTION && f->source.is_found;
    if (is_found && f->source.position == p->side[SIDE_B].position - 1) {
        text_string(t, SAY(" (the previous token)", " (el token anterior)"));
    } else if (is_found && f->source.position == p->side[SIDE_B].position) {
        text_string(t, SAY(" (the same token)", " (el mismo token)"));
    }
}

/* The answer of one prompt, without its name. */
static void say_answer(text *t, lang l, const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    const op_line *op = analysis_decisive_op(p);
    if (p->why != REASON_NONE) {
        say_why(t, l, p);
    } else if (norm) {
        say_norm(t, l, norm);
        say_relation(t, l, p, &norm->found);
    } else if (op) {
        say_op(t, l, op);
        say_relation(t, l, p, &op->found);
    } else if (p->first == p->n_stage) {
        text_string(t, SAY("prefill_last and decode0 agree bit for bit",
                           "prefill_last y decode0 coinciden bit a bit"));
    } else {
        text_format(t,
                    SAY("prefill_last and decode0 differ first in %s, and without a model only "
                        "norms are judged",
                        "prefill_last y decode0 difieren primero en %s, y sin modelo solo se "
                        "juzgan las normas"),
                    stage_name(p->stage[p->first].name));
    }
}

void say_prompt(text *t, lang l, const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    const op_line *op = analysis_decisive_op(p);
    say_answer(t, l, p);
    if (p->why == REASON_NONE && (norm || op || p->first < p->n_stage)) {
        int32_t layer = norm ? norm->layer : op ? op->layer : p->stage[p->first].layer;
        text_string(t, ": ");
        say_place(t, l, layer, p->side[SIDE_B].position);
        text_string(t, "; ");
        if (p->state == VERDICT_CONFIRMED || p->state == VERDICT_SUSPECTED) {
            text_format(t, "%s, ", cause_name(p->cause));
        }
        text_string(t, verdict_state_name(p->state));
    } else if (p->verdict == GRETA_NO_VERDICT) {
        text_format(t, "; %s", verdict_state_name(p->state));
    }
}

void say_others(text *t, lang l, const analysis_prompt *p, const char *lead)
{
    for (size_t k = 0; k < p->n_norm && p->why == REASON_NONE; k++) {
        const norm_line *norm = &p->norm[k];
        bool is_plain = norm->found.state == VERDICT_EQUAL && !norm->found.changed_no_bit;
        if (norm->is_decisive || is_plain || norm->found.state == VERDICT_INHERITED) {
            continue;
        }
        text_string(t, lead);
        say_norm(t, l, norm);
        text_string(t, ": ");
        say_place(t, l, norm->layer, p->side[SIDE_B].position);
        text_format(t, "; %s\n", analysis_bucket(norm->found.state, norm->found.cause));
    }
    for (size_t k = 0; k < p->ops.n_op && p->why == REASON_NONE; k++) {
        const op_line *op = &p->ops.op[k];
        bool is_norm = strcmp(op->kind, "rms_norm") == 0;
        if (op->is_decisive || is_norm || op->found.state == VERDICT_INHERITED) {
            continue;
        }
        text_string(t, lead);
        say_op(t, l, op);
        text_string(t, ": ");
        say_place(t, l, op->layer, p->side[SIDE_B].position);
        text_format(t, "; %s\n", analysis_bucket(op->found.state, op->found.cause));
    }
}

/* ---- The whole ------------------------------------------------------------------------------- */

/* Whether two prompts have the same answer but for token and position. */
static bool is_alike(const analysis_prompt *a, const analysis_prompt *b)
{
    bool has_first = a->first < a->n_stage, same_first = has_first == (b->first < b->n_stage);
    if (same_first && has_first) {
        const stage_line *x = &a->stage[a->first], *y = &b->stage[b->first];
        same_first = x->name == y->name && x->layer == y->layer;
    }
    return a->verdict == b->verdict && a->state == b->state && a->cause == b->cause &&
           a->why == b->why && same_first;
}

/* The names of the prompts like `p` (or unlike it, with `not`), joined by commas; their number. */
static size_t say_names(text *t, const analysis *a, const analysis_prompt *p, bool alike)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_prompt; i++) {
        const analysis_prompt *q = &a->prompt[i];
        if (q != p && is_alike(p, q) == alike) {
            text_format(t, "%s%s", n++ ? ", " : "", q->id);
        }
    }
    return n;
}

static void say_aligned(text *t, lang l, const analysis *a, const analysis_prompt *p)
{
    text others = {0};
    size_t n = say_names(&others, a, p, true);
    text_format(t,
                SAY("prefill_last and decode0 agree bit for bit on %s%s%s: %zu stages, each with "
                    "the same bits on both sides.",
                    "prefill_last y decode0 coinciden bit a bit en %s%s%s: %zu etapas, cada una "
                    "con los mismos bits en ambos lados."),
                p->id, n ? ", " : "", n ? others.data : "", p->n_equal);
    text_free(&others);
}

void say_headline(text *t, lang l, const analysis *a)
{
    const analysis_prompt *p = analysis_worst(a);
    text alike = {0}, unlike = {0};
    if (!p) {
        text_string(t, SAY("No verdict: there is no trace to analyse.",
                           "Sin veredicto: no hay traza que analizar."));
        return;
    }
    if (p->verdict == GRETA_OK) {
        say_aligned(t, l, a, p);
        return;
    }
    if (p->verdict == GRETA_NO_VERDICT) {
        text_string(t, SAY("no verdict: ", "sin veredicto: "));
    }
    text_format(t, "%s: ", p->id);
    say_prompt(t, l, p);
    if (say_names(&alike, a, p, true)) {
        text_format(t, SAY("; the same on %s", "; lo mismo en %s"), alike.data);
    }
    if (say_names(&unlike, a, p, false)) {
        text_format(t, SAY("; otherwise on %s", "; distinto en %s"), unlike.data);
    }
    text_string(t, ".");
    text_free(&alike);
    text_free(&unlike);
}

void say_coverage(text *t, lang l, const analysis_prompt *p)
{
    size_t n = p->n_equal + p->n_differ;
    text_format(t,
                SAY("%zu of %zu stages were measured on both sides: %zu are equal bit for bit, %zu "
                    "differ.",
                    "%zu de %zu etapas se midieron en ambos lados: %zu son iguales bit a bit, %zu "
                    "difieren."),
                n, p->n_stage, p->n_equal, p->n_differ);
}

void say_instrument(text *t, lang l, const analysis_prompt *p)
{
    char layer[LAYER_MAX];
    if (p->unrepeated.is_found) {
        text_format(t,
                    SAY("decode0 does not repeat: run again, %s (layer %s) gives another row. ",
                        "decode0 no se repite: otra ejecución da otra fila en %s (capa %s). "),
                    stage_name(p->unrepeated.name), layer_text(p->unrepeated.layer, layer));
    } else if (p->tracing != TRACING_UNCHECKED) {
        text_string(t,
                    p->tracing == TRACING_SAME_LOGITS
                        ? SAY("decode0's logits with tracing on equal those with tracing off, bit "
                              "for bit. ",
                              "Los logits de decode0 con traza y sin ella son iguales, bit a bit. ")
                        : SAY("decode0's logits with tracing on differ from those with tracing "
                              "off. ",
                              "Los logits de decode0 con traza difieren de los que da sin ella. "));
    } else {
        text_string(t, SAY("Whether tracing changed the run cannot be told from its traces. ",
                           "De las trazas no se deduce si trazar cambió la ejecución. "));
    }
    if (p->canary.state == CANARY_ABSENT) {
        text_string(t, SAY("No canary was planted: no stage is equal and kept on both sides.",
                           "No se plantó canario: ninguna etapa es igual y está guardada en ambos "
                           "lados."));
    } else {
        text_format(t,
                    SAY("A canary of 1 ulp in a copy of %s, layer %s, value %" PRId64 ", was %s.",
                        "Un canario de 1 ulp en una copia de %s, capa %s, valor %" PRId64 ", %s."),
                    stage_name(p->canary.name), layer_text(p->canary.layer, layer), p->canary.index,
                    p->canary.state == CANARY_FOUND ? SAY("found", "se encontró")
                                                    : SAY("missed", "pasó inadvertido"));
    }
    if (p->ops.judged.is_judged) {
        text_string(t, " ");
        say_canaries(t, l, &p->ops.canaries, false);
    }
}

static bool has_stage(const analysis_prompt *p, stage name)
{
    for (size_t i = 0; i < p->n_stage; i++) {
        if (p->stage[i].name == name) {
            return true;
        }
    }
    return false;
}

void say_not_seen(text *t, lang l, const analysis_prompt *p)
{
    text_string(t, SAY("Only this token was compared; of the others, hashes of what was written.",
                       "Solo se comparó este token; de los demás, hashes de lo escrito."));
    if (!p->ops.judged.is_judged) {
        text_string(t, SAY(" Only norms were replayed: other ops were held against each other, "
                           "not against their definition.",
                           " Solo se recalcularon las normas: las demás operaciones se cotejaron "
                           "entre sí, no con su definición."));
    }
    if (!has_stage(p, STAGE_SCORES) && !has_stage(p, STAGE_PROBS) && p->n_stage > 0) {
        text_string(t,
                    SAY(" Scores and probs lie inside attention, whose output was compared.",
                        " Scores y probs quedan dentro de la atención, cuya salida se comparó."));
    }
}

void say_side(text *t, lang l, const analysis_side *s)
{
    char file[ESCAPED_MAX];
    if (!s->is_present) {
        text_string(t, SAY("absent", "ausente"));
        return;
    }
    text_format(t,
                SAY("token %" PRId32 " at position %" PRId32 ", pass %" PRId64 ", row %" PRId32
                    " of %" PRId64 ", %s",
                    "token %" PRId32 " en la posición %" PRId32 ", pasada %" PRId64
                    ", fila %" PRId32 " de %" PRId64 ", %s"),
                s->token, s->position, s->pass, s->row, s->chunk_rows, safe(s->file, file));
}

static void say_step_of_cause(text *t, lang l, const analysis_prompt *p, const norm_line *norm)
{
    const char *wrong = who(l, norm->found.sides), *op = stage_name(norm->name);
    switch (p->cause) {
    case CAUSE_INPUT_SELECTION:
        text_format(
            t,
            SAY("In %s, make %s read the row that its producer wrote for the token at hand: "
                "check the buffer, and the row or offset chosen in it.",
                "En %s, hacer que %s lea la fila que su productor escribió para el token "
                "en curso: revisar el búfer, y la fila o el offset elegidos en él."),
            wrong, op);
        break;
    case CAUSE_NORM_STATS:
        text_format(t,
                    SAY("In %s, give %s the number of the model's metadata, and check that the "
                        "kernel uses the one it is given.",
                        "En %s, dar a %s el número de los metadatos del modelo, y comprobar que el "
                        "kernel usa el que recibe."),
                    wrong, op);
        break;
    case CAUSE_WEIGHT_LAYOUT:
        text_format(t,
                    SAY("In %s, check which tensor %s reads, from which offset and with which "
                        "stride.",
                        "En %s, revisar qué tensor lee %s, desde qué offset y con qué paso."),
                    wrong, op);
        break;
    default:
        text_format(t,
                    SAY("In %s, compare the kernel of %s with the definition of the op.",
                        "En %s, comparar el kernel de %s con la definición de la operación."),
                    wrong, op);
    }
}

void say_next_step(text *t, lang l, const analysis_prompt *p)
{
    const norm_line *norm = analysis_decisive(p);
    if (p->verdict == GRETA_OK) {
        text_string(t,
                    SAY("Nothing to mend between these two paths. That both agree does not prove "
                        "them right: compare with an independent reference.",
                        "Nada que corregir entre estos dos caminos. Que coincidan no prueba que "
                        "sean correctos: comparar con una referencia independiente."));
    } else if (p->state == VERDICT_NOT_COMPARABLE) {
        text_string(t,
                    SAY("Pair the same logical token in one configuration on both sides (mode E1).",
                        "Emparejar el mismo token lógico con una sola configuración en ambos lados "
                        "(modo E1)."));
    } else if (p->why == REASON_TRACING || p->why == REASON_CANARY) {
        text_string(t, SAY("Mend the instrument before trusting any figure above.",
                           "Corregir el instrumento antes de fiarse de cifra alguna de arriba."));
    } else if (p->why != REASON_NONE) {
        text_string(t, SAY("Record what is missing, and isolate again.",
                           "Registrar lo que falta, y aislar de nuevo."));
    } else if (norm && (p->state == VERDICT_CONFIRMED || p->state == VERDICT_SUSPECTED)) {
        say_step_of_cause(t, l, p, norm);
    } else {
        text_string(
            t, SAY("Look at the first diverging stage: its operands are equal or known, its "
                   "output is not.",
                   "Mirar la primera etapa que diverge: sus operandos son iguales o conocidos, "
                   "su salida no."));
    }
}

void say_configuration(text *t, const trace_header *h)
{
    char name[ESCAPED_MAX], kernel[ESCAPED_MAX], kv[ESCAPED_MAX], act[ESCAPED_MAX];
    text_format(t, "model %s (%016" PRIx64 "), ", safe(h->model_name, name), h->model_hash);
    text_format(t, "kernel %s, arithmetic %d, kv %s, act %s, chunk %" PRId32 ", threads %" PRId32,
                safe(h->kernel, kernel), h->arithmetic, safe(h->kv, kv), safe(h->act, act),
                h->n_chunk, h->n_thread);
}
