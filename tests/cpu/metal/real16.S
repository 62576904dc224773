/* Real mode: limits and wrapping, unreal segments, interrupts through the IVT, operand and address sizes, what is not there.
 *
 * Code, data and stack live in one segment, 0x1000. Each test ends in an interrupt or exception; its handler prints a line:
 * name, vector, ip:cs:flags as pushed, the handler's flags, sp, eax, ebx, ecx, edx, esi, edi.
 */
#define SEG 0x1000

        .code16
        .section .text.start, "ax"
        .global start16
start16:
        cli
        cld
        movw    $0xf000, %ax
        movw    %ax, %ds
        movw    $SEG, %ax
        movw    %ax, %es
        xorw    %si, %si
        xorw    %di, %di
        movw    $0x4000, %cx
        rep movsl
        ljmp    $SEG, $(1f - start16)
1:      movb    $0xff, %al
        outb    %al, $0x21
        outb    %al, $0xa1
        jmp     next

#define A(label) (label - start16)
#define TABLE (table - start16)

/* ---- the next row of the table ---- */
next:   movw    $SEG, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0xfff0, %sp
        cld
        xorw    %ax, %ax
        movw    %ax, %fs
        movw    %ax, %gs
        lidtw   A(idtr)
        movw    %ax, %es                /* the IVT */
        xorw    %di, %di
        movw    $A(stubs), %bx
        movw    $0x40, %cx
2:      movw    %bx, %es:(%di)
        movw    $SEG, %es:2(%di)
        addw    $8, %bx
        addw    $4, %di
        loop    2b
        movw    %ax, %es
        movw    %ds, %cx
        movw    %cx, %es
        movw    A(row), %bp
        movw    (%bp), %si              /* name */
        testw   %si, %si
        jz      done
        movw    %si, A(name)
        movw    2(%bp), %dx
        addw    $4, %bp
        movw    %bp, A(row)
        movl    $0x8000, %esp
        pushl   $2
        popfl
        xorl    %eax, %eax
        xorl    %ebx, %ebx
        xorl    %ecx, %ecx
        xorl    %esi, %esi
        xorl    %edi, %edi
        xorl    %ebp, %ebp
        pushw   %dx
        xorl    %edx, %edx
        retw
done:   movw    $A(s_end), %si
        call    puts
        movw    $0xf4, %dx
        outb    %al, %dx
        hlt

        .balign 8
stubs:  .set    n, 0
        .rept   0x40
        .balign 8
        pushw   $n
        jmp     common
        .set    n, n + 1
        .endr

common: pushfw                          /* sp: flags, vector, ip, cs, flags */
        pushal
        movw    $SEG, %ax
        movw    %ax, %ds
        movw    %ss, %cx
        movw    %sp, %bp
        movw    A(name), %si
        call    puts
        movl    34(%bp), %eax
        call    hex16                   /* vector */
        movw    36(%bp), %ax
        call    hex16
        movw    38(%bp), %ax
        call    hex16
        movw    40(%bp), %ax
        andw    $0x7700, %ax
        call    hex16
        movw    32(%bp), %ax
        andw    $0x7700, %ax
        call    hex16
        leaw    42(%bp), %ax
        call    hex16
        movw    %ss, %ax
        call    hex16
        movw    %fs, %ax
        call    hex16
        movl    28(%bp), %eax
        call    hex32
        movl    16(%bp), %eax
        call    hex32
        movl    24(%bp), %eax
        call    hex32
        movl    20(%bp), %eax
        call    hex32
        movl    4(%bp), %eax
        call    hex32
        movl    0(%bp), %eax
        call    hex32
        movb    $10, %al
        outb    %al, $0xe9
        jmp     next

puts:   lodsb
        testb   %al, %al
        jz      3f
        outb    %al, $0xe9
        jmp     puts
3:      ret
hex16:  shll    $16, %eax
        movw    $4, %cx
        jmp     4f
hex32:  movw    $8, %cx
4:      movl    %eax, %ebx
        movb    $32, %al
        outb    %al, $0xe9
5:      roll    $4, %ebx
        movb    %bl, %al
        andb    $15, %al
        addb    $48, %al
        cmpb    $58, %al
        jb      6f
        addb    $39, %al
6:      outb    %al, $0xe9
        loop    5b
        ret

/* Protected mode and back: fs keeps base 0, limit 4 GiB ("unreal"). */
unreal: lgdtl   A(gdtr)
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        movw    $8, %cx
        movw    %cx, %fs
        andb    $0xfe, %al
        movl    %eax, %cr0
        ret

        .balign 8
gdt:    .quad   0, 0x00cf92000000ffff
gdtr:   .word   15
        .long   SEG * 16 + A(gdt)
idtr:   .word   0xff
        .long   0
short_idtr: .word 0x3f
        .long   0
name:   .word   0
row:    .word   TABLE
s_end:  .asciz  "end\n"
pointer: .long  A(landing)
        .word   SEG
pointer_beyond: .long 0x10000
        .word   SEG
landing: int    $0x3f
landing_ret: retw
landing_far: lretw

        .subsection 1
table:
        .subsection 0

        .macro  TEST name, code
        .subsection 1
        .word   A(n_\name), A(t_\name)
        .subsection 0
n_\name: .asciz "\name"
t_\name: \code
        int     $0x20
        .endm

