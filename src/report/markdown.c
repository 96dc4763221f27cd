/* markdown.c - report.md: the analysis as a bilingual report, in the shape of the reference report.
 *
 * Each section stands in Spanish and in English; both are written by one function, from one
 * analysis, with the sentences of sentence.c, and so say the same. What is neither a sentence nor a
 * number is a title.
 */
#include "report/tables.h"

#define SAY(en, es) (l == LANG_ES ? (es) : (en))

static void write_names(text *t, const analysis *a)
{
    for (size_t i = 0; i < a->n_prompt; i++) {
        text_format(t, "%s`%s`", i ? ", " : "", a->prompt[i].id);
    }
}

static void write_summary(text *t, lang l, const analysis *a)
{
    const analysis_prompt *worst = analysis_worst(a);
    text_format(t, "## %s\n", SAY("Executive Summary (EN)", "Resumen Ejecutivo (ES)"));
    text_string(
        t, SAY("Goal: tell whether `prefill_last` and `decode0`, one logical token on two paths "
               "through the engine, have the same bits in every stage; and if not, where they "
               "part first, and why. Result: **",
               "Objetivo: decir si `prefill_last` y `decode0`, un mismo token lógico por dos "
               "caminos del motor, tienen los mismos bits en cada etapa; y si no, dónde se "
               "separan primero, y por qué. Resultado: **"));
    say_headline(t, l, a);
    text_string(t, "**");
    const norm_line *norm = worst ? analysis_decisive(worst) : NULL;
    if (norm) {
        say_norm_details(t, l, norm);
    }
    text_string(t, "\n\n");
}

static void write_mode(text *t, lang l, const analysis *a)
{
    switch (a->mode) {
    case ANALYSIS_MODE_FRESH:
        text_string(t,
                    SAY("- Mode: E1. One session prefills tokens 0..n-1; a fresh one prefills "
                        "0..n-2 and decodes token n-1.\n",
                        "- Modo: E1. Una sesión hace prefill de los tokens 0..n-1; otra nueva, de "
                        "0..n-2, y decodifica el token n-1.\n"));
        break;
    case ANALYSIS_MODE_TRUNCATE:
        text_string(
            t, SAY("- Mode: E1 truncate. One session prefills tokens 0..n-1, drops the last "
                   "row, and decodes token n-1 again.\n",
                   "- Modo: E1 truncate. Una sesión hace prefill de los tokens 0..n-1, descarta "
                   "la última fila y decodifica de nuevo el token n-1.\n"));
        break;
    case ANALYSIS_MODE_E0:
        text_string(t,
                    SAY("- Mode: E0. One session prefills tokens 0..n-1 and decodes the next, "
                        "generated token.\n",
                        "- Modo: E0. Una sesión hace prefill de los tokens 0..n-1 y decodifica el "
                        "token siguiente, generado.\n"));
        break;
    default:
        text_string(t, SAY("- Mode: traces written before; no model was run.\n",
                           "- Modo: trazas escritas antes; no se ejecutó modelo alguno.\n"));
    }
}

static void write_method(text *t, lang l, const analysis *a)
{
    text_format(t, "## %s\n", SAY("Method (EN)", "Metodología (ES)"));
    write_mode(t, l, a);
    text_string(t, SAY("- Prompts: ", "- Prompts: "));
    write_names(t, a);
    text_format(
        t,
        SAY(".\n- First table: `ffn_norm` of layers %s. Second table: every traced stage in "
            "execution order.\n",
            ".\n- Primera tabla: `ffn_norm` de las capas %s. Segunda tabla: cada etapa "
            "trazada en orden de ejecución.\n"),
        a->layers);
    text_string(
        t, SAY("- Records are paired by the hash of the token ids up to the token, position, "
               "layer and stage. The tolerance is zero bits. Every op is replayed on what it "
               "should have read; one that is wrong also as it read, and once per hypothesis; a "
               "cause is CONFIRMED when its replay alone gives the recorded bits, and patching it "
               "removes what differs behind it.\n",
               "- Los registros se emparejan por el hash de los ids de token hasta el token, "
               "posición, capa y etapa. La tolerancia es de cero bits. Cada operación se recalcula "
               "con lo que debía leer; una que falla, también como leyó y una vez por hipótesis; "
               "una causa queda CONFIRMED cuando solo su recálculo da los bits registrados, y "
               "corregirla quita lo que difiere detrás.\n"));
    for (size_t i = 0; i < a->n_prompt; i++) {
        for (int s = 0; s < SIDE_COUNT; s++) {
            const analysis_side *side_line = &a->prompt[i].side[s];
            text_format(t, "- `%s`, %s: ", a->prompt[i].id,
                        s == SIDE_A ? "prefill_last" : "decode0");
            say_side(t, l, side_line);
            if (side_line->is_present) {
                text_string(t, "; ");
                say_configuration(t, &side_line->header);
            }
            text_string(t, ".\n");
        }
    }
    text_string(t, "\n");
}

