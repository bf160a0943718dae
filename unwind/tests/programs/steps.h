/* Runs a piece of a program one instruction at a time, by the trap flag, and writes what each instruction finds:
 * registers, stack, and the return addresses that calls have really made (a shadow stack).
 *
 * No debugger is needed, so this works wherever tests run. The handler has a stack of its own, and so leaves the
 * stack under test as it is.
 *
 * Format, little-endian words of 64 bits: for each step 17 registers (DWARF order), the number of shadow entries, the
 * entries (innermost first), the address of the copied stack, its length, its bytes padded to a word. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define SHADOW_MAX 4096
#define RED_ZONE 128
/* What lies above the function that starts: main, and the frames of the C library below it. */
#define ABOVE 1024

static int steps_fd = -1;
static uint64_t steps_shadow[SHADOW_MAX];
static unsigned steps_depth;
static uint64_t steps_top, steps_last_rip, steps_last_rsp;
static volatile int steps_stop;
static unsigned long steps_left = 200000;

static void steps_put(const void *bytes, size_t length) {
    const char *at = bytes;
    while (length) {
        ssize_t done = write(steps_fd, at, length);
        if (done <= 0)
            _exit(3);
        at += done;
        length -= done;
    }
}

/* The length of the call at `code`, or 0. */
static int steps_call(const unsigned char *code) {
    int at = 0;
    while (code[at] == 0xf2 || code[at] == 0x3e || code[at] == 0x66 || (code[at] & 0xf0) == 0x40)
        at++;
    return code[at] == 0xe8 || (code[at] == 0xff && (code[at + 1] >> 3 & 7) == 2);
}

static int steps_ret(const unsigned char *code) {
    if (*code == 0xf2 || *code == 0xf3)
        code++;
    return *code == 0xc3 || *code == 0xc2;
}

static void steps_follow(uint64_t rip, uint64_t rsp) {
    if (!steps_last_rip)
        return;
    const unsigned char *last = (const unsigned char *)steps_last_rip;
    if (steps_call(last) && rsp == steps_last_rsp - 8) {
        if (steps_depth == SHADOW_MAX)
            _exit(4);
        steps_shadow[steps_depth++] = *(uint64_t *)rsp;
    } else if (steps_ret(last)) {
        /* _dl_runtime_resolve and the like jump; a return without a call would show as a wrong shadow. */
        if (steps_depth && steps_shadow[steps_depth - 1] == rip)
            steps_depth--;
    }
}

static void steps_trap(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    ucontext_t *uc = context;
    greg_t *g = uc->uc_mcontext.gregs;
    if (steps_stop || !--steps_left) {
        g[REG_EFL] &= ~0x100;
        return;
    }
    uint64_t rip = g[REG_RIP], rsp = g[REG_RSP];
    steps_follow(rip, rsp);
    steps_last_rip = rip;
    steps_last_rsp = rsp;
    if (rsp > steps_top || steps_top - rsp > 1 << 20)
        return;
    static const int order[17] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI, REG_RBP, REG_RSP, REG_R8,
                                  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};
    static struct {
        uint64_t head[18 + SHADOW_MAX + 2];
    } record;
    unsigned n = 0;
    for (int i = 0; i < 17; i++)
        record.head[n++] = g[order[i]];
    record.head[n++] = steps_depth;
    for (unsigned i = 0; i < steps_depth; i++)
        record.head[n++] = steps_shadow[steps_depth - 1 - i];
    uint64_t low = (rsp - RED_ZONE) & ~7ull, length = steps_top + ABOVE - low;
    record.head[n++] = low;
    record.head[n++] = length;
    steps_put(record.head, n * 8);
    steps_put((void *)low, length);
}

static void steps_maps(const char *path) {
    char buffer[65536];
    int from = open("/proc/self/maps", O_RDONLY), to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n;
    while ((n = read(from, buffer, sizeof buffer)) > 0)
        if (write(to, buffer, n) != n)
            _exit(3);
    close(from), close(to);
}

/* The vdso as it lies in memory. */
static void steps_vdso(const char *path) {
    extern unsigned long getauxval(unsigned long);
    uint64_t at = getauxval(33 /* AT_SYSINFO_EHDR */);
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (at && write(to, (void *)at, 8192) != 8192 && write(to, (void *)at, 4096) != 4096)
        _exit(3);
    close(to);
}

static __attribute__((noinline)) void steps_begin(const char *directory) {
    static char alt_stack[1 << 16];
    char path[4096];
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack};
    struct sigaction action = {.sa_sigaction = steps_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&ss, 0);
    sigaction(SIGTRAP, &action, 0);
    strcpy(path, directory), strcat(path, "/maps");
    steps_maps(path);
    strcpy(path, directory), strcat(path, "/vdso");
    steps_vdso(path);
    strcpy(path, directory), strcat(path, "/steps");
    steps_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
}

/* Runs `work` step by step. The flags are put back by the handler. */
static __attribute__((noinline)) void steps_run(void (*work)(void)) {
    steps_top = (uint64_t)__builtin_frame_address(0);
    __asm__ volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
    work();
    steps_stop = 1;
    __asm__ volatile("nop" ::: "memory");
}
