/* half.h - where kernels look for base/half_bits.h. */
#ifndef GRETA_KERNEL_HALF_H
#define GRETA_KERNEL_HALF_H

#include "base/half_bits.h"

#endif
