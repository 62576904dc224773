/* From bytes to a bound instruction: Zydis decodes, the instruction table says which handler executes it. */
#ifndef KVMISH_ISA_DECODE_H
#define KVMISH_ISA_DECODE_H

#include "cpu/vcpu.h"
#include "isa/insn.h"

enum decode_result {
    DECODE_OK,
    DECODE_MORE,     /* the bytes end before the instruction does */
    DECODE_INVALID,  /* #UD */
    DECODE_TOO_LONG, /* more than 15 bytes: #GP(0) */
    DECODE_FULL      /* no room for another native stub: drop all code, native_reset(), decode again */
};

struct decoder;
/* Sets up the decoders for the vCPU's features and vendor; again after SET_CPUID2. NULL: out of memory. */
struct decoder *decoder_create(void);
void decoder_configure(struct decoder *d, const struct vcpu *v);
void decoder_destroy(struct decoder *d);

/* Decodes the first instruction of `bytes` for v->code_bits; `off`: of its first byte in its linear page. *ends is set when
 * control never reaches what follows it. */
enum decode_result decode_insn(struct decoder *d, struct vcpu *v, const uint8_t *bytes, unsigned n, uint16_t off,
                               struct insn *out, bool *ends);
/* The instruction in assembler syntax, for reports. */
void decode_format(unsigned code_bits, const uint8_t *bytes, unsigned n, char *text, size_t size_bytes);
/* The table row's name and class of the instruction; NULL when invalid. */
const char *decode_name(unsigned code_bits, const uint8_t *bytes, unsigned n, const char **klass);
/* How long the instruction is, 0 when invalid. */
unsigned decode_length(unsigned code_bits, const uint8_t *bytes, unsigned n);

#endif