TEST word_at_end,       "movw 0xffff, %ax"
TEST dword_at_end,      "movl 0xfffd, %eax"
TEST byte_at_end,       "movb 0xffff, %al"
TEST stack_at_end,      "movw $0xffff, %bp; movw (%bp), %ax"
TEST wraps_16,          "movw $0xffff, %bx; movb 1(%bx), %al"
TEST beyond_32,         "movl $0x10000, %ebx; movb (%ebx), %al"
TEST beyond_32_ss,      "movl $0x10000, %ebp; movb (%ebp), %al"
TEST code_write,        "movb $0x90, %cs:(scratch - start16); movb %cs:(scratch - start16), %al"
TEST push_wraps,        "xorw %sp, %sp; pushw $0x1234; movw %sp, %ax"
TEST push_32,           "pushl $0x12345678; popl %ebx; movw %sp, %ax"
TEST push_all,          "pushal; popal; pushaw; popaw; movw %sp, %ax"
TEST enter_leave,       "enterw $8, $2; movw %bp, %ax; leavew; movw %sp, %bx"
TEST unreal_read,       "call unreal; movl $0x10000, %ebx; movl %fs:(%ebx), %ecx"
TEST unreal_reload,     "call unreal; movw $0x1000, %cx; movw %cx, %fs; movl $0x20000, %ebx; movl %fs:(%ebx), %ecx"
TEST unreal_other,      "call unreal; movl $0x20000, %ebx; movl %es:(%ebx), %ecx"
TEST int_flags,         "sti; stc; int $0x21"
TEST int_back,          "xorw %ax, %ax; movw %ax, %gs; movw $(iret16 - start16), %gs:0x84; sti; int $0x21; pushfw; popw %bx"
TEST iret_32,           "pushl $0x3246; pushl $0x1000; pushl $(landing - start16); iretl"
TEST iret_beyond,       "pushl $2; pushl $0x1000; pushl $0x10000; iretl"
TEST popf_32,           "pushl $0x247246; popfl; pushfl; popl %eax"
TEST popf_16,           "pushw $0x7246; popfw; pushfw; popw %ax"
TEST single_step,       "pushw $0x102; popfw; nop; nop"
TEST single_step_ss,    "movw %ss, %ax; pushw $0x102; popfw; movw %ax, %ss; nop; nop"
TEST into_taken,        "movb $0x7f, %al; incb %al; into"
TEST bound_low,         "movw $(bounds - start16), %bx; boundw %ax, (%bx)"
TEST divide,            "xorw %cx, %cx; divw %cx"
TEST divide_overflow,   "movw $2, %dx; movw $1, %cx; divw %cx"
TEST aam_0,             "aam $0"
TEST undefined,         "ud2"
TEST lock_nop,          ".byte 0xf0, 0x90"
TEST lock_reg,          ".byte 0xf0, 0x01, 0xc0"
TEST mov_to_cs,         ".byte 0x8e, 0xc8"
TEST lldt,              "lldt %ax"
TEST ltr,               "ltr %ax"
TEST sldt,              "sldt %ax"
TEST str,               "str %ax"
TEST verr,              "verr %ax"
TEST lar,               "larw %ax, %bx"
TEST arpl,              "arplw %ax, %bx"
TEST smsw,              "smsww %ax; andw $0xe, %ax"
TEST sgdt,              "lgdtl (gdtr - start16); sgdtl (scratch - start16); movl (scratch - start16), %eax; movl (scratch - start16) + 2, %ebx"
TEST sysenter,          "sysenter"
TEST syscall,           "syscall"
TEST sysexit,           "sysexit"
TEST cr1,               ".byte 0x0f, 0x20, 0xc8"
TEST dr4,               ".byte 0x0f, 0x21, 0xe0"
TEST far_call,          "lcall $0x1000, $(landing_far - start16)"
TEST far_call_32,       "lcalll $0x1000, $(landing_far32 - start16)"
TEST far_jmp_beyond,    "ljmpl *(pointer_beyond - start16)"
TEST far_jmp_mem,       "ljmpl *(pointer - start16)"
TEST near_beyond,       "movl $0x10000, %eax; jmpl *%eax"
TEST ret_beyond,        "pushl $0x10000; retl"
TEST short_ivt,         "lidtw (short_idtr - start16); int $0x30"
TEST rep_wraps,         "movw $0xfffe, %si; movw $8, %cx; rep lodsb"
TEST rep_to_end,        "movw $0xfffb, %di; movw $8, %cx; rep stosw"
TEST rep_32,            "movl $0xfffb, %edi; movl $8, %ecx; addr32 rep stosb"
TEST xlat_wraps,        "movw $0xffff, %bx; movb $1, %al; xlat"
TEST a20,               "movw $0xffff, %cx; movw %cx, %fs; movl $0xaaaaaaaa, %fs:0x1010; movl %fs:0x1010, %eax"
TEST fpu_emulated,      "movl %cr0, %eax; movl %eax, %edx; orb $4, %al; movl %eax, %cr0; fnop"
TEST fpu_back,          "movl %cr0, %eax; andb $0xfb, %al; movl %eax, %cr0; fnop"
TEST movs_segments,     "movw $0x1001, %cx; movw %cx, %gs; movw %gs, %ax; movb %gs:0, %bl"
TEST pop_ss,            "pushw %ss; popw %ss; nop"

iret16: iretw
landing_far32: lretl
bounds: .word   1, 2
        .balign 8
scratch: .skip  16

        .subsection 2
        .word   0

        .section .reset, "ax"
        ljmp    $0xf000, $0
        .align 16
