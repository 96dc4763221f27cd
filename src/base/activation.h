/* activation.h - the functions of one number that models name; kernel/elementary.h defines them. */
#ifndef GRETA_BASE_ACTIVATION_H
#define GRETA_BASE_ACTIVATION_H

typedef enum activation {
    ACTIVATION_SILU,
    ACTIVATION_GELU_TANH,
    ACTIVATION_SIGMOID,
    ACTIVATION_TANH,
    ACTIVATION_EXP, /* no model has it: attention uses it, and so tests reach it */
    ACTIVATION_COUNT
} activation;

#endif
