"""The bodies of tiny guests (see tiny.py); GNU assembler, Intel syntax."""

FLOOD = """
    mov ecx, %(count)d
5:  mov al, 'x'
    call putc
    dec ecx
    jnz 5b
    jmp off
"""

PROMPT = """
    say "prompt> "
    mov dx, 0x3fd
5:  in al, dx
    test al, 1
    jz 5b
    jmp off
"""

TRIPLE_FAULT = """
    lidt [rip + none]
    ud2
none: .word 0
    .quad 0
"""

RESET = {
    "keyboard": """
    mov al, 0xfe
    out 0x64, al
5:  jmp 5b
""",
    "register": """
    mov dx, 0xcf9
    mov al, 6
    out dx, al
5:  jmp 5b
""",
}

JUMP = {
    "nothing": """
    lidt [rip + none]
    mov eax, 0xd0000000
    jmp rax
none: .word 0
    .quad 0
""",
    "device": """
    lidt [rip + none]
    mov eax, 0xfeb00000
    jmp rax
none: .word 0
    .quad 0
""",
}

NOTHING_THERE = """
    mov eax, 0xd0000000
    mov rbx, [rax]
    mov qword ptr [rax], 5
    mov rax, rbx
    call putx
    mov dx, 0x1234
    mov eax, -1
    out dx, eax
    xor eax, eax
    in eax, dx
    movsxd rax, eax
    call putx
    jmp off
"""

# Every kind of store to where this board has no memory: behind 64 MiB of RAM, the hole, between and
# behind the devices, the pages that a host may use, where a PC has its ROM, beyond 4 GiB.
# Prints the sum of what is not all ones there afterwards: 0, and the half of a store that is RAM.
STORES_TO_NOTHING = """
    mov rax, cr3
    mov rax, [rax]
    and rax, -4096
    mov qword ptr [rax + 4 * 8], 0x300003   # linear 4 GiB is physical 512 GiB: beyond all memory
    mov rbx, 0x8000000083
    mov [0x300000], rbx
    mov rax, cr3
    mov cr3, rax
    mov rax, cr4
    or eax, 1 << 9                      # OSFXSR
    mov cr4, rax
    cld
    xor r13d, r13d
    lea r12, [rip + places]
5:  mov rbx, [r12]
    test rbx, rbx
    jz 6f
    mov rax, 0x1122334455667788
    mov [rbx], al
    mov [rbx + 2], ax
    mov [rbx + 4], eax
    mov [rbx + 8], rax
    mov [rbx + 0x7fd], rax              # not aligned
    add [rbx], eax
    lock inc qword ptr [rbx + 8]
    lock cmpxchg [rbx + 16], rbx
    xchg [rbx], eax
    movups xmm0, [rbx]
    movups [rbx + 5], xmm0
    fnsave [rbx + 0x20]
    mov rdi, rbx
    mov ecx, 0x80
    rep stosq
    mov rsi, rbx                        # from there and to there
    lea rdi, [rbx + 0x100]
    mov ecx, 0x40
    rep movsd
    push rsp
    pop rcx
    lea rsp, [rbx + 0x400]              # a stack
    push rax
    pop rdx
    mov rsp, rcx
    not rdx
    or r13, rdx
    mov rdx, [rbx]
    not rdx
    or r13, rdx
    add r12, 8
    jmp 5b
6:  mov rax, r13
    call putx
    mov ebx, 64 << 20
    mov rax, 0x1122334455667788
    mov [rbx - 3], rax                  # three bytes have memory
    mov rax, [rbx - 3]
    call putx
    mov eax, [rbx - 4]
    shr eax, 8
    call putx
    jmp off
    .balign 8
places: .quad 64 << 20, 0xc0000000, 0xd0000000, 0xfeb10000, 0xfec01000, 0xfee01000
    .quad 0xfffbc000, 0xfffbd000, 0xfffff000, 0x100000000, 0
"""

