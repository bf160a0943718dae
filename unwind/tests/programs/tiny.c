/* A program of a few kilobytes, without a C library, whose tables hold what tables can hold: for tests that damage it.
 */
#define NOINLINE __attribute__((noinline, noclone))
volatile long sink;

NOINLINE static long leaf(long x) { return x * 3 + sink; }
NOINLINE static long saves(long a, long b, long c, long d) { return leaf(a) + leaf(b) * leaf(c) + leaf(d) + a * b * c; }
NOINLINE static long variable(long n) {
    volatile long a[n];
    a[0] = leaf(n);
    return a[0];
}
__attribute__((noinline, target("avx2"))) static long realigned(long x) {
    __attribute__((aligned(64))) volatile long a[8];
    a[x & 7] = leaf(x);
    return a[3] + variable(x);
}
__asm__(".text\n.type restorer, @function\nnop\nrestorer:\n.cfi_startproc\n.cfi_signal_frame\n"
        " .cfi_escape 0x0f, 4, 0x77, 0xa0, 1, 6\n .cfi_escape 0x10, 16, 3, 0x77, 0xa8, 1\n"
        " .cfi_escape 0x10, 6, 3, 0x77, 0xf8, 0\n mov $15, %rax\n syscall\n.cfi_endproc\n"
        ".type in_rdi, @function\nin_rdi:\n.cfi_startproc\n pop %rdi\n .cfi_adjust_cfa_offset -8\n"
        " .cfi_register rip, rdi\n nop\n push %rdi\n .cfi_adjust_cfa_offset 8\n .cfi_offset rip, -8\n ret\n"
        ".cfi_endproc\n"
        ".type no_tables, @function\nno_tables: push %rbx\n sub $40, %rsp\n call leaf\n add $40, %rsp\n pop %rbx\n ret\n"
        ".globl _start\n.type _start, @function\n_start:\n.cfi_startproc\n.cfi_undefined rip\n xor %ebp, %ebp\n"
        " call starts\n mov %eax, %edi\n mov $60, %eax\n syscall\n.cfi_endproc\n");
extern void no_tables(void), in_rdi(void);
__attribute__((used)) static long starts(void) {
    no_tables();
    in_rdi();
    return saves(1, 2, 3, 4) + realigned(5);
}
