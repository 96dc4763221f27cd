/* volume.h - how much a C test does. Sanitizers look for wrong accesses, not for numbers, and take
 * ten times as long: with them `make check` runs a share of what the same test runs without them.
 * `make check-long` (GRETA_WHOLE=1) runs all of it, with them too.
 */
#ifndef GRETA_TESTS_VOLUME_H
#define GRETA_TESTS_VOLUME_H

#include <stdlib.h>

static inline int volume_is_whole(void)
{
    return getenv("GRETA_WHOLE") != NULL;
}

/* A number of rounds, or a step between them. */
static inline int volume_of(int all, int sanitized)
{
#ifdef SANITIZED
    return volume_is_whole() ? all : sanitized;
#else
    (void)sanitized;
    return all;
#endif
}

#endif
