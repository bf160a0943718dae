/* The C library's own code, hand-written assembly and vdso included; lazy binding makes the dynamic loader part of it.
 */
#include "steps.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }

static void work(void) {
    static int numbers[] = {5, 3, 9, 1, 4, 8, 7, 2, 6, 0};
    static char text[256], copy[4096], other[4096];
    struct timespec now;
    qsort(numbers, 10, sizeof *numbers, compare);
    snprintf(text, sizeof text, "%d %s %.3f %lx", numbers[3], "text", 3.25 * numbers[4], 77ul);
    for (size_t length = 1; length < sizeof copy; length = length * 3 + 1) {
        memcpy(copy, other, length);
        memset(other, 7, length);
        text[0] += memcmp(copy, other, length) + (memchr(copy, 8, length) != 0);
    }
    text[1] += strlen(text) + strtod("1.5e3", 0) + atoi("42");
    clock_gettime(CLOCK_MONOTONIC, &now);
    free(malloc(100 + now.tv_nsec % 2));
    void *memory = calloc(1, 200000);
    free(memory);
    text[2] += getenv("NOT_SET") != 0;
}

int main(int argc, char **argv) {
    (void)argc;
    steps_begin(argv[1]);
    steps_run(work);
    return 0;
}
