/* trace_tool.c - writes the sample trace of trace_sample.h to the file named on the command line,
 * for readers in other languages. */
#include "trace_sample.h"

int main(int argc, char **argv)
{
    greta_error err = {0};
    char line[GRETA_ERROR_LINE];
    if (argc != 2) {
        fprintf(stderr, "usage: trace_tool FILE\n");
        return GRETA_USAGE;
    }
    greta_trace_options options = {
        .size = sizeof options, .path = argv[1], .bytes_max = 1u << 30, .overwrite = 1};
    greta_status status = sample_write(&options, SAMPLE_RECORDS, &err);
    if (status != GRETA_OK) {
        fprintf(stderr, "%s\n", greta_error_line(&err, line));
    }
    return (int)status;
}
