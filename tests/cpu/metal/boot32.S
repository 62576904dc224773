/* From the reset vector to a C function in flat 32-bit protected mode, running in RAM; exception entries.
 *
 * The image is the whole 64 KiB ROM below 4 GiB (QEMU's -bios), linked for 0x10000, where it copies itself.
 */
#define ROM(x) ((x) - 0x10000 + 0xf0000)

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
        movw    %ax, %fs
        movw    %ax, %gs
        cld
        movl    $0xf0000, %esi
        movl    $0x10000, %edi
        movl    $0x4000, %ecx
        rep movsl
        xorl    %eax, %eax
        movl    $0x20000, %edi
        movl    $0x8000, %ecx
        rep stosl
        movl    $0x70000, %esp
        movl    $1f, %eax
        jmp     *%eax
1:      call    main
        movw    $0xf4, %dx
        movb    $0, %al
        outb    %al, %dx        /* isa-debug-exit */
2:      hlt
        jmp     2b

        .align 8
boot_gdt:
        .quad   0, 0x00cf9a000000ffff, 0x00cf92000000ffff
boot_gdtr:
        .word   23
        .long   ROM(boot_gdt)

/* enter(struct entry *): saves the C context, loads the registers of *entry and goes there by IRET; comes
 * back when the code traps. Entry: 8 registers (PUSHA order), ds, es, fs, gs, eip, cs, eflags, esp, ss [, vm86 segments]. */
        .text
        .global enter, resume, entries
enter:
        pushl   %ebx
        pushl   %esi
        pushl   %edi
        pushl   %ebp
        movl    20(%esp), %esi
        movl    %esp, kernel_esp
        movl    52(%esi), %eax          /* cs */
        testl   $0x20000, 56(%esi)
        jnz     2f
        testl   $3, %eax
        jnz     1f
        movl    60(%esi), %esp          /* same level: its own stack */
        pushl   56(%esi)
        pushl   %eax
        pushl   48(%esi)
        jmp     3f
2:      pushl   44(%esi)                /* virtual-8086 mode: gs fs ds es */
        pushl   40(%esi)
        pushl   32(%esi)
        pushl   36(%esi)
1:      pushl   64(%esi)
        pushl   60(%esi)
        pushl   56(%esi)
        pushl   %eax
        pushl   48(%esi)
3:      pushl   28(%esi)                /* eax ... as PUSHA leaves them */
        pushl   24(%esi)
        pushl   20(%esi)
        pushl   16(%esi)
        pushl   12(%esi)
        pushl   8(%esi)
        pushl   4(%esi)
        pushl   0(%esi)
        testl   $0x20000, 56(%esi)
        jnz     4f
        movl    40(%esi), %eax
        movw    %ax, %fs
        movl    44(%esi), %eax
        movw    %ax, %gs
        movl    36(%esi), %eax
        movw    %ax, %es
        movl    32(%esi), %eax
        movw    %ax, %ds
4:      popal
        iretl

/* Back in C: from the trap handler, on whatever stack and with whatever segments. */
resume:
        movl    kernel_esp, %esp
        popl    %ebp
        popl    %edi
        popl    %esi
        popl    %ebx
        pushl   $2
        popfl
        ret

common:
        pushal
        pushl   %ds
        pushl   %es
        pushl   %fs
        pushl   %gs
        movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        cld
        movl    %esp, %eax
        pushl   %eax
        movl    %ss, %ecx               /* a trap may come with any stack */
        pushl   %ecx
        call    trap
        movw    $16, %ax
        movw    %ax, %ss
        jmp     resume

        .align 16
entries:                                /* 16 bytes each */
        .set    n, 0
        .rept   128
        .align  16
        .if     (n == 8) || ((n >= 10) && (n <= 14)) || (n == 17)
        .else
        pushl   $0
        .endif
        pushl   $n
        jmp     common
        .set    n, n + 1
        .endr

        .bss
kernel_esp:
        .long   0

        .section .reset, "ax"
        .code16
        ljmp    $0xf000, $0
        .align 16
