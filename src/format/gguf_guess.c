/* gguf_guess.c - what a file that is not GGUF probably is.
 *
 * Most "broken models" are another file under the expected name: an error page saved by a download
 * tool, a git-LFS pointer, a checkpoint in another format. The first bytes tell; a guess is only
 * ever a hint behind the refusal, so a wrong guess costs nothing.
 */
#include "format/gguf_guess.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct signature {
    const char *start;
    size_t length;
    const char *kind;
} signature;

#define SIGNATURE(start, kind) {start, sizeof start - 1, kind}

static const signature signatures[] = {
    SIGNATURE("FUGG", "GGUF file with its bytes swapped"),
    SIGNATURE("lmgg", "GGML file from before GGUF (convert it anew)"),
    SIGNATURE("fmgg", "GGML file from before GGUF (convert it anew)"),
    SIGNATURE("tjgg", "GGML file from before GGUF (convert it anew)"),
    SIGNATURE("PK\003\004", "ZIP archive (a PyTorch checkpoint is one)"),
    SIGNATURE("\200\002", "Python pickle (an old PyTorch checkpoint)"),
    SIGNATURE("\037\213", "gzip archive (unpack it)"),
    SIGNATURE("\375" "7zXZ", "xz archive (unpack it)"),
    SIGNATURE("\050\265\057\375", "zstd archive (unpack it)"),
    SIGNATURE("\211HDF", "HDF5 file"),
    SIGNATURE("\177ELF", "program"),
    SIGNATURE("version https://git-lfs", "git-LFS pointer (git lfs pull fetches the file)"),
};

static bool starts_with(const uint8_t *data, uint64_t size, const char *start, size_t length)
{
    return size >= length && memcmp(data, start, length) == 0;
}

/* Without regard to case; `start` is lower-case. */
static bool starts_with_tag(const uint8_t *data, uint64_t size, const char *start)
{
    size_t i = 0;
    for (; start[i] != '\0' && i < size; i++) {
        uint8_t byte = data[i] >= 'A' && data[i] <= 'Z' ? (uint8_t)(data[i] + 32) : data[i];
        if (byte != (uint8_t)start[i]) {
            return false;
        }
    }
    return start[i] == '\0';
}

const char *gguf_guess(const uint8_t *data, uint64_t size)
{
    for (size_t i = 0; i < sizeof signatures / sizeof signatures[0]; i++) {
        if (starts_with(data, size, signatures[i].start, signatures[i].length)) {
            return signatures[i].kind;
        }
    }
    /* u64 length of a JSON header, then the header. */
    if (size > 8 && data[8] == '{' && data[6] == 0 && data[7] == 0) {
        return "safetensors file (give the folder it lies in)";
    }
    while (size > 0 && (*data == ' ' || (*data >= '\t' && *data <= '\r'))) {
        data++;
        size--;
    }
    if (starts_with_tag(data, size, "<!doctype html") || starts_with_tag(data, size, "<html")) {
        return "web page (HTML: the download went wrong)";
    }
    if (starts_with_tag(data, size, "<?xml")) {
        return "XML text (the download went wrong)";
    }
    return size > 0 && (*data == '{' || *data == '[') ? "JSON text" : NULL;
}

const char *gguf_guess_type(uint32_t type)
{
    /* ggml.h, enum ggml_type; 4, 5, 31 to 33 and 36 to 38 were removed. */
    static const char *const names[] = {
        [9] = "Q8_1",     [15] = "Q8_K",   [16] = "IQ2_XXS",
        [17] = "IQ2_XS",  [18] = "IQ3_XXS", [19] = "IQ1_S",  [21] = "IQ3_S",  [22] = "IQ2_S",
        [24] = "I8",      [25] = "I16",     [26] = "I32",    [27] = "I64",    [28] = "F64",
        [29] = "IQ1_M",   [34] = "TQ1_0",   [35] = "TQ2_0",  [40] = "NVFP4",  [41] = "Q1_0",
    };
    return type < sizeof names / sizeof names[0] ? names[type] : NULL;
}
