/* A short loop's body several times, one behind the other, so that what every iteration would count, or ask, is done once for all
 * of them. A copy that leaves corrects r15 by what it is ahead or behind: strip.owed.
 */
#include "jit/strip.h"

enum { EXIT_COST = 4 /* an exit is as long as so many instructions */ };

unsigned copies_of(const struct build *b, unsigned first, unsigned last, unsigned most)
{
    unsigned copies = COPIES_MAX, length = last + 1 - first;

    for (unsigned n = first; n < last; n++)
        if (b->op[n].row && (b->op[n].row->how == LOWER_JCC || b->op[n].row->how == LOWER_DIVIDE))
            length += EXIT_COST;
    while (copies > 1 && copies * length > most)
        copies /= 2;
    return copies;
}

bool copies_put(struct build *b, unsigned first, unsigned last, int owed)
{
    struct strip *s = b->strip;
    struct encoding x = b->op[last].x;

    for (unsigned k = 0; k < s->copies; k++) {
        s->owed = (int16_t)(owed - (int)(k * (last + 1 - first)));
        s->out_owed[k] = s->owed;
        for (unsigned n = first; n < last; n++)
            if (!lower(b, n))
                return false;
        flags_want(b);
        s->out[k] = put_jump(&b->e, (x.opcode & 15) ^ 1);
    }
    return true;
}

void copies_join(struct build *b, const uint8_t *behind)
{
    const struct strip *s = b->strip;

    for (unsigned k = 0; k < s->copies; k++) {
        if (!s->out_owed[k]) {
            set_jump(s->out[k], behind);
            continue;
        }
        set_jump(s->out[k], b->e.p);
        lea32(&b->e, H_LEFT, H_LEFT, s->out_owed[k]); /* the flags stay */
        jump_back(&b->e, behind);
    }
}
