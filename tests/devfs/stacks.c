/* What a client has below its stack pointer while a machine is made: nothing of it may change. `stacks PATH`. */
#include "../clients/machine.h"

/* Makes a call with the stack pointer at `top`; -> what it returns. The red zone there is as it was. */
static int with_stack(uint8_t *top, int fd, unsigned long request)
{
    const long mark = 0x1badb002feedc0de;
    long ret, differ;

    __asm__ volatile("mov %%rsp, %%rbx\n\tmov %[top], %%rsp\n\t"
                     "lea -128(%%rsp), %%rdi\n\tmov $16, %%ecx\n\tmov %[mark], %%rax\n\trep stosq\n\t"
                     "mov %[fd], %%rdi\n\tmov %[request], %%rsi\n\txor %%edx, %%edx\n\tmov $16, %%eax\n\tsyscall\n\t"
                     "mov %%rax, %[ret]\n\t"
                     "lea -128(%%rsp), %%rdi\n\tmov $16, %%ecx\n\tmov %[mark], %%rax\n\trepe scasq\n\t"
                     "setne %%cl\n\tmovzbq %%cl, %[differ]\n\tmov %%rbx, %%rsp"
                     : [ret] "=&r"(ret), [differ] "=&r"(differ)
                     : [top] "r"(top), [fd] "r"((long)fd), [request] "r"(request), [mark] "r"(mark)
                     : "rax", "rbx", "rcx", "rdx", "rdi", "rsi", "r11", "memory");
    CHECK(!differ);
    return (int)ret;
}

static void creates_with(uint8_t *top)
{
    int kvm = open(path, O_RDWR | O_CLOEXEC), vm, vcpu;

    CHECK((vm = with_stack(top, kvm, KVM_CREATE_VM)) >= 0);
    CHECK((vcpu = with_stack(top, vm, KVM_CREATE_VCPU)) >= 0);
    CHECK(fcntl(vcpu, F_GETFD) == FD_CLOEXEC);
    close(vcpu);
    close(vm);
    close(kvm);
}

/* On a stack that ends with its red zone; on the first thread's own; and on what has never been touched of that. */
int main(int argc, char **argv)
{
    uint8_t *small = mmap(NULL, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *own = (uint8_t *)((uintptr_t)__builtin_frame_address(0) & ~(uintptr_t)(PAGE - 1));

    if (argc != 2)
        errx(2, "usage: stacks PATH");
    path = argv[1];
    CHECK(small != MAP_FAILED && !mprotect(small + PAGE, PAGE, PROT_READ | PROT_WRITE));
    creates_with(small + PAGE + 128);
    creates_with(own - PAGE);
    creates_with(own - (1 << 20));
    return 0;
}
