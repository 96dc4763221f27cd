/* fpenv.h - the floating-point environment of the arithmetic: nearest even, no flush to zero. */
#ifndef GRETA_BASE_FPENV_H
#define GRETA_BASE_FPENV_H

#include <stdint.h>

/* Sets this thread's MXCSR and rounding mode; returns what to restore. */
uint32_t fpenv_enter(void);
void fpenv_leave(uint32_t saved);

#endif
