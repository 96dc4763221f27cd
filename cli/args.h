/* args.h - one flag parser for all commands: tables say name, kind, range, variable and help.
 *
 * A command lists groups of flags; a group is a constant table and the struct its values go to. The
 * same tables parse, check, and print --help. A flag given twice with other values, a value out of
 * range, an unknown flag: GRETA_USAGE with one line that says what was expected.
 */
#ifndef GRETA_CLI_ARGS_H
#define GRETA_CLI_ARGS_H

#include "greta.h"

#include <stdbool.h>

typedef enum flag_kind {
    FLAG_SWITCH,   /* bool; takes no value */
    FLAG_WHOLE,    /* int64_t in min..max */
    FLAG_SEED,     /* uint64_t */
    FLAG_REAL,     /* double in min..max */
    FLAG_BYTES,    /* uint64_t: 1000, 64K, 512M, 4G */
    FLAG_COUNT,    /* int64_t from 0, or "all", stored as -1 */
    FLAG_CHOICE,   /* int: index into `value`, "f16|f32" */
    FLAG_OPTIONAL, /* int: the same, but the value may be left out: 0 */
    FLAG_CPU,      /* const char *: a kernel table of this machine */
    FLAG_PATH,     /* const char *: not empty; a value like --x is taken for a forgotten one */
    FLAG_TEXT,     /* const char *: anything */
} flag_kind;

typedef struct flag {
    const char *name;     /* "--threads" */
    const char *letter;   /* "-n"; NULL: none */
    flag_kind kind;
    size_t offset;        /* of the value in the group's target */
    double min, max;      /* FLAG_WHOLE, FLAG_REAL */
    const char *value;    /* what --help calls the value; the choices of FLAG_CHOICE */
    const char *variable; /* environment variable read when the flag is absent; NULL: none */
    const char *help;
} flag;

typedef struct flag_group {
    const char *title;
    const flag *flag;
    size_t n;
    void *target;         /* holds the defaults before parsing */
} flag_group;

#define OPERANDS_MAX 2

typedef struct command_line {
    const char *name;     /* "run" */
    const char *usage;    /* "-m MODEL -p TEXT" */
    const char *summary;  /* one paragraph */
    const flag_group *group;
    size_t n_group;
    size_t n_operand_min, n_operand_max;
    const char *operand[OPERANDS_MAX]; /* out */
    size_t n_operand;                  /* out */
    bool is_help;                      /* out: --help was given and printed; the command ends */
} command_line;

/* Parses argv (without program and command names), then the variables of absent flags. */
greta_status args_parse(command_line *line, int argc, char **argv, greta_error *err);

/* Checks one value and stores it at `target`; `name` (a flag or variable) stands in the error. */
greta_status args_value(const flag *f, const char *name, const char *value, void *target,
                        greta_error *err);

/* Parses "0,5-9" or "all" into selected[0..n), entries 0 or 1. */
greta_status args_ranges(const char *name, const char *ranges, uint8_t *selected, size_t n,
                         greta_error *err);

/* A decimal whole number without sign, spaces or overflow. */
bool args_whole(const char *text, size_t bytes, uint64_t *value);

/* The known name nearest to `word`; NULL: none is near. `known` ends with NULL. */
const char *args_nearest(const char *word, const char *const *known);

#endif
