/* One odd stack for each name; the first argument is the file to write, the second the name. */
#include "capture.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>

volatile long sink;

/* ---- recursion ---- */
NOINLINE static long deep(long n) {
    if (!n) {
        CAPTURE();
        return 1;
    }
    volatile long here = n; /* read after the call, so that this stays a recursion */
    long inner = deep(n - 1);
    return inner + here;
}
static void recursion(void) { sink = deep(10000); }

/* ---- a call as the last instruction of its function ---- */
__attribute__((noinline, noclone, noreturn)) static void never_returns(void) {
    CAPTURE();
    _exit(1);
}
NOINLINE static void calls_at_end(void) {
    if (sink == 0)
        never_returns();
    sink++;
}
/* Follows `calls_at_end`; its frame is another. */
NOINLINE static long neighbour(long n) {
    volatile long a[40];
    a[n] = n;
    return a[sink];
}
static void noreturn(void) {
    calls_at_end();
    sink = neighbour(3);
}

/* The same where the return address is the first byte of the next function, whose frame is another. */
#ifdef __aarch64__
__asm__(".text\n.type asm_ends_in_call, @function\nasm_ends_in_call: .cfi_startproc\n stp x29, x30, [sp, -64]!\n"
        " .cfi_adjust_cfa_offset 64\n .cfi_rel_offset x29, 0\n .cfi_rel_offset x30, 8\n bl never_returns\n .cfi_endproc\n"
        ".size asm_ends_in_call, .-asm_ends_in_call\n"
        ".type asm_behind_it, @function\nasm_behind_it: .cfi_startproc\n ret\n .cfi_endproc\n"
        ".size asm_behind_it, .-asm_behind_it\n");
#else
__asm__(".text\n.type asm_ends_in_call, @function\nasm_ends_in_call: .cfi_startproc\n sub $56, %rsp\n"
        " .cfi_adjust_cfa_offset 56\n call never_returns\n .cfi_endproc\n.size asm_ends_in_call, .-asm_ends_in_call\n"
        ".type asm_behind_it, @function\nasm_behind_it: .cfi_startproc\n ret\n .cfi_endproc\n"
        ".size asm_behind_it, .-asm_behind_it\n");
#endif
extern void asm_ends_in_call(void);
static void noreturn_exactly(void) {
    asm_ends_in_call();
    sink++;
}

/* ---- signals ---- */
NOINLINE static void in_handler(void) {
    CAPTURE();
    sink++;
}
static void handler(int signal) {
    (void)signal;
    in_handler();
    sink++;
}
static void handle(int signal, void (*with)(int), int flags) {
    struct sigaction action = {.sa_handler = with, .sa_flags = flags | SA_NODEFER};
    sigaction(signal, &action, 0);
}
NOINLINE static void raises(void) {
    raise(SIGUSR1);
    sink++;
}
static void signal_raised(void) {
    handle(SIGUSR1, handler, 0);
    raises();
}
/* Interrupted at the first instruction of a leaf, which faults: looking it up one byte back would find another
 * function. */
#ifdef __aarch64__
__asm__(".text\n.type neighbour_of_faults, @function\nneighbour_of_faults: .cfi_startproc\n sub sp, sp, 4080\n"
        " .cfi_adjust_cfa_offset 4080\n nop\n .cfi_endproc\n.size neighbour_of_faults, .-neighbour_of_faults\n"
        ".type faults, @function\nfaults: .cfi_startproc\n ldr x0, [x0]\n ret\n .cfi_endproc\n"
        ".size faults, .-faults\n");
#else
__asm__(".text\n.type neighbour_of_faults, @function\nneighbour_of_faults: .cfi_startproc\n sub $4096, %rsp\n"
        " .cfi_adjust_cfa_offset 4096\n nop\n .cfi_endproc\n.size neighbour_of_faults, .-neighbour_of_faults\n"
        ".type faults, @function\nfaults: .cfi_startproc\n mov (%rdi), %rax\n ret\n .cfi_endproc\n"
        ".size faults, .-faults\n");
