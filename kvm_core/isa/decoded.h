/* What the decoder says of one instruction, in the project's own terms: the only view of Zydis that
 * other files have. Filled by isa/decode.c, consumed while binding an instruction to its handler.
 */
#ifndef KVMISH_ISA_DECODED_H
#define KVMISH_ISA_DECODED_H

#include <stdbool.h>
#include <stdint.h>

enum operand_kind {
    OPND_NONE, OPND_GPR, OPND_GPR8H, /* AH, CH, DH, BH: reg is 0 to 3 */
    OPND_SREG, OPND_CR, OPND_DR, OPND_X87, OPND_MMX, OPND_XMM, OPND_YMM,
    OPND_MEM, OPND_AGEN,             /* address only: LEA, INVLPG, prefetch */
    OPND_IMM, OPND_FARPTR, OPND_OTHER
};

enum { OPND_READ = 1, OPND_WRITE = 2, OPND_COND = 4 /* read or written only sometimes */ };

struct decoded_operand {
    uint8_t kind;   /* enum operand_kind */
    uint8_t reg;    /* number in its class; rAX = 0 */
    uint8_t action; /* OPND_READ | OPND_WRITE | OPND_COND */
    bool hidden;    /* implicit: not part of the encoding's ModRM/VEX/immediate */
    uint16_t bits;  /* size; the access size of a memory operand */
};

enum decoded_encoding { ENC_LEGACY, ENC_3DNOW, ENC_VEX };

enum { DECODED_OPERANDS_MAX = 10 };

struct decoded {
    uint16_t mnemonic;  /* index into isa_rows[] */
    uint8_t len;
    uint8_t bytes[15];
    uint8_t encoding;   /* enum decoded_encoding */
    uint8_t map;        /* opcode map: 0 one-byte, 1 0F, 2 0F38, 3 0F3A */
    uint8_t opcode;
    uint8_t rex_off;    /* offset of REX, or 0xff */
    uint8_t vex_off, vex_len; /* offset of C4/C5 or 0xff; 2 or 3 bytes */
    uint8_t mandatory;  /* 0, 66, F2, F3: legacy mandatory prefix */
    bool has_modrm, has_sib;
    uint8_t modrm_off, modrm;
    uint8_t disp_off, disp_bytes;
    uint8_t imm_off[2], imm_bytes[2]; /* second: ENTER, EXTRQ ... */
    uint8_t mode_bits;      /* 16, 32, 64 */
    uint8_t operand_bits;   /* effective operand size */
    uint8_t address_bits;   /* effective address size */
    uint8_t prefix;         /* PFX_* */
    uint8_t operand_count;  /* all; explicit ones come first, in the manual's order */
    uint8_t explicit_count;
    struct decoded_operand op[DECODED_OPERANDS_MAX];
    /* the memory operand, if any (one at most is explicit) */
    bool has_mem;
    uint8_t mem_seg, mem_base, mem_index, mem_scale; /* gpr numbers, REG_ZERO, REG_PAGE (=RIP) */
    uint8_t mem_vsib;       /* 0, or 16 / 32: index is the vector register mem_index (gathers) */
    int64_t mem_disp;
    uint32_t flags_read, flags_written, flags_undefined; /* EFLAGS bits */
};

#endif
