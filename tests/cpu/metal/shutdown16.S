/* Shutdown in real mode: no IVT within the limit of IDTR, or (-DHOW=NO_STACK) no room for the frame.
 * SDM vol. 3, 20.1.4; vol. 2, PUSH */
        .code16
        .section .text.start, "ax"
        .global start16
start16:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        xorw    %ax, %ax
        movw    %ax, %ss
        movw    $0x1000, %sp
        movw    $0xe9, %dx
        movw    $(text - start16), %si
        movw    $7, %cx
        cld
1:      lodsb
        outb    %al, %dx
        loop    1b
#define NO_IDT 0
#define NO_STACK 1
#if HOW == NO_STACK
        movw    $1, %sp
#else
        lidtw   (none - start16)
#endif
        int     $0x20
        movw    $0xf4, %dx
        outb    %al, %dx
2:      hlt
        jmp     2b
text:   .ascii  "before\n"
none:   .word   0
        .long   0

        .section .reset, "ax"
        .code16
        ljmp    $0xf000, $0
        .align 16