static void write_interpretation(text *t, lang l, const analysis *a)
{
    const analysis_prompt *seen = NULL;
    text_format(t, "\n**%s:**\n", SAY("Interpretation", "Interpretación"));
    for (size_t i = 0; i < a->n_prompt; i++) {
        const analysis_prompt *p = &a->prompt[i];
        const norm_line *norm = analysis_decisive(p);
        text_format(t, "- `%s`: ", p->id);
        say_prompt(t, l, p);
        text_string(t, ".");
        if (norm) {
            say_norm_details(t, l, norm);
        }
        const op_line *op = analysis_decisive_op(p);
        if (op) {
            (norm ? say_op_details : say_op_evidence)(t, l, op);
        }
        if (p->ops.effect.is_measured) {
            text_string(t, " ");
            say_effect(t, l, &p->ops);
        }
        if (p->n_stage > 0) {
            text_string(t, " ");
            say_coverage(t, l, p);
            text_string(t, " ");
            say_judged(t, l, p);
            text_string(t, " ");
            say_instrument(t, l, p);
            seen = seen ? seen : p;
        }
        text_string(t, "\n");
        say_others(t, l, p, SAY("  - also: ", "  - además: "));
    }
    if (seen) {
        text_string(t, "- ");
        say_not_seen(t, l, seen);
        text_string(t, "\n");
    }
    text_string(
        t, SAY("- Pointers and offsets are shown and decide nothing: prefill and decode use "
               "other buffers and rows by design.\n\n",
               "- Punteros y offsets se muestran y no deciden nada: prefill y decode usan otros "
               "búferes y filas por diseño.\n\n"));
}

static void write_results(text *t, lang l, const analysis *a)
{
    text_format(t, "## %s\n", SAY("Results (EN)", "Resultados (ES)"));
    text_string(t, SAY("Source: `analysis.tsv`, `analysis.json`\n\n",
                       "Fuente: `analysis.tsv`, `analysis.json`\n\n"));
    table_norms(t, a, TABLE_MARKDOWN);
    text_string(t,
                SAY("\n`sumsq` is the sum of squares of the input, where the reference report held "
                    "its mean.\n",
                    "\n`sumsq` es la suma de los cuadrados de la entrada; en el informe de "
                    "referencia era su media.\n"));
    for (size_t i = 0; i < a->n_prompt; i++) {
        const analysis_prompt *p = &a->prompt[i];
        if (p->first < p->n_stage) {
            text_format(t,
                        SAY("\nStages of `%s` around the first divergence:\n\n",
                            "\nEtapas de `%s` en torno a la primera divergencia:\n\n"),
                        p->id);
            table_window(t, p, TABLE_MARKDOWN);
        }
    }
    write_interpretation(t, l, a);
}

static void write_conclusion(text *t, lang l, const analysis *a)
{
    text_format(t, "## %s\n", SAY("Conclusion (EN)", "Conclusión (ES)"));
    say_headline(t, l, a);
    text_format(t, SAY(" Exit code %d: %s.\n\n", " Código de salida %d: %s.\n\n"), (int)a->verdict,
                a->verdict == GRETA_OK ? SAY("aligned", "alineado")
                : a->verdict == GRETA_FAULT
                    ? SAY("a fault, or a differing bit where bits are promised",
                          "un fallo, o un bit distinto donde se prometen bits")
                    : SAY("no verdict", "sin veredicto"));
}

static void write_next_step(text *t, lang l, const analysis *a)
{
    const analysis_prompt *worst = analysis_worst(a);
    text_format(t, "## %s\n", SAY("Next step (EN)", "Próximo paso (ES)"));
    if (worst) {
        say_next_step(t, l, worst);
    } else {
        text_string(t, SAY("Write traces first.", "Escribir trazas primero."));
    }
    text_string(t, "\n");
}

static void write_both(text *t, void (*section)(text *, lang, const analysis *), const analysis *a)
{
    section(t, LANG_ES, a);
    section(t, LANG_EN, a);
}

void report_markdown(text *t, const analysis *a)
{
    text_string(t, "# GRETA isolate - prefill_last / decode0: ");
    write_names(t, a);
    text_string(t, "\n\n");
    write_both(t, write_summary, a);
    text_string(t, "---\n\n");
    write_both(t, write_method, a);
    text_string(t, "---\n\n");
    write_both(t, write_results, a);
    text_string(t, "---\n\n## Comandos (ES) / Commands (EN)\n```bash\n");
    for (size_t i = 0; i < a->n_command; i++) {
        text_format(t, "%s\n", a->command[i]);
    }
    text_string(t, "```\n\n---\n\n");
    write_both(t, write_conclusion, a);
    text_string(t, "---\n\n");
    write_next_step(t, LANG_ES, a);
    text_string(t, "\n");
    write_next_step(t, LANG_EN, a);
}
