/* fpenv.h - the floating-point environment of the arithmetic: nearest even, no flush to zero. */
#ifndef GRETA_BASE_FPENV_H
#define GRETA_BASE_FPENV_H

#include <stdbool.h>
#include <stdint.h>

/* Sets this thread's MXCSR and rounding mode; returns what to restore. */
uint32_t fpenv_enter(void);
void fpenv_leave(uint32_t saved);
/* The same, but this thread takes subnormal operands and results for zero, as other engines' do:
 * for what is compared with them. False: this processor cannot; nothing is set. */
bool fpenv_flush(uint32_t *saved);

#endif
