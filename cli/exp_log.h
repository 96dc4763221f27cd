/* exp_log.h - exp and log in f64 for `greta eval`, the same bits on every machine. */
#ifndef GRETA_CLI_EXP_LOG_H
#define GRETA_CLI_EXP_LOG_H

double exp_f64(double x); /* 0 below -745, infinite above 709; NaN of NaN */
double log_f64(double x); /* of a normal number > 0; NaN of NaN */

#endif
