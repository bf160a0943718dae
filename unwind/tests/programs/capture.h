/* Writes down a thread as it is: registers, mappings, memory, as text that `support/capture.rs` reads.
 *
 *   register rip|rsp|x29|... HEX
 *   map LINE OF /proc/self/maps
 *   memory ADDRESS HEX...
 *
 * `CAPTURE()` traps; the handler, on a stack of its own, writes what was interrupted to the file named by the program's
 * first argument, and ends the program. No C library beyond system calls is needed in the handler. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
#ifdef __aarch64__
#define CAPTURE() __asm__ volatile("brk 0" ::: "memory")
#else
#define CAPTURE() __asm__ volatile("int3" ::: "memory")
#endif
/* More than any fixture needs, less than a main thread's stack limit. */
#define STACK_MAX (7 << 20)

static const char *capture_path;
static int capture_fd;
static char capture_buffer[1 << 16];
static unsigned capture_length;
static uintptr_t capture_others[4];
static int capture_other_count;

static void capture_flush(void) {
    unsigned done = 0;
    while (done < capture_length) {
        ssize_t n = write(capture_fd, capture_buffer + done, capture_length - done);
        if (n <= 0)
            _exit(3);
        done += n;
    }
    capture_length = 0;
}

static void capture_char(char c) {
    if (capture_length == sizeof capture_buffer)
        capture_flush();
    capture_buffer[capture_length++] = c;
}

static void capture_text(const char *text) {
    while (*text)
        capture_char(*text++);
}

static void capture_hex(uint64_t value, int digits) {
    while (digits--)
        capture_char("0123456789abcdef"[value >> digits * 4 & 15]);
}

static void capture_memory(uintptr_t from, uintptr_t to) {
    for (uintptr_t at = from; at < to; at += 1 << 14) {
        capture_text("memory ");
        capture_hex(at, 16);
        capture_char(' ');
        for (uintptr_t byte = at; byte < to && byte < at + (1 << 14); byte++)
            capture_hex(*(unsigned char *)byte, 2);
        capture_char('\n');
    }
}

static uintptr_t capture_parse(const char **text) {
    uintptr_t value = 0;
    for (;; (*text)++) {
        char c = **text;
        if (c >= '0' && c <= '9')
            value = value * 16 + c - '0';
        else if (c >= 'a' && c <= 'f')
            value = value * 16 + c - 'a' + 10;
        else
            return value;
    }
}

/* Stacks from the stack pointers on, and the vdso. */
static void capture_of_mapping(const char *line) {
    const char *at = line;
    uintptr_t start = capture_parse(&at), end;
    at++;
    end = capture_parse(&at);
    if (strstr(line, "[vdso]"))
        capture_memory(start, end);
    for (int i = 0; i < capture_other_count; i++) {
        uintptr_t sp = capture_others[i];
        if (sp < start || sp >= end)
            continue;
        /* With the red zone, as far as the stack has grown for it. */
        uintptr_t from = sp - 128 < start ? start : (sp - 128) & ~7ul;
        capture_memory(from, end - sp > STACK_MAX ? sp + STACK_MAX : end);
    }
}

static void capture_maps(void) {
    static char maps[1 << 16];
    int fd = open("/proc/self/maps", O_RDONLY);
    ssize_t length = 0, n;
    while ((n = read(fd, maps + length, sizeof maps - 1 - length)) > 0)
        length += n;
    close(fd);
    maps[length] = 0;
    for (char *line = maps, *next; *line; line = next) {
        next = strchr(line, '\n');
        *next++ = 0;
        capture_text("map ");
        capture_text(line);
        capture_char('\n');
        capture_of_mapping(line);
    }
}

static void capture_register(const char *name, uint64_t value) {
    capture_text("register ");
    capture_text(name);
    capture_char(' ');
    capture_hex(value, 16);
    capture_char('\n');
}

#ifdef __aarch64__
/* Writes down the registers, and says where the stack is. */
static uintptr_t capture_registers(const ucontext_t *context) {
    const mcontext_t *registers = &context->uc_mcontext;
    char name[] = "x00";
    for (int i = 0; i < 31; i++) {
        char *digit = name + 1;
        if (i >= 10)
            *digit++ = '0' + i / 10;
        *digit++ = '0' + i % 10;
        *digit = 0;
        capture_register(name, registers->regs[i]);
    }
    capture_register("sp", registers->sp);
    capture_register("pc", registers->pc);
    return registers->sp;
}
#else
static uintptr_t capture_registers(const ucontext_t *context) {
    static const struct {
        const char *name;
        int number;
    } names[] = {{"rax", REG_RAX}, {"rdx", REG_RDX}, {"rcx", REG_RCX}, {"rbx", REG_RBX}, {"rsi", REG_RSI},
                 {"rdi", REG_RDI}, {"rbp", REG_RBP}, {"rsp", REG_RSP}, {"r8", REG_R8},   {"r9", REG_R9},
                 {"r10", REG_R10}, {"r11", REG_R11}, {"r12", REG_R12}, {"r13", REG_R13}, {"r14", REG_R14},
                 {"r15", REG_R15}, {"rip", REG_RIP}};
    const greg_t *registers = context->uc_mcontext.gregs;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
        capture_register(names[i].name, registers[names[i].number]);
    return registers[REG_RSP];
}
#endif

static void capture_trap(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)info;
    capture_fd = open(capture_path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    capture_others[capture_other_count++] = capture_registers(context);
    capture_maps();
    capture_flush();
    _exit(0);
}

/* Another stack to be written down: one that a signal interrupts, say. */
static void capture_also(void *stack_pointer) {
    capture_others[capture_other_count++] = (uintptr_t)stack_pointer;
}

/* The handler's stack is the current thread's: a signal handler that wants SA_ONSTACK has it too, so the trap is
 * taken on a stack of its own only where the program has no other use for it. */
static void capture_init(const char *path, int use_alt_stack) {
    static char alt_stack[1 << 16];
    stack_t ss = {.ss_sp = alt_stack, .ss_size = sizeof alt_stack};
    struct sigaction action = {.sa_sigaction = capture_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    capture_path = path;
    if (use_alt_stack)
        sigaltstack(&ss, 0);
    sigaction(SIGTRAP, &action, 0);
}
