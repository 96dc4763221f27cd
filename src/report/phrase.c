/* phrase.c - the short phrases of replay and classifier, as a reader of either language knows them.
 *
 * Those rooms speak English, and of run A and run B. Here the runs get their names, and for Spanish
 * every known piece is exchanged, longest first; what is not known stays as it is.
 */
#include "report/report.h"

#include <stdio.h>
#include <string.h>

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* Pieces of what replay and classifier say (replay/norm_replay.c, norm_variant.c, explain/norm*.c),
 * and the same in Spanish. */
static const struct {
    const char *en, *es;
} pieces[] = {
    {"sum of squares for their mean", "la suma de los cuadrados en vez de su media"},
    {"no root", "sin raíz"},
    {"eps outside the root", "eps fuera de la raíz"},
    {"not normalised", "sin normalizar"},
    {"mean subtracted", "con la media restada"},
    {"mean subtracted (summed in binary64)", "con la media restada (sumada en binary64)"},
    {"mean subtracted (summed in index order)", "con la media restada (sumada en orden)"},
    {"mean subtracted after the root", "con la media restada tras la raíz"},
    {"1 + weight for weight", "1 + peso en vez de peso"},
    {"weight missing", "sin el peso"},
    {"weight applied twice", "con el peso aplicado dos veces"},
    {"weights reversed", "pesos en orden inverso"},
    {"halves of the weights swapped", "mitades de los pesos intercambiadas"},
    {"weights at index 2i mod n", "pesos en el índice 2i mod n"},
    {"weights at index i/2", "pesos en el índice i/2"},
    {"weights rotated by 1", "pesos rotados en 1"},
    {"weights rotated by -1", "pesos rotados en -1"},
    {"neighbours of the weights swapped", "pesos vecinos intercambiados"},
    {"first weight for all", "el primer peso para todos"},
    {"squares summed in index order", "cuadrados sumados en orden"},
    {"squares summed in reverse order", "cuadrados sumados en orden inverso"},
    {"squares summed pairwise", "cuadrados sumados por pares"},
    {"squares summed in 4 lanes", "cuadrados sumados en 4 carriles"},
    {"squares summed in 8 lanes", "cuadrados sumados en 8 carriles"},
    {"squares summed in 16 lanes", "cuadrados sumados en 16 carriles"},
    {"squares summed in 32 lanes", "cuadrados sumados en 32 carriles"},
    {"squares summed in binary64", "cuadrados sumados en binary64"},
    {"squares fused into their sum", "cuadrados fusionados en su suma"},
    {"last 64 squares left out", "sin los últimos 64 cuadrados"},
    {", second ones first", ", primero los segundos"},
    {"subnormals flushed to zero", "subnormales puestos a cero"},
    {"squares summed in a fused chain", "cuadrados sumados en una cadena fusionada"},
    {"squares summed in 8 fused chains", "cuadrados sumados en 8 cadenas fusionadas"},
    {"inverse rms and weight multiplied first", "rms inverso y peso multiplicados primero"},
    {"row and weight multiplied first", "fila y peso multiplicados primero"},
    {"row divided by its rms", "fila dividida por su rms"},
    {" for ", " en vez de "},
    {"mean over ", "media sobre "},
    {"row of ", "fila de "},
    {", for that of ", ", en vez de la de "},
    {"a row that no record shows for that of ",
     "una fila que ningún registro muestra, en vez de la de "},
    {" layer ", " capa "},
    {", position ", ", posición "},
    {" of the other run", " de la otra ejecución"},
    {" differs already", " difiere ya"},
    {" differs between the runs", " difiere entre las ejecuciones"},
    {" differs between the model files", " difiere entre los ficheros del modelo"},
    {", and no record says what the file holds", ", y ningún registro dice qué tiene el fichero"},
    {", and nothing says which is right", ", y nada dice cuál es el correcto"},
    {"; which changes no bit", "; no cambia ningún bit"},
    {"; which alone does not give its output", "; que por sí solo no da su salida"},
    {"; yet the output is the healthy one", "; pero la salida es la sana"},
    {"other weights than the model file's", "otros pesos que los del fichero del modelo"},
    {"the weights of the model file in another order", "los pesos del fichero en otro orden"},
    {"an output that no formula tried gives from its operands",
     "una salida que ninguna fórmula probada da con sus operandos"},
    {"the output that its operands give", "la salida que dan sus operandos"},
    {"no bit differs", "no difiere ningún bit"},
    {"operands differ, and no bit of the output", "difieren operandos, y ningún bit de la salida"},
    {"operands differ, outputs do not, and replay tells them apart",
     "difieren los operandos, no las salidas, y el recálculo las distingue"},
    {"operands differ, the output does not", "difieren los operandos, no la salida"},
    {"equal operands replay to one output, and two were recorded",
     "operandos iguales dan una sola salida al recalcular, y se registraron dos"},
    {"equal operands and numbers, two outputs", "operandos y números iguales, dos salidas"},
    {"recorded sums and hashes that are not those of the recorded values",
     "sumas y hashes registrados que no son los de los valores registrados"},
    {"no record of what ", "sin registro de lo que "},
    {" wrote in ", " escribió en "},
    {"no record of ", "sin registro de "},
    {"not replayed", "sin recalcular"},
    {"all values of ", "todos los valores de "},
    {"the row it read", "la fila que leyó"},
    {"the weights it read", "los pesos que leyó"},
    {"its output", "su salida"},
    {"the row it should have read", "la fila que debía leer"},
    {"the weights in the model file", "los pesos del fichero del modelo"},
    {" are not kept", " no están guardados"},
    {"weights ", "pesos "},
    {" of the row", " de la fila"},
    {" apart, most in value ", " de distancia, más en el valor "},
    {" of row ", " de la fila "},
    {" times what rounding to ", " veces lo que puede hacer el redondeo a "},
    {" may do", ""},
    {" by ", " por "},
    {" and ", " y "},
    {" in ", " en "},
};

