/* Bytecode interpreter: a register machine that counts the steps of Collatz sequences; 100 starts a unit. */
#include "bench.h"

enum opcode { MOVE, SET, ADD, ADD_SET, SHIFT_RIGHT, AND_SET, JUMP, JUMP_IF_ZERO, JUMP_IF_EQUAL, HALT };

struct instruction {
    uint8_t opcode, a, b;
    int8_t offset; /* of a jump, in instructions from the next one */
    uint32_t value;
};

enum { START, N, STEPS, BIT, ONE, TOTAL, LEFT, REGISTERS };

static const struct instruction bytecode[] = {
    {MOVE, N, START, 0, 0},         /*  0 for each start: */
    {JUMP_IF_EQUAL, N, ONE, 8, 0},  /*  1   while n != 1: */
    {MOVE, BIT, N, 0, 0},           /*  2 */
    {AND_SET, BIT, 0, 0, 1},        /*  3 */
    {ADD_SET, STEPS, 0, 0, 1},      /*  4 */
    {JUMP_IF_ZERO, BIT, 0, 2, 0},   /*  5     if n is odd: (to 8) */
    {JUMP, 0, 0, 5, 0},             /*  6       (to 12) */
    {HALT, 0, 0, 0, 0},             /*  7 */
    {SHIFT_RIGHT, N, 0, 0, 1},      /*  8     even: n /= 2 */
    {JUMP, 0, 0, -9, 0},            /*  9       (to 1) */
    {ADD, TOTAL, STEPS, 0, 0},      /* 10   next start */
    {JUMP, 0, 0, 5, 0},             /* 11       (to 17) */
    {MOVE, BIT, N, 0, 0},           /* 12       n = 3 * n + 1 */
    {ADD, N, BIT, 0, 0},            /* 13 */
    {ADD, N, BIT, 0, 0},            /* 14 */
    {ADD_SET, N, 0, 0, 1},          /* 15 */
    {JUMP, 0, 0, -16, 0},           /* 16       (to 1) */
    {ADD_SET, START, 0, 0, 1},      /* 17 */
    {ADD_SET, LEFT, 0, 0, -1u},     /* 18 */
    {JUMP_IF_ZERO, LEFT, 0, -13, 0}, /* 19   (to 7) */
    {JUMP, 0, 0, -21, 0},           /* 20   (to 0) */
};

static void execute(uint32_t r[REGISTERS]) {
    for (const struct instruction *at = bytecode;; at++) {
        switch ((enum opcode)at->opcode) {
        case MOVE:
            r[at->a] = r[at->b];
            break;
        case SET:
            r[at->a] = at->value;
            break;
        case ADD:
            r[at->a] += r[at->b];
            break;
        case ADD_SET:
            r[at->a] += at->value;
            break;
        case SHIFT_RIGHT:
            r[at->a] >>= at->value;
            break;
        case AND_SET:
            r[at->a] &= at->value;
            break;
        case JUMP:
            at += at->offset;
            break;
        case JUMP_IF_ZERO:
            if (!r[at->a])
                at += at->offset;
            break;
        case JUMP_IF_EQUAL:
            if (r[at->a] == r[at->b])
                at += at->offset;
            break;
        case HALT:
            return;
        }
    }
}

static uint64_t run(long count) {
    uint64_t sum = FNV_BASIS;
    for (long unit = 0; unit < count; unit++) {
        uint32_t registers[REGISTERS] = {[START] = (uint32_t)unit + 1, [ONE] = 1, [LEFT] = 100};
        execute(registers);
        sum = mix(sum, registers[TOTAL]);
    }
    return sum;
}

const struct program interpreter_program = {.name = "interpreter", .run = run};