# The read-only registers of the first virtio device: identity, version, features.
STORES_TO_READ_ONLY_REGISTERS = """
    mov ebx, 0xfeb00000
    lea rsi, [rip + registers]
5:  lodsd
    cmp eax, -1
    je 6f
    mov ecx, [rbx + rax]
    mov dword ptr [rbx + rax], 0x5a5a5a5a
    cmp ecx, [rbx + rax]
    je 5b
    say "changed\\n"
6:  mov eax, [rbx]
    call putx
    jmp off
    .balign 4
registers: .long 0, 4, 8, 12, 0x10, 0x34, 0x60, 0xfc, -1
"""

# Interrupts through the 8259: vector 24h is IRQ 4. The handler only notes that it ran.
THRE_DRIVER = """
    lea rax, [rip + handler]
    lea rdi, [rip + idt]
    lea rbx, [rdi + 16 * 0x24]
    mov [rbx], ax
    mov word ptr [rbx + 2], 0x10
    mov word ptr [rbx + 4], 0x8e00
    shr rax, 16
    mov [rbx + 6], ax
    mov [rip + idtr + 2], rdi
    lidt [rip + idtr]

    mov al, 0x11
    out 0x20, al
    mov al, 0x20
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 1
    out 0x21, al
    mov al, 0xef
    out 0x21, al

    mov dx, 0x3fa               # FIFO on
    mov al, 0xc7
    out dx, al
    mov dx, 0x3fc               # OUT2
    mov al, 0x0b
    out dx, al
    mov dx, 0x3f9               # THRE interrupt on
    mov al, 2
    out dx, al
    mov ecx, 8
6:  cli
7:  cmp byte ptr [rip + ran], 0
    jne 8f
    sti
    hlt
    cli
    jmp 7b
8:  mov byte ptr [rip + ran], 0
    lea rsi, [rip + text]
    mov ebx, 8
    mov dx, 0x3f8
9:  lodsb
    out dx, al
    dec ebx
    jnz 9b
    dec ecx
    jnz 6b
    mov dx, 0x3f9
    xor eax, eax
    out dx, al
    say "done\\n"
    jmp off

handler:
    push rax
    push rdx
    mov dx, 0x3fa
    in al, dx
    mov byte ptr [rip + ran], 1
    mov al, 0x20
    out 0x20, al
    pop rdx
    pop rax
    iretq

text: .ascii "abcdefgh"
    .data
ran: .byte 0
idtr: .word 0x3ff
    .quad 0
    .bss
    .align 16
idt: .skip 0x400
    .text
"""

# The first virtio device (rng, when there are no disks), given a queue of 8.
QUEUE = """
    mov ebx, 0xfeb00000
    mov dword ptr [rbx + 0x70], 0
    mov dword ptr [rbx + 0x70], 3
    mov dword ptr [rbx + 0x24], 1
    mov dword ptr [rbx + 0x20], 1
    mov dword ptr [rbx + 0x70], 11
    mov dword ptr [rbx + 0x30], 0
    mov dword ptr [rbx + 0x38], 8
    mov dword ptr [rbx + 0x80], 0x200000
    mov dword ptr [rbx + 0x90], %(avail)#x
    mov dword ptr [rbx + 0xa0], %(used)#x
    mov dword ptr [rbx + 0x44], 1
    mov dword ptr [rbx + 0x70], 15
    mov edi, 0x200000
"""

# A device is given a chain that loops.
HOSTILE_QUEUE = (
    QUEUE % {"avail": 0x201000, "used": 0x202000}
    + """
    mov qword ptr [rdi], 0x300000
    mov dword ptr [rdi + 8], 16
    mov dword ptr [rdi + 12], 3         # NEXT | WRITE, next is 0: itself
    mov dword ptr [0x201000], 0x10000   # avail idx 1
    mov dword ptr [rbx + 0x50], 0
5:  mov eax, [rbx + 0x70]
    test eax, 64
    jz 5b
    call putx
    jmp off
"""
)

