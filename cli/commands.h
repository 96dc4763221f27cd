/* commands.h - the commands of greta: one file and one function each.
 *
 * argv holds what follows the command's name. The result is the exit code (DESIGN section 6); when
 * it stands for a failure, *err says why, and main prints it.
 */
#ifndef GRETA_CLI_COMMANDS_H
#define GRETA_CLI_COMMANDS_H

#include "greta.h"

int command_run(int argc, char **argv, greta_error *err);
int command_trace(int argc, char **argv, greta_error *err);
int command_isolate(int argc, char **argv, greta_error *err);
int command_compare(int argc, char **argv, greta_error *err);
int command_audit(int argc, char **argv, greta_error *err);
int command_faults(int argc, char **argv, greta_error *err);
int command_score(int argc, char **argv, greta_error *err);
int command_inspect(int argc, char **argv, greta_error *err);
int command_tokenize(int argc, char **argv, greta_error *err);
int command_eval(int argc, char **argv, greta_error *err);
int command_bench(int argc, char **argv, greta_error *err);
int command_pull(int argc, char **argv, greta_error *err);
int command_doctor(int argc, char **argv, greta_error *err);

#endif
