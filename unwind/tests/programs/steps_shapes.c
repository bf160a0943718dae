/* One function for each odd shape of frame that compilers make. */
#include "steps.h"
#include <alloca.h>
#include <immintrin.h>

#define NOINLINE __attribute__((noinline))
volatile long sink;

NOINLINE static long leaf(long x) { return x * 3 + sink; }

/* A red zone: a leaf whose locals lie below the stack pointer. */
NOINLINE static long red_zone(long x) {
    volatile long locals[8];
    for (int i = 0; i < 8; i++)
        locals[i] = x + i;
    return locals[x & 7];
}

NOINLINE static long many_registers(long a, long b, long c, long d, long e, long f, long g, long h) {
    long r = leaf(a) + leaf(b) * leaf(c);
    return r + leaf(d) * leaf(e) + leaf(f) * g * leaf(h) + a * b * c * d * e * f;
}

NOINLINE static long with_alloca(long n) {
    char *p = alloca(n * 16 + 1);
    p[n] = 1;
    return leaf(p[n]);
}

NOINLINE static long with_vla(long n) {
    long a[n];
    for (long i = 0; i < n; i++)
        a[i] = leaf(i);
    return a[n / 2];
}

/* The stack pointer is aligned to 32 bytes: the CFA is an expression. */
__attribute__((noinline, target("avx2"))) static long realigned(long x) {
    __attribute__((aligned(32))) volatile long a[8];
    for (int i = 0; i < 8; i++)
        a[i] = leaf(x + i);
    return a[3];
}

__attribute__((noinline, target("avx2"))) static long realigned_vla(long n) {
    __attribute__((aligned(64))) volatile long a[8];
    volatile long b[n];
    a[1] = leaf(n);
    b[0] = leaf(a[1]);
    return a[1] + b[0];
}

/* r10 carries the static chain. */
NOINLINE static long nested(long x) {
    __attribute__((noinline)) long inner(long y) { return leaf(x + y); }
    return inner(3) + inner(x);
}

NOINLINE static long recursive(long n) { return n ? recursive(n - 1) + leaf(n) : 1; }

NOINLINE static long tail(long x) { return leaf(x + 1); }

NOINLINE static long early_return(long x) {
    if (x < 100)
        return x;
    long a = leaf(x), b = leaf(a), c = leaf(b);
    return a * b + c;
}

__attribute__((noinline, optimize("no-omit-frame-pointer"))) static long with_frame_pointer(long x) {
    volatile long a = x;
    return leaf(a) + leaf(a + 1);
}

static long (*volatile indirect)(long) = with_frame_pointer;

__attribute__((noinline, optimize("no-omit-frame-pointer"))) static long calls_indirectly(long x) {
    return indirect(x) + 1;
}

static void work(void) {
    sink += red_zone(3) + many_registers(1, 2, 3, 4, 5, 6, 7, 8);
    sink += with_alloca(10) + with_vla(5) + nested(4) + recursive(12);
    if (__builtin_cpu_supports("avx2"))
        sink += realigned(2) + realigned_vla(3);
    sink += tail(1) + early_return(5) + early_return(500) + with_frame_pointer(2) + calls_indirectly(9);
}

int main(int argc, char **argv) {
    (void)argc;
    steps_begin(argv[1]);
    steps_run(work);
    return 0;
}