# A device writes its ring and its data into the page that the guest is writing all the time.
SHARED_PAGE = (
    QUEUE % {"avail": 0x200100, "used": 0x200200}
    + """
    mov qword ptr [rdi], 0x200900       # one descriptor: 16 bytes for the device to fill
    mov dword ptr [rdi + 8], 16
    mov dword ptr [rdi + 12], 2
    xor ebp, ebp
    xor r12d, r12d
5:  mov qword ptr [rdi + 0x900], 0
    mov qword ptr [rdi + 0x908], 0
    inc ebp
    mov [rdi + 0x102], bp               # avail.idx
    mov dword ptr [rbx + 0x50], 0
6:  inc qword ptr [rdi + 0x800]
    mov rax, [rdi + 0x800]
    cmp [rdi + 0x202], bp               # used.idx
    jne 6b
    mov rax, [rdi + 0x900]              # random: all zeros are not to be expected
    or rax, [rdi + 0x908]
    jz 7f
    inc r12d
7:  cmp ebp, %(count)d
    jne 5b
    mov eax, r12d
    call putx
    jmp off
"""
)

# INIT and SIPI to all but self; each counts itself in.
START_PROCESSORS = """
    lea rsi, [rip + ap_start]
    mov edi, 0x8000
    mov ecx, ap_end - ap_start
    rep movsb
    mov dword ptr [0x9f00], 0
    mov ebx, 0xfee00000
    mov dword ptr [rbx + 0xf0], 0x1ff
    mov dword ptr [rbx + 0x300], 0xc4500
    mov dword ptr [rbx + 0x300], 0xc4608
5:  pause
    cmp dword ptr [0x9f00], %(count)d - 1
    jne 5b
    mov eax, [0x9f00]
    call putx
    jmp off

    .code16
ap_start:
    xor ax, ax
    mov ds, ax
    lock inc dword ptr [0x9f00]
6:  hlt
    jmp 6b
ap_end:
    .code64
"""

# CMOS date as YYYYMMDDhhmm, in BCD, printed as it is.
DATE = """
    lea rsi, [rip + fields]
    mov ecx, 6
5:  lodsb
    out 0x70, al
    in al, 0x71
    mov bl, al
    shr al, 4
    add al, '0'
    call putc
    mov al, bl
    and al, 15
    add al, '0'
    call putc
    dec ecx
    jnz 5b
    mov al, 10
    call putc
    jmp off
fields: .byte 0x32, 9, 8, 7, 4, 2
"""

# The fifth gigabyte gets a page directory with one 2 MiB page.
HIGH_MEMORY = """
    mov rax, cr3
    mov rax, [rax]
    and rax, -4096
    mov qword ptr [rax + 4 * 8], 0x300003
    mov rbx, 0x100000083
    mov [0x300000], rbx
    mov rax, cr3
    mov cr3, rax
    mov rbx, 0x100000010
    mov rcx, 0x1122334455667788
    mov [rbx], rcx
    xor eax, eax
    mov rax, [rbx]
    call putx
    jmp off
"""

# CMOS RAM outlives a reset: prints how often it was here, and waits for a key to reset.
COUNT_RESETS = """
    mov al, 0x40
    out 0x70, al
    in al, 0x71
    inc al
    mov bl, al
    out 0x71, al
    movzx eax, bl
    call putx
5:  mov dx, 0x3fd
    in al, dx
    test al, 1
    jz 5b
    mov dx, 0xcf9
    mov al, 6
    out dx, al
6:  jmp 6b
"""

ECHO = """
    say "ready\\n"
5:  mov dx, 0x3fd
    in al, dx
    test al, 1
    jz 5b
    mov dx, 0x3f8
    in al, dx
    cmp al, 'q'
    je off
    call putc
    jmp 5b
"""

WAIT_FOR_BUTTON = """
    mov dx, 0x602
    mov ax, 0x100
    out dx, ax
    say "ready\\n"
5:  mov dx, 0x600
    in ax, dx
    test ax, 0x100
    jz 5b
    say "pressed\\n"
    jmp off
"""

# Without end: a port and an address that nobody has, the RTC, a virtio device.
FLOOD_OF_EXITS = """
    say "up\\n"
    mov ebx, 0xfeb00000
    mov edi, 0xd0000000
5:  mov dx, 0x1234
    out dx, eax
    in al, dx
    out 0x70, al
    mov [rdi], rax
    mov rax, [rdi]
    mov dword ptr [rbx + 0x30], eax
    mov dword ptr [rbx + 0x50], eax
    jmp 5b
"""
