/* wrong_tokens.h - prompts that are fed wrongly. GRETA_USAGE: too short for it. */
#ifndef GRETA_FAULT_WRONG_TOKENS_H
#define GRETA_FAULT_WRONG_TOKENS_H

#include "fault/fault.h"

greta_status tokens_first_twice(const int32_t *id, size_t n, fault_tokens *out, greta_error *err);
greta_status tokens_first_missing(const int32_t *id, size_t n, fault_tokens *out, greta_error *err);
greta_status tokens_middle_missing(const int32_t *id, size_t n, fault_tokens *out,
                                   greta_error *err);
greta_status tokens_swapped(const int32_t *id, size_t n, fault_tokens *out, greta_error *err);

#endif