/* The longest piece that `at` starts with, as `l` says it; *length is 0 if there is none. The
 * classifier calls the sides run A and run B. */
static const char *piece_at(lang l, side_naming naming, const char *at, size_t *length)
{
    bool is_run = strncmp(at, "run A", 5) == 0 || strncmp(at, "run B", 5) == 0;
    const char *found = is_run ? side_names(l, naming, at[4] == 'A' ? SIDES_A : SIDES_B) : "";
    *length = is_run ? 5 : 0;
    for (size_t i = 0; l == LANG_ES && i < COUNT_OF(pieces); i++) {
        size_t n = strlen(pieces[i].en);
        if (n > *length && strncmp(at, pieces[i].en, n) == 0) {
            *length = n;
            found = pieces[i].es;
        }
    }
    return found;
}

const char *side_names(lang l, side_naming naming, unsigned sides)
{
    static const char *const name[3][LANG_COUNT][3] = {
        {{"prefill_last", "decode0", "both prefill_last and decode0"},
         {"prefill_last", "decode0", "prefill_last y decode0, ambos"}},
        {{"run A", "run B", "both runs"},
         {"la ejecución A", "la ejecución B", "ambas ejecuciones"}},
        {{"the run", "the run", "the run"}, {"la ejecución", "la ejecución", "la ejecución"}}};
    return sides == SIDES_NONE ? (l == LANG_ES ? "uno de los lados" : "one side")
                               : name[naming][l][sides - 1];
}

const char *say_phrase(lang l, const char *english, char out[PHRASE_MAX])
{
    return say_phrase_of(l, NAMES_ISOLATE, english, out);
}

const char *say_phrase_of(lang l, side_naming naming, const char *english, char out[PHRASE_MAX])
{
    char shown[ESCAPED_MAX];
    size_t n = 0, length;
    escape(english, strlen(english), shown);
    for (const char *at = shown; *at && n + 1 < PHRASE_MAX; at += length) {
        const char *said = piece_at(l, naming, at, &length);
        int written = length ? snprintf(out + n, PHRASE_MAX - n, "%s", said)
                             : snprintf(out + n, PHRASE_MAX - n, "%c", *at);
        n += (size_t)written;
        length += length == 0;
    }
    out[n < PHRASE_MAX ? n : PHRASE_MAX - 1] = '\0';
    return out;
}