#endif
extern long faults(long *);
static void signal_at_first_instruction(void) {
    handle(SIGSEGV, handler, 0);
    sink = faults(0);
}
static void nested_handler(int signal) {
    (void)signal;
    raises();
    sink++;
}
static void signal_nested(void) {
    handle(SIGUSR1, handler, 0);
    handle(SIGUSR2, nested_handler, 0);
    raise(SIGUSR2);
}
/* On a signal stack that lies wherever mmap puts it, and both stacks written down. */
NOINLINE static void on_signal_stack(size_t size) {
    stack_t ss = {.ss_sp = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_size = size};
    sigaltstack(&ss, 0);
    capture_also(__builtin_frame_address(0) - 512);
    handle(SIGUSR1, handler, SA_ONSTACK);
    raises();
}
static void signal_stack(void) { on_signal_stack(1 << 17); }
/* A jump to nowhere. */
static void signal_null_call(void) {
    handle(SIGSEGV, handler, 0);
    void (*volatile nowhere)(void) = 0;
    nowhere();
    sink++;
}
/* A trampoline of our own, as a runtime without a C library has. */
#ifdef __aarch64__
__asm__(".text\n.type own_restorer, @function\nown_restorer: mov x8, 139\n svc 0\n.size own_restorer, .-own_restorer\n");
#else
__asm__(".text\n.type own_restorer, @function\nown_restorer: mov $15, %eax\n syscall\n.size own_restorer, .-own_restorer\n");
#endif
extern void own_restorer(void);
static void signal_own_restorer(void) {
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)(void);
        unsigned long mask;
    } action = {handler, 0x04000000 /* SA_RESTORER */, own_restorer, 0};
    syscall(SYS_rt_sigaction, SIGUSR1, &action, 0, 8);
    raises();
}

/* ---- threads ---- */
NOINLINE static void *in_thread(void *argument) {
    CAPTURE();
    sink++;
    return argument;
}
static void thread(void) {
    pthread_t id;
    pthread_create(&id, 0, in_thread, 0);
    pthread_join(id, 0);
}

/* ---- coroutines; musl has none ---- */
#ifdef __GLIBC__
static ucontext_t main_context, coroutine_context;
NOINLINE static void in_coroutine(void) {
    sink = 7;
    CAPTURE();
    sink++;
}
static void coroutine_start(void) {
    in_coroutine();
    sink++;
}
static void coroutine(void) {
    static char stack[1 << 16];
    getcontext(&coroutine_context);
    coroutine_context.uc_stack.ss_sp = stack;
    coroutine_context.uc_stack.ss_size = sizeof stack;
    coroutine_context.uc_link = &main_context;
    makecontext(&coroutine_context, coroutine_start, 0);
    swapcontext(&main_context, &coroutine_context);
}

#else
static void coroutine(void) {}
#endif

