/* From the reset vector to a C function in 64-bit mode, running in RAM; exception entries. See boot32.S.
 *
 * The first GiB is mapped to itself by 2 MiB pages that user code may use, and again at 0xffff800000000000.
 */
#define ROM(x) ((x) - 0x10000 + 0xf0000)
#define TABLES 0x80000

        .section .text.start, "ax"
        .code16
        .global start16
start16:
        cli
        lgdtl   %cs:(boot_gdtr - start16)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $ROM(start32)

        .code32
start32:
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        cld
        movl    $0xf0000, %esi
        movl    $0x10000, %edi
        movl    $0x4000, %ecx
        rep movsl
        xorl    %eax, %eax
        movl    $0x20000, %edi
        movl    $0x8000, %ecx
        rep stosl
        movl    $TABLES, %edi
        movl    $0x1000, %ecx
        rep stosl
        movl    $(TABLES + 0x1000 + 7), TABLES
        movl    $(TABLES + 0x1000 + 7), TABLES + 256 * 8
        movl    $(TABLES + 0x2000 + 7), TABLES + 0x1000
        movl    $0x87, %eax
        movl    $(TABLES + 0x2000), %edi
        movl    $512, %ecx
1:      movl    %eax, (%edi)
        addl    $0x200000, %eax
        addl    $8, %edi
        loop    1b
#ifdef LA57
        movl    $(TABLES + 7), TABLES + 0x3000
        movl    $(TABLES + 7), TABLES + 0x3000 + 511 * 8
        movl    $(TABLES + 0x3000), %eax
        movl    %eax, %cr3
        movl    $0x1620, %eax           /* LA57 */
#else
        movl    $TABLES, %eax
        movl    %eax, %cr3
        movl    $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
#endif
        movl    %eax, %cr4
        movl    $0xc0000080, %ecx
        rdmsr
        orl     $0x101, %eax            /* LME, SCE */
        wrmsr
        movl    $0x80000011, %eax
        movl    %eax, %cr0
        ljmp    $24, $start64

        .align 8
boot_gdt:
        .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
boot_gdtr:
        .word   31
        .long   ROM(boot_gdt)

        .code64
start64:
        movl    $0x70000, %esp
        call    main
        movw    $0xf4, %dx
        movb    $0, %al
        outb    %al, %dx        /* isa-debug-exit */
2:      hlt
        jmp     2b

/* enter(struct entry *): 15 registers (rax rbx rcx rdx rsi rdi rbp r8 ... r15), rip, cs, rflags, rsp, ss. */
        .text
        .global enter, resume, entries, last_stack
enter:
        pushq   %rbx
        pushq   %rbp
        pushq   %r12
        pushq   %r13
        pushq   %r14
        pushq   %r15
        movq    %rsp, kernel_rsp
        pushq   152(%rdi)
        pushq   144(%rdi)
        pushq   136(%rdi)
        pushq   128(%rdi)
        pushq   120(%rdi)
        movq    0(%rdi), %rax
        movq    8(%rdi), %rbx
        movq    16(%rdi), %rcx
        movq    24(%rdi), %rdx
        movq    32(%rdi), %rsi
        movq    48(%rdi), %rbp
        movq    40(%rdi), %rdi
        iretq

resume:
        movq    kernel_rsp, %rsp
        popq    %r15
        popq    %r14
        popq    %r13
        popq    %r12
        popq    %rbp
        popq    %rbx
        pushq   $2
        popfq
        ret

common:
        pushq   %rbp
        pushq   %rdi
        pushq   %rsi
        pushq   %rdx
        pushq   %rcx
        pushq   %rbx
        pushq   %rax
        movl    %ss, %esi
        cld
        movq    %rsp, %rdi
        movl    $16, %eax
        movl    %eax, %ss
        movq    kernel_rsp, %rsp
        andq    $-16, %rsp
        subq    $256, %rsp
        call    trap                    /* the frame, to go on behind it, or 0 */
        testq   %rax, %rax
        jz      resume
        movq    %rax, %rsp
        popq    %rax
        popq    %rbx
        popq    %rcx
        popq    %rdx
        popq    %rsi
        popq    %rdi
        popq    %rbp
        addq    $16, %rsp
        iretq

        .align 16
entries:                                /* 16 bytes each */
        .set    n, 0
        .rept   128
        .align  16
        .if     (n == 8) || ((n >= 10) && (n <= 14)) || (n == 17)
        .else
        pushq   $0
        .endif
        pushq   $n
        jmp     common
        .set    n, n + 1
        .endr

        .bss
kernel_rsp:
        .quad   0

        .section .reset, "ax"
        .code16
        ljmp    $0xf000, $0
        .align 16
