/* fpenv.c - the floating-point environment of the arithmetic, per thread.
 *
 * A host program may have set flush-to-zero, denormals-are-zero or another rounding direction (a
 * library built with fast-math does so in a constructor); each would change result bits. Every
 * thread that computes brackets its work with enter and leave. Exceptions are masked: an Inf or NaN
 * is an answer to be traced, not a signal.
 *
 * On x86 only MXCSR matters: float and double are computed by SSE there. It is written directly,
 * which needs no libm (fesetround lives in libm and would also touch the unused x87 unit). On
 * AArch64 FPCR holds both modes. Elsewhere the rounding mode is all that C can set.
 */
#include "base/fpenv.h"

#if defined(__SSE2__)

#include <xmmintrin.h>

/* All exceptions masked, none raised, nearest even, no FTZ, no DAZ. */
#define MXCSR_CANONICAL 0x1f80u

uint32_t fpenv_enter(void)
{
    uint32_t saved = _mm_getcsr();
    _mm_setcsr(MXCSR_CANONICAL);
    return saved;
}

void fpenv_leave(uint32_t saved)
{
    _mm_setcsr(saved);
}

bool fpenv_flush(uint32_t *saved)
{
    *saved = fpenv_enter();
    _mm_setcsr(_mm_getcsr() | 0x8040u); /* FTZ, DAZ */
    return true;
}

#elif defined(__aarch64__)

uint32_t fpenv_enter(void)
{
    uint64_t saved;
    uint64_t canonical = 0; /* RMode nearest even, FZ off, DN off, traps off */
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(canonical) : "memory");
    return (uint32_t)saved;
}

void fpenv_leave(uint32_t saved)
{
    uint64_t value = saved;
    __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory");
}

bool fpenv_flush(uint32_t *saved)
{
    uint64_t flushing = 1u << 24; /* FZ */
    *saved = fpenv_enter();
    __asm__ volatile("msr fpcr, %0" : : "r"(flushing) : "memory");
    return true;
}

#else

#include <fenv.h>

uint32_t fpenv_enter(void)
{
    int saved = fegetround();
    fesetround(FE_TONEAREST);
    return (uint32_t)saved;
}

void fpenv_leave(uint32_t saved)
{
    fesetround((int)saved);
}

bool fpenv_flush(uint32_t *saved)
{
    *saved = 0;
    return false;
}

#endif