/* ---- assembly without call frame information ---- */
#define ASM_FUNCTION(name, body)                                                                                       \
    __asm__(".text\n.type " #name ", @function\n" #name ":\n" body "\n.size " #name ", .-" #name "\n");                 \
    extern void name(void)
NOINLINE __attribute__((used)) static void captures(void) {
    CAPTURE();
    sink++;
}
#ifdef __aarch64__
ASM_FUNCTION(asm_pushes, " stp x19, x30, [sp, -32]!\n bl captures\n ldp x19, x30, [sp], 32\n ret");
ASM_FUNCTION(asm_subtracts, " sub sp, sp, 208\n str x30, [sp, 8]\n mov x19, 0\n bl asm_pushes\n ldr x30, [sp, 8]\n"
                            " add sp, sp, 208\n ret");
/* x29 is data here: a walk by frame records must not be believed. */
ASM_FUNCTION(asm_rbp_is_data, " stp x29, x30, [sp, -48]!\n str x19, [sp, 16]\n add x29, sp, 24\n bl asm_subtracts\n"
                              " ldr x19, [sp, 16]\n ldp x29, x30, [sp], 48\n ret");
ASM_FUNCTION(asm_frame_pointer, " stp x29, x30, [sp, -16]!\n mov x29, sp\n and x9, x29, -64\n mov sp, x9\n"
                                " sub sp, sp, 256\n bl asm_rbp_is_data\n mov sp, x29\n ldp x29, x30, [sp], 16\n ret");
/* A leaf's return address stays in x30 until late. */
ASM_FUNCTION(asm_saves_sp, " mov x9, sp\n cbz x9, 1f\n str x30, [sp, -16]!\n bl asm_frame_pointer\n"
                           " ldr x30, [sp], 16\n1: ret");
#else
ASM_FUNCTION(asm_pushes, " push %rbx\n push %r12\n push %r13\n call captures\n pop %r13\n pop %r12\n pop %rbx\n ret");
ASM_FUNCTION(asm_subtracts, " sub $200, %rsp\n xor %ebx, %ebx\n call asm_pushes\n add $200, %rsp\n ret");
/* rbp is data here: a walk by frame pointers must not be believed. */
ASM_FUNCTION(asm_rbp_is_data, " push %rbp\n push %rbx\n lea 16(%rsp), %rbp\n sub $24, %rsp\n call asm_subtracts\n"
                              " add $24, %rsp\n pop %rbx\n pop %rbp\n ret");
ASM_FUNCTION(asm_frame_pointer, " push %rbp\n mov %rsp, %rbp\n and $-64, %rsp\n sub $256, %rsp\n call asm_rbp_is_data\n"
                                " leave\n ret");
/* As x86inc.asm aligns: the old stack pointer is kept on the new stack. */
ASM_FUNCTION(asm_saves_sp, " mov %rsp, %rax\n push %rbx\n sub $136, %rsp\n and $-64, %rsp\n mov %rax, 64(%rsp)\n"
                           " vzeroupper\n call asm_frame_pointer\n mov 64(%rsp), %rsp\n mov -8(%rsp), %rbx\n ret");
#endif
static void assembly(void) {
    asm_saves_sp();
    sink++;
}

/* ---- the vdso ---- */
#ifdef __x86_64__ /* by single steps */
static volatile int vdso_found;
static uintptr_t vdso_start, vdso_end;
static void vdso_step(int signal, siginfo_t *info, void *context) {
    uintptr_t rip = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (rip >= vdso_start && rip < vdso_end && ++vdso_found == 12)
        capture_trap(signal, info, context);
}
NOINLINE static void asks_the_time(void) {
    struct timespec now;
    __asm__ volatile("sub $128, %%rsp; pushfq; orq $0x100, (%%rsp); popfq; add $128, %%rsp" ::: "memory", "cc");
    clock_gettime(CLOCK_MONOTONIC, &now);
    sink = now.tv_nsec;
}
static void vdso(void) {
    extern unsigned long getauxval(unsigned long);
    static char alt_stack[1 << 16];
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack};
    struct sigaction action = {.sa_sigaction = vdso_step, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    vdso_start = getauxval(33 /* AT_SYSINFO_EHDR */);
    vdso_end = vdso_start + 8192;
    sigaltstack(&ss, 0);
    sigaction(SIGTRAP, &action, 0);
    asks_the_time();
}
#else
static void vdso(void) {}
#endif

/* ---- constructors, run by the dynamic loader before main, and functions run at exit ---- */
static void at_exit(void) { CAPTURE(); }
static void exiting(void) {
    atexit(at_exit);
    exit(0);
}
#ifdef __GLIBC__ /* musl gives constructors no arguments */
__attribute__((constructor))
#else
__attribute__((used))
#endif
static void constructor(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[2], "constructor")) {
        capture_init(argv[1], 1);
        CAPTURE();
        sink++;
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*function)(void);
        int use_alt_stack;
    } shapes[] = {
        {"recursion", recursion, 1},
        {"noreturn", noreturn, 1},
        {"noreturn_exactly", noreturn_exactly, 1},
        {"signal_raised", signal_raised, 0},
        {"signal_at_first_instruction", signal_at_first_instruction, 0},
        {"signal_nested", signal_nested, 0},
        {"signal_stack", signal_stack, 0},
        {"signal_null_call", signal_null_call, 0},
        {"signal_own_restorer", signal_own_restorer, 0},
        {"thread", thread, 0},
        {"coroutine", coroutine, 1},
        {"assembly", assembly, 1},
        {"vdso", vdso, 0},
        {"exiting", exiting, 1},
    };
    if (argc < 3)
        return 2;
    for (unsigned i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (!strcmp(argv[2], shapes[i].name)) {
            capture_init(argv[1], shapes[i].use_alt_stack);
            shapes[i].function();
            return 4;
        }
    return 2;
}
